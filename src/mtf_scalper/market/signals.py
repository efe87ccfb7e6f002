"""The classic entry rule, and the leverage and stake of the trades it proposes.

The indicators are computed once, the thresholds applied afterwards, so that a search over
thresholds recomputes nothing. All of it is causal: row ``t`` depends on candles up to ``t`` only,
and on longer candles that have closed when candle ``t`` closes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import talib

from mtf_scalper.errors import MarketError
from mtf_scalper.market.candles import (
    align_higher_timeframe,
    base_timeframe,
    check_candles,
    resample_candles,
)
from mtf_scalper.market.oscillators import rsi
from mtf_scalper.market.timeframes import entry_timeframes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

ENTRY_TIMEFRAMES = ("5m", "15m", "1h")
"""Of the shipped configuration."""
TARGET_ATR_PCT = 0.006
"""Leverage times ATR14 / close that :func:`leverage_for` aims at, as a fraction of the price."""
_OF_BASE = ("above_ema_200", "rsi_14", "atr_pct", "body")
_ADX = re.compile(r"adx_14_(\d+[mhd])")


@dataclass(frozen=True)
class EntryThresholds:
    """Thresholds of the classic entry rule; see :func:`classic_entries`.

    Attributes
    ----------
    adx_min
        ADX14 must be above it on the base and both longer timeframes; 0 to 100.
    rsi_long_min
        RSI14 of the base must be above it for a long entry; 0 to 100.
    rsi_short_max
        RSI14 of the base must be below it for a short entry; 0 to 100.
    atr_pct_max
        ATR14 / close of the base must be below it; a fraction of the price, 0 to 1.
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


