"""From FreqAI's frames to ``Market``: checks that name the column, and the arrays of a window."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.data.btanalysis import get_tick_size_over_time
from freqtrade.data.dataprovider import DataProvider
from freqtrade.data.history import load_pair_history
from freqtrade.enums import CandleType
from freqtrade.exchange import timeframe_to_minutes
from freqtrade.strategy import IStrategy
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError, UntrainableError
from mtf_scalper.freqai import columns
from mtf_scalper.freqai import exchange_terms as terms
from mtf_scalper.freqai.leverage import has_own_stakes, leverage_of
from mtf_scalper.market.candles import check_candles
from mtf_scalper.market.funding import Funding, funding_notice, funding_of, no_funding
from mtf_scalper.market.market import Market
from mtf_scalper.market.problems import PRICES, bad_rows, gap_notice, jump_notice
from mtf_scalper.market.stored import stakes_for
from mtf_scalper.settings import EntryMode, Settings

logger = logging.getLogger(__name__)


def check_window(frame: pd.DataFrame, features: list[str], pair: str, settings: Settings) -> None:
    """Check the candles and features of a training window before anything is computed from them.

    Missing values in the first rows are an indicator's warm-up and are dropped by FreqAI; later
    ones, and infinite values anywhere, are errors.

    Raises
    ------
    MarketError
        Names the pair, the window, the column and the first date.
    """
    if frame.empty:
        raise UntrainableError(f"{pair}: the training window has no candles; download more data")
    check_candles(frame, pair)
    where = f"{pair}, window {frame['date'].iloc[0]:%Y-%m-%d} to {frame['date'].iloc[-1]:%Y-%m-%d}"
    check_raw_prices(frame, where)
    values = frame[features].to_numpy(dtype=np.float64, na_value=np.nan)
    usable = np.isfinite(values).all(axis=1)
    warm_up = int(np.argmax(usable)) if usable.any() else 0
    bad = ~np.isfinite(values)
    bad[:warm_up] = np.isinf(values[:warm_up])
    if bad.any():
        column = int(np.argmax(bad.sum(axis=0)))
        row = int(np.argmax(bad[:, column]))
        dates = frame["date"].to_numpy(dtype="datetime64[ns]")
        problem = f"is {values[row, column]}"
        raise MarketError(f"{where}: {bad_rows(features[column], problem, bad[:, column], dates)}")
    needed = 2 * (settings.window_size + 2)
    if len(frame) - warm_up < needed:
        raise UntrainableError(
            f"{where}: {len(frame) - warm_up} usable candles are too few, at least {needed} are "
            "needed; raise train_period_days or download earlier data"
        )
    closes = frame["close"].to_numpy(dtype=np.float64)
    if closes.min() == closes.max():
        raise UntrainableError(f"{where}: column 'close' is constant ({closes[0]})")


def check_raw_prices(frame: pd.DataFrame, where: str) -> None:
    """Raise ``MarketError`` unless the strategy has set FreqAI's raw prices."""
    for name in columns.RAW_PRICES:
        if name not in frame.columns:
            raise MarketError(
                f"{where}: column {name!r} is missing; set it from the candle's price in the "
                "strategy's feature_engineering_standard()"
            )


def log_gaps(window: pd.DataFrame, pair: str, timeframe: str) -> None:
    """Log how many candles a training window misses, and prices that jump as none does.

    freqtrade has filled what was missing on disk or at the exchange; the strategy may drop rows,
    and a bot that was stopped for long leaves a gap behind.
    """
    dates = window["date"].to_numpy(dtype="datetime64[ns]")
    prices = window[list(PRICES)].to_numpy(dtype=np.float64)
    minutes = timeframe_to_minutes(timeframe)
    for notice in (jump_notice(prices, dates), gap_notice(dates, minutes)):
        if notice is not None:
            logger.warning("%s: %s", pair, notice)


