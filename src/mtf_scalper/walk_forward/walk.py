"""Walk-forward: the tests of learned windows traded as one account.

The policies of a pair's windows take turns at one account over all test candles, as they do in
FreqAI's backtest: nothing is closed at the end of a window, and the baselines trade the same
candles without a break.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.evaluation.accounts import PairEvidence, measure_pair
from mtf_scalper.evaluation.days import calendar_of
from mtf_scalper.evaluation.edge import Variant
from mtf_scalper.evaluation.judge import Judged, judge_pairs
from mtf_scalper.market.market import Market
from mtf_scalper.market.stored import RecordedPair
from mtf_scalper.ppo.policy import Policy, simulate
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.playback import Simulation
from mtf_scalper.simulator.types import N_ACTIONS, Action
from mtf_scalper.walk_forward.learned_window import LearnedWindow
from mtf_scalper.walk_forward.windows import Window, window_days

Floats = NDArray[np.float64]

_NEUTRAL = np.eye(N_ACTIONS)[Action.NEUTRAL]


@dataclass(frozen=True, eq=False)
class Walk:
    """One pair traded out of sample from the first test candle to the last, with one seed.

    Attributes
    ----------
    pair : str
    seed : int
    market : Market
        The test candles, and the one at which the period ends if there is one.
    settings : Settings
        With the rules that were used; a decision needs one row of ``market``, as windows of the
        network have been looked at already.
    probabilities : ndarray of float64, shape (T, 5)
        Of each window's policy on its own test; certainly neutral where there is no prediction.
    run : Simulation
    learned : tuple of LearnedWindow
    """

    pair: str
    seed: int
    market: Market
    settings: Settings
    probabilities: Floats
    run: Simulation
    learned: tuple[LearnedWindow, ...]


def traded_market(
    recorded: RecordedPair, windows: Sequence[Window], predicted: NDArray[np.bool_] | None = None
) -> Market:
    """Return the candles of all tests, and the one at which the last test ends if there is one.

    Nothing is decided there any more: it is where an open trade is closed, as in freqtrade.

    Parameters
    ----------
    recorded : RecordedPair
    windows : sequence of Window
        In order and without gaps between tests.
    predicted : ndarray of bool, shape (T,), optional
        Where there are predictions; classic entries are switched off elsewhere, as the strategy
        does not enter there.
    """
    first = recorded.row_of(windows[0].test_from)
    stop = recorded.row_of(windows[-1].test_to)
    market = recorded.market.slice(first, min(stop + 1, len(recorded.market)))
    if predicted is None:
        return market
    return replace(
        market,
        entry_long=market.entry_long & predicted,
        entry_short=market.entry_short & predicted,
        report_gaps=False,
    )


def walk(
    recorded: RecordedPair,
    windows: Sequence[Window],
    learned: Sequence[LearnedWindow],
    settings: Settings,
) -> Walk:
    """Let the policies of all windows of a pair and seed trade their tests, one after the other.

    Parameters
    ----------
    recorded : RecordedPair
    windows : sequence of Window
    learned : sequence of LearnedWindow
        Of this pair, of one seed, in the order of the windows.
    settings : Settings
    """
    whole = traded_market(recorded, windows)
    first = recorded.row_of(windows[0].test_from)
    probabilities = np.full((len(whole), N_ACTIONS), np.nan)
    for part in learned:
        start = part.first_row - first
        probabilities[start : start + len(part.probabilities)] = part.probabilities
    predicted = np.isfinite(probabilities).all(axis=1)
    market = traded_market(recorded, windows, predicted)
    settings = settings.for_market(whole).changed(window_size=1)
    probabilities = np.where(predicted[:, None], probabilities, _NEUTRAL)
    policy = _InTurn(settings, probabilities, predicted, learned, first)
    return Walk(
        pair=market.pair,
        seed=learned[0].seed,
        market=market,
        settings=settings,
        probabilities=probabilities,
        run=simulate(policy, market),
        learned=tuple(learned),
    )


def evaluate_walks(
    walks: Mapping[str, Sequence[Walk]],
    *,
    n_draws: int = 100,
    others: Callable[[Variant], Sequence[Variant]] = lambda _: (),
    peers: Mapping[str, Mapping[str, Simulation]] = MappingProxyType({}),
) -> Judged:
    """Measure walks and decide whether there is an edge.

    Parameters
    ----------
    walks : mapping of str to sequence of Walk
        By pair; one per seed, the same seeds for every pair.
    n_draws : int
        Random exits per pair and seed.
    others : callable
        From the judged variant to all others that were tried.
    peers : mapping of str to mapping of str to Simulation, optional
        By pair, what supervised peers made of its candles, by name: more baselines.
    """
    calendar, pairs = measure_walks(walks, n_draws=n_draws, peers=peers)
    windows = [part.window for part in next(iter(walks.values()))[0].learned]
    parts = {each.name: window_days(windows, each) for each in windows}
    return judge_pairs(calendar, pairs, parts, others)


def measure_walks(
    walks: Mapping[str, Sequence[Walk]],
    *,
    n_draws: int,
    peers: Mapping[str, Mapping[str, Simulation]] = MappingProxyType({}),
) -> tuple[NDArray[np.datetime64], list[PairEvidence]]:
    """Return the days of all pairs, shape (D,), and what agent and baselines did on them.

    See ``evaluate_walks`` for the parameters.
    """
    firsts = [each[0] for each in walks.values()]
    calendar = calendar_of(walk.market for walk in firsts)
    return calendar, [
        measure_pair(
            first.market,
            first.settings,
            {walk.seed: walk.run for walk in walks[first.pair]},
            calendar,
            n_draws=n_draws,
            peers=peers.get(first.pair, {}),
        )
        for first in firsts
    ]


class _InTurn(Policy):
    """The windows' policies in turn; what they say without a position is known already."""

    def __init__(
        self,
        settings: Settings,
        probabilities: Floats,
        predicted: NDArray[np.bool_],
        learned: Sequence[LearnedWindow],
        first: int,
    ) -> None:
        self.settings = settings
        self._probabilities = probabilities
        self._predicted = predicted
        self._learned = [part for part in learned if part.policy is not None]
        self._loaded: dict[int, Policy] = {}
        self._first = first

    def probabilities(self, features: NDArray[np.float32]) -> Floats:
        """Return what is known, shape (T, 5)."""
        assert len(features) == len(self._probabilities)
        return self._probabilities

    def probabilities_in(
        self, features: NDArray[np.float32], row: int, state: NDArray[np.float32]
    ) -> Floats:
        """Ask the policy of the window again, shape (5,); without a prediction the trade stays."""
        if not self._predicted[row]:
            return np.asarray(_NEUTRAL)
        number = self._window_of(row)
        part = self._learned[number]
        if number not in self._loaded:
            # One policy at a time: a year of windows would fill the memory.
            window = part.window_size
            self._loaded = {number: part.loaded(self.settings.changed(window_size=window))}
        assert part.tested is not None
        history = len(part.tested) - len(part.probabilities)
        within = row + self._first - part.first_row + history
        return self._loaded[number].probabilities_in(part.tested, within, state)

    def _window_of(self, row: int) -> int:
        starts = [part.first_row - self._first for part in self._learned]
        return int(np.searchsorted(starts, row, side="right")) - 1
