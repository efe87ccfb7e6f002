"""A model made of numbers alone: what its networks look like follows from the shapes of weights.

A file that is read should not be able to say which code runs. So nothing of a model but tensors and
plain values is taken from files: policy class, spaces and networks are ours, and their sizes are
those of the tensors. A name that is missing or that we do not know ends it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from torch import Tensor

from mtf_scalper.errors import SettingsError
from mtf_scalper.ppo.checkpoints import DRAWING
from mtf_scalper.ppo.late_buffer import LateRolloutBuffer
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.ppo.position_policy import PositionPolicy
from mtf_scalper.simulator.observation import POSITION_STATE

Weights = Mapping[str, Tensor]

PLAIN: Final[Mapping[str, tuple[type, ...]]] = {
    "num_timesteps": (int,),
    "seed": (int,),
    "n_envs": (int,),
    "n_steps": (int,),
    "batch_size": (int,),
    "n_epochs": (int,),
    "learning_rate": (int, float),
    "gamma": (int, float),
    "gae_lambda": (int, float),
    "ent_coef": (int, float),
    "vf_coef": (int, float),
    "max_grad_norm": (int, float),
    "target_kl": (int, float),
    "normalize_advantage": (bool,),
}
"""Attributes of a model that a file may set, and what they are; ``feature_names`` besides."""
_SIZES: Final = ("n_envs", "n_steps", "batch_size", "n_epochs")
_LAYER: Final = re.compile(r"mlp_extractor\.(policy|value)_net\.(\d+)\.weight")
_OTHER: Final = re.compile(r"others\.(\d+)\.action_net\.weight")


def plain_values(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a file's values that are of a known name and of its type."""
    values: dict[str, Any] = {}
    for name, types in PLAIN.items():
        value = found.get(name)
        is_flag = isinstance(value, bool)
        if isinstance(value, types) and is_flag == (bool in types):
            values[name] = value
    for name in _SIZES:
        if values.get(name, 1) < 1:
            del values[name]
    names = found.get("feature_names")
    if isinstance(names, list) and all(isinstance(each, str) for each in names):
        values["feature_names"] = names
    return values


def rebuilt(
    weights: Weights,
    plain: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> PPO:
    """Return a model with these weights.

    Parameters
    ----------
    weights : mapping of str to Tensor
        A policy's ``state_dict``; what older builds did not have yet may be missing.
    plain : mapping
        From ``plain_values``.
    optimizer : mapping, optional
        The optimiser's ``state_dict``, for whoever goes on learning.
    device : str

    Raises
    ------
    SettingsError
        If these are no weights of a policy of this package.
    """
    try:
        return _rebuilt(weights, plain, optimizer, device)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(f"it holds no policy of this package ({reason})") from None


def _rebuilt(
    weights: Weights,
    plain: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None,
    device: str,
) -> PPO:
    if "action_net.weight" not in weights:
        raise KeyError("'action_net.weight' is missing")
    n_actions = int(weights["action_net.weight"].shape[0])
    layers = {kind: _layers(weights, kind) for kind in ("policy", "value")}
    sees_position = "mlp_extractor.position_to_head.weight" in weights
    n_position = len(POSITION_STATE) if sees_position else 0
    if "standard.centre" in weights:
        n_inputs = int(weights["standard.centre"].shape[0])
    else:
        n_inputs = int(weights["mlp_extractor.policy_net.0.weight"].shape[1]) + n_position
    basis = weights.get("forecasts.basis")
    others = [int(found[1]) for name in weights if (found := _OTHER.fullmatch(name))]
    sizes = {name: plain[name] for name in _SIZES if name in plain}
    with DRAWING, torch.random.fork_rng(devices=[]):
        model = PPO(
            PositionPolicy if sees_position else MaskedPolicy,
            None,  # type: ignore[arg-type]  # as in PPO.load
            _init_setup_model=False,
            **{name: value for name, value in sizes.items() if name != "n_envs"},
            policy_kwargs={
                "activation_fn": torch.nn.ReLU,
                "net_arch": layers["policy"]
                if sees_position
                else {"pi": layers["policy"], "vf": layers["value"]},
                **({} if basis is None else {"forecast_window": int(basis.shape[0])}),
                **({"n_members": 1 + len(others)} if others else {}),
            },
            rollout_buffer_class=LateRolloutBuffer,
            device=device,
        )
        model.observation_space = spaces.Box(-np.inf, np.inf, (n_inputs + n_actions,))
        model.action_space = spaces.Discrete(n_actions)
        model.n_envs = sizes.get("n_envs", 1)
        model._setup_model()
    model.policy.load_state_dict(dict(weights))
    if optimizer is not None:
        model.policy.optimizer.load_state_dict(dict(optimizer))
    model.set_logger(Logger(None, []))
    for name, value in plain.items():
        setattr(model, name, value)
    return model


def _layers(weights: Weights, kind: str) -> list[int]:
    found = {
        int(match[2]): int(value.shape[0])
        for name, value in weights.items()
        if (match := _LAYER.fullmatch(name)) and match[1] == kind
    }
    return [found[number] for number in sorted(found)]


def weights_digest(policy: torch.nn.Module) -> str:
    """Return the SHA-256 of a policy's weights: names, types, shapes and every bit, in hex."""
    digest = hashlib.sha256()
    for name, value in sorted(policy.state_dict().items()):
        array = np.ascontiguousarray(value.detach().cpu().numpy())
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
