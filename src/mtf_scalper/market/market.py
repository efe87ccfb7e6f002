"""`Market`: the validated arrays of one pair, all that the agent and the simulator see."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError

__all__ = ["CLOSE", "HIGH", "LOW", "OPEN", "Market"]

OPEN, HIGH, LOW, CLOSE = range(4)
_COLUMNS = ("open", "high", "low", "close")


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
        Candle open times, strictly increasing.
    timeframe_minutes : int
        Length of a candle.
    pair : str
        Name used in messages and trades.
    feature_names : tuple of str
        Names of the columns of ``features``.

    Raises
    ------
    MarketError
        One line that names the pair, the column and the row of the first bad value.
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

    def __post_init__(self) -> None:
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
        self._check_finite(self.features, self.feature_names)
        self._check_finite(self.ohlc, _COLUMNS)
        for name in ("leverage", "funding", "tick_size"):
            self._check_finite(getattr(self, name)[:, None], (name,))
        self._check_prices()
        self._check_rows(self.leverage < 1.0, "leverage", "is below 1")
        self._check_rows(self.tick_size < 0.0, "tick_size", "is negative")
        if not 0.0 <= self.fee_rate < 0.1:
            self._fail(f"fee_rate must lie in [0, 0.1), got {self.fee_rate}")
        if self.timeframe_minutes < 1:
            self._fail(f"timeframe_minutes must be at least 1, got {self.timeframe_minutes}")
        if self.dates is not None:
            # Negated, so that a missing date counts as out of order.
            late = np.concatenate([[False], ~(self.dates[1:] > self.dates[:-1])])
            self._check_rows(late, "dates", "is not after the row before it")

    def _check_finite(self, values: NDArray[Any], names: tuple[str, ...]) -> None:
        bad = ~np.isfinite(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            self._fail(
                f"column {names[column]!r} is {values[row, column]} at {self._place(int(row))} "
                f"({int(bad[:, column].sum())} such rows)"
            )

    def _check_prices(self) -> None:
        opened, high, low, close = self.ohlc.T
        for column, name in enumerate(_COLUMNS):
            self._check_rows(self.ohlc[:, column] <= 0.0, name, "is not positive")
        self._check_rows(high < np.maximum(opened, close), "high", "is below open or close")
        self._check_rows(low > np.minimum(opened, close), "low", "is above open or close")
        if float(self.ohlc.max()) == float(self.ohlc.min()):
            self._fail(f"the price is constant ({opened[0]}) over all {len(self)} candles")

    def _check_rows(self, bad: NDArray[np.bool_], name: str, problem: str) -> None:
        if bad.any():
            self._fail(f"column {name!r} {problem} at {self._place(int(np.argmax(bad)))}")

    def _place(self, row: int) -> str:
        if self.dates is None or row >= len(self.dates):
            return f"row {row}"
        return f"row {row} ({np.datetime_as_string(self.dates[row], unit='m')})"

    def _fail(self, problem: str) -> None:
        raise MarketError(f"{self.pair}: {problem}")


def _spread(value: NDArray[np.float64], n_candles: int) -> NDArray[np.float64]:
    return np.full(n_candles, float(value)) if value.ndim == 0 else value.copy()
