"""What every benchmark needs: a market, repeats, the machine, and a file with the results."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mtf_scalper.compute import available_cpus
from mtf_scalper.market.market import Market

RESULTS = Path(__file__).parent / "results"
N_CANDLES, N_FEATURES, WINDOW = 7344, 40, 10
"""30 days of 5m candles less 15% for validation, as FreqAI hands them over."""


def benchmark_market(seed: int = 1, n_candles: int = N_CANDLES) -> Market:
    """Return a random walk with random features and entry signals on 8% of the candles."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.0015, n_candles)))
    opened = np.concatenate([[100.0], close[:-1]])
    high = np.maximum(opened, close) * (1.0 + rng.exponential(0.0004, n_candles))
    low = np.minimum(opened, close) * (1.0 - rng.exponential(0.0004, n_candles))
    signals = rng.random((2, n_candles)) < 0.04
    return Market(
        features=rng.normal(0.0, 0.5, (n_candles, N_FEATURES)).astype(np.float32),
        ohlc=np.column_stack([opened, high, low, close]),
        entry_long=signals[0],
        entry_short=signals[1] & ~signals[0],
        pair="benchmark",
    )


def spread(values: list[float]) -> dict[str, float]:
    """Return median, lowest and highest of the repeats."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    packages = ("torch", "stable-baselines3", "numpy", "gymnasium", "freqtrade")
    return {
        "cpu": _cpu_model(),
        "cpus": available_cpus(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": _commit(),
    }


def write_results(name: str, results: dict[str, Any]) -> Path:
    """Write the results beside the machine they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n", "utf-8")
    return path


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _commit() -> str:
    command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
