"""Every check of an exact run passes on a good one, and fails when its one fact is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mtf_scalper.checks.exact_checks import (
    check_busy,
    check_evaluated,
    check_faster,
    check_passes,
    judge_exact,
)
from mtf_scalper.checks.facts import RunFacts
from mtf_scalper.checks.speed import SpeedComparison
from mtf_scalper.records.check import Check, Recipe
from mtf_scalper.records.sampler import Sample

RECIPE = Recipe(advantage="exact", vec_env="batched", train_cycles=4)
REPORT = {"oracle": 2.0, "oracle_share": 0.25, "log_return": 0.5, "degenerate": None}
CheckOne = Callable[[RunFacts, Recipe], Check]


def window(name: str, begin: float, passes: int = 4, **finished: Any) -> list[dict[str, Any]]:
    common = {"pair": name, "window": name}
    made = [{"event": "training_started", "time": begin}]
    for number in range(passes):
        made.append({"event": "progress", "phase": "update", "time": begin + number})
        made.append({"event": "update", "time": begin + number + 0.9})
    made.append({"event": "progress", "phase": "evaluation", "time": begin + passes})
    made.append({"event": "training_finished", "time": begin + passes, "reports": [REPORT]})
    made[-1].update(finished)
    return [{**event, **common} for event in made]


def sample_at(time: float, percent: float = 100.0) -> Sample:
    return Sample(
        time=time,
        seconds=0.01,
        core_percent=(percent, 0.0),
        tree_percent=percent,
        processes=1,
        workers=0,
        resident_bytes=1,
        unique_bytes=1,
        worker_unique_bytes=0,
        is_unique_measured=True,
    )


def facts(passes: int = 4, percent: float = 100.0, **finished: Any) -> RunFacts:
    return RunFacts(
        events=[*window("BTC", 0.0), *window("ETH", 10.0, passes, **finished)],
        samples=[sample_at(0.25 * number, percent) for number in range(80)],
        speed=SpeedComparison(2048, 30_000, before=500.0, after=9_000.0),
        cpus=2,
    )


@pytest.mark.parametrize("check", [check_passes, check_evaluated, check_busy, check_faster])
def test_a_good_run_passes(check: CheckOne) -> None:
    made = check(facts(), RECIPE)
    assert made.has_passed, made.reason
    assert made.measured not in ("", "-")


@pytest.mark.parametrize(
    ("check", "broken", "reason"),
    [
        (check_passes, facts(passes=3), "1 trainings made other numbers"),
        (check_passes, facts(passes=5), "1 trainings made other numbers"),
        (check_passes, replace(facts(), events=[]), "wrote no training_started"),
        (check_evaluated, facts(reports=[]), "not measured"),
        (check_evaluated, facts(reports=[{**REPORT, "oracle": None}]), "not measured"),
        (check_evaluated, replace(facts(), events=[]), "wrote no training_finished"),
        (check_busy, facts(percent=50.0), "too low"),
        (check_busy, replace(facts(), samples=()), "no sample"),
        (check_faster, replace(facts(), speed=None), "not made"),
        (check_faster, replace(facts(), speed=SpeedComparison(1, 1, 2.0, 1.0)), "slower"),
    ],
)
def test_a_broken_fact_fails_its_check(check: CheckOne, broken: RunFacts, reason: str) -> None:
    made = check(broken, RECIPE)
    assert not made.has_passed
    assert reason in made.reason


def test_a_training_may_end_early_once_nothing_better_came() -> None:
    recipe = replace(RECIPE, train_cycles=30)
    both = [*window("BTC", 0.0, 30), *window("ETH", 40.0, 5)]
    assert check_passes(replace(facts(), events=both), recipe).has_passed
    too_early = [*window("BTC", 0.0, 30), *window("ETH", 40.0, 4)]
    assert not check_passes(replace(facts(), events=too_early), recipe).has_passed


@pytest.mark.parametrize(
    ("foretold", "passes", "is_right"), [(1.9, 0, True), (2.1, 0, False), (1.9, 1, False)]
)
def test_no_pass_is_right_where_no_forecast_is_evident(
    foretold: float, passes: int, is_right: bool
) -> None:
    first, *others = window("BTC", 0.0, passes)
    told = {**first, "event": "foretold", "standard_errors": foretold, "asked": 2.0}
    made = check_passes(replace(facts(), events=[first, told, *others]), RECIPE)
    assert made.has_passed is is_right


def test_degenerate_policies_are_counted_and_not_hidden() -> None:
    made = check_evaluated(facts(reports=[{**REPORT, "degenerate": "never trades"}]), RECIPE)
    assert made.has_passed
    assert made.measured == "2 of 2 policies, at best 25.0% of the oracle; 1 degenerate"


def test_without_any_facts_every_check_fails() -> None:
    checks = judge_exact(RunFacts(), RECIPE)
    assert len({check.name for check in checks}) == len(checks)
    assert all(check.name.startswith("exact: ") for check in checks)
    assert not any(check.has_passed for check in checks)
