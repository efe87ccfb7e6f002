"""A small project of its own with a small market, so that runs leave nothing in this one."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from ready_python import ReadyPython
from rich.console import Console

from mtf_scalper.checks.facts import RunFacts
from mtf_scalper.records.check import Recipe
from mtf_scalper.runs import validation
from mtf_scalper.runs.program import (
    BacktestOutcome,
    BacktestRequest,
    BacktestRun,
    run_backtest,
)
from mtf_scalper.runs.validation_plan import ValidationPlan
from mtf_scalper.runs.watched import watched_command
from mtf_scalper.worlds.synthetic import utc_timestamp
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

PAIR = "BTC/USDT:USDT"
TIMERANGE = "20240111-20240113"
# From rollouts, so that there are processes to watch.
RL_CONFIG = {
    "advantage": "gae",
    "train_cycles": 1,
    "cpu_count": 1,
    "n_envs": 2,
    "vec_env": "subproc",
    "n_steps": 64,
    "batch_size": 32,
    "net_arch": [16],
    "device": "cpu",
    "progress_bar": False,
}

MakeRequest = Callable[..., BacktestRequest]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with this project's configuration and faces."""
    root = Path(__file__).resolve().parents[2]
    copy = tmp_path_factory.mktemp("project")
    shutil.copytree(root / "configs", copy / "configs")
    for name in ("strategies", "freqaimodels"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / "user_data" / name, copy / "user_data" / name, ignore=ignored)
    return copy


@pytest.fixture(scope="session")
def tiny_datadir(
    tmp_path_factory: pytest.TempPathFactory, warm_datadir: Callable[..., None]
) -> Path:
    """Return seventeen days of one pair: warm-up, three days of training and two of backtest."""
    datadir = tmp_path_factory.mktemp("datadir")
    # In this market the classic rule fires on both days of the backtest, long and short.
    spec = SyntheticSpec(seed=5, pairs=(pair_spec(PAIR),))
    warm_datadir(spec, datadir, "2024-01-01", "2024-01-13", days=5)
    return datadir


@pytest.fixture(scope="session")
def make_request(project: Path, tiny_datadir: Path) -> MakeRequest:
    """Return a maker of requests for a backtest of two windows that takes seconds."""

    def make(name: str, **rl_config: Any) -> BacktestRequest:
        return BacktestRequest(
            project=project,
            folder=project / "user_data" / "runs" / name,
            datadir=tiny_datadir,
            timerange=TIMERANGE,
            overrides={
                "exchange": {"pair_whitelist": [PAIR]},
                "freqai": {
                    "train_period_days": 3,
                    "backtest_period_days": 1,
                    "rl_config": {**RL_CONFIG, **rl_config},
                },
            },
        )

    return make


@pytest.fixture(scope="session")
def run_ready_backtest(ready_python: ReadyPython) -> Callable[[BacktestRequest], BacktestOutcome]:
    """Return ``run_backtest`` whose program finds its libraries imported."""

    def run(request: BacktestRequest) -> BacktestOutcome:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "mtf_scalper.runs.program.watched_command",
                lambda command: ready_python(watched_command(command)),
            )
            return run_backtest(request)

    return run


@pytest.fixture(scope="session")
def tiny_plan(make_request: MakeRequest) -> ValidationPlan:
    """Return a validation of a run that takes seconds, and what to expect of it."""
    return ValidationPlan(
        request=make_request("validation"),
        recipe=Recipe(
            train_cycles=1,
            cpu_count=1,
            n_envs=2,
            vec_env="subproc",
            n_steps=64,
            batch_size=32,
            net_arch=(16,),
            device="cpu",
        ),
        pair=PAIR,
        until=utc_timestamp("2024-01-11"),
        before={"n_envs": 1, "vec_env": "dummy", "batch_size": 16, "net_arch": (8,)},
    )


@dataclass(frozen=True)
class Finished:
    """One run of the real program, watched by the validation.

    Attributes
    ----------
    outcome : BacktestOutcome
    facts : RunFacts
    events_seen : list of int
        Events that there were at each poll.
    left : list of str
        Threads and processes of this process that were not there before.
    """

    outcome: BacktestOutcome
    facts: RunFacts
    events_seen: list[int]
    left: list[str]


@pytest.fixture(scope="session")
def finished(tiny_plan: ValidationPlan) -> Finished:
    """Return the one successful run that several tests look at."""
    outcomes: list[BacktestOutcome] = []
    seen: list[int] = []

    def recorded(
        request: BacktestRequest, on_poll: Callable[[BacktestRun], None], record: object
    ) -> BacktestOutcome:
        def both(run: BacktestRun) -> None:
            seen.append(len(run.events()))
            on_poll(run)

        assert record is None
        outcomes.append(run_backtest(request, both))
        return outcomes[-1]

    threads = set(threading.enumerate())
    children = set(psutil.Process().children(recursive=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "run_backtest", recorded)
        facts, _ = validation.observe(tiny_plan, Console(file=io.StringIO()))
    left = [str(thread) for thread in threading.enumerate() if thread not in threads]
    left += [str(c) for c in psutil.Process().children(recursive=True) if c not in children]
    return Finished(outcomes[0], facts, seen, left)
