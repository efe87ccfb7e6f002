"""What every action is worth under the present policy, exactly, and how often each state is met.

The agent does not move the market, so nothing about an action's worth has to be sampled. With the
states of ``simulator.chains`` the values follow from Bellman's equation by one walk backwards
through the candles, and the occupancy of every state by one walk forwards (Bellman 1957, *Dynamic
Programming*; Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function
approximation", theorem 1, for what they are good for):

    V(t) = sum_a pi(a | t) Q(t, a)                    without a position at row t
    Q(t, stay out) = gamma V(t + 1),    Q(t, enter) = r + gamma V(first state of the trade)
    V(s) = pi(stay | s) (r + gamma V(s + 1)) + pi(leave | s) (r' + gamma V(t(s) + 1))

and after the last state of a trade comes V of the row on which the rules have ended it. With
``mu(t)`` the weight with which an episode starts at row ``t``, the occupancy is ``d = mu + gamma
P_pi^T d``, and the gradient of ``J = sum_t mu(t) V(t)`` is ``sum_s d(s) sum_a grad pi(a | s) A(s,
a)``. Both walks touch every state once: the cost is linear in candles and states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.jit import njit
from mtf_scalper.simulator.chains import Chains

__all__ = ["Evaluation", "PolicyTable", "evaluate_policy", "start_weights"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PolicyTable:
    """A policy's probabilities at every state.

    Attributes
    ----------
    flat : ndarray of float64, shape (T, 3)
        Of ``FLAT_ACTIONS``; invalid actions have 0 and every decision row sums to 1.
    leave : ndarray of float64, shape (S,)
        Of leaving the trade.
    """

    flat: Floats
    leave: Floats


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Values, advantages and occupancy under one policy.

    Attributes
    ----------
    flat_values : ndarray of float64, shape (T,)
        Expected discounted reward from a row on, without a position; 0 at the last row.
    flat_advantages : ndarray of float64, shape (T, 3)
        Of ``FLAT_ACTIONS`` over that value; 0 where invalid.
    state_values : ndarray of float64, shape (S,)
    stay_advantages, leave_advantages : ndarray of float64, shape (S,)
    flat_occupancy : ndarray of float64, shape (T,)
        Discounted number of visits to a row without a position.
    state_occupancy : ndarray of float64, shape (S,)
    objective : float
        ``sum_t mu(t) V(t)``.
    """

    flat_values: Floats
    flat_advantages: Floats
    state_values: Floats
    stay_advantages: Floats
    leave_advantages: Floats
    flat_occupancy: Floats
    state_occupancy: Floats
    objective: float


def start_weights(chains: Chains, gamma: float) -> Floats:
    """Return the weights with which episodes start at each row, shape (T,).

    All on the first row but for ``1 - gamma`` on each later one: discounting read as an end of the
    episode with that probability after every candle, and a new start there. Every candle is then
    visited exactly once in expectation, whatever the policy is and however small ``gamma`` is.
    """
    weights = np.zeros(chains.n_rows)
    weights[chains.first_row : -1] = 1.0 - gamma
    weights[chains.first_row] = 1.0
    return weights


