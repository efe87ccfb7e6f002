"""What ``mtf-scalper tune`` finds where there is something, and where there is nothing.

Run: ``python benchmarks/tuning.py``. Where a signal is planted, searches begin from a learning rate
at which nothing is learned, and have 30 trials to find one at which something is. Where there is
none, the sentence of ``--final`` has to say so: policies trade on noise there, with nothing that
holds them back and without fees, so that no baseline is better or worse than they are.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from false_alarms import wilson
from report import HERE, Measured, Requirement, commit, quick_project, show, table, write
from rich.console import Console
from run_store import Result, RunStore, Task

from mtf_scalper.market.stored import FEE_RATE
from mtf_scalper.records.reader import runs_in
from mtf_scalper.runs.evaluation_plan import EvaluationPlan
from mtf_scalper.runs.tuning import run_final, run_search
from mtf_scalper.runs.tuning_plan import tuning_plan
from mtf_scalper.walk_forward.sources import PlantedPairs, planted_recipe

DOCUMENT = "tuning.md"
RUNS = HERE / "results" / "tuning_runs"
MIS_SET = 1e-7
SPACE = """
defaults = false
[learning_rate]
low = 1e-6
high = 3e-2
log = true
[clip_range]
low = 0.1
high = 0.4
[dropout]
low = 0.0
high = 0.7
"""
SMALL: dict[str, Any] = {
    "net_arch": [16],
    "train_cycles": 8,
    "cpu_count": 1,
    "device": "cpu",
    "policy_inputs": "features",
    "validation_share": 0.0,
    "weight_average": 0.0,
    "keep_bias": 0.5,
}
PERIOD: Task = {"timerange": "20240201-20240306", "days": [5, 4], "locked": 0.41}
"""Five windows of four days to search on, and fourteen days locked away."""
GROUPS: dict[str, Task] = {
    "linear signal, learning rate mis-set": {
        "kind": "linear",
        "rate": MIS_SET,
        "trials": 30,
        "seeds": 3,
        "fee": FEE_RATE,
    },
    "no signal, no fees": {"kind": "none", "rate": 5e-3, "trials": 8, "seeds": 20, "fee": 0.0},
}
ENOUGH = 0.9
"""Share of the best objective of a search that makes a trial a find."""


def tasks_of(n_seeds: int | None, changes: Task) -> dict[str, Task]:
    """Return the runs by name; seeds number the markets and the searches."""
    return {
        f"{name.replace(', ', '-').replace(' ', '-')}-{seed}": {
            "group": name,
            "seed": seed,
            **PERIOD,
            **{key: value for key, value in group.items() if key != "seeds"},
            **changes,
            "settings": {**SMALL, **changes.get("settings", {})},
        }
        for name, group in GROUPS.items()
        for seed in range(group["seeds"] if n_seeds is None else n_seeds)
    }


def run(task: Task) -> Result:
    """Search on one market and look at its locked days."""
    recipe = planted_recipe(task["kind"])
    settings = recipe.settings.changed(
        **task["settings"], learning_rate=task["rate"], random_state=task["seed"]
    )
    plan = EvaluationPlan(
        recipe=replace(recipe, settings=settings),
        source=PlantedPairs(task["kind"], task["seed"], task["fee"]),
        timerange=task["timerange"],
        seeds=(task["seed"],),
        train_days=task["days"][0],
        test_days=task["days"][1],
    )
    console = Console(file=io.StringIO())
    with TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "space.toml").write_text(SPACE, "utf-8")
        found = tuning_plan(
            plan,
            name="search",
            n_trials=task["trials"],
            space=project / "space.toml",
            locked=task["locked"],
        )
        run_search(found, project, console)
        run_final(found, project, console)
        newest = max(
            (each for each in runs_in(project / "user_data" / "runs") if each.kind == "tune"),
            key=lambda each: each.run_id,
        )
        study = newest.study() or {}
    return {"group": task["group"], "seed": task["seed"], "commit": commit(), **of_study(study)}


def of_study(study: dict[str, Any]) -> Result:
    """Return what a study and its final look say."""
    trials, final = study["trials"], study["final"]
    best = trials[study["best"]]
    # Of a loss no part is enough.
    enough = min(ENOUGH * best["objective"], best["objective"])
    first = next(
        each for each in trials if each["objective"] is not None and each["objective"] >= enough
    )
    base = trials[0]["objective"]
    return {
        "n_trials": len(trials),
        "n_stopped": sum(each["state"] == "stopped" for each in trials),
        "rate": best["values"]["learning_rate"],
        "base": base,
        "best": best["objective"],
        "found_at": first["number"] + 1,
        "found": final["found"],
        "sentence": final["sentence"],
        "locked": final["locked"]["log_return"],
        "search": final["search"],
        "log_return": final["locked"]["log_return"]["value"],
    }


def measured(results: Sequence[Result]) -> Measured:
    """Return the tables: what was found of a mis-set rate, and what was said without a signal."""
    groups = {
        name: [each for each in results if each["group"] == name]
        for name in GROUPS
        if any(each["group"] == name for each in results)
    }
    searches, sentences, requirements = [], [], []
    for name, runs in groups.items():
        sentences.append(_sentence_row(name, runs))
        n_found = sum(each["found"] for each in runs)
        if GROUPS[name]["kind"] == "none":
            most = 1 / GROUPS[name]["seeds"]
            requirements.append(
                Requirement(f"{name}: something found", n_found / len(runs), at_most=most)
            )
            continue
        searches += [_search_row(each) for each in runs]
        worst = max(
            each["found_at"] if each["best"] > max(each["base"], 0.0) else 31 for each in runs
        )
        requirements.append(
            Requirement(f"{name}: trials until it is found, at most", worst, at_most=30)
        )
        requirements.append(
            Requirement(f"{name}: something found", n_found / len(runs), at_least=1.0)
        )
    search_header = [
        "market",
        "objective as configured",
        "of the best",
        "its learning rate",
        f"first trial with {ENOUGH:.0%} of it",
        "stopped early",
    ]
    sentence_header = [
        "market",
        "seeds",
        "trials each",
        "best trial trades",
        "something found",
        "95% interval",
        "median log return, search",
        "locked",
        "median deflated Sharpe ratio",
        "median probability of overfitting",
    ]
    return Measured(
        {"runs": list(results)},
        [table(search_header, searches), table(sentence_header, sentences)],
        requirements,
    )


def _search_row(each: Result) -> list[str]:
    return [
        str(each["seed"]),
        f"{each['base']:+.3f}",
        f"{each['best']:+.3f}",
        f"{each['rate']:.1e}",
        str(each["found_at"]),
        f"{each['n_stopped']} of {each['n_trials']}",
    ]


def _sentence_row(name: str, runs: Sequence[Result]) -> list[str]:
    n_found = sum(each["found"] for each in runs)
    search = [each["search"] for each in runs]
    low, high = wilson(n_found, len(runs))

    def median(values: Sequence[float | None], form: str) -> str:
        known = [value for value in values if value is not None]
        return f"{np.median(known):{form}}" if known else "-"

    return [
        name,
        str(len(runs)),
        str(runs[0]["n_trials"]),
        str(sum(each["log_return"]["value"] != 0.0 for each in search)),
        f"{n_found} ({n_found / len(runs):.0%})",
        f"{low:.0%} to {high:.0%}",
        median([each["log_return"]["value"] for each in search], "+.3f"),
        median([each["locked"]["value"] for each in runs], "+.3f"),
        median([each["deflated_sharpe"] for each in search], ".3f"),
        median([each["probability_of_overfitting"] for each in search], ".0%"),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--seeds", type=int, help="of each row; else 3 and 20")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of finished runs")
    parser.add_argument("--again", action="store_true", help="do finished runs again")
    parser.add_argument("--only-runs", action="store_true", help="write no table")
    parser.add_argument("--quick", action="store_true", help="tiny sizes in a temporary folder")
    given = parser.parse_args(arguments)
    project, folder, changes, n_seeds = HERE.parent, given.runs, Task(), given.seeds
    if given.quick:
        project = quick_project(DOCUMENT)
        folder, n_seeds = project / "runs", 1
        changes = {
            "timerange": "20240201-20240218",
            "days": [2, 1],
            "locked": 0.82,
            "trials": 2,
            "settings": {"net_arch": [8], "train_cycles": 1},
        }
    store = RunStore(folder)
    tasks = tasks_of(n_seeds, changes)
    chosen = {name: each for name, each in tasks.items() if each["group"] in given.groups}
    store.complete(chosen, run, again=given.again)
    if given.only_runs:
        return 0
    found = measured(store.results(tasks))
    path = write("tuning", found, 1, project, DOCUMENT)
    show("tuning", found, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
