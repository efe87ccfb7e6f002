"""The policy's networks, forward and backward written out over flat storage.

Policy and value networks are multiplied one after the other: on two cores one fused product takes
as long as two separate ones.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from mtf_scalper.errors import SettingsError
from mtf_scalper.jit import njit
from mtf_scalper.ppo.flat_storage import FlatStorage, Layer
from mtf_scalper.ppo.products import affine, slopes
from mtf_scalper.ppo.rounded import RoundedLayer
from mtf_scalper.ppo.team import team

_GOLDEN, _MIX_1, _MIX_2 = np.uint32(0x9E3779B9), np.uint32(0x7FEB352D), np.uint32(0x846CA68B)


class Tower:
    """A multilayer perceptron with preallocated activations.

    Parameters
    ----------
    layers : list of Layer
    is_relu : bool
        ReLU between layers, else tanh.
    batch_size : int
        Largest number of rows.
    dropout : float
        Share of the hidden units that ``forward`` leaves out at random on demand, rounded to
        1/256; the others count for more in turn. With ReLU only (Srivastava et al. 2014, "Dropout:
        a simple way to prevent neural networks from overfitting").
    is_rounded : bool
        Round factors and products of all layers but the last one to bfloat16; with ReLU only.
    """

    def __init__(
        self,
        layers: list[Layer],
        is_relu: bool,
        batch_size: int,
        dropout: float = 0.0,
        *,
        is_rounded: bool = False,
    ) -> None:
        self.layers = layers
        self._rounded = [RoundedLayer(each, batch_size) for each in layers[:-1] if is_rounded]
        self._n_dropped = min(255, round(256 * dropout))
        self._scale = 1.0
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

    def forward(self, inputs: Tensor, random: np.random.Generator | None = None) -> Tensor:
        """Return the output of ``inputs``, shape (n, in) with n <= batch_size; a view.

        With ``random`` hidden units are left out, and ``backward`` goes by the same.
        """
        self._scale = 1.0 if random is None else 256 / (256 - self._n_dropped)
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
                if random is not None:
                    seed = int(random.integers(2**32))
                    leave_out(output.view(-1).numpy(), seed, self._n_dropped)
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
                # A unit that was left out is zero and passes nothing, like one that is off.
                if self._scale != 1.0:
                    below.mul_(self._scale)
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


@njit(cache=True)
def leave_out(values: NDArray[np.float32], seed: int, n_dropped: int) -> None:
    """Set values to zero at random, and scale the others so that their mean stays.

    Parameters
    ----------
    values : ndarray of float32, shape (N,)
        Overwritten.
    seed : int
        In [0, 2^32). Each place has a random number of its own, the hash of seed and place
        (Wellons 2018, https://nullprogram.com/blog/2018/07/31/): processors make sixteen at once,
        where a generator makes one after the other.
    n_dropped : int
        Of 256 values so many are left out on average; at most 255.
    """
    scale = np.float32(256.0 / (256 - n_dropped))
    least = np.uint32(n_dropped)
    for place in range(len(values)):
        mixed = np.uint32(seed) + np.uint32(place) * _GOLDEN
        mixed ^= mixed >> np.uint32(16)
        mixed *= _MIX_1
        mixed ^= mixed >> np.uint32(15)
        mixed *= _MIX_2
        mixed ^= mixed >> np.uint32(16)
        is_kept = (mixed & np.uint32(255)) >= least
        values[place] = values[place] * scale if is_kept else np.float32(0.0)
