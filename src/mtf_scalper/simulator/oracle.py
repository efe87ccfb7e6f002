"""The hindsight optimum: what the best trades would have earned, had the future been known.

Over the states of ``chains`` it is dynamic programming with the rewards of the environment itself
(Bellman 1957): the same fees, funding, forced exits, entries and fills as for everybody else.

    V(t) = max_a r + V(next),    at every row without a position and at every state of a trade
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.jit import njit
from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.chains import FLAT_ACTIONS, SIDES, Chains, chains_of
from mtf_scalper.simulator.playback import Simulation, play, without_training
from mtf_scalper.simulator.types import Action, Side

__all__ = ["BestActions", "best_actions", "oracle"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BestActions:
    """What is best at every state.

    Attributes
    ----------
    value : float
        Sum of the rewards from the first decision on.
    flat : ndarray of int64, shape (T,)
        Index into ``FLAT_ACTIONS``.
    leave : ndarray of bool, shape (S,)
    """

    value: float
    flat: Rows
    leave: NDArray[np.bool_]


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
    settings = without_training(settings or Settings()).changed(add_state_info=False)
    chains = chains_of(market, settings)
    best = best_actions(chains)

    def choose(row: int, states: NDArray[np.void], _extras: NDArray[np.float32]) -> Rows:
        side = Side(int(states["side"][0]))
        if side is Side.FLAT:
            return np.array([FLAT_ACTIONS[best.flat[row]]], dtype=np.int64)
        state = _state_of(chains, int(states["open_row"][0]), side, row)
        exit_ = Action.LONG_EXIT if side is Side.LONG else Action.SHORT_EXIT
        return np.array([exit_ if best.leave[state] else Action.NEUTRAL], dtype=np.int64)

    return play(market, settings, choose)[0]


def best_actions(chains: Chains) -> BestActions:
    """Return the best action of every state; where two are equal, the one that trades less."""
    flat_values = np.zeros(chains.n_rows)
    state_values = np.zeros(chains.n_states)
    flat = np.zeros(chains.n_rows, dtype=np.int64)
    leave = np.zeros(chains.n_states, dtype=np.bool_)
    _walk_back(
        chains.first_row,
        chains.chain_at,
        chains.starts,
        chains.continues,
        chains.enter_reward,
        chains.stay_reward,
        chains.leave_reward,
        chains.flat_valid,
        flat_values,
        state_values,
        flat,
        leave,
    )
    return BestActions(float(flat_values[chains.first_row]), flat, leave)


def _state_of(chains: Chains, open_row: int, side: Side, row: int) -> int:
    """Return the state at ``row`` of the trade that was filled at ``open_row``."""
    starts, age = chains.starts, row - open_row
    chain = int(chains.chain_at[open_row - 1, SIDES.index(side)])
    while age >= starts[chain + 1] - starts[chain]:
        age -= int(starts[chain + 1] - starts[chain])
        chain = int(chains.continues[chain])
    return int(starts[chain]) + age


@njit(cache=True)
def _walk_back(
    first_row: int,
    chain_at: Rows,
    starts: Rows,
    continues: Rows,
    enter_reward: Floats,
    stay_reward: Floats,
    leave_reward: Floats,
    flat_valid: NDArray[np.bool_],
    flat_values: Floats,
    state_values: Floats,
    flat: Rows,
    leave: NDArray[np.bool_],
) -> None:
    """Write values and best actions, from the last row to the first."""
    for row in range(len(flat_values) - 2, first_row - 1, -1):
        best = flat_values[row + 1] if flat_valid[row, 0] else -np.inf
        for side in range(2):
            chain = chain_at[row, side]
            if chain < 0:
                continue
            first, end = starts[chain], starts[chain + 1]
            value = flat_values[row + 1 + end - first]
            if continues[chain] >= 0:
                value = state_values[starts[continues[chain]]]
            for state in range(end - 1, first - 1, -1):
                stay = stay_reward[state] + value
                out = leave_reward[state] + flat_values[row + 2 + state - first]
                leave[state] = out > stay
                value = max(stay, out)
                state_values[state] = value
            value += enter_reward[chain]
            if value > best:
                best = value
                flat[row] = 1 + side
        flat_values[row] = best
