"""A run's record, written as every run writes one, with figures that the tests know."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.records.reader import PROBABILITIES
from mtf_scalper.records.writer import RunRecord

PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
START = pd.Timestamp("2024-10-01", tz="UTC")
DAYS, WINDOWS, PER_DAY = 14, 2, 288
REASONS = ("agent_exit", "roi", "stop_loss", "max_duration", "force_exit")

MakeRun = Callable[..., "Recorded"]


@dataclass(frozen=True)
class Recorded:
    """A run folder and what was written into it."""

    folder: Path
    trades: pd.DataFrame
    figures: list[dict[str, Any]]
    random_exits: dict[str, list[float]]
    equity: pd.DataFrame


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Return a writer of whole runs; ``kind`` names the folder."""

    def make(kind: str = "demo", **more: Any) -> Recorded:
        return write_run(tmp_path_factory.mktemp("runs"), kind, **more)

    return make


@pytest.fixture(scope="session")
def recorded(make_run: MakeRun) -> Recorded:
    """Return the finished run that most tests look at."""
    return make_run()


@pytest.fixture
def bare(tmp_path: Path) -> RunRecord:
    """Return a record of this very process that holds nothing but its manifest."""
    return RunRecord.begin(tmp_path, "demo", pairs=PAIRS)


def write_run(root: Path, kind: str, *, verdict: str = "No evidence of an edge.") -> Recorded:
    """Write a finished run of two pairs and two windows."""
    rng = np.random.default_rng(11)
    record = RunRecord.begin(
        root,
        kind,
        settings={"train_cycles": 30, "net_arch": [512, 512, 256], "rules": {"entry": "always"}},
        pairs=PAIRS,
        seeds=[42],
        timerange="20241001-20241015",
        data_digest=dict.fromkeys(PAIRS, "0123456789abcdef"),
        command=["mtf-scalper", "demo"],
    )
    candles = {pair: write_candles(record, rng, pair) for pair in PAIRS}
    write_learning(record, rng)
    trades = pd.concat([write_trades(record, rng, pair, candles[pair]) for pair in PAIRS])
    equity = write_equity(record, rng, candles, trades)
    finals = equity.groupby(["pair", "series"])["log_return"].last()
    draws = {
        pair: (finals[pair, "agent"] + 0.05 * rng.standard_normal(100)).tolist()
        for pair in (*PAIRS, "all")
    }
    record.write_json("random_exits", draws)
    figures = write_figures(record, finals, trades, draws)
    write_small(record)
    record.finish(verdict)
    return Recorded(record.folder, trades, figures, draws, equity)


def write_candles(record: RunRecord, rng: np.random.Generator, pair: str) -> pd.DataFrame:
    n = DAYS * PER_DAY
    dates = pd.date_range(START, periods=n, freq="5min")
    close = (60_000 if pair.startswith("BTC") else 2500) * np.exp(
        np.cumsum(0.0012 * rng.standard_normal(n))
    )
    opened = np.concatenate([close[:1], close[:-1]])
    wick = np.exp(0.0006 * np.abs(rng.standard_normal((2, n))))
    table = pd.DataFrame(
        {
            "date": dates,
            "open": opened,
            "high": np.maximum(opened, close) * wick[0],
            "low": np.minimum(opened, close) / wick[1],
            "close": close,
            "volume": rng.random(n),
        }
    )
    record.write_candles(pair, table)
    chances = rng.dirichlet([8, 1, 2, 1, 2], size=n)
    found = pd.DataFrame(chances, columns=list(PROBABILITIES)).assign(
        date=dates, confidence=chances.max(axis=1)
    )
    record.write_predictions(pair, found)
    return table


