"""What every action is worth under a policy, exactly, and how often each state is met.

The agent does not move the market, so nothing about an action's worth has to be sampled. With the
states of ``chains`` the values follow from Bellman's equation by one walk backwards
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

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.jit import njit
from mtf_scalper.simulator.chains import Chains

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


class PolicyTable(NamedTuple):
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


class Evaluation(NamedTuple):
    """Values, advantages and occupancy under one policy.

    Attributes
    ----------
    flat_values : ndarray of float64, shape (T,)
        Expected discounted reward from a row on, without a position; 0 at the last row.
    flat_advantages : ndarray of float64, shape (T, 3)
        Of ``FLAT_ACTIONS`` over that value; 0 where invalid.
    stay_advantages, leave_advantages : ndarray of float64, shape (S,)
    flat_occupancy : ndarray of float64, shape (T,)
        Discounted number of visits to a row without a position.
    state_occupancy : ndarray of float64, shape (S,)
    held_rewards : ndarray of float64, shape (T,)
        Expected reward of the steps that are decided in trades, by row.
    objective : float
        ``sum_t mu(t) V(t)``.
    """

    flat_values: Floats
    flat_advantages: Floats
    stay_advantages: Floats
    leave_advantages: Floats
    flat_occupancy: Floats
    state_occupancy: Floats
    held_rewards: Floats
    objective: float = 0.0


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
    found = _nothing(chains)
    first_values = np.zeros(len(chains.enter_reward))
    _walk_back(chains, charged(chains, fee_share), policy, gamma, first_values, found)
    _walk_on(chains, policy, gamma, weights, found)
    found.flat_occupancy[-1] = 0.0  # nothing is decided on the last row
    # NumPy's dot product would add in another order with another number of threads.
    return found._replace(objective=float((weights * found.flat_values).sum()))


def charged(chains: Chains, fee_share: float) -> Floats:
    """Return the rewards of entries where so much of the fees is charged, shape (C,)."""
    if fee_share < 1.0:
        return chains.enter_reward + (1.0 - fee_share) * chains.fee_relief
    return chains.enter_reward


def greedy_policy(chains: Chains) -> tuple[float, PolicyTable]:
    """Return the policy that is best in hindsight, and the sum of its rewards.

    Where two actions are equal, it takes the one that trades less.
    """
    best = PolicyTable(np.zeros((chains.n_rows, 3)), np.zeros(chains.n_states))
    values = np.zeros(chains.n_rows)
    _walk_back_greedily(chains, values, np.zeros(len(chains.enter_reward)), best)
    return float(values[chains.first_row]), best


def _nothing(chains: Chains) -> Evaluation:
    n_rows, n_states = chains.n_rows, chains.n_states
    return Evaluation(
        flat_values=np.zeros(n_rows),
        flat_advantages=np.zeros((n_rows, 3)),
        stay_advantages=np.zeros(n_states),
        leave_advantages=np.zeros(n_states),
        flat_occupancy=np.zeros(n_rows),
        state_occupancy=np.zeros(n_states),
        held_rewards=np.zeros(n_rows),
    )


@njit(cache=True)
def _walk_back(
    chains: Chains,
    enter_reward: Floats,
    policy: PolicyTable,
    gamma: float,
    first_values: Floats,
    found: Evaluation,
) -> None:
    """Write values and advantages, from the last row to the first.

    ``first_values`` gets what the first state of every chain is worth.
    """
    values, advantages = found.flat_values, found.flat_advantages
    starts, continues = chains.starts, chains.continues
    for row in range(len(values) - 2, chains.first_row - 1, -1):
        for side in range(2):
            chain = chains.chain_at[row, side]
            if chain < 0:
                continue
            first, end = starts[chain], starts[chain + 1]
            # After its last state, at row ``row + end - first``, the trade is over or goes on.
            value = values[row + 1 + end - first]
            if continues[chain] >= 0:
                value = first_values[continues[chain]]
            gains = found.leave_advantages[first:end]
            first_values[chain] = values_of_trade(
                chains.stay_reward[first:end],
                chains.leave_reward[first:end],
                policy.leave[first:end],
                values[row + 2 : row + 2 + end - first],
                value,
                gamma,
                gains,
            )
            for state in range(end - 1, first - 1, -1):
                gain, leave = found.leave_advantages[state], policy.leave[state]
                found.stay_advantages[state] = -leave * gain
                found.leave_advantages[state] = (1.0 - leave) * gain
            advantages[row, 1 + side] = enter_reward[chain] + gamma * first_values[chain]
        flat_values_of(chains.flat_valid, policy.flat, row, gamma, values, advantages)


@njit(cache=True)
def values_of_trade(
    stay_reward: Floats,
    leave_reward: Floats,
    leave: Floats,
    after: Floats,
    value: float,
    gamma: float,
    gains: Floats,
) -> float:
    """Return what a trade is worth at its first state; all arrays are by state, shape (S,).

    Parameters
    ----------
    stay_reward, leave_reward : ndarray of float64
    leave : ndarray of float64
        Probability of leaving.
    after : ndarray of float64
        Worth of the rows at which a leaver has no position.
    value : float
        Worth of what follows on the last state.
    gamma : float
    gains : ndarray of float64
        Overwritten with what leaving is worth more than staying.
    """
    for state in range(len(stay_reward) - 1, -1, -1):
        stay = stay_reward[state] + gamma * value
        gain = leave_reward[state] + gamma * after[state] - stay
        value = stay + leave[state] * gain
        gains[state] = gain
    return value


@njit(cache=True)
def flat_values_of(
    valid: NDArray[np.bool_],
    flat: Floats,
    row: int,
    gamma: float,
    values: Floats,
    advantages: Floats,
) -> None:
    """Write value and advantages of a row without a position; those of entries hold their worth."""
    advantages[row, 0] = gamma * values[row + 1]
    value = 0.0
    for action in range(3):
        value += flat[row, action] * advantages[row, action]
    values[row] = value
    for action in range(3):
        if valid[row, action]:
            advantages[row, action] -= value
        else:
            advantages[row, action] = 0.0


@njit(cache=True)
def _walk_back_greedily(
    chains: Chains, values: Floats, first_values: Floats, best: PolicyTable
) -> None:
    """Write the best policy and the values of rows, from the last row to the first.

    ``first_values`` gets what the first state of every chain is worth.
    """
    starts, continues = chains.starts, chains.continues
    worth = np.zeros(3)
    for row in range(len(values) - 2, chains.first_row - 1, -1):
        worth[0] = values[row + 1]
        for side in range(2):
            chain = chains.chain_at[row, side]
            if chain < 0:
                continue
            first, end = starts[chain], starts[chain + 1]
            value = values[row + 1 + end - first]
            if continues[chain] >= 0:
                value = first_values[continues[chain]]
            first_values[chain] = best_of_trade(
                chains.stay_reward[first:end],
                chains.leave_reward[first:end],
                values[row + 2 : row + 2 + end - first],
                value,
                best.leave[first:end],
            )
            worth[1 + side] = chains.enter_reward[chain] + first_values[chain]
        taken = best_action(chains.flat_valid, row, worth)
        best.flat[row, taken], values[row] = 1.0, worth[taken]


@njit(cache=True)
def best_of_trade(
    stay_reward: Floats, leave_reward: Floats, after: Floats, value: float, leaves: Any
) -> float:
    """Return what a trade is worth at its first state; of two equal actions it takes staying.

    Parameters
    ----------
    stay_reward, leave_reward : ndarray of float64, shape (S,)
    after : ndarray of float64, shape (S,)
        Worth of the rows at which a leaver has no position, by state.
    value : float
        Worth of what follows on the last state.
    leaves : ndarray, shape (>= S,)
        Overwritten with where the trade is left.
    """
    for state in range(len(stay_reward) - 1, -1, -1):
        stay, out = stay_reward[state] + value, leave_reward[state] + after[state]
        leaves[state] = out > stay
        value = max(stay, out)
    return value


@njit(cache=True)
def best_action(valid: NDArray[np.bool_], row: int, worth: Floats) -> int:
    """Return the valid action of a row without a position that is worth most, the first of them."""
    taken = -1
    for action in range(3):
        if valid[row, action] and (taken < 0 or worth[action] > worth[taken]):
            taken = action
    return taken


@njit(cache=True)
def _walk_on(
    chains: Chains, policy: PolicyTable, gamma: float, weights: Floats, found: Evaluation
) -> None:
    """Write how often every state is met, from the first row to the last."""
    flat, starts, continues = found.flat_occupancy, chains.starts, chains.continues
    for row in range(chains.first_row, len(flat) - 1):
        flat[row] += weights[row]
        here = flat[row]
        flat[row + 1] += gamma * here * policy.flat[row, 0]
        for side in range(2):
            chain = chains.chain_at[row, side]
            if chain < 0:
                continue
            first, end = starts[chain], starts[chain + 1]
            passing = gamma * here * policy.flat[row, 1 + side]
            for state in range(first, end):
                # Trades that go on in this chain have arrived at its first state before.
                passing += found.state_occupancy[state]
                found.state_occupancy[state] = passing
                leave = policy.leave[state]
                step = (1.0 - leave) * chains.stay_reward[state]
                step += leave * chains.leave_reward[state]
                found.held_rewards[row + 1 + state - first] += passing * step
                flat[row + 2 + state - first] += gamma * passing * leave
                passing *= gamma * (1.0 - leave)
            if continues[chain] >= 0:
                found.state_occupancy[starts[continues[chain]]] += passing
            else:
                flat[row + 1 + end - first] += passing
