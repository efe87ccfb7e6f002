"""One trade lived to its end by the rules, and what leaving it would bring at every candle of it.

The steps are those of the compiled environment (``kernels``): at each state the trade is stayed in,
and a copy of it is left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.jit import njit
from mtf_scalper.simulator import kernels
from mtf_scalper.simulator.exits import STAY
from mtf_scalper.simulator.kernels import (
    LONG_ENTER,
    LONG_EXIT,
    NEUTRAL,
    SHORT_ENTER,
    SHORT_EXIT,
    Terms,
    begin,
    find_exit,
    log_ratio,
    observe_position,
    settle,
)


class Room(NamedTuple):
    """What a trade is lived in.

    Attributes
    ----------
    states : ndarray of kernels.STATE, shape (2,)
        The trade, and the copy that is left.
    stayed, left : ndarray of kernels.OUTCOME, shape (>= S,) or (1,)
        What the steps did, by state, for rewards that need it; of length 1 it is overwritten.
    stay_reward, leave_reward : ndarray of float64, shape (S,)
        Log returns.
    position : ndarray of float32, shape (S, 5) or (S, 0)
        What the agent sees of its position.
    """

    states: NDArray[np.void]
    stayed: NDArray[np.void]
    left: NDArray[np.void]
    stay_reward: NDArray[np.float64]
    leave_reward: NDArray[np.float64]
    position: NDArray[np.float32]


def room_for(n_states: int, n_outcomes: int = 1, n_position: int = 0) -> Room:
    """Return room for trades of so many states."""
    return Room(
        states=np.zeros(2, kernels.STATE),
        stayed=np.zeros(n_outcomes, kernels.OUTCOME),
        left=np.zeros(n_outcomes, kernels.OUTCOME),
        stay_reward=np.empty(n_states),
        leave_reward=np.empty(n_states),
        position=np.empty((n_states, n_position), dtype=np.float32),
    )


def two_ways(terms: Terms) -> Terms:
    """Return terms as ``follow`` takes them: its rules, and those under which all exits fill."""
    candles, roi, rules = terms
    return candles, roi, np.concatenate([rules, kernels.terms_with(terms, always_fills=True)[2]])


@njit(cache=True, error_model="numpy")
def enter(terms: Terms, row: int, side: int, room: Room, place: int) -> tuple[float, bool]:
    """Enter at a row; return the log return of the step, and whether the trade is open after it.

    Parameters
    ----------
    terms : tuple
    row, side : int
        Where the entry is decided, +1 for long and -1 for short.
    room : Room
        ``states[0]`` is overwritten with the trade, and ``stayed[place]`` with what the step did.
    place : int
    """
    candles, roi, rules = terms
    rule, state, outcome = rules[0], room.states[0], room.stayed[place]
    state.row = state.first_row = row
    state.side = 0
    state.equity = state.closed_equity = 1.0
    candle, following = candles[row + 1], candles[min(row + 2, len(candles) - 1)]
    code, price = STAY, 0.0
    if begin(candles[row], candle, rule, state, LONG_ENTER if side > 0 else SHORT_ENTER, outcome):
        code, price = find_exit(candle, roi, rule, state)
    settle(candle, following, rule, state, code, price, outcome)
    outcome.log_return = log_ratio(outcome.equity, outcome.log_return)
    return outcome.log_return, outcome.exit_code == STAY


@njit(cache=True, error_model="numpy")
def stay(terms: Terms, limit: int, room: Room) -> tuple[int, bool]:
    """Stay in a trade that is open until the rules end it; ``follow`` without leaving it.

    Nothing is written but ``states[0]``, which is the trade, and the first outcome.
    """
    candles, roi, rules = terms
    rule, trade, outcome = rules[0], room.states[0], room.stayed[0]
    last_row = len(candles) - 1
    for age in range(limit):
        row: Any = np.uint64(trade.row)
        candle = candles[row + np.uint64(1)]
        code, price = STAY, 0.0
        if begin(candles[row], candle, rule, trade, NEUTRAL, outcome):
            code, price = find_exit(candle, roi, rule, trade)
        following = candles[np.uint64(min(trade.row + 1, last_row))]
        settle(candle, following, rule, trade, code, price, outcome)
        if outcome.exit_code != STAY:
            return age + 1, False
    return limit, True


@njit(cache=True, error_model="numpy")
def follow(terms: Terms, limit: int, room: Room, first: int) -> tuple[int, bool]:
    """Stay in a trade that is open until the rules end it; leave it at every state as well.

    Parameters
    ----------
    terms : tuple
        From ``two_ways``.
    limit : int
        Most states.
    room : Room
        ``states[0]`` is the trade; written from ``first`` on.
    first : int

    Returns
    -------
    n_states : int
    is_cut : bool
        Whether the trade is open still.
    """
    candles, roi, rules = terms
    rule, fills = rules[0], rules[1]
    trade, twin = room.states[0], room.states[1]
    last_row = len(candles) - 1
    keeps, sees = len(room.stayed) > 1, room.position.shape[1] > 0
    exit_ = LONG_EXIT if trade.side > 0 else SHORT_EXIT
    for age in range(limit):
        place = first + age
        row: Any = np.uint64(trade.row)
        if sees:
            observe_position(candles[row], rule, trade, room.position, place)
        decided, candle = candles[row], candles[row + np.uint64(1)]
        following = candles[np.uint64(min(trade.row + 2, last_row))]
        outcome = room.left[place if keeps else 0]
        room.states[1] = room.states[0]
        begin(decided, candle, fills, twin, exit_, outcome)
        settle(candle, following, fills, twin, STAY, 0.0, outcome)
        outcome.log_return = log_ratio(outcome.equity, outcome.log_return)
        room.leave_reward[place] = outcome.log_return
        outcome = room.stayed[place if keeps else 0]
        code, price = STAY, 0.0
        if begin(decided, candle, rule, trade, NEUTRAL, outcome):
            code, price = find_exit(candle, roi, rule, trade)
        settle(candle, following, rule, trade, code, price, outcome)
        outcome.log_return = log_ratio(outcome.equity, outcome.log_return)
        room.stay_reward[place] = outcome.log_return
        if outcome.exit_code != STAY:
            return age + 1, False
    return limit, True
