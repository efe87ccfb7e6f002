"""Step rewards, chosen by name: small functions of one documented state.

A reward is ``reward(state: RewardState, parameters: Parameters) -> float``. Every reward here is
finite for every reachable state. Rewards of the user's own have the same form, see
``user_rewards``. A new one here needs its name in ``settings.RewardName``, a row in ``REWARDS`` and
a loop in ``built_in_rewards.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from mtf_scalper.settings import RewardName, Settings
from mtf_scalper.simulator.types import Action


class RewardState(NamedTuple):
    """What a reward may look at after one step.

    Attributes
    ----------
    action : int
        The action that the agent chose (not the one executed, where it was invalid).
    is_valid : bool
        Whether that action was valid in the position before the step.
    side_before, side_after : int
        Position before and after the step: -1 short, 0 flat, 1 long.
    log_return : float
        Change of log equity over the step, after fees, leverage and funding.
    closed : bool
        Whether a trade closed in this step.
    profit : float
        Profit ratio of the trade: at its close if it closed, else at the next open; 0 when flat.
    best_profit, worst_profit : float
        Best and worst profit ratio that the trade's candles have touched so far; 0 when flat.
    age_candles : int
        Candles since the entry, 0 when flat.
    max_age_candles : int
        Candles after which a trade is long (the maximum duration if there is one, else 300).
    """

    action: int
    is_valid: bool
    side_before: int
    side_after: int
    log_return: float
    closed: bool
    profit: float
    best_profit: float
    worst_profit: float
    age_candles: int
    max_age_candles: int


class Parameters(NamedTuple):
    """The settings' ``reward_parameters`` as compiled code can read them.

    Attributes
    ----------
    rr, profit_aim, win_reward_factor : float
        See ``RewardParameters`` in ``mtf_scalper.settings``.
    """

    rr: float
    profit_aim: float
    win_reward_factor: float


Reward = Callable[[RewardState, Parameters], float]


def parameters_of(settings: Settings) -> Parameters:
    """Return the parameters that a reward is called with."""
    return Parameters(**dict(settings.reward_parameters))


def log_return(state: RewardState, parameters: Parameters) -> float:
    """Return the change of log equity; its sum over an episode is log(final equity).

    Maximising it maximises the growth rate of the account (Kelly 1956, "A new interpretation of
    information rate").
    """
    return state.log_return


def weighted_profit(state: RewardState, parameters: Parameters) -> float:
    """Return ``tanh(profit / profit_aim)``, in [-1, 1]."""
    return math.tanh(state.profit / parameters.profit_aim)


def drawdown_control(state: RewardState, parameters: Parameters) -> float:
    """Return 1 for a trade that was never under water, -1 for one that sank by ``profit_aim``.

    ``1 - 2 min(1, -worst_profit / profit_aim)``, in [-1, 1].
    """
    sunk = max(0.0, -state.worst_profit) / parameters.profit_aim
    return 1.0 - 2.0 * min(1.0, sunk)


def exit_timing(state: RewardState, parameters: Parameters) -> float:
    """Return the share of the best profit that the exit kept, in [-1, 1].

    ``profit / max(best_profit, 0.1 profit_aim)``, clipped; the floor keeps trades that never had
    a profit worth timing from dominating.
    """
    best = max(state.best_profit, 0.1 * parameters.profit_aim)
    return _clip(state.profit / best)


def risk_reward(state: RewardState, parameters: Parameters) -> float:
    """Return the profit over the risk taken, relative to the ratio aimed at, in [-1, 1].

    ``profit / max(-worst_profit, 0.1 profit_aim) / rr``, clipped.
    """
    risk = max(-state.worst_profit, 0.1 * parameters.profit_aim)
    return _clip(state.profit / risk / parameters.rr)


def exit_quality(state: RewardState, parameters: Parameters) -> float:
    """Return how well a trade was closed, 0 while none closes; bounded by [-1, 1].

    ``0.35 weighted_profit + 0.25 drawdown_control + 0.20 exit_timing + 0.20 risk_reward``.
    """
    if not state.closed:
        return 0.0
    return (
        0.35 * weighted_profit(state, parameters)
        + 0.25 * drawdown_control(state, parameters)
        + 0.20 * exit_timing(state, parameters)
        + 0.20 * risk_reward(state, parameters)
    )


def freqtrade_example(state: RewardState, parameters: Parameters) -> float:
    """Return the example reward of freqtrade's ``ReinforcementLearner``, on this environment.

    -2 for an invalid action, 25 for an entry, -1 for staying flat, minus the age share for
    sitting in a trade, and at an exit by the agent the profit times 100, 1.5 times that within
    the maximum duration and half beyond it, ``win_reward_factor`` times above the aim.
    """
    if not state.is_valid:
        return -2.0
    if state.side_before == 0:
        return 25.0 if state.action in (Action.LONG_ENTER, Action.SHORT_ENTER) else -1.0
    if state.action == Action.NEUTRAL:
        return -state.age_candles / state.max_age_candles
    factor = 100.0 * (1.5 if state.age_candles <= state.max_age_candles else 0.5)
    if state.profit > parameters.profit_aim * parameters.rr:
        factor *= parameters.win_reward_factor
    return state.profit * factor


def _clip(value: float) -> float:
    return max(-1.0, min(1.0, value))


REWARDS: dict[RewardName, Reward] = {
    RewardName.LOG_RETURN: log_return,
    RewardName.EXIT_QUALITY: exit_quality,
    RewardName.FREQTRADE_EXAMPLE: freqtrade_example,
}
