"""Another build beside this one: a training, an evaluation and the demo, in turn.

Run: ``python benchmarks/builds.py --against CHECKOUT``, an hour on two quiet cores. Trainings are
on candles with a signal and classic entries, with every default but ``patience``: all passes, and
one that ends by itself. Each
build has a process of its own, warm, and the two train in turn. An evaluation, of two pairs and 92
days, and the demo are whole commands, imports included, in projects with each build's own files;
with ``--datadir`` the evaluation has real candles. CPU seconds are of all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from report import (
    DOCUMENT,
    HERE,
    QUICK,
    Measured,
    Requirement,
    Workload,
    finish,
    git,
    number,
    quick_project,
    recorded,
    show,
    spread,
    table,
    with_spread,
    write,
)

TRAININGS = {"training, all passes": 1_000_000, "training that ends by itself": None}
"""Their ``patience``; None for the default."""
LEAST = {
    "training, all passes": 2.5,
    "training that ends by itself": 2.5,
    "evaluation": 3.0,
    "demo": 1.7,
}
"""How many times as fast this build has to be."""
_CALL = "import sys; from mtf_scalper.cli import main; sys.argv[0] = 'mtf-scalper'; main()"
_LAID_OUT = ("configs", "user_data/strategies", "user_data/freqaimodels")
_PAIRS = ("BTC/USDT:USDT", "SOL/USDT:USDT")


@dataclass(frozen=True)
class Plan:
    """What is timed.

    Attributes
    ----------
    against : str
        Checkout of the other build.
    repeats : int
    n_candles, n_features : int
        Of the training.
    commands : sequence of str
        Which of "evaluation" and "demo" are timed as well.
    timerange : str
        Days that the evaluation trades.
    datadir : str, optional
        freqtrade data directory with real candles for the evaluation.
    """

    against: str
    repeats: int
    n_candles: int
    n_features: int
    commands: Sequence[str]
    timerange: str = "20241001-20250101"
    datadir: str | None = None


@dataclass(frozen=True)
class Taken:
    """Seconds of the clock and of all processors."""

    seconds: float
    cpu_seconds: float


def measure(plan: Plan) -> Measured:
    """Time both builds in turn."""
    builds = {"other": Path(plan.against).resolve(), "this": HERE.parent}
    names = [*TRAININGS, *plan.commands]
    found: dict[str, dict[str, list[Taken]]] = {
        name: {build: [] for build in builds} for name in names
    }
    with ExitStack() as stack:
        workers = {
            build: stack.enter_context(_trainer(folder, plan)) for build, folder in builds.items()
        }
        for name, patience in TRAININGS.items():
            for number_of in range(plan.repeats + 1):
                for build, worker in workers.items():
                    taken = _train(worker, patience)
                    if number_of:  # the first one loads and compiles
                        found[name][build].append(taken)
                        print(f"{name}, {build}: {number(taken.seconds)} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        projects = {build: Path(folder) / build for build in builds}
        for build, project in projects.items():
            for part in _LAID_OUT:
                shutil.copytree(builds[build] / part, project / part)
        for name in plan.commands:
            for _ in range(plan.repeats):
                for build, project in projects.items():
                    taken = _command(builds[build], project, _arguments(name, plan))
                    found[name][build].append(taken)
                    print(f"{name}, {build}: {number(taken.seconds)} s", flush=True)
    return measured(found, git("rev-parse", "--short", "HEAD", folder=builds["other"]))


def measured(found: dict[str, dict[str, list[Taken]]], other: str) -> Measured:
    """Return results and verdicts of what was taken, by what was done and by build."""
    rows, requirements, results = [], [], {}
    for name, sides in found.items():
        seconds = {build: [each.seconds for each in taken] for build, taken in sides.items()}
        cpu = {build: [each.cpu_seconds for each in taken] for build, taken in sides.items()}
        ratios = _ratios(seconds)
        columns = (seconds["other"], seconds["this"], cpu["other"], cpu["this"])
        rows.append([name, *map(with_spread, (*columns, ratios, _ratios(cpu)))])
        requirements.append(
            Requirement(f"{name}, times as fast", statistics.median(ratios), at_least=LEAST[name])
        )
        results[name] = {
            "seconds": {build: spread(each) for build, each in seconds.items()},
            "cpu_seconds": {build: spread(each) for build, each in cpu.items()},
        }
    header = [
        "what",
        f"build {other}, s",
        "this build, s",
        f"build {other}, CPU s",
        "this build, CPU s",
        "times as fast",
        "CPU, times less",
    ]
    return Measured(
        results={"against": other, **results},
        tables=[table(header, rows)],
        requirements=requirements,
    )


def _ratios(values: dict[str, list[float]]) -> list[float]:
    return [theirs / ours for theirs, ours in zip(values["other"], values["this"], strict=True)]


@contextmanager
def _trainer(folder: Path, plan: Plan) -> Iterator[subprocess.Popen[str]]:
    """Yield a process of a build that trains as often as it is told to."""
    sizes = (str(plan.n_candles), str(plan.n_features))
    # At its end the pipes are closed, which ends the process, and it is waited for.
    with subprocess.Popen(
        [sys.executable, str(HERE / "build_worker.py"), *sizes],
        env=_environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process


def _train(worker: subprocess.Popen[str], patience: int | None) -> Taken:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(patience) + "\n")
    worker.stdin.flush()
    return Taken(**json.loads(worker.stdout.readline()))


def _command(folder: Path, project: Path, arguments: Sequence[str]) -> Taken:
    """Run a build's ``mtf-scalper`` in a project."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", _CALL, *arguments],
        cwd=project,
        env=_environment(folder),
        check=True,
        capture_output=True,
    )
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(seconds, cpu)


def _arguments(name: str, plan: Plan) -> list[str]:
    if name == "demo":
        return ["demo"]
    arguments = ["evaluate", "--timerange", plan.timerange]
    if plan.datadir is None:
        return arguments
    pairs = [part for pair in _PAIRS for part in ("--pairs", pair)]
    return [*arguments, *pairs, "--datadir", plan.datadir]


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder / "src")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, required=True, help="checkout of another build")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--datadir", type=Path, help="real candles for the evaluation")
    parser.add_argument("--trainings-only", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny sizes in a temporary folder")
    given = parser.parse_args(arguments)
    workload = QUICK if given.quick else Workload()
    plan = Plan(
        against=str(given.against),
        repeats=given.repeats,
        n_candles=workload.n_candles,
        n_features=workload.n_features,
        commands=() if given.quick or given.trainings_only else ("evaluation", "demo"),
        datadir=None if given.datadir is None else str(given.datadir.resolve()),
    )
    project = quick_project(DOCUMENT) if given.quick else HERE.parent
    # The record is kept for others to read: it has no paths of this machine.
    told = {**asdict(plan), "against": given.against.name, "datadir": plan.datadir is not None}
    with recorded("builds", project, told) as record:
        found = measure(plan)
        path = write("builds", found, plan.repeats, project, DOCUMENT)
        finish(record, found, path)
    show("builds", found, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
