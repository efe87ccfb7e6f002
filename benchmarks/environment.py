"""The batched environments alone: steps per second of the compiled call on one core.

Run: ``python benchmarks/environment.py``. The kernel is called with the very arguments that
``BatchedVecEnv`` gives it, with random actions, under the shipped rules, the position's state
written at every step. ``VecEnv.step`` beside it gathers the observations and reports trades too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from report import Measured, Requirement, Workload, run, spread, table, with_spread

from mtf_scalper.market.market import Market
from mtf_scalper.rollouts.environments import make_vec_env
from mtf_scalper.rollouts.vec_env import BatchedVecEnv
from mtf_scalper.settings import EntryMode
from mtf_scalper.simulator import kernels

REQUIRED = {8: 4e6, 1024: 30e6}
"""Steps per second of the kernel by number of environments."""
_N_ACTIONS = 5
_N_CALLS = 512


def measure(
    workload: Workload,
    repeats: int,
    n_steps: int | None = None,
    required: dict[int, float] = REQUIRED,
) -> Measured:
    """Time kernel and environment by number of environments and entry mode."""
    # In a quick run a rollout is short, and so is this.
    n_steps = n_steps or 30 * workload.steps
    market = workload.market()
    results, rows, requirements = [], [], []
    for n_envs, bound in required.items():
        for entry in (EntryMode.ALWAYS, EntryMode.ANY):
            env = _environment(market, workload, entry, n_envs)
            actions = np.random.default_rng(0).integers(0, _N_ACTIONS, (_N_CALLS, n_envs))
            alone = [
                _steps_per_second(_kernel_calls(env, actions), n_envs, n_steps)
                for _ in range(repeats)
            ]
            whole = [
                _steps_per_second(_step_calls(env, actions), n_envs, n_steps // 10)
                for _ in range(repeats)
            ]
            results.append(
                {
                    "n_envs": n_envs,
                    "entry": str(entry),
                    "kernel_steps_per_second": spread(alone),
                    "vec_env_steps_per_second": spread(whole),
                }
            )
            rows.append([f"{n_envs:,}", f"`{entry}`", _millions(alone), _millions(whole)])
            what = f"kernel alone, {n_envs:,} environments, `{entry}`"
            median = spread(alone)["median"] / 1e6
            requirements.append(Requirement(what, median, at_least=bound / 1e6, unit="M steps/s"))
    header = ["environments", "entry", "kernel, M steps/s", "`VecEnv.step`, M steps/s"]
    return Measured(
        results={"threads": 1, "combinations": results},
        tables=[table(header, rows)],
        requirements=requirements,
    )


def _environment(
    market: Market, workload: Workload, entry: EntryMode, n_envs: int
) -> BatchedVecEnv:
    settings = workload.settings(entry, add_state_info=True)
    env = make_vec_env(market, settings, n_envs=n_envs)
    assert isinstance(env, BatchedVecEnv)
    env.reset()
    return env


def _kernel_calls(env: BatchedVecEnv, actions: NDArray[np.int64]) -> list[Callable[[], Any]]:
    """Return calls of the kernel as the environment makes them, with other actions."""
    with patch.object(kernels, "step", wraps=kernels.step) as spy:
        env.step(actions[0])
    given = spy.call_args.args
    (place,) = [i for i, argument in enumerate(given) if argument is env._actions]
    kernel = kernels.step

    def call(arguments: tuple[Any, ...]) -> Callable[[], Any]:
        return lambda: kernel(*arguments)

    return [call((*given[:place], row, *given[place + 1 :])) for row in actions]


def _step_calls(env: BatchedVecEnv, actions: NDArray[np.int64]) -> list[Callable[[], Any]]:
    def call(row: NDArray[np.int64]) -> Callable[[], Any]:
        return lambda: env.step(row)

    return [call(row) for row in actions]


def _steps_per_second(calls: list[Callable[[], Any]], n_envs: int, n_steps: int) -> float:
    """Return environment steps per second over at least ``n_steps``, after one uncounted call."""
    calls[0]()
    rounds = max(1, n_steps // (len(calls) * n_envs))
    started = time.perf_counter()
    for _ in range(rounds):
        for call in calls:
            call()
    return rounds * len(calls) * n_envs / (time.perf_counter() - started)


def _millions(values: list[float]) -> str:
    return with_spread([value / 1e6 for value in values])


if __name__ == "__main__":
    sys.exit(run("environment", __doc__, measure))
