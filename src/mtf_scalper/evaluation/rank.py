"""How many of some draws a value beats, and below which difference nothing is beaten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

TIE: Final = 1e-12
"""Log returns that differ by less are equal."""


def rank(value: float, draws: NDArray[np.float64] | Sequence[float]) -> float:
    """Return the share of ``draws`` below ``value``, ties counted half."""
    differences = value - np.asarray(draws)
    ties = np.abs(differences) <= TIE
    return float(np.mean(np.where(ties, 0.5, differences > 0.0)))
