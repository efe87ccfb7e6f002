"""One pair of a freqtrade data directory as a ``Market``: what FreqAI would train and trade on.

Features, classic entries, leverage, funding and price steps are those of the shipped strategy and
of freqtrade's backtester, to the last bit: smoothed indicators remember where their candles began,
so that candles are loaded from where freqtrade would load them. Only freqtrade's formats are read,
and what freqtrade would take for an empty file is an error.
"""

from __future__ import annotations

import logging
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
    check_candles,
    resample_candles,
    timeframe_delta,
)
from mtf_scalper.market.datafiles import FUNDING_RATE, FUTURES, SPOT, DataFile, clean_frame
from mtf_scalper.market.features import LONGEST_LOOKBACK_CANDLES, feature_frame
from mtf_scalper.market.funding import Funding, funding_notice, funding_of, no_funding
from mtf_scalper.market.market import Market
from mtf_scalper.market.problems import PRICES, price_problem
from mtf_scalper.market.signals import (
    EntryThresholds,
    atr_stake_fraction,
    classic_entries,
    entry_indicators,
    leverage_for,
)
from mtf_scalper.market.terms import PairTerms
from mtf_scalper.market.timeframes import (
    candles_per,
    check_multiples,
    entry_timeframes,
    warmup_candles,
)

