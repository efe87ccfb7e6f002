"""Which weights of a training are kept: held-back candles decide, and they want evidence."""

from __future__ import annotations

import copy
import logging
import math
from collections import deque
from collections.abc import Sequence

import numpy as np
from stable_baselines3 import PPO

from mtf_scalper.market.market import Market
from mtf_scalper.ppo.contexts import Book
from mtf_scalper.ppo.exact_learner import ExactLearner, Score
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.advantages import greedy_policy

logger = logging.getLogger(__name__)

_SMOOTHED_PASSES = 5
"""Validation returns whose mean decides which weights are kept."""


def held_back(markets: Sequence[Market], settings: Settings) -> tuple[list[Market], list[Market]]:
    """Split each market into what is learned on and its last part, which selects the weights.

    A market whose last part would be no longer than a window is not split.
    """
    train, validation = [], []
    for market in markets:
        n_held = int(np.floor(len(market) * settings.validation_share))
        if n_held < settings.window_size + 2 or len(market) - n_held < settings.window_size + 2:
            train.append(market)
            continue
        train.append(market.slice(0, len(market) - n_held))
        validation.append(market.slice(len(market) - n_held, len(market)))
    return train, validation


EVIDENT_FORECASTS = 1.5
"""How many times ``evidence`` forecasts need in place of held-back returns."""
LEAST_TRADES = 3
"""Held-back trades of weights that are kept because forecasts are evident."""


class Judge:
    """Keeps the weights that earn most on held-back candles, and says when nothing better comes.

    A few days of candles hold few independent trades, and the best of thirty passes by one return
    is mostly the luckiest. Passes are compared by the mean of their last few returns, and none is
    kept whose return is not ``evidence`` standard errors above that of the policy before the
    training: one that trades nothing, or leaves all exits to the rules. The error is that of the
    paired difference: candle by candle, what one policy earned more than the other. Returns of
    different candles are next to uncorrelated, so the root of the summed squares estimates it.

    The held-back candles are few, and a true but small advantage is hard to see on them. Where
    returns agree with a forecast over all candles at ``EVIDENT_FORECASTS`` times ``evidence``
    standard errors (``foretold``), that there is something to learn is known. Then the held-back
    candles choose among the passes, and only must not speak against the best of them: it may be no
    more than half of ``evidence`` below the policy from before, and in ``LEAST_TRADES`` trades,
    because one position that was held all the time may have been the market's drift.
    """

    def __init__(
        self,
        learner: ExactLearner,
        held: Book | None,
        settings: Settings,
        model: PPO,
        foretold: float = 0.0,
    ) -> None:
        self._learner = learner
        self.model = model
        self._patience = settings.patience
        is_known = foretold >= EVIDENT_FORECASTS * settings.evidence
        self._evidence = -settings.evidence / 2.0 if is_known else settings.evidence
        self._least_trades = LEAST_TRADES if is_known else 0
        self._book = held
        self._oracle = 0.0
        self._weights = copy.deepcopy(model.policy.state_dict())
        self._best = -math.inf
        self._start: Score | None = None
        if self._book is not None:
            self._oracle = sum(greedy_policy(chains)[0] for chains in self._book.chains)
            self._start = learner.score(self._book)
        self._latest: deque[float] = deque(maxlen=_SMOOTHED_PASSES)
        self._waited = 0
        self.log_return: float | None = None
        self.n_trades: int | None = None

    @property
    def oracle_share(self) -> float | None:
        """Latest validation return as a share of the hindsight optimum, if there is one."""
        if self.log_return is None or self._oracle <= 0.0:
            return None
        return self.log_return / self._oracle

    @property
    def is_done(self) -> bool:
        """Whether the training may end."""
        return self._waited >= self._patience

    def look(self, *, is_at_full_fees: bool) -> None:
        """Let the policy trade the held-back candles."""
        with self._learner.averaged():
            weights = copy.deepcopy(self.model.policy.state_dict())
            found = None if self._book is None else self._learner.score(self._book)
        if found is None or self._start is None:
            self._weights = weights
            return
        self.log_return, self.n_trades = found.log_return, found.n_trades
        self._latest.append(found.log_return)
        smoothed = float(np.mean(self._latest))
        # NumPy's norm would add in another order with another number of threads.
        error = float(np.sqrt(((found.rewards - self._start.rewards) ** 2).sum()))
        is_evident = smoothed - self._start.log_return > self._evidence * error
        is_evident &= found.n_trades >= self._least_trades
        if is_evident and smoothed > self._best:
            self._best, self._weights = smoothed, weights
            self._waited = 0
        elif is_at_full_fees:
            self._waited += 1

    def load_best(self) -> None:
        """Put the weights that are kept into the model."""
        if self._book is not None and self._best == -math.inf:
            logger.warning(
                "%s: nothing was learned: no pass earned %g standard errors more on the held-back "
                "candles than the policy before the training, which is kept",
                self._book.pairs,
                self._evidence,
            )
        self.model.policy.load_state_dict(self._weights)
