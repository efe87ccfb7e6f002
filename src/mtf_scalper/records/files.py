"""Names of a run folder's files, and the two ways to write one: whole, or line by line."""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final

import numpy as np

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.paths import shown, written_whole

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
DAILY = "daily.feather"
FIGURES = "figures.json"
RANDOM_EXITS = "random_exits.json"
IMPORTANCE = "importance.json"
STATISTICS = "statistics.json"
STUDY = "study.json"
CHECKS = "checks.json"
LARGEST_FILE: Final = 2_000_000_000
"""Bytes; the samples of a bot of three years are fewer."""


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
    if isinstance(value, str) and not isinstance(value, Enum):
        # Names of files may hold what is no letter; JSON's escape for it could not be read again.
        return value.encode(errors="backslashreplace").decode()
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
    """Append whole lines with a single write, so that no reader meets half of one.

    Where an earlier writer was cut off in the middle of a line, that line is ended first: it is
    lost, and takes none of these with it.

    Raises
    ------
    OSError
        If the disk takes none of it, or only a part.
    """
    content = lines.encode()
    with path.open("ab+", buffering=0) as file:
        if file.tell() > 0 or file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                content = b"\n" + content
        written = file.write(content)
    if written != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def read_whole(path: Path) -> bytes | None:
    """Return a record's file, None where there is none.

    Raises
    ------
    RecordError
        If it is no file (a pipe would never end), a link to what lies elsewhere, too large to be
        one of a run's, or cannot be read.
    """
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_BINARY", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)  # each system has some of them
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise RecordError(f"{shown(path)} is damaged: it is no file")
            if about.st_size > LARGEST_FILE:
                raise RecordError(f"{shown(path)} is damaged: it has {about.st_size:,} bytes")
            return file.read()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        is_link = getattr(error, "errno", None) == errno.ELOOP
        reason = "it is a link" if is_link else getattr(error, "strerror", None) or str(error)
        raise RecordError(f"{shown(path)} is damaged: {reason}") from None


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
