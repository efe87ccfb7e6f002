"""A user's reward, compiled together with the loop over all environments.

Nothing of it is kept on disk: the file that it comes from may change.
"""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numba
import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from mtf_scalper.errors import SettingsError
from mtf_scalper.settings import RewardName, Settings
from mtf_scalper.simulator import kernels
from mtf_scalper.simulator.built_in_rewards import BuiltInReward, state_of
from mtf_scalper.simulator.observation import age_limit
from mtf_scalper.simulator.rewards import Parameters, RewardState, parameters_of
from mtf_scalper.simulator.user_rewards import LARGEST_REWARD, UserReward, load_reward

logger = logging.getLogger(__name__)

_STATE = RewardState(0, True, 0, 0, 0.0, False, 0.0, 0.0, 0.0, 0, 1)
_PARAMETERS = Parameters(1.0, 1.0, 1.0)
_NUMBERS = (types.Float, types.Integer, types.Boolean)
# Innermost first; numba writes paths relative to the working directory.
_PLACE = re.compile(r'(?:File "|Raised from )([^"\n]+?)"?,? (?:line |\()(\d+)[:)]')
_NUMBA = Path(numba.__file__).parent
# numba has these, or compiles them by itself.
_NOT_TO_COMPILE = {"math", "numba", "numpy"}


class RewardNotCompiledError(SettingsError):
    """numba cannot compile a user's reward, which may run all the same."""


def compiled_reward(settings: Settings) -> BuiltInReward | CompiledReward | None:
    """Return what writes the rewards that the settings name; None where the step does."""
    if settings.reward == RewardName.LOG_RETURN:
        return None
    if isinstance(settings.reward, RewardName):
        return BuiltInReward(settings)
    return CompiledReward(settings)


class CompiledReward:
    """A user's reward over all environments at once.

    Parameters
    ----------
    settings : Settings
        ``reward`` names the function.

    Raises
    ------
    SettingsError
        If the function cannot be found.
    RewardNotCompiledError
        Names the function, its file and the line that numba does not know.
    """

    def __init__(self, settings: Settings) -> None:
        self._reward = load_reward(str(settings.reward))
        self._parameters = parameters_of(settings)
        self._age_limit = age_limit(settings)
        self._write = _compiled_loop(self._reward)

    def write(self, outcomes: NDArray[np.void], actions: NDArray[np.int64]) -> None:
        """Write every environment's reward.

        Parameters
        ----------
        outcomes : ndarray of ``kernels.OUTCOME``, shape (N,)
            What the step did; ``reward`` is overwritten.
        actions : ndarray of int64, shape (N,)
            What the agents chose.

        Raises
        ------
        SettingsError
            If a reward is not finite, or the function raises; names the function and the state.
        """
        if self._failure(outcomes, actions) is not None:
            self._raise_at_state(outcomes, actions)

    def _failure(self, outcomes: NDArray[np.void], actions: NDArray[np.int64]) -> str | None:
        """Write the rewards; return what went wrong."""
        try:
            are_finite = self._write(outcomes, actions, self._age_limit, self._parameters)
        except Exception as error:
            return f"compiled, it raised {type(error).__name__}: {error}"
        return None if are_finite else "compiled, it returned no finite 32-bit number"

    def _raise_at_state(self, outcomes: NDArray[np.void], actions: NDArray[np.int64]) -> None:
        """Find the state that failed, by the uncompiled function first, which knows its line."""
        states = [
            state_of(outcome, int(action), self._age_limit)
            for outcome, action in zip(outcomes, actions, strict=True)
        ]
        for state in states:
            self._reward(state, self._parameters)
        for env, state in enumerate(states):
            reason = self._failure(outcomes[env : env + 1], actions[env : env + 1])
            if reason is not None:
                raise self._reward.failed(reason, state)


@functools.lru_cache(maxsize=32)
def _compiled_loop(reward: UserReward) -> Callable[..., bool]:
    """Compile a reward and its loop, once per function and process."""
    logger.info("compiling reward %s", reward.described())
    started = time.monotonic()
    compute: Any = njit(_with_compiled_helpers(reward.function, {}))
    try:
        compute.compile((compute.typeof_pyval(_STATE), compute.typeof_pyval(_PARAMETERS)))
    except Exception as error:  # not all that numba raises is an error of its own kind
        raise _not_compiled(_place(reward, error), _reason(error)) from error
    returned = compute.nopython_signatures[0].return_type
    if not isinstance(returned, _NUMBERS):
        kind = str(returned).partition("(")[0]
        raise _not_compiled(
            reward.described(), f"it has to return a number in every case (returns: {kind})"
        )
    loop: Callable[..., bool] = _loop_over(compute)
    loop(np.zeros(0, kernels.OUTCOME), np.zeros(0, np.int64), 1, _PARAMETERS)  # compiles it
    logger.info("compiled in %.1f s", time.monotonic() - started)
    return loop


def _loop_over(compute: Any) -> Any:
    """Return the loop that calls ``compute`` for every environment."""

    @njit
    def write_rewards(
        outcomes: NDArray[np.void],
        actions: NDArray[np.int64],
        max_age_candles: int,
        parameters: Parameters,
    ) -> bool:
        are_finite = True
        for env in range(len(actions)):
            outcome = outcomes[env]
            state = state_of(outcome, actions[env], max_age_candles)
            outcome.reward = compute(state, parameters)
            are_finite = are_finite and abs(outcome.reward) <= LARGEST_REWARD
        return are_finite

    return write_rewards


def _with_compiled_helpers(
    function: Callable[..., Any], done: dict[Callable[..., Any], Any]
) -> Callable[..., Any]:
    """Return the function with every plain function that it calls by name compiled.

    ``done`` holds helpers that were met, so that each is compiled once.
    """
    names = _names_in(function.__code__)
    scope = dict(function.__globals__)
    for name in names & scope.keys():
        helper = scope[name]
        if not isinstance(helper, FunctionType) or helper is function:
            continue
        if helper.__module__.partition(".")[0] in _NOT_TO_COMPILE:
            continue
        if helper not in done:
            done[helper] = None  # one that is met again within itself stays as it is
            done[helper] = njit(_with_compiled_helpers(helper, done))
        scope[name] = done[helper] or helper
    copy = FunctionType(
        function.__code__,
        scope,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__module__ = function.__module__
    return copy


def _names_in(code: CodeType) -> set[str]:
    """Return the global names that a function uses, those of functions within it included."""
    inner = [_names_in(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inner)


def _not_compiled(described: str, reason: str) -> RewardNotCompiledError:
    return RewardNotCompiledError(
        f"reward: {described} cannot be compiled: {reason}; change it, or set "
        "allow_uncompiled_reward: true to run the slow reference environments"
    )


def _place(reward: UserReward, error: Exception) -> str:
    """Describe the function and the line that numba stumbled over, be it in a helper."""
    for file, line in _PLACE.findall(str(error)):
        path = Path(file).resolve()
        # What a call of NumPy comes down to in numba is not the user's line.
        if not path.is_relative_to(_NUMBA):
            return reward.described(int(line), path)
    loc = getattr(error, "loc", None)
    return reward.described(getattr(loc, "line", None))


def _reason(error: Exception) -> str:
    """Return the first thing that numba's pages of text complain about, in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith("Failed in nopython")]
    reason = lines[0] if lines else type(error).__name__
    if reason.endswith("signature:"):
        reason += " " + next((line[4:] for line in lines if line.startswith(">>> ")), "")
    reason = re.sub(r" Raised from .*", "", reason).rstrip(".")
    return re.sub(r"(RewardState|Parameters)\([^()]*\)", r"\1", reason)
