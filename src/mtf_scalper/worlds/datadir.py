"""Writes a synthetic market as a freqtrade data directory, and never over anything else.

A directory holds 5m, 15m and 1h candles, 1h mark candles and 8-hourly funding rates of every pair
as feather files under ``futures/``, the way freqtrade reads them with ``--datadir`` in trading
mode futures, and a manifest that says which market they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError, SettingsError
from mtf_scalper.market.candles import resample_candles
from mtf_scalper.market.datafiles import name_in_files
from mtf_scalper.paths import written_whole
from mtf_scalper.worlds.synthetic import (
    GENERATOR_VERSION,
    generate_candles,
    random_generator,
    stationary_ar1,
    utc_timestamp,
)
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec

MANIFEST_NAME: Final = "synthetic_market.json"

INTEREST_RATE: Final = 0.0001
"""Per 8 hours, as Binance sets it for USDT-margined futures."""

PREMIUM_DAMPER: Final = 0.0005
PREMIUM_PER_RETURN: Final = 0.01
PREMIUM_NOISE: Final = 0.00025
PREMIUM_CAP: Final = 0.002
FUNDING_HOURS: Final = 8

_CANDLE_FILE = re.compile(
    r"\S+-(\d+[a-zA-Z]{1,2}(-[a-zA-Z_]+)?|trades)\.(feather|parquet|json(\.gz)?)"
)


@dataclass(frozen=True)
class _Manifest:
    """What a synthetic data directory holds; ``complete`` is false while it is being written."""

    market: dict[str, Any]
    start: pd.Timestamp
    end: pd.Timestamp
    files: tuple[str, ...]
    complete: bool


def mark_candles(spec: SyntheticSpec, pair: str, candles: pd.DataFrame) -> pd.DataFrame:
    """Return the 1h mark candles that belong to 5m futures candles.

    The mark price is the futures price without its premium, which stays within 0.2% of it.

    Parameters
    ----------
    spec, pair
        What ``candles`` were generated from.
    candles : DataFrame
        5m candles as `generate_candles` returns them.

    Returns
    -------
    DataFrame
        One row per complete hour, prices in quote currency, zero volume as on the exchange.
    """
    hourly = resample_candles(candles, "1h")
    after = 1.0 + _premium(spec, pair, hourly)
    before = np.concatenate((after[:1], after[:-1]))
    open_ = _values(hourly, "open") / before
    close = _values(hourly, "close") / after
    high = np.maximum.reduce([_values(hourly, "high") / after, open_, close])
    low = np.minimum.reduce([_values(hourly, "low") / after, open_, close])
    prices = {"open": open_, "high": high, "low": low, "close": close}
    rounded = {key: np.round(values, 8) for key, values in prices.items()}
    return pd.DataFrame({"date": hourly["date"], **rounded, "volume": 0.0})


def funding_rates(spec: SyntheticSpec, pair: str, candles: pd.DataFrame) -> pd.DataFrame:
    """Return the funding rates due at 00:00, 08:00 and 16:00 UTC within ``candles``.

    The rate follows Binance's rule ``P + clip(interest - P, -0.05%, 0.05%)`` with ``P`` the mean
    premium of the 8 hours before; the premium leans with the return of those hours. A rate with
    no hour before it equals the interest of 0.01%.

    Parameters
    ----------
    spec, pair
        What ``candles`` were generated from.
    candles : DataFrame
        5m candles as `generate_candles` returns them.

    Returns
    -------
    DataFrame
        ``date``, the rate as a share of the position's value in ``open``, and zeros in ``high low
        close volume``: the layout that every freqtrade release with futures reads.
    """
    hourly = resample_candles(candles, "1h")
    premium = pd.Series(_premium(spec, pair, hourly))
    known = premium.rolling(FUNDING_HOURS, min_periods=1).mean().shift(fill_value=INTEREST_RATE)
    rate = known + (INTEREST_RATE - known).clip(-PREMIUM_DAMPER, PREMIUM_DAMPER)
    due = (hourly["date"].dt.hour % FUNDING_HOURS == 0).to_numpy()
    dates = hourly["date"].loc[due].reset_index(drop=True)
    zeros = dict.fromkeys(("high", "low", "close", "volume"), 0.0)
    return pd.DataFrame({"date": dates, "open": np.round(rate.to_numpy()[due], 8), **zeros})


def write_datadir(
    spec: SyntheticSpec, datadir: Path, start: datetime | str, end: datetime | str
) -> list[Path]:
    """Write the market of ``spec`` from ``start`` to ``end`` as a freqtrade data directory.

    Every file appears whole or not at all, and a manifest beside them tells how far an interrupted
    run has come. Files of an earlier synthetic market in the same directory are replaced, or
    removed where the new one has no such pair.

    Parameters
    ----------
    spec : SyntheticSpec
        The market and its pairs.
    datadir : Path
        What freqtrade calls ``--datadir``; made where it does not exist.
    start, end : datetime or str
        Whole hours, ``end`` exclusive; UTC where no time zone is given.

    Returns
    -------
    list of Path
        The candle files, five per pair.

    Raises
    ------
    MarketError
        The directory holds candles that were not written here; nothing is touched.
    SettingsError
        The dates are reversed or no whole hours.
    """
    first, stop = _whole_hours(start, end)
    names = tuple(_file_name(each.pair, kind) for each in spec.pairs for kind in _KINDS)
    earlier = _owned_files(datadir, names)
    futures = datadir / "futures"
    futures.mkdir(parents=True, exist_ok=True)
    # The claim comes first: an interrupted run is recognised as ours, but never as complete.
    claimed = tuple(dict.fromkeys((*names, *earlier)))
    _write_manifest(datadir, _Manifest(_market(spec), first, stop, claimed, complete=False))
    for each in spec.pairs:
        for kind, frame in _frames(spec, each.pair, first, stop):
            _write_feather(frame, futures / _file_name(each.pair, kind))
    for name in set(earlier) - set(names):
        (futures / name).unlink(missing_ok=True)
    _write_manifest(datadir, _Manifest(_market(spec), first, stop, names, complete=True))
    return [futures / name for name in names]


def ensure_datadir(
    spec: SyntheticSpec, datadir: Path, start: datetime | str, end: datetime | str
) -> bool:
    """Write the data directory unless it already holds this market for all of these dates.

    Takes the arguments of `write_datadir` and raises its errors.

    Returns
    -------
    bool
        True if it was written, False if what is there serves.
    """
    first, stop = _whole_hours(start, end)
    found = _read_manifest(datadir)
    if (
        found is not None
        and found.complete
        and found.market == _market(spec)
        and found.start <= first
        and stop <= found.end
        and all((datadir / "futures" / name).is_file() for name in found.files)
    ):
        return False
    write_datadir(spec, datadir, first, stop)
    return True


_KINDS: Final = ("5m-futures", "15m-futures", "1h-futures", "1h-mark", "1h-funding_rate")


def _frames(
    spec: SyntheticSpec, pair: str, start: pd.Timestamp, end: pd.Timestamp
) -> Iterator[tuple[str, pd.DataFrame]]:
    candles = generate_candles(spec, pair, start, end)
    yield "5m-futures", candles
    yield "15m-futures", resample_candles(candles, "15m")
    yield "1h-futures", resample_candles(candles, "1h")
    yield "1h-mark", mark_candles(spec, pair, candles)
    yield "1h-funding_rate", funding_rates(spec, pair, candles)


def _premium(spec: SyntheticSpec, pair: str, hourly: pd.DataFrame) -> NDArray[np.float64]:
    """Return the futures price's premium over the mark price at the close of each hour."""
    close = np.log(_values(hourly, "close"))
    earlier = np.concatenate((np.repeat(close[:1], FUNDING_HOURS), close))[: len(close)]
    start = hourly["date"].iloc[0].isoformat() if len(hourly) else ""
    shocks = random_generator(f"{spec.seed}|{start}|{pair}|premium").standard_normal(len(close))
    premium: NDArray[np.float64] = INTEREST_RATE + PREMIUM_PER_RETURN * (close - earlier)
    premium += PREMIUM_NOISE * stationary_ar1(shocks, FUNDING_HOURS)
    return premium.clip(-PREMIUM_CAP, PREMIUM_CAP)