logger = logging.getLogger(__name__)

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
    price_step : float
        The exchange's own, for months of whole prices; 0 leaves them unrounded.
    """

    market: Market
    features: Floats
    candles: pd.DataFrame
    price_step: float = 0.0

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
    timeframe: str | None = None,
    startup_candles: int | None = None,
    terms: PairTerms | None = None,
    data_format: str | None = None,
) -> RecordedPair:
    """Read a pair of a freqtrade data directory.

    Parameters
    ----------
    datadir : Path
        What freqtrade calls ``--datadir``.
    pair : str
        Futures, as ``BTC/USDT:USDT``; or spot, as ``BTC/USDT``, which is traded at leverage 1.
    since : Timestamp, optional
        UTC; the first candle to return. As many candles before it as indicators need to warm up
        are read of every timeframe. By default the file's first candle after the warm-up, where
        all features are defined.
    until : Timestamp, optional
        UTC; candles that open from then on are left out.
    fee_rate : float
        Per side.
    thresholds : EntryThresholds, optional
        Of the classic entries.
    max_leverage : float
    timeframes, periods : sequence
        FreqAI's ``include_timeframes`` and ``indicator_periods_candles``.
    timeframe : str, optional
        The base, whose candles are read; the longer ones are made from them. By default the
        shortest of ``timeframes``.
    startup_candles : int, optional
        freqtrade's ``startup_candle_count``; see ``warmup_candles``.
    terms : PairTerms, optional
        The exchange's.
    data_format : str, optional
        freqtrade's ``dataformat_ohlcv``; by default that of the files which there are.

    Raises
    ------
    MarketError
        If the pair has no candles there, or none after the warm-up; or a file cannot be read.
    SettingsError
        If a timeframe is no multiple of the base.
    """
    terms = terms or PairTerms()
    base = timeframe or min(timeframes, key=timeframe_delta)
    entry = entry_timeframes(base, timeframes)
    check_multiples(base, timeframes)
    warmup = warmup_candles(entry) if startup_candles is None else startup_candles
    whole = read_candles(datadir, pair, base, data_format=data_format)
    price_step = _exchange_step(whole, pair, terms)
    if until is not None:
        whole = whole[whole["date"] < until]
    begin = None if since is None else since - warmup * timeframe_delta(base)
    candles = whole if begin is None else whole[whole["date"] >= begin].reset_index(drop=True)
    longest = max((*timeframes, *entry), key=timeframe_delta)
    lookback = (LONGEST_LOOKBACK_CANDLES + 1) * candles_per(longest, base)
    warmup = warmup if since is not None else max(warmup, lookback)
    if len(candles) <= warmup + 2:
        raise UntrainableError(
            f"{pair}: {len(candles)} candles of {base} in {datadir} are too few for the warm-up of "
            f"{warmup}; download more"
        )
    _check_lookback(whole, candles["date"].iloc[warmup], lookback, base, pair)
    higher = {
        each: _higher(whole, each, base, None if since is None else (since, warmup))
        for each in timeframes
        if each != base
    }
    features = feature_frame(
        candles, timeframes, periods, base=base, higher=higher, dtype=np.float64
    )
    indicators = entry_indicators(candles, entry, higher=higher)
    long, short = classic_entries(indicators, thresholds or EntryThresholds(), entry)
    dates = candles["date"].dt.tz_localize(None).to_numpy(dtype="datetime64[ns]")
    ohlc = candles[list(PRICES)].to_numpy(dtype=np.float64)
    steps = price_steps(dates, ohlc, price_step)  # of the warm-up too, as the backtester does
    leverage = _leverage(indicators, pair, max_leverage, terms)
    atr_pct = indicators[f"atr_pct_{base}"].to_numpy(dtype=np.float64)
    stakes = stakes_for(atr_pct, leverage, terms.equity)
    long_at, short_at = _liquidations(pair, leverage, stakes, terms)
    funding = _funding(datadir, pair, dates, terms, data_format)
    rows = slice(warmup, None)
    market = Market(
        features=features.to_numpy(dtype=np.float32)[rows],
        ohlc=ohlc[rows],
        entry_long=long[rows],
        entry_short=short[rows],
        fee_rate=fee_rate,
        leverage=leverage[rows],
        funding=funding.at_open[rows],
        funding_between=funding.between[rows],
        tick_size=steps[rows],
        liquidation_long=long_at[rows],
        liquidation_short=short_at[rows],
        dates=dates[rows],
        timeframe_minutes=timeframe_delta(base) // pd.Timedelta(minutes=1),
        pair=pair,
        feature_names=tuple(features.columns),
    )
    kept = candles.iloc[rows].reset_index(drop=True)
    values = features.to_numpy(dtype=np.float64)[rows]
    return RecordedPair(market, values, kept, price_step)


def read_candles(
    datadir: Path, pair: str, timeframe: str = BASE_TIMEFRAME, *, data_format: str | None = None
) -> pd.DataFrame:
    """Return a pair's candles of a timeframe as freqtrade loads them: in order, gaps filled.

    Raises
    ------
    MarketError
        If the file is missing or holds no candles that can be traded; names it.
    """
    file = DataFile(datadir, pair, timeframe, _kind(pair), data_format)
    if not file.exists:
        others = file.relatives()
        there = f"; there is {', '.join(others)}" if others else ""
        missing = f"{file.path.name} is missing{there}"
        raise UntrainableError(f"{pair}: no candles in {datadir} ({missing})")
    stored = file.read().sort_values("date", kind="stable").reset_index(drop=True)
    # On the rows as they are: freqtrade would fill a missing price up.
    prices = stored[list(PRICES)].to_numpy(dtype=np.float64)
    problem = price_problem(prices, stored["date"].to_numpy(dtype="datetime64[ns]"))
    if problem is not None:
        raise MarketError(f"{pair}: {file.path.name}: {problem}")
    if stored.empty:
        raise UntrainableError(
            f"{pair}: {file.path.name} in {datadir} has no rows; download it again"
        )
    candles = clean_frame(stored, timeframe, file.kind)
    try:
        check_candles(candles)
    except MarketError as error:
        raise MarketError(f"{pair}: {file.path.name}: {error}") from None
    return candles


def price_steps(dates: NDArray[np.datetime64], ohlc: Floats, exchange_step: float = 0.0) -> Floats:
    """Return the exchange's price step at each row, found as freqtrade's backtester finds it.

    The most decimals of any price of a calendar month are those of the step. A month of whole
    numbers tells nothing and takes the step of the month before; without one the exchange's own.

    Parameters
    ----------
    dates : ndarray of datetime64[ns], shape (T,)
        Rising.
    ohlc : ndarray of float64, shape (T, 4)
    exchange_step : float
        0 leaves prices unrounded.

    Returns
    -------
    ndarray of float64, shape (T,)
    """
    months = dates.astype("datetime64[M]")
    steps = np.zeros(len(dates))
    latest = exchange_step
    for month in np.unique(months):
        rows = months == month
        decimals = _most_decimals(ohlc[rows])
        # A power of floats, as freqtrade's: the powers of whole numbers differ from 10^23 on.
        latest = float(1 / np.float64(10.0) ** decimals) if decimals else latest
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
    steps = price_steps(part.dates, part.ohlc, recorded.price_step)
    names = recorded.market.feature_names if features.shape[1] == part.n_features else ()
    return replace(part, features=features, tick_size=steps, feature_names=names, report_gaps=False)


def stakes_for(atr_pct: Floats, leverage: Floats, equity: float) -> Floats:
    """Return what the shipped strategy stakes on a trade decided at each row, in stake currency.

    Parameters
    ----------
    atr_pct, leverage : ndarray of float64, shape (T,)
    equity : float
    """
    pairs = zip(atr_pct.tolist(), leverage.tolist(), strict=True)
    return equity * np.array([atr_stake_fraction(*each) for each in pairs])


def _most_decimals(prices: Floats) -> int:
    # Prices repeat from candle to candle, and texts are slow.
    return max(_decimals(price) for price in np.unique(prices).tolist())


def _decimals(price: float) -> int:
    text = np.format_float_positional(
        price, precision=_SIGNIFICANT_DIGITS, unique=False, fractional=False, trim="-"
    )
    return len(text.partition(".")[2])


def _check_lookback(
    whole: pd.DataFrame, first: pd.Timestamp, lookback: int, base: str, pair: str
) -> None:
    """Refuse candles that begin too late for the longest features of the first row."""
    begins, needed = whole["date"].iloc[0], first - lookback * timeframe_delta(base)
    if begins > needed:
        raise UntrainableError(
            f"{pair}: candles of {base} begin on {begins:%Y-%m-%d %H:%M}, the features of "
            f"{first:%Y-%m-%d %H:%M} need them from {needed:%Y-%m-%d %H:%M} on; download more"
        )


def _higher(
    whole: pd.DataFrame, timeframe: str, base: str, first: tuple[pd.Timestamp, int] | None
) -> pd.DataFrame:
    """Return longer candles from ``first``, a moment and candles of their own before it, on."""
    candles = resample_candles(whole, timeframe, base)
    if first is None:
        return candles
    since, warmup = first
    begin = since - warmup * timeframe_delta(timeframe)
    return candles[candles["date"] >= begin].reset_index(drop=True)


def _kind(pair: str) -> str:
    return FUTURES if ":" in pair else SPOT


def _exchange_step(whole: pd.DataFrame, pair: str, terms: PairTerms) -> float:
    """Return the exchange's step, or the coarsest that all prices are multiples of."""
    if terms.price_step is not None:
        return terms.price_step
    decimals = _most_decimals(whole[list(PRICES)].to_numpy(dtype=np.float64))
    step = float(1 / np.float64(10.0) ** decimals)
    months = whole["date"].to_numpy(dtype="datetime64[M]")
    first = whole.loc[months == months[0], list(PRICES)]
    if not _most_decimals(first.to_numpy(dtype=np.float64)):
        logger.warning(
            "%s: prices are whole numbers at first and the exchange's price step is not known; "
            "%g is taken",
            pair,
            step,
        )
    return step


