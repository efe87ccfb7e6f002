from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.errors import MarketError
from mtf_scalper.market.candles import resample_candles
from mtf_scalper.market.features import (
    LONGEST_LOOKBACK_CANDLES,
    WARMUP_CANDLES_5M,
    expand_all,
    expand_basic,
    feature_frame,
    standard,
)

COUNT = WARMUP_CANDLES_5M + 600
PRICES = ["open", "high", "low", "close"]
HOOKS = {
    "all": lambda frame: expand_all(frame, 20),
    "basic": expand_basic,
    "standard": standard,
}


def changed_after(frame: pd.DataFrame, row: int, other: pd.DataFrame) -> pd.DataFrame:
    """The same candles up to and with `row`, those of another market after it."""
    return pd.concat([frame.iloc[: row + 1], other.iloc[row + 1 :]])


def halted(frame: pd.DataFrame, first: int, candles: int = 20) -> pd.DataFrame:
    """The same candles with a halt: price stands still and nothing is traded."""
    frame = frame.copy()
    rows = slice(first, first + candles - 1)
    frame.loc[rows, PRICES] = frame.loc[first - 1, "close"]
    frame.loc[rows, "volume"] = 0.0
    return frame


def test_there_are_40_to_60_distinct_features_in_float32(random_candles):
    features = feature_frame(random_candles(COUNT))
    assert features.shape == (COUNT, 60)
    assert features.columns.is_unique
    assert features.columns.str.startswith("%-").all()
    assert (features.dtypes == np.float32).all()
    settled = features.iloc[WARMUP_CANDLES_5M:]
    assert (settled.std() > 0.01).all()
    correlation = settled.drop(columns=settled.filter(like="weekday").columns).corr().to_numpy()
    assert np.abs(correlation[np.triu_indices_from(correlation, k=1)]).max() < 0.999


@pytest.mark.parametrize("start", ["2024-03-01 00:00", "2024-03-01 00:05", "2024-03-01 00:55"])
def test_every_feature_is_finite_and_bounded_after_the_warm_up(random_candles, start):
    features = feature_frame(random_candles(COUNT, start=start)).to_numpy()
    assert np.isfinite(features[WARMUP_CANDLES_5M:]).all()
    assert np.nanmax(np.abs(features)) <= 10.0
    assert not np.isinf(features).any()


@pytest.mark.parametrize("hook", HOOKS)
def test_no_lookback_is_longer_than_stated(random_candles, hook):
    lookback = 200 if hook == "standard" else LONGEST_LOOKBACK_CANDLES
    added = HOOKS[hook](random_candles(300)).filter(like="%-").to_numpy()
    assert np.isfinite(added[lookback:]).all()


@pytest.mark.parametrize("row", [WARMUP_CANDLES_5M, 1300, 1401, 1502, 1700])
def test_changing_the_future_changes_nothing_before_it(random_candles, row):
    frame = random_candles(COUNT)
    other = random_candles(COUNT, seed=row, price=130.0)
    before, after = feature_frame(frame), feature_frame(changed_after(frame, row, other))
    pd.testing.assert_frame_equal(after.iloc[: row + 1], before.iloc[: row + 1], check_exact=True)
    clock = before.columns.str.contains("hour|weekday")
    moved = (after.iloc[row + 1 :] != before.iloc[row + 1 :]).any()
    assert moved[~clock].all(), "the perturbation must reach every feature that reads candles"


@pytest.mark.parametrize("row", [WARMUP_CANDLES_5M, 1435, 1499])
def test_candles_not_yet_known_are_not_needed(random_candles, row):
    frame = random_candles(COUNT)
    live = feature_frame(frame.iloc[: row + 1])
    pd.testing.assert_frame_equal(live, feature_frame(frame).iloc[: row + 1], check_exact=True)


def test_where_the_history_begins_no_longer_matters_after_the_warm_up(random_candles):
    frame = random_candles(WARMUP_CANDLES_5M + 2000)
    whole = feature_frame(frame).iloc[1000 + WARMUP_CANDLES_5M :]
    late = feature_frame(frame.iloc[1000:]).iloc[WARMUP_CANDLES_5M:]
    # Wilder's smoothing over 20 hours still gives the first hour a weight of 0.95 ** 80 = 1.7%.
    assert ((late - whole).abs().max() / whole.std()).max() < 0.05


