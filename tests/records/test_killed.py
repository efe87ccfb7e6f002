"""A recorded run is killed at random moments; whatever moment it was, its folder can be read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mtf_scalper.cli import app
from mtf_scalper.records.reader import Run, Status, runs_in

MOMENTS = 20

# One interpreter loads everything; what is killed are its children, which go on from there.
PROGRAM = """
import os, random, signal, sys, time
from pathlib import Path

import numpy as np
import pandas as pd

from mtf_scalper import Market, Settings, train
from mtf_scalper.records.sampler import ProcessSampler
from mtf_scalper.records.writer import RunRecord

root, moments = Path(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
n = 400
close = 100.0 * np.exp(np.cumsum(0.002 * rng.standard_normal(n)))
opened = np.concatenate([[100.0], close[:-1]])
dates = pd.date_range("2024-01-01", periods=n, freq="5min", tz="UTC")
ohlc = np.column_stack([opened, np.maximum(opened, close), np.minimum(opened, close), close])
market = Market(features=rng.standard_normal((n, 3)), ohlc=ohlc, pair="BTC/USDT:USDT")
settings = Settings(
    net_arch=(16,), window_size=4, train_cycles=3, batch_size=64, cpu_count=1,
    rules={"entry": "any"}, evidence=0.0,
)
candles = pd.DataFrame(ohlc, columns=["open", "high", "low", "close"]).assign(
    date=dates, volume=1.0
)
trade = {"series": "agent", "pair": market.pair, "seed": 42, "side": "long",
         "open_date": dates[0], "close_date": dates[9], "profit_ratio": 0.01}


def run():
    with RunRecord.begin(root, "training", settings=settings, pairs=[market.pair]) as record:
        with ProcessSampler(os.getpid(), interval_seconds=0.01, on_sample=record.append_sample):
            record.write_candles(market.pair, candles)
            for number in range(10**6):
                train(market, settings, record=record)
                for _ in range(50):
                    record.append_trades([trade])
                made = pd.DataFrame({"date": dates, "neutral": 1.0, "confidence": 1.0})
                record.write_predictions(market.pair, made, f"w{number}")
                record.write_json(f"more_{number}", {"figures": list(range(2000))})
                if number == 0:
                    record.write_table("equity", pd.DataFrame({"date": dates, "log_return": 0.0}))
                    record.write_json("figures", [{"pair": market.pair, "log_return": 0.1}])


def updates():
    # What the youngest child has told of; -1 before its record began.
    for folder in set(root.glob("[!.]*")) - before:
        events = folder / "events.jsonl"
        return events.read_text().count('"event": "update"') if events.exists() else 0
    return -1


train(market, settings)  # compiled and loaded once
moment = random.Random(7)
killed = 0
while killed < moments:
    before = set(root.glob("[!.]*"))
    child = os.fork()
    if child == 0:
        run()
    # Counted in updates, so that the moments lie alike on a slow machine.
    while updates() < killed % 7 and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.002)
    time.sleep(moment.uniform(0.0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    killed += 1
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starting twenty interpreters takes too long")
def test_a_run_killed_at_any_moment_leaves_a_record_that_can_be_shown(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    # The compiled simulator stays where it is; only what the run writes is new.
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(root), str(MOMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    runs = runs_in(root)
    assert len(runs) == MOMENTS == len(list(root.glob("[!.]*")))
    for run in runs:
        assert Run.open(run.folder).status is Status.KILLED
        shown = CliRunner(env={"COLUMNS": "80"}).invoke(
            app, ["runs", "show", run.run_id, "--folder", str(root)]
        )
        assert shown.exit_code == 0, f"{run.run_id}: {shown.exception!r}"
        assert "killed" in shown.output
        assert "damaged" not in shown.output
        for read in (run.samples, run.trades, run.candles, run.predictions, run.equity):
            read()
        assert set(run.history()["pair"]) <= {"BTC/USDT:USDT"}
    # The moments lie all over the run: before, within and after the first training.
    updates = [len(run.history()) for run in runs]
    assert min(updates) == 0
    assert len(set(updates)) > 4
    assert any(len(run.trades()) for run in runs)
    listed = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["runs", "list", "--folder", str(root)])
    assert listed.output.count("killed") == MOMENTS
