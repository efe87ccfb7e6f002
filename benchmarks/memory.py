"""Memory that eight environments take beyond one: what is unique to the training's processes.

Run: ``python benchmarks/memory.py``. Each training, one pass over the candles with one
epoch per rollout, runs in a fresh process. Unique memory (USS) is summed over the process and all
its children, rollout buffers included, when a rollout ends and when the training ends; the largest
sum counts.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import Any

import psutil
from report import (
    Measured,
    Requirement,
    Workload,
    in_fresh_process,
    run,
    spread,
    table,
    with_spread,
)

from mtf_scalper.records.events import Progress
from mtf_scalper.settings import EntryMode
from mtf_scalper.training import train

KINDS = {"batched": "fast_ppo", "subproc": "ppo"}
"""Kinds of environments and what learns on them."""
_MEGABYTE = 1e6


def measure(workload: Workload, repeats: int) -> Measured:
    """Return the unique memory of trainings on one and on all environments."""
    counts = (1, workload.n_envs)
    taken: dict[str, dict[int, list[float]]] = {kind: {n: [] for n in counts} for kind in KINDS}
    for _ in range(repeats):
        for kind, by_count in taken.items():
            for n_envs, values in by_count.items():
                arguments = [kind, KINDS[kind], n_envs, asdict(workload)]
                values.append(in_fresh_process("memory:training_megabytes", *arguments))
    return measured(taken)


def measured(taken: dict[str, dict[int, list[float]]]) -> Measured:
    """Return results and verdicts of megabytes by kind and by two numbers of environments."""
    rows, results, extra = [], {}, {}
    n_envs = max(next(iter(taken.values())))
    for kind, by_count in taken.items():
        one, many = by_count.values()
        extra[kind] = [more - less for less, more in zip(one, many, strict=True)]
        rows.append([f"`{kind}`", *(with_spread(v) for v in (one, many, extra[kind]))])
        results[kind] = {
            "algorithm": KINDS[kind],
            "megabytes": {str(n): spread(values) for n, values in by_count.items()},
            "extra_megabytes": spread(extra[kind]),
        }
    what = f"{n_envs} environments beyond 1, `batched`"
    header = ["`vec_env`", "1 environment, MB", f"{n_envs} environments, MB", "more, MB"]
    return Measured(
        results={"n_envs": n_envs, "kinds": results},
        tables=[table(header, rows)],
        requirements=[
            Requirement(what, spread(extra["batched"])["median"], at_most=100.0, unit="MB")
        ],
    )


def training_megabytes(kind: str, algorithm: str, n_envs: int, sizes: dict[str, Any]) -> float:
    """Return the largest unique memory seen in a training on ``n_envs`` environments, in MB."""
    workload = replace(Workload(**sizes), n_envs=n_envs, n_epochs=1)
    settings = workload.settings(
        EntryMode.ALWAYS, vec_env=kind, algorithm=algorithm, train_cycles=1
    )
    megabytes: list[float] = []

    def look(progress: Progress) -> None:
        if progress.phase == "update":
            megabytes.append(tree_megabytes())

    train(workload.market(), settings, on_progress=look)
    return max(megabytes)


def tree_megabytes() -> float:
    """Return the unique memory of this process and all its children, in MB."""
    me = psutil.Process()
    tree: list[Any] = [me, *me.children(recursive=True)]
    return sum(process.memory_full_info().uss for process in tree) / _MEGABYTE


if __name__ == "__main__":
    sys.exit(run("memory", __doc__, measure, repeats=2))
