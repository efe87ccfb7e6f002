"""`Market`: the validated arrays of one pair, all that the agent and the simulator see."""

from __future__ import annotations

import logging
from dataclasses import InitVar, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError, UntrainableError

__all__ = [
    "CLOSE",
    "HIGH",
    "LOW",
    "OPEN",
    "PRICES",
    "Market",
    "bad_rows",
    "date_problem",
    "gap_notice",
    "price_problem",
]

logger = logging.getLogger(__name__)

OPEN, HIGH, LOW, CLOSE = range(4)
PRICES = ("open", "high", "low", "close")

Dates = NDArray[np.datetime64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Market:
    """Candles, features and signals of one pair; row ``t`` is the candle that opens at time ``t``.

    Attributes
    ----------
    features : ndarray of float32, shape (T, F)
        What the network sees of each candle; causal, finite.
    ohlc : ndarray of float64, shape (T, 4)
        Open, high, low and close in quote currency; positive, low <= open, close <= high.
    entry_long, entry_short : ndarray of bool, shape (T,)
        Where the classic rule proposes an entry at the close of row ``t``. Default: nowhere.
    fee_rate : float
        Fee per side as a share of the traded value (0.0005 is 0.05%).
    leverage : ndarray of float64, shape (T,)
        Leverage of a trade decided at row ``t``, at least 1. A scalar is spread over all rows.
    funding : ndarray of float64, shape (T,)
        Funding due at the open of row ``t``, in quote currency per unit of the base currency held
        (rate times mark price); longs pay it when it is positive and shorts receive it.
    tick_size : ndarray of float64, shape (T,)
        Price step of the exchange at each row; 0 leaves prices unrounded.
    dates : ndarray of datetime64[ns], shape (T,), optional
        Candle open times, strictly increasing. Missing candles are accepted: the rows around a gap
        count as neighbours, and one line of the log names the pair, their number and the longest
        gap.
    timeframe_minutes : int
        Length of a candle.
    pair : str
        Name used in messages and trades.
    feature_names : tuple of str
        Names of the columns of ``features``.
    report_gaps : bool
        Whether to log missing candles; off for a part of candles whose gaps have been reported.

    Raises
    ------
    MarketError
        One line that names the pair, the column, the date of the first bad value (its row where
        there are no dates) and the number of such rows.
    """

    features: NDArray[np.float32]
    ohlc: NDArray[np.float64]
    entry_long: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    entry_short: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    fee_rate: float = 0.0005
    leverage: NDArray[np.float64] = field(default_factory=lambda: np.array(1.0))
    funding: NDArray[np.float64] = field(default_factory=lambda: np.array(0.0))
    tick_size: NDArray[np.float64] = field(default_factory=lambda: np.array(0.0))
    dates: NDArray[np.datetime64] | None = None
    timeframe_minutes: int = 5
    pair: str = "market"
    feature_names: tuple[str, ...] = ()
    report_gaps: InitVar[bool] = True

    def __post_init__(self, report_gaps: bool) -> None:
        """Bring every array into its shape and type, then check it."""
        # Copies: what was checked stays as it was, and the caller's arrays stay writable.
        with np.errstate(over="ignore"):  # too large for float32 becomes inf and is reported
            features = np.array(self.features, dtype=np.float32, order="C")
        ohlc = np.array(self.ohlc, dtype=np.float64, order="C")
        if features.ndim != 2 or features.shape[1] == 0:
            self._fail(f"features must have shape (T, F) with F >= 1, got {features.shape}")
        n_candles = len(features)
        if ohlc.shape != (n_candles, 4):
            self._fail(f"ohlc must have shape ({n_candles}, 4) as features has, got {ohlc.shape}")
        if n_candles < 3:
            self._fail(f"needs at least 3 candles, got {n_candles}")
        names = tuple(self.feature_names) or tuple(f"feature_{i}" for i in range(features.shape[1]))
        if len(names) != features.shape[1]:
            self._fail(f"{len(names)} feature_names for {features.shape[1]} features")
        values: dict[str, Any] = {"features": features, "ohlc": ohlc, "feature_names": names}
        for name in ("entry_long", "entry_short"):
            values[name] = self._entry_mask(name, n_candles)
        for name in ("leverage", "funding", "tick_size"):
            values[name] = _spread(np.asarray(getattr(self, name), dtype=np.float64), n_candles)
        if self.dates is not None:
            values["dates"] = np.array(self.dates, dtype="datetime64[ns]")
        for name, value in values.items():
            object.__setattr__(self, name, value)
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
        self._check()
        if report_gaps and self.dates is not None:
            notice = gap_notice(self.dates, self.timeframe_minutes)
            if notice is not None:
                logger.warning("%s: %s", self.pair, notice)

    def __len__(self) -> int:
        """Return the number of candles T."""
        return len(self.features)

    @property
    def n_features(self) -> int:
        """Number of features F."""
        return int(self.features.shape[1])

    def slice(self, start: int, stop: int) -> Market:
        """Return the rows ``start .. stop - 1`` as a market of their own."""
        rows = slice(start, stop)
        return Market(
            features=self.features[rows],
            ohlc=self.ohlc[rows],
            entry_long=self.entry_long[rows],
            entry_short=self.entry_short[rows],
            fee_rate=self.fee_rate,
            leverage=self.leverage[rows],
            funding=self.funding[rows],
            tick_size=self.tick_size[rows],
            dates=None if self.dates is None else self.dates[rows],
            timeframe_minutes=self.timeframe_minutes,
            pair=self.pair,
            feature_names=self.feature_names,
            report_gaps=False,
        )

    def _entry_mask(self, name: str, n_candles: int) -> NDArray[np.bool_]:
        given = np.asarray(getattr(self, name))
        if not given.size:
            return np.zeros(n_candles, dtype=np.bool_)
        # As a bool a missing value would be an entry.
        bad = np.flatnonzero(~((given == 0) | (given == 1)))
        if bad.size:
            self._fail(f"{name} is {given.flat[bad[0]]} at row {bad[0]}; use True and False")
        return given.astype(np.bool_)

    def _check(self) -> None:
        n_candles = len(self)
        for name in ("entry_long", "entry_short", "leverage", "funding", "tick_size", "dates"):
            value = getattr(self, name)
            if value is not None and value.shape != (n_candles,):
                self._fail(f"{name} must have shape ({n_candles},), got {value.shape}")
        if self.dates is not None:
            self._refuse(date_problem(self.dates, "dates"))
        self._check_finite(self.features, self.feature_names)
        for name in ("leverage", "funding", "tick_size"):
            self._check_finite(getattr(self, name)[:, None], (name,))
        self._refuse(price_problem(self.ohlc, self.dates))
        self._check_rows(self.leverage < 1.0, "leverage", "is below 1")
        self._check_rows(self.tick_size < 0.0, "tick_size", "is negative")
        if float(self.ohlc.max()) == float(self.ohlc.min()):
            raise UntrainableError(
                f"{self.pair}: the price is constant ({self.ohlc[0, OPEN]}) over all "
                f"{len(self)} candles"
            )
        if not 0.0 <= self.fee_rate < 0.1:
            self._fail(f"fee_rate must lie in [0, 0.1), got {self.fee_rate}")
        if self.timeframe_minutes < 1:
            self._fail(f"timeframe_minutes must be at least 1, got {self.timeframe_minutes}")

    def _check_finite(self, values: NDArray[Any], names: tuple[str, ...]) -> None:
        bad = ~np.isfinite(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            self._check_rows(bad[:, column], names[column], f"is {values[row, column]}")

    def _check_rows(self, bad: NDArray[np.bool_], name: str, problem: str) -> None:
        if bad.any():
            self._fail(bad_rows(name, problem, bad, self.dates))

    def _refuse(self, problem: str | None) -> None:
        if problem is not None:
            self._fail(problem)

    def _fail(self, problem: str) -> None:
        raise MarketError(f"{self.pair}: {problem}")


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
        problem = f"is out of order after {_date_text(dates[row - 1])}"
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
    place = f"row {row}" if dates is None else _date_text(dates[row])
    return f"column {column!r} {problem} at {place} ({_count(int(bad.sum()), 'such row')})"


def gap_notice(dates: Dates, timeframe_minutes: int) -> str | None:
    """Say how many candles are missing between rising dates and where most are, None if none is."""
    steps = np.diff(dates) // np.timedelta64(timeframe_minutes, "m")
    missing = np.maximum(steps - 1, 0)
    if not missing.any():
        return None
    longest = int(np.argmax(missing))
    return (
        f"{_count(int(missing.sum()), 'candle')} of {timeframe_minutes}m missing in "
        f"{_count(int(np.count_nonzero(missing)), 'gap')}, at most {missing[longest]} of them "
        f"after {_date_text(dates[longest])}; the rows around a gap count as neighbours"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _date_text(moment: np.datetime64) -> str:
    whole = moment == moment.astype("datetime64[m]")
    return str(np.datetime_as_string(moment, unit="m" if whole else "ms")).replace("T", " ")


def _spread(value: NDArray[np.float64], n_candles: int) -> NDArray[np.float64]:
    return np.full(n_candles, float(value)) if value.ndim == 0 else value.copy()
