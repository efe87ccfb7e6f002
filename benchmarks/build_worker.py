"""One build's side of ``builds.py``, a process of its own: trains once for every line.

``python build_worker.py CANDLES FEATURES``; a line is a ``patience`` as JSON, null for the default,
and the answer the seconds of the clock and of all processors. Nothing but what every build has is
imported.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time

import numpy as np

from mtf_scalper import Settings, train
from mtf_scalper.market.market import Market


def main(n_candles: int, n_features: int) -> None:
    """Answer line by line, until there are no more."""
    logging.disable(logging.CRITICAL)
    market = random_market(n_candles, n_features)
    for line in sys.stdin:
        patience = json.loads(line)
        settings = Settings() if patience is None else Settings(patience=patience)
        started, before = time.perf_counter(), sum(os.times()[:2])
        train(market, settings)
        taken = {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": sum(os.times()[:2]) - before,
        }
        print(json.dumps(taken), flush=True)


def random_market(n_candles: int, n_features: int, seed: int = 1) -> Market:
    """Return a random walk with random features and entry signals on 8% of the candles."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.0015, n_candles)))
    opened = np.concatenate([[100.0], close[:-1]])
    signals = rng.random((2, n_candles)) < 0.04
    return Market(
        features=rng.normal(0.0, 0.5, (n_candles, n_features)).astype(np.float32),
        ohlc=np.column_stack(
            [opened, 1.0004 * np.maximum(opened, close), 0.9996 * np.minimum(opened, close), close]
        ),
        entry_long=signals[0],
        entry_short=signals[1] & ~signals[0],
        pair="benchmark",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
