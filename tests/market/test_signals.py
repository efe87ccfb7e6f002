from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import talib
from hypothesis import given
from hypothesis import strategies as st

from mtf_scalper.errors import MarketError
from mtf_scalper.market.candles import resample_candles
from mtf_scalper.market.features import WARMUP_CANDLES_5M
from mtf_scalper.market.signals import (
    ENTRY_TIMEFRAMES,
    TARGET_ATR_PCT,
    EntryThresholds,
    atr_stake_fraction,
    classic_entries,
    entry_indicators,
    leverage_for,
)

COUNT = WARMUP_CANDLES_5M + 3000
PRICES = ["open", "high", "low", "close"]
DEFAULTS = EntryThresholds()

LONG_ROW = {
    **{f"ema_9_{tf}": 101.0 for tf in ENTRY_TIMEFRAMES},
    **{f"ema_21_{tf}": 100.0 for tf in ENTRY_TIMEFRAMES},
    **{f"adx_14_{tf}": 30.0 for tf in ENTRY_TIMEFRAMES},
    "above_ema_200_5m": 5.0,
    "rsi_14_5m": 60.0,
    "atr_pct_5m": 0.002,
    "body_5m": 0.5,
}
SHORT_ROW = {
    **LONG_ROW,
    **{f"ema_9_{tf}": 99.0 for tf in ENTRY_TIMEFRAMES},
    "above_ema_200_5m": -5.0,
    "rsi_14_5m": 40.0,
    "body_5m": -0.5,
}
SPOILERS = [
    *((f"ema_9_{tf}", 100.0) for tf in ENTRY_TIMEFRAMES),
    *((f"adx_14_{tf}", 25.0) for tf in ENTRY_TIMEFRAMES),
    ("above_ema_200_5m", 0.0),
    ("rsi_14_5m", 55.0),
    ("atr_pct_5m", 0.05),
    ("body_5m", 0.0),
]


def entries_of(row: dict[str, float], thresholds: EntryThresholds = DEFAULTS) -> tuple[bool, bool]:
    long, short = classic_entries(pd.DataFrame([row]), thresholds)
    assert long.shape == short.shape == (1,)
    return bool(long[0]), bool(short[0])


def trending(random_candles, drift: float, count: int = COUNT) -> pd.DataFrame:
    frame = random_candles(count)
    frame[PRICES] = frame[PRICES].mul(np.exp(drift * np.arange(count)), axis=0)
    return frame


def test_the_rule_fires_on_the_right_side():
    assert entries_of(LONG_ROW) == (True, False)
    assert entries_of(SHORT_ROW) == (False, True)


@pytest.mark.parametrize(("column", "value"), SPOILERS)
def test_every_condition_alone_stops_both_sides(column, value):
    assert entries_of({**LONG_ROW, column: value}) == (False, False)
    assert entries_of({**SHORT_ROW, column: value}) == (False, False)


@pytest.mark.parametrize("column", LONG_ROW)
def test_an_undefined_indicator_stops_both_sides(column):
    assert entries_of({**LONG_ROW, column: math.nan}) == (False, False)
    assert entries_of({**SHORT_ROW, column: math.nan}) == (False, False)


def test_every_threshold_has_an_effect():
    assert entries_of(LONG_ROW, EntryThresholds(adx_min=30.0)) == (False, False)
    assert entries_of(LONG_ROW, EntryThresholds(rsi_long_min=60.0)) == (False, False)
    assert entries_of(LONG_ROW, EntryThresholds(rsi_short_max=0.0)) == (True, False)
    assert entries_of(LONG_ROW, EntryThresholds(atr_pct_max=0.002)) == (False, False)
    assert entries_of(SHORT_ROW, EntryThresholds(adx_min=30.0)) == (False, False)
    assert entries_of(SHORT_ROW, EntryThresholds(rsi_short_max=40.0)) == (False, False)
    assert entries_of(SHORT_ROW, EntryThresholds(rsi_long_min=100.0)) == (False, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("adx_min", -1.0), ("rsi_long_min", 101.0), ("rsi_short_max", math.nan), ("atr_pct_max", 5.0)],
)
def test_thresholds_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be from 0 to"):
        EntryThresholds(**{name: value})


INDICATOR = st.one_of(st.just(math.nan), st.floats(-200.0, 200.0), st.sampled_from([0.0, 100.0]))


@given(
    row=st.fixed_dictionaries(dict.fromkeys(LONG_ROW, INDICATOR)),
    adx=st.floats(0.0, 100.0),
    rsi_long=st.floats(0.0, 100.0),
    rsi_short=st.floats(0.0, 100.0),
    atr_pct=st.floats(0.0, 1.0),
)
def test_never_both_sides_at_any_thresholds(row, adx, rsi_long, rsi_short, atr_pct):
    long, short = entries_of(row, EntryThresholds(adx, rsi_long, rsi_short, atr_pct))
    assert not (long and short)


