"""Names of a run folder's files, and the two ways to write one: whole, or line by line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from mtf_scalper.errors import MtfScalperError

__all__ = [
    "CHECKS",
    "EQUITY",
    "EVENTS",
    "FIGURES",
    "IMPORTANCE",
    "LIVE_PREDICTIONS",
    "MANIFEST",
    "OUTCOME",
    "RANDOM_EXITS",
    "SAMPLES",
    "SETTINGS",
    "STATISTICS",
    "TRADES",
    "RecordError",
    "append_lines",
    "file_stem",
    "plain",
    "write_whole",
]

MANIFEST = "manifest.json"
SETTINGS = "settings.json"
OUTCOME = "outcome.json"
EVENTS = "events.jsonl"
SAMPLES = "samples.jsonl"
TRADES = "trades.jsonl"
LIVE_PREDICTIONS = "predictions.jsonl"
EQUITY = "equity.feather"
FIGURES = "figures.json"
RANDOM_EXITS = "random_exits.json"
IMPORTANCE = "importance.json"
STATISTICS = "statistics.json"
CHECKS = "checks.json"


class RecordError(MtfScalperError):
    """A run folder cannot be written or read: names the file."""


def file_stem(pair: str) -> str:
    """Return a pair as freqtrade writes it into file names.

    >>> file_stem("BTC/USDT:USDT")
    'BTC_USDT_USDT'
    """
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in pair)


def plain(value: Any) -> Any:
    """Return what JSON can hold: NaN becomes None, an infinite number the text ``"inf"``.

    Arrays become lists, dataclasses and pydantic models dicts, times ISO texts, paths and enums
    texts.
    """
    if value is None or isinstance(value, bool | int | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float | np.floating):
        number = float(value)
        if math.isfinite(number):
            return number
        return None if math.isnan(number) else str(number)
    if isinstance(value, np.generic | np.ndarray):
        return str(value) if value.dtype.kind == "M" else plain(value.tolist())
    if isinstance(value, datetime | date):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    return plain(value.value) if isinstance(value, Enum) else str(value)


def append_lines(path: Path, entries: list[Mapping[str, Any]]) -> None:
    """Append one line of JSON per entry with a single write."""
    text = "".join(json.dumps(plain(entry), allow_nan=False) + "\n" for entry in entries)
    with path.open("ab", buffering=0) as file:
        file.write(text.encode())


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file under another name, then give it its own.

    Raises
    ------
    RecordError
        If it is there already: what stands in a record stays.
    """
    if path.exists():
        raise RecordError(f"{path} is written already; a record is never written over")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
