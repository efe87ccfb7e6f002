"""Products of matrices, cut into pieces by shape alone: bits do not depend on threads or batches.

*While learning* a product is cut by units, 128 at a time: each piece is a whole product of its own.
*In prediction* it is cut by rows, 16 to 256 at a time by the layer's shape, the last piece filled
up: a row then has the same result in whatever batch it stands, where libraries choose other sums
for one row than for many. In layers of few units they also go by the row's place in the piece,
unless the width is a multiple of 4 (torch 2.13 with MKL, on AVX2): these get zeros as more inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtf_scalper.ppo.team import Team, team

UNITS = 128
"""Units of a piece: narrower ones take noticeably longer."""
ROWS, MOST_ROWS = 16, 256
"""Rows of a piece in prediction: fewer are slow in bulk, more are slow for a candle alone."""
_FEW_UNITS, _WIDTHS = 64, 16
_PIECE = 1_048_576
"""Multiplications of a piece in prediction, where that needs more rows than the fewest."""
_SHARED_FROM = 40_000_000
"""Multiplications from which a product is cut: handing a piece over takes some 30 microseconds, and
many times that where another program keeps the cores busy."""


def affine(team: Team, out: Tensor, bias: Tensor | None, inputs: Tensor, weight: Tensor) -> None:
    """Write ``inputs @ weight.T + bias``.

    Parameters
    ----------
    team : Team
    out : Tensor, shape (n, units)
    bias : Tensor, shape (units,), optional
    inputs : Tensor, shape (n, width)
    weight : Tensor, shape (units, width)
    """

    def of(units: slice) -> None:
        _product(out[:, units], None if bias is None else bias[units], inputs, weight[units].t())

    team.run([_job(of, units) for units in _units(len(inputs), *weight.shape)])


def slopes(
    team: Team,
    gradient: Tensor,
    inputs: Tensor,
    weight: Tensor,
    into_weight: Tensor,
    into_inputs: Tensor | None,
) -> None:
    """Write the gradients by weight and by inputs, given that of the output.

    Parameters
    ----------
    team : Team
    gradient : Tensor, shape (n, units)
    inputs, weight
        As in ``affine``.
    into_weight : Tensor, shape (units, width)
        Overwritten.
    into_inputs : Tensor, shape (n, width), optional
        Overwritten.
    """
    n_units, width = weight.shape

    def by_weight(units: slice) -> None:
        torch.mm(gradient[:, units].t(), inputs, out=into_weight[units])

    jobs = [_job(by_weight, units) for units in _units(len(inputs), n_units, width)]
    if into_inputs is not None:
        below = into_inputs

        def by_inputs(columns: slice) -> None:
            torch.mm(gradient, weight[:, columns], out=below[:, columns])

        jobs += [_job(by_inputs, columns) for columns in _units(len(inputs), width, n_units)]
    team.run(jobs)


def _product(out: Tensor, bias: Tensor | None, left: Tensor, right: Tensor) -> None:
    if bias is None:
        torch.mm(left, right, out=out)
    else:
        torch.addmm(bias, left, right, out=out)


def _job(function: Any, piece: slice) -> Any:
    return lambda: function(piece)


def _units(n_rows: int, n_units: int, width: int) -> list[slice]:
    if n_rows * n_units * width < _SHARED_FROM:
        return [slice(0, n_units)]
    return [slice(start, min(start + UNITS, n_units)) for start in range(0, n_units, UNITS)]


class SteadyLinear(nn.Linear):
    """``nn.Linear`` whose result does not depend on threads, nor for a row on its batch."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return float32 of shape (n, units) for inputs of shape (n, width)."""
        if input.device.type != "cpu" or input.dim() != 2:
            return functional.linear(input, self.weight, self.bias)
        if torch.is_grad_enabled():
            result: Tensor = _Steady.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
            return result
        return _by_rows(input, self.weight, self.bias)


def make_steady(module: nn.Module) -> None:
    """Let every linear layer of a module be a steady one; its parameters stay what they are."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = SteadyLinear


def _by_rows(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    n_rows, size = len(inputs), _rows_of_a_piece(weight)
    filled = -(-n_rows // size) * size
    more = -inputs.shape[1] % _WIDTHS if len(weight) < _FEW_UNITS else 0
    if more:
        weight = functional.pad(weight, (0, more))
    if more or filled != n_rows:
        inputs = functional.pad(inputs, (0, more, 0, filled - n_rows))
    # Sums may go by the place in memory: 64 bytes is what torch gives every array of its own.
    inputs = inputs.contiguous()
    if inputs.data_ptr() % 64:
        inputs = inputs.clone()
    out = inputs.new_empty(filled, len(weight))

    def of(rows: slice) -> None:
        _product(out[rows], bias, inputs[rows], weight.t())

    with team() as here:
        here.run([_job(of, slice(start, start + size)) for start in range(0, filled, size)])
    return out[:n_rows]


def _rows_of_a_piece(weight: Tensor) -> int:
    wanted = _PIECE // max(weight.numel(), 1)
    return min(max(1 << max(wanted.bit_length() - 1, 0), ROWS), MOST_ROWS)


class _Steady(torch.autograd.Function):
    """The product and its gradients, by ``affine`` and ``slopes``."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.has_bias = bias is not None
        out = inputs.new_empty(len(inputs), len(weight))
        with team() as here:
            affine(here, out, bias, inputs, weight)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        into_weight = torch.empty_like(weight)
        into_inputs = torch.empty_like(inputs) if ctx.needs_input_grad[0] else None
        with team() as here:
            slopes(here, gradient, inputs, weight, into_weight, into_inputs)
            into_bias = gradient.sum(0) if ctx.has_bias else None
        return into_inputs, into_weight, into_bias
