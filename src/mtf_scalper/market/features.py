"""What the network sees of the market: causal features without a unit, made once per timeframe.

:func:`expand_all`, :func:`expand_basic` and :func:`standard` are the bodies of FreqAI's three
feature hooks of the same names; :func:`feature_frame` calls the same three without freqtrade and
gives the same values. With three timeframes and two periods that makes 60 features.

Distances in price are measured in ATRs and volume against its own recent mean, so multiplying all
prices or all volumes by a constant changes nothing. Every feature is bounded, and is finite after
the warm-up even where a halted exchange reports flat candles without volume. Indicators are
TA-Lib's, from 0.8 on: before, it took movements below a fixed size for none. Sums over a window are
taken afresh for every window: a running sum leaves a rounding residue behind, which stands for
volume or movement where there was none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import talib
from numpy.lib.stride_tricks import sliding_window_view

from mtf_scalper.market.candles import (
    align_higher_timeframe,
    base_timeframe,
    check_candles,
    resample_candles,
)
from mtf_scalper.market.oscillators import mfi, rsi
from mtf_scalper.market.timeframes import entry_timeframes, warmup_candles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LONGEST_LOOKBACK_CANDLES = 100
"""Candles of its own timeframe after which every feature of that timeframe is defined."""

WARMUP_CANDLES_5M = warmup_candles(("5m", "15m", "1h"))
"""5m candles after which features and entry indicators of 5m, 15m and 1h are all defined, and have
forgotten where the frame began; other timeframes: `warmup_candles`."""

_LIMIT = 10.0
_ATR_PERIOD = 14
_SLOPE_CANDLES = 14
_VOLUME_CANDLES = 48
_REGIME_CANDLES = 60
_VOLATILITY_CANDLES = 20
_PERCENTILE_CANDLES = LONGEST_LOOKBACK_CANDLES - _VOLATILITY_CANDLES
_SMALLEST_MOVE = 1e-5  # a fraction of the price; less than this is no movement to divide by


def expand_all(frame: pd.DataFrame, period: int) -> pd.DataFrame:
    """Add the features that FreqAI makes for every timeframe and period.

    - ``%-rsi-period``: RSI / 50 - 1, in [-1, 1].
    - ``%-momentum-period``: log return over `period` candles in ATRs, over sqrt(period).
    - ``%-below_high-period``, ``%-above_low-period``: distance of the close to the highest high
      and lowest low of the last `period` candles in ATRs, over sqrt(period), in [0, 10].

    Parameters
    ----------
    frame
        Candles of one timeframe, ``T`` rows.
    period
        Lookback in candles of that timeframe, at least 2 and at most 100.

    Returns
    -------
    DataFrame
        `frame` with four float64 columns more, NaN during warm-up, within [-10, 10] after it.
    """
    if not 2 <= period <= LONGEST_LOOKBACK_CANDLES:
        raise ValueError(f"period must be from 2 to {LONGEST_LOOKBACK_CANDLES}, not {period!r}")
    high, low, close = _column(frame, "high"), _column(frame, "low"), _column(frame, "close")
    atr = _atr(high, low, close)
    span = atr * np.sqrt(period)
    log_return = _change(np.log(close), period)
    return _with_columns(
        frame,
        {
            "%-rsi-period": rsi(close, period) / 50.0 - 1.0,
            "%-momentum-period": _clip(log_return * close / span),
            "%-below_high-period": _clip((talib.MAX(high, timeperiod=period) - close) / span),
            "%-above_low-period": _clip((close - talib.MIN(low, timeperiod=period)) / span),
        },
    )


def expand_basic(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the features that FreqAI makes once for every timeframe.

    - ``%-volume_ratio``: log2 of the volume over its mean of 48 candles, at least -6.7.
    - ``%-atr_ratio``: log2 of ATR14 over the mean true range of 60 candles.
    - ``%-volatility_rank``: realised volatility of 20 candles, ranked among its last 80 values,
      from -1 (least) to 1 (greatest).
    - ``%-ema_spread``: EMA9 - EMA21 in ATRs.
    - ``%-adx``: ADX14 / 25 - 1, in [-1, 3].
    - ``%-di_spread``: (+DI14 - -DI14) / 50, in [-2, 2].
    - ``%-bollinger_width``: width of the 20-candle, 2-sigma Bollinger bands over 4 ATRs.
    - ``%-divergence_rsi``: slope of the price (ATRs per candle) minus slope of RSI14, each scaled
      to about 1; positive where the price rises and its strength does not follow.
    - ``%-divergence_obv``: share of the path of 14 candles that went upwards net, minus the share
      of their volume that did (the change of OBV over the volume), in [-2, 2].

    Parameters
    ----------
    frame
        Candles of one timeframe, ``T`` rows.

    Returns
    -------
    DataFrame
        `frame` with nine float64 columns more, NaN during warm-up, within [-10, 10] after it.
    """
    high, low, close = _column(frame, "high"), _column(frame, "low"), _column(frame, "close")
    volume = _column(frame, "volume")
    atr = _atr(high, low, close)
    upper, _, lower = _log_bollinger(close)
    plus, minus = (direction(high, low, close, 14) for direction in (talib.PLUS_DI, talib.MINUS_DI))
    spread = talib.EMA(close, timeperiod=9) - talib.EMA(close, timeperiod=21)
    return _with_columns(
        frame,
        {
            "%-volume_ratio": _volume_ratio(volume),
            "%-atr_ratio": _atr_ratio(high, low, close, atr),
            "%-volatility_rank": _volatility_rank(close),
            "%-ema_spread": _clip(spread / atr),
            "%-adx": talib.ADX(high, low, close, timeperiod=14) / 25.0 - 1.0,
            "%-di_spread": (plus - minus) / 50.0,
            "%-bollinger_width": _clip((upper - lower) * close / (4.0 * atr)),
            "%-divergence_rsi": _divergence_rsi(close, atr),
            "%-divergence_obv": _divergence_obv(close, volume),
        },
    )


