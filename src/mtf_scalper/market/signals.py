"""The classic entry rule, and the leverage and stake of the trades it proposes.

The indicators are computed once, the thresholds applied afterwards, so that a search over
thresholds recomputes nothing. All of it is causal: row ``t`` depends on candles up to ``t`` only,
and on 15m and 1h candles that have closed when candle ``t`` closes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import talib

from mtf_scalper.market.candles import align_higher_timeframe, check_candles, resample_candles

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "ENTRY_TIMEFRAMES",
    "TARGET_ATR_PCT",
    "EntryThresholds",
    "atr_stake_fraction",
    "classic_entries",
    "entry_indicators",
    "leverage_for",
]

ENTRY_TIMEFRAMES = ("5m", "15m", "1h")
TARGET_ATR_PCT = 0.006
"""Leverage times ATR14 / close that :func:`leverage_for` aims at, as a fraction of the price."""


@dataclass(frozen=True)
class EntryThresholds:
    """Thresholds of the classic entry rule; see :func:`classic_entries`.

    Attributes
    ----------
    adx_min
        ADX14 must be above it on 5m, 15m and 1h; 0 to 100.
    rsi_long_min
        RSI14 on 5m must be above it for a long entry; 0 to 100.
    rsi_short_max
        RSI14 on 5m must be below it for a short entry; 0 to 100.
    atr_pct_max
        ATR14 / close on 5m must be below it; a fraction of the price, 0 to 1.
    """

    adx_min: float = 25.0
    rsi_long_min: float = 55.0
    rsi_short_max: float = 55.0
    atr_pct_max: float = 0.05

    def __post_init__(self) -> None:
        for field in fields(self):
            value, most = getattr(self, field.name), 1.0 if field.name == "atr_pct_max" else 100.0
            if not 0.0 <= value <= most:
                raise ValueError(f"{field.name} must be from 0 to {most:g}, not {value!r}")


def entry_indicators(frame_5m: pd.DataFrame) -> pd.DataFrame:
    """Compute the indicators of the classic entry rule.

    Parameters
    ----------
    frame_5m
        5m candles, ``T`` rows. 15m and 1h candles are made from them.

    Returns
    -------
    DataFrame
        ``T`` rows with the index of `frame_5m`, float64, NaN until each indicator is defined:
        ``ema_9_{tf}``, ``ema_21_{tf}`` (price), ``adx_14_{tf}`` (0 to 100) for every timeframe
        ``tf`` of `ENTRY_TIMEFRAMES`, and of the 5m candles ``ema_200_5m`` (price),
        ``above_ema_200_5m`` (close - EMA200, price), ``rsi_14_5m`` (0 to 100), ``atr_pct_5m``
        (ATR14 / close, a fraction) and ``body_5m`` (close - open, price).

    Raises
    ------
    MarketError
        If `frame_5m` is not a candle frame.
    """
    check_candles(frame_5m)
    high, low, close = (
        frame_5m[column].to_numpy(dtype=np.float64) for column in ("high", "low", "close")
    )
    ema_200 = talib.EMA(close, timeperiod=200)
    base = pd.DataFrame(
        {
            "ema_200_5m": ema_200,
            "above_ema_200_5m": close - ema_200,
            "rsi_14_5m": talib.RSI(close, timeperiod=14),
            "atr_pct_5m": talib.ATR(high, low, close, timeperiod=14) / close,
            "body_5m": close - frame_5m["open"].to_numpy(dtype=np.float64),
        },
        index=frame_5m.index,
    )
    parts = [_trend(frame_5m, "5m").set_axis(frame_5m.index, axis=0)]
    for timeframe in ENTRY_TIMEFRAMES[1:]:
        higher = resample_candles(frame_5m, timeframe)
        known = _trend(higher, timeframe).assign(date=higher["date"])
        parts.append(align_higher_timeframe(frame_5m, known, timeframe).drop(columns="date"))
    return pd.concat([*parts, base], axis=1)


def classic_entries(
    indicators: pd.DataFrame, thresholds: EntryThresholds
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Candles at whose close the classic rule proposes to enter.

    Long: EMA9 > EMA21 and ADX14 > `adx_min` on 5m, 15m and 1h; on 5m close > EMA200, RSI14 >
    `rsi_long_min`, a rising candle (close > open) and ATR14 / close < `atr_pct_max`. Short: the
    same with EMA9 < EMA21, close < EMA200, RSI14 < `rsi_short_max` and a falling candle.

    Parameters
    ----------
    indicators
        The columns that :func:`entry_indicators` returns, ``T`` rows; more columns do no harm.
    thresholds
        Where the rule draws its lines.

    Returns
    -------
    long, short
        Two masks of shape ``(T,)``, never both true. False wherever an indicator is undefined.
    """
    column = {name: indicators[name].to_numpy(dtype=np.float64) for name in _rule_columns()}
    # Every comparison with NaN is false, so rows within the warm-up propose nothing.
    strong = column["atr_pct_5m"] < thresholds.atr_pct_max
    up = (column["above_ema_200_5m"] > 0.0) & (column["body_5m"] > 0.0)
    down = (column["above_ema_200_5m"] < 0.0) & (column["body_5m"] < 0.0)
    for timeframe in ENTRY_TIMEFRAMES:
        strong &= column[f"adx_14_{timeframe}"] > thresholds.adx_min
        up &= column[f"ema_9_{timeframe}"] > column[f"ema_21_{timeframe}"]
        down &= column[f"ema_9_{timeframe}"] < column[f"ema_21_{timeframe}"]
    long = strong & up & (column["rsi_14_5m"] > thresholds.rsi_long_min)
    short = strong & down & (column["rsi_14_5m"] < thresholds.rsi_short_max)
    return long, short


