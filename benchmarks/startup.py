"""What compiling costs: the first run with an empty cache, and the runs after it.

Run: ``python benchmarks/startup.py``. Each run is a fresh process that trains on a tiny market with
validation, twice. What the first training takes beyond the second is compiling, or loading from
numba's cache. stable-baselines3 trains before both, so that torch's own start is in neither.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

from report import (
    QUICK,
    Measured,
    Requirement,
    Workload,
    in_fresh_process,
    run,
    spread,
    table,
    with_spread,
)

from mtf_scalper.settings import EntryMode
from mtf_scalper.training import train


def measure(workload: Workload, repeats: int) -> Measured:
    """Compile once per repeat in an empty cache, and load from it; sizes make no difference."""
    compiled, loaded = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for seconds in (compiled, loaded):
                environment = {"NUMBA_CACHE_DIR": cache}
                seconds.append(
                    in_fresh_process("startup:seconds_beyond_work", environment=environment)
                )
    return measured(compiled, loaded)


def measured(compiled: list[float], loaded: list[float]) -> Measured:
    """Return results and verdicts of seconds with an empty and with a filled cache."""
    rows = [
        ["empty cache: compile everything", with_spread(compiled)],
        ["filled cache: load everything", with_spread(loaded)],
    ]
    results: dict[str, Any] = {"empty_cache": spread(compiled), "filled_cache": spread(loaded)}
    return Measured(
        results={"seconds": results},
        tables=[table(["first training of a process", "seconds beyond the work"], rows)],
        requirements=[
            Requirement("compile", results["empty_cache"]["median"], at_most=20.0, unit="s"),
            Requirement("load", results["filled_cache"]["median"], at_most=1.0, unit="s"),
        ],
    )


def seconds_beyond_work() -> float:
    """Return how much longer this process's first training takes than its second."""
    market = QUICK.market()
    stock = QUICK.settings(EntryMode.ALWAYS, algorithm="ppo", vec_env="dummy")
    train(market, stock)
    settings = QUICK.settings(EntryMode.ALWAYS)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        train(market, settings, validation=market)
        seconds.append(time.perf_counter() - started)
    return seconds[0] - seconds[1]


if __name__ == "__main__":
    sys.exit(run("startup", __doc__, measure, repeats=2))
