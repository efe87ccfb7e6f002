"""Whatever kills a program of ours, nothing that it started lives on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mtf_scalper.lifetimes import interrupted_later, process_facts
from mtf_scalper.records.sampler import count_workers
from mtf_scalper.runs.program import BacktestRequest
from mtf_scalper.runs.watched import watched_command

KILL = "SIGTERM" if os.name == "nt" else "SIGKILL"
PYTHON = [sys.executable, "-W", "ignore"]
KillWhen = Callable[..., tuple[list[psutil.Process], list[psutil.Process]]]


def workers_among(tree: list[psutil.Process]) -> list[psutil.Process]:
    """Return the workers of multiprocessing, neither fork server nor resource tracker."""
    try:
        cmdlines = {process.pid: process.cmdline() for process in tree}
        parents = {process.pid: process.ppid() for process in tree}
    except psutil.Error:  # one has just ended
        return []
    pids = count_workers(cmdlines, parents, 0)
    return [process for process in tree if process.pid in pids]


EVALUATION = """
import io, sys
from dataclasses import replace
from pathlib import Path
from rich.console import Console
from mtf_scalper.walk_forward.sources import PlantedPairs, planted_recipe
from mtf_scalper.runs.evaluation import run_evaluation
from mtf_scalper.runs.evaluation_plan import EvaluationPlan

if __name__ == "__main__":
    recipe = planted_recipe("linear")
    small = recipe.settings.changed(net_arch=(8,), train_cycles=int(sys.argv[2]), device="cpu")
    plan = EvaluationPlan(recipe=replace(recipe, settings=small), jobs=2, seeds=(1, 2),
        source=PlantedPairs("linear", 1), timerange="20240201-20240203", train_days=2, test_days=1,
        embargo_candles=50, n_draws=5)
    run_evaluation(plan, Path(sys.argv[1]), Console(file=io.StringIO()))
"""


def has_learned(folder: Path, n_updates: int) -> bool:
    files = list(folder.glob("user_data/runs/*/events.jsonl"))
    return bool(files) and files[0].read_text(encoding="utf-8").count('"update"') >= n_updates


@pytest.mark.parametrize(("moment", "how"), [("loading", KILL), ("learning", "SIGTERM")])
def test_workers_of_an_evaluation_end_with_it(
    moment: str, how: str, tmp_path: Path, kill_when: KillWhen
) -> None:
    def is_ready(tree: list[psutil.Process]) -> bool:
        return len(workers_among(tree)) == 2 and (moment == "loading" or has_learned(tmp_path, 3))

    script = tmp_path / "evaluate.py"
    script.write_text(EVALUATION, encoding="utf-8")
    command = [*PYTHON, str(script), str(tmp_path), "100000"]
    seen, left = kill_when(command, is_ready, getattr(signal, how))
    assert len(seen) >= 2
    assert left == []


WAITING = """
import sys, time
from mtf_scalper.engines.processes import LocalProcesses
from mtf_scalper.walk_forward.learned_window import learn_window

if __name__ == "__main__":
    def tasks():
        for _ in range(2):
            yield (time.sleep,)  # cannot be learned: the workers fail, and wait for more
        time.sleep(1000)

    with LocalProcesses(2) as processes:
        next(processes.run(learn_window, tasks()), None)
"""


def test_workers_that_wait_for_a_task_end_too(tmp_path: Path, kill_when: KillWhen) -> None:
    """They wait for a pipe that they hold open for each other."""
    script = tmp_path / "waiting.py"
    script.write_text(WAITING, encoding="utf-8")
    idle: dict[int, int] = {}

    def is_ready(tree: list[psutil.Process]) -> bool:
        workers = workers_among(tree)
        for worker in workers:
            still = worker.cpu_times().user + worker.cpu_times().system
            idle[worker.pid] = idle.get(worker.pid, 0) + 1 if still > 0.5 else 0
        return len(workers) == 2 and all(idle[worker.pid] > 50 for worker in workers)

    seen, left = kill_when([*PYTHON, str(script)], is_ready)
    assert len(seen) >= 2
    assert left == []


BACKTEST = """
import json, sys
from pathlib import Path
from mtf_scalper.runs.program import BacktestRequest, run_backtest

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    paths = {name: Path(given.pop(name)) for name in ("project", "folder", "datadir")}
    run_backtest(BacktestRequest(**paths, **given))
"""


def test_the_freqtrade_program_ends_with_whoever_started_it(
    make_request: Callable[..., BacktestRequest],
    tmp_path: Path,
    kill_when: KillWhen,
) -> None:
    """Without a record, as in `evaluate --freqtrade`: nothing in it would watch by itself."""
    request = make_request("killed-learning", train_cycles=100000)
    given: dict[str, Any] = {
        **{name: str(getattr(request, name)) for name in ("project", "folder", "datadir")},
        "timerange": request.timerange,
        "overrides": request.overrides,
    }

    def is_ready(tree: list[psutil.Process]) -> bool:
        return len(workers_among(tree)) == 2

    script = tmp_path / "backtest.py"
    script.write_text(BACKTEST, encoding="utf-8")
    seen, left = kill_when([*PYTHON, str(script), json.dumps(given)], is_ready)
    assert seen
    assert left == []


def test_a_watched_program_is_run_as_python_runs_it(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(
        "import sys\nprint(__name__, sys.argv, sys.path[0])\nsys.exit(3)\n", encoding="utf-8"
    )
    plain = [sys.executable, "-m", "shown", "--one", "two"]
    watched = watched_command(plain)
    assert watched[3] == str(process_facts()["pid"])
    found = [
        subprocess.run(each, cwd=tmp_path, capture_output=True, text=True, check=False)
        for each in (plain, watched)
    ]
    assert found[0].stdout == found[1].stdout != ""
    assert [each.returncode for each in found] == [3, 3]


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to be heard")
@pytest.mark.parametrize("fails", [False, True])
def test_what_interrupts_a_start_is_heard_after_it(fails):
    """Also where the start itself fails: nobody else would tell of the interrupt."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    done = []

    def start():
        with interrupted_later():
            signal.raise_signal(signal.SIGTERM)
            done.append("all of it")
            if fails:
                raise OSError("no process")

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert done == ["all of it"]
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
