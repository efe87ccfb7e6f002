"""What is learned on planted markets, and how soon: exact advantages against the reference recipes.

Run: ``python benchmarks/learning.py``, about 45 minutes on two quiet cores. ``--kinds``,
``--seeds`` and ``--sides`` do a part of it (``--sides exact ridge lightgbm`` takes minutes). Runs
that are done are kept, and the tables are made of all that there are: what was not run here since
is taken from the last results, and each row tells the builds of its runs. *After* and *before* are
learned by FastPPO, whose update is checked here to be that of stable-baselines3 and which takes a
fraction of its time; their times are steps at the speed that stable-baselines3 itself, trained to
the end on the first kind and seed, has in the same suite.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import learning_runs
import update
from learning_runs import SIDES, settings_of
from report import (
    HERE,
    QUICK,
    Measured,
    ParityError,
    Requirement,
    finish,
    number,
    quick_project,
    recorded,
    show,
    table,
    with_spread,
    write,
)
from run_store import Result, RunStore, Task, commits, on_one_thread

from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.settings import EntryMode
from mtf_scalper.worlds.planted_spec import PlantedKind

DOCUMENT = "learning_results.md"
RUNS = HERE / "results" / "learning_runs"
GOAL = 0.8
"""Share of the reference's held-out log return whose time is taken."""
LEAST_RATIO = 50.0
MOST_SECONDS = 15.0
MOST_TRADES = 0.01
"""Trades per candle that still count as trading little."""
OPPONENTS = ("after", "before")
STOCK = {"after": "after-sb3", "before": "before-sb3"}
PEERS = ("ridge", "lightgbm")
MOST_BELOW = -2.0
"""How far below the better peer a median may be, % of the reference."""
LEAD = {"nonlinear": 10.0, "regime": 10.0}
"""The same where a network has to know more than they."""
_NO_SIGNAL = str(PlantedKind.NONE)


@dataclass(frozen=True)
class Plan:
    """What a suite does.

    Attributes
    ----------
    kinds, sides : sequence of str
    seeds : sequence of int
    n_candles : int
    settings : dict
        Changes for all sides, to make them smaller.
    threads : int
        Of the runs whose time counts.
    """

    kinds: Sequence[str] = tuple(str(kind) for kind in PlantedKind)
    seeds: Sequence[int] = (1, 2, 3, 4, 5)
    sides: Sequence[str] = tuple(SIDES)
    n_candles: int = 7344
    settings: dict[str, Any] | None = None
    threads: int = 2


def tasks_of(plan: Plan) -> dict[str, Task]:
    """Return the runs of a plan by name.

    stable-baselines3 itself runs on the first kind and seed only; the training that never ends
    early on the first kind with three seeds.
    """
    few = {"after-sb3": 1, "before-sb3": 1, "all-passes": 3}
    tasks: dict[str, Task] = {}
    for side in plan.sides:
        settings = settings_of(side, plan.settings or {}, _threads(side, plan))
        for kind in plan.kinds[: 1 if side in few else None]:
            for seed in plan.seeds[: few.get(side)]:
                tasks[f"{kind}-{side}-{seed}"] = {
                    "kind": kind,
                    "side": side,
                    "seed": seed,
                    "n_candles": plan.n_candles,
                    "threads": _threads(side, plan),
                    "settings": settings,
                }
    return tasks


def _threads(side: str, plan: Plan) -> int:
    return plan.threads if SIDES[side].is_timed else 1


def complete(
    plan: Plan,
    store: RunStore,
    *,
    again: bool = False,
    jobs: int = 1,
    call: Callable[[Task], Result] | None = None,
) -> None:
    """Do what is missing: first what only has to be learned, several at a time, then what is timed.

    ``call`` does the runs instead of processes of their own.
    """
    tasks = tasks_of(plan)
    timed = {name: task for name, task in tasks.items() if SIDES[task["side"]].is_timed}
    learned = {name: task for name, task in tasks.items() if name not in timed}
    alone = call or on_one_thread("learning_runs:run")
    store.complete(learned, alone, again=again, jobs=jobs)
    store.complete(timed, call or learning_runs.run, again=again)


