"""Fifty trainings in one process of freqtrade: what is left behind by each.

Run: ``python benchmarks/retraining.py``, a few minutes. The real ``freqtrade backtesting`` trains a
pair anew for every day of fifty. At the end of each training memory, threads, open files, child
processes and temporary files of the program are read from outside.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from report import HERE, Measured, Requirement, Workload, number, run, table

from mtf_scalper.runs.program import BacktestRequest, BacktestRun, run_backtest
from mtf_scalper.runs.project import SYNTHETIC_PERIOD
from mtf_scalper.worlds.datadir import ensure_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec

DOCUMENT = "reliability.md"
N_TRAININGS, QUICK_TRAININGS = 50, 3
FIRST_DAY = pd.Timestamp("2024-09-01")
SETTLED = 5
"""Training after which memory should not grow."""
MOST_GROWTH = 1.05
PAIR = "BTC/USDT:USDT"


@dataclass(frozen=True)
class Footprint:
    """What the program has after a training."""

    trainings: int
    megabytes: float
    threads: int
    open_files: int
    processes: int
    temporary_files: int


class Watcher:
    """Reads the program's footprint whenever another training has ended."""

    def __init__(self, temporary: Path) -> None:
        self.found: list[Footprint] = []
        self._temporary = temporary

    def __call__(self, run: BacktestRun) -> None:
        """Look whether one has."""
        done = sum(event["event"] == "training_finished" for event in run.events())
        if run.process.poll() is not None or done == (
            self.found[-1].trainings if self.found else 0
        ):
            return
        try:
            program = psutil.Process(run.process.pid)
            with program.oneshot():
                self.found.append(
                    Footprint(
                        trainings=done,
                        megabytes=program.memory_info().rss / 1e6,
                        threads=program.num_threads(),
                        open_files=len(program.open_files()),
                        processes=1 + len(program.children(recursive=True)),
                        temporary_files=sum(1 for _ in self._temporary.rglob("*")),
                    )
                )
        except psutil.NoSuchProcess:
            return


def measure(workload: Workload, repeats: int) -> Measured:
    """Train and return what there was after some of the trainings."""
    n_trainings = N_TRAININGS if workload == Workload() else QUICK_TRAININGS
    last = FIRST_DAY + pd.Timedelta(days=n_trainings)
    with tempfile.TemporaryDirectory() as folder:
        data, temporary = Path(folder) / "data", Path(folder) / "temporary"
        temporary.mkdir()
        ensure_datadir(SyntheticSpec(), data, *SYNTHETIC_PERIOD)
        project = Path(folder) / "project"
        for part in ("configs", "user_data/strategies", "user_data/freqaimodels"):
            (project / part).parent.mkdir(parents=True, exist_ok=True)
            (project / part).symlink_to(HERE.parent / part, target_is_directory=True)
        rl_config: dict[str, Any] = {"progress_bar": False, "evidence": 0.0}
        if workload != Workload():
            rl_config |= {"net_arch": [16], "train_cycles": 1}
        watcher = Watcher(temporary)
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(temporary)
        try:
            run_backtest(
                BacktestRequest(
                    project=project,
                    folder=project / "user_data" / "runs" / "retraining",
                    datadir=data,
                    timerange=f"{FIRST_DAY:%Y%m%d}-{last:%Y%m%d}",
                    overrides={
                        "exchange": {"pair_whitelist": [PAIR]},
                        "freqai": {
                            "train_period_days": 14,
                            "backtest_period_days": 1,
                            "rl_config": rl_config,
                        },
                    },
                ),
                watcher,
            )
        finally:
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before
    return measured(watcher.found, n_trainings)


def measured(found: Sequence[Footprint], n_trainings: int) -> Measured:
    """Return the table, and what has to be."""
    asked = [n for n in (1, SETTLED, 10, 20, 30, 40, n_trainings) if n <= n_trainings]
    shown = [min(found, key=lambda each: abs(each.trainings - n)) for n in dict.fromkeys(asked)]
    settled, end = min(found, key=lambda each: abs(each.trainings - SETTLED)), found[-1]
    rows = [
        [
            str(each.trainings),
            number(each.megabytes),
            *map(str, (each.threads, each.open_files, each.processes, each.temporary_files)),
        ]
        for each in shown
    ]
    header = ["trainings", "memory, MB", "threads", "open files", "processes", "temporary files"]
    return Measured(
        results={"footprints": [asdict(each) for each in found]},
        tables=[table(header, rows)],
        requirements=[
            Requirement(
                f"memory after the last of {end.trainings} trainings, over that after the fifth",
                end.megabytes / settled.megabytes,
                at_most=MOST_GROWTH,
            ),
            *(
                Requirement(
                    f"{name.replace('_', ' ')} more than after the fifth",
                    getattr(end, name) - getattr(settled, name),
                    at_most=0,
                )
                for name in ("threads", "open_files", "processes", "temporary_files")
            ),
        ],
    )


if __name__ == "__main__":
    sys.exit(run("retraining", __doc__, measure, repeats=1, document=DOCUMENT))