def standard(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the features that FreqAI makes once, on the base candles.

    - ``%-body``: (close - open) / (high - low), in [-1, 1].
    - ``%-wicks``: (upper - lower wick) / (high - low), in [-1, 1].
    - ``%-trend_200``: close - EMA200 in ATRs, over sqrt(200).
    - ``%-bollinger_position``: place of the log price in its 20-candle, 2-sigma Bollinger bands,
      -1 at the lower and 1 at the upper one.
    - ``%-mfi``: MFI14 / 50 - 1, in [-1, 1].
    - ``%-hour_sin``, ``%-hour_cos``, ``%-weekday_sin``, ``%-weekday_cos``: time of day and of the
      week (UTC) at which the candle opens, as angles.

    Parameters
    ----------
    frame
        Base candles, ``T`` rows; other columns are kept.

    Returns
    -------
    DataFrame
        `frame` with nine float64 columns more, NaN during warm-up, within [-10, 10] after it.
    """
    open_, close = _column(frame, "open"), _column(frame, "close")
    high, low = _column(frame, "high"), _column(frame, "low")
    upper_wick, lower_wick = high - np.maximum(open_, close), np.minimum(open_, close) - low
    trend = (close - talib.EMA(close, timeperiod=200)) / (_atr(high, low, close) * np.sqrt(200.0))
    upper, middle, lower = _log_bollinger(close)
    half_width = np.maximum((upper - lower) / 2.0, _SMALLEST_MOVE)
    return _with_columns(
        frame,
        {
            "%-body": _ratio(close - open_, high - low),
            "%-wicks": _ratio(upper_wick - lower_wick, high - low),
            "%-trend_200": _clip(trend),
            "%-bollinger_position": _clip((_relative_log(close) - middle) / half_width),
            "%-mfi": mfi(high, low, close, _column(frame, "volume"), 14) / 50.0 - 1.0,
            **_clock(frame["date"]),
        },
    )


def feature_frame(
    frame: pd.DataFrame,
    timeframes: Sequence[str] | None = None,
    periods: Sequence[int] = (10, 20),
    *,
    base: str | None = None,
    higher: Mapping[str, pd.DataFrame] | None = None,
    dtype: type[np.float32] | type[np.float64] = np.float32,
) -> pd.DataFrame:
    """All features of one pair from its base candles, as FreqAI would make them.

    Parameters
    ----------
    frame
        Base candles, ``T`` rows; the other timeframes are made from them.
    timeframes
        FreqAI's ``include_timeframes``; by default the base and those that the classic rule looks
        at, 15m and 1h where the base is shorter.
    periods
        FreqAI's ``indicator_periods_candles``.
    base
        Timeframe of `frame`; by default it is found from the dates.
    higher
        Candles of longer timeframes that begin earlier than `frame`, by timeframe; those that
        are missing are made from `frame`.
    dtype
        FreqAI itself scales in float64 and rounds afterwards.

    Returns
    -------
    DataFrame
        ``T`` rows with the index of `frame`, of `dtype`, in FreqAI's order and with its names
        without the pair: ``%-rsi-period_10_15m``, ``%-adx_gen_1h``, ``%-hour_sin``. Finite from
        row `WARMUP_CANDLES_5M` on (for 5m and timeframes up to 1h).

    Raises
    ------
    MarketError
        If `frame` is not a candle frame, or its candles are shorter than the base.
    ValueError
        If a timeframe is not a multiple of the base, or a period is out of range.
    """
    check_candles(frame)
    base = base or base_timeframe(frame)
    parts = []
    for timeframe in timeframes or entry_timeframes(base):
        candles = frame if timeframe == base else (higher or {}).get(timeframe)
        if candles is None:
            candles = resample_candles(frame, timeframe, base)
        features = _timeframe_features(candles, timeframe, periods)
        if timeframe != base:
            known = features.assign(date=candles["date"])
            features = align_higher_timeframe(frame, known, timeframe, base).drop(columns="date")
        parts.append(features)
    parts.append(_features_of(standard(frame)))
    return pd.concat(parts, axis=1).astype(dtype)


def _timeframe_features(
    candles: pd.DataFrame, timeframe: str, periods: Sequence[int]
) -> pd.DataFrame:
    parts = [
        _features_of(expand_all(candles, period)).add_suffix(f"_{period}_{timeframe}")
        for period in periods
    ]
    parts.append(_features_of(expand_basic(candles)).add_suffix(f"_gen_{timeframe}"))
    return pd.concat(parts, axis=1)


def _features_of(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.loc[:, frame.columns.str.startswith("%-")]


def _with_columns(frame: pd.DataFrame, columns: dict[str, Floats]) -> pd.DataFrame:
    return pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)


def _column(frame: pd.DataFrame, name: str) -> Floats:
    return frame[name].to_numpy(dtype=np.float64)


def _clip(values: Floats) -> Floats:
    return np.clip(values, -_LIMIT, _LIMIT)


def _ratio(part: Floats, whole: Floats) -> Floats:
    """``part / whole``, and 0 where there is no whole; NaN stays NaN."""
    return np.divide(part, whole, out=np.where(whole == 0.0, 0.0, np.nan), where=whole != 0.0)


def _change(values: Floats, candles: int) -> Floats:
    """``values[t] - values[t - candles]``, NaN where there is no such candle."""
    change = np.full(len(values), np.nan)
    change[candles:] = values[candles:] - values[:-candles]
    return change


def _window_sum(values: Floats, candles: int) -> Floats:
    """Sum of the last `candles` values, NaN where there are fewer."""
    total = np.full(len(values), np.nan)
    if len(values) >= candles:
        total[candles - 1 :] = sliding_window_view(values, candles).sum(axis=-1)
    return total


def _atr(high: Floats, low: Floats, close: Floats) -> Floats:
    """ATR14 in price, held above zero for use as a divisor."""
    atr = talib.ATR(high, low, close, timeperiod=_ATR_PERIOD)
    return np.maximum(atr, _SMALLEST_MOVE * close)


def _relative_log(close: Floats) -> Floats:
    """Log price relative to the first candle: small numbers, whose variance is well conditioned."""
    return np.log(close / close[:1])


def _log_bollinger(close: Floats) -> tuple[Floats, Floats, Floats]:
    """Upper, middle and lower 20-candle, 2-sigma Bollinger band of the relative log price."""
    upper, middle, lower = talib.BBANDS(_relative_log(close), timeperiod=20, nbdevup=2, nbdevdn=2)
    return upper, middle, lower


def _volume_ratio(volume: Floats) -> Floats:
    mean = _window_sum(volume, _VOLUME_CANDLES) / _VOLUME_CANDLES
    # A hundredth of the mean on both sides keeps an empty candle at log2(0.0099) = -6.7.
    ratio = _ratio(volume + 0.01 * mean, 1.01 * mean)
    return np.where(mean == 0.0, 0.0, np.log2(np.where(mean == 0.0, 1.0, ratio)))


def _atr_ratio(high: Floats, low: Floats, close: Floats, atr: Floats) -> Floats:
    true_range = talib.TRANGE(high, low, close)
    mean = _window_sum(true_range, _REGIME_CANDLES) / _REGIME_CANDLES
    return _clip(np.log2(atr / np.maximum(mean, _SMALLEST_MOVE * close)))


def _volatility_rank(close: Floats) -> Floats:
    variance = _window_sum(_change(np.log(close), 1) ** 2, _VOLATILITY_CANDLES)
    rank = np.full(len(close), np.nan)
    if len(close) >= _PERCENTILE_CANDLES:
        last = variance[_PERCENTILE_CANDLES - 1 :, None]
        windows = sliding_window_view(variance, _PERCENTILE_CANDLES)
        # Below minus above: equal values, as in a halt, count for neither side.
        below, above = (windows < last).mean(axis=-1), (windows > last).mean(axis=-1)
        defined = ~np.isnan(windows[:, 0])
        rank[_PERCENTILE_CANDLES - 1 :] = np.where(defined, below - above, np.nan)
    return rank


def _divergence_rsi(close: Floats, atr: Floats) -> Floats:
    price_slope = talib.LINEARREG_SLOPE(_relative_log(close), timeperiod=_SLOPE_CANDLES)
    rsi_slope = talib.LINEARREG_SLOPE(rsi(close, 14), timeperiod=_SLOPE_CANDLES)
    # 0.15 ATRs and 1.5 RSI points per candle are about one standard deviation on 5m futures.
    return _clip(price_slope * close / (0.15 * atr) - rsi_slope / 1.5)


def _divergence_obv(close: Floats, volume: Floats) -> Floats:
    step = _change(close, 1)
    path = _ratio(_window_sum(step, _SLOPE_CANDLES), _window_sum(np.abs(step), _SLOPE_CANDLES))
    # OBV is a sum since the first candle; its change over a window is this sum without that past.
    flow = _ratio(
        _window_sum(np.sign(step) * volume, _SLOPE_CANDLES), _window_sum(volume, _SLOPE_CANDLES)
    )
    return path - flow


def _clock(date: pd.Series[pd.Timestamp]) -> dict[str, Floats]:
    hour = (date.dt.hour + date.dt.minute / 60.0).to_numpy(dtype=np.float64)
    day_angle = hour * (2.0 * np.pi / 24.0)
    week_angle = (date.dt.day_of_week.to_numpy() + hour / 24.0) * (2.0 * np.pi / 7.0)
    return {
        "%-hour_sin": np.sin(day_angle),
        "%-hour_cos": np.cos(day_angle),
        "%-weekday_sin": np.sin(week_angle),
        "%-weekday_cos": np.cos(week_angle),
    }
