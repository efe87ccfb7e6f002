"""Products whose factors are rounded to bfloat16, for processors with units for that.

With bfloat16 factors a network learns as well (Kalamkar et al. 2019, "A study of BFLOAT16 for deep
learning training", https://arxiv.org/abs/1905.12322), in a fraction of the time. Factors are cast
here, array by array, and torch's settings of precision are neither read nor changed: they hold for
the whole process, its other threads included.

oneDNN compiles a kernel for every new shape and keeps it for as long as the process lives, so
products have few shapes: batches are filled up with zeros to the next power of two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtf_scalper.ppo.flat_storage import Layer
from mtf_scalper.ppo.products import affine, slopes
from mtf_scalper.ppo.team import Team

_LEAST_ROWS = 64


def has_bfloat16_units() -> bool:
    """Tell whether this processor multiplies bfloat16 numbers faster than float32 ones."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16", False) or able.get("amx_bf16", False))


def filled_rows(n_rows: int, batch_size: int) -> int:
    """Return the rows of the product that stands for one of ``n_rows``, at most ``batch_size``."""
    return int(min(batch_size, max(_LEAST_ROWS, 1 << (n_rows - 1).bit_length())))


class RoundedLayer:
    """One linear layer with rounded factors; sums are float32, and the product is rounded again.

    Parameters
    ----------
    layer : Layer
    batch_size : int
        Largest number of rows.
    """

    def __init__(self, layer: Layer, batch_size: int) -> None:
        self._layer = layer
        units, width = layer.weight.shape
        self._batch_size = batch_size
        self._weight = layer.weight.bfloat16()
        self._into_weight = torch.empty_like(self._weight)
        self._inputs, self._below = (self._weight.new_zeros(batch_size, width) for _ in range(2))
        self._output, self._gradient = (self._weight.new_zeros(batch_size, units) for _ in range(2))

    def forward(self, team: Team, inputs: Tensor, output: Tensor) -> None:
        """Write the layer's output for inputs of shape (n, width), both float32."""
        n_rows, n_filled = len(inputs), filled_rows(len(inputs), self._batch_size)
        self._weight.copy_(self._layer.weight)
        _fill(self._inputs, inputs, n_filled)
        affine(team, self._output[:n_filled], None, self._inputs[:n_filled], self._weight)
        # In two steps: a sum of two types takes three times as long as a copy and a sum.
        output.copy_(self._output[:n_rows])
        output.add_(self._layer.bias)

    def backward(self, team: Team, gradient: Tensor, below: Tensor | None) -> None:
        """Write the gradients by weight and, where asked for, by inputs of the last ``forward``."""
        n_rows, n_filled = len(gradient), filled_rows(len(gradient), self._batch_size)
        _fill(self._gradient, gradient, n_filled)
        slopes(
            team,
            self._gradient[:n_filled],
            self._inputs[:n_filled],
            self._weight,
            self._into_weight,
            None if below is None else self._below[:n_filled],
        )
        self._layer.weight_gradient.copy_(self._into_weight)
        if below is not None:
            below.copy_(self._below[:n_rows])


def _fill(place: Tensor, values: Tensor, n_filled: int) -> None:
    place[: len(values)] = values
    place[len(values) : n_filled] = 0.0
