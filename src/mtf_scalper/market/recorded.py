"""One pair of a freqtrade data directory as a ``Market``: what FreqAI would train and trade on.

Features, classic entries, leverage, funding and price steps are those of the shipped strategy and
of freqtrade's backtester, to the last bit: smoothed indicators remember where their candles began,
so that candles are loaded from where freqtrade would load them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError, UntrainableError
from mtf_scalper.market.candles import (
    BASE_TIMEFRAME,
    CANDLE_COLUMNS,
    fill_missing_candles,
    resample_candles,
    timeframe_delta,
)
from mtf_scalper.market.features import WARMUP_CANDLES_5M, feature_frame
from mtf_scalper.market.market import PRICES, Market
from mtf_scalper.market.signals import (
    EntryThresholds,
    classic_entries,
    entry_indicators,
    leverage_for,
)

__all__ = ["FEE_RATE", "RecordedPair", "price_steps", "read_candles", "recorded_pair"]

FEE_RATE: Final = 0.0005
"""Binance's taker fee for USDT futures without a discount."""
_SIGNIFICANT_DIGITS = 14

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RecordedPair:
    """A pair's candles and all that is made of them.

    Attributes
    ----------
    market : Market
        With dates; features are not scaled yet.
    features : ndarray of float64, shape (T, F)
        The market's features before they were rounded to float32.
    candles : DataFrame, T rows
        date, open, high, low, close, volume.
    """

    market: Market
    features: Floats
    candles: pd.DataFrame

    def row_of(self, moment: pd.Timestamp) -> int:
        """Return the first row whose candle opens at ``moment`` (UTC) or later."""
        assert self.market.dates is not None
        return int(np.searchsorted(self.market.dates, moment.tz_localize(None).to_datetime64()))


def recorded_pair(
    datadir: Path,
    pair: str,
    *,
    since: pd.Timestamp | None = None,
    until: pd.Timestamp | None = None,
    fee_rate: float = FEE_RATE,
    thresholds: EntryThresholds | None = None,
    max_leverage: float = 3.0,
    timeframes: Sequence[str] = ("5m", "15m", "1h"),
    periods: Sequence[int] = (10, 20),
) -> RecordedPair:
    """Read a pair of a freqtrade data directory.

    Parameters
    ----------
    datadir : Path
        What freqtrade calls ``--datadir``, with futures as feather files.
    pair : str
    since : Timestamp, optional
        UTC; the first candle to return. As many candles before it as indicators need to warm up
        are read of every timeframe. By default the file's first candle after the warm-up.
    until : Timestamp, optional
        UTC; candles that open from then on are left out.
    fee_rate : float
        Per side.
    thresholds : EntryThresholds, optional
        Of the classic entries.
    max_leverage : float
    timeframes, periods : sequence
        FreqAI's ``include_timeframes`` and ``indicator_periods_candles``.

    Raises
    ------
    MarketError
        If the pair has no candles there, or none after the warm-up.
    """
    whole = read_candles(datadir, pair)
    if until is not None:
        whole = whole[whole["date"] < until]
    begin = None if since is None else since - WARMUP_CANDLES_5M * timeframe_delta(BASE_TIMEFRAME)
    candles = whole if begin is None else whole[whole["date"] >= begin].reset_index(drop=True)
    if len(candles) <= WARMUP_CANDLES_5M + 2:
        raise UntrainableError(
            f"{pair}: {len(candles)} candles in {datadir} are too few for the warm-up of "
            f"{WARMUP_CANDLES_5M}; download more"
        )
    higher = {
        timeframe: _higher(whole, timeframe, since)
        for timeframe in timeframes
        if timeframe != BASE_TIMEFRAME
    }
    features = feature_frame(candles, timeframes, periods, higher=higher, dtype=np.float64)
    indicators = entry_indicators(candles)
    long, short = classic_entries(indicators, thresholds or EntryThresholds())
    dates = candles["date"].dt.tz_localize(None).to_numpy(dtype="datetime64[ns]")
    ohlc = candles[list(PRICES)].to_numpy(dtype=np.float64)
    steps = price_steps(dates, ohlc)  # of the warm-up too, as the backtester finds them
    rows = slice(WARMUP_CANDLES_5M, None)
    market = Market(
        features=features.to_numpy(dtype=np.float32)[rows],
        ohlc=ohlc[rows],
        entry_long=long[rows],
        entry_short=short[rows],
        fee_rate=fee_rate,
        leverage=leverage_for(indicators, max_leverage)[rows],
        funding=_funding(datadir, pair, candles["date"])[rows],
        tick_size=steps[rows],
        dates=dates[rows],
        pair=pair,
        feature_names=tuple(features.columns),
    )
    kept = candles.iloc[rows].reset_index(drop=True)
    return RecordedPair(market, features.to_numpy(dtype=np.float64)[rows], kept)