def measured(plan: Plan, results: Sequence[Result]) -> Measured:
    """Return the tables of all finished runs."""
    by_side = _Runs(results)
    _check_same_work(results)
    kinds = [kind for kind in plan.kinds if any(run["kind"] == kind for run in results)]
    tables = [
        _peers_table(by_side, kinds),
        _returns_table(by_side, kinds, plan.sides),
        _times_table(by_side, kinds, plan.sides),
        f"Runs were made at: {commits(results)}.",
    ]
    return Measured(
        results={"goal": GOAL, "runs": list(results)},
        tables=[each for each in tables if each],
        requirements=_requirements(by_side, kinds),
    )


class _Runs:
    """Finished runs by kind and side, in the order of their seeds."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._results = sorted(results, key=lambda run: run["seed"])

    def of(self, kind: str, side: str) -> list[Result]:
        return [run for run in self._results if (run["kind"], run["side"]) == (kind, side)]

    def pairs(self, kind: str, side: str) -> list[tuple[Result, Result]]:
        """Return runs of exact advantages and of ``side`` on the same seeds."""
        theirs = {run["seed"]: run for run in self.of(kind, side)}
        ours = self.of(kind, "exact")
        return [(run, theirs[run["seed"]]) for run in ours if run["seed"] in theirs]

    def seconds_per_step(self, side: str) -> float | None:
        """Return what a step of a side's stable-baselines3 takes, start included."""
        stock = [run for run in self._results if run["side"] == STOCK[side]]
        if not stock:
            return None
        return statistics.median(run["curve"][-1][1] / run["curve"][-1][0] for run in stock)


def _check_same_work(results: Iterable[Result]) -> None:
    """Opponents learn for as many steps on as many candles as exact advantages may."""
    for run in results:
        side = SIDES[run["side"]]
        if not side.holds_back or side.is_peer:
            continue
        is_exact = run["side"] == "exact"
        least = 0 if is_exact else run["wanted_steps"]
        most = run["wanted_steps"] + (0 if is_exact else run["rollout_steps"])
        if not least <= run["steps"] <= most:
            raise ParityError(f"{run['kind']} {run['side']}: {run['steps']} steps, not {least}")


def _share(run: Result) -> float:
    return 100.0 * run["log_return"] / run["reference"] if run["reference"] > 0.0 else float("nan")


def _median_shares(runs: _Runs, kind: str) -> dict[str, float]:
    """Return the median share over seeds of exact advantages and of each peer that was run."""
    found = {side: runs.of(kind, side) for side in ("exact", *PEERS)}
    return {
        side: statistics.median(map(_share, results)) for side, results in found.items() if results
    }


def _lead(runs: _Runs, kind: str) -> float | None:
    """Return what exact advantages earn more than the better peer, None where one is missing."""
    shares = _median_shares(runs, kind)
    if len(shares) < 1 + len(PEERS):
        return None
    return shares["exact"] - max(shares[peer] for peer in PEERS)


def _peers_table(runs: _Runs, kinds: Sequence[str]) -> str:
    """Return the shares of exact advantages and of the peers, medians over seeds."""
    header = ["market, % of the reference", SIDES["exact"].name]
    header += [*(SIDES[peer].name for peer in PEERS), "exact less the better peer"]
    rows = []
    for kind in kinds:
        lead = _lead(runs, kind)
        if kind == _NO_SIGNAL or lead is None:
            continue
        shares = _median_shares(runs, kind)
        cells = (number(shares[side]) for side in ("exact", *PEERS))
        rows.append([f"`{kind}`", *cells, f"{lead:+.1f}"])
    return table(header, rows) if rows else ""


def _returns_table(runs: _Runs, kinds: Sequence[str], sides: Sequence[str]) -> str:
    header = [
        "market",
        "side",
        "seeds",
        "held-out log return",
        "reference",
        "% of the reference",
        "% of the hindsight optimum",
        "trades",
        "passes learned",
        "build",
    ]
    rows = []
    for kind in kinds:
        for side in sides:
            found = runs.of(kind, side)
            if not found:
                continue
            has_signal = kind != _NO_SIGNAL
            rows.append(
                [
                    f"`{kind}`",
                    SIDES[side].name,
                    str(len(found)),
                    with_spread([run["log_return"] for run in found]),
                    number(statistics.median(run["reference"] for run in found)),
                    with_spread([_share(run) for run in found]) if has_signal else "-",
                    with_spread([100.0 * run["log_return"] / run["oracle"] for run in found]),
                    with_spread([float(run["n_trades"]) for run in found]),
                    "-"
                    if SIDES[side].is_peer
                    else with_spread([run["steps"] / run["learned_candles"] for run in found]),
                    commits(found),
                ]
            )
    return table(header, rows)


