"""Features, entries and recorded pairs of any base timeframe: no future, and settled in time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.errors import MarketError, SettingsError
from mtf_scalper.market.candles import resample_candles, timeframe_delta, with_earlier_candles
from mtf_scalper.market.features import feature_frame
from mtf_scalper.market.signals import (
    EntryThresholds,
    classic_entries,
    entry_indicators,
    leverage_for,
)
from mtf_scalper.market.stored import recorded_pair
from mtf_scalper.market.timeframes import warmup_candles

PAIR = "BTC/USDT:USDT"
PRICES = ["open", "high", "low", "close"]
FRAMES = {
    "1m": ("1m", "15m", "1h"),
    "3m": ("3m", "15m", "1h"),
    "5m": ("5m", "15m", "1h"),
    "15m": ("15m", "1h", "4h"),
    "1h": ("1h", "4h", "1d"),
}
EVERY = pytest.mark.parametrize("frames", FRAMES.values(), ids=FRAMES)


def cut_rows(timeframes, count):
    """Rows at and around the close of the longest candles, and anywhere else."""
    ratio = timeframe_delta(timeframes[2]) // timeframe_delta(timeframes[0])
    last = count // ratio * ratio
    return sorted({last - 1, last - 2, last - ratio, last - ratio // 2, last - 3 * ratio - 1})


@EVERY
def test_no_row_of_any_base_knows_the_future(random_candles, frames):
    count = 3000
    frame = random_candles(count, timeframe=frames[0])
    other = random_candles(count, seed=5, price=130.0, timeframe=frames[0])
    named, found = entry_indicators(frame, frames), entry_indicators(frame)
    pd.testing.assert_frame_equal(found, named)
    seen = feature_frame(frame)
    pd.testing.assert_frame_equal(feature_frame(frame, frames, base=frames[0]), seen)
    for row in cut_rows(frames, count - 100):
        known = slice(None, row + 1)
        changed = pd.concat([frame.iloc[known], other.iloc[row + 1 :]])
        for make, whole in ((entry_indicators, named), (feature_frame, seen)):
            for later in (frame.iloc[known], changed):
                again = make(later).iloc[known]
                pd.testing.assert_frame_equal(again, whole.iloc[known], check_exact=True)
        assert (entry_indicators(changed).iloc[-1] != named.iloc[-1]).all()


@EVERY
def test_longer_candles_reach_a_row_as_freqtrade_merges_them(random_candles, frames):
    strategy = pytest.importorskip("freqtrade.strategy")
    talib = pytest.importorskip("talib")
    base, *longer = frames
    start = "2024-03-01 00:00" if base == "1h" else "2024-03-01 00:15"
    frame = random_candles(3000, start=start, timeframe=base)
    indicators, seen = entry_indicators(frame, frames), feature_frame(frame, frames)
    for timeframe in longer:
        higher = resample_candles(frame, timeframe, base)
        high, low, close = (higher[column].to_numpy() for column in ("high", "low", "close"))
        higher["ema_21"] = talib.EMA(close, 21)
        higher["adx_14"] = talib.ADX(high, low, close, 14)
        merged = strategy.merge_informative_pair(frame, higher, base, timeframe, ffill=True)
        for name in (f"ema_21_{timeframe}", f"adx_14_{timeframe}"):
            assert indicators[name].notna().sum() > 500
            pd.testing.assert_series_equal(indicators[name], merged[name], check_exact=True)
        adx = seen[f"%-adx_gen_{timeframe}"]
        expected = (merged[f"adx_14_{timeframe}"] / 25.0 - 1.0).astype(np.float32)
        pd.testing.assert_series_equal(adx, expected, check_names=False)


def test_the_names_of_the_shipped_timeframes_stay(random_candles):
    indicators = entry_indicators(random_candles(1500))
    assert list(indicators) == [
        *(f"{name}_{tf}" for tf in FRAMES["5m"] for name in ("ema_9", "ema_21", "adx_14")),
        *(f"{name}_5m" for name in ("ema_200", "above_ema_200", "rsi_14", "atr_pct", "body")),
    ]
    features = feature_frame(random_candles(300)).columns
    assert {name.rpartition("_")[2] for name in features if name[-1] in "mh"} == set(FRAMES["5m"])


@EVERY
def test_the_rule_is_that_of_the_frames_it_is_given(random_candles, frames):
    """Candles of any length with the same prices make the same entries, if bins are as long."""
    same = {"1m": ("1m", "3m", "12m"), "3m": ("3m", "9m", "36m"), "5m": ("5m", "15m", "1h")}
    timeframes = same.get(frames[0], (frames[0], *frames[1:]))
    indicators = entry_indicators(random_candles(4000, timeframe=frames[0]), timeframes)
    long, short = classic_entries(indicators, EntryThresholds())
    assert long.any()
    assert short.any()
    explicit = classic_entries(
        indicators.assign(adx_14_99m=0.0), EntryThresholds(), timeframes=timeframes
    )
    np.testing.assert_array_equal(np.stack(explicit), np.stack([long, short]))
    assert (leverage_for(indicators) >= 1.0).all()
    if frames[0] in same:
        of_5m = entry_indicators(random_candles(4000), FRAMES["5m"])
        np.testing.assert_array_equal(indicators.to_numpy(), of_5m.to_numpy())


def test_indicators_of_unclear_timeframes_are_named(random_candles):
    indicators = entry_indicators(random_candles(300, timeframe="1m"))
    with pytest.raises(MarketError, match=r"'adx_14_\.\.\.' of two timeframes above '1m'"):
        classic_entries(indicators.assign(adx_14_4h=1.0), EntryThresholds())
    with pytest.raises(MarketError, match="are of several bases"):
        leverage_for(indicators.assign(atr_pct_3m=1.0))
    with pytest.raises(SettingsError, match="fewer than two timeframes above the base '1d'"):
        entry_indicators(random_candles(300, timeframe="1d"))


# The warm-up


@pytest.mark.parametrize("seed", range(3))
def test_the_candles_of_a_start_give_the_indicators_of_the_full_history(random_candles, seed):
    """Of the shipped timeframes nothing but the base's candles is needed."""
    frame = random_candles(9000, seed=seed, price=60_000.0, start="2024-03-01 00:20")
    whole = entry_indicators(frame)
    warmup = warmup_candles(FRAMES["5m"])
    for row in range(warmup, 9000, 401):
        start = entry_indicators(frame.iloc[row - warmup + 1 : row + 1])
        off = (start.iloc[-1] - whole.iloc[row]).abs()
        assert off.max() <= 0.005, (row, off.idxmax())
    # The test can fail: half the candles are not enough.
    short = entry_indicators(frame.iloc[-warmup // 2 :]).iloc[-1]
    assert (short - whole.iloc[-1]).abs().max() > 0.005


@EVERY
def test_with_as_many_longer_candles_it_holds_for_every_base(random_candles, frames):
    base, *longer = frames
    warmup = warmup_candles(frames)
    ratio = timeframe_delta(frames[2]) // timeframe_delta(base)
    count = min(300 * ratio, 60_000)
    frame = random_candles(count, price=3000.0, timeframe=base)
    whole = entry_indicators(frame, frames)
    history = {each: resample_candles(frame, each, base) for each in longer}
    for row in (count - 1, count - 1 - ratio // 2, count - 2 - ratio):
        part = frame.iloc[row - warmup + 1 : row + 1]
        higher = {}
        for each, candles in history.items():
            closes = candles["date"] + timeframe_delta(each)
            closed = candles[closes <= part["date"].iloc[-1] + timeframe_delta(base)]
            made = resample_candles(part, each, base)
            higher[each] = with_earlier_candles(made, closed.tail(warmup), each)
        start = entry_indicators(part, frames, higher=higher)
        off = (start.iloc[-1] - whole.iloc[row]).abs()
        assert off.max() <= 0.005, (row, off.idxmax())


@pytest.mark.parametrize("coin", ["BTC", "SOL"])
def test_no_entry_of_real_candles_depends_on_where_they_begin(real_candles, coin):
    frame = real_candles(coin).head(288 * 60)
    whole = entry_indicators(frame)
    warmup = warmup_candles(FRAMES["5m"])
    for row in range(warmup, len(frame), 997):
        start = entry_indicators(frame.iloc[row - warmup + 1 : row + 1].reset_index(drop=True))
        off = (start.iloc[-1] - whole.iloc[row]).abs()
        assert off.max() <= 0.005, (row, off.idxmax())


# Recorded pairs


@EVERY
def test_a_recorded_pair_of_any_base_knows_no_future(invented_market, tmp_path, frames):
    base, longest = frames[0], frames[2]
    ratio = timeframe_delta(longest) // timeframe_delta(base)
    warmup = max(warmup_candles(frames), 101 * ratio)
    count = warmup + 1000
    datadir = invented_market(tmp_path / "one", frames, count, seed=2)
    whole = recorded_pair(datadir, PAIR, timeframes=frames)
    assert whole.market.timeframe_minutes == timeframe_delta(base) // pd.Timedelta(minutes=1)
    assert len(whole.market) == 1000
    assert np.isfinite(whole.features).all()
    steps = np.diff(whole.market.dates)
    assert (steps == timeframe_delta(base)).all()
    for number, row in enumerate((ratio // 2 + 300, 600 + ratio - 601 % ratio)):
        cut = whole.candles["date"].iloc[row]
        other = tmp_path / f"other-{number}"
        (other / "futures").mkdir(parents=True)
        for path in (datadir / "futures").iterdir():
            table = pd.read_feather(path)
            later = table["date"] >= cut
            names = [name for name in (*PRICES, "volume") if name in table]
            table.loc[later, names] = table.loc[later, names] * 1.7
            table.to_feather(other / "futures" / path.name)
        changed = recorded_pair(other, PAIR, timeframes=frames)
        for name in ("features", "ohlc", "entry_long", "entry_short", "leverage", "funding"):
            ours, theirs = getattr(whole.market, name), getattr(changed.market, name)
            np.testing.assert_array_equal(ours[:row], theirs[:row], err_msg=name)
        assert (whole.market.features[row:] != changed.market.features[row:]).any(axis=0).sum() > 40


def test_a_recorded_pair_reads_the_candles_of_its_base(invented_market, tmp_path):
    datadir = invented_market(tmp_path / "one", ("3m", "15m", "1h"), 3500)
    found = recorded_pair(datadir, PAIR, timeframes=("3m", "15m", "1h"))
    stored = pd.read_feather(datadir / "futures" / "BTC_USDT_USDT-3m-futures.feather")
    pd.testing.assert_frame_equal(
        found.candles, stored.tail(len(found.candles)).reset_index(drop=True)
    )
    named = recorded_pair(datadir, PAIR, timeframes=("15m", "3m", "1h"), timeframe="3m")
    np.testing.assert_array_equal(named.market.entry_long, found.market.entry_long)
    with pytest.raises(MarketError, match=r"BTC_USDT_USDT-5m-futures\.feather is missing"):
        recorded_pair(datadir, PAIR)
    with pytest.raises(SettingsError, match="'5m' is not a multiple of the timeframe '3m'"):
        recorded_pair(datadir, PAIR, timeframes=("3m", "5m", "1h"))


# Nothing moves, and other units


def test_a_price_that_never_moved_stands_in_the_middle(random_candles):
    frame = random_candles(600)
    frame[PRICES] = 7.0
    features = feature_frame(frame).iloc[-1]
    assert features["%-mfi"] == 0.0
    for name in features.index[features.index.str.contains("rsi-period")]:
        if name.endswith(("_5m", "_15m")):
            assert features[name] == 0.0, name
    assert entry_indicators(frame)["rsi_14_5m"].iloc[-1] == 50.0


def test_the_middle_ends_with_the_first_movement(random_candles):
    """After a standstill that begins the frame TA-Lib's own value holds: up only, so 100."""
    frame = random_candles(60)
    frame[PRICES] = 7.0
    frame.loc[40:, PRICES] = 8.0
    rsi = entry_indicators(frame)["rsi_14_5m"]
    assert np.isnan(rsi.iloc[:14]).all()
    assert (rsi.iloc[14:40] == 50.0).all()
    assert (rsi.iloc[40:] == 100.0).all()


@pytest.mark.parametrize(("price", "volume"), [(-40, 0), (40, -40), (0, 40)])
def test_no_unit_is_too_small_or_too_large(random_candles, price, volume):
    """Powers of two are exact, so that nothing but a fixed limit somewhere could differ."""
    frame = random_candles(1500)
    frame.loc[1300:1330, PRICES] = frame.loc[1299, "close"]
    scaled = frame.copy()
    scaled[PRICES] *= 2.0**price
    scaled["volume"] *= 2.0**volume
    ours, theirs = feature_frame(frame, dtype=np.float64), feature_frame(scaled, dtype=np.float64)
    np.testing.assert_allclose(theirs, ours, rtol=0.0, atol=1e-9)
    names = ["adx_14_5m", "adx_14_15m", "adx_14_1h", "rsi_14_5m", "atr_pct_5m"]
    np.testing.assert_allclose(
        entry_indicators(scaled)[names], entry_indicators(frame)[names], rtol=0.0, atol=1e-9
    )
