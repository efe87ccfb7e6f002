"""``FastPPO``: stable-baselines3's PPO with the same mathematics and less work.

Rollouts store candle rows instead of windows, and where the network does not see the position its
outputs are computed once per candle, not once per step. The update runs on flat storage with a
written-out backward pass, and leaves the policy network out for samples without a choice.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from mtf_scalper.errors import SettingsError
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.ppo.team import team
from mtf_scalper.ppo.towers import Towers
from mtf_scalper.rollouts import ppo_kernels as kernels
from mtf_scalper.rollouts.candle_vec_env import CandleVecEnv
from mtf_scalper.rollouts.outputs import NetworkOutputs
from mtf_scalper.rollouts.rollout_buffer import CandleRolloutBuffer, samples_of

_LOSSES = ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction")


class FastPPO(PPO):
    """stable-baselines3's ``PPO`` for batched environments on the CPU.

    Constructor, schedules, callbacks, logger keys, ``save`` and ``load`` are those of ``PPO``, and
    checkpoints of both can be loaded by either. From the same weights, rollout and order of
    minibatches an update gives the same parameters.

    Raises
    ------
    SettingsError
        For what it does not support: other devices than the CPU, policies other than
        ``MlpPolicy`` and ``MaskedPolicy``, optimisers other than Adam, rollout buffers of one's
        own, and environments other than ``CandleVecEnv``, alone or in ``VecMonitor``.
    """

    def _setup_model(self) -> None:
        if self.rollout_buffer_class not in (None, RolloutBuffer, CandleRolloutBuffer):
            raise SettingsError("FastPPO: rollout_buffer_class is its own; use PPO")
        if not isinstance(self.action_space, spaces.Discrete):
            raise SettingsError("FastPPO: the action space must be Discrete; use PPO")
        if self.device.type != "cpu":
            raise SettingsError(f"FastPPO: runs on the CPU, not on {self.device}; use PPO")
        if self.policy_class not in (ActorCriticPolicy, MaskedPolicy):
            raise SettingsError(
                f"FastPPO: policy {self.policy_class.__name__} is not supported; "
                "use MlpPolicy or MaskedPolicy"
            )
        chosen = set(self.policy_kwargs) & {"features_extractor_class", "share_features_extractor"}
        if chosen:
            raise SettingsError(f"FastPPO: policy_kwargs {sorted(chosen)[0]!r} is not supported")
        if self.env is not None:
            _candle_env(self.env)
        self.rollout_buffer_class = CandleRolloutBuffer
        super()._setup_model()
        self._towers = Towers(self.policy, self.batch_size)

    def _excluded_save_params(self) -> list[str]:
        # Stock PPO loads the checkpoint too, and takes a buffer of its own.
        return [*super()._excluded_save_params(), "_towers", "rollout_buffer_class"]

    @team()
    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Fill the buffer; see ``OnPolicyAlgorithm.collect_rollouts``."""
        assert isinstance(rollout_buffer, CandleRolloutBuffer)
        candle_env = _candle_env(env)
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        rollout_buffer.see(candle_env.features, candle_env.extras.shape[1])
        features = self._in_its_units(candle_env.features)
        outputs = NetworkOutputs(self._bound_towers(), candle_env, features, self._n_masked)
        uniforms = torch.rand(n_rollout_steps, env.num_envs).numpy()
        callback.on_rollout_start()
        new_obs: Any = self._last_obs
        dones: Any = self._last_episode_starts
        for n_steps in range(n_rollout_steps):
            self._last_episode_starts = dones
            obs_tensor = torch.as_tensor(new_obs)
            rollout_buffer.rows[n_steps] = candle_env.rows
            rollout_buffer.extras[n_steps] = candle_env.extras
            rollout_buffer.episode_starts[n_steps] = dones
            actions = rollout_buffer.actions[n_steps, :, 0]
            log_probs = rollout_buffer.log_probs[n_steps]
            values = rollout_buffer.values[n_steps]
            logits = outputs.now(values)
            kernels.sample_actions(logits, outputs.masks(), uniforms[n_steps], actions, log_probs)
            new_obs, rewards, dones, infos = env.step(actions)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            if dones.any():
                self._update_info_buffer(infos, dones)
                self._bootstrap(rewards, infos)
            rollout_buffer.rewards[n_steps] = rewards
        self._last_obs, self._last_episode_starts = new_obs, dones
        rollout_buffer.pos, rollout_buffer.full = n_rollout_steps, True
        last_values = np.empty(env.num_envs, dtype=np.float32)
        outputs.now(last_values)
        rollout_buffer.compute_returns_and_advantage(last_values, dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    @team()
    def train(self) -> None:
        """Update the policy from the rollout; see ``PPO.train``."""
        buffer = self.rollout_buffer
        assert isinstance(buffer, CandleRolloutBuffer)
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        towers = self._bound_towers()
        towers.storage.set_learning_rate(self.lr_schedule(self._current_progress_remaining))
        progress = self._current_progress_remaining
        clip_range = self.clip_range(progress)  # type: ignore[operator]
        clip_range_vf = self.clip_range_vf and self.clip_range_vf(progress)  # type: ignore[operator]
        update = _Update(self, towers, buffer, clip_range, clip_range_vf)
        continue_training = True
        epochs: list[list[NDArray[np.float64]]] = []
        for _ in range(self.n_epochs):
            order = np.random.permutation(update.n_samples)  # noqa: NPY002 - SB3 seeds this one
            epochs.append([])
            for start in range(0, update.n_samples, self.batch_size):
                losses = update.gradients(order[start : start + self.batch_size])
                epochs[-1].append(losses)
                if self.target_kl is not None and losses[3] > 1.5 * self.target_kl:
                    continue_training = False
                    break
                towers.storage.step(self.max_grad_norm)
            self._n_updates += 1
            if not continue_training:
                break
        towers.storage.show_steps()
        self._log(epochs, clip_range, clip_range_vf)

    @property
    def _n_masked(self) -> int:
        """Actions whose mask ends the observation; 0 where actions are not masked."""
        assert isinstance(self.action_space, spaces.Discrete)
        return int(self.action_space.n) if isinstance(self.policy, MaskedPolicy) else 0

    def _in_its_units(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features as the network takes them, shape (T, F)."""
        policy = self.policy
        return (
            policy.standard.of_features(features) if isinstance(policy, MaskedPolicy) else features
        )

    def _bound_towers(self) -> Towers:
        """Return the networks on flat storage, bound again where a checkpoint was loaded."""
        if not self._towers.is_bound_to(self.policy, self.batch_size):
            self._towers = Towers(self.policy, self.batch_size)
        return self._towers

    def _bootstrap(self, rewards: NDArray[np.float32], infos: list[dict[str, Any]]) -> None:
        """Add the value of what would have come after a truncated episode to its last reward."""
        for env, info in enumerate(infos):
            if info.get("TimeLimit.truncated", False):
                last = torch.from_numpy(info["terminal_observation"][None])
                with torch.no_grad():
                    rewards[env] += self.gamma * self.policy.predict_values(last).item()

    def _log(
        self,
        epochs: list[list[NDArray[np.float64]]],
        clip_range: float,
        clip_range_vf: float | None,
    ) -> None:
        means = np.mean([losses for epoch in epochs for losses in epoch], axis=0)
        logged = dict(zip(_LOSSES, means, strict=True))
        last = epochs[-1][-1]
        logged["approx_kl"] = np.mean([losses[3] for losses in epochs[-1]])
        logged["loss"] = last[0] + self.ent_coef * last[2] + self.vf_coef * last[1]
        buffer = self.rollout_buffer
        logged["explained_variance"] = explained_variance(
            buffer.values.flatten(), buffer.returns.flatten()
        )
        logged["clip_range"] = clip_range
        if clip_range_vf is not None:
            logged["clip_range_vf"] = clip_range_vf
        for name, value in logged.items():
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")


class _Update:
    """Gradients of one rollout's minibatches."""

    def __init__(
        self,
        model: FastPPO,
        towers: Towers,
        buffer: CandleRolloutBuffer,
        clip_range: float,
        clip_range_vf: float | None,
    ) -> None:
        self._model = model
        self._towers = towers
        self._features = model._in_its_units(buffer.features)
        self._samples = samples_of(buffer)
        self.n_samples = len(self._samples.rows)
        self._n_masked = model._n_masked
        self._terms = kernels.LossTerms(
            is_masked=self._n_masked > 0,
            clip_range=clip_range,
            clip_range_vf=math.inf if clip_range_vf is None else clip_range_vf,
            ent_coef=model.ent_coef,
            vf_coef=model.vf_coef,
        )
        self._n_inputs = self._samples.extras.shape[1] - self._n_masked
        size = model.batch_size
        self._inputs = towers.new_inputs(size)
        self._order = np.empty(size, dtype=np.int64)
        self._advantages = np.empty(size)
        self._logit_gradients = torch.zeros_like(towers.policy_tower.output)
        self._value_gradients = torch.zeros_like(towers.value_tower.output)

    def gradients(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Write the gradients of a minibatch and return its losses, see ``loss_gradients``."""
        samples, towers, model = self._samples, self._towers, self._model
        n_samples = len(indices)
        order, inputs = self._order[:n_samples], self._inputs[:n_samples]
        n_choices = kernels.fill_minibatch(
            self._features,
            samples.rows,
            samples.extras,
            indices,
            self._n_masked,
            self._n_inputs,
            order,
            inputs.numpy(),
        )
        advantages = self._advantages[:n_samples]
        if model.normalize_advantage and n_samples > 1:
            kernels.normalize(samples.advantages, order, advantages)
        else:
            advantages[:] = samples.advantages[order]
        losses = np.empty(len(_LOSSES))
        if n_choices:
            towers.policy_tower.forward(inputs[:n_choices])
        kernels.loss_gradients(
            towers.policy_tower.output.numpy(),
            towers.value_tower.forward(inputs).numpy(),
            samples,
            advantages,
            order,
            n_choices,
            self._terms,
            kernels.Gradients(self._logit_gradients.numpy(), self._value_gradients.numpy(), losses),
        )
        if n_choices:
            towers.policy_tower.backward(self._logit_gradients[:n_choices])
        else:
            towers.policy_tower.zero_gradients()
        towers.value_tower.backward(self._value_gradients[:n_samples])
        return losses


def _candle_env(env: VecEnv) -> CandleVecEnv:
    """Return the batched environment behind ``env``."""
    inner = env.venv if isinstance(env, VecMonitor) else env
    if not isinstance(inner, CandleVecEnv):
        raise SettingsError(
            f"FastPPO: environment {type(inner).__name__} is not supported; "
            "use batched environments, or PPO"
        )
    return inner
