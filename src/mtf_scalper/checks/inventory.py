"""What is installed and which candles are there: facts, without any judgement."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from packaging.requirements import Requirement

from mtf_scalper.market.candles import timeframe_delta
from mtf_scalper.records.manifest import version_of

_DISTRIBUTION = "mtf-scalper"
_EXTRA = "freqtrade"
_IMPORTED_BY_FREQAI = ("xgboost",)
_CANDLE_FILE = re.compile(
    r"(?P<base>[^_\-]+)_(?P<quote>[^_\-]+)_(?P<settle>[^_\-]+)"
    r"-(?P<timeframe>\d+[mhd])-(?P<kind>futures|mark|funding_rate)\.feather"
)


@dataclass(frozen=True)
class Package:
    """A package that is required; ``version`` is None where it is not installed."""

    name: str
    required: str
    version: str | None
    is_valid: bool


@dataclass(frozen=True)
class CandleFile:
    """One file of a freqtrade data directory.

    Attributes
    ----------
    pair, timeframe, kind : str
        As in ``BTC/USDT:USDT``, ``5m``, ``futures``.
    rows : int
    first, last : str
        Opening times of the first and last row, UTC, as in ``2024-10-01 00:05``.
    missing : int
        Rows that are missing between them.
    """

    pair: str
    timeframe: str
    kind: str
    rows: int
    first: str
    last: str
    missing: int


def find_packages() -> tuple[Package, ...]:
    """Return the state of every package that this one and freqtrade's side of it require."""
    try:
        requires = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return (Package(_DISTRIBUTION, "installed", None, is_valid=False),)
    wanted = [Requirement(text) for text in requires]
    kept = [
        each
        for each in wanted
        if each.marker is None or any(each.marker.evaluate({"extra": e}) for e in ("", _EXTRA))
    ]
    kept += [Requirement(name) for name in _IMPORTED_BY_FREQAI]
    return tuple(_package(each) for each in sorted(kept, key=lambda each: each.name.lower()))


def find_candles(datadir: Path) -> tuple[tuple[CandleFile, ...], dict[str, str]]:
    """Return the candle files under ``datadir/futures``, and why others of them are unreadable.

    Returns
    -------
    files : tuple of CandleFile
    unreadable : dict of str to str
        File name -> reason, in one line.
    """
    files: list[CandleFile] = []
    unreadable: dict[str, str] = {}
    for path in sorted((datadir / "futures").glob("*.feather")):
        match = _CANDLE_FILE.fullmatch(path.name)
        if match is None:
            continue
        try:
            files.append(_candle_file(path, match))
        except (OSError, ValueError, KeyError) as error:
            unreadable[path.name] = str(error).partition("\n")[0]
    return tuple(files), unreadable


def _package(requirement: Requirement) -> Package:
    specifier, version = requirement.specifier, version_of(requirement.name)
    is_valid = version is not None and specifier.contains(version, prereleases=True)
    return Package(requirement.name, str(specifier), version, is_valid)


def _candle_file(path: Path, match: re.Match[str]) -> CandleFile:
    dates = pd.read_feather(path, columns=["date"])["date"]
    if dates.empty:
        raise ValueError("no rows")
    kind, timeframe = match["kind"], match["timeframe"]
    seconds = np.diff(dates.dt.as_unit("ms").astype("int64").to_numpy()) / 1000.0
    # Funding is settled every few hours whatever the file is named: its usual step is the measure.
    is_funding = kind == "funding_rate" and len(seconds) > 0
    step = np.median(seconds) if is_funding else timeframe_delta(timeframe).total_seconds()
    # Funding is recorded some milliseconds late at times, hence the rounding.
    missing = int(np.maximum(np.round(seconds / step) - 1, 0).sum())
    return CandleFile(
        pair=f"{match['base']}/{match['quote']}:{match['settle']}",
        timeframe=timeframe,
        kind=kind,
        rows=len(dates),
        first=f"{dates.iloc[0]:%Y-%m-%d %H:%M}",
        last=f"{dates.iloc[-1]:%Y-%m-%d %H:%M}",
        missing=missing,
    )
