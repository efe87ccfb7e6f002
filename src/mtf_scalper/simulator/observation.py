"""What the agent sees: a window of features, its own position where asked for, and its mask.

An observation is one flat float32 vector. The window comes first, candle by candle; then, with
``add_state_info``, the five numbers of ``position_state``; then the action mask as zeros and ones,
which the policy applies to its probabilities and never takes as an input.

The position's state is taken at the close of the deciding candle. It leaves funding out: the bot
has already charged, at the next open, what the environment has not.
"""

from __future__ import annotations

from math import floor

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.settings import Settings
from mtf_scalper.simulator.exits import profit_ratio
from mtf_scalper.simulator.types import N_ACTIONS

POSITION_STATE = ("side", "profit", "age", "best_profit", "worst_profit")
"""Names of the numbers that describe a position, in their order."""
PROFIT_UNIT = 0.02
"""Profit ratios enter the network in this unit."""
STATE_LIMIT = 10.0
"""Profits and ages are cut off at this many units."""
LONG_TRADE_CANDLES = 300
"""Unit of a trade's age where there is no maximum duration."""


def n_state_inputs(settings: Settings) -> int:
    """Return how many numbers of the position the network sees: 5 or 0."""
    return len(POSITION_STATE) if settings.add_state_info else 0


def n_extras(settings: Settings) -> int:
    """Return the length of an observation beyond its window: position state and mask."""
    return n_state_inputs(settings) + N_ACTIONS


def age_limit(settings: Settings) -> int:
    """Return the candles after which a trade is long: its maximum duration, or 300."""
    return settings.rules.max_trade_duration_candles or LONG_TRADE_CANDLES


def flat_state() -> NDArray[np.float32]:
    """Return the state of an agent without a position: float32 zeros, shape (5,)."""
    return np.zeros(len(POSITION_STATE), dtype=np.float32)


def in_units(profit: float) -> float:
    """Return a profit ratio, rounded to 8 digits, as the network sees it.

    The product differs from the quotient by ``PROFIT_UNIT`` in the last digit of a double; as
    float32 they are one number, for multiples of 1e-8 lie farther from its roundings than that.
    """
    units = floor(profit * 1e8 + 0.5) * (1.0 / (1e8 * PROFIT_UNIT))
    return max(-STATE_LIMIT, min(STATE_LIMIT, units))


def position_state(
    side: int,
    open_rate: float,
    close: float,
    best_rate: float,
    worst_rate: float,
    *,
    age_candles: int,
    age_limit: int,
    fee_rate: float,
    leverage: float,
) -> NDArray[np.float32]:
    """Return the state of an open trade at the close of a candle.

    Parameters
    ----------
    side : int
        +1 long, -1 short.
    open_rate, close : float
        Price of the entry, and of the candle's close.
    best_rate, worst_rate : float
        Best and worst price inside the candles since the entry, this one included, or the entry's.
    age_candles : int
        Candles that the trade has lived through, this one included.
    age_limit : int
        Unit of the age.
    fee_rate, leverage : float

    Returns
    -------
    ndarray of float32, shape (5,)
        Side; profit at the close; age; best and worst profit so far. Profit ratios are after both
        fees and without funding, in units of ``PROFIT_UNIT``, within ``STATE_LIMIT`` units.
    """
    state = np.empty(len(POSITION_STATE), dtype=np.float32)
    state[0] = side
    state[2] = min(age_candles / age_limit, STATE_LIMIT)
    for index, rate in ((1, close), (3, best_rate), (4, worst_rate)):
        state[index] = in_units(profit_ratio(int(side), open_rate, rate, fee_rate, leverage))
    return state
