from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtf_scalper.errors import MarketError
from mtf_scalper.market.candles import (
    align_higher_timeframe,
    check_candles,
    fill_missing_candles,
    flatten_bad_candles,
    merge_higher_timeframe,
    resample_candles,
    timeframe_delta,
)
from mtf_scalper.market.problems import PRICES


def candles_at(minutes: list[int]) -> pd.DataFrame:
    """Candles opening so many minutes after midnight; every value tells its minute."""
    minute = np.array(minutes, dtype=np.float64)
    return pd.DataFrame(
        {
            "date": pd.to_datetime("2024-03-01", utc=True) + pd.to_timedelta(minute, unit="min"),
            "open": 1000.0 + minute,
            "high": 3000.0 + minute,
            "low": 500.0 - minute,
            "close": 2000.0 + minute,
            "volume": np.ones(len(minute)),
        }
    )


def minutes_of(frame: pd.DataFrame) -> list[int]:
    since = frame["date"] - pd.Timestamp("2024-03-01", tz="UTC")
    return [int(value) for value in since.dt.total_seconds() / 60]


def test_aggregation_takes_first_max_min_last_and_sum():
    (row,) = resample_candles(candles_at([15, 20, 25]), "15m").to_dict("records")
    assert row == {
        "date": pd.Timestamp("2024-03-01 00:15", tz="UTC"),
        "open": 1015.0,
        "high": 3025.0,
        "low": 475.0,
        "close": 2025.0,
        "volume": 3.0,
    }


def test_partial_first_and_last_bins_are_dropped():
    frame = candles_at([5, 10, 15, 20, 25, 30, 35, 40, 45])
    assert minutes_of(resample_candles(frame, "15m")) == [15, 30]
    assert minutes_of(resample_candles(frame, "1h")) == []


def test_a_gap_inside_leaves_what_is_there_and_an_empty_bin_leaves_no_row():
    frame = candles_at([0, 10, 15, 50, 55])
    higher = resample_candles(frame, "15m")
    assert minutes_of(higher) == [0, 15, 45]
    assert higher["volume"].tolist() == [2.0, 1.0, 2.0]
    assert higher["open"].tolist() == [1000.0, 1015.0, 1050.0]


def test_no_candles_give_no_candles():
    empty = resample_candles(candles_at([]), "1h")
    assert list(empty.columns) == ["date", "open", "high", "low", "close", "volume"]
    assert len(empty) == 0


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_date_resolution_is_kept_and_does_not_matter(random_candles, unit):
    frame = random_candles(100)
    frame["date"] = frame["date"].dt.as_unit(unit)
    higher = resample_candles(frame, "15m")
    assert higher["date"].dtype == frame["date"].dtype
    pd.testing.assert_frame_equal(
        higher.drop(columns="date"),
        resample_candles(random_candles(100), "15m").drop(columns="date"),
    )


def test_resampling_agrees_with_pandas(random_candles):
    frame = random_candles(12 * 24 * 5)
    rules = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    for timeframe, rule in (("15m", "15min"), ("1h", "1h"), ("1d", "1D")):
        expected = frame.set_index("date").resample(rule).agg(rules).reset_index()
        pd.testing.assert_frame_equal(resample_candles(frame, timeframe), expected)


def test_resampling_in_two_steps_is_resampling_in_one(random_candles):
    frame = random_candles(500, start="2024-03-01 00:10")
    twice = resample_candles(resample_candles(frame, "15m"), "1h", base="15m")
    pd.testing.assert_frame_equal(twice, resample_candles(frame, "1h"))


@given(present=st.sets(st.integers(0, 40), min_size=1), count=st.integers(1, 41))
def test_later_candles_never_change_an_earlier_bin(present, count):
    frame = candles_at([5 * slot for slot in sorted(present)])
    known = resample_candles(frame.iloc[:count], "15m")
    final = resample_candles(frame, "15m")
    pd.testing.assert_frame_equal(known, final.iloc[: len(known)])


def test_a_higher_candle_is_seen_at_its_close_and_not_before():
    frame = candles_at(list(range(0, 60, 5)))
    merged = merge_higher_timeframe(frame, resample_candles(frame, "15m"), "15m", "15m")
    seen = merged["close_15m"].to_numpy()
    # The candle of 00:00 closes with the 5m candle of 00:10.
    assert np.isnan(seen[:2]).all()
    assert seen[2:].tolist() == [2010.0] * 3 + [2025.0] * 3 + [2040.0] * 3 + [2055.0]
    assert merged.columns[:6].tolist() == frame.columns.tolist()


