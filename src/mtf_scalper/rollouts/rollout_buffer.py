"""A rollout that stores which candle was seen, not the window of candles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from mtf_scalper.rollouts import ppo_kernels as kernels
from mtf_scalper.rollouts.ppo_kernels import Samples
from mtf_scalper.simulator.kernels import gather_windows

_Value = TypeVar("_Value", bound=np.generic)


def samples_of(buffer: CandleRolloutBuffer) -> Samples:
    """Return all samples of a rollout."""
    flat = _by_environment
    return Samples(
        rows=flat(buffer.rows),
        actions=flat(buffer.actions[:, :, 0]),
        extras=flat(buffer.extras),
        values=flat(buffer.values),
        log_probs=flat(buffer.log_probs),
        advantages=flat(buffer.advantages),
        returns=flat(buffer.returns),
    )


def _by_environment(values: NDArray[_Value]) -> NDArray[_Value]:
    return np.ascontiguousarray(values.swapaxes(0, 1)).reshape(-1, *values.shape[2:])


class CandleRolloutBuffer(RolloutBuffer):
    """stable-baselines3's rollout buffer with candle rows and extras in place of observations.

    ``see`` names the market before anything is stored. ``get`` gathers whole observations, for
    code that expects stable-baselines3's buffer.

    Attributes
    ----------
    rows : ndarray of int64, shape (n_steps, N)
    extras : ndarray of float32, shape (n_steps, N, E)
    """

    features: NDArray[np.float32]

    def reset(self) -> None:
        """Forget the rollout; the arrays are kept."""
        if not hasattr(self, "rewards"):
            shape = (self.buffer_size, self.n_envs)
            self.rows = np.zeros(shape, dtype=np.int64)
            self.extras = np.zeros((*shape, 0), dtype=np.float32)
            self.actions = np.zeros((*shape, self.action_dim), dtype=np.int64)
            for name in ("rewards", "returns", "episode_starts", "values", "log_probs"):
                setattr(self, name, np.zeros(shape, dtype=np.float32))
            self.advantages = np.zeros(shape, dtype=np.float32)
        self.pos = 0
        self.full = False

    def see(self, features: NDArray[np.float32], n_extras: int) -> None:
        """Note whose windows the rows mean, and how long an observation is beyond its window."""
        self.features = features
        if self.extras.shape[2] != n_extras:
            self.extras = np.zeros((self.buffer_size, self.n_envs, n_extras), dtype=np.float32)

    def compute_returns_and_advantage(  # type: ignore[override]
        self, last_values: NDArray[np.float32], dones: NDArray[np.bool_]
    ) -> None:
        """Write advantages and returns; ``last_values`` belong to the state after the rollout."""
        kernels.gae(
            self.rewards,
            self.values,
            self.episode_starts,
            last_values,
            dones,
            self.gamma,
            self.gae_lambda,
            self.advantages,
        )
        np.add(self.advantages, self.values, out=self.returns)

    def get(self, batch_size: int | None = None) -> Iterator[RolloutBufferSamples]:  # type: ignore[override]
        """Yield minibatches with whole observations, in a random order."""
        samples = samples_of(self)
        n_samples = len(samples.rows)
        order = np.random.permutation(n_samples)  # noqa: NPY002 - the generator that SB3 seeds
        length = int(np.prod(self.obs_shape))
        for start in range(0, n_samples, batch_size or n_samples):
            chosen = order[start : start + (batch_size or n_samples)]
            observations = np.empty((len(chosen), length), dtype=np.float32)
            gather_windows(
                self.features, samples.rows[chosen], samples.extras[chosen], observations
            )
            yield RolloutBufferSamples(
                torch.from_numpy(observations),
                torch.from_numpy(samples.actions[chosen, None].astype(np.float32)),
                *(
                    torch.from_numpy(values[chosen])
                    for values in (
                        samples.values,
                        samples.log_probs,
                        samples.advantages,
                        samples.returns,
                    )
                ),
            )
