"""The unit of every feature, learned from the training rows and kept in the policy.

A network learns where its inputs are of the size of one, whatever the features are: returns of
1e-3, volumes of 1e6, a raw price. The policy therefore takes each feature less its mean, over its
deviation, both of the rows that it was trained on; they are part of its checkpoint.

What was never seen means nothing to a network, and may lead it anywhere. So a feature counts as no
further out than it was in training, and no further than ten deviations; one that was constant there
is always 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MOST_DEVIATIONS = 10.0
"""A standardised feature lies within plus and minus this; stable-baselines3's choice as well."""

_LARGEST = 3e38
"""Differences up to this are finite in float32."""
_NO_LIMIT = float(np.finfo(np.float32).max)
_UNTOUCHED = {"centre": 0.0, "spread": 1.0, "lowest": -_NO_LIMIT, "highest": _NO_LIMIT}

Floats = NDArray[np.float32]


class Standard(nn.Module):
    """Brings what a policy sees into units of its own; at first everything stays as it is.

    Parameters
    ----------
    n_inputs : int
        Numbers that the network takes: a window, candle by candle, and perhaps a position.
    """

    centre: Tensor
    spread: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        for name, value in _UNTOUCHED.items():
            self.register_buffer(name, torch.full((n_inputs,), value))

    def fit(self, features: Floats, window_size: int) -> None:
        """Take over mean, deviation and range of each feature.

        Parameters
        ----------
        features : ndarray of float32, shape (T, F)
            The training rows.
        window_size : int
            Candles that the network sees; they come first in its input.
        """
        found = np.array([_of_one(column) for column in features.T])
        n_window = window_size * features.shape[1]
        for name, values in zip(_UNTOUCHED, found.T, strict=True):
            tiled = np.tile(values.astype(np.float32), window_size)
            getattr(self, name)[:n_window] = torch.from_numpy(tiled)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return inputs of shape (N, n_inputs) in the network's units."""
        kept = torch.clamp(inputs, self.lowest, self.highest)
        return kept.sub_(self.centre).div_(self.spread)

    def of_features(self, features: Floats) -> Floats:
        """Return features of shape (T, F) in the network's units, with the bits of ``forward``."""
        values = torch.from_numpy(np.array(features))  # a market's own cannot be written to
        n_features = features.shape[1]
        kept = torch.clamp(values, self.lowest[:n_features], self.highest[:n_features])
        kept.sub_(self.centre[:n_features]).div_(self.spread[:n_features])
        seen: Floats = kept.numpy()
        return seen

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any, **named: Any
    ) -> None:
        # Checkpoints from before there were such units saw everything as it was.
        for name, value in _UNTOUCHED.items():
            state_dict.setdefault(prefix + name, torch.full_like(getattr(self, name), value))
        super()._load_from_state_dict(state_dict, prefix, *arguments, **named)


def _of_one(column: Floats) -> tuple[float, float, float, float]:
    """Return centre, spread, lowest and highest of one feature."""
    values = column.astype(np.float64)
    lowest, highest = float(values.min()), float(values.max())
    if lowest == highest:
        return lowest, 1.0, lowest, lowest
    centre = float(values.mean())
    spread = float(values.std())
    reach = min(MOST_DEVIATIONS * spread, _LARGEST)
    return centre, spread, max(lowest, centre - reach), min(highest, centre + reach)