def test_gaps_in_the_base_candles_do_not_shift_the_higher_ones():
    frame = candles_at(list(range(0, 120, 5)))
    higher = resample_candles(frame, "15m")
    holes = frame.drop(index=[2, 3, 4, 9, 17])
    expected = align_higher_timeframe(frame, higher, "15m").loc[holes.index]
    pd.testing.assert_frame_equal(align_higher_timeframe(holes, higher, "15m"), expected)


@pytest.mark.parametrize("timeframe", ["5m", "15m", "1h"])
@pytest.mark.parametrize("start", ["2024-03-01 00:00", "2024-03-01 00:20"])
def test_merging_equals_freqtrade(random_candles, timeframe, start):
    strategy = pytest.importorskip("freqtrade.strategy")
    frame = random_candles(700, start=start)
    higher = resample_candles(random_candles(900, start="2024-02-29 18:00"), timeframe)
    expected = strategy.merge_informative_pair(frame, higher, "5m", timeframe, ffill=True)
    got = merge_higher_timeframe(frame, higher, timeframe, timeframe)
    pd.testing.assert_frame_equal(got, expected)


def test_merging_refuses_a_clash_of_names_and_a_shorter_timeframe(random_candles):
    frame = random_candles(50)
    higher = resample_candles(frame, "15m")
    merged = merge_higher_timeframe(frame, higher, "15m", "15m")
    with pytest.raises(ValueError, match="'date_15m'"):
        merge_higher_timeframe(merged, higher, "15m", "15m")
    with pytest.raises(ValueError, match="'5m' into the longer '15m'"):
        align_higher_timeframe(higher, frame, "5m", base="15m")


@pytest.mark.parametrize("text", ["", "m", "5", "0m", "-5m", "1w", "1M", "1.5h", "5 m", "x5m"])
def test_an_unknown_timeframe_is_refused(text):
    with pytest.raises(ValueError, match="is not of the form"):
        timeframe_delta(text)


def test_a_timeframe_that_is_no_multiple_is_refused(random_candles):
    with pytest.raises(ValueError, match="'7m' is not a multiple of '5m'"):
        resample_candles(random_candles(50), "7m")


def refusal(frame: pd.DataFrame) -> str:
    with pytest.raises(MarketError) as caught:
        check_candles(frame, "BTC/USDT:USDT")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("BTC/USDT:USDT: ")
    return message.removeprefix("BTC/USDT:USDT: ")


def test_a_frame_that_is_not_of_candles_is_refused(random_candles):
    frame = random_candles(20)
    assert refusal(frame.drop(columns="volume")).startswith(
        "column 'volume' is missing; got ['date'"
    )
    naive = frame.assign(date=frame["date"].dt.tz_localize(None))
    assert refusal(naive).startswith("column 'date' must be datetime64 in UTC, not datetime64[")
    with pytest.raises(MarketError, match=r"^candle frame: column 'open' is missing"):
        check_candles(frame.drop(columns="open"))


def test_dates_that_do_not_rise_are_told_apart():
    frame = candles_at([0, 5, 10, 15, 20])
    assert refusal(frame.iloc[[0, 1, 1, 2, 2]]) == (
        "column 'date' has a duplicate candle at 2024-03-01 00:05 (2 such rows); drop duplicates"
    )
    assert refusal(frame.iloc[[0, 3, 1, 2, 4]]) == (
        "column 'date' is out of order after 2024-03-01 00:15 at 2024-03-01 00:05 (1 such row); "
        "sort the candles"
    )
    without = frame.assign(date=frame["date"].where(frame.index != 3))
    assert refusal(without) == "column 'date' is missing at row 3 (1 such row)"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("open", np.nan, "column 'open' is nan at 2024-03-01 00:10 (2 such rows)"),
        ("close", np.inf, "column 'close' is inf at 2024-03-01 00:10 (2 such rows)"),
        ("low", 0.0, "column 'low' is 0.0, not above zero, at 2024-03-01 00:10 (2 such rows)"),
        (
            "close",
            -1.0,
            "column 'close' is -1.0, not above zero, at 2024-03-01 00:10 (2 such rows)",
        ),
        (
            "low",
            9e3,
            "column 'low' (9000.0) is above 'high' (3010.0) at 2024-03-01 00:10 (2 such rows)",
        ),
        ("high", 1500.0, "column 'high' is below open or close at 2024-03-01 00:10 (2 such rows)"),
        ("low", 1500.0, "column 'low' is above open or close at 2024-03-01 00:10 (2 such rows)"),
        ("volume", -3.0, "column 'volume' is -3.0 at 2024-03-01 00:10 (2 such rows)"),
        ("volume", np.nan, "column 'volume' is nan at 2024-03-01 00:10 (2 such rows)"),
    ],
)
def test_a_candle_that_cannot_be_is_named_with_its_first_date(
    column: str, value: float, message: str
):
    frame = candles_at([0, 5, 10, 15, 20])
    frame.loc[[2, 4], column] = value
    assert refusal(frame) == message
    with pytest.raises(MarketError, match=r"^candle frame: column"):
        resample_candles(frame, "15m")