def read_candles(datadir: Path, pair: str) -> pd.DataFrame:
    """Return a pair's 5m candles as freqtrade loads them: in order, gaps filled.

    Raises
    ------
    MarketError
        If the file is missing or holds no candles that can be traded.
    """
    path = _path(datadir, pair, "5m-futures")
    if not path.is_file():
        raise UntrainableError(f"{pair}: no candles in {datadir} ({path.name} is missing)")
    stored = pd.read_feather(path)[list(CANDLE_COLUMNS)]
    try:
        return fill_missing_candles(stored.sort_values("date").reset_index(drop=True))
    except MarketError as error:
        raise MarketError(f"{pair}: {path.name}: {error}") from None


def price_steps(dates: NDArray[np.datetime64], ohlc: Floats) -> Floats:
    """Return the exchange's price step at each row, found as freqtrade's backtester finds it.

    The most decimals of any price of a calendar month are those of the step. A month of whole
    numbers tells nothing and takes the step of the month before; without one the step is 0, which
    leaves prices unrounded.

    Parameters
    ----------
    dates : ndarray of datetime64[ns], shape (T,)
        Rising.
    ohlc : ndarray of float64, shape (T, 4)

    Returns
    -------
    ndarray of float64, shape (T,)
    """
    months = dates.astype("datetime64[M]")
    steps = np.zeros(len(dates))
    latest = 0.0
    for month in np.unique(months):
        rows = months == month
        # Prices repeat from candle to candle, and texts are slow.
        decimals = max(_decimals(price) for price in np.unique(ohlc[rows]).tolist())
        latest = 1 / 10**decimals if decimals else latest
        steps[rows] = latest
    return steps


def part_of(recorded: RecordedPair, features: NDArray[np.float32], start: int, stop: int) -> Market:
    """Return rows of a pair with other features, and with price steps found from these rows alone.

    What FreqAI hands over for a training knows the candles of its window only.

    Parameters
    ----------
    recorded : RecordedPair
    features : ndarray of float32, shape (stop - start, F)
    start, stop : int
    """
    part = recorded.market.slice(start, stop)
    assert part.dates is not None
    steps = price_steps(part.dates, part.ohlc)
    names = recorded.market.feature_names if features.shape[1] == part.n_features else ()
    return replace(part, features=features, tick_size=steps, feature_names=names, report_gaps=False)


def _decimals(price: float) -> int:
    text = np.format_float_positional(
        price, precision=_SIGNIFICANT_DIGITS, unique=False, fractional=False, trim="-"
    )
    return len(text.partition(".")[2])


def _higher(whole: pd.DataFrame, timeframe: str, since: pd.Timestamp | None) -> pd.DataFrame:
    candles = resample_candles(whole, timeframe)
    if since is None:
        return candles
    begin = since - WARMUP_CANDLES_5M * timeframe_delta(timeframe)
    return candles[candles["date"] >= begin].reset_index(drop=True)


def _funding(datadir: Path, pair: str, dates: pd.Series[pd.Timestamp]) -> Floats:
    """Return rate times mark price where both are known for a candle's open, 0 elsewhere."""
    paths = [_path(datadir, pair, kind) for kind in ("1h-funding_rate", "1h-mark")]
    if not all(path.is_file() for path in paths):
        return np.zeros(len(dates))
    rates, marks = (
        pd.read_feather(path).drop_duplicates("date").set_index("date")["open"] for path in paths
    )
    due = (rates * marks).dropna()
    return due.reindex(dates).fillna(0.0).to_numpy(dtype=np.float64)


def _path(datadir: Path, pair: str, kind: str) -> Path:
    name = pair.replace("/", "_").replace(":", "_")
    return datadir / "futures" / f"{name}-{kind}.feather"
