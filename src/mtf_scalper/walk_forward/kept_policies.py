"""The last policies of an evaluation, kept in its record: what may be frozen later.

Those of the last window, by pair and seed; earlier ones would be some hundred megabytes that nobody
trades by. Beside the weights stands the scaling of the features, in FreqAI's names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.kept_files import KeptFilesError, write_json
from mtf_scalper.ppo.model_files import SCALING_FORMAT, write_tensors
from mtf_scalper.ppo.policy import Policy
from mtf_scalper.records.files import file_stem
from mtf_scalper.walk_forward.windows import Window

KEPT: Final = "policies"
"""Folder of a record."""
_COMPARED: Final = "compared.json"


@dataclass(frozen=True)
class Scaling:
    """What a window's features were scaled by; the arrays are those of the kept ones.

    Attributes
    ----------
    names : tuple of str
        Of all features, without the pair.
    kept : ndarray of bool, shape (F,)
    low, high, factor, shift : ndarray of float64, shape (kept,)
    n_rows : int
        That it was learned from.
    """

    names: tuple[str, ...]
    kept: NDArray[np.bool_]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    factor: NDArray[np.float64]
    shift: NDArray[np.float64]
    n_rows: int


@dataclass(frozen=True)
class PolicyFacts:
    """A kept policy: where its weights are, and what FreqAI needs to trade by them."""

    pair: str
    window: str
    seed: int
    weights: str
    trained: int
    period: dict[str, str]
    scaling: dict[str, Any]
    features: list[str]
    file: Path


def in_freqai(name: str, pair: str, timeframes: Sequence[str]) -> str:
    """Return FreqAI's name of a feature, which has the pair in it if it is of a timeframe.

    >>> in_freqai("%-rsi-period_10_15m", "BTC/USDT:USDT", ["5m", "15m"])
    '%-rsi-period_10_BTC/USDTUSDT_15m'
    """
    stem, _, last = name.rpartition("_")
    return f"{stem}_{pair.replace(':', '')}_{last}" if last in timeframes else name


def keep_policy(
    folder: Path,
    policy: Policy,
    scaling: Scaling,
    window: Window,
    *,
    pair: str,
    seed: int,
    timeframes: Sequence[str],
) -> None:
    """Write a policy, whole or not at all: its weights, then all else."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [in_freqai(name, pair, timeframes) for name in scaling.names]
    arrays = {
        "min_": scaling.shift,
        "scale_": scaling.factor,
        "data_min_": scaling.low,
        "data_max_": scaling.high,
        "data_range_": scaling.high - scaling.low,
    }
    path = folder / f"{file_stem(pair)}-{window.name}-{seed}.safetensors"
    write_tensors(path, policy.model)
    write_json(
        path.with_suffix(".json"),
        {
            "pair": pair,
            "window": window.name,
            "seed": seed,
            "weights": policy.digest,
            "trained": int(window.train_to.timestamp()),
            "period": {
                "test_from": window.test_from.isoformat(),
                "test_to": window.test_to.isoformat(),
            },
            "scaling": {
                "format": SCALING_FORMAT,
                "steps": 2,
                "names": ["const", "scaler"],
                "features": names,
                "labels": [],
                "kept": scaling.kept.tolist(),
                "n_rows": scaling.n_rows,
                "dtypes": dict.fromkeys(arrays, "<f8"),
                "arrays": {name: each.tolist() for name, each in arrays.items()},
            },
            "features": names,
        },
    )


def keep_compared(folder: Path, compared: Mapping[str, Any]) -> None:
    """Write what a run has to have in common with the evaluation to trade by its policies."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _COMPARED, dict(compared))


def kept_policies(record: Path) -> tuple[dict[str, Any], list[PolicyFacts]]:
    """Return what was kept in a record: what has to be in common, and policies by pair and seed.

    Raises
    ------
    KeptFilesError
        Names a file that is missing or damaged.
    """
    folder = record / KEPT
    path = folder / _COMPARED
    found: list[PolicyFacts] = []
    try:
        compared = dict(json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(folder.glob("*.json")):
            if path.name != _COMPARED:
                facts = json.loads(path.read_text(encoding="utf-8"))
                found.append(PolicyFacts(**facts, file=path.with_suffix(".safetensors")))
    except (OSError, TypeError, ValueError) as error:
        raise KeptFilesError(f"{path} is missing or damaged ({error})") from None
    return compared, sorted(found, key=lambda each: (each.pair, each.window, each.seed))
