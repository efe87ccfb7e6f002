"""What an account did day by day, and the figures that are made of its days.

Everything is measured on daily log returns, with 365 days a year, because the market is open every
day. Returns of 5m candles would give 105,120 periods, most of them zero and the others bound
together by the trade that they belong to: multiplying by the root of 105,120 takes them for
independent, and the ratio then says more about the candles' length than about the account
(Lo 2002, *The statistics of Sharpe ratios*).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.market.market import Market
from mtf_scalper.simulator.playback import Simulation
from mtf_scalper.simulator.types import Side

DAYS_PER_YEAR: Final = 365

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Dates = NDArray[np.datetime64]


@dataclass(frozen=True, eq=False)
class Days:
    """What one account did on each day; all arrays are float64 of shape (D,).

    Attributes
    ----------
    log_return : ndarray
        Change of log equity, after fees and funding.
    exposure : ndarray
        Share of the day's candles in which a position was held.
    turnover : ndarray
        Traded value as a multiple of the account: leverage on the way in, and as much of it as is
        left on the way out.
    n_trades, n_wins : ndarray
        Trades by the day on which they were closed, and those of them with a profit.
    profit : ndarray
        Sum of their profit ratios after fees and funding.
    """

    log_return: Floats
    exposure: Floats
    turnover: Floats
    n_trades: Floats
    n_wins: Floats
    profit: Floats

    def __len__(self) -> int:
        """Return the number of days D."""
        return len(self.log_return)

    def stacked(self) -> Floats:
        """Return all of it, shape (D, 6), in the order of the attributes."""
        return np.stack([getattr(self, name) for name in _COLUMNS], axis=1)


_COLUMNS: Final = tuple(Days.__dataclass_fields__)


def calendar_of(markets: Iterable[Market]) -> Dates:
    """Return the days on which any of these markets has candles; datetime64[D], shape (D,)."""
    return np.unique(np.concatenate([days_by_row(market) for market in markets]))


def days_by_row(market: Market) -> Dates:
    """Return the day of each row in UTC; datetime64[D], shape (T,).

    A candle that opens at midnight and ends its market belongs to the day before: nothing is
    decided there any more, it is where an open trade is closed.
    """
    assert market.dates is not None
    days = market.dates.astype("datetime64[D]")
    if len(days) > 1 and days[-1] == market.dates[-1]:
        days[-1] = days[-2]
    return days


def days_of(run: Simulation, days: Rows, n_days: int) -> Days:
    """Return what a run did on each day.

    Parameters
    ----------
    run : Simulation
    days : ndarray of int64, shape (T,)
        Number of each row's day.
    n_days : int
        How many days there are. One without candles has nothing.
    """
    log_equity = np.log(run.equity)
    change = np.diff(log_equity, prepend=log_equity[:1])
    held = (run.sides_held() != Side.FLAT).astype(np.float64)
    closed = np.array([trade.close_row for trade in run.trades], dtype=np.int64)
    opened = np.array([trade.open_row for trade in run.trades], dtype=np.int64)
    leverage = np.array([trade.leverage for trade in run.trades])
    left = np.array([trade.close_rate / trade.open_rate for trade in run.trades])
    profit = np.array([trade.profit_ratio for trade in run.trades])

    def total(rows: Rows, weights: Floats) -> Floats:
        return np.bincount(days[rows], weights, minlength=n_days).astype(np.float64)

    every = np.arange(len(days))
    n_candles = np.bincount(days, minlength=n_days)
    return Days(
        log_return=total(every, change),
        exposure=total(every, held) / np.maximum(n_candles, 1),
        turnover=total(opened, leverage) + total(closed, leverage * left),
        n_trades=total(closed, np.ones(len(closed))),
        n_wins=total(closed, (profit > 0.0).astype(np.float64)),
        profit=total(closed, profit),
    )


def pooled_days(several: list[Days]) -> Days:
    """Return the mean over accounts of the same days, of several seeds say.

    Means of the sums: a figure of trades weighs all trades alike, whichever account made them.
    """
    stacked = np.mean([each.stacked() for each in several], axis=0)
    return Days(*stacked.T)


def sharpe_ratio(log_returns: Floats) -> Floats:
    """Return mean over standard deviation of daily log returns, times the root of 365.

    Parameters
    ----------
    log_returns : ndarray of float64, shape (..., D)

    Returns
    -------
    ndarray of float64, shape (...)
        NaN where nothing varies, or on one day (Sharpe 1994, without a rate free of risk).
    """
    if log_returns.shape[-1] < 2:
        return np.full(log_returns.shape[:-1], np.nan)
    mean, deviation = log_returns.mean(axis=-1), log_returns.std(axis=-1, ddof=1)
    return np.asarray(_ratio(mean, deviation) * np.sqrt(DAYS_PER_YEAR))


def sortino_ratio(log_returns: Floats) -> Floats:
    """Return the same with the downside deviation: root of the mean of squared losses, gains as 0.

    See ``sharpe_ratio``; NaN where no day loses (Sortino and Price 1994, target 0).
    """
    losses = np.minimum(log_returns, 0.0)
    downside = np.sqrt(np.mean(losses**2, axis=-1))
    return np.asarray(_ratio(log_returns.mean(axis=-1), downside) * np.sqrt(DAYS_PER_YEAR))


def max_drawdown(log_returns: Floats) -> Floats:
    """Return the largest fall from an earlier peak, as a share of that peak; shape (...).

    Parameters
    ----------
    log_returns : ndarray of float64, shape (..., D)
        The account starts at a peak.
    """
    path = np.cumsum(log_returns, axis=-1)
    path = np.concatenate([np.zeros_like(path[..., :1]), path], axis=-1)
    fall = np.max(np.maximum.accumulate(path, axis=-1) - path, axis=-1)
    return np.asarray(-np.expm1(-fall), dtype=np.float64)


def _ratio(part: Floats, whole: Floats) -> Floats:
    """``part / whole``, NaN where there is next to no whole: a constant's deviation is rounding."""
    whole = np.asarray(whole, dtype=np.float64)
    is_some = whole > 1e-12
    return np.asarray(np.divide(part, whole, out=np.full(whole.shape, np.nan), where=is_some))


Figure = Callable[[Floats], Floats]
"""From days of shape (..., D, 6), see ``Days.stacked``, to a figure of shape (...)."""

_RETURN, _EXPOSURE, _TURNOVER, _TRADES, _WINS, _PROFIT = range(len(_COLUMNS))

FIGURES: Final[Mapping[str, Figure]] = MappingProxyType(
    {
        "log_return": lambda days: days[..., _RETURN].sum(axis=-1),
        "sharpe": lambda days: sharpe_ratio(days[..., _RETURN]),
        "sortino": lambda days: sortino_ratio(days[..., _RETURN]),
        "max_drawdown": lambda days: max_drawdown(days[..., _RETURN]),
        "exposure": lambda days: days[..., _EXPOSURE].mean(axis=-1),
        "turnover_per_day": lambda days: days[..., _TURNOVER].mean(axis=-1),
        "trades_per_day": lambda days: days[..., _TRADES].mean(axis=-1),
        "win_rate": lambda days: _ratio(
            days[..., _WINS].sum(axis=-1), days[..., _TRADES].sum(axis=-1)
        ),
        "average_trade": lambda days: _ratio(
            days[..., _PROFIT].sum(axis=-1), days[..., _TRADES].sum(axis=-1)
        ),
    }
)
"""Figures of an account by name; drawdown is that of the days' ends."""
