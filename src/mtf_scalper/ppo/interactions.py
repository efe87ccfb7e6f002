"""Products of two inputs that agree most with what is to be foretold.

Where only the product of two features says something, each alone says nothing, and greedy trees
have no reason to split on either. There are few enough pairs to look at all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtf_scalper.ppo.folds import N_FOLDS, Part, learned_on
from mtf_scalper.ppo.trees import Doubles, Floats, Rows

N_INTERACTIONS = 20
"""Products that a fold is given."""
_BLOCK = 8192


def add_interactions(parts: Sequence[Part]) -> Rows:
    """Add to each part's inputs the products that each fold is given; return which, (P, 2).

    A fold's are the ``N_INTERACTIONS`` that agree most with the targets of the candles that it is
    fitted on; they stand behind all single numbers, fold after fold.
    """
    pairs = np.concatenate([best_interactions(parts, fold) for fold in range(N_FOLDS)])
    for part in parts:
        products = part.inputs[:, pairs[:, 0]] * part.inputs[:, pairs[:, 1]]
        part.inputs = np.concatenate([part.inputs, products], axis=1)
    return pairs


def best_interactions(parts: Sequence[Part], fold: int) -> Rows:
    """Return the pairs of inputs whose products a fold is given, shape (P, 2)."""
    n_inputs = parts[0].inputs.shape[1]
    size = n_inputs // parts[0].n_kinds
    inputs, targets = learned_on(parts, fold)
    targets = (targets - targets.mean(axis=0)) / np.maximum(targets.std(axis=0), 1e-300)
    upper = np.triu_indices(size)
    found: list[NDArray[Any]] = []
    for first in sorted({0, n_inputs - size}):
        columns = slice(first, first + size)
        agreement = _agreement(inputs[:, columns], targets)[upper]
        found.append(np.stack([agreement, upper[0] + first, upper[1] + first]))
    scores = np.concatenate(found, axis=1)
    best = np.argsort(-scores[0], kind="stable")[:N_INTERACTIONS]
    return np.asarray(scores[1:, best].T, dtype=np.int64)


def _agreement(values: Floats, targets: Doubles) -> Doubles:
    """Return how much each product of two columns agrees with any of the targets, shape (C, C)."""
    size, n_targets = values.shape[1], targets.shape[1]
    sums = torch.zeros((n_targets + 2, size, size), dtype=torch.float64)
    for start in range(0, len(values), _BLOCK):
        block = torch.from_numpy(values[start : start + _BLOCK].astype(np.float64))
        weights = torch.from_numpy(targets[start : start + _BLOCK])
        sums[0].addmm_(block.t(), block)
        sums[1].addmm_(block.t() ** 2, block**2)
        for index in range(n_targets):
            sums[2 + index].addmm_(block.t(), block * weights[:, index : index + 1])
    n_rows = max(len(values), 1)
    spread = sums[1] / n_rows - (sums[0] / n_rows) ** 2
    agreement = sums[2:].abs().amax(0) / n_rows / spread.clamp(min=1e-12).sqrt()
    return agreement.numpy()
