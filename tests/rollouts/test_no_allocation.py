"""What a step of the batched environments costs in memory: nothing that grows with their number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numba.core.runtime import _nrt_python, rtsys

from mtf_scalper.rollouts.vec_env import BatchedVecEnv
from mtf_scalper.settings import RewardName
from mtf_scalper.simulator import kernels

N_STEPS = 300


@pytest.fixture
def allocations_counted() -> Iterator[None]:
    """Count what compiled code allocates; numba does not by default."""
    _nrt_python.memsys_enable_stats()
    yield
    _nrt_python.memsys_disable_stats()


@pytest.mark.usefixtures("allocations_counted")
@pytest.mark.parametrize("n_envs", [1, 8, 257])
@pytest.mark.parametrize("reward", list(RewardName))
def test_a_step_allocates_nothing_but_a_handle_for_each_array_it_is_given(
    reward, n_envs, make_market, tiny_settings
) -> None:
    """Entries, exits of every kind and ends of episodes included; all is freed again."""
    market = make_market(n_candles=200, volatility=0.01, leverage=3.0)
    rules = {"entry": "any", "stoploss": -0.05, "minimal_roi": {0: 0.03}, "emergency_loss": -0.04}
    settings = tiny_settings(
        add_state_info=True, reward=reward, max_episode_steps=60, rules=rules, window_size=4
    )
    env = BatchedVecEnv(market, settings, [3] * n_envs)
    env.reset()
    env.step(np.zeros(n_envs, dtype=np.int64))  # compiled from here on
    rng = np.random.default_rng(1)
    given = len(env._terms) - 1 + kernels.step.py_func.__code__.co_argcount
    given += 0 if env._reward is None else 2  # outcomes and actions again
    n_trades = n_ends = 0
    for _ in range(N_STEPS):
        env.step_async(rng.integers(0, 5, n_envs))
        before = rtsys.get_allocation_stats()
        env._advance()
        after = rtsys.get_allocation_stats()
        assert after.alloc - before.alloc == after.free - before.free <= given
        n_trades += int((env.outcome["exit_code"] > 0).sum())
        n_ends += int((env.outcome["terminated"] | env.outcome["truncated"]).sum())
    assert n_trades >= 20
    assert n_ends >= 4 * n_envs
