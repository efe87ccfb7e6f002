"""A small synthetic market, freqtrade's own configuration and exchange, and models to train."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from freqtrade.configuration import TimeRange, setup_utils_configuration
from freqtrade.data.dataprovider import DataProvider
from freqtrade.data.history import load_pair_history
from freqtrade.enums import CandleType, RunMode
from freqtrade.exchange import Exchange
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.persistence.usedb_context import disable_database_use, enable_database_use
from freqtrade.resolvers import ExchangeResolver, StrategyResolver
from freqtrade.strategy import IStrategy
from ready_python import ReadyPython

from mtf_scalper.exchange import offline_exchange_config, running_exchange
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.records.reader import Run, runs_in
from mtf_scalper.records.writer import RUN_VARIABLE
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec

PROJECT = Path(__file__).resolve().parents[2]
PAIR = "BTC/USDT:USDT"
TRAINED_DAY, NEXT_DAY = "20240129-20240130", "20240130-20240131"

# Two days, each with a training. The last trade is open when it ends, in the second one's night.
END = pd.Timestamp("2024-01-31 03:20", tz="UTC")
PERIOD = f"20240130-{END.timestamp():.0f}"
BACKTEST = ("backtesting", "--timerange", PERIOD, "--cache", "none", "--backtest-directory")

# One day to train on, a network that learns in a second, and no processes. What it learns from one
# day declines entries at random, or all of them; tests of what happens to trades need trades.
SMALL: dict[str, Any] = {
    "freqai": {
        "train_period_days": 1,
        "backtest_period_days": 1,
        "conv_width": 4,
        "activate_tensorboard": False,
        "model_training_parameters": {"n_epochs": 2},
        "rl_config": {
            "entry": "always",
            "train_cycles": 1,
            "cpu_count": 1,
            "n_envs": 2,
            "n_steps": 64,
            "batch_size": 32,
            "net_arch": [16],
            "progress_bar": False,
        },
    }
}

# With nothing held back the last weights of a training are kept, whatever they are worth.
UNSELECTED: dict[str, Any] = {
    "data_split_parameters": {"test_size": 0.01},
    "rl_config": {"validation_share": 0.0},
}

# freqtrade calls pandas in ways that pandas 3.1 deprecates; nothing of ours does.
OF_FREQTRADE = pytest.mark.filterwarnings(
    "ignore:The inplace keyword in:pandas.errors.Pandas4Warning",
    "ignore:Series.values returning an ndarray that drops:pandas.errors.Pandas4Warning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(OF_FREQTRADE)


Config = dict[str, Any]
MakeConfig = Callable[..., Config]
MakeStrategy = Callable[..., IStrategy]


@pytest.fixture(scope="session")
def project() -> Path:
    """Root of the project, with ``configs`` and ``user_data``."""
    return PROJECT


@pytest.fixture(scope="session")
def datadir(tmp_path_factory: pytest.TempPathFactory, warm_datadir: Callable[..., None]) -> Path:
    """Ten wild days of BTC and ETH across the end of a month; indicators are warm from day 5 on."""
    folder = tmp_path_factory.mktemp("market") / "binance"
    spec = SyntheticSpec(seed=7, volatility=0.004, jump_probability=0.01)
    warm_datadir(spec, folder, "2024-01-24", "2024-02-03 01:00", days=5)
    return folder


@pytest.fixture(scope="session")
def exchange_url(datadir: Path) -> Iterator[str]:
    with running_exchange(datadir) as url:
        yield url


@pytest.fixture(scope="session")
def arguments_for(
    datadir: Path, exchange_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Any]]:
    """Return a function that writes config files of a run and says what the program is told."""

    def write(overrides: Config | None = None, *, small: bool = True) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("run")
        (folder / "user_data").mkdir()
        files = [PROJECT / "configs" / "config_rl_hybrid.json"]
        layers = [offline_exchange_config(exchange_url), SMALL if small else {}, overrides or {}]
        for number, layer in enumerate(layers):
            files.append(folder / f"{number}.json")
            files[-1].write_text(json.dumps(layer), encoding="utf-8")
        return {
            "config": [str(file) for file in files],
            "user_data_dir": str(folder / "user_data"),
            "datadir": str(datadir),
            "strategy": "MtfScalper_RL_Hybrid",
            "strategy_path": str(PROJECT / "user_data" / "strategies"),
            "freqaimodel": "MtfScalperRLModel",
            "freqaimodel_path": str(PROJECT / "user_data" / "freqaimodels"),
            "timerange": NEXT_DAY,
            "export": "none",
        }

    return write


@pytest.fixture(scope="session")
def make_config(arguments_for: Callable[..., dict[str, Any]]) -> MakeConfig:
    """Return a loader of the shipped configuration, as the program loads it, with overrides."""

    def load(overrides: Config | None = None, *, small: bool = True, **arguments: Any) -> Config:
        given = {**arguments_for(overrides, small=small), **arguments}
        return setup_utils_configuration(given, RunMode.BACKTEST)

    return load


@pytest.fixture(scope="session")
def exchange(make_config: MakeConfig) -> Iterator[Exchange]:
    """freqtrade's Binance, connected to the replay exchange."""
    connected = ExchangeResolver.load_exchange(make_config(), load_leverage_tiers=True)
    yield connected
    connected.close()


