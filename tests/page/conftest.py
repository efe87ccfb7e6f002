"""A run's record, written as every run writes one, with figures that the tests know."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtf_scalper import Market, Settings, TradeRules
from mtf_scalper.evaluation.accounts import PairEvidence, measure_pair
from mtf_scalper.evaluation.days import calendar_of
from mtf_scalper.evaluation.judge import Judged, judge_pairs, write_judged
from mtf_scalper.records.check import Check
from mtf_scalper.records.events import HistoryRow
from mtf_scalper.records.reader import PROBABILITIES
from mtf_scalper.records.sampler import Sample
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.simulator.playback import play
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.types import Action, Side

PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
START = pd.Timestamp("2024-10-01", tz="UTC")
DAYS, WINDOWS, PER_DAY = 14, 2, 288
WEEKS = {f"sub-train-ALL_{1727740800 + week * 604800}": week for week in range(WINDOWS)}
RULES = TradeRules(
    entry="always", stoploss=-0.01, minimal_roi={0: 0.012}, max_trade_duration_candles=24
)
SETTINGS = Settings(train_cycles=30, net_arch=(512, 512, 256), rules=RULES)

MakeRun = Callable[..., "Recorded"]


@dataclass(frozen=True)
class Recorded:
    """A run folder and what was written into it."""

    folder: Path
    trades: pd.DataFrame
    judged: Judged


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
        settings=SETTINGS,
        pairs=PAIRS,
        seeds=[42],
        timerange="20241001-20241015",
        data_digest=dict.fromkeys(PAIRS, "0123456789abcdef"),
        command=["mtf-scalper", "demo"],
    )
    markets = [market_of(pair, write_candles(record, rng, pair), rng) for pair in PAIRS]
    write_learning(record, rng)
    pairs = [traded(market, calendar_of(markets)) for market in markets]
    trades = pd.concat([write_trades(record, pair) for pair in pairs])
    days = {name: slice(7 * week, 7 * week + 7) for name, week in WEEKS.items()}
    judged = judge_pairs(calendar_of(markets), pairs, days)
    write_judged(record, judged)
    write_small(record)
    record.finish(verdict)
    return Recorded(record.folder, trades, judged)


def market_of(pair: str, candles: pd.DataFrame, rng: np.random.Generator) -> Market:
    fired = rng.random((2, len(candles))) < 0.02
    return Market(
        features=rng.standard_normal((len(candles), 2)),
        ohlc=candles[["open", "high", "low", "close"]].to_numpy(),
        entry_long=fired[0],
        entry_short=fired[1] & ~fired[0],
        fee_rate=0.0005,
        dates=candles["date"],
        pair=pair,
    )


def traded(market: Market, calendar: Any) -> PairEvidence:
    """Return what an agent earns that takes every entry and leaves by chance."""
    rng = np.random.default_rng(5)

    def choose(_row: int, states: Any, _extras: Any) -> Any:
        leave = np.where(states["side"] == Side.LONG, Action.LONG_EXIT, Action.SHORT_EXIT)
        return np.where(rng.random(len(states)) < 0.05, leave, Action.NEUTRAL)

    (run,) = play(prepare(market, SETTINGS), choose)
    return measure_pair(market, SETTINGS, {42: run}, calendar)


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
    for number, (pair, week) in enumerate((p, w) for p in PAIRS for w in range(WINDOWS)):
        first = START + pd.Timedelta(days=7 * week)
        name = f"sub-train-{pair[:3]}_{int(first.timestamp())}"
        log = record.events(pair=pair, window=name, seed=42)
        began = now + 7.0 * number
        times = {
            "train_from": (first - pd.Timedelta(days=30)).isoformat(),
            "train_to": first.isoformat(),
            "test_to": (first + pd.Timedelta(days=7)).isoformat(),
        }
        log.write("window", time=began, **times)
        log.write("training_started", time=began, total_steps=220_320)
        held = -0.02
        for cycle in range(20):
            at, steps = began + 0.1 + 0.3 * cycle, 7344 * (cycle + 1)
            held += 0.004 * rng.standard_normal() + 0.002
            facts = {"steps": steps, "seconds": at + 0.25 - began, "oracle_share": held / 0.2}
            for offset, phase in ((0.0, "evaluation"), (0.02, "update")):
                log.write("progress", time=at + offset, **facts, total_steps=220_320, phase=phase)
            row = HistoryRow(
                **facts,
                mean_episode_return=0.2 + 0.03 * cycle,
                validation_log_return=held,
                validation_trades=9 + cycle,
            )
            log.write("update", time=at + 0.29, **asdict(row))
        speed = {"steps": 146_880, "seconds": 6.2, "steps_per_second": 146_880 / 6.2}
        log.write("training_finished", time=began + 6.2, **speed)
        log.write("weights", time=began + 6.3, digest="ab" * 32, policy=None)
        log.write("prediction", time=began + 6.4, seconds=0.1)
    for state, moment in (("began", 28.0), ("ended", 32.0)):
        record.events().write("phase", time=now + moment, name="backtest", state=state)
    for number in range(64):
        record.append_sample(sample(now + 0.5 * number, rng, busy=number < 56))


def sample(moment: float, rng: np.random.Generator, *, busy: bool) -> Sample:
    level = 85.0 if busy else 20.0
    cores = np.clip(level + 8 * rng.standard_normal(2), 0, 100)
    return Sample(
        time=moment,
        seconds=0.01,
        core_percent=tuple(cores.tolist()),
        tree_percent=float(cores.sum() * 0.95),
        processes=2 + int(busy),
        workers=0,
        resident_bytes=int(7e8 + 1e7 * rng.standard_normal()),
        unique_bytes=int(5e8 + 1e7 * rng.standard_normal()),
        worker_unique_bytes=0,
        is_unique_measured=True,
    )


def write_trades(record: RunRecord, evidence: PairEvidence) -> pd.DataFrame:
    dates = evidence.dates
    rows = [
        {
            "series": "agent",
            "pair": evidence.pair,
            "window": None,
            "seed": 42,
            "side": "long" if trade.side is Side.LONG else "short",
            "open_date": dates[trade.open_row],
            "close_date": dates[trade.close_row],
            "open_rate": trade.open_rate,
            "close_rate": trade.close_rate,
            "leverage": trade.leverage,
            "profit_ratio": trade.profit_ratio,
            "log_return": float(np.log1p(trade.profit_ratio)),
            "exit_reason": str(trade.exit_reason),
            "enter_tag": "classic_long" if trade.side is Side.LONG else None,
        }
        for trade in evidence.runs[42].trades
    ]
    record.append_trades(rows)
    # A baseline's trade is no trade of the agent's.
    record.append_trades([{**rows[0], "series": "classic exits"}])
    return pd.DataFrame(rows)


def write_small(record: RunRecord) -> None:
    record.write_json(
        "importance",
        {
            f"%-feature_{n}": {"median": 0.1 / n, "low": 0.1 / n - 0.02, "high": 0.1 / n + 0.03}
            for n in range(1, 31)
        },
    )
    problem = "the median is <too low> & other programs took 48% of the machine"
    checks = (
        Check.of("layer sizes", "[512]", "[512]", ""),
        Check.of("CPU use in updates", "0.90 cores", "1.4 cores or more", problem),
    )
    record.write_json("checks", [check.as_dict() for check in checks])


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
