"""A stable-baselines3 policy that takes only valid actions.

The observation ends with the action mask, so that every part of stable-baselines3 honours it
without knowing: sampling, log-probabilities, entropy, ``predict``, and checkpoints that stock
``PPO`` loads. The network itself never sees the mask.

Several networks may stand in for one: an *ensemble* of members, trained apart, whose probabilities
are averaged (Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474).

Masking by setting logits of invalid actions to a large negative number is Huang and Ontañón
(2022), "A closer look at invalid action masking in policy gradient algorithms".
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from torch import nn

from mtf_scalper.ppo.base_policy import BasePolicy
from mtf_scalper.ppo.forecasts import N_FORECASTS, Forecasts
from mtf_scalper.ppo.products import make_steady
from mtf_scalper.ppo.standard import Standard

INVALID_LOGIT = -1e8
"""Logit of an action that cannot be taken: its probability is exactly zero in single precision."""


class WithoutMask(BaseFeaturesExtractor):
    """Hands on an observation without its last ``n_actions`` numbers."""

    def __init__(self, observation_space: spaces.Box, n_actions: int) -> None:
        super().__init__(observation_space, int(observation_space.shape[0]) - n_actions)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return float32 of shape (N, length - n_actions)."""
        return observations[:, : self.features_dim]


class MaskedPolicy(ActorCriticPolicy):
    """``MlpPolicy`` for observations that end with the action mask as zeros and ones.

    Takes the arguments of ``ActorCriticPolicy`` but for the features extractor, which is its own,
    ``n_members``, the number of networks in the ensemble, and ``forecast_window``: where it is
    given, the networks see forecasts made of windows of so many candles in place of features, and
    their logits are added to those of a ``BasePolicy``.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Discrete,
        *args: Any,
        n_members: int = 1,
        forecast_window: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.forecast_window = forecast_window
        kwargs.update(
            features_extractor_class=WithoutMask,
            features_extractor_kwargs={"n_actions": int(action_space.n)},
        )
        super().__init__(observation_space, action_space, *args, **kwargs)
        parts = ["mlp_extractor", "action_net"]
        if forecast_window is not None:
            self.base_policy = BasePolicy(N_FORECASTS).to(self.device)
            parts.append("base_policy")
        # The first member is the policy's own network; the others stand beside it.
        self.others = nn.ModuleList(
            nn.ModuleDict({part: copy.deepcopy(getattr(self, part)) for part in parts})
            for _ in range(n_members - 1)
        )
        self.standard = Standard(self.features_dim).to(self.device)
        if forecast_window is not None:
            n_features = self._n_window // forecast_window
            self.forecasts = Forecasts(forecast_window, n_features).to(self.device)
        make_steady(self)

    @property
    def n_members(self) -> int:
        """Networks in the ensemble."""
        return 1 + len(self.others)

    def forward(
        self, obs: torch.Tensor, deterministic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return valid actions (N,), values (N, 1) and log-probabilities (N,)."""
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)

    def evaluate_actions(  # type: ignore[override]
        self, obs: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return values (N, 1), log-probabilities (N,) and entropies (N,)."""
        distribution = self.get_distribution(obs)
        return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: torch.Tensor) -> Distribution:  # type: ignore[override]
        """Return the distribution over the valid actions."""
        logits = self.logits(obs[:, : self.features_dim])
        is_valid = obs[:, self.features_dim :] > 0.5
        masked = torch.where(is_valid, logits, INVALID_LOGIT)
        return self.action_dist.proba_distribution(action_logits=masked)

    def predict_values(self, obs: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return the values of observations, shape (N, 1)."""
        inputs = self._seen(obs[:, : self.features_dim])
        values: torch.Tensor = self.value_net(self.mlp_extractor.forward_critic(inputs))
        return values

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits of all actions, shape (N, n_actions), before any mask.

        Those of an ensemble are the logarithms of its members' mean probabilities.

        Parameters
        ----------
        inputs : float32, shape (N, length - n_actions)
            As observed: ``standard`` brings them into the network's units.
        """
        members = self.member_logits(inputs)
        if len(members) == 1:
            return members[0]
        chances = torch.log_softmax(members, dim=2)
        return torch.logsumexp(chances, dim=0) - math.log(len(members))

    def member_logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return every member's logits, shape (n_members, N, n_actions)."""
        inputs = self._seen(inputs)
        return torch.stack([_logits_of(each, inputs) for each in (self, *self.others)])

    @property
    def _n_window(self) -> int:
        """Numbers of a window among those that are observed."""
        return self.features_dim

    @property
    def _n_seen(self) -> int:
        """Numbers of a window that the networks see."""
        return self._n_window if self.forecast_window is None else N_FORECASTS

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = MlpExtractor(
            self._n_seen,
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            device=self.device,
        )

    def _seen(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what the networks see of what is observed."""
        inputs = self.standard(inputs)
        if self.forecast_window is None:
            return inputs
        n_window = self._n_window
        return torch.cat([self.forecasts(inputs[:, :n_window]), inputs[:, n_window:]], dim=1)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any, **named: Any
    ) -> None:
        # In checkpoints from before there was a base policy it adds nothing.
        for name, value in self.state_dict(prefix=prefix).items():
            if name.endswith("base_policy.weights"):
                state_dict.setdefault(name, torch.zeros_like(value))
        super()._load_from_state_dict(state_dict, prefix, *arguments, **named)

    def member_state(self, member: int) -> dict[str, torch.Tensor]:
        """Return one member's weights, as the ``state_dict`` of a policy of its own."""
        state = self.state_dict()
        own = {name: value for name, value in state.items() if not name.startswith("others.")}
        prefix = f"others.{member - 1}."
        for name, value in state.items():
            if name.startswith(prefix):
                own[name.removeprefix(prefix)] = value
        return own

    def set_member_state(self, member: int, state: dict[str, torch.Tensor]) -> None:
        """Take over one member's weights from a policy of its own."""
        if not member:
            self.load_state_dict({**self.state_dict(), **state})
            return
        other = self.others[member - 1]
        other.load_state_dict({name: state[name] for name in other.state_dict()})


def _logits_of(member: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Return the logits of a member: the policy itself, or the parts of another network."""
    logits: torch.Tensor = member.action_net(member.mlp_extractor.forward_actor(inputs))
    if hasattr(member, "base_policy"):
        logits = logits + member.base_policy(inputs[:, :N_FORECASTS])
    return logits
