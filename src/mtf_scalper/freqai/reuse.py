"""Keeps FreqAI from reusing models and predictions made from other candles or other features.

FreqAI finds them by identifier, pair and date alone. Every training notes a digest of its candles
beside its model; a backtest that finds such a note compares it with the candles that it has now.
The names of a model's features stand in FreqAI's metadata beside it, in the network's order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pandas import DataFrame, Timestamp

from mtf_scalper.errors import MarketError, SettingsError
from mtf_scalper.telemetry import EVENTS_FILE, EventLog, read_events

__all__ = ["check_features", "check_same_candles", "note_candles"]

_EVENT = "candles"
_PRICES = ["open", "high", "low", "close", "volume"]


def note_candles(events: EventLog, window: DataFrame) -> None:
    """Write the digest of a training window's candles to the window's events."""
    first, last = window["date"].iloc[0], window["date"].iloc[-1]
    events.write(_EVENT, first=first.isoformat(), last=last.isoformat(), digest=_digest(window))


def check_same_candles(models_folder: Path, pair: str, candles: DataFrame) -> None:
    """Compare the candles that the pair's models were made from with those of this run.

    Parameters
    ----------
    models_folder : Path
        The identifier's folder.
    pair : str
    candles : DataFrame
        All candles of the pair in this run; windows that reach beyond them are left out, FreqAI
        has no use for them in this run either.

    Raises
    ------
    SettingsError
        Names the identifier, the pair and the window.
    """
    coin = pair.split("/")[0]
    dates = candles["date"]
    for path in sorted(models_folder.glob(f"sub-train-{coin}_*/{EVENTS_FILE}")):
        notes = [note for note in read_events(path, _EVENT) if note["pair"] == pair]
        if not notes:
            continue
        first, last = Timestamp(notes[-1]["first"]), Timestamp(notes[-1]["last"])
        if first < dates.iloc[0] or last > dates.iloc[-1]:
            continue
        if _digest(candles[(dates >= first) & (dates <= last)]) != notes[-1]["digest"]:
            raise SettingsError(
                f"freqai.identifier: {models_folder.name!r} holds a model of {pair} to "
                f"{last:%Y-%m-%d} that was made from other candles; choose a new identifier or "
                "delete its folder under user_data/models"
            )


def check_features(trained: Sequence[str] | None, given: Sequence[str], pair: str) -> None:
    """Compare the names and the order of the features with those that a model was trained on.

    Parameters
    ----------
    trained, given : sequence of str
        Features of the training, None where they are not known, and those of this run.
    pair : str

    Raises
    ------
    MarketError
        One line that names the pair and the first feature that is missing, unknown or moved.
    """
    if trained is not None and list(given) == list(trained):
        return
    if trained is None:
        problem = "the features that the model was trained on are not known"
    else:
        problem = _difference(trained, given)
    raise MarketError(
        f"{pair}: {problem}; restore the strategy's features, or train under a new identifier"
    )


def _difference(trained: Sequence[str], given: Sequence[str]) -> str:
    """Name the first feature in which two lists that differ do so."""
    missing = list((Counter(trained) - Counter(given)).elements())
    unknown = list((Counter(given) - Counter(trained)).elements())
    parts = []
    if missing:
        parts.append(f"{missing[0]!r} of the model's training is missing")
    if unknown:
        parts.append(f"{unknown[0]!r} is not known to the model")
    if parts:
        return (
            f"feature {', '.join(parts)} ({len(missing)} missing, {len(unknown)} unknown, "
            f"{len(trained)} trained)"
        )
    now = next(i for i, names in enumerate(zip(given, trained, strict=True)) if len({*names}) > 1)
    then = list(trained).index(given[now])
    return f"feature {given[now]!r} is number {now + 1}, in the model's training {then + 1}"


def _digest(candles: DataFrame) -> str:
    # In single precision, to which FreqAI may have reduced a window (reduce_df_footprint).
    prices = candles[_PRICES].to_numpy(dtype=np.float32)
    times = candles["date"].to_numpy(dtype="datetime64[ns]").astype(np.int64)
    return hashlib.sha256(times.tobytes() + np.ascontiguousarray(prices).tobytes()).hexdigest()[:16]
