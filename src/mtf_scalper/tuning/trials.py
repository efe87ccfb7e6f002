"""What a trial is worth: its settings learned and traded, window after window, out of sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.evaluation.accounts import averaged
from mtf_scalper.evaluation.days import calendar_of
from mtf_scalper.evaluation.judge import whole_account
from mtf_scalper.evaluation.trades import JUDGED
from mtf_scalper.market.stored import RecordedPair
from mtf_scalper.settings import Settings
from mtf_scalper.tuning.study import COMPLETE, STOPPED, UNTRADABLE, Outcome
from mtf_scalper.walk_forward.learned_window import LearnedWindow
from mtf_scalper.walk_forward.orders import WindowOrder
from mtf_scalper.walk_forward.walk import Walk, measure_walks, traded_market, walk
from mtf_scalper.walk_forward.windows import Window

FIRST_RUNG = 4
"""Windows after which a trial may be stopped for the first time; then after twice as many."""

Learn = Callable[[Sequence[tuple[int, WindowOrder]]], Sequence[LearnedWindow | MtfScalperError]]
"""Learns orders of trials, and returns what came of each, or why nothing did."""


@dataclass(frozen=True, eq=False)
class Arena:
    """What all trials of a search are learned and traded on.

    Attributes
    ----------
    recordeds : mapping of str to RecordedPair
    windows : sequence of Window
        In order; those of the locked part are not among them.
    seeds : sequence of int
        Trainings of each window, whose returns are averaged.
    n_draws : int
        Random exits per pair and seed, of the baseline.
    """

    recordeds: Mapping[str, RecordedPair]
    windows: Sequence[Window]
    seeds: Sequence[int]
    n_draws: int

    @cached_property
    def calendar(self) -> NDArray[np.datetime64]:
        """The days of all windows; datetime64[D], shape (D,)."""
        return calendar_of(traded_market(each, self.windows) for each in self.recordeds.values())

    @property
    def rungs(self) -> list[int]:
        """How many windows a trial has traded each time it is looked at; ascending."""
        rungs, rung = [], FIRST_RUNG
        while rung < len(self.windows):
            rungs.append(rung)
            rung *= 2
        return [*rungs, len(self.windows)]


@dataclass(eq=False)
class _Trial:
    """A trial under way."""

    number: int
    settings: Settings
    learned: dict[tuple[str, int], list[LearnedWindow]] = field(default_factory=dict)
    returns: list[float] = field(default_factory=list)
    outcome: Outcome | None = None


def run_trials(
    settings: Mapping[int, Settings | str],
    arena: Arena,
    learn: Learn,
    is_poor: Callable[[Sequence[float]], bool],
) -> dict[int, Outcome]:
    """Learn and trade trials side by side, and stop the poor ones after few windows.

    Parameters
    ----------
    settings : mapping of int to Settings or str
        By trial; a text says in one line why there are none.
    arena : Arena
    learn : callable
    is_poor : callable
        From the returns of the windows so far.

    Returns
    -------
    dict of int to Outcome
        Of all trials. What earns nothing because it never trades is worth 0 and no failure; what
        cannot be learned, because its rewards are not finite or its settings do not go together,
        is untradable.
    """
    trials: dict[int, _Trial] = {}
    found: dict[int, Outcome] = {}
    for number, each in settings.items():
        if isinstance(each, str):
            found[number] = Outcome(UNTRADABLE, reason=each)
        else:
            trials[number] = _Trial(number, each)
    first = 0
    for rung in arena.rungs:
        going = [each for each in trials.values() if each.outcome is None]
        _learn_on(going, arena, arena.windows[first:rung], learn)
        first = rung
        if rung == len(arena.windows):
            break
        for trial in going:
            if trial.outcome is None and is_poor(trial.returns):
                trial.outcome = Outcome(STOPPED, tuple(trial.returns), _days(trial, arena))
    for number, trial in trials.items():
        found[number] = trial.outcome or Outcome(
            COMPLETE, tuple(trial.returns), _days(trial, arena)
        )
    return found


def _learn_on(
    trials: Sequence[_Trial], arena: Arena, windows: Sequence[Window], learn: Learn
) -> None:
    """Learn windows of all trials side by side; one of which a window cannot be is untradable."""
    keys = [(pair, seed) for pair in arena.recordeds for seed in arena.seeds]
    orders = [
        (trial.number, WindowOrder(pair, window, seed, trial.settings))
        for trial in trials
        for pair, seed in keys
        for window in windows
    ]
    learned = learn(orders)
    n_each = len(keys) * len(windows)
    for place, trial in enumerate(trials):
        found = learned[place * n_each : (place + 1) * n_each]
        done = [each for each in found if isinstance(each, LearnedWindow)]
        failures = [each for each in found if isinstance(each, MtfScalperError)]
        if failures:
            reason = str(failures[0]).partition("\n")[0]
            trial.outcome = Outcome(UNTRADABLE, reason=reason)
            continue
        starts = range(0, n_each, len(windows))
        by_key = {
            key: done[start : start + len(windows)] for key, start in zip(keys, starts, strict=True)
        }
        for number, window in enumerate(windows):
            parts = {key: each[number] for key, each in by_key.items()}
            trial.returns.append(_window_return(trial.settings, arena, window, parts))
        for key, each in by_key.items():
            trial.learned.setdefault(key, []).extend(each)


def _window_return(
    settings: Settings,
    arena: Arena,
    window: Window,
    parts: Mapping[tuple[str, int], LearnedWindow],
) -> float:
    """Return what one window alone earned: pairs added up, the mean over seeds."""
    total = 0.0
    for (pair, _), part in parts.items():
        total += walk(arena.recordeds[pair], [window], [part], settings).run.log_return
    return total / len(arena.seeds)


def _days(trial: _Trial, arena: Arena) -> dict[str, list[float]]:
    """Return daily log returns of agent and baselines, 0 from where a trial was stopped."""
    windows = arena.windows[: len(trial.returns)]
    walks: dict[str, list[Walk]] = {}
    for (pair, _), learned in trial.learned.items():
        each = walk(arena.recordeds[pair], windows, learned, trial.settings)
        walks.setdefault(pair, []).append(each)
    _, pairs = measure_walks(walks, n_draws=arena.n_draws)
    whole = whole_account([averaged(list(each.accounts.values())) for each in pairs])
    n_days = len(arena.calendar)
    series: dict[str, Any] = {JUDGED: whole.days.log_return, **whole.baselines}
    return {
        name: np.pad(values, (0, n_days - len(values))).round(12).tolist()
        for name, values in series.items()
    }
