"""Whole trainings of all opponents: the same market, the same number of steps, in one run.

Run: ``python benchmarks/training.py``. The main table has the shipped entry mode, ``always``; the
second one has ``any``, in which every sample has a choice and FastPPO can leave nothing out.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import update
from opponents import OPPONENTS, Training
from report import (
    QUICK,
    Measured,
    Requirement,
    Workload,
    number,
    run,
    spread,
    table,
    with_spread,
)

from mtf_scalper.settings import EntryMode

OPPONENTS_IN = {EntryMode.ALWAYS: tuple("abcdef"), EntryMode.ANY: tuple("bdf")}
OURS = "f"
_Runs = dict[str, list[dict[str, float]]]


def measure(
    workload: Workload,
    repeats: int,
    opponents: dict[EntryMode, tuple[str, ...]] = OPPONENTS_IN,
) -> Measured:
    """Train every opponent in turn, several times."""
    market = workload.market()
    parity = {}
    for entry, keys in opponents.items():
        parity[str(entry)] = update.check_same_update(*update.pair_of_models(workload, entry))
        for key in _installed(keys):
            OPPONENTS[key].measure(QUICK.market(), QUICK, entry)
    runs: dict[EntryMode, _Runs] = {
        entry: {key: [] for key in _installed(keys)} for entry, keys in opponents.items()
    }
    for repeat in range(repeats):
        for entry, entry_runs in runs.items():
            for key, opponent_runs in entry_runs.items():
                training = OPPONENTS[key].measure(market, workload, entry)
                opponent_runs.append(training.figures())
                _show(repeat, entry, key, training)
    return Measured(
        results={
            "steps": workload.steps,
            "parity": parity,
            "entry_modes": {str(entry): _summary(runs[entry], opponents[entry]) for entry in runs},
        },
        tables=[_table(entry, runs[entry], opponents[entry]) for entry in runs],
        requirements=[each for entry in runs for each in _requirements(entry, runs[entry])],
    )


def _installed(keys: tuple[str, ...]) -> list[str]:
    return [key for key in keys if OPPONENTS[key].is_installed]


def _show(repeat: int, entry: EntryMode, key: str, training: Training) -> None:
    speed = number(training.steps / training.seconds)
    print(f"{repeat + 1} {entry} ({key}) {OPPONENTS[key].name}: {speed} steps/s", flush=True)


def _ratios(runs: _Runs, key: str, figure: str) -> list[float]:
    """Return how many times as fast ours is as ``key``, repeat by repeat."""
    return [
        ours[figure] / theirs[figure] for ours, theirs in zip(runs[OURS], runs[key], strict=True)
    ]


def _summary(runs: _Runs, keys: tuple[str, ...]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for key in keys:
        summary[key] = {"name": OPPONENTS[key].name}
        if key not in runs:
            summary[key]["not_installed"] = OPPONENTS[key].needs
            continue
        for figure in runs[key][0]:
            summary[key][figure] = spread([one[figure] for one in runs[key]])
        summary[key]["ours_is_times_as_fast"] = spread(_ratios(runs, key, "steps_per_second"))
    return summary


def _table(entry: EntryMode, runs: _Runs, keys: tuple[str, ...]) -> str:
    header = [
        f"`{entry}`",
        "threads",
        "steps/s",
        "(f) is times as fast",
        "without start and end",
        "rollouts alone, steps/s",
        "ms per minibatch",
        "CPU in updates",
        "start and end, s",
    ]
    rows = []
    for key in keys:
        name = f"({key}) {OPPONENTS[key].name}"
        if key not in runs:
            rows.append([name, "not installed", *["-"] * (len(header) - 2)])
            continue
        column = {figure: [one[figure] for one in runs[key]] for figure in runs[key][0]}
        rows.append(
            [
                name,
                f"{statistics.median(column['threads']):.0f}",
                with_spread(column["steps_per_second"]),
                with_spread(_ratios(runs, key, "steps_per_second")),
                with_spread(_ratios(runs, key, "learning_steps_per_second")),
                with_spread(column["rollout_steps_per_second"]),
                with_spread(column["minibatch_ms"]),
                f"{statistics.median(column['update_cpu_share']):.0%}",
                number(statistics.median(column["start_and_end_seconds"])),
            ]
        )
    return table(header, rows)


def _requirements(entry: EntryMode, runs: _Runs) -> list[Requirement]:
    """Return the bounds whose two sides were both measured in this entry mode."""
    bounds = (
        ("whole training, (f) over (b)", "b", "steps_per_second", 3.5),
        ("whole training, (f) over (d)", "d", "steps_per_second", 1.5),
        ("rollouts alone, (f) over (b)", "b", "rollout_steps_per_second", 15.0),
    )
    requirements = [
        Requirement(
            f"{what}, `{entry}`", statistics.median(_ratios(runs, key, figure)), at_least=bound
        )
        for what, key, figure, bound in bounds
        if key in runs
    ]
    share = statistics.median([one["update_cpu_share"] for one in runs[OURS]])
    what = f"CPU busy during updates of (f), `{entry}`"
    return [*requirements, Requirement(what, 100.0 * share, at_least=90.0, unit="%")]


if __name__ == "__main__":
    sys.exit(run("training", __doc__, measure))
