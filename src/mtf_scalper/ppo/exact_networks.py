"""The policy networks that learn from exact advantages: each window once, forward and backward.

Both classes turn minibatches of candles into the logits of *contexts*, the situations in which the
agent may be at a candle: without a position, or in a trade.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from mtf_scalper.errors import SettingsError
from mtf_scalper.ppo.base_policy import BasePolicy
from mtf_scalper.ppo.flat_storage import FlatStorage, Layer
from mtf_scalper.ppo.position_policy import JoinedExtractor
from mtf_scalper.ppo.thinned import ThinnedTower
from mtf_scalper.simulator.kernels import gather_windows

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class WindowNetwork:
    """Logits that depend on the window alone: one row of them serves every context of a candle.

    Parameters
    ----------
    policy : ActorCriticPolicy
        A ``MaskedPolicy`` that does not see its position.
    batch_size : int
        Most candles per pass.
    dropout : float
        Share of the hidden units that are left out at random where ``random`` is given.
    is_rounded : bool
        Multiply in bfloat16, see ``mtf_scalper.ppo.rounded``.
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        batch_size: int,
        dropout: float = 0.0,
        *,
        is_rounded: bool = False,
    ) -> None:
        self.batch_size = batch_size
        self.storage = FlatStorage(policy)
        stack = [*policy.mlp_extractor.policy_net, policy.action_net]
        self._tower = _tower(stack, batch_size, dropout, is_rounded)
        self._inputs = _inputs(self._tower, batch_size)
        self._gradient = torch.zeros_like(self._tower.output)
        self._base = base_policy_of(policy)

    def forward(
        self,
        features: Floats,
        rows: Rows,
        owners: Rows,
        position: Floats,
        random: np.random.Generator | None = None,
    ) -> Floats:
        """Return the logits of contexts.

        Parameters
        ----------
        features : ndarray of float32, shape (T, F)
        rows : ndarray of int64, shape (B,)
            Candles; the last rows of the windows.
        owners : ndarray of int64, shape (K,)
            Index into ``rows`` of each context's candle.
        position : ndarray of float32, shape (K, 5)
            Not read.
        random : Generator, optional
            Leaves hidden units out at random, as only learning does.

        Returns
        -------
        ndarray of float32, shape (K, 5)
        """
        inputs = _gathered(self._inputs, features, rows)
        logits = self._tower.forward(inputs, random)
        if self._base is not None:
            logits = logits + self._base(inputs)
        return logits.numpy()[owners]

    def backward(self, gradient: Floats, owners: Rows, n_rows: int) -> None:
        """Write the gradients of all parameters, given those of the logits, shape (K, 5)."""
        summed = self._gradient[:n_rows].zero_()
        summed.index_add_(0, torch.from_numpy(owners), torch.from_numpy(gradient))
        self._tower.backward(summed)


class JoinedNetwork:
    """A window's encoding joined by the state of a position, as ``PositionPolicy`` has it.

    Parameters and methods are those of ``WindowNetwork``.
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        batch_size: int,
        dropout: float = 0.0,
        *,
        is_rounded: bool = False,
    ) -> None:
        self.batch_size = batch_size
        self.storage = FlatStorage(policy)
        extractor = policy.mlp_extractor
        assert isinstance(extractor, JoinedExtractor)
        stack = [*extractor.policy_net, extractor.window_to_head]
        self._tower = _tower(stack, batch_size, dropout, is_rounded)
        self._inputs = _inputs(self._tower, batch_size)
        self._gradient = torch.zeros_like(self._tower.output)
        weight = extractor.position_to_head.weight
        assert weight.grad is not None
        self._into, self._into_gradient = weight.data, weight.grad
        self._out = Layer.of(policy.action_net)  # type: ignore[arg-type]
        self._position = self._hidden = torch.empty(0)
        self._base = base_policy_of(policy)

    def forward(
        self,
        features: Floats,
        rows: Rows,
        owners: Rows,
        position: Floats,
        random: np.random.Generator | None = None,
    ) -> Floats:
        """Return the logits of contexts; see ``WindowNetwork.forward``."""
        inputs = _gathered(self._inputs, features, rows)
        encoded = self._tower.forward(inputs, random)
        self._position = torch.from_numpy(position)
        hidden = encoded.index_select(0, torch.from_numpy(owners))
        hidden.addmm_(self._position, self._into.t()).relu_()
        self._hidden = hidden
        logits = torch.addmm(self._out.bias, hidden, self._out.weight.t())
        if self._base is not None:
            logits += self._base(inputs).index_select(0, torch.from_numpy(owners))
        return logits.numpy()

    def backward(self, gradient: Floats, owners: Rows, n_rows: int) -> None:
        """Write the gradients of all parameters; see ``WindowNetwork.backward``."""
        slope = torch.from_numpy(gradient)
        torch.mm(slope.t(), self._hidden, out=self._out.weight_gradient)
        torch.sum(slope, 0, out=self._out.bias_gradient)
        below = torch.mm(slope, self._out.weight)
        below.mul_(self._hidden > 0.0)
        torch.mm(below.t(), self._position, out=self._into_gradient)
        summed = self._gradient[:n_rows].zero_()
        summed.index_add_(0, torch.from_numpy(owners), below)
        self._tower.backward(summed)


def network_of(
    policy: ActorCriticPolicy, batch_size: int, dropout: float = 0.0, *, is_rounded: bool = False
) -> WindowNetwork | JoinedNetwork:
    """Return the network of a policy that learns from exact advantages."""
    is_joined = isinstance(policy.mlp_extractor, JoinedExtractor)
    kind = JoinedNetwork if is_joined else WindowNetwork
    return kind(policy, batch_size, dropout, is_rounded=is_rounded)


def base_policy_of(policy: ActorCriticPolicy) -> BasePolicy | None:
    """Return what a policy's logits are added to, if anything."""
    base: BasePolicy | None = getattr(policy, "base_policy", None)
    return base


def _tower(
    stack: list[nn.Module], batch_size: int, dropout: float, is_rounded: bool
) -> ThinnedTower:
    activations = {type(m) for m in stack if not isinstance(m, nn.Linear)}
    if not activations <= {nn.ReLU}:
        names = ", ".join(sorted(kind.__name__ for kind in activations))
        raise SettingsError(f"advantage 'exact': activations must be ReLU, got {names}")
    layers = [Layer.of(m) for m in stack if isinstance(m, nn.Linear)]
    return ThinnedTower(layers, batch_size, dropout, is_rounded=is_rounded)


def _inputs(tower: ThinnedTower, batch_size: int) -> Tensor:
    first = tower.layers[0].weight
    return first.new_empty(batch_size, first.shape[1])


def _gathered(inputs: Tensor, features: Floats, rows: Rows) -> Tensor:
    windows = inputs[: len(rows)]
    nothing = np.zeros((len(rows), 0), dtype=np.float32)
    gather_windows(features, rows, nothing, windows.numpy())
    return windows
