"""How the cost of training grows with candles and with features, on one thread and on two.

Run: ``python benchmarks/scaling.py``. Every point is a training through ``train``: one pass over
the candles, one epoch per rollout, entries everywhere, so that every sample costs the same. Needs
matplotlib for the picture only.
"""

from __future__ import annotations

import importlib.util
import io
import statistics
import sys
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from opponents import PhaseClock
from report import QUICK, Measured, Requirement, Workload, run, spread, table, with_spread

from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.settings import EntryMode
from mtf_scalper.training import train

FACTORS = (1, 2, 4, 8, 16)
"""Markets of so many times the workload's candles."""
FEATURES = (10, 20, 40, 80, 160)
ROLLOUT_STEPS = 8192
MOST_PER_STEP = 1.2
"""Largest cost per step on the most candles, as a multiple of that on the fewest."""
MOST_OFF_LINE = 0.15
"""Largest distance of a point from the straight line over the features, as a share of it."""

Points = dict[int, list[dict[str, float]]]


def measure(
    workload: Workload,
    repeats: int,
    factors: tuple[int, ...] = FACTORS,
    features: tuple[int, ...] = FEATURES,
    rollout_steps: int = ROLLOUT_STEPS,
) -> Measured:
    """Time rollout and update per step over candles and over features, for each thread count."""
    rollout_steps = min(rollout_steps, workload.steps)
    base = replace(workload, n_steps=rollout_steps // workload.n_envs, n_epochs=1)
    sweeps = {
        "candles": [replace(base, n_candles=factor * base.n_candles) for factor in factors],
        "features": [replace(base, n_features=n_features) for n_features in features],
    }
    threads = sorted({1, min(2, available_cpus())})
    _microseconds_per_step(replace(QUICK, n_epochs=1))
    points: dict[str, dict[int, Points]] = {
        name: {count: {_size(name, one): [] for one in sweep} for count in threads}
        for name, sweep in sweeps.items()
    }
    for _ in range(repeats):
        for name, sweep in sweeps.items():
            for count in threads:
                for one in sweep:
                    cost = _microseconds_per_step(replace(one, threads=count))
                    points[name][count][_size(name, one)].append(cost)
    figures = {"scaling.svg": picture(points)} if importlib.util.find_spec("matplotlib") else {}
    return Measured(
        results={"workload": asdict(base), "microseconds_per_step": _summary(points)},
        tables=[_table(name, by_threads) for name, by_threads in points.items()],
        requirements=_requirements(points),
        figures=figures,
    )


def _size(name: str, workload: Workload) -> int:
    return workload.n_candles if name == "candles" else workload.n_features


def _microseconds_per_step(workload: Workload) -> dict[str, float]:
    """Train one pass; return the cost of a step in rollouts and in updates."""
    settings = workload.settings(EntryMode.ANY, train_cycles=1)
    clock = PhaseClock()
    result = train(workload.market(), settings, on_progress=clock.on_progress)
    return {phase: 1e6 * clock.wall[phase] / result.steps for phase in ("rollout", "update")}


def _whole(points: Points) -> tuple[list[int], list[float]]:
    """Return sizes and the median cost of rollout and update together."""
    costs = [statistics.median([sum(one.values()) for one in runs]) for runs in points.values()]
    return list(points), costs


def off_line(sizes: list[int], costs: list[float]) -> float:
    """Return the largest distance from the least-squares line, as a share of the line."""
    line = np.polyval(np.polyfit(sizes, costs, 1), sizes)
    return float(np.abs(costs / line - 1.0).max())


def _requirements(points: dict[str, dict[int, Points]]) -> list[Requirement]:
    requirements = []
    for count, by_size in points["candles"].items():
        sizes, costs = _whole(by_size)
        what = f"cost per step, {sizes[-1]:,} candles over {sizes[0]:,}, {_threads(count)}"
        requirements.append(Requirement(what, costs[-1] / costs[0], at_most=MOST_PER_STEP))
    for count, by_size in points["features"].items():
        sizes, costs = _whole(by_size)
        what = f"off the straight line, {sizes[0]} to {sizes[-1]} features, {_threads(count)}"
        share = 100.0 * off_line(sizes, costs)
        requirements.append(Requirement(what, share, at_most=100.0 * MOST_OFF_LINE, unit="%"))
    return requirements


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _summary(points: dict[str, dict[int, Points]]) -> dict[str, Any]:
    return {
        name: {
            _threads(count): {
                str(size): {phase: spread([one[phase] for one in runs]) for phase in runs[0]}
                for size, runs in by_size.items()
            }
            for count, by_size in by_threads.items()
        }
        for name, by_threads in points.items()
    }


def _table(name: str, by_threads: dict[int, Points]) -> str:
    header = [name]
    for count in by_threads:
        header += [f"rollout, µs per step, {_threads(count)}", f"update, {_threads(count)}"]
    rows = []
    for size in next(iter(by_threads.values())):
        row = [f"{size:,}"]
        for points in by_threads.values():
            for phase in ("rollout", "update"):
                row.append(with_spread([one[phase] for one in points[size]]))
        rows.append(row)
    return table(header, rows)


def picture(points: dict[str, dict[int, Points]]) -> str:
    """Return an SVG: candles above, features below, thread counts side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Text as text and no date: a small file that only changes with its figures.
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scaling"}):
        counts = list(points["candles"])
        figure, axes = pyplot.subplots(
            2,
            len(counts),
            figsize=(4 * len(counts), 6),
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        for row, (name, by_threads) in zip(axes, points.items(), strict=True):
            for panel, (count, by_size) in zip(row, by_threads.items(), strict=True):
                _draw(panel, name, by_size)
                panel.set_title(f"{name}, {_threads(count)}", fontsize=10)
            row[0].set_ylabel("µs per step")
        lines = axes[0][0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside upper center", ncols=3)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return written.getvalue()


def _draw(panel: Any, name: str, by_size: Points) -> None:
    sizes, costs = _whole(by_size)
    phases = {
        phase: [statistics.median([one[phase] for one in runs]) for runs in by_size.values()]
        for phase in ("rollout", "update")
    }
    panel.plot(sizes, costs, "o-", color="black", label="rollout and update")
    panel.plot(sizes, phases["update"], "s--", color="tab:blue", label="update")
    panel.plot(sizes, phases["rollout"], "^--", color="tab:orange", label="rollout")
    panel.set_ylim(bottom=0)
    panel.set_xlim(left=0)
    panel.set_xlabel(name)
    panel.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")


if __name__ == "__main__":
    sys.exit(run("scaling", __doc__, measure, repeats=2))
