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
    market = market_with_a_signal(n_candles, n_features)
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


def market_with_a_signal(n_candles: int, n_features: int, seed: int = 1) -> Market:
    """Return candles that a fifth of the features foretell, and entry signals on 8% of them."""
    rng = np.random.default_rng(seed)
    signal = np.zeros(n_candles)
    for row in range(1, n_candles):
        signal[row] = 0.9 * signal[row - 1] + np.sqrt(0.19) * rng.standard_normal()
    moves = rng.normal(0.0, 0.0015, n_candles)
    moves[1:] += 0.0004 * signal[:-1]
    close = 100.0 * np.exp(np.cumsum(moves))
    opened = np.concatenate([[100.0], close[:-1]])
    features = rng.standard_normal((n_candles, n_features))
    features[:, : n_features // 5] += signal[:, None]
    signals = rng.random((2, n_candles)) < 0.04
    return Market(
        features=features.astype(np.float32),
        ohlc=np.column_stack(
            [opened, 1.0004 * np.maximum(opened, close), 0.9996 * np.minimum(opened, close), close]
        ),
        entry_long=signals[0],
        entry_short=signals[1] & ~signals[0],
        pair="benchmark",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