def reached(run: Result) -> tuple[float, float] | None:
    """Return steps and seconds after which the policy of the moment had the goal, else None."""
    for steps, seconds, log_return, _trades in run["curve"]:
        if log_return >= GOAL * run["reference"]:
            return steps, seconds
    return None


def _best_share(run: Result) -> float:
    return 100.0 * max(row[2] for row in run["curve"]) / run["reference"]


def _seconds(runs: _Runs, run: Result) -> float | None:
    """Return the time to the goal: measured, or at the speed of stable-baselines3."""
    found = reached(run)
    if found is None or run["side"] not in OPPONENTS:
        return None if found is None else found[1]
    speed = runs.seconds_per_step(run["side"])
    return None if speed is None else found[0] * speed


def _times_table(runs: _Runs, kinds: Sequence[str], sides: Sequence[str]) -> str:
    header = [
        "market",
        "side",
        f"reach {GOAL:.0%}",
        "seconds until then",
        "times as long as exact",
        "best moment, % of the reference",
        "whole training, s",
    ]
    rows = []
    for kind in kinds:
        if kind == _NO_SIGNAL:
            continue
        for side in sides:
            found = runs.of(kind, side)
            if found:
                rows.append([f"`{kind}`", SIDES[side].name, *_time_cells(runs, kind, side, found)])
    return table(header, rows) if rows else ""


def _time_cells(runs: _Runs, kind: str, side: str, found: Sequence[Result]) -> list[str]:
    n_reached = sum(reached(run) is not None for run in found)
    until = [each for run in found if (each := _seconds(runs, run)) is not None]
    is_learned = side in OPPONENTS
    if n_reached == 0:
        seconds = "never in 30 cycles"
    elif not until:
        seconds = "speed not measured"
    else:
        seconds = with_spread(until) + (" at SB3's speed" if is_learned else "")
    ratios = _ratios(runs, kind, side)
    return [
        f"{n_reached} of {len(found)}",
        seconds,
        with_spread(ratios) if ratios else "-",
        with_spread([_best_share(run) for run in found]),
        _whole_seconds(runs, side, found),
    ]


def _whole_seconds(runs: _Runs, side: str, found: Sequence[Result]) -> str:
    if side not in OPPONENTS:
        return with_spread([run["seconds"] for run in found])
    speed = runs.seconds_per_step(side)
    if speed is None:
        return "speed not measured"
    return with_spread([run["steps"] * speed for run in found]) + " at SB3's speed"


def _ratios(runs: _Runs, kind: str, side: str) -> list[float]:
    """Return how many times as long a side takes to the goal, where it gets there.

    Where exact advantages do not get there on the same seed, that is 0.
    """
    ratios = []
    for ours, theirs in runs.pairs(kind, side):
        their_seconds = _seconds(runs, theirs)
        if their_seconds is None or theirs["side"] == "exact":
            continue
        our_seconds = _seconds(runs, ours)
        ratios.append(0.0 if our_seconds is None else their_seconds / our_seconds)
    return ratios


