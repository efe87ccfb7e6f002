"""The market that freqtrade's backtester trades, as the simulator has it: for whoever compares.

The candles are those of the backtest's period, warm-up left out; funding, fee, price steps and
leverage are what the backtester charges, finds and uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.data.converter import trim_dataframe
from freqtrade.data.dataprovider import DataProvider
from freqtrade.exchange import timeframe_to_minutes
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.plugins.pairlist.pairlist_helpers import expand_pairlist
from freqtrade.strategy import IStrategy
from numpy.typing import NDArray

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.markets import build_market
from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings


class ParityError(MtfScalperError):
    """The two sides cannot be compared: says why."""


def market_of_program(
    strategy: IStrategy,
    candles: pd.DataFrame,
    pair: str,
    settings: Settings,
    config: Mapping[str, Any],
) -> Market:
    """Return what the backtest that runs in this program trades of a pair.

    Parameters
    ----------
    strategy : IStrategy
        That of the backtest.
    candles : DataFrame
        As FreqAI gets them, with those before the backtest's period.
    pair : str
    settings : Settings
        With the trade rules that were used.
    config : mapping

    Raises
    ------
    MtfScalperError
        If signals are missing, or the timerange is open.
    """
    frame = strategy.feature_engineering_standard(candles.reset_index(drop=True), {"pair": pair})
    period = bounded_timerange(config)
    first = int(frame["date"].searchsorted(period.startdt))
    # That of the strategy serves candles up to the one that is traded.
    provider = DataProvider(dict(config), strategy.dp._exchange, strategy.dp._pairlists)
    market = traded_market(
        frame,
        slice(first, len(frame)),
        is_predicted(config, frame["date"]).to_numpy(dtype=np.bool_),
        pair,
        settings,
        config=config,
        provider=provider,
        strategy=strategy,
    )
    last = frame["date"].iloc[-1]
    timeframe, pairs = str(config["timeframe"]), strategy.dp.current_whitelist()
    others = (provider.historic_ohlcv(other, timeframe)["date"] for other in pairs)
    if last >= period.stopdt or not any(len(dates) and dates.iloc[-1] > last for dates in others):
        return market
    return replace(market, ends_early=True, report_gaps=False)


def check_pairs(config: Mapping[str, Any], data: Mapping[str, pd.DataFrame]) -> None:
    """Refuse to leave a configured pair out, as freqtrade does with a warning."""
    configured = config["exchange"]["pair_whitelist"]
    for pair in expand_pairlist(configured, list(data), keep_invalid=True):
        if pair not in data:
            raise ParityError(
                f"{pair}: no candles in {config['datadir']}, or the configuration excludes it"
            )


def traded_rows(
    frame: pd.DataFrame, pair: str, backtesting: Backtesting, timerange: TimeRange
) -> slice:
    """Return the rows of the strategy's frame that the backtest trades.

    Raises
    ------
    ParityError
        If there are none.
    """
    rows = trim_dataframe(frame, timerange, startup_candles=backtesting.required_startup)
    if rows.empty:
        period = backtesting.config["timerange"]
        raise ParityError(f"{pair}: no candles in {period} after the warm-up")
    return slice(int(rows.index[0]), int(rows.index[-1]) + 1)


def traded_market(
    frame: pd.DataFrame,
    traded: slice,
    predicted: NDArray[np.bool_],
    pair: str,
    settings: Settings,
    *,
    config: Mapping[str, Any],
    provider: DataProvider,
    strategy: IStrategy | None = None,
) -> Market:
    """Return the candles that the backtest trades.

    Parameters
    ----------
    frame : DataFrame, T rows
        From the strategy's ``feature_engineering_standard``, warm-up included; its entry signals
        are switched off where there is no prediction, because the strategy does not enter there.
    traded : slice
    predicted : ndarray of bool, shape (T,)
    pair : str
    settings : Settings
    config : mapping
    provider : DataProvider
    strategy : IStrategy, optional
    """
    for name in {columns.ENTRY_LONG, columns.ENTRY_SHORT} & set(frame.columns):
        frame[name] = frame[name].to_numpy(dtype=np.bool_) & predicted
    # Of the whole frame: the backtester finds price steps from the warm-up's candles too. Features
    # there have to be, but nothing looks at them.
    features = frame[["close"]]
    first, last = (
        int(frame["date"].iloc[row].timestamp()) for row in (traded.start, traded.stop - 1)
    )
    market = build_market(
        features,
        frame,
        pair,
        settings,
        config=config,
        provider=provider,
        strategy=strategy,
        backtested=TimeRange("date", "date", first, last),
    )
    return market.slice(traded.start, traded.stop)


def is_predicted(config: Mapping[str, Any], dates: pd.Series) -> pd.Series:
    """Return where FreqAI predicts in a backtest: bool, shape (T,).

    Inside the backtest's period, and in every window of ``backtest_period_days`` from the first
    candle with ``conv_width`` candles before it in the window.
    """
    freqai = config["freqai"]
    period = bounded_timerange(config)
    candle = pd.Timedelta(minutes=timeframe_to_minutes(str(config["timeframe"])))
    window = round(pd.Timedelta(days=freqai["backtest_period_days"]) / candle)
    row_in_window = ((dates - period.startdt) // candle) % window
    inside = (dates >= period.startdt) & (dates < period.stopdt)
    result: pd.Series = inside & (row_in_window >= freqai.get("conv_width", 1) - 1)
    return result


def bounded_timerange(config: Mapping[str, Any]) -> TimeRange:
    """Return the backtest's period.

    Raises
    ------
    ParityError
        If it has no start or no end.
    """
    period = TimeRange.parse_timerange(config.get("timerange"))
    if period.starttype != "date" or period.stoptype != "date":
        raise ParityError(
            f"timerange {config.get('timerange')!r} needs a start and an end, "
            "as in 20241001-20241015"
        )
    return period
