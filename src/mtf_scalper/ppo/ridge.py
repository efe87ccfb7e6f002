"""Ridge regression of all folds, penalties and targets at once.

Hoerl and Kennard (1970), *Ridge Regression: Biased Estimation for Nonorthogonal Problems*. All sums
are torch's, in one thread: libraries add in another order with another number of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mtf_scalper.ppo.folds import N_FOLDS, Part, columns_of
from mtf_scalper.ppo.forecasts import DECAYS
from mtf_scalper.ppo.trees import Doubles, Floats, Rows

PENALTIES = 10.0 ** np.arange(-1.0, 6.1, 0.5)
"""Penalties that are tried, for inputs of variance 1."""
_BLOCK = 8192


def fit_ridge(
    parts: Sequence[Part], n_pairs: int
) -> tuple[list[Doubles], list[tuple[Doubles, Doubles]]]:
    """Return each part's forecasts (N, D), and coefficients and constants of each fold's model.

    The sums of squares of a fold's complement are those of all rows less those that are near: each
    is decomposed once and serves all penalties and targets.
    """
    n_inputs, n_targets = parts[0].inputs.shape[1], len(DECAYS)
    models, errors = [], np.zeros((len(PENALTIES), n_targets))
    everything = _sums(parts, [part.is_known for part in parts])
    for fold in range(N_FOLDS):
        left_out = [part.is_known & ~part.rows_without(fold) for part in parts]
        sums = everything - _sums(parts, left_out)
        own = columns_of(n_inputs, fold, n_pairs)
        model = _Ridge(sums, own, n_inputs)
        for part in parts:
            rows = np.flatnonzero((part.folds == fold) & part.is_known)
            if len(rows):
                seen = part.targets[rows] - model.mean_targets
                errors += ((model.by_penalty(part.inputs[rows]) - seen) ** 2).sum(axis=1)
        models.append(model)
    best = errors.argmin(axis=0)
    fitted = [model.coefficients(best) for model in models]
    forecasts = []
    for part in parts:
        values = np.zeros((len(part.inputs), n_targets))
        for fold, (coefficients, constants) in enumerate(fitted):
            rows = part.folds == fold
            own_inputs = torch.from_numpy(part.inputs[rows].astype(np.float64))
            values[rows] = (own_inputs @ torch.from_numpy(coefficients)).numpy() + constants
        forecasts.append(values)
    return forecasts, fitted


def _sums(parts: Sequence[Part], selected: Sequence[NDArray[np.bool_]]) -> Doubles:
    """Return the products of (1, inputs, targets) with each other, added up over rows."""
    size = 1 + parts[0].inputs.shape[1] + len(DECAYS)
    total = torch.zeros((size, size), dtype=torch.float64)
    for part, chosen in zip(parts, selected, strict=True):
        rows = np.flatnonzero(chosen)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            columns = (np.ones((len(block), 1)), part.inputs[block], part.targets[block])
            values = torch.from_numpy(np.concatenate(columns, axis=1))
            total.addmm_(values.t(), values)
    return total.numpy()


class _Ridge:
    """One fold's regression for all penalties, from sums of products."""

    def __init__(self, sums: Doubles, columns: Rows, n_inputs: int) -> None:
        self._columns, self._n_inputs = columns, n_inputs
        n_rows = max(sums[0, 0], 1.0)
        n_targets = len(sums) - 1 - n_inputs
        kept = np.concatenate([[0], 1 + columns, 1 + n_inputs + np.arange(n_targets)])
        sums = sums[np.ix_(kept, kept)]
        n_inputs = len(columns)
        mean = sums[0] / n_rows
        centred = sums - n_rows * np.outer(mean, mean)
        inputs = slice(1, 1 + n_inputs)
        self.mean_inputs, self.mean_targets = mean[inputs], mean[1 + n_inputs :]
        variance = np.maximum(np.diag(centred)[inputs], 0.0) / n_rows
        self.scale = np.where(variance > 1e-12, np.sqrt(np.maximum(variance, 1e-12)), np.inf)
        gram = centred[inputs, inputs] / np.outer(self.scale, self.scale)
        values, vectors = torch.linalg.eigh(torch.from_numpy(gram))
        self._values = np.maximum(values.numpy(), 0.0)
        self._vectors = vectors.numpy()
        products = centred[inputs, 1 + n_inputs :] / self.scale[:, None]
        self._along = (vectors.t() @ torch.from_numpy(products)).numpy()

    def by_penalty(self, inputs: Floats) -> Doubles:
        """Return forecasts less the mean target, shape (penalties, N, D)."""
        scaled = (inputs[:, self._columns] - self.mean_inputs) / self.scale
        turned = torch.from_numpy(scaled) @ torch.from_numpy(self._vectors)
        shrunk = [self._along / (self._values[:, None] + each) for each in PENALTIES]
        return np.stack([(turned @ torch.from_numpy(each)).numpy() for each in shrunk])

    def coefficients(self, best: Rows) -> tuple[Doubles, Doubles]:
        """Return coefficients of raw inputs and constants; what holds always is left out."""
        penalties = PENALTIES[best]
        shrunk = self._along / (self._values[:, None] + penalties)
        scaled = (torch.from_numpy(self._vectors) @ torch.from_numpy(shrunk)).numpy()
        own = scaled / self.scale[:, None]
        found = np.zeros((self._n_inputs, own.shape[1]))
        found[self._columns] = own
        return found, -self.mean_inputs @ own
