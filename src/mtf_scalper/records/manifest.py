"""What a run was made with: versions, commit, machine, process and the digest of its candles."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from mtf_scalper._version import __version__
from mtf_scalper.lifetimes import scheduled_cpus
from mtf_scalper.market.datafiles import FUTURES, SPOT, DataFile

PACKAGE = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "numpy", "numba", "pandas", "stable-baselines3", "freqtrade")
_PRICES = ["open", "high", "low", "close", "volume"]
_ENGINE = ("market", "simulator", "ppo", "rollouts", "freqai", "settings.py", "training.py")
"""What decides on what is learned and predicted; not who calls it, watches it or tells of it."""


def candle_digest(candles: pd.DataFrame) -> str:
    """Return 16 hexadecimal digits that change with any date, price or volume.

    Parameters
    ----------
    candles : DataFrame
        With ``date`` and those of ``open``, ``high``, ``low``, ``close``, ``volume`` that there
        are; values count in single precision, to which FreqAI may have reduced a window.
    """
    names = [name for name in _PRICES if name in candles.columns]
    prices = candles[names].to_numpy(dtype=np.float32)
    # Nanoseconds, whatever unit a file or a frame has; with or without a time zone.
    times = candles["date"].to_numpy(dtype="datetime64[ns]").astype(np.int64)
    whole = times.tobytes() + np.ascontiguousarray(prices).tobytes()
    return hashlib.sha256(whole).hexdigest()[:16]


def datadir_digests(
    datadir: Path, pairs: Iterable[str], *, timeframe: str = "5m", until: pd.Timestamp | None = None
) -> dict[str, str | None]:
    """Return the digest of each pair's candles in a freqtrade data directory.

    Parameters
    ----------
    datadir : Path
    pairs : iterable of str
        Spot or futures, as in ``BTC/USDT:USDT``.
    timeframe : str
    until : Timestamp, optional
        UTC; candles from then on are left out, so that later ones change nothing.

    Returns
    -------
    dict of str to str
        None for a pair whose candles are not there as feather files.
    """
    return {pair: _pair_digest(datadir, pair, timeframe, until) for pair in pairs}


def _pair_digest(
    datadir: Path, pair: str, timeframe: str, until: pd.Timestamp | None
) -> str | None:
    kind = FUTURES if ":" in pair else SPOT
    path = DataFile(datadir, pair, timeframe, kind, "feather").path
    if not path.is_file():
        return None
    candles = pd.read_feather(path)
    return candle_digest(candles if until is None else candles[candles["date"] < until])


def version_facts() -> dict[str, str | None]:
    """Return the versions of this package, Python and what the results depend on most."""
    return {
        "mtf-scalper": __version__,
        "python": platform.python_version(),
        **{name: version_of(name) for name in _PACKAGES},
    }


def commit_facts() -> dict[str, Any]:
    """Return ``commit`` and whether the package's files ``is_clean``; None outside a checkout."""
    # An installed package may lie inside somebody's repository without being a part of it.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "is_clean": None}
    return {
        "commit": git("rev-parse", "--short=12", "HEAD"),
        "is_clean": git("status", "--porcelain", "--", ".") == "",
    }


def engine_digest() -> str:
    """Return 16 hexadecimal digits that change with any code that learns, trades or predicts."""
    found: list[Path] = []
    for name in _ENGINE:
        path = PACKAGE / name
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for path in found:
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0")
        digest.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()[:16]


def machine_facts() -> dict[str, Any]:
    """Return system, processor, CPUs that this process may use, and memory in bytes."""
    return {
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "cpus": scheduled_cpus(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def version_of(package: str) -> str | None:
    """Return the version of an installed package, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git(*arguments: str, folder: Path | None = None) -> str | None:
    """Return what git says about a folder, the package's by default; None where it says no."""
    # Who only looks takes no lock: cut off, it would be left, and stop its owner's next commit.
    command: Sequence[str] = [
        *("git", "--no-optional-locks", "-C", str(folder or PACKAGE)),
        *arguments,
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