def _values(frame: pd.DataFrame, column: str) -> NDArray[np.float64]:
    return frame[column].to_numpy(dtype=np.float64)


def _whole_hours(start: datetime | str, end: datetime | str) -> tuple[pd.Timestamp, pd.Timestamp]:
    first, stop = utc_timestamp(start), utc_timestamp(end)
    if first.floor("h") != first or stop.floor("h") != stop:
        raise SettingsError(f"start, end: {first} and {stop} must be whole hours")
    if stop <= first:
        raise SettingsError(f"end: {stop} must be after start {first}")
    return first, stop


def _market(spec: SyntheticSpec) -> dict[str, Any]:
    """Return the spec as JSON gives it back, with the version of the generator."""
    market = {"generator_version": GENERATOR_VERSION, **asdict(spec)}
    restored: dict[str, Any] = json.loads(json.dumps(market))
    return restored


def _file_name(pair: str, kind: str) -> str:
    return f"{name_in_files(pair)}-{kind}.feather"


def _owned_files(datadir: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the files that an earlier market left here; raise if any file is not ours to touch."""
    manifest = _read_manifest(datadir)
    owned = () if manifest is None else manifest.files
    for folder in (datadir, datadir / "futures"):
        for path in sorted(folder.glob("*")):
            foreign = _CANDLE_FILE.fullmatch(path.name) is not None and path.name not in owned
            if foreign and (manifest is None or path.name in names):
                raise MarketError(
                    f"{path}: candles that are not synthetic would be mixed with synthetic ones; "
                    "choose another data directory"
                )
    return owned


def _read_manifest(datadir: Path) -> _Manifest | None:
    path = datadir / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = tuple(Path(name).name for name in content["files"])
        return _Manifest(
            market=content["market"],
            start=utc_timestamp(content["start"]),
            end=utc_timestamp(content["end"]),
            files=files,
            complete=content["complete"] is True,
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, SettingsError):
        raise MarketError(
            f"{path}: is no manifest of a synthetic market; move it away or choose another "
            "data directory"
        ) from None


def _write_manifest(datadir: Path, manifest: _Manifest) -> None:
    content = {
        "market": manifest.market,
        "start": manifest.start.isoformat(),
        "end": manifest.end.isoformat(),
        "files": manifest.files,
        "complete": manifest.complete,
    }
    with written_whole(datadir / MANIFEST_NAME) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_feather(frame: pd.DataFrame, path: Path) -> None:
    with written_whole(path) as part:
        # freqtrade's own compression, so that it rewrites the files in the same form
        frame.to_feather(part, compression="lz4", compression_level=9)
