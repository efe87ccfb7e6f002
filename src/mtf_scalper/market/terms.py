"""What an exchange asks of whoever trades a pair, as far as a market has to know it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.market.datafiles import MARK

Floats = NDArray[np.float64]
Liquidations = Callable[[Floats, Floats], tuple[Floats, Floats]]
"""From leverages and stakes, shape (T,), to ``Market.liquidation_long`` and ``_short``."""


@dataclass(frozen=True, kw_only=True)
class PairTerms:
    """Terms of one pair; the defaults are those of an exchange of which nothing is known.

    Attributes
    ----------
    most_leverage : float
        Leverage that the exchange allows for the stake that freqtrade proposes.
    price_step : float or None
        The exchange's own, for months whose prices are whole numbers; None where it is not known.
    equity : float
        In stake currency, of which the strategy stakes a part.
    liquidations : callable, optional
        By default the trade rules say where a trade is liquidated.
    rate_timeframe, mark_timeframe, mark_kind : str
        Which files freqtrade takes funding rates and mark prices from.
    funding_fallback : float or None
        freqtrade's ``futures_funding_rate``.
    """

    most_leverage: float = np.inf
    price_step: float | None = None
    equity: float = 0.0
    liquidations: Liquidations | None = None
    rate_timeframe: str = "1h"
    mark_timeframe: str = "1h"
    mark_kind: str = MARK
    funding_fallback: float | None = None
