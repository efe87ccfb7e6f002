"""What is learned on markets drawn from ranges, beside ridge regression and LightGBM.

Run: ``python benchmarks/families.py``, an hour on two quiet cores. Draws of the half ``reporting``;
defaults are chosen on ``choosing`` (``--half choosing``, which writes no tables). Each draw is
learned with some seeds of noise and traded on a market of the same world that nobody has seen. What
a rule earns that knows the signal is 1. Beside the defaults stand the thresholds that they start
from, and with the first seed a network on all features. How often the verdict finds an edge in the
25 days of a tested market is its power. Runs that are done are kept.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning_runs import HELD_OUT, play_reference
from report import (
    HERE,
    Measured,
    Requirement,
    commit,
    finish,
    number,
    quick_project,
    recorded,
    show,
    table,
    write,
)
from run_store import Result, RunStore, Task, commits, on_one_thread

from mtf_scalper.evaluation.accounts import measure_pair
from mtf_scalper.evaluation.days import calendar_of
from mtf_scalper.evaluation.judge import judge_pairs
from mtf_scalper.evaluation.peers import PEERS, peer_runs
from mtf_scalper.market.market import Market
from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.ppo.policy import Policy, simulate
from mtf_scalper.ppo.selection import held_back
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.playback import Simulation
from mtf_scalper.training import train
from mtf_scalper.worlds.families import (
    HELD_OUT_CANDLES,
    FamilyDraw,
    Half,
    family_draw,
    family_market,
)

DOCUMENT = "learning_results.md"
RUNS = HERE / "results" / "family_runs"
LEAST_REFERENCE = 0.05
"""Log return of the reference below which a share of it says nothing; such draws are left out."""
MOST_BELOW = -0.02
"""How far below the better peer a median may be."""
OURS, BASE, FEATURES = "exact", "base", "features"
"""What is learned, the thresholds that it starts from alone, and what features would give."""
FIRST_DAY = np.datetime64("2024-01-01", "m")
TIMEFRAME_MINUTES = 5
HELD_OUT_DAYS = HELD_OUT_CANDLES * TIMEFRAME_MINUTES // 1440
N_RANDOM_EXITS = 40
COLUMNS = (OURS, BASE, FEATURES, *PEERS)


@dataclass(frozen=True)
class Plan:
    """What a suite does.

    Attributes
    ----------
    half : str
    draws : int
        The first so many of the half.
    seeds : sequence of int
        Of the noise, and of what is random in learning.
    n_candles : int, optional
        Instead of the draws' own, to make them smaller.
    settings : dict
        Changes of the default settings.
    """

    half: str = str(Half.REPORTING)
    draws: int = 24
    seeds: Sequence[int] = (1, 2, 3)
    n_candles: int | None = None
    settings: dict[str, Any] | None = None


def tasks_of(plan: Plan) -> dict[str, Task]:
    """Return the runs of a plan by name."""
    common = {"cpu_count": 1, **(plan.settings or {})}
    sides = {
        OURS: (Settings(**common), plan.seeds),
        FEATURES: (Settings(**common, policy_inputs="features"), plan.seeds[:1]),
    }
    return {
        f"{plan.half}-{index}-{side}-{seed}": {
            "half": plan.half,
            "index": index,
            "side": side,
            "seed": seed,
            "n_candles": plan.n_candles,
            "settings": settings.model_dump(mode="json"),
        }
        for index in range(plan.draws)
        for side, (settings, seeds) in sides.items()
        for seed in seeds
    }


def rules_of(draw: FamilyDraw) -> dict[str, Any]:
    """Return the rules that a draw is traded by; the reference knows neither stop nor duration."""
    rules: dict[str, Any] = {"entry": "any" if draw.entry_share is None else "classic"}
    if draw.has_rules:
        reach = 6.0 * draw.spec.volatility * draw.spec.half_life**0.5
        rules["stoploss"] = -min(max(reach, 0.005), 0.3)
        rules["max_trade_duration_candles"] = max(8, round(8 * draw.spec.half_life))
    return rules


def run(task: Task) -> Result:
    """Learn a draw once, and beside the defaults let the peers learn it; return plain values."""
    draw = family_draw(task["half"], task["index"])
    settings = Settings(**task["settings"]).changed(random_state=task["seed"], rules=rules_of(draw))
    seed, side, n_candles = task["seed"], task["side"], task["n_candles"]
    learned = family_market(draw, seed)
    market = learned.market if n_candles is None else learned.market.slice(0, n_candles)
    test = family_market(draw, seed + HELD_OUT, n_candles or HELD_OUT_CANDLES)
    started = time.monotonic()
    result = train(market, settings)
    seconds = time.monotonic() - started
    runs = {side: simulate(result.policy, test.market)}
    if side == OURS:
        (seen,), (choosing,) = held_back([market], settings)
        runs[BASE] = simulate(without_network(result.policy), test.market)
        runs |= peer_runs(seen, choosing, test.market, settings)
    return {
        **{name: task[name] for name in ("half", "index", "side", "seed")},
        "commit": commit(),
        "form": str(draw.form),
        "n_candles": len(market),
        "n_features": draw.n_features,
        "half_life": draw.spec.half_life,
        "entry": str(settings.rules.entry),
        "reference": play_reference(test, settings).log_return,
        "log_returns": {name: run.log_return for name, run in runs.items()},
        "trades": {name: len(run.trades) for name, run in runs.items()},
        "edge_found": has_edge(runs[side], test.market, settings),
        "seconds": seconds,
    }


def without_network(policy: Policy) -> Policy:
    """Return the policy with the base policy's logits alone, of every member."""
    alone = copy.deepcopy(policy)
    with torch.no_grad():
        for name, weights in alone.model.policy.named_parameters():
            if "action_net" in name:
                weights.zero_()
    return alone