@pytest.mark.parametrize(("price", "volume"), [(1000.0, 1.0), (1.0, 7.0), (1e-5, 1e-4)])
def test_units_of_price_and_volume_do_not_matter(random_candles, price, volume):
    frame = halted(random_candles(COUNT), WARMUP_CANDLES_5M + 100)
    scaled = frame.copy()
    scaled[PRICES] *= price
    scaled["volume"] *= volume
    np.testing.assert_allclose(
        feature_frame(scaled).to_numpy(), feature_frame(frame).to_numpy(), atol=2e-4
    )


@pytest.mark.parametrize("candles", [1, 14, 20, 60])
def test_a_halt_leaves_every_feature_finite_and_neutral(random_candles, candles):
    first = WARMUP_CANDLES_5M + 100
    features = feature_frame(halted(random_candles(COUNT), first, candles))
    settled = features.iloc[WARMUP_CANDLES_5M:]
    assert np.isfinite(settled.to_numpy()).all()
    assert settled.abs().to_numpy().max() <= 10.0
    last = features.iloc[first + candles - 1]
    assert last["%-body"] == 0.0
    assert last["%-wicks"] == 0.0
    if candles >= 20:
        assert last["%-mfi"] == 0.0
        assert last["%-divergence_obv_gen_5m"] == 0.0
        assert last["%-momentum-period_20_5m"] == 0.0
        assert abs(last["%-bollinger_position"]) < 0.01


def test_a_market_that_never_moves_has_finite_features(random_candles):
    frame = random_candles(COUNT)
    frame[PRICES], frame["volume"] = 5.0, 0.0
    features = feature_frame(frame).iloc[WARMUP_CANDLES_5M:]
    assert np.isfinite(features.to_numpy()).all()


def test_a_rising_market_looks_the_way_it_should(random_candles):
    frame = random_candles(400)
    frame["close"] = 100.0 * 1.001 ** np.arange(1, 401)
    frame["open"] = frame["close"] / 1.001
    frame["high"], frame["low"] = frame["close"], frame["open"]
    frame["volume"] = 3.0
    last = standard(expand_basic(expand_all(frame, 10))).iloc[-1]
    # Every candle is one ATR of about 0.1% upwards.
    assert last["%-momentum-period"] == pytest.approx(10.0 / np.sqrt(10.0), rel=0.02)
    assert last["%-above_low-period"] == pytest.approx(10.0 / np.sqrt(10.0), rel=0.02)
    assert last["%-below_high-period"] == 0.0
    assert last["%-rsi-period"] == pytest.approx(1.0)
    assert last["%-ema_spread"] == pytest.approx((21 - 9) / 2, rel=0.02)
    assert last["%-di_spread"] == pytest.approx(2.0, rel=0.01)
    assert last["%-adx"] == pytest.approx(3.0, rel=0.01)
    assert last["%-volume_ratio"] == pytest.approx(0.0, abs=1e-12)
    assert last["%-atr_ratio"] == pytest.approx(0.0, abs=0.1)
    assert last["%-divergence_obv"] == pytest.approx(0.0, abs=1e-12)
    assert last["%-body"] == pytest.approx(1.0)
    assert last["%-mfi"] == pytest.approx(1.0)


def test_divergence_is_positive_where_volume_does_not_follow_the_price(random_candles):
    frame = random_candles(200)
    up = np.arange(200) % 2 == 0
    frame["close"] = 100.0 + np.cumsum(np.where(up, 0.3, -0.1))
    frame["volume"] = np.where(up, 1.0, 9.0)
    # The price goes half its path upwards net; the volume four fifths downwards net.
    last = expand_basic(frame)["%-divergence_obv"].iloc[-1]
    assert last == pytest.approx(0.5 + 0.8, abs=1e-9)


def test_volatility_ranks_by_its_own_recent_past(random_candles):
    calm = random_candles(200)
    step = np.where(np.arange(200) % 2, 1.0, -1.0) * np.linspace(0.001, 0.01, 200)
    calm["close"] = 100.0 * np.exp(np.cumsum(step))
    assert expand_basic(calm)["%-volatility_rank"].iloc[-1] == pytest.approx(79 / 80)


