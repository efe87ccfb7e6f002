"""Keeps FreqAI from reusing models and predictions that were made from other candles.

FreqAI finds them by identifier, pair and date alone. Every training notes a digest of its candles
beside its model; a backtest that finds such a note compares it with the candles that it has now.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from pandas import DataFrame, Timestamp

from mtf_scalper.errors import SettingsError
from mtf_scalper.telemetry import EVENTS_FILE, EventLog, read_events

__all__ = ["check_candles", "note_candles"]

_EVENT = "candles"
_PRICES = ["open", "high", "low", "close", "volume"]


def note_candles(events: EventLog, window: DataFrame) -> None:
    """Write the digest of a training window's candles to the window's events."""
    first, last = window["date"].iloc[0], window["date"].iloc[-1]
    events.write(_EVENT, first=first.isoformat(), last=last.isoformat(), digest=_digest(window))


def check_candles(models_folder: Path, pair: str, candles: DataFrame) -> None:
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


def _digest(candles: DataFrame) -> str:
    # In single precision, to which FreqAI may have reduced a window (reduce_df_footprint).
    prices = candles[_PRICES].to_numpy(dtype=np.float32)
    times = candles["date"].to_numpy(dtype="datetime64[ns]").astype(np.int64)
    return hashlib.sha256(times.tobytes() + np.ascontiguousarray(prices).tobytes()).hexdigest()[:16]
