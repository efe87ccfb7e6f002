"""One whole run of the unmodified freqtrade program, watched by the validation, from end to end."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mtf_scalper.checks.checks import judge
from mtf_scalper.records.check import Recipe
from mtf_scalper.records.reader import runs_in
from mtf_scalper.runs.validation import write_verdicts
from mtf_scalper.runs.validation_plan import ValidationPlan

# What a run this small cannot show: its updates are shorter than the time between two samples,
# and the speed of a rollout of 128 steps says nothing.
NOT_OF_A_TINY_RUN = {"CPU use in updates", "steps/s after / before", "predictions vary"}


def test_backtesting_trains_predicts_and_trades_in_every_window(
    finished: Any, tiny_plan: ValidationPlan
) -> None:
    outcome, request = finished.outcome, tiny_plan.request
    assert outcome.strategy["strategy_name"] == "MtfScalper_RL_Hybrid"
    assert outcome.strategy["total_trades"] == len(outcome.strategy["trades"]) > 0
    assert outcome.strategy["freqai_identifier"] == request.identifier
    assert outcome.results.is_file()
    assert outcome.seconds > 0.0
    in_turn = ["training_started", "training_finished", "prediction"]
    names = [event["event"] for event in outcome.events]
    assert [name for name in names if name in in_turn] == 2 * in_turn
    windows = {event["window"] for event in outcome.events}
    assert windows == {path.name for path in request.models.glob("sub-train-*")}
    assert len(windows) == 2


def test_the_settings_of_the_request_are_used(finished: Any, tiny_plan: ValidationPlan) -> None:
    outcome, request = finished.outcome, tiny_plan.request
    started = [event for event in outcome.events if event["event"] == "training_started"]
    for event in started:
        assert (event["n_envs"], event["n_steps"], event["batch_size"]) == (2, 64, 32)
        assert event["layer_sizes"] == [16]
        assert event["vec_env"] == "subproc"
        assert event["torch_threads"] == 1
    written = json.loads((request.models / "run_params.json").read_text(encoding="utf-8"))
    assert written["freqai"]["identifier"] == request.identifier
    # What the request does not set is that of the project's configuration.
    assert written["freqai"]["conv_width"] == 10


def test_predictions_are_the_policys_own_probabilities(
    finished: Any, tiny_plan: ValidationPlan
) -> None:
    request = tiny_plan.request
    files = sorted((request.models / "backtesting_predictions").glob("*.feather"))
    assert len(files) == 2
    for path in files:
        frame = pd.read_feather(path)
        assert len(frame) == 288
        predicted = frame.iloc[9:]
        names = ["neutral", "long_enter", "long_exit", "short_enter", "short_exit"]
        shares = predicted[[f"&-prob_{name}" for name in names]].to_numpy()
        chosen = shares[range(len(shares)), predicted["&-action"].astype(int)]
        assert predicted["&-action_confidence"].to_numpy() == pytest.approx(chosen, abs=1e-6)
        assert predicted["&-action_confidence"].std() > 0.0


@pytest.mark.usefixtures("finished")
def test_a_program_that_is_told_of_no_record_leaves_none(tiny_plan: ValidationPlan) -> None:
    runs = runs_in(tiny_plan.request.folder.parent)
    assert "backtest" not in {run.kind for run in runs}


def test_events_arrive_while_the_program_works(finished: Any) -> None:
    outcome, seen = finished.outcome, finished.events_seen
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] == len(outcome.events)
    assert any(0 < number < seen[-1] for number in seen)


def test_the_folder_of_a_run_holds_all_that_it_left(
    finished: Any, tiny_plan: ValidationPlan
) -> None:
    request = tiny_plan.request
    names = {path.name for path in request.folder.iterdir()}
    assert {"freqtrade.log", "overrides.json"} <= names
    assert any(Path(name).suffix == ".zip" for name in names)


def test_the_checks_hold_for_a_tiny_run(finished: Any, tiny_plan: ValidationPlan) -> None:
    failed = [c for c in judge(finished.facts, tiny_plan.recipe) if not c.has_passed]
    assert [check for check in failed if check.name not in NOT_OF_A_TINY_RUN] == []
    assert finished.facts.missing == {}
    assert finished.facts.speed is not None
    assert finished.facts.speed.steps_before == finished.facts.speed.steps_after == 128


def test_the_same_run_fails_the_checks_of_another_recipe(finished: Any) -> None:
    failed = {check.name for check in judge(finished.facts, Recipe()) if not check.has_passed}
    assert {
        "environment processes",
        "batch size, rollout",
        "layer sizes",
        "rl_config",
        "steps per training",
    } <= failed


def test_observing_leaves_no_thread_and_no_process(finished: Any) -> None:
    assert finished.left == []


def test_samples_and_verdicts_are_files_of_the_run(
    finished: Any, tiny_plan: ValidationPlan
) -> None:
    folder = tiny_plan.request.folder
    with (folder / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(finished.facts.samples)
    assert max(int(row["workers"]) for row in rows) == 2
    checks = judge(finished.facts, tiny_plan.recipe)
    path = write_verdicts(tiny_plan, checks, 12.34, folder)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert path == folder / "verdicts.json"
    assert content["passed"] is all(check.has_passed for check in checks)
    assert content["checks"] == [check.as_dict() for check in checks]
    assert content["seconds"] == 12.3
    assert not list(folder.glob("*.part"))
