"""Builders and checks that the tests of every package share."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pandas as pd
import psutil
import pytest
from markets import walking_market
from ready_python import ReadyPython, serving

from mtf_scalper.market.candles import resample_candles, timeframe_delta
from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings
from mtf_scalper.worlds.datadir import write_datadir
from mtf_scalper.worlds.synthetic import generate_candles
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec

# The same examples in every run, and no time limit that a busy machine could miss.
hypothesis.settings.register_profile("project", derandomize=True, deadline=None)
hypothesis.settings.load_profile("project")

# What `make quick` leaves out: tests with one of these fixtures, and these files. The mark sits
# on what costs the time, so that a new test of theirs is left out as well.
MARKED_FIXTURES = {
    "program": (
        *("exchange_url", "freqtrade", "installed", "kill_once", "kill_when"),
        *("make_program", "make_request"),
        *("datadirs", "plan", "ready_python", "run_backtester", "stock", "tiny_plan"),
    ),
    "processes": ("cluster", "in_processes", "no_child_left", "start_method"),
    "browser": ("browser",),
}
SLOW_FILES = {
    "checks": ("facts",),
    "engines": ("engines", "orders"),
    "evaluation": (
        *("baselines", "bootstrap", "edge", "importance", "judge_into", "overfitting", "peers"),
        "report",
        "superiority",
    ),
    "exchange": ("server",),
    "freqai": (
        "after_a_kill",
        "datafiles",
        "faces",
        "funding",
        "live_pairs",
        "live_strategy",
        "sections",
    ),
    "market": ("base_timeframes",),
    "page": ("commands", "live", "render"),
    "ppo": (
        "compute",
        "ensemble",
        "exact_training",
        "forecasts",
        "rounded",
        "standard",
        "yardsticks",
    ),
    "records": ("killed", "sampler"),
    "rollouts": ("fast_ppo", "freqtrade_env", "process_env", "vec_env"),
    "runs": (
        *("agreement", "evaluated_peers", "evaluation", "left_out", "parity", "resumed"),
        "tuning",
    ),
    "simulator": ("advantages", "chains", "orders_parity", "playback", "user_rewards"),
    "tests": (
        *("benchmarks", "cli", "finite_weights", "installed", "jit", "notebook", "read_only"),
        *("readme", "threads_and_bits", "training"),
    ),
    "tuning": ("study",),
    "walk_forward": ("walk",),
    "worlds": ("families", "planted", "synthetic"),
}


# Files that take longest begin first, so that no process of `make test` ends long after the other.
LONGEST_FILES = (
    *("runs/whole_run", "runs/soak", "freqai/killed_bot", "freqai/recording", "freqai/parity"),
    *("page/browser", "runs/program", "runs/validation", "freqai/own_backtest"),
    *("runs/evaluation", "runs/tuning", "rollouts/process_env", "runs/lifetimes", "page/live"),
    *(
        "tests/installed",
        "rollouts/freqtrade_env",
        "freqai/plots_in_program",
        "freqai/parity_of_data",
    ),
    *("worlds/planted", "freqai/model", "rollouts/vec_env", "tests/readme"),
    *("tests/training", "walk_forward/walk", "tests/benchmarks", "freqai/left_out"),
    *(
        "freqai/stock_strategy",
        "simulator/orders_parity",
        "tests/threads_and_bits",
        "tests/notebook",
    ),
    "freqai/live_pairs",
)


def place(item: pytest.Item) -> int:
    """Return where an item's file stands among the longest."""
    name = f"{item.path.parent.name}/{item.path.stem.removeprefix('test_')}"
    return LONGEST_FILES.index(name) if name in LONGEST_FILES else len(LONGEST_FILES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts a program or processes, opens a browser, or takes long; sort the files."""
    items.sort(key=place)
    for item in items:
        needed = set(getattr(item, "fixturenames", ()))
        for mark, fixtures in MARKED_FIXTURES.items():
            if needed & set(fixtures):
                item.add_marker(mark)
        if item.path.stem.removeprefix("test_") in SLOW_FILES.get(item.path.parent.name, ()):
            item.add_marker("slow")


InventedMarket = Callable[..., Path]
WarmDatadir = Callable[..., None]
MakeMarket = Callable[..., Market]
MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="session")
def real_candles_folder() -> Path:
    """Freqtrade data directory with real candles; skips where there is none."""
    named = os.environ.get("MTF_SCALPER_CANDLES")
    beside = Path(__file__).resolve().parents[2] / "shared" / "candles" / "binance"
    folder = Path(named) if named else beside
    if not folder.is_dir():
        pytest.skip(f"no real candles: MTF_SCALPER_CANDLES is unset and {beside} does not exist")
    return folder


@pytest.fixture(scope="session")
def invented_market() -> InventedMarket:
    """Return a writer of freqtrade data directories whose shortest candles are of any timeframe.

    The prices are those of the synthetic market, one candle per candle of 5m.
    """

    def write(
        folder: Path,
        timeframes: Sequence[str],
        n_candles: int,
        *,
        pairs: Sequence[str] = ("BTC/USDT:USDT",),
        start: str = "2024-01-01",
        seed: int = 1,
        **spec: float,
    ) -> Path:
        base = min(timeframes, key=timeframe_delta)
        futures = folder / "futures"
        futures.mkdir(parents=True)
        first = pd.Timestamp(start, tz="UTC")
        end = first + n_candles * pd.Timedelta(minutes=5)
        for pair in pairs:
            candles = generate_candles(SyntheticSpec(seed=seed, **spec), pair, first, end)
            dates = pd.date_range(first, periods=n_candles, freq=timeframe_delta(base), unit="ms")
            candles["date"] = dates
            name = pair.replace("/", "_").replace(":", "_")
            for timeframe in timeframes:
                made = candles if timeframe == base else resample_candles(candles, timeframe, base)
                made.to_feather(futures / f"{name}-{timeframe}-futures.feather")
            shortest = max(("1h", base), key=timeframe_delta)
            marks = candles if base == shortest else resample_candles(candles, shortest, base)
            marks = marks.assign(volume=0.0)
            marks.to_feather(futures / f"{name}-1h-mark.feather")
            due = marks["date"].dt.hour % 8 == 0
            rates = marks[due].assign(open=0.0001, high=0.0, low=0.0, close=0.0)
            rates.reset_index(drop=True).to_feather(futures / f"{name}-1h-funding_rate.feather")
        return folder

    return write


@pytest.fixture(scope="session")
def warm_datadir() -> WarmDatadir:
    """Return a writer of synthetic data directories with days for indicators to settle before."""

    def write(spec: SyntheticSpec, folder: Path, start: str, end: str, *, days: int) -> None:
        write_datadir(spec, folder, start, end)
        first = pd.Timestamp(start, tz="UTC")
        before = folder.with_name(f"{folder.name}-before")
        write_datadir(spec, before, first - pd.Timedelta(days=days), first)
        for each in spec.pairs:
            name = each.pair.replace("/", "_").replace(":", "_")
            five = f"futures/{name}-5m-futures.feather"
            joins = pd.read_feather(folder / five)["open"].iloc[0]
            ratio = joins / pd.read_feather(before / five)["close"].iloc[-1]
            decimals = len(f"{each.tick_size:g}".partition(".")[2])
            for path in sorted(folder.glob(f"futures/{name}-*.feather")):
                earlier = pd.read_feather(before / "futures" / path.name)
                if "funding_rate" not in path.name:
                    prices = ["open", "high", "low", "close"]
                    earlier[prices] = (earlier[prices] * ratio).round(decimals)
                whole = pd.concat([earlier, pd.read_feather(path)], ignore_index=True)
                whole.to_feather(path)

    return write


@pytest.fixture(scope="session")
def make_market() -> MakeMarket:
    """Return a builder of markets: of the given candles, or of a seeded random walk."""

    return walking_market


@pytest.fixture(scope="session")
def tiny_settings() -> MakeSettings:
    """Return a maker of settings with which a training takes a second."""

    def make(**values: Any) -> Settings:
        defaults: dict[str, Any] = {
            "advantage": "gae",
            "n_envs": 2,
            "n_steps": 64,
            "batch_size": 32,
            "n_epochs": 2,
            "train_cycles": 1,
            "net_arch": (16,),
            "window_size": 4,
            "device": "cpu",
            "cpu_count": 1,
            "rules": {"entry": "any"},
        }
        return Settings(**{**defaults, **values})

    return make


@pytest.fixture(scope="session")
def ready_python() -> Iterator[ReadyPython]:
    """Return what makes ``python -m module ...`` a command that finds its libraries imported."""
    with serving() as ready:
        yield ready


Ready = Callable[[list[psutil.Process]], bool]
KillWhen = Callable[..., tuple[list[psutil.Process], list[psutil.Process]]]


@contextlib.contextmanager
def killing() -> Iterator[KillWhen]:
    """Yield what starts a program, kills it when its descendants are as wanted, and looks on.

    It returns all descendants that were ever seen, and those of them that live on after so many
    seconds. They are killed in the end.
    """
    seen: list[psutil.Process] = []

    def kill(
        command: Sequence[str],
        is_ready: Ready,
        how: int = signal.SIGTERM if os.name == "nt" else signal.SIGKILL,
        *,
        patience: float = 60.0,  # one that is still loading on a busy machine has to get to its end
        **options: Any,
    ) -> tuple[list[psutil.Process], list[psutil.Process]]:
        with subprocess.Popen(list(command), **options) as started:
            root, deadline = psutil.Process(started.pid), time.monotonic() + 300.0
            try:
                while True:
                    assert started.poll() is None, f"it ended with {started.returncode} by itself"
                    assert time.monotonic() < deadline, f"not ready: {seen}"
                    now = root.children(recursive=True)
                    seen.extend(child for child in now if child not in seen)
                    if is_ready(now):
                        break
                    time.sleep(0.02)
                started.send_signal(how)
                started.wait(30.0)
            finally:
                started.kill()
        deadline = time.monotonic() + patience
        while any(map(lives, seen)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return seen, [child for child in seen if lives(child)]

    try:
        yield kill
    finally:
        for child in filter(lives, seen):  # where the test fails, and is right to
            child.kill()


@pytest.fixture
def kill_when() -> Iterator[KillWhen]:
    """Return what starts a program and kills it; see ``killing``."""
    with killing() as kill:
        yield kill


@pytest.fixture(scope="module")
def kill_once() -> Iterator[KillWhen]:
    """Return the same for a program that several tests of a file look at."""
    with killing() as kill:
        yield kill


def lives(process: psutil.Process) -> bool:
    """Return whether a process runs; one that nobody has waited for yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def no_child_left() -> Iterator[None]:
    """Fail the test if it leaves a process behind that was not there before."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = [
        child
        for child in psutil.Process().children(recursive=True)
        if child not in before and child.status() != psutil.STATUS_ZOMBIE
    ]
    assert left == []
