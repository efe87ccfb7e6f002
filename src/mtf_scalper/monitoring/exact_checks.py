"""Checks of a run that learns from exact advantages, which has no environments and no rollouts.

What holds for every run is checked as for one that learns from rollouts (``checks``).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mtf_scalper.monitoring import checks
from mtf_scalper.monitoring.facts import RunFacts
from mtf_scalper.monitoring.phases import cpu_samples_within, training_spans
from mtf_scalper.monitoring.verdicts import CannotTellError, Check, Judgement, Recipe, make_check
from mtf_scalper.settings import Settings

__all__ = ["EXACT_CHECKS", "judge_exact"]

_LEAST_BUSY_CORES = 0.8
"""Of one thread; evaluations in between have no more."""


def judge_exact(facts: RunFacts, recipe: Recipe) -> tuple[Check, ...]:
    """Return every check of an exact run, named as such."""
    made = (check(facts, recipe) for check in EXACT_CHECKS)
    return tuple(replace(check, name=f"exact: {check.name}") for check in made)


def check_passes(facts: RunFacts, recipe: Recipe) -> Check:
    """Check that every training made its passes, or ended early for want of anything better."""
    settings = Settings()
    early = math.ceil(settings.fee_warmup * recipe.train_cycles) + settings.patience

    def made() -> Judgement:
        passes = [_passes(window) for window in _windows(facts)]
        measured = ", ".join(str(each) for each in sorted(set(passes)))
        wrong = [
            each
            for each in passes
            if not min(early, recipe.train_cycles) <= each <= recipe.train_cycles
        ]
        return measured, f"{len(wrong)} trainings made other numbers" if wrong else ""

    expected = f"{recipe.train_cycles}"
    if early < recipe.train_cycles:
        expected += f", or {early} and more where nothing better came"
    return make_check("passes over the candles", expected, made)


def check_evaluated(facts: RunFacts, recipe: Recipe) -> Check:
    """Check that every policy was measured on held-back candles, against the optimum there."""

    def made() -> Judgement:
        finished = [window["training_finished"][-1] for window in _windows(facts, finished=True)]
        reports = [report for event in finished for report in event.get("reports", ())]
        known = [report for report in reports if report.get("oracle") is not None]
        degenerate = sum(report.get("degenerate") is not None for report in reports)
        shares = [s for report in known if (s := report.get("oracle_share")) is not None]
        best = f", at best {max(shares):.1%} of the oracle" if shares else ""
        measured = f"{len(known)} of {len(finished)} policies{best}; {degenerate} degenerate"
        return measured, "" if len(known) >= len(finished) else "a policy was not measured"

    return make_check("policies measured", "each on held-back candles", made)


def check_busy(facts: RunFacts, recipe: Recipe) -> Check:
    """Check that trainings keep a core busy: nothing is waited for."""

    def made() -> Judgement:
        samples = cpu_samples_within(facts.samples, training_spans(facts.events))
        if not samples:
            raise CannotTellError("no sample lies inside a training")
        busy = statistics.median(sample.tree_cores for sample in samples)
        problem = "" if busy >= _LEAST_BUSY_CORES else "the median is too low"
        return f"{busy:.2f} cores ({busy / facts.cpus:.0%} of {facts.cpus})", problem

    return make_check("CPU use in trainings", f"{_LEAST_BUSY_CORES:.1f} cores or more", made)


def check_faster(facts: RunFacts, recipe: Recipe) -> Check:
    """Check that candles are learned on faster than by the settings before, from rollouts."""

    def made() -> Judgement:
        speed = facts.speed
        if speed is None:
            otherwise = "the two trainings were not made"
            raise CannotTellError(facts.missing.get("speed", otherwise))
        measured = f"{speed.after:,.0f} / {speed.before:,.0f} = {speed.ratio:.1f} times"
        return measured, "" if speed.ratio >= 1.0 else "exact advantages are slower"

    return make_check("steps/s, exact / before", "1.0 times or more", made)


EXACT_CHECKS: tuple[Callable[[RunFacts, Recipe], Check], ...] = (
    checks.check_program,
    checks.check_processes,
    checks.check_threads,
    checks.check_policy_layers,
    checks.check_prediction_batches,
    checks.check_configuration,
    check_passes,
    check_evaluated,
    check_busy,
    checks.check_left_processes,
    checks.check_prediction_values,
    check_faster,
)


def _windows(
    facts: RunFacts, *, finished: bool = False
) -> list[dict[str, list[Mapping[str, Any]]]]:
    """Return the events of each training window by name."""
    windows: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for event in facts.events:
        key = (str(event.get("pair")), str(event.get("window")))
        windows.setdefault(key, {}).setdefault(event["event"], []).append(event)
    needed = "training_finished" if finished else "training_started"
    found = [window for window in windows.values() if needed in window]
    if not found:
        raise CannotTellError(f"the run wrote no {needed} event")
    return found


def _passes(window: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    return len(window.get("update", ()))
