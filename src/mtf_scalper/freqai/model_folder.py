"""One trained model's folder: FreqAI's files, ours beside them, and the list that is written last.

FreqAI writes six files in place. Of them only its metadata are read here, which are JSON. Weights
are read from ``<name>_policy.safetensors`` and the scaling of the features from
``<name>_scaling.json``; FreqAI's pickle of it only where it has steps that are no plain numbers,
and then only if this installation wrote it or its user trusts it (``mtf_scalper.trusted``).
"""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import rapidjson
from datasieve.pipeline import Pipeline
from freqtrade.freqai.data_drawer import (
    FEATURE_PIPELINE,
    LABEL_PIPELINE,
    METADATA,
    METADATA_NUMBER_MODE,
)
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from stable_baselines3 import PPO

from mtf_scalper.freqai.scaling import pipeline_of, plain_scaling
from mtf_scalper.kept_files import (
    KeptFilesError,
    check_files,
    file_digest,
    remove_list,
    write_json,
    write_list,
)
from mtf_scalper.ppo.model_files import read_model, write_tensors
from mtf_scalper.ppo.rebuilt import weights_digest
from mtf_scalper.trusted import TrustedFiles

POLICY: Final = "policy.safetensors"
SCALING: Final = "scaling.json"


@dataclass
class KeptModel:
    """A model and all that its predictions need, taken and replaced as one.

    Attributes
    ----------
    model : PPO
    data : dict
        FreqAI's metadata.
    features, labels : Pipeline
    name : str
        FreqAI's name of the model's files.
    folder : Path
    trained : int
        When the training's candles end, seconds since 1970.
    digest : str
        SHA-256 of the weights.
    """

    model: PPO
    data: dict[str, Any]
    features: Pipeline
    labels: Pipeline
    name: str
    folder: Path
    trained: int = 0
    digest: str = field(default="")

    def __post_init__(self) -> None:
        self.digest = self.digest or weights_digest(self.model.policy)

    def give_to(self, dk: FreqaiDataKitchen) -> PPO:
        """Let a kitchen predict with it; return the model."""
        dk.data, dk.feature_pipeline, dk.label_pipeline = self.data, self.features, self.labels
        dk.training_features_list = self.data["training_features_list"]
        dk.label_list = self.data["label_list"]
        dk.model_filename, dk.data_path = self.name, self.folder
        return self.model


def finish(kept: KeptModel, trusted: TrustedFiles, **facts: Any) -> None:
    """Write our files beside FreqAI's, and the list of all.

    Parameters
    ----------
    kept : KeptModel
        As FreqAI has just written it.
    trusted : TrustedFiles
        Gets the digests of pipelines that are no plain numbers.
    **facts
        For the list: pair, what it was made with.
    """
    folder, name = kept.folder, kept.name
    write_tensors(folder / f"{name}_{POLICY}", kept.model)
    scaling: dict[str, Any] = {}
    for part, pipeline in ((FEATURE_PIPELINE, kept.features), (LABEL_PIPELINE, kept.labels)):
        scaling[part] = plain_scaling(pipeline)
        if scaling[part] is None:
            file = folder / f"{name}_{part}.pkl"
            trusted.add(file_digest(file), file.absolute(), "written by a training")
    write_json(folder / f"{name}_{SCALING}", scaling)
    finish_files(folder, name, trained=kept.trained, weights=kept.digest, **facts)


def finish_files(folder: Path, name: str, **facts: Any) -> None:
    """List all files of a model's name."""
    names = [path.name for path in folder.glob(f"{name}_*") if path.is_file()]
    write_list(folder, names, model=name, **facts)


def moved_to(target: Path, part: Path) -> None:
    """Give a whole model, which was trained elsewhere, the place that FreqAI looks at.

    FreqAI's metadata name the folder; they are written anew with it, and the list with them.

    Parameters
    ----------
    target : Path
        What stands there is replaced.
    part : Path
        In the same folder as ``target``; vanishes.

    Raises
    ------
    KeptFilesError
        If a file is missing, cut or changed.
    """
    found = check_files(part)
    facts = {name: found[name] for name in found if name not in ("files", "format")}
    name = facts.pop("model")
    path = part / f"{name}_{METADATA}.json"
    data = rapidjson.loads(path.read_text(encoding="utf-8"), number_mode=METADATA_NUMBER_MODE)
    data["data_path"] = str(target)
    text = rapidjson.dumps(data, number_mode=METADATA_NUMBER_MODE)
    path.write_text(text, encoding="utf-8")
    finish_files(part, name, **facts)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def begin(folder: Path) -> None:
    """Say that a model's files are about to change."""
    remove_list(folder)


def check_model(folder: Path, name: str) -> dict[str, Any]:
    """Return the list of a model whose files are whole.

    Raises
    ------
    KeptFilesError
        Names the first file that is missing, cut or changed.
    """
    found = check_files(folder)
    for part in (f"{METADATA}.json", POLICY, SCALING):
        if f"{name}_{part}" not in found["files"]:
            raise KeptFilesError(f"{folder / f'{name}_{part}'} is missing")
    return found


def read_kept(folder: Path, name: str, trusted: TrustedFiles, device: str = "cpu") -> KeptModel:
    """Read a model.

    Raises
    ------
    KeptFilesError
        If a file is missing, cut or changed.
    NotTrustedError
        If a pickle is needed that this installation did not write.
    SettingsError
        If a file is none of ours.
    """
    found = check_model(folder, name)
    text = (folder / f"{name}_{METADATA}.json").read_text(encoding="utf-8")
    data = rapidjson.loads(text, number_mode=METADATA_NUMBER_MODE)
    scaling = json.loads((folder / f"{name}_{SCALING}").read_text(encoding="utf-8"))
    features, labels = (
        pipeline_of(scaling[part])
        if scaling.get(part) is not None
        else pickle.loads(trusted.read(folder / f"{name}_{part}.pkl"))
        for part in (FEATURE_PIPELINE, LABEL_PIPELINE)
    )
    model = read_model(folder / f"{name}_{POLICY}", device)
    return KeptModel(model, data, features, labels, name, folder, int(found.get("trained", 0)))