def test_time_of_day_and_week_are_angles(random_candles):
    frame = standard(random_candles(12 * 24 * 7, start="2024-03-04"))  # a Monday
    noon, thursday_noon = frame.iloc[12 * 12], frame.iloc[12 * 84]
    assert noon["%-hour_cos"] == pytest.approx(-1.0)
    assert noon["%-hour_sin"] == pytest.approx(0.0, abs=1e-12)
    assert thursday_noon["%-weekday_cos"] == pytest.approx(-1.0)
    assert frame.iloc[0]["%-weekday_cos"] == pytest.approx(1.0)


@pytest.mark.parametrize("hook", HOOKS)
def test_the_hooks_add_columns_and_leave_the_frame_alone(random_candles, hook):
    frame = random_candles(120).set_index(pd.RangeIndex(7, 127)).assign(extra=1.0)
    kept = frame.copy()
    added = HOOKS[hook](frame)
    pd.testing.assert_frame_equal(frame, kept)
    pd.testing.assert_frame_equal(added[frame.columns], kept)
    assert added.columns[len(frame.columns) :].str.startswith("%-").all()


@pytest.mark.parametrize("count", [0, 1, 5, 13, 50, 110])
def test_short_frames_give_undefined_features_not_errors(random_candles, count):
    features = feature_frame(random_candles(count))
    assert features.shape == (count, 60)
    assert features.filter(like="_1h").isna().all(axis=None)


def test_gaps_leave_the_longer_timeframes_aligned(random_candles):
    frame = random_candles(COUNT)
    # Whole hours stay as they are but for inner candles whose loss leaves each hour's OHLC alone.
    flat = frame.copy()
    flat.loc[1300:1310, PRICES] = flat.loc[1299, "close"]
    flat.loc[1300:1310, "volume"] = 0.0
    holes = flat.drop(index=range(1301, 1306))
    columns = [column for column in feature_frame(flat) if column.endswith("_1h")]
    pd.testing.assert_frame_equal(
        feature_frame(holes)[columns], feature_frame(flat).loc[holes.index, columns]
    )


@pytest.mark.filterwarnings("default")
def test_values_and_names_are_those_of_freqai(random_candles):
    data_kitchen = pytest.importorskip("freqtrade.freqai.data_kitchen")
    pair, timeframes = "BTC/USDT:USDT", ["5m", "15m", "1h"]

    class Strategy:
        def feature_engineering_expand_all(self, frame, period, metadata):
            return expand_all(frame, period)

        def feature_engineering_expand_basic(self, frame, metadata):
            return expand_basic(frame)

    kitchen = data_kitchen.FreqaiDataKitchen.__new__(data_kitchen.FreqaiDataKitchen)
    kitchen.config = {"timeframe": "5m"}
    kitchen.freqai_config = {
        "feature_parameters": {
            "include_timeframes": timeframes,
            "indicator_periods_candles": [10, 20],
            "include_shifted_candles": 0,
        }
    }
    frame = random_candles(COUNT)
    base = {tf: frame if tf == "5m" else resample_candles(frame, tf) for tf in timeframes}
    made = standard(kitchen.populate_features(frame.copy(), pair, Strategy(), {}, base))
    expected = made.loc[:, made.columns.str.startswith("%")].astype(np.float32)
    expected.columns = expected.columns.str.replace(f"_{pair}", "")
    pd.testing.assert_frame_equal(feature_frame(frame), expected, check_exact=True)


def test_timeframes_and_periods_can_be_chosen(random_candles):
    features = feature_frame(random_candles(300), timeframes=("5m", "30m"), periods=(12,))
    assert features.shape == (300, 2 * (4 + 9) + 9)
    assert "%-rsi-period_12_30m" in features
    with pytest.raises(ValueError, match="'7m' is not a multiple"):
        feature_frame(random_candles(300), timeframes=("7m",))
    with pytest.raises(ValueError, match="period must be from 2 to 100, not 101"):
        feature_frame(random_candles(300), periods=(101,))
    with pytest.raises(MarketError, match="'volume'"):
        feature_frame(random_candles(300).drop(columns="volume"))


@pytest.mark.parametrize("coin", ["BTC", "SOL"])
def test_features_of_real_candles_are_finite_and_in_scale(real_candles, coin):
    features = feature_frame(real_candles(coin)).iloc[WARMUP_CANDLES_5M:]
    assert np.isfinite(features.to_numpy()).all()
    assert features.abs().to_numpy().max() < 10.0, "no feature needs its clip on this market"
    assert features.std().between(0.1, 1.5).all()
    assert features.mean().abs().max() < 1.1