def has_edge(run: Simulation, market: Market, settings: Settings) -> bool:
    """Return whether the verdict on a tested market is that there is an edge."""
    minutes = np.arange(len(market)) * np.timedelta64(TIMEFRAME_MINUTES, "m")
    dated = replace(market, dates=(FIRST_DAY + minutes).astype("datetime64[ns]"))
    calendar = calendar_of([dated])
    pair = measure_pair(
        dated, settings, {settings.random_state: run}, calendar, n_draws=N_RANDOM_EXITS
    )
    return judge_pairs(calendar, [pair]).edge.found


def measured(plan: Plan, results: Sequence[Result]) -> Measured:
    """Return the tables of all finished runs."""
    draws = [
        _Draw(runs)
        for index in range(plan.draws)
        if (runs := [run for run in results if run["index"] == index])
        and {run["side"] for run in runs} == {OURS, FEATURES}
    ]
    told = [draw for draw in draws if draw.reference >= LEAST_REFERENCE]
    power = {side: [f for draw in told for f in draw.found[side]] for side in (OURS, FEATURES)}
    tables = [_by_draw(told), _by_quarter(told)]
    if all(power.values()):
        shares = (f"{side} in {np.mean(found):.0%}" for side, found in power.items())
        tables.append(f"The verdict finds an edge in {HELD_OUT_DAYS} days: {', '.join(shares)}.")
    left_out = len(draws) - len(told)
    tables.append(
        f"{left_out} of {len(draws)} draws are left out, because the reference earns less than "
        f"{LEAST_REFERENCE} there. Runs were made at: {commits(results)}."
    )
    return Measured(
        results={"runs": list(results)},
        tables=[each for each in tables if each],
        requirements=[
            Requirement(
                f"exact less the better peer, {name} of draws",
                statistics.median(draw.lead for draw in quarter),
                at_least=MOST_BELOW,
                unit="of the reference",
            )
            for name, quarter in _quarters(told)
        ],
    )


