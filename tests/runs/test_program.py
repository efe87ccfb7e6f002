"""A freqtrade program that fails, is interrupted or loses an environment."""

from __future__ import annotations

import sys
from collections.abc import Callable

import psutil
import pytest

from mtf_scalper.runs.program import (
    BacktestRequest,
    BacktestRun,
    RunError,
    run_backtest,
)

MakeRequest = Callable[..., BacktestRequest]

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
