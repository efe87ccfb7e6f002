"""``advantages`` for a policy that does not see its position: all in rows and sides, no states.

All long trades that are open at a candle are left with one probability there, and so are all short
ones. What either action is worth is then the mean over the trades, weighted by how often the policy
is in each of them, and only these means are kept. One walk back finds the values of rows, one walk
on the occupancy; there every trade's values are worked out once more, in memory of one trade.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mtf_scalper.jit import njit
from mtf_scalper.simulator.advantages import (
    Floats,
    charged,
    flat_values_of,
    start_weights,
    values_of_trade,
)
from mtf_scalper.simulator.chains import Chains


class SideTable(NamedTuple):
    """A policy's probabilities at every row.

    Attributes
    ----------
    flat : ndarray of float64, shape (T, 3)
        Of ``FLAT_ACTIONS``; invalid actions have 0 and every decision row sums to 1.
    leave : ndarray of float64, shape (2, T)
        Of leaving a trade, by side.
    """

    flat: Floats
    leave: Floats


class SideEvaluation(NamedTuple):
    """Values, advantages and occupancy under one policy; the first three as in ``Evaluation``.

    Attributes
    ----------
    flat_values, flat_advantages, flat_occupancy : ndarray of float64
    stay_advantages, leave_advantages : ndarray of float64, shape (2, T)
        Means over the trades of a side that are open at a row; 0 where there are none.
    occupancy : ndarray of float64, shape (2, T)
        Discounted number of visits to a row in trades of a side.
    held_rewards : ndarray of float64, shape (T,)
        Expected reward of the steps that are decided in trades, by row.
    objective : float
        ``sum_t mu(t) V(t)``.
    """

    flat_values: Floats
    flat_advantages: Floats
    flat_occupancy: Floats
    stay_advantages: Floats
    leave_advantages: Floats
    occupancy: Floats
    held_rewards: Floats
    objective: float = 0.0


def evaluate_by_side(
    chains: Chains, policy: SideTable, gamma: float, *, fee_share: float = 1.0
) -> SideEvaluation:
    """Return what every action is worth under a policy; parameters as in ``evaluate_policy``."""
    weights, enter_reward = start_weights(chains, gamma), charged(chains, fee_share)
    n_rows, n_chains = chains.n_rows, len(chains.enter_reward)
    found = SideEvaluation(
        flat_values=np.zeros(n_rows),
        flat_advantages=np.zeros((n_rows, 3)),
        flat_occupancy=np.zeros(n_rows),
        stay_advantages=np.zeros((2, n_rows)),
        leave_advantages=np.zeros((2, n_rows)),
        occupancy=np.zeros((2, n_rows)),
        held_rewards=np.zeros(n_rows),
    )
    first_values, gains = np.zeros(n_chains), np.zeros(int(np.diff(chains.starts).max(initial=0)))
    _walk_back(chains, enter_reward, policy, gamma, first_values, gains, found)
    _walk_on(chains, policy, gamma, weights, first_values, gains, found)
    found.flat_occupancy[-1] = 0.0  # nothing is decided on the last row
    share = np.where(found.occupancy > 0.0, found.occupancy, 1.0)
    found.stay_advantages[...] /= share
    found.leave_advantages[...] /= share
    # NumPy's dot product would add in another order with another number of threads.
    return found._replace(objective=float((weights * found.flat_values).sum()))


@njit(cache=True)
def _walk_back(
    chains: Chains,
    enter_reward: Floats,
    policy: SideTable,
    gamma: float,
    first_values: Floats,
    gains: Floats,
    found: SideEvaluation,
) -> None:
    """Write values and advantages without a position, from the last row to the first.

    ``first_values`` gets what the first state of every chain is worth.
    """
    values, advantages = found.flat_values, found.flat_advantages
    for row in range(len(values) - 2, chains.first_row - 1, -1):
        for side in range(2):
            chain = chains.chain_at[row, side]
            if chain < 0:
                continue
            first_values[chain] = _value_of(
                chains, chain, row, policy.leave[side], gamma, values, first_values, gains
            )
            advantages[row, 1 + side] = enter_reward[chain] + gamma * first_values[chain]
        flat_values_of(chains.flat_valid, policy.flat, row, gamma, values, advantages)


@njit(cache=True)
def _value_of(
    chains: Chains,
    chain: int,
    row: int,
    leave: Floats,
    gamma: float,
    values: Floats,
    first_values: Floats,
    gains: Floats,
) -> float:
    """Return what a trade entered at ``row`` is worth, and write the gains of leaving it."""
    first, end = chains.starts[chain], chains.starts[chain + 1]
    # After its last state, at row ``row + end - first``, the trade is over or goes on.
    value = values[row + 1 + end - first]
    if chains.continues[chain] >= 0:
        value = first_values[chains.continues[chain]]
    return values_of_trade(
        chains.stay_reward[first:end],
        chains.leave_reward[first:end],
        leave[row + 1 : row + 1 + end - first],
        values[row + 2 : row + 2 + end - first],
        value,
        gamma,
        gains,
    )


@njit(cache=True)
def _walk_on(
    chains: Chains,
    policy: SideTable,
    gamma: float,
    weights: Floats,
    first_values: Floats,
    gains: Floats,
    found: SideEvaluation,
) -> None:
    """Write how often every row is met, and the sums of advantages, from the first row to the last.

    Trades add to the sums in the order of their entries.
    """
    flat, values = found.flat_occupancy, found.flat_values
    carried = np.zeros(len(first_values))
    for row in range(chains.first_row, len(flat) - 1):
        flat[row] += weights[row]
        here = flat[row]
        flat[row + 1] += gamma * here * policy.flat[row, 0]
        for side in range(2):
            chain = chains.chain_at[row, side]
            if chain < 0:
                continue
            first, end = chains.starts[chain], chains.starts[chain + 1]
            # Trades that go on in this chain have arrived at its first state before.
            passing = gamma * here * policy.flat[row, 1 + side] + carried[chain]
            if passing == 0.0:  # a policy that is sure takes few of all trades
                continue
            _value_of(chains, chain, row, policy.leave[side], gamma, values, first_values, gains)
            for state in range(first, end):
                if passing == 0.0:
                    break
                place = row + 1 + state - first
                leave, gain = policy.leave[side, place], gains[state - first]
                found.occupancy[side, place] += passing
                found.stay_advantages[side, place] += passing * (-leave * gain)
                found.leave_advantages[side, place] += passing * ((1.0 - leave) * gain)
                step = (1.0 - leave) * chains.stay_reward[state]
                step += leave * chains.leave_reward[state]
                found.held_rewards[place] += passing * step
                flat[place + 1] += gamma * passing * leave
                passing *= gamma * (1.0 - leave)
            if chains.continues[chain] >= 0:
                carried[chains.continues[chain]] += passing
            else:
                flat[row + 1 + end - first] += passing
