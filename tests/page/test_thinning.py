"""Thinned series draw the same picture, and phases are told apart."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtf_scalper.page.phases import dominant, seconds_by_phase, timeline
from mtf_scalper.page.thinning import extremes, milliseconds, rounded, times
from mtf_scalper.records.trainings import Span


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(4, 60))
def test_extremes_keep_the_ends_the_lowest_and_the_highest(values: list[float], limit: int) -> None:
    array = np.array(values)
    rows = extremes(array, limit)
    assert len(rows) <= max(limit, 4)
    assert (np.diff(rows) > 0).all()
    assert {0, len(array) - 1} <= set(rows.tolist())
    assert array[rows].min() == array.min()
    assert array[rows].max() == array.max()


def test_few_rows_are_all_kept() -> None:
    np.testing.assert_array_equal(extremes(np.arange(7.0), 7), np.arange(7))


def test_missing_values_are_no_extremes() -> None:
    values = np.full(100, np.nan)
    values[[13, 57]] = (-3.0, 4.0)
    rows = extremes(values, 8)
    assert {13, 57} <= set(rows.tolist())


def test_rounding_keeps_significant_digits_and_has_a_word_for_missing() -> None:
    assert rounded([123456.789, 0.000123456789, np.nan, 0.0]) == [123457.0, 0.000123457, None, 0.0]
    assert rounded(np.array([1.23456]), 3) == [1.23]


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_dates_become_milliseconds_and_regular_ones_a_step(zone: str | None) -> None:
    dates = pd.Series(pd.date_range("2024-10-01", periods=4, freq="5min", tz=zone))
    moments = milliseconds(dates)
    assert moments[0] == 1_727_740_800_000
    assert times(moments) == {"start": 1_727_740_800_000, "step": 300_000, "n": 4}
    gap = milliseconds(dates.drop(2))
    assert times(gap) == gap.tolist()


def test_the_innermost_phase_counts() -> None:
    found = timeline([Span(0, 10, "backtest"), Span(2, 6, "update"), Span(4, 5, "inference")])
    assert found == [
        Span(0, 2, "backtest"),
        Span(2, 4, "update"),
        Span(4, 5, "inference"),
        Span(5, 6, "update"),
        Span(6, 10, "backtest"),
    ]
    assert seconds_by_phase(found) == {"update": 3.0, "inference": 1.0, "backtest": 6.0}


def test_phases_side_by_side_are_counted_once_and_pauses_not_at_all() -> None:
    spans = [Span(0, 4, "update"), Span(1, 5, "update"), Span(7, 8, "judging"), Span(9, 9, "x")]
    assert timeline(spans) == [Span(0, 5, "update"), Span(7, 8, "judging")]
    assert timeline([]) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.integers(0, 9))))
def test_phases_never_overlap_and_cover_what_they_covered(rows: list[Any]) -> None:
    found = timeline(Span(begin, begin + long, name) for name, begin, long in rows)
    for one, following in itertools.pairwise(found):
        assert one.ended <= following.began
        assert one.ended < following.began or one.phase != following.phase
    covered = {second for _, begin, long in rows for second in range(begin, begin + long)}
    assert sum(seconds_by_phase(found).values()) == len(covered)


def test_a_raster_shows_the_phase_that_took_most() -> None:
    spans = [Span(0.0, 0.9, "a"), Span(0.9, 1.0, "b"), Span(1.0, 3.0, "b"), Span(3.2, 3.4, "c")]
    found = dominant(spans, 0.0, 4.0, 4)
    assert found == [Span(0.0, 1.0, "a"), Span(1.0, 3.0, "b")]  # c took less than the pause
    assert dominant(spans, 0.0, 0.0, 4) == []