def entry_indicators(
    frame: pd.DataFrame,
    timeframes: Sequence[str] | None = None,
    *,
    higher: Mapping[str, pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """Compute the indicators of the classic entry rule.

    Parameters
    ----------
    frame
        Base candles, ``T`` rows. Longer candles are made from them.
    timeframes
        Base and longer timeframes, as `entry_timeframes` returns them. By default the base is found
        from the dates, and the longer ones are 15m and 1h where the base is shorter.
    higher
        Candles of longer timeframes that begin earlier than `frame`, by timeframe; those that are
        missing are made from `frame`.

    Returns
    -------
    DataFrame
        ``T`` rows with the index of `frame`, float64, NaN until each indicator is defined:
        ``ema_9_{tf}``, ``ema_21_{tf}`` (price), ``adx_14_{tf}`` (0 to 100) for every timeframe
        ``tf``, and of the base, 5m say, ``ema_200_5m`` (price), ``above_ema_200_5m`` (close -
        EMA200, price), ``rsi_14_5m`` (0 to 100), ``atr_pct_5m`` (ATR14 / close, a fraction) and
        ``body_5m`` (close - open, price).

    Raises
    ------
    MarketError
        If `frame` is not a candle frame, or its candles are shorter than the base.
    """
    check_candles(frame)
    base, *longer = timeframes or entry_timeframes(base_timeframe(frame))
    high, low, close = (
        frame[column].to_numpy(dtype=np.float64) for column in ("high", "low", "close")
    )
    ema_200 = talib.EMA(close, timeperiod=200)
    of_base = pd.DataFrame(
        {
            f"ema_200_{base}": ema_200,
            f"above_ema_200_{base}": close - ema_200,
            f"rsi_14_{base}": rsi(close, 14),
            f"atr_pct_{base}": talib.ATR(high, low, close, timeperiod=14) / close,
            f"body_{base}": close - frame["open"].to_numpy(dtype=np.float64),
        },
        index=frame.index,
    )
    parts = [_trend(frame, base).set_axis(frame.index, axis=0)]
    for timeframe in longer:
        candles = (higher or {}).get(timeframe)
        if candles is None:
            candles = resample_candles(frame, timeframe, base)
        dates = candles["date"].reset_index(drop=True)
        known = _trend(candles, timeframe).assign(date=dates)
        parts.append(align_higher_timeframe(frame, known, timeframe, base).drop(columns="date"))
    return pd.concat([*parts, of_base], axis=1)


def classic_entries(
    indicators: pd.DataFrame,
    thresholds: EntryThresholds,
    timeframes: Sequence[str] | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Candles at whose close the classic rule proposes to enter.

    Long: EMA9 > EMA21 and ADX14 > `adx_min` on the base and both longer timeframes; on the base
    close > EMA200, RSI14 > `rsi_long_min`, a rising candle (close > open) and ATR14 / close <
    `atr_pct_max`. Short: the same with EMA9 < EMA21, close < EMA200, RSI14 < `rsi_short_max` and a
    falling candle.

    Parameters
    ----------
    indicators
        The columns that :func:`entry_indicators` returns, ``T`` rows; more columns do no harm.
    thresholds
        Where the rule draws its lines.
    timeframes
        Those of the indicators; by default they are found from the columns' names.

    Returns
    -------
    long, short
        Two masks of shape ``(T,)``, never both true. False wherever an indicator is undefined.
    """
    base, *_ = timeframes = tuple(timeframes or _timeframes_of(indicators))
    column = {name: indicators[name].to_numpy(dtype=np.float64) for name in _columns(timeframes)}
    # Every comparison with NaN is false, so rows within the warm-up propose nothing.
    strong = column[f"atr_pct_{base}"] < thresholds.atr_pct_max
    up = (column[f"above_ema_200_{base}"] > 0.0) & (column[f"body_{base}"] > 0.0)
    down = (column[f"above_ema_200_{base}"] < 0.0) & (column[f"body_{base}"] < 0.0)
    for timeframe in timeframes:
        strong &= column[f"adx_14_{timeframe}"] > thresholds.adx_min
        up &= column[f"ema_9_{timeframe}"] > column[f"ema_21_{timeframe}"]
        down &= column[f"ema_9_{timeframe}"] < column[f"ema_21_{timeframe}"]
    long = strong & up & (column[f"rsi_14_{base}"] > thresholds.rsi_long_min)
    short = strong & down & (column[f"rsi_14_{base}"] < thresholds.rsi_short_max)
    return long, short


def leverage_for(indicators: pd.DataFrame, max_leverage: float = 3.0) -> NDArray[np.float64]:
    """Leverage of a trade entered at the close of each candle, the lower the wilder the market.

    ``TARGET_ATR_PCT / atr_pct`` clipped to ``[1, max_leverage]`` and rounded down to a tenth.

    Parameters
    ----------
    indicators
        Must hold ``atr_pct_{base}`` of :func:`entry_indicators`, ``T`` rows.
    max_leverage
        Greatest leverage, at least 1.

    Returns
    -------
    ndarray
        Shape ``(T,)``, float64; 1.0 where the ATR is undefined.
    """
    if not 1.0 <= max_leverage < math.inf:
        raise ValueError(f"max_leverage must be finite and at least 1, not {max_leverage!r}")
    atr_pct = indicators[_base_column(indicators, "atr_pct")].to_numpy(dtype=np.float64)
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


def _columns(timeframes: Sequence[str]) -> list[str]:
    trend = [f"{name}_{tf}" for tf in timeframes for name in ("ema_9", "ema_21", "adx_14")]
    return [*trend, *(f"{name}_{timeframes[0]}" for name in _OF_BASE)]


def _timeframes_of(indicators: pd.DataFrame) -> tuple[str, ...]:
    """Return the timeframes that the columns are named by, the base first."""
    base = _base_column(indicators, "above_ema_200").rpartition("_")[2]
    named = [match[1] for match in map(_ADX.fullmatch, map(str, indicators.columns)) if match]
    longer = [timeframe for timeframe in named if timeframe != base]
    if base == ENTRY_TIMEFRAMES[0] and set(ENTRY_TIMEFRAMES[1:]) <= set(longer):
        return ENTRY_TIMEFRAMES
    if len(longer) != 2:
        raise MarketError(
            f"indicators: columns 'adx_14_...' of two timeframes above {base!r} are needed, there "
            f"are {longer}; name the timeframes"
        )
    return (base, *longer)


def _base_column(indicators: pd.DataFrame, name: str) -> str:
    """Return ``{name}_{base}``, 5m where there are several."""
    names = map(str, indicators.columns)
    found = [each for each in names if re.fullmatch(rf"{name}_\d+[mhd]", each)]
    shipped = f"{name}_{ENTRY_TIMEFRAMES[0]}"
    if shipped in found or not found:
        return shipped
    if len(found) > 1:
        raise MarketError(f"indicators: columns {found} are of several bases; drop all but one")
    return found[0]
