"""The safety rules of an open trade: they need the trade and the rate, and nothing else.

A running bot asks them while FreqAI fails, before the first candle after a start is analysed, and
for a pair that left the list. The candles of the analysis make them exactly those of a backtest;
where these are missing the bot's own highest and lowest rate of the trade take their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from freqtrade.exchange import timeframe_to_prev_date, timeframe_to_seconds
from freqtrade.persistence import Trade

from mtf_scalper.freqai.decision_table import DecisionTable
from mtf_scalper.simulator.exits import EXIT_CODES, profit_ratio, safety_exit
from mtf_scalper.simulator.types import ExitReason, Side

SAFETY_EXITS = frozenset(
    {
        *(ExitReason.EMERGENCY, ExitReason.BREAK_EVEN, ExitReason.MAX_DURATION),
        *(ExitReason.STOP_LOSS, ExitReason.TRAILING_STOP, ExitReason.LIQUIDATION),
        *("stoploss_on_exchange", "emergency_exit", "force_exit"),
    }
)
"""Reasons of exits that bound a loss or that a person asked for; nothing may decline them."""


def filled_at(trade: Trade) -> datetime:
    """Return when a trade's position began: its first fill, the order where none is noted.

    An order can wait. What happened to the price before it filled is no part of the trade.
    """
    filled: datetime = trade.date_entry_fill_utc or trade.open_date_utc
    return filled


@dataclass(frozen=True)
class Life:
    """What a trade has lived through until now.

    Attributes
    ----------
    side : Side
    candle : datetime
        The candle that is being traded in opened then.
    age_candles : int
        Candles since the one in which the entry filled.
    best_rate, worst_rate : float
        Of the entry and the candles that have closed since.
    """

    side: Side
    candle: datetime
    age_candles: int
    best_rate: float
    worst_rate: float


def life_of(
    trade: Trade,
    now: datetime,
    timeframe: str,
    table: DecisionTable | None,
    *,
    is_running: bool,
) -> Life:
    """Return what a trade has lived through.

    Parameters
    ----------
    trade : Trade
    now : datetime
    timeframe : str
    table : DecisionTable, optional
        The pair's candles, as far as they were analysed.
    is_running : bool
        Whether a bot asks. Its own highest and lowest rate then stand in for candles that are
        missing in the table; in a backtest those hold what is still to come in this candle.
    """
    side = Side.SHORT if trade.is_short else Side.LONG
    step = timedelta(seconds=timeframe_to_seconds(timeframe))
    candle = timeframe_to_prev_date(timeframe, now)
    opened = timeframe_to_prev_date(timeframe, filled_at(trade))
    age = max(int((candle - opened) / step), 0)
    best = worst = trade.open_rate
    if table is not None:
        best, worst = table.extremes(opened, candle, side, trade.open_rate)
    if is_running and age and (table is None or not table.reaches(opened, candle - step)):
        highest = max(best, worst, trade.max_rate or trade.open_rate)
        lowest = min(best, worst, trade.min_rate or trade.open_rate)
        best, worst = (highest, lowest) if side is Side.LONG else (lowest, highest)
    return Life(side, candle, age, best, worst)


def safety_reason(
    trade: Trade, life: Life, profit: float, limits: tuple[float, float, float, int]
) -> str | None:
    """Return the exit that the safety rules demand now, None for none.

    Parameters
    ----------
    trade : Trade
    life : Life
    profit : float
        Profit ratio at the rate of now.
    limits : tuple
        See ``simulator.exits.safety_limits``.
    """
    best = profit_ratio(
        int(life.side), trade.open_rate, life.best_rate, trade.fee_open, float(trade.leverage)
    )
    return EXIT_CODES.get(safety_exit(life.age_candles, profit, best, *limits))
