"""Models are read from files without running anything that stands in them."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from stable_baselines3 import PPO

from mtf_scalper import Settings, train
from mtf_scalper.errors import SettingsError
from mtf_scalper.ppo.model_files import read_model
from mtf_scalper.ppo.policy import Policy
from mtf_scalper.ppo.rebuilt import plain_values

TINY: Mapping[str, Any] = {
    "net_arch": (16, 8),
    "train_cycles": 1,
    "window_size": 3,
    "n_envs": 2,
    "n_steps": 64,
    "batch_size": 32,
}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "forecasts": {},
    "features": {"policy_inputs": "features"},
    "position": {"add_state_info": True},
    "ensemble": {"n_seeds": 2},
    "rollouts": {"advantage": "gae"},
}


class Marker:
    """Harmless: its unpickling makes a file, so that a test sees whether it was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.fixture(scope="module")
def learned(make_market: Any) -> Callable[[str], tuple[Policy, Any]]:
    known: dict[str, tuple[Policy, Any]] = {}

    def of(kind: str) -> tuple[Policy, Any]:
        if kind not in known:
            market = make_market(n_candles=400)
            known[kind] = train(market, Settings(**TINY, **KINDS[kind])).policy, market
        return known[kind]

    return of


@pytest.mark.parametrize("name", ["model.zip", "model.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_has_the_bits_of_what_was_written(
    kind: str, name: str, learned: Any, tmp_path: Path
) -> None:
    policy, market = learned(kind)
    policy.save(tmp_path / name)
    drawn = torch.get_rng_state()
    loaded = Policy.load(tmp_path / name, policy.settings)
    assert torch.equal(drawn, torch.get_rng_state())  # reading draws no numbers from others
    assert loaded.digest == policy.digest
    assert loaded.feature_names == policy.feature_names
    wanted = policy.member_probabilities(market.features)
    np.testing.assert_array_equal(loaded.member_probabilities(market.features), wanted)
    kept, written = (each.model.policy.optimizer.state_dict() for each in (loaded, policy))
    assert kept["param_groups"] == written["param_groups"]
    assert kept["state"].keys() == written["state"].keys()
    for number, averages in written["state"].items():
        for what, value in averages.items():
            assert torch.equal(kept["state"][number][what], value)
    assert loaded.model.num_timesteps == policy.model.num_timesteps


def test_a_digest_changes_with_every_bit(learned: Any, tmp_path: Path) -> None:
    policy, _ = learned("forecasts")
    policy.save(tmp_path / "model.safetensors")
    other = Policy.load(tmp_path / "model.safetensors", policy.settings)
    with torch.no_grad():
        bias = other.model.policy.action_net.bias
        bias[0] = torch.nextafter(bias[0], torch.tensor(9.0))
    assert other.digest != policy.digest


def replaced(path: Path, part: str, content: bytes) -> None:
    """Replace one part of a zip."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[part] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, each in parts.items():
            archive.writestr(name, each)


def with_markers(path: Path, made: Path) -> None:
    """Put an object into every field of a zip that stable-baselines3 unpickles."""
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    code = base64.b64encode(pickle.dumps(Marker(made))).decode()
    fields = [name for name, each in data.items() if isinstance(each, dict)]
    assert {"policy_class", "policy_kwargs", "observation_space", "lr_schedule"} <= set(fields)
    for name in (*fields, "feature_names", "seed", "another"):
        data[name] = {":type:": "<class 'object'>", ":serialized:": code}
    replaced(path, "data", json.dumps(data).encode())


def test_serialised_fields_are_never_read(learned: Any, tmp_path: Path) -> None:
    policy, market = learned("forecasts")
    path, made = tmp_path / "model.zip", tmp_path / "made"
    policy.save(path)
    with_markers(path, made)
    loaded = Policy.load(path, policy.settings)
    assert not made.exists()
    np.testing.assert_array_equal(
        loaded.probabilities(market.features), policy.probabilities(market.features)
    )
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever comes of it, it has run by then
        PPO.load(path, device="cpu")
    assert made.exists()  # so the marker works


@pytest.mark.parametrize("part", ["policy.pth", "policy.optimizer.pth"])
@pytest.mark.parametrize("as_zip", [True, False])
def test_objects_among_weights_are_refused(
    part: str, as_zip: bool, learned: Any, tmp_path: Path
) -> None:
    policy, _ = learned("forecasts")
    path, made = tmp_path / "model.zip", tmp_path / "made"
    policy.save(path)
    content = io.BytesIO()
    torch.save({"action_net.weight": Marker(made)}, content, _use_new_zipfile_serialization=as_zip)
    replaced(path, part, content.getvalue())
    with pytest.raises(SettingsError, match=r"model.zip: it holds other things than weights"):
        Policy.load(path, policy.settings)
    assert not made.exists()


def test_a_pickle_is_no_model_whatever_its_name(learned: Any, tmp_path: Path) -> None:
    settings, made = learned("forecasts")[0].settings, tmp_path / "made"
    for name in ("model.zip", "model.safetensors", "model.pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(Marker(made)))
        with pytest.raises(SettingsError, match=rf"{name}: it is damaged, or no model"):
            Policy.load(tmp_path / name, settings)
    assert not made.exists()


def test_only_plain_values_of_known_names_and_types_are_taken() -> None:
    given = {
        "gamma": 0.5,
        "seed": True,
        "n_envs": "8",
        "n_steps": 0,
        "batch_size": 16,
        "normalize_advantage": 1,
        "feature_names": ["a", 1],
        "policy": "x",
        "_setup_model": "x",
    }
    assert plain_values(given) == {"gamma": 0.5, "batch_size": 16}


def test_weights_of_other_networks_are_refused_in_one_line(learned: Any, tmp_path: Path) -> None:
    policy, _ = learned("forecasts")
    path = tmp_path / "model.zip"
    for change in (
        lambda weights: weights.pop("action_net.bias"),
        lambda weights: weights.update(unknown=torch.zeros(1)),
        lambda weights: weights.update({"action_net.bias": torch.zeros(6)}),
        lambda weights: weights.update({"mlp_extractor.policy_net.2.weight": torch.zeros(3, 3)}),
        lambda weights: weights.clear(),
    ):
        policy.save(path)
        weights = policy.model.policy.state_dict()
        change(weights)
        content = io.BytesIO()
        torch.save(weights, content)
        replaced(path, "policy.pth", content.getvalue())
        with pytest.raises(SettingsError) as caught:
            Policy.load(path, policy.settings)
        assert str(caught.value).startswith(f"{path}: it holds no policy of this package (")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.zip", "model.safetensors"])
@pytest.mark.parametrize("kind", ["cut", "changed"])
def test_damaged_files_are_errors_of_ours(
    kind: str, name: str, learned: Any, tmp_path: Path
) -> None:
    policy, _ = learned("forecasts")
    policy.save(tmp_path / f"whole-{name}")
    whole = (tmp_path / f"whole-{name}").read_bytes()
    path = tmp_path / name

    @example_settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(place=st.integers(0, len(whole) - 1), value=st.integers(1, 255))
    def check(place: int, value: int) -> None:
        content = bytearray(whole)
        if kind == "cut":
            del content[place:]
        else:
            content[place] ^= value
        path.write_bytes(content)
        # A bit of a weight may well be another one: manifests notice that.
        with contextlib.suppress(SettingsError):
            read_model(path)

    check()
