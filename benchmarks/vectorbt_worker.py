"""vectorbt's side of ``simulate.py``, a process of its own; nothing of this project is imported.

``python vectorbt_worker.py FOLDER`` reads ``candles.npz``, and for every line that it is given it
runs ``Portfolio.from_signals`` once and prints the milliseconds. The line ``trades`` makes it write
its trades to ``trades.npy`` instead.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

warnings.filterwarnings("ignore")


def main(folder: Path) -> None:
    """Answer line by line, until there are no more."""
    import vectorbt

    given = dict(np.load(folder / "candles.npz"))
    portfolio: Any = run(vectorbt, given)
    print(json.dumps({"version": vectorbt.__version__}), flush=True)
    for line in sys.stdin:
        if line.strip() == "trades":
            records = portfolio.trades.records
            is_closed = records["status"] == 1
            names = ("entry_idx", "exit_idx", "direction", "return")
            np.save(folder / "trades.npy", records.loc[is_closed, list(names)].to_numpy())
            print(json.dumps({"trades": int(is_closed.sum())}), flush=True)
            continue
        started = time.perf_counter()
        portfolio = run(vectorbt, given)
        taken = 1e3 * (time.perf_counter() - started)
        print(json.dumps({"milliseconds": taken}), flush=True)


def run(vectorbt: Any, given: dict[str, np.ndarray]) -> Any:
    """Trade once: at the close of the deciding candle, which is the next one's open."""
    return vectorbt.Portfolio.from_signals(
        given["close"],
        open=given["open"],
        high=given["high"],
        low=given["low"],
        entries=given["entry_long"],
        exits=given["leaves"],
        short_entries=given["entry_short"],
        short_exits=given["leaves"],
        fees=float(given["fee_rate"]),
        sl_stop=float(given["stop"]),
        tp_stop=given["target"],
        upon_opposite_entry="ignore",
        freq="5min",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