def build_market(
    features: pd.DataFrame,
    window: pd.DataFrame,
    pair: str,
    settings: Settings,
    *,
    config: Mapping[str, Any],
    provider: DataProvider,
    strategy: IStrategy | None = None,
    backtested: TimeRange | None = None,
) -> Market:
    """Return the market of the rows of ``features``, with the prices and signals of ``window``.

    Parameters
    ----------
    features : DataFrame, shape (T, F)
        What the network sees; its index selects the rows of ``window``.
    window : DataFrame
        The strategy's frame: candles, entry signals, leverage.
    pair : str
    settings : Settings
    config : mapping
    provider : DataProvider
    strategy : IStrategy, optional
        Whose ``leverage()`` is asked if it is not the shipped one.
    backtested : TimeRange, optional
        What a backtest loads funding of; by default what the provider knows.

    Raises
    ------
    MarketError
        Where a signal is missing, where freqtrade refuses the stake or the strategy's leverage
        cannot be known, and whatever ``Market`` refuses.
    """
    rows = window.loc[features.index]
    missing = [c for c in (columns.ENTRY_LONG, columns.ENTRY_SHORT) if c not in rows.columns]
    if missing and settings.rules.entry is not EntryMode.ANY:
        raise MarketError(
            f"{pair}: column {missing[0]!r} is missing, which entry={settings.rules.entry} needs; "
            'set it in the strategy, or set freqai.rl_config.entry to "any"'
        )
    exchange = provider._exchange  # freqtrade offers strategies no public way to it
    leverage = leverage_of(strategy, rows, window, pair, settings.rules, config, exchange)
    stakes = _stakes(rows, leverage, strategy, config)
    long_at, short_at = terms.liquidation_multiples(config, exchange, pair, leverage, stakes)
    dates = rows["date"].dt.tz_localize(None).to_numpy(dtype="datetime64[ns]")
    funding = funding_due(dates, pair, provider, backtested)
    return Market(
        features=features.to_numpy(dtype=np.float32),
        ohlc=rows[list(PRICES)].to_numpy(dtype=np.float64),
        entry_long=_column(rows, columns.ENTRY_LONG, False).astype(np.bool_),
        entry_short=_column(rows, columns.ENTRY_SHORT, False).astype(np.bool_),
        leverage=leverage,
        fee_rate=fee_rate(config, provider, pair),
        funding=funding.at_open,
        funding_between=funding.between,
        tick_size=_tick_sizes(rows, terms.price_step(exchange, pair)),
        liquidation_long=long_at,
        liquidation_short=short_at,
        dates=dates,
        timeframe_minutes=timeframe_to_minutes(str(config["timeframe"])),
        pair=pair,
        feature_names=tuple(features.columns),
        report_gaps=False,
    )


def fee_rate(config: Mapping[str, Any], provider: DataProvider, pair: str) -> float:
    """Return the fee that freqtrade charges on a pair; see ``terms.fee_rate``."""
    pairlists = getattr(provider, "_pairlists", None)
    first = pairlists.whitelist[0] if pairlists is not None and pairlists.whitelist else None
    return terms.fee_rate(config, provider._exchange, pair, first=first)


def funding_due(
    dates: NDArray[np.datetime64],
    pair: str,
    provider: DataProvider,
    backtested: TimeRange | None = None,
) -> Funding:
    """Return the funding due to a pair's trades, as freqtrade computes it; none in spot trading.

    Where candles lie outside the known funding, the log says so.

    Parameters
    ----------
    dates : ndarray of datetime64[ns], shape (T,)
    pair : str
    provider : DataProvider
    backtested : TimeRange, optional
        A backtest loads rates and marks of its own period alone, which matters where
        ``futures_funding_rate`` stands for rates before the first.
    """
    exchange = provider._exchange
    if exchange is None or exchange.trading_mode != "futures":
        return no_funding(len(dates))
    mark_kind = terms.exchange_option(exchange, "mark_ohlcv_price", CandleType.MARK)
    rates, marks = (
        _known_frame(provider, pair, exchange.get_option(option), kind, backtested)
        for option, kind in (
            ("funding_fee_timeframe", CandleType.FUNDING_RATE),
            ("mark_ohlcv_timeframe", CandleType.from_string(mark_kind)),
        )
    )
    fallback = provider._config.get("futures_funding_rate")
    if marks.empty or (rates.empty and fallback is None):
        logger.warning("%s: no funding rates or mark prices; funding counts as 0 in training", pair)
        return no_funding(len(dates))
    found = funding_of(dates, rates, marks, pair=pair, fallback=fallback)
    notice = None if backtested is not None else funding_notice(found, dates)
    if notice is not None:
        logger.warning("%s: %s in training", pair, notice)
    return found


def _known_frame(
    provider: DataProvider, pair: str, timeframe: str, kind: CandleType, period: TimeRange | None
) -> pd.DataFrame:
    found: pd.DataFrame
    if period is None:
        found = provider.get_pair_dataframe(pair, timeframe, kind)
        return found
    config = provider._config
    found = load_pair_history(
        pair,
        timeframe,
        config["datadir"],
        timerange=period,
        data_format=config["dataformat_ohlcv"],
        candle_type=kind,
    )
    return found


def _stakes(
    rows: pd.DataFrame,
    leverage: NDArray[np.float64],
    strategy: IStrategy | None,
    config: Mapping[str, Any],
) -> NDArray[np.float64]:
    """Return what the strategy stakes at each row, or what freqtrade proposes to it."""
    if columns.ATR_PCT not in rows.columns or (strategy is not None and has_own_stakes(strategy)):
        return np.full(len(rows), terms.starting_stake(config, strategy))
    atr_pct = rows[columns.ATR_PCT].to_numpy(dtype=np.float64)
    return stakes_for(atr_pct, leverage, terms.stake_equity(config))


def _column(rows: pd.DataFrame, name: str, default: Any) -> NDArray[Any]:
    if name in rows.columns:
        return rows[name].to_numpy()
    return np.full(len(rows), default)


def _tick_sizes(rows: pd.DataFrame, exchange_step: float) -> NDArray[np.float64]:
    """Return the price step at each row as freqtrade's backtester finds it from the candles."""
    monthly = get_tick_size_over_time(rows[["date", *PRICES]].copy())
    # A month of whole numbers tells nothing; the backtester looks further back, and at the
    # exchange where there is nothing.
    steps = monthly.ffill().reindex(rows["date"], method="ffill").fillna(exchange_step)
    return np.asarray(steps, dtype=np.float64)