@pytest.fixture
def without_database() -> Iterator[None]:
    """Keep trades in memory, as backtesting does."""
    disable_database_use("5m")
    yield
    enable_database_use()


@pytest.fixture(scope="session")
def make_strategy(exchange: Exchange) -> MakeStrategy:
    """Return a maker of the shipped strategy, started, without a model."""

    def make(config: Config, **attributes: Any) -> IStrategy:
        strategy = StrategyResolver.load_strategy(config)
        strategy.dp = DataProvider(config, exchange)
        for name, value in attributes.items():
            setattr(strategy, name, value)
        strategy.bot_start()
        return strategy

    return make


@pytest.fixture(scope="session")
def candles(datadir: Path) -> pd.DataFrame:
    """All 5m candles of the pair, as freqtrade loads them."""
    return load_pair_history(PAIR, "5m", datadir, candle_type=CandleType.FUTURES)


@pytest.fixture(scope="session")
def featured(
    make_config: MakeConfig, make_strategy: MakeStrategy, candles: pd.DataFrame
) -> pd.DataFrame:
    """The candles with all that FreqAI gets from the strategy; copy before writing to it."""
    config = make_config(timerange="20240129-20240204")  # what 15m and 1h candles are cut to
    strategy = make_strategy(config)
    kitchen = FreqaiDataKitchen(config, False, PAIR)
    frame = kitchen.use_strategy_to_populate_indicators(
        strategy, prediction_dataframe=candles, pair=PAIR
    )
    frame = strategy.set_freqai_targets(frame, metadata={"pair": PAIR})
    return kitchen.remove_special_chars_from_feature_names(frame)


@dataclass
class Workshop:
    """A model with one training window, prepared as FreqAI prepares it."""

    config: Config
    model: MtfScalperRLModel
    kitchen: FreqaiDataKitchen
    window: pd.DataFrame
    later: pd.DataFrame

    def train(self) -> Any:
        """Train on the window."""
        return self.model.train(self.window, PAIR, self.kitchen)

    def save(self, model: Any) -> None:
        """Save as FreqAI does after a training."""
        self.model.dd.set_pair_dict_info({"pair": PAIR})
        self.model.dd.save_data(model, PAIR, self.kitchen)


@pytest.fixture(scope="session")
def open_workshop(
    make_config: MakeConfig, exchange: Exchange, featured: pd.DataFrame
) -> Callable[..., Workshop]:
    """Return a maker of workshops: of small settings with overrides, for any subclass."""

    def open_(
        overrides: Config | None = None, cls: type[MtfScalperRLModel] = MtfScalperRLModel
    ) -> Workshop:
        config = make_config(overrides)
        model = cls(config=config)
        model.live = False
        model.data_provider = DataProvider(config, exchange)
        kitchen = FreqaiDataKitchen(config, False, PAIR)
        trained = TimeRange.parse_timerange(TRAINED_DAY)
        kitchen.set_paths(PAIR, trained.stopts)
        kitchen.set_new_model_names(PAIR, trained.stopts)
        window = kitchen.slice_dataframe(trained, featured).copy()
        later = kitchen.slice_dataframe(TimeRange.parse_timerange(NEXT_DAY), featured).copy()
        kitchen.find_features(window)
        kitchen.find_labels(window)
        return Workshop(config, model, kitchen, window, later)

    return open_