class _Draw:
    """The runs of one draw: shares of the reference, medians over seeds."""

    def __init__(self, runs: Sequence[Result]) -> None:
        self.first = runs[0]
        self.reference = statistics.median(run["reference"] for run in runs)
        self.shares = {
            name: statistics.median(
                run["log_returns"][name] / max(run["reference"], 1e-9)
                for run in runs
                if name in run["log_returns"]
            )
            for name in COLUMNS
        }
        self.found = {
            side: [run["edge_found"] for run in runs if run["side"] == side]
            for side in (OURS, FEATURES)
        }
        self.best_peer = max(self.shares[name] for name in PEERS)
        self.lead = self.shares[OURS] - self.best_peer
        self.trades = statistics.median(run["trades"][OURS] for run in runs if run["side"] == OURS)


def _quarters(draws: Sequence[_Draw]) -> list[tuple[str, list[_Draw]]]:
    """Return the draws by what the better peer makes of them, from least to most."""
    ordered = sorted(draws, key=lambda draw: draw.best_peer)
    names = ("first quarter", "second quarter", "third quarter", "last quarter")
    parts = np.array_split(np.arange(len(ordered)), len(names))
    return [
        (name, [ordered[i] for i in part])
        for name, part in zip(names, parts, strict=True)
        if len(part)
    ]


def _by_draw(draws: Sequence[_Draw]) -> str:
    header = ["draw", "form", "candles", "features", "half-life", "entry", "reference"]
    header += [*COLUMNS, "trades"]
    rows = []
    for draw in draws:
        run = draw.first
        rows.append(
            [
                f"{run['half']}-{run['index']}",
                run["form"],
                f"{run['n_candles']:,}",
                str(run["n_features"]),
                number(run["half_life"]),
                run["entry"],
                number(draw.reference),
                *(f"{draw.shares[name]:.2f}" for name in COLUMNS),
                f"{draw.trades:.0f}",
            ]
        )
    return table(header, rows)


def _by_quarter(draws: Sequence[_Draw]) -> str:
    header = [
        "draws by the better peer's share",
        "draws",
        *COLUMNS,
        "exact less the better peer",
    ]
    groups = [*_quarters(draws), ("all", list(draws))] if draws else []
    rows = [
        [
            name,
            str(len(group)),
            *(f"{statistics.median(draw.shares[each] for draw in group):.2f}" for each in COLUMNS),
            f"{statistics.median(draw.lead for draw in group):+.2f}",
        ]
        for name, group in groups
    ]
    return table(header, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--half", choices=[str(half) for half in Half], default=Plan.half)
    parser.add_argument("--draws", type=int, default=Plan.draws)
    parser.add_argument("--seeds", nargs="+", type=int, default=Plan.seeds)
    parser.add_argument("--jobs", type=int, default=available_cpus(), help="runs at a time")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of finished runs")
    parser.add_argument("--again", action="store_true", help="do finished runs again")
    parser.add_argument("--quick", action="store_true", help="tiny sizes in a temporary folder")
    given = parser.parse_args(arguments)
    plan = Plan(given.half, given.draws, tuple(given.seeds))
    project, folder = HERE.parent, given.runs
    if given.quick:
        project = quick_project(DOCUMENT)
        folder, plan = project / "runs", quick_plan(plan)
    with recorded("families", project, asdict(plan)) as record:
        store = RunStore(folder)
        tasks = tasks_of(plan)
        store.complete(tasks, on_one_thread("families:run"), again=given.again, jobs=given.jobs)
        found = measured(plan, store.results(tasks))
        if plan.half == str(Half.CHOOSING):
            for each in found.tables:
                print(each)
            return 0
        path = write("families", found, len(plan.seeds), project, DOCUMENT)
        finish(record, found, path)
    show("families", found, path)
    return 0


def quick_plan(plan: Plan) -> Plan:
    """Return the plan with sizes that only show that it runs."""
    small = {"net_arch": (16, 8), "train_cycles": 2}
    return Plan(plan.half, 2, (1,), 600, small)


if __name__ == "__main__":
    sys.exit(main())