def evaluate_policy(
    chains: Chains,
    policy: PolicyTable,
    gamma: float,
    *,
    weights: Floats | None = None,
    fee_share: float = 1.0,
) -> Evaluation:
    """Return what every action is worth under a policy, and how often every state is met.

    Parameters
    ----------
    chains : Chains
    policy : PolicyTable
    gamma : float
        Discount per candle, in [0, 1].
    weights : ndarray of float64, shape (T,), optional
        ``start_weights(chains, gamma)`` by default.
    fee_share : float
        Share of the fees that is charged, in [0, 1]; below 1 only while a training begins.
    """
    if weights is None:
        weights = start_weights(chains, gamma)
    enter_reward = chains.enter_reward
    if fee_share < 1.0:
        enter_reward = enter_reward + (1.0 - fee_share) * chains.fee_relief
    n_rows, n_states = chains.n_rows, chains.n_states
    flat_values, flat_advantages = np.zeros(n_rows), np.zeros((n_rows, 3))
    state_values, stay, leave = (np.zeros(n_states) for _ in range(3))
    _walk_back(
        chains.first_row,
        chains.chain_at,
        chains.starts,
        chains.continues,
        enter_reward,
        chains.stay_reward,
        chains.leave_reward,
        chains.flat_valid,
        policy.flat,
        policy.leave,
        gamma,
        flat_values,
        flat_advantages,
        state_values,
        stay,
        leave,
    )
    flat_occupancy, state_occupancy = np.zeros(n_rows), np.zeros(n_states)
    _walk_on(
        chains.first_row,
        chains.chain_at,
        chains.starts,
        chains.continues,
        policy.flat,
        policy.leave,
        gamma,
        weights,
        flat_occupancy,
        state_occupancy,
    )
    flat_occupancy[-1] = 0.0  # nothing is decided on the last row
    return Evaluation(
        flat_values=flat_values,
        flat_advantages=flat_advantages,
        state_values=state_values,
        stay_advantages=stay,
        leave_advantages=leave,
        flat_occupancy=flat_occupancy,
        state_occupancy=state_occupancy,
        # NumPy's dot product would add in another order with another number of threads.
        objective=float((weights * flat_values).sum()),
    )


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
    flat: Floats,
    leave: Floats,
    gamma: float,
    flat_values: Floats,
    flat_advantages: Floats,
    state_values: Floats,
    stay_advantages: Floats,
    leave_advantages: Floats,
) -> None:
    """Write values and advantages, from the last row to the first."""
    for row in range(len(flat_values) - 2, first_row - 1, -1):
        for side in range(2):
            chain = chain_at[row, side]
            if chain < 0:
                continue
            first, end = starts[chain], starts[chain + 1]
            # After its last state, at row ``row + end - first``, the trade is over or goes on.
            value = flat_values[row + 1 + end - first]
            if continues[chain] >= 0:
                value = state_values[starts[continues[chain]]]
            for state in range(end - 1, first - 1, -1):
                stay = stay_reward[state] + gamma * value
                gain = leave_reward[state] + gamma * flat_values[row + 2 + state - first] - stay
                value = stay + leave[state] * gain
                state_values[state] = value
                stay_advantages[state] = -leave[state] * gain
                leave_advantages[state] = (1.0 - leave[state]) * gain
            flat_advantages[row, 1 + side] = enter_reward[chain] + gamma * value
        flat_advantages[row, 0] = gamma * flat_values[row + 1]
        value = 0.0
        for action in range(3):
            value += flat[row, action] * flat_advantages[row, action]
        flat_values[row] = value
        for action in range(3):
            if flat_valid[row, action]:
                flat_advantages[row, action] -= value
            else:
                flat_advantages[row, action] = 0.0


@njit(cache=True)
def _walk_on(
    first_row: int,
    chain_at: Rows,
    starts: Rows,
    continues: Rows,
    flat: Floats,
    leave: Floats,
    gamma: float,
    weights: Floats,
    flat_occupancy: Floats,
    state_occupancy: Floats,
) -> None:
    """Write how often every state is met, from the first row to the last."""
    for row in range(first_row, len(flat_occupancy) - 1):
        flat_occupancy[row] += weights[row]
        here = flat_occupancy[row]
        flat_occupancy[row + 1] += gamma * here * flat[row, 0]
        for side in range(2):
            chain = chain_at[row, side]
            if chain < 0:
                continue
            first, end = starts[chain], starts[chain + 1]
            passing = gamma * here * flat[row, 1 + side]
            for state in range(first, end):
                # Trades that go on in this chain have arrived at its first state before.
                passing += state_occupancy[state]
                state_occupancy[state] = passing
                flat_occupancy[row + 2 + state - first] += gamma * passing * leave[state]
                passing *= gamma * (1.0 - leave[state])
            if continues[chain] >= 0:
                state_occupancy[starts[continues[chain]]] += passing
            else:
                flat_occupancy[row + 1 + end - first] += passing
