"""The policy's two networks on flat storage, forward and backward written out.

All parameters of a stable-baselines3 policy become views of one array, and so do their gradients
and Adam's averages. One norm and one fused step then serve the whole network; the policy object
stays what it was for everything else. Policy and value networks are multiplied one after the
other: on two cores one fused product takes as long as two separate ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from mtf_scalper.errors import SettingsError

__all__ = ["Tower", "Towers"]


@dataclass
class _Layer:
    """One linear layer: parameters and gradients, views of the flat arrays."""

    weight: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor


class Tower:
    """A multilayer perceptron with preallocated activations.

    Parameters
    ----------
    layers : list of _Layer
    is_relu : bool
        ReLU between layers, else tanh.
    batch_size : int
        Largest number of rows.
    """

    def __init__(self, layers: list[_Layer], is_relu: bool, batch_size: int) -> None:
        self.layers = layers
        self._is_relu = is_relu
        self._inputs = torch.empty(0)
        self._outputs = [
            layer.weight.new_empty(batch_size, layer.weight.shape[0]) for layer in layers
        ]
        self._gradients = [torch.empty_like(output) for output in self._outputs[:-1]]

    @property
    def output(self) -> Tensor:
        """The last layer's output, shape (batch_size, out); rows beyond the last batch are old."""
        return self._outputs[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output of ``inputs``, shape (n, in) with n <= batch_size; a view."""
        self._inputs = hidden = inputs
        n_rows, last = len(inputs), len(self.layers) - 1
        for depth, layer in enumerate(self.layers):
            output = self._outputs[depth][:n_rows]
            torch.addmm(layer.bias, hidden, layer.weight.t(), out=output)
            if depth < last:
                output.relu_() if self._is_relu else output.tanh_()
            hidden = output
        return hidden

    def backward(self, gradient: Tensor) -> None:
        """Write the gradients of all parameters, given that of the last output, shape (n, out)."""
        n_rows = len(gradient)
        for depth in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[depth]
            hidden = self._outputs[depth - 1][:n_rows] if depth else self._inputs
            torch.mm(gradient.t(), hidden, out=layer.weight_gradient)
            torch.sum(gradient, 0, out=layer.bias_gradient)
            if depth:
                below = self._gradients[depth - 1][:n_rows]
                torch.mm(gradient, layer.weight, out=below)
                if self._is_relu:
                    torch.ops.aten.threshold_backward.grad_input(below, hidden, 0, grad_input=below)
                else:
                    torch.ops.aten.tanh_backward.grad_input(below, hidden, grad_input=below)
                gradient = below

    def zero_gradients(self) -> None:
        """Set the gradients of all parameters to zero."""
        for layer in self.layers:
            layer.weight_gradient.zero_()
            layer.bias_gradient.zero_()


class Towers:
    """Policy and value network of a stable-baselines3 policy on flat storage.

    Binding keeps weights and Adam's state as they are; the policy's optimiser keeps showing them.

    Parameters
    ----------
    policy : ActorCriticPolicy
        Multilayer perceptrons with ReLU or tanh, without shared layers, on the CPU, with Adam.
    batch_size : int
        Largest number of rows per pass.

    Raises
    ------
    SettingsError
        If the policy is of another kind.
    """

    def __init__(self, policy: ActorCriticPolicy, batch_size: int) -> None:
        self._policy = policy
        stacks = (
            [*policy.mlp_extractor.policy_net, policy.action_net],
            [*policy.mlp_extractor.value_net, policy.value_net],
        )
        self._parameters = list(policy.parameters())
        linears = [[m for m in stack if isinstance(m, nn.Linear)] for stack in stacks]
        activations = {type(m) for stack in stacks for m in stack if not isinstance(m, nn.Linear)}
        named = {id(p) for stack in linears for m in stack for p in m.parameters()}
        if named != {id(p) for p in self._parameters} or any(
            m.bias is None for stack in linears for m in stack
        ):
            raise SettingsError("FastPPO: the policy has parameters besides its linear layers")
        if len(activations) > 1 or not activations <= {nn.ReLU, nn.Tanh}:
            names = ", ".join(sorted(kind.__name__ for kind in activations))
            raise SettingsError(f"FastPPO: activations must be all ReLU or all Tanh, got {names}")
        size = sum(p.numel() for p in self._parameters)
        self.weights = nn.Parameter(self._parameters[0].new_empty(size))
        self.gradient = torch.zeros_like(self.weights)
        self.weights.grad = self.gradient
        self._bind(policy)
        is_relu = activations == {nn.ReLU}
        self.policy_tower, self.value_tower = (
            Tower([self._layer(m) for m in stack], is_relu, batch_size) for stack in linears
        )

    def new_inputs(self, n_rows: int) -> Tensor:
        """Return an uninitialised input of the networks, shape (n_rows, in)."""
        return self.weights.data.new_empty(n_rows, self.value_tower.layers[0].weight.shape[1])

    def is_bound_to(self, policy: ActorCriticPolicy, batch_size: int) -> bool:
        """Tell whether this storage still is that of ``policy`` and of its optimiser."""
        state = policy.optimizer.state
        return (
            policy is self._policy
            and len(self.value_tower.output) >= batch_size
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
        if type(optimizer) is not torch.optim.Adam or len(optimizer.param_groups) != 1:
            raise SettingsError("FastPPO: the optimizer must be torch.optim.Adam with one group")
        options = optimizer.param_groups[0]
        if options["amsgrad"] or options["maximize"]:
            raise SettingsError("FastPPO: Adam's amsgrad and maximize are not supported")
        self._adam = torch.optim.Adam(
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

    @staticmethod
    def _layer(linear: nn.Linear) -> _Layer:
        weight, bias = linear.weight, linear.bias
        assert weight.grad is not None
        assert bias.grad is not None
        return _Layer(weight.data, bias.data, weight.grad, bias.grad)
