"""Checks of a run that learns from exact advantages, which has no environments and no rollouts.

What holds for every run is checked as for one that learns from rollouts (``checks``).
"""

from __future__ import annotations

import math
from dataclasses import replace

from mtf_scalper.checks import checks
from mtf_scalper.checks.checks import Judgement, check, unless
from mtf_scalper.checks.facts import RunFacts
from mtf_scalper.records.check import CannotTellError, Check, Recipe
from mtf_scalper.records.trainings import FINISHED, STARTED, trainings
from mtf_scalper.settings import Settings

_LEAST_BUSY_CORES = 0.8
"""Of one thread; evaluations in between have no more."""


def judge_exact(facts: RunFacts, recipe: Recipe) -> tuple[Check, ...]:
    """Return every check of an exact run, named as such."""
    made = (each(facts, recipe) for each in EXACT_CHECKS)
    return tuple(replace(each, name=f"exact: {each.name}") for each in made)


def _least_passes(recipe: Recipe) -> int:
    """Return after how many passes a training may end for want of anything better."""
    settings = Settings()
    return math.ceil(settings.used_fee_warmup * recipe.train_cycles) + settings.patience


def _expected_passes(facts: RunFacts, recipe: Recipe) -> str:
    early = _least_passes(recipe)
    more = f", or {early} and more where nothing better came" if early < recipe.train_cycles else ""
    return f"{recipe.train_cycles}{more}; 0 where no forecast is evident"


@check("passes over the candles", _expected_passes)
def check_passes(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check that every training made its passes, or ended early for want of anything better."""
    made = [(len(training.updates), training.is_hopeless) for training in trainings(facts.events)]
    if not made:
        raise CannotTellError(f"the run wrote no {STARTED} event")
    measured = ", ".join(str(each) for each in sorted({passes for passes, _ in made}))
    least = min(_least_passes(recipe), recipe.train_cycles)
    wrong = [
        passes
        for passes, is_hopeless in made
        if not (least <= passes <= recipe.train_cycles or (is_hopeless and passes == 0))
    ]
    return measured, unless(not wrong, f"{len(wrong)} trainings made other numbers")


@check("policies measured", "each on held-back candles")
def check_evaluated(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check that every policy was measured on held-back candles, against the optimum there."""
    finished = [each.ended for each in trainings(facts.events) if each.has_finished]
    if not finished:
        raise CannotTellError(f"the run wrote no {FINISHED} event")
    reports = [report for event in finished if event for report in event.get("reports", ())]
    known = [report for report in reports if report.get("oracle") is not None]
    degenerate = sum(report.get("degenerate") is not None for report in reports)
    shares = [s for report in known if (s := report.get("oracle_share")) is not None]
    best = f", at best {max(shares):.1%} of the oracle" if shares else ""
    measured = f"{len(known)} of {len(finished)} policies{best}; {degenerate} degenerate"
    return measured, unless(len(known) >= len(finished), "a policy was not measured")


@check("CPU use in trainings", f"{_LEAST_BUSY_CORES:.1f} cores or more")
def check_busy(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check that trainings keep a core busy: nothing is waited for."""
    samples = checks.cpu_samples(facts, checks.training_spans(facts))
    if not samples:
        raise CannotTellError("no sample lies inside a training")
    busy, measured = checks.busy_cores(facts, samples)
    return measured, unless(busy >= _LEAST_BUSY_CORES, "the median is too low")


@check("steps/s, exact / before", "1.0 times or more")
def check_faster(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check that candles are learned on faster than by the settings before, from rollouts."""
    speed = checks.fact_of(facts, "speed")
    measured = f"{speed.after:,.0f} / {speed.before:,.0f} = {speed.ratio:.1f} times"
    return measured, unless(speed.ratio >= 1.0, "exact advantages are slower")


EXACT_CHECKS = (
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
