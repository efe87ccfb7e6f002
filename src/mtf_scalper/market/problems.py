"""What is wrong with candles, in the one line that a person gets to read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PRICES = ("open", "high", "low", "close")

Dates = NDArray[np.datetime64]

LARGEST_STEP = 5.0
"""Change of price within a candle, or from one to the next, above which candles are doubted."""
_JITTER = np.timedelta64(1000, "ms")
"""Candles whose dates are off by less are still at their time; freqtrade takes whole seconds."""
_SHORTEST_MONTH = 28 * 24 * 60


def price_problem(ohlc: NDArray[np.float64], dates: Dates | None = None) -> str | None:
    """Say what is wrong with prices that no candle can have, None if nothing is.

    Parameters
    ----------
    ohlc : ndarray of float64, shape (T, 4)
        Open, high, low and close. Flat candles are fine.
    dates : ndarray of datetime64, shape (T,), optional
        Candle open times, to name the first offending candle by.
    """
    for column, name in enumerate(PRICES):
        values = ohlc[:, column]
        for bad, rule in ((~np.isfinite(values), ""), (values <= 0.0, ", not above zero,")):
            if bad.any():
                return bad_rows(name, f"is {values[np.argmax(bad)]}{rule}", bad, dates)
    if not len(ohlc):
        return None
    opened, high, low, close = ohlc.T
    crossed = low > high
    row = np.argmax(crossed)
    rules = (
        (crossed, "low", f"({low[row]}) is above 'high' ({high[row]})"),
        (high < np.maximum(opened, close), "high", "is below open or close"),
        (low > np.minimum(opened, close), "low", "is above open or close"),
    )
    for bad, name, problem in rules:
        if bad.any():
            return bad_rows(name, problem, bad, dates)
    return None


def bad_price_rows(ohlc: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the rows that ``price_problem`` speaks of, shape (T,)."""
    opened, high, low, close = ohlc.T
    is_price = (np.isfinite(ohlc) & (ohlc > 0.0)).all(axis=1)
    inside = (high >= np.maximum(opened, close)) & (low <= np.minimum(opened, close))
    return np.asarray(~(is_price & inside))


def date_problem(dates: Dates, column: str = "date") -> str | None:
    """Say where candle open times are missing, repeat or go back, None if they only rise.

    Parameters
    ----------
    dates : ndarray of datetime64, shape (T,)
    column : str
        What the caller calls them.
    """
    missing = np.isnat(dates)
    if missing.any():
        return bad_rows(column, "is missing", missing, None)
    same = np.concatenate([[False], dates[1:] == dates[:-1]])
    back = np.concatenate([[False], dates[1:] < dates[:-1]])
    row = int(np.argmax(same | back))
    if same[row]:
        return f"{bad_rows(column, 'has a duplicate candle', same, dates)}; drop duplicates"
    if back[row]:
        problem = f"is out of order after {date_text(dates[row - 1])}"
        return f"{bad_rows(column, problem, back, dates)}; sort the candles"
    return None


def bad_rows(column: str, problem: str, bad: NDArray[np.bool_], dates: Dates | None) -> str:
    """Say what is wrong with a column, where first, and in how many rows.

    Parameters
    ----------
    column, problem : str
    bad : ndarray of bool, shape (T,)
        At least one is true.
    dates : ndarray of datetime64, shape (T,), optional
        The row's number stands where there are none.
    """
    row = int(np.argmax(bad))
    place = f"row {row}" if dates is None else date_text(dates[row])
    return f"column {column!r} {problem} at {place} ({_count(int(bad.sum()), 'such row')})"


def gap_notice(dates: Dates, timeframe_minutes: int) -> str | None:
    """Say how many candles are missing between rising dates and where most are, None if none is."""
    steps = (np.diff(dates) + _JITTER) // np.timedelta64(timeframe_minutes, "m")
    missing = np.maximum(steps - 1, 0)
    if not missing.any():
        return None
    longest = int(np.argmax(missing))
    return (
        f"{_count(int(missing.sum()), 'candle')} of {timeframe_minutes}m missing in "
        f"{_count(int(np.count_nonzero(missing)), 'gap')}, at most {missing[longest]} of them "
        f"after {date_text(dates[longest])}; the rows around a gap count as neighbours"
    )


def step_problem(dates: Dates, timeframe_minutes: int, column: str = "dates") -> str | None:
    """Say where rising dates contradict the length of a candle, None where they do not.

    Missing candles do not: see ``gap_notice``. Dates of which most lie another length apart are of
    another timeframe, and a candle cannot begin before the one before it has ended.

    Parameters
    ----------
    dates : ndarray of datetime64, shape (T,)
    timeframe_minutes : int
        Months are of different lengths and are not compared.
    column : str
        What the caller calls the dates.
    """
    if len(dates) < 2 or timeframe_minutes >= _SHORTEST_MONTH:
        return None
    length = np.timedelta64(timeframe_minutes, "m")
    # To the second, so that dates that are off by milliseconds count as one length.
    steps = ((np.diff(dates) + _JITTER // 2) // _JITTER) * _JITTER
    lengths, counts = np.unique(steps, return_counts=True)
    common = lengths[np.argmax(counts)]
    if length not in lengths or (common != length and 2 * counts.max() > len(steps)):
        return (
            f"{column} lie {_length_text(common)} apart, and timeframe_minutes is "
            f"{timeframe_minutes}; {_cure(common)}"
        )
    short = np.concatenate([[False], steps < length])
    if short.any():
        shown = _length_text(steps[np.argmax(short) - 1])
        return bad_rows(column, f"is only {shown} after the candle before", short, dates)
    return None


def jump_notice(ohlc: NDArray[np.float64], dates: Dates | None = None) -> str | None:
    """Say where the price moves as no market does, None where it does not.

    A decimal point that slipped, another unit, another coin: the best trades of such candles are
    worth more than all others together.

    Parameters
    ----------
    ohlc : ndarray of float64, shape (T, 4)
        As ``price_problem`` accepts it.
    dates : ndarray of datetime64, shape (T,), optional
    """
    opened, high, low, close = ohlc.T
    before = np.concatenate([opened[:1], close[:-1]])
    with np.errstate(over="ignore"):
        factors = np.maximum(high, before) / np.minimum(low, before)
    bad = factors > LARGEST_STEP
    if not bad.any():
        return None
    problem = f"moves by a factor of {factors[np.argmax(bad)]:.3g}"
    return f"{bad_rows('close', problem, bad, dates)}; no market does, look at the candles"


def _length_text(step: np.timedelta64) -> str:
    seconds = step / np.timedelta64(1, "s")
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} seconds"


def _cure(step: np.timedelta64) -> str:
    minutes = step / np.timedelta64(1, "m")
    if minutes >= 1 and minutes == int(minutes):
        return f"set timeframe_minutes to {int(minutes)}, or correct the dates"
    return "correct the dates"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def date_text(moment: np.datetime64) -> str:
    """Return a date to the minute, or to the millisecond where it lies between minutes."""
    whole = moment == moment.astype("datetime64[m]")
    return str(np.datetime_as_string(moment, unit="m" if whole else "ms")).replace("T", " ")
