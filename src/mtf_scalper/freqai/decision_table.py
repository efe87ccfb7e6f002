"""What a strategy's callbacks look up about one pair, by the time of the last closed candle."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.freqai import columns
from mtf_scalper.simulator.types import Side


@dataclass(frozen=True)
class DecisionTable:
    """The analysed candles of one pair.

    Attributes
    ----------
    dates : ndarray of datetime64[ns], shape (T,)
        Open times of the candles, increasing.
    close, high, low, atr_pct, leverage : ndarray of float64, shape (T,)
    predicted : ndarray of bool, shape (T,)
        Whether the model made a prediction.
    exit_long, exit_short : ndarray of float64, shape (T,)
        Probability of leaving, given that the agent can only leave or stay; 0 where the model
        made no prediction.
    """

    dates: NDArray[np.datetime64]
    close: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    atr_pct: NDArray[np.float64]
    leverage: NDArray[np.float64]
    predicted: NDArray[np.bool_]
    exit_long: NDArray[np.float64]
    exit_short: NDArray[np.float64]

    def last_closed(self, candle: datetime) -> int:
        """Return the row of the last candle that opened before ``candle``, -1 if there is none."""
        return int(np.searchsorted(self.dates, utc(candle), side="left")) - 1

    def reaches(self, opened: datetime, last: datetime) -> bool:
        """Return whether candles from ``opened`` on are there, and the one that opened at ``last``.

        A running bot's table is behind where the last candle could not be analysed.
        """
        if not len(self.dates) or self.dates[0] > utc(opened):
            return False
        return bool(self.dates[-1] >= utc(last))

    def extremes(
        self, opened: datetime, candle: datetime, side: Side, open_rate: float
    ) -> tuple[float, float]:
        """Return best and worst price of a trade, entry and candles before ``candle`` included."""
        rows = slice(int(np.searchsorted(self.dates, utc(opened))), self.last_closed(candle) + 1)
        highest = float(self.high[rows].max(initial=open_rate))
        lowest = float(self.low[rows].min(initial=open_rate))
        return (highest, lowest) if side is Side.LONG else (lowest, highest)


def table_of(
    frame: pd.DataFrame, atr_pct: pd.Series, predicted: NDArray[np.bool_]
) -> DecisionTable:
    """Return the table of a frame that was analysed.

    Parameters
    ----------
    frame : DataFrame
        Candles with ``classic_leverage``, ``agent_exit_long`` and ``agent_exit_short``.
    atr_pct : Series
        Of the base timeframe.
    predicted : ndarray of bool, shape (T,)
    """

    def numbers(name: str) -> NDArray[np.float64]:
        return np.asarray(frame[name].to_numpy(dtype=np.float64))

    return DecisionTable(
        dates=frame["date"].dt.tz_localize(None).to_numpy(dtype="datetime64[ns]"),
        close=numbers("close"),
        high=numbers("high"),
        low=numbers("low"),
        atr_pct=atr_pct.to_numpy(dtype=np.float64),
        leverage=numbers(columns.LEVERAGE),
        predicted=predicted,
        exit_long=numbers("agent_exit_long"),
        exit_short=numbers("agent_exit_short"),
    )


def utc(moment: datetime) -> np.datetime64:
    """Return a moment as the tables hold it."""
    return np.datetime64(moment.replace(tzinfo=None), "ns")
