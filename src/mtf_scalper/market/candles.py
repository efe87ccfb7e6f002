"""Higher timeframes made from, and merged back onto, a frame of base candles.

A candle frame has the columns ``date`` (``datetime64`` UTC, the time the candle opens),
``open``, ``high``, ``low``, ``close`` and ``volume``, one row per candle, oldest first. Everything
here joins on time and never on row count, so missing candles do not shift later ones;
`fill_missing_candles` makes the flat ones that freqtrade would trade on in their place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mtf_scalper.errors import MarketError
from mtf_scalper.market.problems import (
    PRICES,
    bad_price_rows,
    bad_rows,
    date_problem,
    price_problem,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

BASE_TIMEFRAME = "5m"
CANDLE_COLUMNS = ("date", *PRICES, "volume")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def timeframe_delta(timeframe: str) -> pd.Timedelta:
    """Duration of one candle.

    Parameters
    ----------
    timeframe
        A whole number of minutes, hours or days in freqtrade's spelling: ``"5m"``, ``"1h"``,
        ``"1d"``.

    Raises
    ------
    ValueError
        For any other text. Weeks and months are refused because their candles do not start on
        multiples of their length since the epoch.
    """
    count, unit = timeframe[:-1], timeframe[-1:]
    if unit not in _UNITS or not (count.isascii() and count.isdigit()) or int(count) == 0:
        raise ValueError(f"timeframe {timeframe!r} is not of the form '5m', '1h' or '1d'")
    return pd.Timedelta(f"{int(count)} {_UNITS[unit]}")


def base_timeframe(frame: pd.DataFrame) -> str:
    """Find the timeframe of candles from their dates.

    It is the greatest step that all steps between candles are multiples of, so that missing candles
    do no harm. Where there are fewer than two candles it is `BASE_TIMEFRAME`.

    Parameters
    ----------
    frame
        Candles.

    Returns
    -------
    str
        In freqtrade's spelling: ``"3m"``, ``"1h"``.

    Raises
    ------
    MarketError
        If that step is no whole number of minutes, or no two candles follow each other by it, as
        where one of them is off the grid of the others.
    """
    steps_ns = np.diff(_open_times_ns(frame))
    if len(steps_ns) == 0:
        return BASE_TIMEFRAME
    step_ns = int(np.gcd.reduce(steps_ns))
    minutes, rest = divmod(step_ns, 60 * 10**9)
    if rest or not (steps_ns == step_ns).any():
        raise MarketError(
            f"candle frame: column 'date': the candles open on no common grid of whole minutes "
            f"(their steps are multiples of {step_ns / 60e9:g} minutes only)"
        )
    for unit, length in (("d", 24 * 60), ("h", 60)):
        if minutes % length == 0:
            return f"{minutes // length}{unit}"
    return f"{minutes}m"


def check_candles(frame: pd.DataFrame, pair: str = "candle frame") -> None:
    """Refuse what is no candle frame, and candles that no exchange can have traded.

    Missing candles, flat candles and candles without volume are normal and accepted.

    Parameters
    ----------
    frame
        Candles, or no rows at all.
    pair
        Name that stands first in the message.

    Raises
    ------
    MarketError
        One line that names the pair, the column, the date of the first bad candle and how many
        there are: columns that are missing; dates that are not in UTC, missing, repeated or out of
        order; prices that are not finite, not above zero or at odds with each other; volumes that
        are not finite or negative.
    """
    missing = [column for column in CANDLE_COLUMNS if column not in frame.columns]
    if missing:
        raise MarketError(f"{pair}: column {missing[0]!r} is missing; got {list(frame.columns)}")
    dtype = frame["date"].dtype
    if not isinstance(dtype, pd.DatetimeTZDtype) or str(dtype.tz) != "UTC":
        raise MarketError(f"{pair}: column 'date' must be datetime64 in UTC, not {dtype}")
    dates = frame["date"].to_numpy(dtype="datetime64[ns]")
    volume = _values(frame, "volume")
    problem = date_problem(dates) or price_problem(
        frame[list(PRICES)].to_numpy(dtype=np.float64), dates
    )
    bad = ~(np.isfinite(volume) & (volume >= 0.0))
    if problem is None and bad.any():
        problem = bad_rows("volume", f"is {volume[np.argmax(bad)]}", bad, dates)
    if problem is not None:
        raise MarketError(f"{pair}: {problem}")


def fill_missing_candles(frame: pd.DataFrame, timeframe: str = BASE_TIMEFRAME) -> pd.DataFrame:
    """Put a flat candle without volume, at the close before it, wherever a candle is missing.

    freqtrade does this to all candles that it loads from disk or gets from an exchange.

    Parameters
    ----------
    frame
        Candles of `timeframe` that open on its multiples.

    Returns
    -------
    DataFrame
        The candle columns of `frame`, with a fresh index; one row per candle from the first to the
        last.

    Raises
    ------
    MarketError
        If `frame` is not a candle frame, or a candle does not open on a multiple of `timeframe`.
    """
    check_candles(frame)
    step = timeframe_delta(timeframe)
    opens_ns = _open_times_ns(frame)
    off_grid = opens_ns % step.value != 0
    if off_grid.any():
        problem = f"is no multiple of {timeframe}"
        place = bad_rows("date", problem, off_grid, opens_ns.astype("datetime64[ns]"))
        raise MarketError(f"candle frame: {place}")
    if frame.empty:
        return frame[list(CANDLE_COLUMNS)].reset_index(drop=True)
    dates = frame["date"]
    grid = pd.date_range(dates.iloc[0], dates.iloc[-1], freq=step, unit=dates.dt.unit, name="date")
    filled = frame[list(CANDLE_COLUMNS)].set_index("date").reindex(grid)
    filled["volume"] = filled["volume"].fillna(0.0)
    filled["close"] = filled["close"].ffill()
    for column in ("open", "high", "low"):
        filled[column] = filled[column].fillna(filled["close"])
    return filled.reset_index()


def flatten_bad_candles(frame: pd.DataFrame, *, but_last: bool = False) -> pd.DatetimeIndex:
    """Count candles that no exchange can have traded as missing, in the frame itself.

    A flat candle without volume, at the close before it, takes the place of each, as in
    `fill_missing_candles`; before the first good candle it is flat at that one's open.

    Parameters
    ----------
    frame
        Candles, oldest first. Where none is good they stay as they are.
    but_last
        Whether the last one stays as it is.

    Returns
    -------
    DatetimeIndex
        The dates of those that were flattened.
    """
    volume = _values(frame, "volume")
    bad = bad_price_rows(frame[list(PRICES)].to_numpy(dtype=np.float64))
    bad |= ~(np.isfinite(volume) & (volume >= 0.0))
    flattened = bad & (not bad.all())
    flattened[-1:] &= not but_last
    if flattened.any():
        flat = frame["close"].mask(bad).ffill().fillna(frame["open"].mask(bad).bfill())
        for column in PRICES:
            frame.loc[flattened, column] = flat[flattened]
        frame.loc[flattened, "volume"] = 0.0
    return pd.DatetimeIndex(frame["date"][flattened])


def resample_candles(
    frame: pd.DataFrame, timeframe: str, base: str = BASE_TIMEFRAME
) -> pd.DataFrame:
    """Aggregate candles exactly into a longer timeframe.

    Bins start at multiples of `timeframe` since the Unix epoch, as the exchanges' do. The first
    bin is dropped unless `frame` holds its first candle, the last unless it holds its last one:
    what is left never changes when more candles arrive. A bin with candles missing inside is made
    of those that are there; a bin with none has no row.

    Parameters
    ----------
    frame
        Candles of timeframe `base`.
    timeframe
        A multiple of `base`.
    base
        Timeframe of `frame`.

    Returns
    -------
    DataFrame
        Columns ``date`` (dtype as in `frame`), ``open`` (first), ``high`` (greatest), ``low``
        (least), ``close`` (last), ``volume`` (sum), with a fresh index.

    Raises
    ------
    MarketError
        If `frame` is not a candle frame, or its candles are shorter than `base`.
    ValueError
        If `timeframe` is not a multiple of `base`.
    """
    check_candles(frame)
    bin_ns, base_ns = timeframe_delta(timeframe).value, timeframe_delta(base).value
    if bin_ns % base_ns:
        raise ValueError(f"timeframe {timeframe!r} is not a multiple of {base!r}")
    opens_ns = _open_times_ns(frame)
    _check_base(opens_ns, base)
    bins = opens_ns // bin_ns
    keep = slice(0, 0)
    if len(frame):
        first_is_partial = opens_ns[0] % bin_ns != 0
        last_is_partial = (opens_ns[-1] + base_ns) % bin_ns != 0
        keep = slice(
            int(np.searchsorted(bins, bins[0], side="right")) if first_is_partial else 0,
            int(np.searchsorted(bins, bins[-1], side="left")) if last_is_partial else len(frame),
        )
    rows, bins = frame.iloc[keep], bins[keep]
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    ends = np.append(starts[1:], len(bins)) - 1 if len(starts) else starts
    dates = pd.DatetimeIndex(bins[starts] * bin_ns, tz="UTC").as_unit(frame["date"].dt.unit)
    return pd.DataFrame(
        {
            "date": dates,
            "open": _values(rows, "open")[starts],
            "high": _reduce(np.maximum, _values(rows, "high"), starts),
            "low": _reduce(np.minimum, _values(rows, "low"), starts),
            "close": _values(rows, "close")[ends],
            "volume": _reduce(np.add, _values(rows, "volume"), starts),
        }
    )


def align_higher_timeframe(
    frame: pd.DataFrame, higher: pd.DataFrame, timeframe: str, base: str = BASE_TIMEFRAME
) -> pd.DataFrame:
    """Rows of `higher` known at the close of each base candle.

    The base candle opening at ``t`` closes at ``t + base``; it gets the newest candle of `higher`
    that has closed by then, which is the convention of freqtrade's ``merge_informative_pair``.
    (The two differ on one point: where the base candle on which a higher candle closes is itself
    missing, the next base candle gets the higher candle here, while freqtrade would skip it.)

    Parameters
    ----------
    frame
        Base candles, ``T`` rows; only ``date`` is read.
    higher
        Any columns, with ``date`` the open time of candles of `timeframe`, rising.
    timeframe, base
        Timeframes of `higher` and of `frame`; `timeframe` is not the shorter one.

    Returns
    -------
    DataFrame
        ``T`` rows with the index of `frame` and the columns of `higher`; missing values where no
        candle has closed yet.

    Raises
    ------
    MarketError
        If candles of `frame` are shorter than `base`: they would see what has not closed yet.
    ValueError
        If `timeframe` is shorter than `base`.
    """
    delay_ns = timeframe_delta(timeframe).value - timeframe_delta(base).value
    if delay_ns < 0:
        raise ValueError(f"cannot merge timeframe {timeframe!r} into the longer {base!r}")
    known_from_ns, opens_ns = _open_times_ns(higher) + delay_ns, _open_times_ns(frame)
    _check_base(opens_ns, base)
    newest = np.searchsorted(known_from_ns, opens_ns, side="right") - 1
    # Position -1 (nothing has closed yet) is no label of the fresh index and becomes missing.
    return higher.reset_index(drop=True).reindex(newest).set_axis(frame.index, axis=0)


def merge_higher_timeframe(
    frame: pd.DataFrame,
    higher: pd.DataFrame,
    timeframe: str,
    suffix: str,
    base: str = BASE_TIMEFRAME,
) -> pd.DataFrame:
    """Add the columns of a longer timeframe to base candles, each only after its candle has closed.

    Parameters
    ----------
    frame
        Candles of timeframe `base`, ``T`` rows.
    higher
        Candles, indicators or both of `timeframe`, with their open times in ``date``.
    timeframe
        Timeframe of `higher`.
    suffix
        Every column of `higher`, ``date`` among them, is named ``{column}_{suffix}``.
    base
        Timeframe of `frame`.

    Returns
    -------
    DataFrame
        `frame` with the new columns at the end, as in :func:`align_higher_timeframe`.
    """
    aligned = align_higher_timeframe(frame, higher, timeframe, base).add_suffix(f"_{suffix}")
    clash = frame.columns.intersection(aligned.columns)
    if len(clash):
        raise ValueError(f"column {clash[0]!r} is already in the frame; use another suffix")
    return pd.concat([frame, aligned], axis=1)


def with_earlier_candles(
    higher: pd.DataFrame, earlier: pd.DataFrame, timeframe: str
) -> pd.DataFrame:
    """Put candles of the same timeframe before others, so that indicators begin earlier.

    Parameters
    ----------
    higher
        Candles of `timeframe`, made from base candles.
    earlier
        Candles of `timeframe` of the same pair from another place, such as a file of their own.
        Those that open when the first of `higher` does, or later, are left out. Nothing is put
        before where they do not reach up to it.

    Returns
    -------
    DataFrame
        The candle columns, with a fresh index and the dates' type of `higher`.
    """
    before = earlier.iloc[:0]
    if len(higher) and len(earlier):
        first_ns, step_ns = _open_times_ns(higher)[0], timeframe_delta(timeframe).value
        opens_ns = _open_times_ns(earlier)
        count = int(np.searchsorted(opens_ns, first_ns))
        if count and opens_ns[count - 1] + step_ns == first_ns:
            before = earlier.iloc[:count]
    opens_ns = np.concatenate([_open_times_ns(before), _open_times_ns(higher)])
    unit = higher["date"].dt.unit
    joined = {"date": pd.DatetimeIndex(opens_ns, tz="UTC").as_unit(unit)} | {
        column: np.concatenate([_values(before, column), _values(higher, column)])
        for column in CANDLE_COLUMNS[1:]
    }
    return pd.DataFrame(joined)


def _check_base(opens_ns: NDArray[np.int64], base: str) -> None:
    """Refuse candles shorter than their timeframe is said to be."""
    shortest_ns = int(np.diff(opens_ns).min(initial=timeframe_delta(base).value))
    if shortest_ns < timeframe_delta(base).value:
        raise MarketError(
            f"candle frame: column 'date': candles are {shortest_ns / 60e9:g} minutes apart, so "
            f"they are not of timeframe {base!r}; name theirs"
        )


def _open_times_ns(frame: pd.DataFrame) -> NDArray[np.int64]:
    return frame["date"].to_numpy(dtype="datetime64[ns]").astype(np.int64)


def _values(frame: pd.DataFrame, column: str) -> NDArray[np.float64]:
    return frame[column].to_numpy(dtype=np.float64)


def _reduce(
    operation: np.ufunc, values: NDArray[np.float64], starts: NDArray[np.intp]
) -> NDArray[np.float64]:
    """``operation.reduceat``, which refuses to reduce nothing, for no bins as well."""
    return operation.reduceat(values, starts) if len(starts) else values[:0]
