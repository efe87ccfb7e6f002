"""One window learned: rows of a pair scaled by what is learned on, a policy, its probabilities."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import UntrainableError
from mtf_scalper.evaluation.importance import Importance, permutation_importance
from mtf_scalper.evaluation.peers import Decisions, peer_decisions
from mtf_scalper.market.market import CLOSE, Market
from mtf_scalper.market.stored import RecordedPair, part_of
from mtf_scalper.ppo.model_files import read_zip
from mtf_scalper.ppo.policy import Policy
from mtf_scalper.records.events import WEIGHTS, EventLog
from mtf_scalper.settings import Settings
from mtf_scalper.training import train
from mtf_scalper.walk_forward.kept_policies import Scaling, keep_policy
from mtf_scalper.walk_forward.windows import Window

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WindowTask:
    """What one training needs; arrays and plain values only, so that a process can be given it.

    Attributes
    ----------
    window : Window
    seed : int
    settings : Settings
        With the seed and the threads of this training.
    seen, choosing : Market
        What is learned on, and the later part of the window that chooses the weights (None where it
        would be shorter than a window of the network).
    tested : Market
        H candles of history and the T of the test; features are scaled by ``seen``.
    first_row : int
        Row of the pair's market that is the first of ``tested``.
    n_history : int
        H.
    events : Path or None
        File for the training's events.
    n_shuffles : int
        Shuffles of every feature on the test, to see what the policy trades by; 0 for none.
    with_peers : bool
        Whether supervised peers learn the same candles as well; ``choosing`` is there then.
    scaling : Scaling or None
        What the features were scaled by.
    keep_in : Path or None
        Folder that gets the policy.
    timeframes : tuple of str
        FreqAI's, for the names of the features there.
    """

    window: Window
    seed: int
    settings: Settings
    seen: Market
    choosing: Market | None
    tested: Market
    first_row: int
    n_history: int
    events: Path | None = None
    n_shuffles: int = 0
    with_peers: bool = False
    scaling: Scaling | None = None
    keep_in: Path | None = None
    timeframes: tuple[str, ...] = ()

    @property
    def pair(self) -> str:
        """The pair."""
        return self.seen.pair


@dataclass(frozen=True, eq=False)
class LearnedWindow:
    """What came of a training.

    Attributes
    ----------
    window : Window
    pair : str
    seed : int
    first_row : int
        Row of the pair's market that ``probabilities`` begins at.
    probabilities : ndarray of float64, shape (T, 5)
        At every candle of the test, without a position; NaN where there was no full window.
    seconds : float
    degenerate : str or None
        What the policy was on the candles that chose the weights, in plain words.
    window_size : int
        Candles that the network sees.
    policy : bytes or None
        The checkpoint, where exits have to ask the network again (``add_state_info``).
    tested : ndarray or None
        The task's features, likewise.
    importance : tuple of Importance
        What the return on the test loses without each feature; empty where it was not asked for.
    peers : mapping of str to ndarray of int8, shape (T, 3)
        What each peer decides at the candles of ``probabilities``; see ``peer_decisions``. Empty
        where they were not asked for.
    """

    window: Window
    pair: str
    seed: int
    first_row: int
    probabilities: Floats
    seconds: float
    degenerate: str | None
    window_size: int
    policy: bytes | None = None
    tested: NDArray[np.float32] | None = None
    importance: tuple[Importance, ...] = ()
    peers: Mapping[str, Decisions] = field(default_factory=dict)

    def loaded(self, settings: Settings) -> Policy:
        """Return the policy of the checkpoint."""
        assert self.policy is not None
        return Policy(read_zip(io.BytesIO(self.policy)), settings)


def window_task(
    recorded: RecordedPair,
    window: Window,
    settings: Settings,
    *,
    seed: int,
    with_history: bool = True,
    events: Path | None = None,
) -> WindowTask:
    """Cut a window out of a pair and scale it as FreqAI does.

    Rows that choose the weights are the last ``settings.validation_share`` of the training's,
    rounded up. Features that are constant on those before are left out, the others are scaled to
    [-1, 1] by them, in float64; neither the choosing nor the tested rows have a part in that.

    Parameters
    ----------
    recorded : RecordedPair
    window : Window
    settings : Settings
    seed : int
        Instead of the settings' ``random_state``.
    with_history : bool
        Whether the test's first candles see the candles before them. FreqAI predicts on the test's
        candles alone and has no prediction for the first ``window_size - 1`` of them.
    events : Path, optional

    Raises
    ------
    MarketError
        If candles for the training are missing.
    """
    bounds = (window.train_from, window.train_to, window.test_from, window.test_to)
    begin, end, first, last = (recorded.row_of(moment) for moment in bounds)
    check_window(recorded, window, settings)
    n_held = n_choosing(recorded, window, settings)
    split = end - n_held
    scale = _Scale(recorded.features[begin:split])
    enough = n_held >= settings.window_size + 2
    n_history = min(first, settings.window_size - 1) if with_history else 0
    return WindowTask(
        window=window,
        seed=seed,
        settings=settings.changed(random_state=seed),
        seen=part_of(recorded, scale(recorded.features[begin:split]), begin, split),
        choosing=part_of(recorded, scale(recorded.features[split:end]), split, end)
        if enough
        else None,
        tested=part_of(
            recorded, scale(recorded.features[first - n_history : last]), first - n_history, last
        ),
        first_row=first - n_history,
        n_history=n_history,
        events=events,
        scaling=scale.as_plain(recorded.market.feature_names),
    )


def n_choosing(recorded: RecordedPair, window: Window, settings: Settings) -> int:
    """Return how many candles at the end of a window's training choose the weights."""
    n_rows = recorded.row_of(window.train_to) - recorded.row_of(window.train_from)
    return math.ceil(settings.validation_share * n_rows)


