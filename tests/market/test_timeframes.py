from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.errors import MarketError, SettingsError
from mtf_scalper.market.candles import (
    align_higher_timeframe,
    base_timeframe,
    merge_higher_timeframe,
    resample_candles,
    with_earlier_candles,
)
from mtf_scalper.market.features import WARMUP_CANDLES_5M
from mtf_scalper.market.timeframes import (
    MOST_STARTUP_CANDLES,
    check_multiples,
    entry_timeframes,
    warmup_candles,
)

KEY = "freqai.feature_parameters.include_timeframes"


@pytest.mark.parametrize(
    ("base", "included", "expected"),
    [
        ("5m", ["5m", "15m", "1h"], ("5m", "15m", "1h")),
        ("5m", ["5m", "15m", "1h", "4h"], ("5m", "15m", "1h")),
        ("3m", ["1h", "3m", "15m", "15m"], ("3m", "15m", "1h")),
        ("1m", ["1m", "3m", "5m"], ("1m", "3m", "5m")),
        ("15m", ["15m", "1d", "2h"], ("15m", "2h", "1d")),
        ("1h", ["1h", "1w", "4h", "1d"], ("1h", "4h", "1d")),
        ("5m", None, ("5m", "15m", "1h")),
        ("1m", None, ("1m", "15m", "1h")),
        ("15m", None, ("15m", "1h", "4h")),
        ("1h", None, ("1h", "4h", "1d")),
        # What is missing is made from the base.
        ("5m", ["5m"], ("5m", "15m", "1h")),
        ("5m", ["5m", "1h"], ("5m", "15m", "1h")),
        ("5m", ["5m", "30m"], ("5m", "15m", "30m")),
    ],
)
def test_the_rule_looks_at_the_base_and_the_two_shortest_longer_ones(base, included, expected):
    assert entry_timeframes(base, included) == expected


@pytest.mark.parametrize(
    ("base", "included", "words"),
    [
        ("3m", ["3m", "5m", "15m"], f"{KEY}: '5m' is not a multiple of the timeframe '3m'"),
        ("15m", ["5m", "15m", "1h"], f"{KEY}: '5m' is not a multiple of the timeframe '15m'"),
        ("1h", ["1h", "1w"], f"{KEY}: '1w' is not a whole number of minutes, hours or days"),
        ("1s", ["1s", "1m"], "timeframe: '1s' is not a whole number of minutes, hours or days"),
        ("4h", ["4h", "1d"], f"{KEY}: ['4h', '1d'] has fewer than two timeframes above"),
        ("1d", None, "has fewer than two timeframes above the base '1d'"),
        # 201 candles of 1h are 12,060 of 1m, more than freqtrade asks any exchange for.
        ("1m", ["1m", "15m"], "'1h' would need 12060 candles of '1m'; add '1h' to it"),
    ],
)
def test_what_cannot_be_is_refused_by_name(base, included, words):
    with pytest.raises(SettingsError) as refused:
        entry_timeframes(base, included)
    assert words in str(refused.value)


def test_features_can_be_made_of_multiples_only():
    check_multiples("5m", ["5m", "15m", "1h", "1d"])
    with pytest.raises(SettingsError, match="'1w' is not a whole number"):
        check_multiples("5m", ["5m", "15m", "1h", "1w"])
    with pytest.raises(SettingsError, match="'10m' is not a multiple of the timeframe '15m'"):
        check_multiples("15m", ["15m", "1h", "4h", "10m"])


@pytest.mark.parametrize(
    ("timeframes", "candles"),
    [
        (("5m", "15m", "1h"), 201 * 12),
        (("1m", "3m", "5m"), 1600),  # 201 * 5 are fewer than EMA200 needs
        (("15m", "30m", "1h"), 1600),
        (("5m", "15m", "30m"), 1600),
        (("15m", "1h", "2h"), 1608),
        # More than an exchange gives: the longer candles are loaded on their own.
        (("1m", "15m", "1h"), 1600),
        (("1h", "4h", "1d"), 1600),
    ],
)
def test_the_warm_up_follows_the_timeframes(timeframes, candles):
    assert warmup_candles(timeframes) == candles <= MOST_STARTUP_CANDLES


def test_the_shipped_warm_up_is_the_computed_one():
    assert WARMUP_CANDLES_5M == warmup_candles(("5m", "15m", "1h")) == 2412


@pytest.mark.parametrize("base", ["1m", "3m", "5m", "15m", "1h", "4h", "1d"])
def test_the_base_is_found_from_the_dates_whatever_is_missing(random_candles, base):
    frame = random_candles(300, timeframe=base)
    assert base_timeframe(frame) == base
    holes = np.random.default_rng(0).random(300) < 0.4
    assert base_timeframe(frame[~holes]) == base
    frame["date"] = frame["date"].dt.as_unit("ns")
    assert base_timeframe(frame) == base


def test_dates_without_a_grid_are_refused(random_candles):
    frame = random_candles(50)
    assert base_timeframe(frame.iloc[:1]) == "5m"
    frame.loc[7, "date"] += pd.Timedelta(minutes=2)
    with pytest.raises(MarketError, match="no common grid of whole minutes"):
        base_timeframe(frame)
    frame.loc[7, "date"] += pd.Timedelta(milliseconds=1)
    with pytest.raises(MarketError, match="no common grid of whole minutes"):
        base_timeframe(frame)


def test_candles_shorter_than_their_timeframe_are_refused(random_candles):
    """They would see longer candles that have not closed."""
    frame = random_candles(300, timeframe="1m")
    higher = resample_candles(frame, "15m", "1m")
    words = "candles are 1 minutes apart, so they are not of timeframe '5m'"
    with pytest.raises(MarketError, match=words):
        resample_candles(frame, "15m")
    with pytest.raises(MarketError, match=words):
        align_higher_timeframe(frame, higher, "15m")
    with pytest.raises(MarketError, match=words):
        merge_higher_timeframe(frame, higher, "15m", "15m")
    merged = merge_higher_timeframe(frame, higher, "15m", "15m", "1m")
    # The first candle of 15m closes with the fifteenth of 1m.
    assert merged["close_15m"].first_valid_index() == 14


def test_earlier_candles_are_put_before_where_they_reach_up_to_the_first(random_candles):
    frame = random_candles(900, start="2024-03-01 00:25")
    whole, late = resample_candles(frame, "1h"), resample_candles(frame.iloc[400:], "1h")
    assert len(late) < len(whole)
    joined = with_earlier_candles(late, whole.assign(more=1.0), "1h")
    pd.testing.assert_frame_equal(joined, whole)
    other_unit = whole.assign(date=whole["date"].dt.as_unit("ns"))
    pd.testing.assert_frame_equal(with_earlier_candles(late, other_unit, "1h"), whole)
    before = whole[whole["date"] < late["date"].iloc[0]]
    pd.testing.assert_frame_equal(with_earlier_candles(late, before, "1h"), whole)
    # A hole between the two, nothing earlier, nothing at all: the candles stay as they are.
    for earlier in (before.iloc[:-1], late, whole.iloc[:0]):
        pd.testing.assert_frame_equal(with_earlier_candles(late, earlier, "1h"), late)
