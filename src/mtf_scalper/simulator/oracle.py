"""The hindsight optimum: what the best trades would have earned, had the future been known.

It is dynamic programming over the states that ``chains`` describes (Bellman 1957), with the rewards
of the environment itself: the same fees, funding, forced exits, entries and fills as for everybody
else.

    V(t) = max_a r + V(next),    at every row without a position and at every state of a trade

Whatever follows on a state lies later, so the candles are walked from the last to the first. Of a
trade nothing is kept but what its first state is worth: where it is best left is worked out again
for the trades that are made. Memory is that of some numbers per candle, however long trades are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.jit import njit
from mtf_scalper.market.market import Market
from mtf_scalper.settings import Fills, RewardName, Settings
from mtf_scalper.simulator import walks
from mtf_scalper.simulator.advantages import best_action, best_of_trade
from mtf_scalper.simulator.chains import FLAT_ACTIONS, flat_valid, longest_chain
from mtf_scalper.simulator.exits import STAY
from mtf_scalper.simulator.kernels import (
    LONG_EXIT,
    NEUTRAL,
    SHORT_EXIT,
    Terms,
    begin,
    find_exit,
    settle,
)
from mtf_scalper.simulator.lives import Room, enter, follow, room_for, two_ways
from mtf_scalper.simulator.playback import Simulation, walked
from mtf_scalper.simulator.prepared import PreparedMarket, prepare
from mtf_scalper.simulator.types import N_ACTIONS

_FLAT_ACTIONS = np.array(FLAT_ACTIONS, dtype=np.int64)


class _Plan(NamedTuple):
    """What is best at every row without a position, and what the trades from there are worth.

    Attributes
    ----------
    values : ndarray of float64, shape (T,)
        What can still be earned from a row on; 0 at the last row.
    taken : ndarray of int8, shape (T,)
        Index into ``FLAT_ACTIONS``.
    first_values : ndarray of float64, shape (T, 2)
        Worth of the first state of the trade whose entry is decided at a row, by side; NaN where
        there is none.
    leaves : ndarray of bool, shape (L,)
        Where the trade that was looked at last is best left.
    """

    values: NDArray[np.float64]
    taken: NDArray[np.int8]
    first_values: NDArray[np.float64]
    leaves: NDArray[np.bool_]


def oracle(market: Market, settings: Settings | None = None) -> Simulation:
    """Return the trades of the hindsight optimum: no policy under the same rules earns more.

    Parameters
    ----------
    market : Market
    settings : Settings, optional
        The rules of the trades and the window; ``Settings()`` by default. The optimum is that of
        equity, whatever the reward of a training is.

    Notes
    -----
    Under ``entry="any"`` without a maximum duration, trades that are better held for hours are
    planned as ``Chains`` describes it; what is returned is played through the environment in any
    case.
    """
    settings = (settings or Settings()).changed(
        reward=RewardName.LOG_RETURN,
        fills=Fills.BACKTEST,
        n_actions=N_ACTIONS,
        add_state_info=False,
    )
    prepared = prepare(market, settings)
    terms, room, plan = two_ways(prepared.terms), _room(prepared), _plan(prepared)
    _find_best(terms, flat_valid(prepared), prepared.first_row, room, plan)
    followed = np.array([-1, 0, 0, 0], dtype=np.int64)

    def advance(_start: int, stop: int, runs: walks.Runs) -> int:
        return _walk(terms, room, plan, followed, stop, runs)

    return walked(prepared, 1, advance)[0]


def _room(prepared: PreparedMarket) -> Room:
    """Return room for one trade; of what it is given, only what a trade reaches is ever touched."""
    return room_for(longest_chain(prepared))


def _plan(prepared: PreparedMarket) -> _Plan:
    n_rows = len(prepared)
    return _Plan(
        values=np.zeros(n_rows),
        taken=np.zeros(n_rows, dtype=np.int8),
        first_values=np.full((n_rows, 2), np.nan),
        leaves=np.zeros(longest_chain(prepared), dtype=np.bool_),
    )


@njit(cache=True, error_model="numpy")
def _find_best(
    terms: Terms, valid: NDArray[np.bool_], first_row: int, room: Room, plan: _Plan
) -> None:
    """Write the plan, from the last row to the first."""
    worth = np.zeros((1, 3))
    for row in range(len(plan.values) - 2, first_row - 1, -1):
        worth[0, 0] = plan.values[row + 1]
        for side in range(2):
            if not valid[row, 1 + side]:
                continue
            reward, n_states, _ = _look_at(terms, row, side, room, plan)
            value = plan.values[row + 1]
            if n_states > 0:
                value = plan.first_values[row, side]
            worth[0, 1 + side] = reward + value
        plan.taken[row] = best_action(valid, row, worth[0])
        plan.values[row] = worth[0, plan.taken[row]]


@njit(cache=True, error_model="numpy")
def _look_at(terms: Terms, row: int, side: int, room: Room, plan: _Plan) -> tuple[float, int, int]:
    """Find where the trade that is entered at a row is best left.

    Returns
    -------
    reward : float
        Of the step that enters.
    n_states : int
    goes_on : int
        Row at which the trade was entered as which this one goes on after its last state; -1
        where the rules have ended it.
    """
    reward, is_open = enter(terms, row, 1 - 2 * side, room, 0)
    if not is_open:
        return reward, 0, -1
    n_states, is_cut = follow(terms, len(plan.leaves), room, 0)
    value, goes_on = plan.values[row + 1 + n_states], -1
    # State 0 of an entry decided at row r stands at row r + 1, the one after n at r + 1 + n.
    if is_cut and not np.isnan(plan.first_values[row + n_states, side]):
        goes_on = row + n_states
        value = plan.first_values[goes_on, side]
    plan.first_values[row, side] = best_of_trade(
        room.stay_reward[:n_states],
        room.leave_reward[:n_states],
        plan.values[row + 2 : row + 2 + n_states],
        value,
        plan.leaves,
    )
    return reward, n_states, goes_on


@njit(cache=True, error_model="numpy")
def _walk(
    terms: Terms,
    room: Room,
    plan: _Plan,
    followed: NDArray[np.int64],
    stop: int,
    runs: walks.Runs,
) -> int:
    """Let the run trade as planned until row ``stop``; return how many trades it closed.

    ``followed`` remembers which trade was looked at last: the row of the open trade's fill, the row
    of the entry that was looked at, its states, and as which entry it goes on.
    """
    candles, roi, rules = terms
    rule, state = rules[0], runs.states[0]
    n_closed = 0
    while state.row < stop:
        action = _FLAT_ACTIONS[plan.taken[state.row]]
        if state.side != 0:
            leaves = _is_left(terms, room, plan, followed, state.side, state.open_row, state.row)
            action = (LONG_EXIT if state.side > 0 else SHORT_EXIT) if leaves else NEUTRAL
        row: Any = np.uint64(state.row)
        candle, outcome = candles[row + np.uint64(1)], runs.closed[n_closed]
        following = candles[np.uint64(min(state.row + 2, rule.last_row))]
        code, price = STAY, 0.0
        if begin(candles[row], candle, rule, state, action, outcome):
            code, price = find_exit(candle, roi, rule, state)
        is_over = settle(candle, following, rule, state, code, price, outcome)
        runs.closed_by[n_closed] = 0
        n_closed += walks.note(runs, 0, state, outcome)
        if is_over:
            walks.end(runs, 0, state, outcome)
    return n_closed


@njit(cache=True, error_model="numpy")
def _is_left(
    terms: Terms,
    room: Room,
    plan: _Plan,
    followed: NDArray[np.int64],
    sign: int,
    open_row: int,
    row: int,
) -> bool:
    """Return whether the trade that was filled at ``open_row`` is best left at ``row``."""
    side, entry = (1 - sign) // 2, -1
    if followed[0] != open_row:
        followed[0], entry = open_row, open_row - 1
    while True:
        if entry >= 0:
            _, n_states, goes_on = _look_at(terms, entry, side, room, plan)
            followed[1], followed[2], followed[3] = entry, n_states, goes_on
        state = row - 1 - followed[1]
        if state < followed[2]:
            return bool(plan.leaves[state])
        entry = followed[3]
        if entry < 0:
            # The rules ended the trade as which this one went on, but not this one.
            return True
