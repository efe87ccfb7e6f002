"""From FreqAI's frames to ``Market``: checks that name the column, and the arrays of a window."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from freqtrade.data.btanalysis import get_tick_size_over_time
from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import CandleType
from freqtrade.exchange import Exchange, timeframe_to_minutes
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError, UntrainableError
from mtf_scalper.freqai import columns
from mtf_scalper.market.candles import check_candles
from mtf_scalper.market.market import PRICES, Market, bad_rows, gap_notice
from mtf_scalper.settings import EntryMode, Settings

__all__ = [
    "build_market",
    "check_raw_prices",
    "check_window",
    "fee_rate",
    "funding_per_unit",
    "log_gaps",
]

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
    """Log how many candles a training window misses, if any.

    freqtrade has filled what was missing on disk or at the exchange; the strategy may drop rows,
    and a bot that was stopped for long leaves a gap behind.
    """
    dates = window["date"].to_numpy(dtype="datetime64[ns]")
    notice = gap_notice(dates, timeframe_to_minutes(timeframe))
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
) -> Market:
    """Return the market of the rows of ``features``, with the prices and signals of ``window``.

    Parameters
    ----------
    features : DataFrame, shape (T, F)
        What the network sees; its index selects the rows of ``window``.
    window : DataFrame
        The strategy's frame: candles, entry signals, leverage.

    Raises
    ------
    MarketError
        Where a signal is missing, and whatever ``Market`` refuses.
    """
    rows = window.loc[features.index]
    missing = [c for c in (columns.ENTRY_LONG, columns.ENTRY_SHORT) if c not in rows.columns]
    if missing and settings.rules.entry is not EntryMode.ANY:
        raise MarketError(
            f"{pair}: column {missing[0]!r} is missing, which entry={settings.rules.entry} needs; "
            'set it in the strategy, or set freqai.rl_config.entry to "any"'
        )
    dates = rows["date"]
    return Market(
        features=features.to_numpy(dtype=np.float32),
        ohlc=rows[list(PRICES)].to_numpy(dtype=np.float64),
        entry_long=_column(rows, columns.ENTRY_LONG, False).astype(np.bool_),
        entry_short=_column(rows, columns.ENTRY_SHORT, False).astype(np.bool_),
        leverage=_column(rows, columns.LEVERAGE, 1.0).astype(np.float64),
        fee_rate=fee_rate(config, provider, pair),
        funding=funding_per_unit(dates, pair, provider),
        tick_size=_tick_sizes(rows),
        dates=dates.dt.tz_localize(None).to_numpy(dtype="datetime64[ns]"),
        timeframe_minutes=timeframe_to_minutes(str(config["timeframe"])),
        pair=pair,
        feature_names=tuple(features.columns),
        report_gaps=False,
    )


def fee_rate(config: Mapping[str, Any], provider: DataProvider, pair: str) -> float:
    """Return the fee that freqtrade's backtester charges: configured, or the exchange's worst."""
    if config.get("fee") is not None:
        return float(config["fee"])
    exchange = provider._exchange  # freqtrade offers strategies no public way to it
    if exchange is None:
        raise MarketError(f"{pair}: no exchange to ask for its fee; set 'fee' in the configuration")
    fees = (exchange.get_fee(symbol=pair, taker_or_maker=kind) for kind in ("taker", "maker"))
    return float(max(fee for fee in fees if fee is not None))


def funding_per_unit(dates: pd.Series, pair: str, provider: DataProvider) -> NDArray[np.float64]:
    """Return the funding due at each candle's open, in quote currency per unit of base currency.

    Rate times mark price where both are known for that time, as freqtrade computes it; 0 in spot
    trading. Where candles of the window lie outside the known funding, the log says so.
    """
    due = np.zeros(len(dates))
    exchange = provider._exchange
    if exchange is None or exchange.trading_mode != "futures":
        return due
    rates = provider.get_pair_dataframe(
        pair, exchange.get_option("funding_fee_timeframe"), CandleType.FUNDING_RATE
    )
    marks = provider.get_pair_dataframe(
        pair, exchange.get_option("mark_ohlcv_timeframe"), CandleType.MARK
    )
    if rates.empty or marks.empty:
        logger.warning("%s: no funding rates or mark prices; funding counts as 0 in training", pair)
        return due
    fallback = provider._config.get("futures_funding_rate")
    known = Exchange.combine_funding_and_mark(rates.copy(), marks.copy(), fallback)
    if known["date"].iloc[0] > dates.iloc[0] + pd.Timedelta(hours=8):
        logger.warning(
            "%s: funding is known from %s on, it counts as 0 in training before",
            pair,
            known["date"].iloc[0],
        )
    per_unit = (known["open_fund"] * known["open_mark"]).to_numpy(dtype=np.float64)
    by_date = pd.Series(per_unit, index=known["date"])
    by_date = by_date[~by_date.index.duplicated()]
    due[:] = by_date.reindex(dates).fillna(0.0).to_numpy(dtype=np.float64)
    return due


def _column(rows: pd.DataFrame, name: str, default: Any) -> NDArray[Any]:
    if name in rows.columns:
        return rows[name].to_numpy()
    return np.full(len(rows), default)


def _tick_sizes(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Return the price step at each row as freqtrade's backtester finds it from the candles."""
    monthly = get_tick_size_over_time(rows[["date", *PRICES]].copy())
    # A month of whole numbers tells nothing; the backtester looks further back.
    steps = monthly.ffill().reindex(rows["date"], method="ffill").fillna(0.0)
    return np.asarray(steps, dtype=np.float64)