def _leverage(indicators: pd.DataFrame, pair: str, max_leverage: float, terms: PairTerms) -> Floats:
    wanted = leverage_for(indicators, max_leverage)
    most = 1.0 if _kind(pair) == SPOT else max(terms.most_leverage, 1.0)
    return np.minimum(wanted, most)


def _liquidations(
    pair: str, leverage: Floats, stakes: Floats, terms: PairTerms
) -> tuple[Floats, Floats]:
    if _kind(pair) == SPOT:
        return np.zeros(len(leverage)), np.zeros(len(leverage))
    if terms.liquidations is None:
        return np.full(len(leverage), np.nan), np.full(len(leverage), np.nan)
    return terms.liquidations(leverage, stakes)


def _funding(
    datadir: Path,
    pair: str,
    dates: NDArray[np.datetime64],
    terms: PairTerms,
    data_format: str | None,
) -> Funding:
    """Return the funding of a pair's files; the log says where none is known."""
    if _kind(pair) == SPOT:
        return no_funding(len(dates))
    rates = DataFile(datadir, pair, terms.rate_timeframe, FUNDING_RATE, data_format)
    marks = DataFile(datadir, pair, terms.mark_timeframe, terms.mark_kind, data_format)
    has_rates = rates.exists or terms.funding_fallback is not None
    for file, is_there in ((rates, has_rates), (marks, marks.exists)):
        if not is_there:
            others = file.relatives()
            unread = f"; freqtrade does not read {', '.join(others)}" if others else ""
            logger.warning("%s: %s is missing%s; funding counts as 0", pair, file.path.name, unread)
            return no_funding(len(dates))
    known = rates.load() if rates.exists else pd.DataFrame()
    found = funding_of(dates, known, marks.load(), pair=pair, fallback=terms.funding_fallback)
    notice = funding_notice(found, dates)
    if notice is not None:
        logger.warning("%s: %s", pair, notice)
    return found
