"""The reference recipe's *before* and *after* settings, on the same market, in one run.

Every recipe trains the same number of environment steps with 10 epochs per rollout. Run:
``python benchmarks/training.py``; it exits with 0 whatever comes out, for it only measures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from typing import Any

import psutil
from report import WINDOW, benchmark_market, spread, write_results

from mtf_scalper.compute import available_cpus
from mtf_scalper.market.market import Market
from mtf_scalper.monitoring.speed import BEFORE
from mtf_scalper.settings import Settings, VecEnvKind
from mtf_scalper.training import train

STEPS = 32768
AFTER: dict[str, Any] = {
    "n_envs": 8,
    "vec_env": VecEnvKind.SUBPROC,
    "n_steps": 4096,
    "batch_size": 256,
    "net_arch": (512, 512, 256),
}
RECIPES = {
    "before": BEFORE,
    "after": AFTER,
    "after, dummy": {**AFTER, "vec_env": VecEnvKind.DUMMY},
    "after, batched": {**AFTER, "vec_env": VecEnvKind.BATCHED},
    "before, one torch thread": {**BEFORE, "cpu_count": 1},
}


class TreeMeter:
    """CPU time of this process and its children while a block runs."""

    def __enter__(self) -> TreeMeter:
        """Start sampling."""
        self._cpu: dict[int, float] = {}
        self._stop = threading.Event()
        self._sample()
        self._cpu_before = sum(self._cpu.values())
        self._started = time.perf_counter()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        self.seconds = time.perf_counter() - self._started
        self._stop.set()
        self._thread.join()

    @property
    def cpu_share(self) -> float:
        """Share of the machine's CPUs that the tree kept busy."""
        used = sum(self._cpu.values()) - self._cpu_before
        return used / self.seconds / available_cpus()

    def _loop(self) -> None:
        while not self._stop.wait(0.5):
            self._sample()

    def _sample(self) -> None:
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            self._cpu[process.pid] = times.user + times.system


def measure(market: Market, recipe: dict[str, Any]) -> dict[str, float]:
    """Train once and return what it took."""
    cycles = max(1, round(STEPS / len(market)))
    settings = Settings(**recipe, train_cycles=cycles, window_size=WINDOW)
    # Exactly STEPS steps for every recipe: whole rollouts of all of them divide it.
    fitting = market.slice(0, STEPS // cycles)
    with TreeMeter() as meter:
        result = train(fitting, settings)
    return {
        "steps": result.steps,
        "steps_per_second": result.steps_per_second,
        "cpu_share": meter.cpu_share,
        "torch_threads": result.compute.threads,
    }


def main() -> int:
    """Measure every recipe in turn, several times, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    market = benchmark_market(n_candles=8192)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in RECIPES}
    for _ in range(repeats):
        for name, recipe in RECIPES.items():
            runs[name].append(measure(market, recipe))
            print(f"{name}: {runs[name][-1]['steps_per_second']:,.0f} steps/s", flush=True)
    table = {}
    for name, recipe_runs in runs.items():
        table[name] = {key: spread([run[key] for run in recipe_runs]) for key in recipe_runs[0]} | {
            "ratio_to_before": spread(
                [
                    run["steps_per_second"] / before["steps_per_second"]
                    for run, before in zip(recipe_runs, runs["before"], strict=True)
                ]
            )
        }
    path = write_results("training", {"steps": STEPS, "repeats": repeats, "recipes": table})
    print(f"\n{'recipe':<26}{'steps/s':>9}{'ratio':>7}{'CPU':>6}")
    for name, row in table.items():
        speed, ratio = row["steps_per_second"]["median"], row["ratio_to_before"]["median"]
        share = row["cpu_share"]["median"]
        print(f"{name:<26}{speed:>9,.0f}{ratio:>7.2f}{share:>6.0%}")
    counts = {statistics.median(run["steps"] for run in rs) for rs in runs.values()}
    print(f"steps of every recipe: {sorted(counts)}; written to {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