def test_gaps_and_flat_candles_without_volume_are_accepted():
    frame = candles_at([0, 5, 25, 30, 90])
    for column in ("high", "low", "close"):
        frame[column] = frame["open"]
    check_candles(frame.assign(volume=0.0))
    check_candles(frame.iloc[:0])


# freqtrade calls pandas in a way that pandas 3.1 deprecates.
@pytest.mark.filterwarnings("ignore:The inplace keyword in:pandas.errors.Pandas4Warning")
@pytest.mark.parametrize("unit", ["ms", "ns"])
def test_missing_candles_are_filled_as_freqtrade_fills_them(random_candles: Any, unit: str):
    converter = pytest.importorskip("freqtrade.data.converter")
    frame = random_candles(300).drop(index=[3, 4, 5, 100, 250]).reset_index(drop=True)
    frame["date"] = frame["date"].dt.as_unit(unit)
    filled = fill_missing_candles(frame)
    expected = converter.ohlcv_fill_up_missing_data(frame.copy(), "5m", "BTC/USDT:USDT")
    pd.testing.assert_frame_equal(filled, expected)
    assert len(filled) == 300
    added = filled.loc[3:5]
    assert (added[["open", "high", "low", "close"]] == filled["close"][2]).all(axis=None)
    assert (added["volume"] == 0.0).all()
    pd.testing.assert_frame_equal(fill_missing_candles(filled), filled)
    assert len(fill_missing_candles(frame.iloc[:0])) == 0


def test_a_candle_beside_the_grid_cannot_be_filled_around(random_candles: Any):
    frame = random_candles(20)
    frame.loc[[7, 9], "date"] += pd.Timedelta("1min")
    with pytest.raises(MarketError) as caught:
        fill_missing_candles(frame)
    message = "column 'date' is no multiple of 5m at 2024-03-01 00:36 (2 such rows)"
    assert str(caught.value) == f"candle frame: {message}"


@pytest.mark.parametrize("timeframe", ["15m", "1h"])
def test_real_higher_candles_are_reproduced(real_candles, timeframe):
    got = resample_candles(real_candles("BTC"), timeframe)
    pd.testing.assert_frame_equal(got, real_candles("BTC", timeframe))


@pytest.mark.parametrize("but_last", [False, True])
@pytest.mark.parametrize(
    ("column", "value"),
    [("low", 0.0), ("close", -1.0), ("high", np.nan), ("open", np.inf), ("high", 1.0)],
)
def test_bad_candles_become_flat_ones_without_volume(
    column: str, value: float, but_last: bool
) -> None:
    dates = pd.date_range("2024-03-01", periods=6, freq="5min", tz="UTC")
    prices = np.linspace(100.0, 105.0, 6)
    frame = pd.DataFrame({"date": dates, "open": prices, "high": prices + 1, "low": prices - 1})
    frame["close"], frame["volume"] = prices + 0.5, 7.0
    good = frame.copy()
    frame.loc[[0, 2, 3, 5], column] = value
    flattened = flatten_bad_candles(frame, but_last=but_last)
    assert list(flattened) == [dates[row] for row in ([0, 2, 3] if but_last else [0, 2, 3, 5])]
    flat = {0: good.loc[1, "open"], 2: good.loc[1, "close"], 3: good.loc[1, "close"]}
    for row, price in (flat if but_last else {**flat, 5: good.loc[4, "close"]}).items():
        assert frame.loc[row, ["open", "high", "low", "close"]].tolist() == [price] * 4
        assert frame.loc[row, "volume"] == 0.0
    pd.testing.assert_frame_equal(frame.loc[[1, 4]], good.loc[[1, 4]])
    check_candles(frame.iloc[:-1])
    assert flatten_bad_candles(frame, but_last=but_last).empty


def test_without_a_good_candle_nothing_is_flattened() -> None:
    dates = pd.date_range("2024-03-01", periods=2, freq="5min", tz="UTC")
    frame = pd.DataFrame({"date": dates, **dict.fromkeys((*PRICES, "volume"), 0.0)})
    flatten_bad_candles(frame)
    with pytest.raises(MarketError, match=r"'open' is 0\.0, not above zero"):
        check_candles(frame)
    assert flatten_bad_candles(frame.iloc[:0]).empty