def _requirements(runs: _Runs, kinds: Sequence[str]) -> list[Requirement]:
    requirements = []
    for kind in kinds:
        if kind == _NO_SIGNAL:
            requirements += _without_a_signal(runs.of(kind, "exact"))
            continue
        for side in OPPONENTS:
            pairs = runs.pairs(kind, side)
            if pairs:
                gain = statistics.median(_share(ours) - _share(theirs) for ours, theirs in pairs)
                what = f"held out, exact less {SIDES[side].name}, `{kind}`"
                requirements.append(Requirement(what, gain, at_least=0.0, unit="% of reference"))
        lead = _lead(runs, kind)
        if lead is not None:
            what = f"held out, exact less the better peer, `{kind}`"
            least = LEAD.get(kind, MOST_BELOW)
            requirements.append(Requirement(what, lead, at_least=least, unit="% of reference"))
        ratios = _ratios(runs, kind, "after")
        if ratios:
            what = f"time to {GOAL:.0%}, *after* over exact, `{kind}`"
            requirements.append(
                Requirement(what, statistics.median(ratios), at_least=LEAST_RATIO, unit="times")
            )
    whole = [run["seconds"] for kind in kinds for run in runs.of(kind, "all-passes")]
    if whole:
        n_candles = runs.of(kinds[0], "all-passes")[0]["learned_candles"]
        what = f"30 cycles on {n_candles:,} candles, all included"
        requirements.append(
            Requirement(what, statistics.median(whole), at_most=MOST_SECONDS, unit="s")
        )
    return requirements


def _without_a_signal(found: Sequence[Result]) -> list[Requirement]:
    """Noise is what a position held over all candles moves by chance, one standard deviation."""
    if not found:
        return []
    away = statistics.median(abs(run["log_return"]) for run in found) / found[0]["chance"]
    trades = statistics.median(run["n_trades"] for run in found)
    most = round(MOST_TRADES * found[0]["n_candles"])
    return [
        Requirement("distance from zero, `none`", away, at_most=1.0, unit="of a held position's"),
        Requirement("trades, `none`", trades, at_most=float(most)),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=Plan.kinds, default=Plan.kinds)
    parser.add_argument("--seeds", nargs="+", type=int, default=Plan.seeds)
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=Plan.sides)
    parser.add_argument("--threads", type=int, default=available_cpus(), help="of timed runs")
    parser.add_argument("--jobs", type=int, default=available_cpus(), help="runs at a time")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of finished runs")
    parser.add_argument("--again", action="store_true", help="do finished runs again")
    parser.add_argument("--only-runs", action="store_true", help="write no tables")
    parser.add_argument("--quick", action="store_true", help="tiny sizes in a temporary folder")
    given = parser.parse_args(arguments)
    plan = Plan(given.kinds, given.seeds, given.sides, threads=given.threads)
    project, folder = HERE.parent, given.runs
    if given.quick:
        project = quick_project(DOCUMENT)
        folder, plan = project / "runs", quick_plan(plan)
    try:
        with recorded("learning", project, asdict(plan)) as record:
            parity = update.check_same_update(*update.pair_of_models(QUICK, EntryMode.ANY))
            store = RunStore(folder)
            complete(plan, store, again=given.again, jobs=given.jobs)
            if given.only_runs:
                return 0
            # Of runs that other parts of the suite have left, too.
            whole = plan if given.quick else Plan(threads=given.threads)
            results = store.results(tasks_of(whole))
            if not given.quick:
                results += kept_runs(project / "benchmarks" / "results" / "learning.json", results)
            found = measured(whole, results)
            found.results["parity"] = parity
            n_seeds = max(len({run["seed"] for run in found.results["runs"]}), 1)
            path = write("learning", found, n_seeds, project, DOCUMENT)
            finish(record, found, path)
    except ParityError as error:
        print(f"learning: no parity, so nothing was measured: {error}", file=sys.stderr)
        return 1
    show("learning", found, path)
    return 0


def kept_runs(path: Path, newer: Sequence[Result]) -> list[Result]:
    """Return the runs of the last results that were not done here since; none without a file."""
    if not path.is_file():
        return []
    done = {_identity(run) for run in newer}
    runs = json.loads(path.read_text("utf-8"))["runs"]
    return [run for run in runs if _identity(run) not in done and run["side"] in SIDES]


def _identity(run: Result) -> tuple[Any, ...]:
    return tuple(run[name] for name in ("kind", "side", "seed", "n_candles"))


def quick_plan(plan: Plan) -> Plan:
    """Return the plan with sizes that only show that it runs."""
    small = {"net_arch": (16, 8), "train_cycles": 2, "n_steps": 128, "batch_size": 64}
    return Plan(plan.kinds, plan.seeds, plan.sides, 400, small, plan.threads)


if __name__ == "__main__":
    sys.exit(main())
