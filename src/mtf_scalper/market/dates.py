"""Candle open times as users have them, read right or refused; never taken for something else.

Exchanges, CSV files and ccxt count milliseconds since 1970, NumPy takes any integer for what its
target counts: of milliseconds as nanoseconds every candle lies in the first half hour of 1970.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError
from mtf_scalper.market.problems import Dates, bad_rows

_PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# Of no two units do numbers of these years overlap.
_FIRST_SECOND: Final = int(np.datetime64("1990-01-01", "s").astype(np.int64))
_LAST_SECOND: Final = int(np.datetime64("2200-01-01", "s").astype(np.int64))

_KINDS: Final = {"b": "booleans", "c": "complex numbers", "m": "durations", "V": "records"}


def read_dates(given: Any, n_candles: int, name: str = "dates") -> Dates:
    """Return dates as ``Market`` keeps them.

    Parameters
    ----------
    given : array-like, shape (T,)
        ``datetime64`` of any unit, dates of pandas with or without a time zone, datetimes, texts in
        ISO 8601, or numbers since 1970-01-01 in seconds, milliseconds, microseconds or nanoseconds;
        which of these they are is told by their size. What has no time zone is UTC.
    n_candles : int
        T.
    name : str
        What the caller calls them.

    Returns
    -------
    ndarray of datetime64[ns], shape (T,)
        UTC; NaT where a date is missing.

    Raises
    ------
    MarketError
        One line, without a pair.
    """
    values = _plain(given, name)
    if values.shape != (n_candles,):
        raise MarketError(f"{name} must have shape ({n_candles},), got {values.shape}")
    kind = values.dtype.kind
    if kind in "US":
        values, kind = values.astype(str).astype(object), "O"
    if kind == "O":
        values = _from_objects(values, name)
        kind = values.dtype.kind
    if kind == "M":
        return _nanoseconds(values, name)
    if kind in "iu":
        return _from_numbers(values, np.zeros(len(values), dtype=np.bool_), name)
    if kind == "f":
        return _from_floats(values, name)
    raise MarketError(f"{name} are {_KINDS.get(kind, values.dtype)}; give the candles' open times")


def is_date_index(index: Any) -> bool:
    """Return whether an index of pandas holds dates."""
    return getattr(index, "dtype", None) is not None and index.dtype.kind == "M"


def _plain(given: Any, name: str) -> NDArray[Any]:
    """Return a plain array: dates of pandas in UTC, everything else as NumPy takes it."""
    if np.ma.is_masked(given):
        raise MarketError(f"{name} is a masked array; leave these candles out")
    if hasattr(given, "detach"):  # a tensor
        given = given.detach().cpu()
    if not isinstance(given, np.ndarray) and hasattr(given, "to_numpy"):
        kind = getattr(given.dtype, "kind", "O") if hasattr(given, "dtype") else "O"
        if kind == "M":
            import pandas as pd  # whoever has such dates has imported it

            index = pd.DatetimeIndex(given)
            return index.tz_convert(None).to_numpy() if index.tz is not None else index.to_numpy()
        if kind in "iu" and given.isna().any():
            return np.asarray(given.to_numpy(dtype=np.float64, na_value=np.nan))
        if kind == "i":
            return np.asarray(given.to_numpy(dtype=np.int64))
        return np.asarray(given.to_numpy())
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MarketError(f"{name} are no array: {str(error).partition(chr(10))[0]}") from None


def _nanoseconds(values: NDArray[Any], name: str) -> Dates:
    nanoseconds = values.astype("datetime64[ns]")
    # NumPy does not say that a year is beyond what nanoseconds count: it wraps around.
    years = values.astype("datetime64[Y]").astype(np.int64) + 1970
    bad = ~np.isnat(values) & ((years < 1678) | (years > 2261))
    if bad.any():
        first = values[np.argmax(bad)]
        raise MarketError(bad_rows(name, f"is {first}, not within 1678 to 2261,", bad, None))
    return nanoseconds


def _from_floats(values: NDArray[Any], name: str) -> Dates:
    if values.dtype.itemsize < np.dtype(np.float64).itemsize:
        raise MarketError(
            f"{name} are {values.dtype}, which is too coarse for dates; give float64 or integers"
        )
    missing = np.isnan(values)
    return _from_numbers(np.where(missing, 0.0, values), missing, name)


def _from_numbers(values: NDArray[Any], missing: NDArray[np.bool_], name: str) -> Dates:
    """Return the dates of numbers of which the size tells the unit."""
    dates = np.full(len(values), np.datetime64("NaT", "ns"))
    known = values[~missing]
    if not len(known):
        return dates
    size = known.astype(np.float64)
    fits = {
        unit: (size >= _FIRST_SECOND * scale) & (size < _LAST_SECOND * scale)
        for unit, scale in _PER_SECOND.items()
    }
    unit = max(fits, key=lambda each: int(fits[each].sum()))
    if fits[unit].all():
        dates[~missing] = _counted(known, unit, _PER_SECOND[unit])
        return dates
    if fits[unit].any():
        other = np.zeros(len(values), dtype=np.bool_)
        other[~missing] = ~fits[unit]
        problem = f"is {values[np.argmax(other)]}, which is no {unit} as others are,"
        raise MarketError(bad_rows(name, problem, other, None))
    raise MarketError(
        f"{name} are numbers like {known[0]}, which are no s, ms, us or ns since 1970-01-01 of the "
        "years 1990 to 2199; give datetimes"
    )


def _counted(values: NDArray[Any], unit: str, per_second: int) -> Dates:
    if values.dtype.kind == "f":
        # Beyond milliseconds a float of these sizes says nothing.
        values, unit = np.round(values * (1000 / per_second)), "ms"
    counted = values.astype(np.int64).astype(f"datetime64[{unit}]")
    return np.asarray(counted.astype("datetime64[ns]"))


def _from_objects(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Return an array of numbers or dates from Python's objects, which have to be of one kind."""
    missing = np.array([_is_missing(each) for each in values], dtype=np.bool_)
    kinds = [_kind_of(each) for each in values[~missing].tolist()]
    first = kinds[0] if kinds else "dates"
    if first not in ("dates", "texts", "integers", "numbers"):
        raise MarketError(f"{name} hold {first}; give the candles' open times")
    if set(kinds) - {first} and not set(kinds) <= {"integers", "numbers"}:
        other = next(kind for kind in kinds if kind != first)
        raise MarketError(f"{name} hold {first} and {other}; give one kind")
    if first in ("integers", "numbers") or (first == "texts" and _are_counts(values[~missing])):
        if set(kinds) <= {"integers", "texts"} and not missing.any():
            return _integers(values, name)
        return np.array(
            [np.nan if gone else float(each) for each, gone in zip(values, missing, strict=True)]
        )
    import pandas as pd

    wanted: Any = [None if gone else each for each, gone in zip(values, missing, strict=True)]
    options: dict[str, Any] = {"format": "ISO8601"} if first == "texts" else {}
    try:
        index = pd.DatetimeIndex(pd.to_datetime(wanted, utc=True, **options))
    except (ValueError, TypeError, OverflowError) as error:
        reason = str(error).partition("\n")[0].partition(" You might")[0]
        raise MarketError(f"{name}: {reason}") from None
    return index.tz_convert(None).to_numpy()


def _is_missing(each: Any) -> bool:
    is_text = isinstance(each, str)
    # Whatever is not equal to itself: NaN, NaT. pandas's NA has no truth at all.
    return (
        each is None
        or type(each).__name__ in ("NAType", "NaTType")
        or (is_text and not each.strip())
        or (isinstance(each, (float, np.floating, np.datetime64)) and bool(each != each))
    )


def _kind_of(each: Any) -> str:
    if isinstance(each, (bool, np.bool_)):
        return "booleans"
    if isinstance(each, str):
        return "texts"
    if isinstance(each, (int, np.integer)):
        return "integers"
    if isinstance(each, (float, np.floating)):
        return "numbers"
    if isinstance(each, (dt.date, np.datetime64)):  # a datetime is a date, pandas's too
        return "dates"
    return type(each).__name__


def _are_counts(texts: NDArray[Any]) -> bool:
    """Return whether texts are numbers of a file that was read as text, and no dates."""
    return all(len(each.strip()) >= 9 and each.strip().isdigit() for each in texts)


def _integers(values: NDArray[Any], name: str) -> NDArray[Any]:
    try:
        return np.array([int(each) for each in values], dtype=np.int64)
    except OverflowError:
        raise MarketError(f"{name} are numbers too large for dates") from None
