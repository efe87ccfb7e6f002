"""The kinds of planted markets and the numbers that decide how hard each is to learn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class PlantedKind(StrEnum):
    """What is hidden.

    ``linear``: a signal with a half-life of an hour, a weighted sum of features. ``nonlinear``: the
    same, but only products of features show it. ``slow``: a weak signal with a half-life of hours.
    ``fast``: a strong one with a half-life of two candles. ``regime``: the weights change now and
    then, and features tell noisily which hold. ``none``: no return can be predicted.
    """

    LINEAR = "linear"
    NONLINEAR = "nonlinear"
    SLOW = "slow"
    FAST = "fast"
    REGIME = "regime"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class PlantedSpec:
    """The numbers of a kind.

    Attributes
    ----------
    half_life : float
        Half-life of the signal in candles.
    strength : float
        Standard deviation of the expected log return of a candle.
    volatility : float
        Root mean square of the unpredictable part of a candle's log return.
    factor_noise : float
        Standard deviation of the noise on each feature that shows a factor (of variance 1).
    context_life : float
        Mean life of a context in candles; lives are uniform between half and one and a half of it.
    context_noise : float
        Standard deviation of the noise on each feature that shows the context.
    """

    half_life: float
    strength: float
    volatility: float = 7e-4
    factor_noise: float = 0.5
    context_life: float = math.inf
    context_noise: float = 1.0

    @property
    def persistence(self) -> float:
        """The share ``phi`` of the expected return that is left one candle later."""
        return float(0.5 ** (1.0 / self.half_life))


PLANTED_SPECS: Final[Mapping[PlantedKind, PlantedSpec]] = MappingProxyType(
    {
        PlantedKind.LINEAR: PlantedSpec(half_life=12, strength=4e-4),
        # Products have to be found among 400 inputs, which takes quieter prices.
        PlantedKind.NONLINEAR: PlantedSpec(
            half_life=12,
            strength=5e-4,
            volatility=3e-4,
            factor_noise=0.3,
            context_life=100,
            context_noise=0.3,
        ),
        PlantedKind.SLOW: PlantedSpec(
            half_life=48, strength=2e-4, volatility=5e-4, factor_noise=0.8
        ),
        PlantedKind.FAST: PlantedSpec(half_life=2, strength=7e-4, factor_noise=0.3),
        PlantedKind.REGIME: PlantedSpec(
            half_life=12,
            strength=5e-4,
            volatility=5e-4,
            factor_noise=0.3,
            context_life=500,
            context_noise=0.5,
        ),
        PlantedKind.NONE: PlantedSpec(half_life=12, strength=0.0),
    }
)
"""Every kind's numbers.

Calibrated for a fee of 0.05% per side: on 7,344 candles the reference policy earns a log return
of about 1 (slow) to 2.5, and a forecast fitted to 6,240 candles of 40 features (ridge regression on
windows of 10, a network of two layers where products are needed) about 80% of that on other
markets. Prices are therefore quieter and easier to foretell than real ones.
"""
