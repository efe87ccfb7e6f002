"""`Market`: the validated arrays of one pair, all that the agent and the simulator see."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError, UntrainableError
from mtf_scalper.market.arrays import (
    one_number,
    read_mask,
    read_numbers,
    read_prices,
    shared_dates,
)
from mtf_scalper.market.dates import read_dates
from mtf_scalper.market.names import names_of
from mtf_scalper.market.problems import (
    Dates,
    bad_rows,
    date_problem,
    gap_notice,
    jump_notice,
    price_problem,
    step_problem,
)

logger = logging.getLogger(__name__)

OPEN, HIGH, LOW, CLOSE = range(4)
LIQUIDATIONS = ("liquidation_long", "liquidation_short")
_MOST_LIQUIDATION = 10.0
"""No margin carries a short trade farther; a price in quote currency mostly lies beyond it."""

_MASKS = ("entry_long", "entry_short")
_CONDITIONS = ("leverage", "funding", "funding_between", "tick_size")


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
        Fee per side as a share of the traded value (0.0005 is 0.05%); one for all rows, as
        freqtrade has it.
    leverage : ndarray of float64, shape (T,)
        Leverage of a trade decided at row ``t``, at least 1. A scalar is spread over all rows.
    funding : ndarray of float64, shape (T,)
        Funding due at the open of row ``t``, in quote currency per unit of the base currency held
        (rate times mark price); longs pay it when it is positive and shorts receive it.
    funding_between : ndarray of float64, shape (T,)
        Funding due after the open of row ``t - 1`` and before that of row ``t``, where candles are
        longer than the time between settlements or some are missing; a trade that opens at row
        ``t`` has no part in it. Default: none.
    tick_size : ndarray of float64, shape (T,)
        Price step of the exchange at each row; 0 leaves prices unrounded.
    liquidation_long, liquidation_short : ndarray of float64, shape (T,)
        Liquidation price of a long or short trade decided at row ``t``, freqtrade's buffer applied,
        as a multiple of the rate at which it opens; 0 where it is never liquidated, NaN (the
        default) where ``TradeRules.maintenance_margin_rate`` and the leverage say it.
    dates : ndarray of datetime64[ns], shape (T,), optional
        Candle open times in UTC, strictly increasing; see ``dates.read_dates`` for what is taken.
        Where none are given, an index of dates that Series or DataFrames have is taken. Missing
        candles are accepted: the rows around a gap count as neighbours, and one line of the log
        names the pair, their number and the longest gap.
    timeframe_minutes : int
        Length of a candle; dates that lie another length apart are refused.
    ends_early : bool
        Whether a backtest that goes on with other pairs ends after the last row. freqtrade enters
        at the last candle of such a pair, and leaves at the same open where nothing inside that
        candle ends the trade.
    pair : str
        Name used in messages and trades.
    feature_names : tuple of str
        Names of the columns of ``features``; a DataFrame brings its own. They are compared wherever
        a policy meets a market, so that columns that moved are no silent matter.
    report_gaps : bool
        Whether to log missing candles and prices that jump as none does, and to compare the dates
        with the timeframe; off for a part of candles of which that is done.

    ``features``, ``ohlc`` and the rest are taken as arrays, lists, tensors, Series or DataFrames;
    in a DataFrame the prices are found by the names of its columns. What is no number is refused.

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
    funding_between: NDArray[np.float64] = field(default_factory=lambda: np.array(0.0))
    tick_size: NDArray[np.float64] = field(default_factory=lambda: np.array(0.0))
    liquidation_long: NDArray[np.float64] = field(default_factory=lambda: np.array(np.nan))
    liquidation_short: NDArray[np.float64] = field(default_factory=lambda: np.array(np.nan))
    dates: NDArray[np.datetime64] | None = None
    timeframe_minutes: int = 5
    ends_early: bool = False
    pair: str = "market"
    feature_names: tuple[str, ...] = ()
    report_gaps: InitVar[bool] = True

    def __post_init__(self, report_gaps: bool) -> None:
        """Bring every array into its shape and type, then check it."""
        try:
            values = self._read()
        except MarketError as error:
            raise MarketError(f"{self.pair}: {error}") from None
        for name, value in values.items():
            object.__setattr__(self, name, value)
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
        self._check()
        if not report_gaps:
            return
        notices = [jump_notice(self.ohlc, self.dates)]
        if self.dates is not None:
            self._refuse(step_problem(self.dates, self.timeframe_minutes))
            notices.append(gap_notice(self.dates, self.timeframe_minutes))
        for notice in notices:
            if notice is not None:
                logger.warning("%s: %s", self.pair, notice)

    def _read(self) -> dict[str, Any]:
        """Return all fields as they are kept. Copies: the caller's arrays stay writable."""
        given = read_numbers("features", self.features, takes_booleans=True)
        with np.errstate(over="ignore"):  # too large for float32 becomes inf and is reported
            features = np.array(given, dtype=np.float32, order="C")
        ohlc = read_prices(self.ohlc)
        if features.ndim != 2 or features.shape[1] == 0:
            raise MarketError(f"features must have shape (T, F) with F >= 1, got {features.shape}")
        n_candles = len(features)
        if ohlc.shape != (n_candles, 4):
            wanted = f"({n_candles}, 4) as features has"
            raise MarketError(f"ohlc must have shape {wanted}, got {ohlc.shape}")
        if n_candles < 3:
            raise MarketError(f"needs at least 3 candles, got {n_candles}")
        values: dict[str, Any] = {"features": features, "ohlc": ohlc}
        values["feature_names"] = names_of(self.features, self.feature_names, features.shape[1])
        for name in _MASKS:
            mask = read_mask(name, getattr(self, name))
            values[name] = mask if mask.size else np.zeros(n_candles, dtype=np.bool_)
        for name in (*_CONDITIONS, *LIQUIDATIONS):
            condition = np.asarray(read_numbers(name, getattr(self, name)), dtype=np.float64)
            values[name] = _spread(condition, n_candles)
        values["fee_rate"] = one_number("fee_rate", self.fee_rate)
        values["timeframe_minutes"] = _whole_minutes(self.timeframe_minutes)
        values["dates"] = self._read_dates(n_candles)
        return values

    def _read_dates(self, n_candles: int) -> Dates | None:
        """Return the dates that are given, or that the rows are indexed by."""
        names = ("features", "ohlc", *_MASKS, *_CONDITIONS, *LIQUIDATIONS)
        index = shared_dates({name: getattr(self, name) for name in names})
        dates = None if self.dates is None else read_dates(self.dates, n_candles)
        if index is None:
            return dates
        found = read_dates(index, n_candles, "the index's dates")
        if dates is not None and (found != dates).any():
            row = int(np.argmax(found != dates))
            raise MarketError(f"dates differ from the index at row {row}")
        return found

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
            funding_between=self.funding_between[rows],
            tick_size=self.tick_size[rows],
            liquidation_long=self.liquidation_long[rows],
            liquidation_short=self.liquidation_short[rows],
            dates=None if self.dates is None else self.dates[rows],
            timeframe_minutes=self.timeframe_minutes,
            ends_early=self.ends_early and stop >= len(self),
            pair=self.pair,
            feature_names=self.feature_names,
            report_gaps=False,
        )

    def _check(self) -> None:
        n_candles = len(self)
        for name in (*_MASKS, *_CONDITIONS, *LIQUIDATIONS):
            value = getattr(self, name)
            if value.shape != (n_candles,):
                self._fail(f"{name} must have shape ({n_candles},), got {value.shape}")
        if self.dates is not None:
            self._refuse(date_problem(self.dates, "dates"))
        self._check_finite(self.features, self.feature_names)
        for name in _CONDITIONS:
            self._check_finite(getattr(self, name)[:, None], (name,))
        self._refuse(price_problem(self.ohlc, self.dates))
        self._check_rows(self.leverage < 1.0, "leverage", "is below 1")
        self._check_rows(self.tick_size < 0.0, "tick_size", "is negative")
        for name in LIQUIDATIONS:
            level = getattr(self, name)
            self._check_rows(level < 0.0, name, "is negative")
            beyond = level > _MOST_LIQUIDATION
            self._check_rows(beyond, name, "is no multiple of the open rate")
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


def with_early_ends(markets: Mapping[str, Market]) -> dict[str, Market]:
    """Return the markets of one backtest by pair, those marked that end before the last one."""
    ends = {pair: market.dates[-1] for pair, market in markets.items() if market.dates is not None}
    last = max(ends.values(), default=None)
    return {
        pair: replace(market, ends_early=True, report_gaps=False)
        if last is not None and pair in ends and ends[pair] < last
        else market
        for pair, market in markets.items()
    }


def _spread(value: NDArray[np.float64], n_candles: int) -> NDArray[np.float64]:
    return np.full(n_candles, float(value)) if value.ndim == 0 else value.copy()


def _whole_minutes(given: Any) -> int:
    minutes = one_number("timeframe_minutes", given)
    if minutes != minutes // 1:  # NaN and infinity too
        raise MarketError(f"timeframe_minutes must be a whole number, got {given!r}")
    return int(minutes)
