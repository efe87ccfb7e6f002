"""Training speed of the present settings against the settings before them, on one market."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mtf_scalper.market.market import Market
from mtf_scalper.records.events import Progress
from mtf_scalper.settings import Advantage, Settings, VecEnvKind
from mtf_scalper.training import train

BEFORE: Final[dict[str, Any]] = {
    "advantage": Advantage.GAE,
    "n_envs": 1,
    "vec_env": VecEnvKind.DUMMY,
    "n_steps": 2048,
    "batch_size": 64,
    "net_arch": (256, 256, 128),
}
"""The settings before; every other one, torch's threads among them, is as in the run."""


OnProgress = Callable[[str, Progress], None]
_EXACT_PASSES = 4


@dataclass(frozen=True)
class SpeedComparison:
    """Environment steps per second, start and end of the environments and updates included.

    Attributes
    ----------
    steps_before, steps_after : int
        Environment steps of each of the two trainings.
    before, after : float
        Steps per second.
    """

    steps_before: int
    steps_after: int
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """How many times as fast the present settings are."""
        return self.after / self.before


def compare_speed(
    market: Market,
    settings: Settings,
    on_progress: OnProgress | None = None,
    *,
    before: dict[str, Any] | None = None,
) -> SpeedComparison:
    """Train one rollout and update of ``settings``, and as many steps of the settings before.

    With exact advantages there is no rollout: a few passes then stand against one rollout.

    Parameters
    ----------
    market : Market
        Both train on it.
    settings : Settings
        The present ones; their ``train_cycles`` is set to what one rollout needs.
    on_progress : callable, optional
        Told ``"before"`` or ``"after"`` and how far it is.
    before : dict, optional
        Settings to replace in ``settings`` for the other training; ``BEFORE`` by default.
    """
    if settings.advantage is Advantage.EXACT:
        return _compare_exact(market, settings, on_progress, BEFORE if before is None else before)
    # Both trainings end with the first whole rollout that completes this number of steps.
    cycles = math.ceil(settings.rollout_steps / len(market))
    fitting = market.slice(0, settings.rollout_steps // cycles)
    after = settings.changed(train_cycles=cycles)
    other = after.changed(**(BEFORE if before is None else before))
    return _compared(fitting, other, after, on_progress)


def _compare_exact(
    market: Market, settings: Settings, on_progress: OnProgress | None, before: dict[str, Any]
) -> SpeedComparison:
    """Train a few passes with exact advantages, and one rollout of the settings before.

    A step is a candle that was decided on, in either.
    """
    # Whatever the candles foretell, there is something to time.
    after = settings.changed(train_cycles=_EXACT_PASSES, evidence=0.0)
    other = settings.changed(**{"n_epochs": None, "learning_rate": None, **before})
    steps = min(len(market), other.rollout_steps)
    return _compared(market, other.changed(train_cycles=1), after, on_progress, n_before=steps)


def _compared(
    market: Market,
    before: Settings,
    after: Settings,
    on_progress: OnProgress | None,
    n_before: int | None = None,
) -> SpeedComparison:
    measured = {}
    for name, recipe in (("before", before), ("after", after)):

        def report(progress: Progress, name: str = name) -> None:
            if on_progress is not None:
                on_progress(name, progress)

        candles = market if name == "after" else market.slice(0, n_before or len(market))
        measured[name] = train(candles, recipe, on_progress=report)
    return SpeedComparison(
        steps_before=measured["before"].steps,
        steps_after=measured["after"].steps,
        before=measured["before"].steps_per_second,
        after=measured["after"].steps_per_second,
    )
