"""What users read while ``FastPPO`` learns: episode statistics, logger, TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.rollouts.environments import make_vec_env
from mtf_scalper.rollouts.fast_ppo import FastPPO

N_ENVS, N_STEPS, N_UPDATES = 3, 128, 3


class Tally(BaseCallback):
    """Sums rewards and lengths of episodes by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.episodes: list[tuple[float, int]] = []
        self._sums = np.zeros(N_ENVS)
        self._lengths = np.zeros(N_ENVS, dtype=np.int64)

    def _on_step(self) -> bool:
        self._sums += self.locals["rewards"]
        self._lengths += 1
        for env in np.flatnonzero(self.locals["dones"]):
            self.episodes.append((float(self._sums[env]), int(self._lengths[env])))
            self._sums[env], self._lengths[env] = 0.0, 0
        return True


def learned(kind: type[PPO], make_market, tiny_settings, folder: Path) -> tuple[PPO, Tally, Any]:
    """Return the model, its callback and what TensorBoard has, after three rollouts."""
    settings = tiny_settings(n_envs=N_ENVS, max_episode_steps=30, reward="freqtrade_example")
    model = kind(
        MaskedPolicy,
        VecMonitor(make_vec_env(make_market(n_candles=150, volatility=0.01), settings)),
        n_steps=N_STEPS,
        batch_size=64,
        n_epochs=2,
        seed=5,
        device="cpu",
        policy_kwargs={"net_arch": [8]},
        tensorboard_log=str(folder),
    )
    tally = Tally()
    model.learn(N_UPDATES * N_ENVS * N_STEPS, tally)
    model.logger.close()
    (run,) = folder.iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    return model, tally, events


@pytest.fixture(scope="module")
def fast(make_market, tiny_settings, tmp_path_factory) -> tuple[PPO, Tally, Any]:
    return learned(FastPPO, make_market, tiny_settings, tmp_path_factory.mktemp("fast"))


def test_episode_statistics_are_sums_of_the_rewards_that_were_paid(fast) -> None:
    model, tally, _ = fast
    assert model.ep_info_buffer is not None
    theirs = [(info["r"], info["l"]) for info in model.ep_info_buffer]
    assert len(theirs) >= N_ENVS * N_UPDATES * N_STEPS // 30 - N_ENVS
    assert len({round(total, 6) for total, _ in theirs}) > 10
    np.testing.assert_allclose(theirs, tally.episodes[-len(theirs) :], atol=1e-4)


def test_tensorboard_gets_what_stable_baselines3_writes_at_the_same_steps(
    fast, make_market, tiny_settings, tmp_path: Path
) -> None:
    _, tally, events = fast
    _, _, stock = learned(PPO, make_market, tiny_settings, tmp_path)
    tags = set(events.Tags()["scalars"])
    assert tags == set(stock.Tags()["scalars"])
    assert {"rollout/ep_rew_mean", "train/value_loss", "train/approx_kl", "time/fps"} <= tags
    for tag in tags:
        ours, theirs = ([scalar.step for scalar in each.Scalars(tag)] for each in (events, stock))
        assert ours == theirs, tag
        assert np.isfinite([scalar.value for scalar in events.Scalars(tag)]).all()
    means = {scalar.step: scalar.value for scalar in events.Scalars("rollout/ep_rew_mean")}
    last = max(means)
    returns = [total for total, _ in tally.episodes]
    assert last == N_UPDATES * N_ENVS * N_STEPS
    assert len(returns) <= 100  # stable-baselines3 averages the last hundred
    assert means[last] == pytest.approx(np.mean(returns), rel=1e-4, abs=1e-4)