def leverage_for(indicators: pd.DataFrame, max_leverage: float = 3.0) -> NDArray[np.float64]:
    """Leverage of a trade entered at the close of each candle, the lower the wilder the market.

    ``TARGET_ATR_PCT / atr_pct`` clipped to ``[1, max_leverage]`` and rounded down to a tenth.

    Parameters
    ----------
    indicators
        Must hold ``atr_pct_5m`` of :func:`entry_indicators`, ``T`` rows.
    max_leverage
        Greatest leverage, at least 1.

    Returns
    -------
    ndarray
        Shape ``(T,)``, float64; 1.0 where the ATR is undefined.
    """
    if not 1.0 <= max_leverage < math.inf:
        raise ValueError(f"max_leverage must be finite and at least 1, not {max_leverage!r}")
    atr_pct = indicators["atr_pct_5m"].to_numpy(dtype=np.float64)
    # No movement at all asks for endless leverage: the floor makes that the greatest allowed.
    wanted = TARGET_ATR_PCT / np.maximum(atr_pct, TARGET_ATR_PCT / max_leverage)
    # Dividing twice can leave 22.999...: without the allowance it would be rounded down to 22.9.
    tenths = np.floor(wanted * 10.0 + 1e-9) / 10.0
    return np.where(np.isnan(atr_pct), 1.0, np.maximum(tenths, 1.0))


def atr_stake_fraction(
    atr_pct: float,
    leverage: float,
    risk_per_trade: float = 0.02,
    atr_multiple: float = 3.0,
    cap: float = 0.05,
) -> float:
    """Fraction of equity to stake, so that a move of some ATRs against the trade costs a set loss.

    ``min(cap, risk_per_trade / (atr_multiple * atr_pct * leverage))``.

    Parameters
    ----------
    atr_pct
        ATR14 / close at the entry, a fraction. NaN where it is unknown.
    leverage
        Leverage of the trade, at least 1; the position is worth stake times leverage.
    risk_per_trade
        Fraction of equity lost when the price moves ``atr_multiple`` ATRs against the trade.
    atr_multiple
        Distance of that move, in ATRs.
    cap
        Greatest fraction of equity to stake.

    Returns
    -------
    float
        In ``[0, cap]``; 0.0 where `atr_pct` is not a number, as an unmeasured risk is not taken.
    """
    if leverage < 1.0:
        raise ValueError(f"leverage must be at least 1, not {leverage!r}")
    if math.isnan(atr_pct):
        return 0.0
    loss_of_stake = atr_multiple * atr_pct * leverage
    if loss_of_stake <= 0.0:
        return cap
    return min(cap, risk_per_trade / loss_of_stake)


def _trend(candles: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """EMA9, EMA21 and ADX14 of candles of one timeframe, with a fresh index."""
    high, low, close = (
        candles[column].to_numpy(dtype=np.float64) for column in ("high", "low", "close")
    )
    return pd.DataFrame(
        {
            f"ema_9_{timeframe}": talib.EMA(close, timeperiod=9),
            f"ema_21_{timeframe}": talib.EMA(close, timeperiod=21),
            f"adx_14_{timeframe}": talib.ADX(high, low, close, timeperiod=14),
        }
    )


def _rule_columns() -> list[str]:
    trend = [f"{name}_{tf}" for tf in ENTRY_TIMEFRAMES for name in ("ema_9", "ema_21", "adx_14")]
    return [*trend, "above_ema_200_5m", "rsi_14_5m", "atr_pct_5m", "body_5m"]