@dataclass(frozen=True)
class Program:
    """A way to start ``freqtrade`` on the small market, and where it leaves what it does."""

    command: Callable[..., list[str]]
    folder: Path

    @property
    def runs(self) -> list[Run]:
        """All records, newest first."""
        return runs_in(self.folder / "user_data" / "runs")

    def start(self, *words: str, told: str | None = None) -> subprocess.Popen[bytes]:
        """Start it; its output goes to a file."""
        env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
        env.pop(RUN_VARIABLE, None)
        if told is not None:
            env[RUN_VARIABLE] = told
        with (self.folder / "output.log").open("ab") as log:
            return subprocess.Popen(
                self.command(*words), cwd=self.folder, env=env, stdout=log, stderr=log
            )

    def run(self, *words: str, told: str | None = None, code: int = 0) -> None:
        """Run it to its end."""
        process = self.start(*words, told=told)
        found = process.wait(300)
        assert found == code, (self.folder / "output.log").read_text()[-3000:]


@pytest.fixture(scope="session")
def make_program(
    arguments_for: Callable[..., dict[str, Any]], ready_python: ReadyPython
) -> Callable[..., Program]:
    """Return a maker of programs for the small configuration, each under a folder of its own."""
    return functools.partial(program, arguments_for, ready_python)


def program(
    arguments_for: Callable[..., dict[str, Any]],
    ready_python: ReadyPython,
    folder: Path,
    datadir: Path | None = None,
    *,
    is_ready: bool = True,
) -> Program:
    """Without ``is_ready`` it is started as every user starts it, and no other way."""
    given = arguments_for({"max_open_trades": 1})
    given["datadir"] = str(datadir or given["datadir"])
    folder.mkdir(exist_ok=True)
    (folder / "results").mkdir()
    (folder / "user_data").mkdir()

    def command(name: str, *more: str) -> list[str]:
        line = [
            *(sys.executable, "-m", "freqtrade", name),
            *(f"--config={file}" for file in given["config"]),
            *("--userdir", str(folder / "user_data"), "--datadir", given["datadir"]),
            *("--strategy", given["strategy"], "--strategy-path", given["strategy_path"]),
            *("--freqaimodel", given["freqaimodel"]),
            *("--freqaimodel-path", given["freqaimodel_path"]),
            *more,
        ]
        return ready_python(line) if is_ready else line

    return Program(command, folder)


@pytest.fixture(scope="session")
def rl_config() -> Callable[..., Config]:
    """Return a function that writes overrides of ``freqai.rl_config``."""
    return lambda **settings: {"freqai": {"rl_config": settings}}


@pytest.fixture(scope="session")
def unselected() -> Callable[..., Config]:
    """Return the same of exact trainings whose last weights are kept."""
    sections = UNSELECTED["rl_config"]
    return lambda **settings: {
        "freqai": {**UNSELECTED, "rl_config": {**sections, **settings}},
    }


@pytest.fixture(scope="session")
def with_predictions() -> Callable[..., pd.DataFrame]:
    """Return a function that adds predictions to a frame, as FreqAI returns it to a strategy."""

    def add(
        frame: pd.DataFrame, probabilities: np.ndarray, do_predict: np.ndarray | int = 1
    ) -> pd.DataFrame:
        predicted = pd.DataFrame(
            probabilities, columns=list(columns.PROBABILITIES), index=frame.index
        )
        predicted[columns.ACTION] = probabilities.argmax(axis=1)
        predicted[columns.CONFIDENCE] = probabilities.max(axis=1)
        predicted["do_predict"] = do_predict
        return pd.concat([frame, predicted], axis=1)

    return add


@pytest.fixture(scope="session")
def random_probabilities() -> Callable[[int, int], np.ndarray]:
    """Return a function of length and seed; its agent asks for few exits."""

    def draw(n: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        leave = np.where(rng.random(n) < 0.03, 0.3, 0.05)
        long = rng.random(n)
        probabilities = np.stack([np.full(n, 0.2), long, leave, 1.0 - long, leave], axis=1)
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    return draw


@pytest.fixture(autouse=True)
def torch_threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