def learn_window(task: WindowTask) -> LearnedWindow:
    """Train on a window and predict its test; let peers decide there, if they were asked for."""
    common: dict[str, Any] = {"pair": task.pair, "window": task.window.name, "seed": task.seed}
    events = EventLog(task.events, **common)
    result = train(task.seen, task.settings, task.choosing, events=events)
    events.write(WEIGHTS, digest=result.policy.digest)
    if task.keep_in is not None and task.scaling is not None:
        keep_policy(
            task.keep_in,
            result.policy,
            task.scaling,
            task.window,
            pair=task.pair,
            seed=task.seed,
            timeframes=task.timeframes,
        )
    probabilities = result.policy.probabilities(task.tested.features)
    report = result.reports[0] if result.reports else None
    checkpoint = io.BytesIO()
    asks_again = task.settings.add_state_info
    if asks_again:
        result.policy.model.save(checkpoint)
    return LearnedWindow(
        window=task.window,
        pair=task.pair,
        seed=task.seed,
        first_row=task.first_row + task.n_history,
        probabilities=probabilities[task.n_history :],
        seconds=result.seconds,
        degenerate=None if report is None else report.degenerate,
        window_size=task.settings.window_size,
        policy=checkpoint.getvalue() if asks_again else None,
        tested=task.tested.features if asks_again else None,
        importance=tuple(
            permutation_importance(result.policy, task.tested, n_repeats=task.n_shuffles)
        )
        if task.n_shuffles
        else (),
        peers=_decided_by_peers(task) if task.with_peers else {},
    )


def _decided_by_peers(task: WindowTask) -> dict[str, Decisions]:
    assert task.choosing is not None
    decided = peer_decisions(task.seen, task.choosing, task.tested, task.settings)
    return {name: each[task.n_history :] for name, each in decided.items()}


class _Scale:
    """FreqAI's feature pipeline: constant features go, all others into [-1, 1]."""

    def __init__(self, seen: Floats) -> None:
        low, high = seen.min(axis=0), seen.max(axis=0)
        self._n_rows = len(seen)
        # As scikit-learn's VarianceThreshold(0): the spread too, for the variance may be rounding.
        self._kept = (seen.var(axis=0) > 0.0) & (high > low)
        low, width = low[self._kept], (high - low)[self._kept]
        self._low, self._high = low, high[self._kept]
        # As its MinMaxScaler((-1, 1)), multiplication by multiplication.
        self._factor = 2.0 / np.where(width < 10 * np.finfo(np.float64).eps, 1.0, width)
        self._shift = -1.0 - low * self._factor

    def as_plain(self, names: tuple[str, ...]) -> Scaling | None:
        """Return the numbers, None where the features have no names."""
        if len(names) != len(self._kept):
            return None
        numbers = (self._low, self._high, self._factor, self._shift)
        return Scaling(names, self._kept, *numbers, self._n_rows)

    def __call__(self, features: Floats) -> NDArray[np.float32]:
        """Return the scaled features, shape (T, kept)."""
        scaled = features[:, self._kept] * self._factor + self._shift
        return np.asarray(scaled, dtype=np.float32)


def check_window(recorded: RecordedPair, window: Window, settings: Settings) -> None:
    """Check that a window can be learned and traded.

    Raises
    ------
    UntrainableError
        Says what the pair lacks: candles, or any movement of its price.
    """
    market = recorded.market
    assert market.dates is not None
    begin, end, first, last = (
        recorded.row_of(moment)
        for moment in (window.train_from, window.train_to, window.test_from, window.test_to)
    )
    wanted = window.train_from.tz_localize(None).to_datetime64()
    known = np.datetime_as_string(market.dates[0], unit="m").replace("T", " ")
    if market.dates[0] > wanted:
        raise UntrainableError(
            f"{market.pair}: the window from {window.train_from:%Y-%m-%d} needs candles "
            f"and features from then on, and they begin at {known}; download earlier candles or "
            "evaluate a later period"
        )
    n_held = math.ceil(settings.validation_share * (end - begin))
    if end - n_held - begin < settings.window_size + 2 or last <= first:
        raise UntrainableError(
            f"{market.pair}: no candles from {window.test_from:%Y-%m-%d} to "
            f"{window.test_to:%Y-%m-%d}; download later candles or evaluate an earlier period"
        )
    split = end - n_held
    for start, stop in ((begin, split), (split, end), (first, last)):
        prices = market.ohlc[start:stop]
        if prices.size and prices.min() == prices.max():
            raise UntrainableError(
                f"{market.pair}: the price is constant ({prices[0, CLOSE]}) over all "
                f"{len(prices)} candles of the window from {window.train_from:%Y-%m-%d}"
            )
