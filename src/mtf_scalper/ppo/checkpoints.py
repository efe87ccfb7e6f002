"""A stable-baselines3 model for a run's settings: what learns, is saved and is loaded again."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from mtf_scalper.errors import SettingsError, WeightsError
from mtf_scalper.ppo.compute import ComputeSetup
from mtf_scalper.ppo.finite import first_not_finite
from mtf_scalper.ppo.team import team
from mtf_scalper.settings import Settings

logger = logging.getLogger(__name__)

DRAWING = threading.RLock()
"""Whoever draws from the generators of torch and NumPy holds it; they are the whole process's.

stable-baselines3 seeds them and draws from them, so that of two trainings at once each would get
some of the other's numbers.
"""


class Spaces(NamedTuple):
    """What a network has to know of its environments, and their number."""

    observations: spaces.Box
    actions: spaces.Discrete
    n_envs: int


@team()
def new_model(
    algorithm: type[PPO],
    policy: type[ActorCriticPolicy],
    env: VecEnv | Spaces,
    settings: Settings,
    compute: ComputeSetup,
    initial: PPO | None,
    tensorboard_log: str | None,
    rollout_buffer_class: type[RolloutBuffer] | None = None,
    **policy_kwargs: Any,
) -> PPO:
    """Return a model with the run's settings, and with the weights of ``initial`` if given.

    One that is to step through no environment is given the spaces in its place.
    In a team, because torch's orthogonal matrices depend on the number of its threads as well.

    Raises
    ------
    SettingsError
        If ``initial`` is of another shape.
    """
    with DRAWING:
        model = algorithm(
            policy,
            env if isinstance(env, VecEnv) else None,  # type: ignore[arg-type]  # as in PPO.load
            _init_setup_model=False,
            n_steps=settings.n_steps,
            batch_size=settings.batch_size,
            n_epochs=settings.used_n_epochs,
            learning_rate=settings.used_learning_rate,
            gamma=settings.gamma,
            gae_lambda=settings.gae_lambda,
            clip_range=settings.clip_range,
            clip_range_vf=settings.clip_range_vf,
            normalize_advantage=settings.normalize_advantage,
            ent_coef=settings.ent_coef,
            vf_coef=settings.vf_coef,
            max_grad_norm=settings.max_grad_norm,
            target_kl=settings.target_kl,
            policy_kwargs={
                "activation_fn": torch.nn.ReLU,
                "net_arch": list(settings.net_arch),
                **policy_kwargs,
            },
            rollout_buffer_class=rollout_buffer_class,
            tensorboard_log=tensorboard_log,
            device=compute.device,
            seed=settings.random_state,
        )
        if isinstance(env, Spaces):
            model.observation_space, model.action_space, model.n_envs = env
        model._setup_model()
    if tensorboard_log is None:
        # stable-baselines3's usual logger would leave a folder among the temporary files.
        model.set_logger(Logger(None, []))
    if initial is not None:
        _take_over(model, initial)
    return model


def load_weights(policy: ActorCriticPolicy, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a policy the weights of another one.

    Raises
    ------
    SettingsError
        If they are of another shape, or not finite.
    """
    if _shapes(weights) != _shapes(policy.state_dict()):
        raise SettingsError(
            "net_arch, the window, policy_inputs or the features differ from those of the model to "
            "go on from; "
            "switch continual learning off or start under another identifier"
        )
    bad = first_not_finite(weights)
    if bad is not None:
        raise SettingsError(
            f"the model to go on from has infinite or NaN weights in {bad!r}; switch continual "
            "learning off or start under another identifier"
        )
    policy.load_state_dict(weights)


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights but those of forecasts, which every training fits anew."""
    return {
        name: tuple(value.shape)
        for name, value in weights.items()
        if not name.startswith("forecasts.")
    }


def _take_over(model: PPO, initial: PPO) -> None:
    """Copy weights and optimiser state from ``initial``."""
    load_weights(model.policy, initial.policy.state_dict())
    # The optimiser would go on to share its running averages with the model that they came from.
    model.policy.optimizer.load_state_dict(copy.deepcopy(initial.policy.optimizer.state_dict()))


def give_up(model: PPO, error: WeightsError) -> None:
    """Say why a training ends early; what Adam has noted by then is of no use to a later one."""
    logger.warning("%s: the training ends here, and weights from before are kept", error)
    model.policy.optimizer.state.clear()


def release(model: PPO) -> None:
    """Drop what only training needed: closed environments and the rollout's memory."""
    model.env = None
    del model.rollout_buffer
    # stable-baselines3's PPO leaves that of its last minibatch, with all that led to it.
    model.policy.action_dist.distribution = None  # type: ignore[assignment]  # as it begins
    # Weights that were views of one array get the places in memory that loaded ones have.
    for parameter in model.policy.parameters():
        parameter.data = parameter.data.clone()


def training_facts(
    model: PPO, settings: Settings, compute: ComputeSetup, total_steps: int
) -> dict[str, Any]:
    """Return what the training really uses, read from the objects that do the work."""
    return {
        "total_steps": total_steps,
        "advantage": str(settings.advantage),
        "policy_inputs": str(settings.used_policy_inputs),
        "algorithm": type(model).__name__,
        "n_envs": model.n_envs,
        "vec_env": str(settings.vec_env),
        "torch_threads": compute.threads,
        "torch_interop_threads": compute.interop_threads,
        "device": str(model.device),
        "batch_size": model.batch_size,
        "n_steps": model.n_steps,
        "n_epochs": model.n_epochs,
        "layer_sizes": [
            layer.out_features
            for layer in model.policy.mlp_extractor.policy_net
            if isinstance(layer, torch.nn.Linear)
        ],
        "random_state": settings.random_state,
    }