def write_learning(record: RunRecord, rng: np.random.Generator) -> None:
    """Write events of four trainings and samples, as if they had just been made."""
    now = time.time()
    lines: list[dict[str, Any]] = []
    for number, (pair, window) in enumerate((p, w) for p in PAIRS for w in range(WINDOWS)):
        first = START + pd.Timedelta(days=7 * window)
        name = f"sub-train-{pair[:3]}_{int(first.timestamp())}"
        key = {"pair": pair, "window": name, "seed": 42}
        began = now + 7.0 * number
        times = {
            "train_from": (first - pd.Timedelta(days=30)).isoformat(),
            "train_to": first.isoformat(),
            "test_to": (first + pd.Timedelta(days=7)).isoformat(),
        }
        lines.append({"event": "window", "time": began, **key, **times})
        lines.append({"event": "training_started", "time": began, **key, "total_steps": 220_320})
        held = -0.02
        for cycle in range(20):
            at, steps = began + 0.1 + 0.3 * cycle, 7344 * (cycle + 1)
            held += 0.004 * rng.standard_normal() + 0.002
            facts = {"steps": steps, "seconds": at + 0.25 - began, "oracle_share": held / 0.2}
            for offset, phase in ((0.0, "evaluation"), (0.02, "update")):
                lines.append(
                    {
                        "event": "progress",
                        "time": at + offset,
                        **key,
                        **facts,
                        "total_steps": 220_320,
                        "phase": phase,
                    }
                )
            lines.append(
                {
                    "event": "update",
                    "time": at + 0.29,
                    **key,
                    **facts,
                    "mean_episode_return": 0.2 + 0.03 * cycle,
                    "validation_log_return": held,
                    "validation_trades": 9 + cycle,
                }
            )
        lines.append(
            {
                "event": "training_finished",
                "time": began + 6.2,
                **key,
                "steps": 146_880,
                "seconds": 6.2,
                "steps_per_second": 146_880 / 6.2,
            }
        )
        lines.append({"event": "prediction", "time": began + 6.4, **key, "seconds": 0.1})
    lines.append({"event": "phase", "time": now + 28.0, "name": "backtest", "state": "began"})
    lines.append({"event": "phase", "time": now + 32.0, "name": "backtest", "state": "ended"})
    write_lines(record.folder / "events.jsonl", lines)
    write_lines(
        record.folder / "samples.jsonl",
        [sample(now + 0.5 * number, rng, busy=number < 56) for number in range(64)],
    )


def sample(moment: float, rng: np.random.Generator, *, busy: bool) -> dict[str, Any]:
    level = 85.0 if busy else 20.0
    cores = np.clip(level + 8 * rng.standard_normal(2), 0, 100)
    return {
        "time": moment,
        "seconds": 0.01,
        "core_percent": cores.tolist(),
        "tree_percent": float(cores.sum() * 0.95),
        "processes": 2 + int(busy),
        "workers": 0,
        "resident_bytes": int(7e8 + 1e7 * rng.standard_normal()),
        "unique_bytes": int(5e8 + 1e7 * rng.standard_normal()),
        "worker_unique_bytes": 0,
        "is_unique_measured": True,
    }


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def write_trades(
    record: RunRecord, rng: np.random.Generator, pair: str, candles: pd.DataFrame
) -> pd.DataFrame:
    rows = []
    row = 20
    while row < len(candles) - 80:
        end = row + int(rng.integers(6, 60))
        side = "long" if rng.random() < 0.6 else "short"
        paid, got = candles["open"][row], candles["open"][end]
        profit = (1 if side == "long" else -1) * (got / paid - 1) - 0.001
        rows.append(
            {
                "series": "agent",
                "pair": pair,
                "window": None,
                "seed": 42,
                "side": side,
                "open_date": candles["date"][row].isoformat(),
                "close_date": candles["date"][end].isoformat(),
                "open_rate": paid,
                "close_rate": got,
                "leverage": 1.0,
                "profit_ratio": profit,
                "log_return": float(np.log1p(profit)),
                "exit_reason": str(rng.choice(REASONS, p=[0.5, 0.2, 0.15, 0.1, 0.05])),
                "enter_tag": "classic_long" if side == "long" else None,
            }
        )
        row = end + int(rng.integers(20, 120))
    record.append_trades(rows)
    # A baseline's trade is no trade of the agent's.
    record.append_trades([{**rows[0], "series": "classic exits"}])
    return pd.DataFrame(rows)


