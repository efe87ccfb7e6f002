"""The hindsight optimum: what the best trades would have earned, had the future been known.

Over the states of ``chains`` it is dynamic programming with the rewards of the environment itself
(Bellman 1957), see ``advantages.greedy_policy``: the same fees, funding, forced exits, entries and
fills as for everybody else.

    V(t) = max_a r + V(next),    at every row without a position and at every state of a trade
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.market.market import Market
from mtf_scalper.settings import Fills, RewardName, Settings
from mtf_scalper.simulator.advantages import greedy_policy
from mtf_scalper.simulator.chains import FLAT_ACTIONS, SIDES, Chains, chains_of
from mtf_scalper.simulator.playback import Simulation, play
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.types import N_ACTIONS, Action, Side

Rows = NDArray[np.int64]


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
    chains = chains_of(prepared)
    _, best = greedy_policy(chains)
    flat = best.flat.argmax(axis=1)

    def choose(row: int, states: NDArray[np.void], _extras: NDArray[np.float32]) -> Rows:
        side = Side(int(states["side"][0]))
        if side is Side.FLAT:
            return np.array([FLAT_ACTIONS[flat[row]]], dtype=np.int64)
        state = _state_of(chains, int(states["open_row"][0]), side, row)
        exit_ = Action.LONG_EXIT if side is Side.LONG else Action.SHORT_EXIT
        return np.array([exit_ if best.leave[state] else Action.NEUTRAL], dtype=np.int64)

    return play(prepared, choose)[0]


def _state_of(chains: Chains, open_row: int, side: Side, row: int) -> int:
    """Return the state at ``row`` of the trade that was filled at ``open_row``."""
    starts, age = chains.starts, row - open_row
    chain = int(chains.chain_at[open_row - 1, SIDES.index(side)])
    while age >= starts[chain + 1] - starts[chain]:
        age -= int(starts[chain + 1] - starts[chain])
        chain = int(chains.continues[chain])
    return int(starts[chain]) + age
