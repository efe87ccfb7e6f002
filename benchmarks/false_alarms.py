"""How often ``mtf-scalper evaluate`` finds an edge where there is one, and where there is none.

Run: ``python benchmarks/false_alarms.py``. Each row of the table evaluates many markets that differ
in their seed alone, by the decision rule of ``docs/evidence.md``. Four weeks are traded after two
windows of a fortnight each were learned, with a small network on one thread.

A policy that never trades raises no alarm, and where nothing can be learned the trainings' own
safeguards mostly end in one. Fees take care of most of the others. So that the rule itself is put
to the test, some rows hold nothing back, keep the last weights, trade on noise and pay no fees: no
baseline is better or worse than such a policy, which is the hypothesis that the tests reject in 5%
of all cases. On synthetic candles with classic entries every policy trades.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from report import (
    HERE,
    Measured,
    Requirement,
    commit,
    quick_project,
    shipped_rules,
    show,
    table,
    write,
)
from run_store import Result, RunStore, Task

from mtf_scalper.evaluation.recipe import Recipe
from mtf_scalper.market.stored import FEE_RATE
from mtf_scalper.runs.evaluation_plan import EvaluationPlan
from mtf_scalper.settings import EntryMode, Settings
from mtf_scalper.walk_forward.learned_window import learn_window, window_task
from mtf_scalper.walk_forward.sources import PlantedPairs, RecordedPairs, planted_recipe
from mtf_scalper.walk_forward.walk import evaluate_walks, walk
from mtf_scalper.worlds.datadir import write_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

DOCUMENT = "evidence.md"
RUNS = HERE / "results" / "false_alarm_runs"
N_SEEDS = 200
N_DRAWS = 40
TIMERANGE = "20240201-20240229"
SMALL = {"net_arch": [32], "train_cycles": 16, "cpu_count": 1, "device": "cpu"}
PAIR = "BTC/USDT:USDT"
NOISE = {
    "policy_inputs": "features",
    "validation_share": 0.0,
    "train_cycles": 8,
    "learning_rate": 5e-3,
    "weight_average": 0.0,
    "keep_bias": 0.5,
}
MARKETS: dict[str, Task] = {
    "planted: none": {"planted": "none"},
    "planted: none, noise traded, no fees": {"planted": "none", "settings": NOISE, "fee": 0.0},
    "synthetic, strength 0": {"signal": 0.0},
    "synthetic, strength 0, noise traded, no fees": {
        "signal": 0.0,
        "settings": NOISE,
        "fee": 0.0,
    },
    "planted: linear": {"planted": "linear"},
    "synthetic, strength 0.25": {"signal": 0.25},
    "synthetic, strength 0.5": {"signal": 0.5},
}
MOST_FALSE_ALARMS = 0.05


def tasks_of(names: Sequence[str], n_seeds: int, changes: dict[str, Any]) -> dict[str, Task]:
    """Return the runs by name; seeds number the markets."""
    return {
        f"{name.replace(': ', '-').replace(', ', '-').replace(' ', '-')}-{seed}": {
            "market": name,
            "seed": seed,
            "timerange": changes.get("timerange", TIMERANGE),
            "days": changes.get("days", [14, 14]),
            "planted": MARKETS[name].get("planted"),
            "signal": MARKETS[name].get("signal"),
            "fee": MARKETS[name].get("fee", FEE_RATE),
            "settings": {**SMALL, **MARKETS[name].get("settings", {}), **changes.get("small", {})},
        }
        for name in names
        for seed in range(n_seeds)
    }


def run(task: Task) -> Result:
    """Evaluate one market."""
    with TemporaryDirectory() as folder:
        plan = _plan(task, Path(folder))
        windows = plan.windows()
        (pair,) = plan.recipe.pairs
        recorded = plan.source.load(pair, windows)
    learned = [
        learn_window(window_task(recorded, each, plan.settings, seed=task["seed"]))
        for each in windows
    ]
    found = evaluate_walks(
        {pair: [walk(recorded, windows, learned, plan.settings)]}, n_draws=plan.n_draws
    )
    whole = found.whole
    return {
        "market": task["market"],
        "seed": task["seed"],
        "commit": commit(),
        "found": found.edge.found,
        "verdict": found.edge.sentence,
        "p_value": found.edge.p_value,
        "deflated_sharpe": found.edge.deflated_sharpe,
        "n_trades": float(whole.days.n_trades.sum()),
        "log_return": float(whole.days.log_return.sum()),
        "oracle": float(whole.oracle.sum()),
        "degenerate": bool(whole.degenerate),
        "against_flat": next(t.p_value for t in found.edge.tests if t.baseline == "flat"),
    }


def _plan(task: Task, folder: Path) -> EvaluationPlan:
    train_days, test_days = task["days"]
    common: dict[str, Any] = {
        "timerange": task["timerange"],
        "train_days": train_days,
        "test_days": test_days,
        "embargo_candles": 50,
        "n_draws": N_DRAWS,
    }
    if task["planted"] is not None:
        recipe = planted_recipe(task["planted"])
        settings = recipe.settings.changed(**task["settings"])
        recipe = Recipe(settings=settings, pairs=recipe.pairs)
        source = PlantedPairs(task["planted"], task["seed"], task["fee"])
        return EvaluationPlan(recipe=recipe, source=source, **common)
    settings = Settings(**task["settings"], rules=shipped_rules(EntryMode.ALWAYS))
    recipe = Recipe(settings=settings, pairs=(PAIR,), fee_rate=task["fee"])
    spec = SyntheticSpec(
        seed=task["seed"], signal_strength=task["signal"], pairs=(pair_spec(PAIR),)
    )
    start, stop = (pd.Timestamp(part) for part in task["timerange"].split("-"))
    first = (start - pd.Timedelta(days=train_days) - recipe.warmup).floor("D")
    write_datadir(spec, folder, first, stop + pd.Timedelta(days=1))
    return EvaluationPlan(recipe=recipe, source=RecordedPairs(folder, recipe), **common)


def measured(results: Sequence[Result]) -> Measured:
    """Return the table: alarms by market, with the interval of their share."""
    header = [
        "market",
        "seeds",
        "edge found",
        "95% interval",
        "degenerate",
        "p < 5% against flat alone",
        "median trades",
        "median % of the optimum",
    ]
    rows, requirements = [], []
    for name in dict.fromkeys(result["market"] for result in results):
        runs = [result for result in results if result["market"] == name]
        n_found = sum(each["found"] for each in runs)
        low, high = wilson(n_found, len(runs))
        shares = [100 * each["log_return"] / each["oracle"] for each in runs if each["oracle"] > 0]
        rows.append(
            [
                name,
                str(len(runs)),
                f"{n_found} ({n_found / len(runs):.0%})",
                f"{low:.0%} to {high:.0%}",
                f"{sum(each['degenerate'] for each in runs)}",
                f"{sum((each['against_flat'] or 1.0) < 0.05 for each in runs)}",
                f"{np.median([each['n_trades'] for each in runs]):.0f}",
                f"{np.median(shares):.1f}" if shares else "-",
            ]
        )
        if MARKETS[name].get("planted") == "none" or MARKETS[name].get("signal") == 0.0:
            requirements.append(
                Requirement(f"false alarms, {name}", n_found / len(runs), at_most=MOST_FALSE_ALARMS)
            )
    return Measured({"runs": list(results)}, [table(header, rows)], requirements)


def wilson(n_found: int, n_all: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share (Wilson 1927), good for shares near 0 as well."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = n_found / n_all
    middle = (share + z**2 / (2 * n_all)) / (1 + z**2 / n_all)
    half = z / (1 + z**2 / n_all) * np.sqrt(share * (1 - share) / n_all + z**2 / (4 * n_all**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--markets", nargs="+", choices=MARKETS, default=list(MARKETS))
    parser.add_argument("--seeds", type=int, default=N_SEEDS)
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of finished runs")
    parser.add_argument("--again", action="store_true", help="do finished runs again")
    parser.add_argument("--only-runs", action="store_true", help="write no table")
    parser.add_argument("--quick", action="store_true", help="tiny sizes in a temporary folder")
    given = parser.parse_args(arguments)
    project, folder, changes = HERE.parent, given.runs, {}
    n_seeds = given.seeds
    if given.quick:
        project = quick_project(DOCUMENT)
        folder, n_seeds = project / "runs", 1
        changes = {
            "timerange": "20240201-20240203",
            "days": [2, 1],
            "small": {"net_arch": [8], "train_cycles": 1},
        }
    store = RunStore(folder)
    tasks = tasks_of(given.markets, n_seeds, changes)
    store.complete(tasks, run, again=given.again)
    if given.only_runs:
        return 0
    # Of runs that other parts have left, too.
    found = measured(store.results(tasks_of(list(MARKETS), n_seeds, changes)))
    path = write("false_alarms", found, 1, project, DOCUMENT)
    show("false_alarms", found, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
