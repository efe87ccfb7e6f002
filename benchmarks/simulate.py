"""One market traded once: decisions in a table here, signals given to vectorbt, the same trades.

Run: ``python benchmarks/simulate.py``. Long and short entries, exits by signal, fees, a stop and a
target; candles whose open is the close before, so that vectorbt's fills at the deciding close are
ours at the next open. Ours begins with the market and ends with trades, equity and actions;
vectorbt's ends with its order records. Both are timed in turn, warm, on one thread. vectorbt runs
in a process of its own, of the interpreter that ``MTF_SCALPER_VECTORBT`` names, or of this one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from report import (
    HERE,
    Measured,
    ParityError,
    Requirement,
    Workload,
    benchmark_market,
    run,
    spread,
    table,
    with_spread,
)

from mtf_scalper.evaluation.baselines import classic_exits, random_exits
from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.simulator.playback import INSIDE_EXITS, Simulation, play_decided
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.types import Action

CANDLES = 100_000
STOP, TARGET = 0.01, 0.02
LEAVING = 0.02
"""Share of the candles with a signal to leave."""
N_DRAWS = 100
PARITY = 1e-7
SETTINGS = Settings(
    window_size=1,
    rules=TradeRules(entry=EntryMode.CLASSIC, stoploss=-STOP, minimal_roi={0: TARGET}),
)
PYTHON = os.environ.get("MTF_SCALPER_VECTORBT", sys.executable)


def measure(workload: Workload, repeats: int, n_candles: int | None = None) -> Measured:
    """Compare the trades, then time both sides in turn."""
    if n_candles is None:
        n_candles = CANDLES if workload == Workload() else 10 * workload.n_candles
    market, decisions = market_and_decisions(n_candles)
    ours = play_decided(prepare(market, SETTINGS), decisions)[0]
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: play_decided(prepare(market, SETTINGS), decisions),
        "ours, classic exits": lambda: classic_exits(market, SETTINGS),
        "ours, hindsight optimum": lambda: oracle(market, SETTINGS),
        f"ours, {N_DRAWS} draws of random exits": lambda: random_exits(
            ours, market, SETTINGS, n_draws=N_DRAWS
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    version = "not installed"
    if sys.executable != PYTHON or importlib.util.find_spec("vectorbt") is not None:
        with vectorbt_on(market, decisions) as theirs:
            version = theirs.version
            check_trades(ours, theirs.trades(), market.fee_rate)
            times["vectorbt"] = []
            _time(sides, times, repeats, theirs)
    else:
        _time(sides, times, repeats, None)
    names = {"vectorbt": f"vectorbt {version}, `Portfolio.from_signals`"}
    rows = [
        [names.get(name, name), with_spread(found), f"{1e3 * min(found) / n_candles:,.3f}"]
        for name, found in times.items()
    ]
    requirements = []
    if "vectorbt" in times:
        ratio = spread(times["vectorbt"])["median"] / spread(times["ours"])["median"]
        requirements = [Requirement("vectorbt's time over ours", ratio, at_least=1.0)]
    return Measured(
        results={
            "threads": 1,
            "candles": n_candles,
            "trades": len(ours.trades),
            "vectorbt": version,
            "milliseconds": {name: spread(found) for name, found in times.items()},
        },
        tables=[table(["", "ms", "lowest, microseconds per candle"], rows)],
        requirements=requirements,
    )


def market_and_decisions(n_candles: int) -> tuple[Market, NDArray[np.int8]]:
    """Return a market and what is decided on it, by row and ``side + 1``.

    vectorbt enters nothing at the close of a candle inside which a stop or target was filled. An
    entry that was decided there is taken out for both, until there is none.
    """
    market = benchmark_market(n_candles=n_candles, n_features=1)
    # vectorbt may enter from the first candle to the last; ours neither on the last two.
    entries = np.stack([market.entry_long, market.entry_short])
    entries[:, -2:] = False
    leaves = np.random.default_rng(5).random(n_candles) < LEAVING
    while True:
        market = replace(market, entry_long=entries[0], entry_short=entries[1], report_gaps=False)
        decisions = np.zeros((1, n_candles, 3), dtype=np.int8)
        decisions[0, entries[0], 1] = Action.LONG_ENTER
        decisions[0, entries[1], 1] = Action.SHORT_ENTER
        leaving = leaves & ~entries.any(axis=0)  # vectorbt drops signals that contradict
        decisions[0, leaving, 2] = Action.LONG_EXIT
        decisions[0, leaving, 0] = Action.SHORT_EXIT
        (run,) = play_decided(prepare(market, SETTINGS), decisions)
        closed = [each.close_row for each in run.trades if each.exit_reason in INSIDE_EXITS]
        too_soon = np.intersect1d(closed, np.flatnonzero(run.actions % 2 == 1))
        if not len(too_soon):
            return market, decisions
        entries[:, too_soon] = False


def check_trades(ours: Simulation, theirs: NDArray[np.float64], fee_rate: float) -> None:
    """Compare our trades with vectorbt's: candles, sides and profits.

    Raises
    ------
    ParityError
        Where one differs.
    """
    inside = np.array([trade.exit_reason in INSIDE_EXITS for trade in ours.trades])
    found = np.array(
        [
            (trade.open_row - 1, trade.close_row - 1, trade.side < 0, trade.profit_ratio)
            for trade in ours.trades
        ]
    )
    found[inside, 1] += 1  # what was filled inside a candle and not at its open
    if ours.trades[-1].close_row == len(ours.equity) - 1:  # closed by the end; open in vectorbt
        found = found[:-1] if len(found) > len(theirs) else found
    if found.shape != theirs.shape:
        raise ParityError(f"{len(found)} trades here, {len(theirs)} of vectorbt")
    if (found[:, :3] != theirs[:, :3]).any():
        row = int((found[:, :3] != theirs[:, :3]).any(axis=1).argmax())
        raise ParityError(f"trade {row}: {found[row]} here, {theirs[row]} of vectorbt")
    # vectorbt's share is that of the stake without the entry's fee; ours has 8 digits.
    signs = np.where(found[:, 2] > 0, -1.0, 1.0)
    apart = np.abs(found[:, 3] * (1.0 + signs * fee_rate) - theirs[:, 3]).max()
    if not apart <= PARITY:
        raise ParityError(f"profits differ by {apart:g}")


class Theirs:
    """vectorbt in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder
        self.version: str = self._answer()["version"]

    def milliseconds(self) -> float:
        """Return what one run took."""
        return float(self._ask("run")["milliseconds"])

    def trades(self) -> NDArray[np.float64]:
        """Return entry, exit, whether short, and return of every closed trade; shape (N, 4)."""
        self._ask("trades")
        found: NDArray[np.float64] = np.load(self._folder / "trades.npy")
        return found

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def vectorbt_on(market: Market, decisions: NDArray[np.int8]) -> Iterator[Theirs]:
    """Start vectorbt with the same candles and signals; what it has to compile is compiled."""
    opened, high, low, close = market.ohlc.T
    up, down = 1.0 + market.fee_rate, 1.0 - market.fee_rate
    # Our target is a profit after both fees, vectorbt's a distance of the price.
    target_long, target_short = (1.0 + TARGET) * up / down - 1.0, 1.0 - (1.0 - TARGET) * down / up
    with tempfile.TemporaryDirectory() as folder:
        np.savez(
            Path(folder) / "candles.npz",
            open=opened,
            high=high,
            low=low,
            close=close,
            entry_long=market.entry_long,
            entry_short=market.entry_short,
            leaves=decisions[0, :, 2] != 0,
            fee_rate=market.fee_rate,
            stop=STOP,
            target=np.where(market.entry_long, target_long, target_short),
        )
        command = [PYTHON, str(HERE / "vectorbt_worker.py"), folder]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                yield Theirs(process, Path(folder))
            finally:
                assert process.stdin is not None
                process.stdin.close()


def _time(
    sides: dict[str, Callable[[], Any]],
    times: dict[str, list[float]],
    repeats: int,
    theirs: Theirs | None,
) -> None:
    """Time all sides in turn, after one call of each that is not counted."""
    for repeat in range(repeats + 1):
        for name, call in sides.items():
            started = time.perf_counter()
            call()
            taken = 1e3 * (time.perf_counter() - started)
            if repeat:
                times[name].append(taken)
        if theirs is not None:
            taken = theirs.milliseconds()
            if repeat:
                times["vectorbt"].append(taken)


if __name__ == "__main__":
    sys.exit(run("simulate", __doc__, measure, repeats=5))
