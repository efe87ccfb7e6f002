"""200 small trainings on a cluster of this machine, one worker killed in the middle; then the page.

Run: ``make demo-cluster``. The market is planted, so that nothing has to be downloaded.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
from rich.console import Console

from mtf_scalper.engines.cluster import TASK_PROCESS
from mtf_scalper.paths import user_data
from mtf_scalper.records.reader import Run, runs_in
from mtf_scalper.runs.evaluation import run_evaluation
from mtf_scalper.runs.evaluation_plan import EvaluationPlan
from mtf_scalper.runs.project import find_project
from mtf_scalper.walk_forward.sources import PlantedPairs, planted_recipe
from mtf_scalper.walk_forward.task_log import TASK

N_SEEDS, N_WINDOWS = 10, 20


def plan() -> EvaluationPlan:
    """Return 20 windows of two days and ten seeds, with small networks."""
    recipe = planted_recipe("linear")
    small = recipe.settings.changed(net_arch=(16,), train_cycles=4, window_size=5)
    return EvaluationPlan(
        recipe=replace(recipe, settings=small),
        source=PlantedPairs("linear", 1),
        timerange="20240201-20240312",
        seeds=tuple(range(1, 1 + N_SEEDS)),
        train_days=4,
        test_days=2,
        on_ray=True,
        jobs=2,
    )


def kill_one(root: Path, known: set[str], found: list[int], stop: threading.Event) -> None:
    """Kill a worker once half of the tasks have ended."""
    while not stop.wait(0.1):
        new = [run for run in runs_in(root) if run.run_id not in known]
        if not new or len(new[0].events(TASK)) < N_SEEDS * N_WINDOWS // 2:
            continue
        for process in psutil.Process().children(recursive=True):
            try:
                if process.cmdline()[:1] == [TASK_PROCESS]:
                    process.kill()
                    found.append(process.pid)
                    return
            except psutil.NoSuchProcess:
                continue


def main() -> int:
    """Run it; 1 where no worker was killed, or a training is missing."""
    project = find_project()
    root = user_data(project) / "runs"
    console, killed, stop = Console(), [], threading.Event()
    known = {run.run_id for run in runs_in(root)}
    killer = threading.Thread(target=kill_one, args=(root, known, killed, stop))
    killer.start()
    try:
        run_evaluation(plan(), project, console)
    finally:
        stop.set()
        killer.join()
    (run,) = (each for each in runs_in(root) if each.run_id not in known)
    return told(run, killed, console)


def told(run: Run, killed: list[int], console: Console) -> int:
    """Say how many trainings there were, and what became of the killed one."""
    states = [event["state"] for event in run.events(TASK)]
    n_done, n_lost = states.count("finished"), states.count("retried")
    console.print(f"{n_done} of {N_SEEDS * N_WINDOWS} trainings finished, {n_lost} made again")
    console.print(f"killed in the middle: process {', '.join(map(str, killed)) or 'none'}")
    return int(n_done != N_SEEDS * N_WINDOWS or not killed or not n_lost)


if __name__ == "__main__":
    sys.exit(main())
