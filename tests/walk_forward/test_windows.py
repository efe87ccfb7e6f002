import itertools

import pandas as pd
import pytest

from mtf_scalper.errors import SettingsError
from mtf_scalper.walk_forward.windows import parse_timerange, rolling_windows


def day(text):
    return pd.Timestamp(text, tz="UTC")


def test_windows_follow_each_other_and_end_with_the_period():
    windows = rolling_windows(
        day("2024-10-01"), day("2024-10-18"), train_days=30, test_days=7, embargo_candles=50
    )
    assert [window.name for window in windows] == ["20241001", "20241008", "20241015"]
    first, last = windows[0], windows[-1]
    assert (first.train_from, first.test_from) == (day("2024-09-01"), day("2024-10-01"))
    assert first.train_to == day("2024-10-01") - 50 * pd.Timedelta(minutes=5)
    assert last.test_to == day("2024-10-18")
    for one, other in itertools.pairwise(windows):
        assert one.test_to == other.test_from


def test_windows_are_those_of_freqai():
    freqtrade = pytest.importorskip("freqtrade.freqai.data_kitchen")
    kitchen = freqtrade.FreqaiDataKitchen.__new__(freqtrade.FreqaiDataKitchen)
    kitchen.config = {"timerange": "20241001-20241018"}
    trained, traded = kitchen.split_timerange("20240901-20241018", 30, 7)
    windows = rolling_windows(*parse_timerange("20241001-20241018"), train_days=30, test_days=7)
    assert [(each.startdt, each.stopdt) for each in trained] == [
        (window.train_from, window.train_to) for window in windows
    ]
    assert [(each.startdt, each.stopdt) for each in traded] == [
        (window.test_from, window.test_to) for window in windows
    ]


@pytest.mark.parametrize("text", ["20241001", "20241001-", "2024-10-01", "20241001-20241301"])
def test_a_timerange_that_is_none_is_named(text):
    with pytest.raises(SettingsError, match=f"timerange '{text}'"):
        parse_timerange(text)


def test_a_timerange_that_goes_back_is_an_error():
    with pytest.raises(SettingsError, match="ends before it begins"):
        parse_timerange("20241002-20241001")


def test_an_embargo_as_long_as_the_training_leaves_nothing():
    with pytest.raises(SettingsError, match="embargo_candles 288"):
        rolling_windows(
            *parse_timerange("20241001-20241002"), train_days=1, test_days=1, embargo_candles=288
        )
