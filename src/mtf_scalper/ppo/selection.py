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


OVER_ALL = 1.5
"""How many times ``evidence`` is asked for over all candles, in place of the held-back ones."""
LEAST_TRADES = 10
"""Trades, on all candles, of weights that are kept by evidence over all of them."""


class Judge:
    """Keeps the weights that earn most on held-back candles, and says when nothing better comes.

    A few days of candles hold few independent trades, and the best of thirty passes by one return
    is mostly the luckiest. Passes are compared by the mean of their last few returns, and none is
    kept whose return is not ``evidence`` standard errors above that of the policy before the
    training: one that trades nothing, or leaves all exits to the rules. The error is that of the
    paired difference: candle by candle, what one policy earned more than the other. Returns of
    different candles are next to uncorrelated, so the root of the summed squares estimates it.

    The held-back candles are few, and a true but small advantage is hard to see on them. Where
    returns agree with a forecast over all candles at ``OVER_ALL`` times ``evidence`` standard
    errors (``foretold``), that there is something to learn is known. Then the held-back candles
    choose among the passes, and only must not speak against the best of them (half of ``evidence``
    below the policy from before at most); the advantage over all candles has to be as evident as
    the forecasts are, in at least ``LEAST_TRADES`` trades, because one position that was held all
    the time may have been the market's drift.
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
        self._over_all = OVER_ALL * settings.evidence
        is_known = foretold >= self._over_all
        self._evidence = -settings.evidence / 2.0 if is_known else settings.evidence
        self._book = held
        self._oracle = 0.0
        self._weights = copy.deepcopy(model.policy.state_dict())
        self._best = -math.inf
        self._start: Score | None = None
        self._start_of_all: Score | None = None
        if self._book is not None:
            self._oracle = sum(greedy_policy(chains)[0] for chains in self._book.chains)
            self._start = learner.score(self._book)
            if is_known:
                self._start_of_all = self._start + learner.score(learner.book)
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

    def begin(self) -> None:
        """Let what the training goes on from be the first that may be kept."""
        self.look(is_at_full_fees=False)
        self._latest.clear()

    def look(self, *, is_at_full_fees: bool) -> None:
        """Let the policy trade the held-back candles."""
        with self._learner.averaged():
            self._look(is_at_full_fees=is_at_full_fees)

    def _look(self, *, is_at_full_fees: bool) -> None:
        if self._book is None or self._start is None:
            self._weights = copy.deepcopy(self.model.policy.state_dict())
            return
        found = self._learner.score(self._book)
        self.log_return, self.n_trades = found.log_return, found.n_trades
        self._latest.append(found.log_return)
        smoothed = float(np.mean(self._latest))
        error = found.error_of_difference(self._start)
        is_better = smoothed - self._start.log_return > self._evidence * error
        if is_better and smoothed > self._best and self._is_evident_over_all(found):
            self._best, self._weights = smoothed, copy.deepcopy(self.model.policy.state_dict())
            self._waited = 0
        elif is_at_full_fees:
            self._waited += 1

    def _is_evident_over_all(self, held: Score) -> bool:
        """Say whether the advantage over all candles is, where that is what is asked for."""
        if self._start_of_all is None:
            return True
        found = held + self._learner.score(self._learner.book)
        gain = found.log_return - self._start_of_all.log_return
        error = found.error_of_difference(self._start_of_all)
        return found.n_trades >= LEAST_TRADES and gain > self._over_all * error

    def load_best(self) -> None:
        """Put the weights that are kept into the model."""
        if self._book is not None and self._best == -math.inf:
            candles, errors = "the held-back candles", self._evidence
            if self._start_of_all is not None:
                candles, errors = "all candles", self._over_all
            logger.warning(
                "%s: nothing was learned: no pass earned %g standard errors more on %s than the "
                "policy before the training, which is kept",
                self._book.pairs,
                errors,
                candles,
            )
        self.model.policy.load_state_dict(self._weights)