@given(data=st.data())
def test_stricter_thresholds_only_ever_take_entries_away(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = pd.DataFrame([LONG_ROW, SHORT_ROW]).sample(60, replace=True, random_state=rng)
    rows *= rng.uniform(0.5, 1.5, rows.shape)
    percent = st.floats(0.0, 100.0)
    adx, rsi_long, rsi_short = (sorted(data.draw(st.tuples(percent, percent))) for _ in range(3))
    atr = sorted(data.draw(st.tuples(st.floats(0.0, 0.01), st.floats(0.0, 0.01))))
    loose = EntryThresholds(adx[0], rsi_long[0], rsi_short[1], atr[1])
    strict = EntryThresholds(adx[1], rsi_long[1], rsi_short[0], atr[0])
    for few, many in zip(classic_entries(rows, strict), classic_entries(rows, loose), strict=True):
        assert (many | ~few).all()


def test_the_indicators_are_talibs_with_index_and_rows_of_the_frame(random_candles):
    frame = random_candles(1500).set_index(pd.RangeIndex(10, 1510))
    indicators = entry_indicators(frame)
    assert indicators.index.equals(frame.index)
    assert indicators.columns.is_unique
    assert not set(indicators.columns) & set(frame.columns)
    high, low, close = (frame[column].to_numpy() for column in ("high", "low", "close"))
    expected = {
        "ema_9_5m": talib.EMA(close, 9),
        "adx_14_5m": talib.ADX(high, low, close, 14),
        "ema_200_5m": talib.EMA(close, 200),
        "above_ema_200_5m": close - talib.EMA(close, 200),
        "rsi_14_5m": talib.RSI(close, 14),
        "atr_pct_5m": talib.ATR(high, low, close, 14) / close,
        "body_5m": close - frame["open"].to_numpy(),
    }
    for column, values in expected.items():
        np.testing.assert_array_equal(indicators[column], values, err_msg=column)


@pytest.mark.parametrize("timeframe", ["15m", "1h"])
def test_longer_timeframes_reach_the_row_as_freqtrade_merges_them(random_candles, timeframe):
    strategy = pytest.importorskip("freqtrade.strategy")
    frame = random_candles(1500, start="2024-03-01 00:25")
    higher = resample_candles(frame, timeframe)
    high, low, close = (higher[column].to_numpy() for column in ("high", "low", "close"))
    higher["ema_21"] = talib.EMA(close, 21)
    higher["adx_14"] = talib.ADX(high, low, close, 14)
    merged = strategy.merge_informative_pair(frame, higher, "5m", timeframe, ffill=True)
    indicators = entry_indicators(frame)
    for column in (f"ema_21_{timeframe}", f"adx_14_{timeframe}"):
        assert indicators[column].notna().sum() > 500
        pd.testing.assert_series_equal(indicators[column], merged[column], check_exact=True)


def test_a_jump_reaches_the_hourly_indicator_when_the_hour_closes(random_candles):
    frame = random_candles(1500)
    first = 12 * 100  # opens on the hour
    jumped = frame.copy()
    jumped.loc[first:, PRICES] *= 1.2
    changed = entry_indicators(jumped)["ema_9_1h"] != entry_indicators(frame)["ema_9_1h"]
    defined = entry_indicators(frame)["ema_9_1h"].notna()
    assert (changed & defined).idxmax() == first + 11


@pytest.mark.parametrize("row", [WARMUP_CANDLES_5M, 1803, 2222, 3001])
def test_changing_the_future_changes_nothing_before_it(random_candles, row):
    frame = trending(random_candles, 2e-4)
    other = pd.concat([frame.iloc[: row + 1], random_candles(COUNT, seed=row).iloc[row + 1 :]])
    before, after = entry_indicators(frame), entry_indicators(other)
    known = slice(None, row + 1)
    pd.testing.assert_frame_equal(after.iloc[known], before.iloc[known], check_exact=True)
    pd.testing.assert_frame_equal(
        entry_indicators(frame.iloc[known]), before.iloc[known], check_exact=True
    )
    for new, old in zip(
        classic_entries(after, DEFAULTS), classic_entries(before, DEFAULTS), strict=True
    ):
        np.testing.assert_array_equal(new[known], old[known])
    np.testing.assert_array_equal(leverage_for(after)[known], leverage_for(before)[known])
    assert (after.iloc[row + 1 :] != before.iloc[row + 1 :]).any().all()


def test_an_upward_trend_gives_longs_and_its_mirror_image_gives_the_same_shorts(random_candles):
    frame = trending(random_candles, 4e-4)
    centre = 2.0 * frame["high"].max()  # reflection keeps EMAs, RSI and ADX exactly mirrored
    mirror = frame.assign(
        open=centre - frame["open"],
        high=centre - frame["low"],
        low=centre - frame["high"],
        close=centre - frame["close"],
    )
    thresholds = EntryThresholds(rsi_long_min=55.0, rsi_short_max=45.0)
    long, short = classic_entries(entry_indicators(frame), thresholds)
    mirrored_long, mirrored_short = classic_entries(entry_indicators(mirror), thresholds)
    assert long.sum() > 100
    assert long.sum() > 5 * short.sum()
    np.testing.assert_array_equal(mirrored_short, long)
    np.testing.assert_array_equal(mirrored_long, short)


def test_warm_up_rows_propose_nothing_and_later_rows_are_defined(random_candles):
    frame = trending(random_candles, 4e-4)
    indicators = entry_indicators(frame)
    long, short = classic_entries(indicators, DEFAULTS)
    undefined = indicators.isna().any(axis=1).to_numpy()
    assert undefined.any()
    assert not undefined[WARMUP_CANDLES_5M:].any()
    assert not (long | short)[undefined].any()


def test_nothing_is_proposed_in_a_halt(random_candles):
    frame = trending(random_candles, 4e-4)
    halt = slice(2000, 2019)
    frame.loc[halt, PRICES] = frame.loc[1999, "close"]
    frame.loc[halt, "volume"] = 0.0
    indicators = entry_indicators(frame)
    long, short = classic_entries(indicators, DEFAULTS)
    assert np.isfinite(indicators.iloc[2000:2020].to_numpy()).all()
    assert not (long | short)[2000:2020].any()


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_short_frames_propose_nothing(random_candles, count):
    long, short = classic_entries(entry_indicators(random_candles(count)), DEFAULTS)
    assert long.shape == short.shape == (count,)
    assert not (long | short).any()


def test_a_frame_that_is_not_of_candles_is_refused(random_candles):
    with pytest.raises(MarketError, match="'close'"):
        entry_indicators(random_candles(50).drop(columns="close"))


def leverage_at(atr_pct: float, max_leverage: float = 3.0) -> float:
    (value,) = leverage_for(pd.DataFrame({"atr_pct_5m": [atr_pct]}), max_leverage)
    return float(value)


def test_leverage_falls_as_the_market_gets_wilder():
    assert leverage_at(0.0) == 3.0
    assert leverage_at(TARGET_ATR_PCT / 3.0) == 3.0
    assert leverage_at(TARGET_ATR_PCT / 2.3) == 2.3
    assert leverage_at(TARGET_ATR_PCT / 1.99) == 1.9
    assert leverage_at(TARGET_ATR_PCT) == 1.0
    assert leverage_at(0.04) == 1.0
    assert leverage_at(math.nan) == 1.0
    assert leverage_at(0.0001, max_leverage=2.55) == 2.5
    assert leverage_at(0.0001, max_leverage=1.05) == 1.0
    assert leverage_at(0.0001, max_leverage=23.0) == 23.0


@given(st.floats(1e-6, 0.5), st.floats(1e-6, 0.5), st.floats(1.0, 20.0))
def test_leverage_is_monotone_and_within_bounds(one, other, max_leverage):
    calm, wild = (
        leverage_at(min(one, other), max_leverage),
        leverage_at(max(one, other), max_leverage),
    )
    assert 1.0 <= wild <= calm <= max_leverage


@pytest.mark.parametrize("max_leverage", [0.9, math.nan, math.inf])
def test_a_greatest_leverage_below_one_is_refused(max_leverage):
    with pytest.raises(ValueError, match="max_leverage"):
        leverage_at(0.01, max_leverage)


def test_stake_loses_the_set_share_of_equity_at_the_stop():
    stake = atr_stake_fraction(0.01, 2.0, risk_per_trade=0.02, atr_multiple=3.0, cap=1.0)
    assert stake * 2.0 * 3.0 * 0.01 == pytest.approx(0.02)
    assert atr_stake_fraction(0.01, 2.0, cap=0.05) == 0.05
    assert atr_stake_fraction(0.0, 3.0) == 0.05
    assert atr_stake_fraction(math.nan, 3.0) == 0.0
    with pytest.raises(ValueError, match="leverage must be at least 1"):
        atr_stake_fraction(0.01, 0.5)


@given(st.floats(0.0, 10.0), st.floats(1.0, 125.0), st.floats(0.0, 1.0))
def test_stake_never_exceeds_its_cap_nor_its_risk(atr_pct, leverage, cap):
    stake = atr_stake_fraction(atr_pct, leverage, risk_per_trade=0.02, atr_multiple=3.0, cap=cap)
    assert 0.0 <= stake <= cap
    assert stake * leverage * 3.0 * atr_pct <= 0.02 * (1.0 + 1e-9)


@pytest.mark.parametrize("coin", ["BTC", "SOL"])
def test_on_real_candles_the_rule_is_selective_on_both_sides(real_candles, coin):
    frame = real_candles(coin)
    indicators = entry_indicators(frame)
    long, short = classic_entries(indicators, DEFAULTS)
    assert np.isfinite(indicators.iloc[WARMUP_CANDLES_5M:].to_numpy()).all()
    assert not (long & short).any()
    assert 0.01 < long.mean() < 0.05
    assert 0.01 < short.mean() < 0.05
