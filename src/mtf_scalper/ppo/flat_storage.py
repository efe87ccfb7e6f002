"""All parameters of a policy as views of one array: one norm and one fused step for all.

The policy object and its optimiser go on showing their parameters and averages, which are the same
memory; checkpoints, callbacks and stable-baselines3's own code notice nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from mtf_scalper.errors import SettingsError


@dataclass
class Layer:
    """One linear layer: parameters and gradients, views of the flat arrays."""

    weight: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor

    @classmethod
    def of(cls, linear: nn.Linear) -> Self:
        """Return the views of a layer whose policy is on flat storage."""
        weight, bias = linear.weight, linear.bias
        assert weight.grad is not None
        assert bias.grad is not None
        return cls(weight.data, bias.data, weight.grad, bias.grad)


class FlatStorage:
    """Parameters, gradients and Adam's averages of a policy, each in one array.

    Binding keeps weights and Adam's state as they are.

    Parameters
    ----------
    policy : ActorCriticPolicy
        With ``torch.optim.Adam`` or ``AdamW``, one group of parameters.

    Raises
    ------
    SettingsError
        If the optimiser is of another kind.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self._policy = policy
        self._parameters = list(policy.parameters())
        size = sum(p.numel() for p in self._parameters)
        self.weights = nn.Parameter(self._parameters[0].new_empty(size))
        self.gradient = torch.zeros_like(self.weights)
        self.weights.grad = self.gradient
        self._bind(policy)

    def is_bound_to(self, policy: ActorCriticPolicy) -> bool:
        """Tell whether this storage still is that of ``policy`` and of its optimiser."""
        state = policy.optimizer.state
        return (
            policy is self._policy
            and all(p.data_ptr() == view.data_ptr() for p, view in self._views(self.weights.data))
            and all(
                state[p].get(name) is not None and state[p][name].data_ptr() == view.data_ptr()
                for name in ("exp_avg", "exp_avg_sq")
                for p, view in self._views(self._adam_state(name))
            )
        )

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set Adam's step size."""
        for group in self._adam.param_groups:
            group["lr"] = learning_rate

    def step(self, max_grad_norm: float) -> float:
        """Clip the gradient by its norm, take one step of Adam, and return the norm."""
        norm = math.sqrt(torch.dot(self.gradient, self.gradient).item())
        scale = max_grad_norm / (norm + 1e-6)
        if scale < 1.0:
            self.gradient.mul_(scale)
        self._adam.step()
        return norm

    def show_steps(self) -> None:
        """Tell the policy's optimiser how many steps were taken."""
        steps = self._adam.state[self.weights]["step"]
        for p in self._parameters:
            self._policy.optimizer.state[p]["step"].copy_(steps)

    def _bind(self, policy: ActorCriticPolicy) -> None:
        optimizer = policy.optimizer
        kind = type(optimizer)
        if kind not in (torch.optim.Adam, torch.optim.AdamW) or len(optimizer.param_groups) != 1:
            raise SettingsError("FastPPO: the optimizer must be Adam or AdamW with one group")
        options = optimizer.param_groups[0]
        if options["amsgrad"] or options["maximize"]:
            raise SettingsError("FastPPO: Adam's amsgrad and maximize are not supported")
        self._adam = kind(
            [self.weights],
            lr=options["lr"],
            betas=options["betas"],
            eps=options["eps"],
            weight_decay=options["weight_decay"],
            fused=True,
        )
        first = optimizer.state.get(self._parameters[0], {})
        self._adam.state[self.weights] = {
            "step": torch.as_tensor(float(first.get("step", 0.0))),
            "exp_avg": torch.zeros_like(self.weights.data),
            "exp_avg_sq": torch.zeros_like(self.weights.data),
        }
        with torch.no_grad():
            for p, view in self._views(self.weights.data):
                view.copy_(p.data)
                p.data = view
            for p, view in self._views(self.gradient):
                p.grad = view
            for p in self._parameters:
                optimizer.state[p].setdefault("step", torch.tensor(0.0))
            for name in ("exp_avg", "exp_avg_sq"):
                for p, view in self._views(self._adam_state(name)):
                    if name in optimizer.state[p]:
                        view.copy_(optimizer.state[p][name])
                    optimizer.state[p][name] = view

    def _adam_state(self, name: str) -> Tensor:
        state: Tensor = self._adam.state[self.weights][name]
        return state

    def _views(self, flat: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
        views, start = [], 0
        for p in self._parameters:
            views.append((p, flat[start : start + p.numel()].view(p.shape)))
            start += p.numel()
        return views
