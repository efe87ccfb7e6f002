"""The rewards of ``rewards.py`` over all environments at once.

They are compiled from the plain functions, with what those call; what was compiled is kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.jit import compiled, njit
from mtf_scalper.settings import RewardName, Settings
from mtf_scalper.simulator import rewards
from mtf_scalper.simulator.exits import STAY
from mtf_scalper.simulator.observation import age_limit
from mtf_scalper.simulator.rewards import Parameters, RewardState, parameters_of


class BuiltInReward:
    """A reward of ``rewards.py``, other than the default, over all environments at once."""

    def __init__(self, settings: Settings) -> None:
        self._parameters = parameters_of(settings)
        self._age_limit = age_limit(settings)
        self._write = _WRITERS[RewardName(settings.reward)]

    def write(self, outcomes: NDArray[np.void], actions: NDArray[np.int64]) -> None:
        """Write every environment's reward.

        Parameters
        ----------
        outcomes : ndarray of ``kernels.OUTCOME``, shape (N,)
            What the step did; ``reward`` is overwritten.
        actions : ndarray of int64, shape (N,)
            What the agents chose.
        """
        self._write(outcomes, actions, self._age_limit, self._parameters)


_exit_quality, _example = compiled(rewards, "exit_quality", "freqtrade_example")


@njit(cache=True)
def state_of(outcome: Any, action: int, max_age_candles: int) -> RewardState:
    """Return what a reward may look at, of a ``kernels.OUTCOME`` and the action that was chosen."""
    return RewardState(
        action,
        outcome.is_valid,
        outcome.side_before,
        outcome.side,
        outcome.log_return,
        outcome.exit_code != STAY,
        outcome.profit,
        outcome.best_profit,
        outcome.worst_profit,
        outcome.age_candles,
        max_age_candles,
    )


@njit(cache=True)
def _write_exit_quality(
    outcomes: Any, actions: Any, max_age_candles: int, parameters: Parameters
) -> None:
    for env in range(len(actions)):
        state = state_of(outcomes[env], actions[env], max_age_candles)
        outcomes[env].reward = _exit_quality(state, parameters)


@njit(cache=True)
def _write_example(
    outcomes: Any, actions: Any, max_age_candles: int, parameters: Parameters
) -> None:
    for env in range(len(actions)):
        state = state_of(outcomes[env], actions[env], max_age_candles)
        outcomes[env].reward = _example(state, parameters)


_WRITERS: dict[RewardName, Callable[..., None]] = {
    RewardName.EXIT_QUALITY: _write_exit_quality,
    RewardName.FREQTRADE_EXAMPLE: _write_example,
}
"""The log return is written by the step itself."""
