"""Models in files, read without running anything that stands in them.

Two kinds. ``.safetensors`` is ours: tensors, and plain JSON in the header. stable-baselines3's zip
is for exchange: ``PPO.load`` reads it anywhere. That program unpickles fields of the zip
(stable-baselines3 2.9.2, ``json_to_data``), and so runs what they say; here the tensors are read by
``torch.load(weights_only=True)``, plain JSON values by name, and serialised fields not at all.
"""

from __future__ import annotations

import json
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from stable_baselines3 import PPO
from torch import Tensor

from mtf_scalper.errors import SettingsError
from mtf_scalper.paths import written_durably
from mtf_scalper.ppo.rebuilt import PLAIN, plain_values, rebuilt

FORMAT: Final = "mtf-scalper policy 1"
SCALING_FORMAT: Final = "mtf-scalper scaling 1"
"""Of the JSON that says how a model's features were scaled, see ``freqai.scaling``."""
_MOST_BYTES: Final = 2**30
"""Of what a zip holds, unpacked."""
_OPTIMIZER: Final = "optimizer."
_JSON: Final = "json"


def read_model(path: Path, device: str = "cpu") -> PPO:
    """Return the model of a file of either kind.

    Raises
    ------
    SettingsError
        One line that names the file, if it is damaged or holds something else.
    FileNotFoundError
        If it is not there; stable-baselines3's ending ``.zip`` may be left out.
    """
    if not path.exists() and path.with_name(f"{path.name}.zip").exists():
        path = path.with_name(f"{path.name}.zip")
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                file.seek(0)
                return read_zip(file, device)
        return _read_tensors(path, device)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def read_zip(file: IO[bytes], device: str = "cpu") -> PPO:
    """Return the model of stable-baselines3's zip.

    Raises
    ------
    SettingsError
        If it is damaged, or holds no policy of this package.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(each.file_size for each in archive.infolist()) > _MOST_BYTES:
                raise SettingsError("it is no model: it unpacks to more than 1 GB")
            with archive.open("policy.pth") as part:
                weights = torch.load(part, map_location="cpu", weights_only=True)
            optimizer = None
            if "policy.optimizer.pth" in archive.namelist():
                with archive.open("policy.optimizer.pth") as part:
                    optimizer = torch.load(part, map_location="cpu", weights_only=True)
            data = json.loads(archive.read("data"))
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, OSError) as error:
        raise SettingsError(f"it is damaged, or no model ({_line(error)})") from None
    except (RuntimeError, pickle.UnpicklingError, zlib.error) as error:
        raise SettingsError(f"it holds other things than weights ({_line(error)})") from None
    if not isinstance(weights, Mapping) or not all(
        isinstance(each, Tensor) for each in weights.values()
    ):
        raise SettingsError("it holds other things than weights")
    plain = plain_values(data if isinstance(data, dict) else {})
    return rebuilt(weights, plain, optimizer if isinstance(optimizer, dict) else None, device)


def write_tensors(path: Path, model: PPO, **facts: Any) -> None:
    """Write a model as safetensors, whole or not at all.

    Parameters
    ----------
    path : Path
    model : PPO
        Its optimiser's averages are written as well, where it has learned.
    **facts
        More for the header, plain values.
    """
    tensors = {name: each.detach().cpu() for name, each in model.policy.state_dict().items()}
    state = model.policy.optimizer.state_dict()
    for number, averages in state["state"].items():
        for name, value in averages.items():
            tensors[f"{_OPTIMIZER}{number}.{name}"] = torch.as_tensor(value).detach().cpu()
    values = {name: getattr(model, name, None) for name in (*PLAIN, "feature_names")}
    content = {**plain_values(values), **facts, "optimizer": state["param_groups"]}
    header = {"format": FORMAT, _JSON: json.dumps(content, sort_keys=True)}
    # Tensors that share memory, and those that are views, are refused by safetensors.
    copies = {name: each.clone().contiguous() for name, each in tensors.items()}
    with written_durably(path) as part:
        save_file(copies, part, metadata=header)


def _read_tensors(path: Path, device: str) -> PPO:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if header.get("format") != FORMAT:
            raise SettingsError(f"it is of format {header.get('format')!r}, {FORMAT!r} is needed")
        content = json.loads(header[_JSON])
        if not isinstance(content, dict):
            raise TypeError("no object")
    except SafetensorError as error:
        raise SettingsError(f"it is damaged, or no model ({_line(error)})") from None
    except (KeyError, ValueError, TypeError) as error:
        raise SettingsError(f"its header is damaged ({_line(error)})") from None
    weights = {name: each for name, each in tensors.items() if not name.startswith(_OPTIMIZER)}
    try:
        optimizer = _optimizer(tensors, content)
    except (KeyError, ValueError, TypeError) as error:
        raise SettingsError(f"its optimiser's numbers are damaged ({_line(error)})") from None
    return rebuilt(weights, plain_values(content), optimizer, device)


def _optimizer(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> dict[str, Any] | None:
    if content.get("optimizer") is None:
        return None
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_OPTIMIZER):
            _, number, what = name.split(".", 2)
            state.setdefault(int(number), {})[what] = value
    groups = [{**each, "betas": tuple(each["betas"])} for each in content["optimizer"]]
    return {"state": state, "param_groups": groups}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
