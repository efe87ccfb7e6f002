"""A multilayer perceptron that leaves out some of its hidden units while it learns.

Dropout (Srivastava et al. 2014, *Dropout: a simple way to prevent neural networks from
overfitting*) by minibatches: all rows of one go without the same units, so that what is left is a
smaller network with matrices of its own, and half the units take a quarter of the time (Graham et
al. 2015, *Efficient batchwise dropout training using submatrices*,
https://arxiv.org/abs/1502.02478).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtf_scalper.jit import njit
from mtf_scalper.ppo.flat_storage import Layer
from mtf_scalper.ppo.towers import Tower

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]


class ThinnedTower:
    """A ``Tower`` with ReLU whose hidden units are left out on demand.

    Parameters
    ----------
    layers : list of Layer
    batch_size : int
        Largest number of rows.
    dropout : float
        Share of each hidden layer's units that are left out, in [0, 1); one unit always stays. The
        others count for more in turn.
    is_rounded : bool
        As ``Tower`` has it.
    """

    def __init__(
        self, layers: list[Layer], batch_size: int, dropout: float, *, is_rounded: bool = False
    ) -> None:
        self._whole = Tower(layers, True, batch_size, is_rounded=is_rounded)
        self._widths = [len(layer.weight) for layer in layers[:-1]]
        self._n_kept = [max(1, round(width * (1.0 - dropout))) for width in self._widths]
        first, last = layers[0].weight.shape[1], len(layers[-1].weight)
        shapes = zip([*self._n_kept, last], [first, *self._n_kept], strict=True)
        self._parts = [_empty(layers[0].weight, *shape) for shape in shapes]
        self._thin = Tower(self._parts, True, batch_size, is_rounded=is_rounded)
        # What a unit hands on counts for those that are left out, at the next layer.
        more = [width / n for width, n in zip(self._widths, self._n_kept, strict=True)]
        self._scales = [np.float32(each) for each in (1.0, *more)]
        self._kept = [np.arange(first), *map(np.arange, self._widths), np.arange(last)]
        self._is_thin = False

    @property
    def layers(self) -> list[Layer]:
        """All layers with all units."""
        return self._whole.layers

    @property
    def output(self) -> Tensor:
        """The last layer's output, shape (batch_size, out)."""
        return self._whole.output

    def forward(self, inputs: Tensor, random: np.random.Generator | None = None) -> Tensor:
        """Return the output of ``inputs``, shape (n, in) with n <= batch_size; a view.

        With ``random`` hidden units are left out, and ``backward`` goes by the same.
        """
        self._is_thin = random is not None
        if random is None:
            return self._whole.forward(inputs)
        for depth, (width, n) in enumerate(zip(self._widths, self._n_kept, strict=True), 1):
            self._kept[depth] = np.sort(random.permutation(width)[:n])
        for layer, part, columns, rows, scale in self._pieces():
            _take(layer.weight.numpy(), rows, columns, scale, part.weight.numpy())
            np.take(layer.bias.numpy(), rows, out=part.bias.numpy())
        return self._thin.forward(inputs)

    def backward(self, gradient: Tensor) -> None:
        """Write the gradients of all parameters, given that of the last output, shape (n, out)."""
        if not self._is_thin:
            self._whole.backward(gradient)
            return
        self._thin.backward(gradient)
        self._whole.zero_gradients()
        for layer, part, columns, rows, scale in self._pieces():
            into = layer.weight_gradient.numpy()
            _put(part.weight_gradient.numpy(), rows, columns, scale, into)
            layer.bias_gradient.numpy()[rows] = part.bias_gradient.numpy()

    def _pieces(self) -> zip[tuple[Layer, Layer, Rows, Rows, np.float32]]:
        """Return layers, what is left of them, the inputs and units that are, and their scale."""
        layers, kept = self._whole.layers, self._kept
        return zip(layers, self._parts, kept, kept[1:], self._scales, strict=False)


def _empty(like: Tensor, n_units: int, width: int) -> Layer:
    weight, bias = like.new_empty(n_units, width), like.new_empty(n_units)
    return Layer(weight, bias, torch.empty_like(weight), torch.empty_like(bias))


@njit(cache=True, nogil=True)
def _take(whole: Floats, rows: Rows, columns: Rows, scale: np.float32, part: Floats) -> None:
    for row in range(len(rows)):
        for column in range(len(columns)):
            part[row, column] = scale * whole[rows[row], columns[column]]


@njit(cache=True, nogil=True)
def _put(part: Floats, rows: Rows, columns: Rows, scale: np.float32, whole: Floats) -> None:
    for row in range(len(rows)):
        for column in range(len(columns)):
            whole[rows[row], columns[column]] = scale * part[row, column]