def write_equity(
    record: RunRecord,
    rng: np.random.Generator,
    candles: dict[str, pd.DataFrame],
    trades: pd.DataFrame,
) -> pd.DataFrame:
    parts = []
    for pair, table in candles.items():
        n = len(table)
        mine = trades[trades["pair"] == pair]
        steps = np.zeros(n)
        for trade in mine.itertuples():
            row = int((pd.Timestamp(trade.close_date) - START) / pd.Timedelta(minutes=5))
            steps[row] += trade.log_return
        lines = {
            "agent": np.cumsum(steps),
            "oracle": np.linspace(0, 0.9, n) + 0.01 * np.abs(rng.standard_normal(n)),
            "classic exits": np.cumsum(steps) * 1.3 - 0.01,
            "buy and hold": np.log(table["close"] / table["open"][0]).to_numpy(),
            "flat": np.zeros(n),
        }
        for series, values in lines.items():
            parts.append(
                pd.DataFrame(
                    {
                        "date": table["date"],
                        "pair": pair,
                        "seed": 42,
                        "series": series,
                        "log_return": values,
                    }
                )
            )
    whole = pd.concat(parts, ignore_index=True)
    summed = whole.groupby(["date", "seed", "series"], as_index=False)["log_return"].sum()
    whole = pd.concat([whole, summed.assign(pair="all")], ignore_index=True)
    record.write_table("equity", whole[["date", "pair", "seed", "series", "log_return"]])
    return whole


def write_figures(
    record: RunRecord, finals: pd.Series, trades: pd.DataFrame, draws: dict[str, list[float]]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for pair in ("all", *PAIRS):
        mine = trades if pair == "all" else trades[trades["pair"] == pair]
        value = float(finals[pair, "agent"])
        rows.append(
            {
                "pair": pair,
                "window": None,
                "seed": None,
                "log_return": value,
                "intervals": {"log_return": [value - 0.1, value + 0.1]},
                "n_trades": len(mine),
                "win_rate": float((mine["profit_ratio"] > 0).mean()),
                "average_trade": float(mine["profit_ratio"].mean()),
                "max_drawdown": 0.07,
                "oracle": float(finals[pair, "oracle"]),
                "oracle_share": value / float(finals[pair, "oracle"]),
                "classic_exits": float(finals[pair, "classic exits"]),
                "buy_and_hold": float(finals[pair, "buy and hold"]),
                "random_rank": float(np.mean(np.array(draws[pair]) < value)),
                "degenerate": None,
            }
        )
        if pair != "all":
            rows += [
                {
                    **rows[-1],
                    "window": f"sub-train-{pair[:3]}_{1727740800 + w * 604800}",
                    "seed": 42,
                }
                for w in range(WINDOWS)
            ]
    record.write_json("figures", rows)
    return rows


def write_small(record: RunRecord) -> None:
    record.write_json(
        "importance",
        {
            f"%-feature_{n}": {"median": 0.1 / n, "low": 0.1 / n - 0.02, "high": 0.1 / n + 0.03}
            for n in range(1, 31)
        },
    )
    record.write_json(
        "checks",
        [
            {"name": "layer sizes", "measured": "[512]", "expected": "[512]", "verdict": "passed"},
            {
                "name": "CPU use in updates",
                "measured": "0.90 cores",
                "expected": "1.4 cores or more",
                "verdict": "failed",
                "reason": "the median is <too low> & other programs took 48% of the machine",
            },
        ],
    )
    record.write_json("statistics", {"spa": {"p_value": 0.41, "variants": 12}})


def chromium() -> str | None:
    """Return the path of the system's Chromium, or of what the environment variable names."""
    named = os.environ.get("MTF_SCALPER_CHROMIUM")
    if named:
        return named
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a headless Chromium; skips where there is none.

    One per module: while playwright runs it owns this thread's event loop, which other tests need.
    """
    path = chromium()
    if path is None:
        pytest.skip("no Chromium: install the system's package, or set MTF_SCALPER_CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api")
    # The sandbox refuses to run as root, as which containers run tests.
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if is_root else []
        found = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield found
        finally:
            found.close()
