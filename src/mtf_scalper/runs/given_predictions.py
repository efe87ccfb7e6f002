"""Predictions that are given instead of learned, served to a strategy as FreqAI serves its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from freqtrade.strategy import IStrategy
from numpy.typing import NDArray

from mtf_scalper.freqai.actions import SIDES, prediction_frame, signals_of
from mtf_scalper.freqai.config import read_settings, trade_rules
from mtf_scalper.freqai.traded import is_predicted
from mtf_scalper.simulator.types import N_ACTIONS, Action
from mtf_scalper.worlds.synthetic import random_generator

Given = Callable[[str, int], NDArray[np.float64]]
"""From a pair and the number T of its candles to probabilities of the actions, shape (T, 5)."""


def random_policy(pair: str, n_candles: int) -> NDArray[np.float64]:
    """Return probabilities that enter at random and ask for an exit at 3% of the candles.

    Returns
    -------
    ndarray of float64, shape (T, 5)
        The same for the same pair in every run.
    """
    rng = random_generator(f"parity|{pair}")
    leave = np.where(rng.random(n_candles) < 0.03, 0.3, 0.05)
    long = rng.random(n_candles)
    result = np.stack([np.full(n_candles, 0.2), long, leave, 1.0 - long, leave], axis=1)
    return np.asarray(result / result.sum(axis=1, keepdims=True))


def always_enter(pair: str, n_candles: int) -> NDArray[np.float64]:
    """Return probabilities that enter wherever it is allowed, on a random side, and never leave.

    Returns
    -------
    ndarray of float64, shape (T, 5)
        The same for the same pair in every run.
    """
    is_long = random_generator(f"parity|{pair}").random(n_candles) < 0.5
    result = np.zeros((n_candles, N_ACTIONS))
    result[:, Action.NEUTRAL] = 0.1
    result[:, Action.LONG_ENTER] = np.where(is_long, 0.6, 0.3)
    result[:, Action.SHORT_ENTER] = np.where(is_long, 0.3, 0.6)
    return result


GIVEN: Mapping[str, Given] = {"random": random_policy, "always-enter": always_enter}
"""Policies that need no training, by their name on the command line."""


class _GivenDecisions:
    """Stands where the strategy expects ``Decisions``; the position changes no answer."""

    def __init__(self) -> None:
        self._by_pair: dict[str, tuple[NDArray[np.datetime64], NDArray[np.float64]]] = {}

    def note(
        self, pair: str, dates: NDArray[np.datetime64], probabilities: NDArray[np.float64]
    ) -> None:
        """Keep a pair's probabilities, shape (T, 5), and their dates, shape (T,)."""
        self._by_pair[pair] = (dates, probabilities)

    def probabilities(
        self, pair: str, date: np.datetime64, state: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Return the probabilities given at the candle of ``date``, shape (5,)."""
        dates, probabilities = self._by_pair[pair]
        found: NDArray[np.float64] = probabilities[np.searchsorted(dates, date)]
        return found


class GivenPredictions:
    """Stands where the strategy expects FreqAI's model and predicts given probabilities.

    It predicts where FreqAI would, see ``is_predicted``.
    """

    def __init__(self, config: Mapping[str, Any], given: Given) -> None:
        self._config = config
        self._given = given
        self.decisions = _GivenDecisions()

    def start(
        self, dataframe: pd.DataFrame, metadata: Mapping[str, Any], strategy: IStrategy
    ) -> pd.DataFrame:
        """Return the frame with predictions, as FreqAI's method of this name does."""
        values = self._given(metadata["pair"], len(dataframe))
        dates = dataframe["date"].dt.tz_localize(None).to_numpy()
        self.decisions.note(metadata["pair"], dates, values)
        settings = read_settings(self._config, trade_rules(self._config, strategy))
        members = [values[None]] * len(SIDES)
        predicted = prediction_frame(members, signals_of(dataframe), settings)
        predicted.index = dataframe.index
        predicted["do_predict"] = 1
        predicted = predicted.where(is_predicted(self._config, dataframe["date"]), 0.0)
        return pd.concat([dataframe, predicted], axis=1)
