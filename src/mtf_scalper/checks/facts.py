"""What a run left behind, read from its files: checkpoints, predictions, the configuration used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mtf_scalper.checks.speed import SpeedComparison
from mtf_scalper.errors import MtfScalperError
from mtf_scalper.ppo.model_files import read_model
from mtf_scalper.records.events import SETTINGS_FILE
from mtf_scalper.records.sampler import Sample
from mtf_scalper.settings import Settings


@dataclass(frozen=True)
class CheckpointFacts:
    """What stands in a saved model.

    Attributes
    ----------
    name : str
        File name.
    n_envs, n_steps, batch_size : int
    policy_layers, value_layers : tuple of int
        Widths of the hidden layers, read from the shapes of the saved weights.
    """

    name: str
    n_envs: int
    n_steps: int
    batch_size: int
    policy_layers: tuple[int, ...]
    value_layers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """All that the checks judge; what could not be found out is empty or None.

    Attributes
    ----------
    exit_error : str or None
        Why the program failed; None if it ended well.
    missing : mapping of str to str
        Why another field of this class is empty or None, by its name, where that is known.
    samples : sequence of Sample
        Of the program's process tree, oldest first.
    events : sequence of mapping
        What the trainings and predictions wrote, oldest first.
    checkpoints : sequence of CheckpointFacts
    predictions : mapping of str to DataFrame
        By file name, as FreqAI saved them.
    freqai_config : mapping
        FreqAI's section of the configuration as freqtrade loaded it.
    survivors : sequence of str or None
        Processes of the tree that outlived the run.
    speed : SpeedComparison or None
    cpus : int
        CPUs that the program could use.
    """

    exit_error: str | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    samples: Sequence[Sample] = ()
    events: Sequence[Mapping[str, Any]] = ()
    checkpoints: Sequence[CheckpointFacts] = ()
    predictions: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    freqai_config: Mapping[str, Any] = field(default_factory=dict)
    survivors: Sequence[str] | None = None
    speed: SpeedComparison | None = None
    cpus: int = 1


def read_checkpoints(models: Path) -> tuple[CheckpointFacts, ...]:
    """Read every model that FreqAI saved under an identifier's folder, as FreqAI reloads it."""
    paths = sorted(models.glob("sub-train-*/cb_*_model.zip"))
    return tuple(_checkpoint(path) for path in paths)


def read_predictions(models: Path) -> dict[str, pd.DataFrame]:
    """Read the predictions that FreqAI saved under an identifier's folder, by file name."""
    paths = sorted((models / "backtesting_predictions").glob("*_prediction.feather"))
    return {path.name: pd.read_feather(path) for path in paths}


def read_freqai_config(models: Path) -> dict[str, Any]:
    """Return FreqAI's section of the loaded configuration, as FreqAI wrote it down; or nothing."""
    path = models / "run_params.json"
    if not path.is_file():
        return {}
    section: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["freqai"]
    return section


def read_used_settings(models: Path) -> Settings:
    """Return the settings, trade rules included, that the model wrote down before training.

    Raises
    ------
    MtfScalperError
        If it has not come that far.
    """
    path = models / SETTINGS_FILE
    if not path.is_file():
        raise MtfScalperError(f"{path} is missing: the run did not come as far as its first window")
    values = json.loads(path.read_text(encoding="utf-8"))
    # Beside the settings it says which code and which files they were used with.
    return Settings(**{name: values[name] for name in Settings.model_fields if name in values})


def _checkpoint(path: Path) -> CheckpointFacts:
    model = read_model(path)
    weights = model.policy.state_dict()
    return CheckpointFacts(
        name=path.name,
        n_envs=model.n_envs,
        n_steps=model.n_steps,
        batch_size=model.batch_size,
        policy_layers=_widths(weights, "policy_net"),
        value_layers=_widths(weights, "value_net"),
    )


def _widths(weights: Mapping[str, torch.Tensor], net: str) -> tuple[int, ...]:
    prefix = f"mlp_extractor.{net}."
    layers = {
        int(name.removeprefix(prefix).partition(".")[0]): len(tensor)
        for name, tensor in weights.items()
        if name.startswith(prefix) and name.endswith(".weight")
    }
    return tuple(layers[index] for index in sorted(layers))
