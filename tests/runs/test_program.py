"""The unmodified freqtrade program with the project's own model and strategy, from end to end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from mtf_scalper.runs.program import BacktestRequest, BacktestRun, RunError, run_backtest
from mtf_scalper.runs.validation_plan import ValidationPlan

MakeRequest = Callable[..., BacktestRequest]


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


def test_events_arrive_while_the_program_works(finished: Any) -> None:
    outcome, seen = finished.outcome, finished.events_seen
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] == len(outcome.events)
    assert any(0 < number < seen[-1] for number in seen)


FAILS = """
print("2024-01-01 00:00:00,000 - freqtrade - ERROR - rl_config: n_enws is none of its options")
print("2024-01-01 00:00:00,000 - freqtrade - INFO - the end")
raise SystemExit(2)
"""


@pytest.mark.usefixtures("no_child_left")
def test_the_last_error_of_a_program_that_fails_is_that_of_the_run(
    make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What freqtrade says of a refused setting: tests/freqai/test_errors_in_program.py."""
    command = [sys.executable, "-S", "-c", FAILS]
    monkeypatch.setattr("mtf_scalper.runs.program.watched_command", lambda _: command)
    said = r"^freqtrade ended with exit code 2: rl_config: n_enws is none .*freqtrade\.log\)$"
    with pytest.raises(RunError, match=said):
        run_backtest(make_request("refused"))


def training(run: BacktestRun) -> bool:
    """Say whether environments are open right now."""
    names = [event["event"] for event in run.events()]
    return "progress" in names and "training_finished" not in names


@pytest.mark.usefixtures("no_child_left")
def test_an_interrupted_run_leaves_no_process(make_request: MakeRequest) -> None:
    tree: list[psutil.Process] = []

    def interrupt(run: BacktestRun) -> None:
        if training(run):
            root = psutil.Process(run.process.pid)
            tree.extend([root, *root.children(recursive=True)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_backtest(make_request("interrupted", train_cycles=1000), interrupt)
    assert len(tree) >= 3
    _, alive = psutil.wait_procs(tree, timeout=10.0)
    assert alive == []


@pytest.mark.usefixtures("no_child_left")
def test_a_killed_environment_ends_the_run_with_its_reason(make_request: MakeRequest) -> None:
    tree: list[psutil.Process] = []

    def kill_one(run: BacktestRun) -> None:
        if training(run) and not tree:
            root = psutil.Process(run.process.pid)
            children = root.children(recursive=True)
            tree.extend([root, *children])
            # Started last, and so an environment and no helper of Python's.
            max(children, key=lambda child: child.create_time()).kill()

    with pytest.raises(RunError, match=r"BTC/USDT:USDT: .*environment process"):
        run_backtest(make_request("killed", train_cycles=1000), kill_one)
    _, alive = psutil.wait_procs(tree, timeout=10.0)
    assert alive == []


def test_the_folder_of_a_run_holds_all_that_it_left(
    finished: Any, tiny_plan: ValidationPlan
) -> None:
    request = tiny_plan.request
    names = {path.name for path in request.folder.iterdir()}
    assert {"freqtrade.log", "overrides.json"} <= names
    assert any(Path(name).suffix == ".zip" for name in names)
