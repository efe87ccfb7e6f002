"""The policy's networks, forward and backward written out over flat storage.

Policy and value networks are multiplied one after the other: on two cores one fused product takes
as long as two separate ones.
"""

from __future__ import annotations

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from mtf_scalper.errors import SettingsError
from mtf_scalper.ppo.flat_storage import FlatStorage, Layer
from mtf_scalper.ppo.products import affine, slopes
from mtf_scalper.ppo.rounded import RoundedLayer
from mtf_scalper.ppo.team import team


class Tower:
    """A multilayer perceptron with preallocated activations.

    Parameters
    ----------
    layers : list of Layer
    is_relu : bool
        ReLU between layers, else tanh.
    batch_size : int
        Largest number of rows.
    is_rounded : bool
        Round factors and products of all layers but the last one to bfloat16; with ReLU only.
    """

    def __init__(
        self,
        layers: list[Layer],
        is_relu: bool,
        batch_size: int,
        *,
        is_rounded: bool = False,
    ) -> None:
        self.layers = layers
        self._rounded = [RoundedLayer(each, batch_size) for each in layers[:-1] if is_rounded]
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
            with team() as here:
                if depth < len(self._rounded):
                    self._rounded[depth].forward(here, hidden, output)
                else:
                    affine(here, output, layer.bias, hidden, layer.weight)
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
            below = self._gradients[depth - 1][:n_rows] if depth else None
            with team() as here:
                if depth < len(self._rounded):
                    self._rounded[depth].backward(here, gradient, below)
                else:
                    into = layer.weight_gradient
                    slopes(here, gradient, hidden, layer.weight, into, below)
                torch.sum(gradient, 0, out=layer.bias_gradient)
            if below is None:
                return
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
        stacks = (
            [*policy.mlp_extractor.policy_net, policy.action_net],
            [*policy.mlp_extractor.value_net, policy.value_net],
        )
        linears = [[m for m in stack if isinstance(m, nn.Linear)] for stack in stacks]
        activations = {type(m) for stack in stacks for m in stack if not isinstance(m, nn.Linear)}
        named = {id(p) for stack in linears for m in stack for p in m.parameters()}
        if named != {id(p) for p in policy.parameters()} or any(
            m.bias is None for stack in linears for m in stack
        ):
            raise SettingsError("FastPPO: the policy has parameters besides its linear layers")
        if len(activations) > 1 or not activations <= {nn.ReLU, nn.Tanh}:
            names = ", ".join(sorted(kind.__name__ for kind in activations))
            raise SettingsError(f"FastPPO: activations must be all ReLU or all Tanh, got {names}")
        self.storage = FlatStorage(policy)
        is_relu = activations == {nn.ReLU}
        self.policy_tower, self.value_tower = (
            Tower([Layer.of(m) for m in stack], is_relu, batch_size) for stack in linears
        )

    def new_inputs(self, n_rows: int) -> Tensor:
        """Return an uninitialised input of the networks, shape (n_rows, in)."""
        width = self.value_tower.layers[0].weight.shape[1]
        return self.storage.weights.data.new_empty(n_rows, width)

    def is_bound_to(self, policy: ActorCriticPolicy, batch_size: int) -> bool:
        """Tell whether this storage still is that of ``policy`` and of its optimiser."""
        return len(self.value_tower.output) >= batch_size and self.storage.is_bound_to(policy)
