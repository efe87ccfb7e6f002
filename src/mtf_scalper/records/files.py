"""Names of a run folder's files, and the two ways to write one: whole, or line by line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.paths import written_whole

MANIFEST = "manifest.json"
SETTINGS = "settings.json"
OUTCOME = "outcome.json"
EVENTS = "events.jsonl"
SAMPLES = "samples.jsonl"
TRADES = "trades.jsonl"
LIVE_PREDICTIONS = "predictions.jsonl"
CANDLES, PREDICTIONS = "candles-*.feather", "predictions-*.feather"
"""One file for each pair, or pair and window, whose name stands for the star."""
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


def append(path: Path, lines: str) -> None:
    """Append whole lines with a single write, so that no reader meets half of one."""
    with path.open("ab", buffering=0) as file:
        file.write(lines.encode())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines, torn ones left out."""
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # of JSON or of UTF-8
            continue
        if isinstance(entry, dict):
            yield entry


@contextmanager
def written_once(path: Path) -> Iterator[Path]:
    """Yield where to write a file that is there whole or not, as ``paths.written_whole`` does.

    Raises
    ------
    RecordError
        If it is there already: what stands in a record stays.
    """
    if path.exists():
        raise RecordError(f"{path} is written already; a record is never written over")
    with written_whole(path) as part:
        yield part
