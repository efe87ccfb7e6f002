"""The command ``parity`` from end to end, and the run around the comparison."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from mtf_scalper.cli import app
from mtf_scalper.errors import MtfScalperError
from mtf_scalper.runs.parity_run import offline_arguments
from mtf_scalper.worlds.datadir import write_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec

# freqtrade calls pandas in ways that pandas 3.1 deprecates; nothing of ours does.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The inplace keyword in:pandas.errors.Pandas4Warning",
    "ignore:Series.values returning an ndarray that drops:pandas.errors.Pandas4Warning",
)

PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
DAYS = "20240109-20240111"
CONFIG = Path("configs", "config_rl_hybrid.json")
MANY_TRADES = {"freqai": {"train_period_days": 1, "rl_config": {"entry": "any"}}}

Parity = Callable[..., Result]


@pytest.fixture(scope="module")
def datadir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return fourteen days of two pairs; the indicators are warm from the ninth on."""
    folder = tmp_path_factory.mktemp("parity")
    write_datadir(SyntheticSpec(seed=5), folder, "2023-12-28", "2024-01-11")
    return folder


@pytest.fixture
def in_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the test in a small project of its own."""
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Options of a run that takes seconds and makes many trades."""
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps(MANY_TRADES), encoding="utf-8")
    return ["--config", str(CONFIG), "--config", str(overlay), "--policy", "random"]


@pytest.fixture
def parity(in_project: Path, arguments: list[str]) -> Parity:
    runner = CliRunner(env={"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"})
    return lambda *more: runner.invoke(app, ["parity", *arguments, *map(str, more)])


def test_the_command_compares_every_pair_and_leaves_the_users_files_alone(
    in_project: Path, arguments: list[str], datadir: Path
) -> None:
    own = in_project / "user_data" / "models" / "mtf_scalper_rl"
    own.mkdir(parents=True)
    (own / "settings.json").write_text("{}", encoding="utf-8")
    command = [sys.executable, "-c", "from mtf_scalper.cli import main; main()", "parity"]
    # Under pytest freqtrade sets no logging up.
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_VERSION"}
    done = subprocess.run(
        [*command, *arguments, "--timerange", DAYS, "--datadir", str(datadir)],
        env={**environment, "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert "protections off, max_open_trades 2, wallet 10,000 USDT, entry any" in lines[1]
    counts = [int(line.split("│")[2]) for line in lines for pair in PAIRS if pair in line]
    assert min(counts) >= 10
    assert lines[-1] == f"all {sum(counts)} trades are the same"
    assert [path.name for path in own.iterdir()] == ["settings.json"]
    assert (own / "settings.json").read_text(encoding="utf-8") == "{}"
    log = max((in_project / "user_data" / "runs").glob("parity-*")) / "freqtrade.log"
    assert "Running backtesting for Strategy" in log.read_text(encoding="utf-8")


def test_no_trades_are_a_failure(parity: Parity, datadir: Path, tmp_path: Path) -> None:
    no_entries = tmp_path / "no_entries.json"
    # Of a day only the last candle has a whole window, after which nothing is entered.
    content = {"freqai": {"conv_width": 288, "backtest_period_days": 1}}
    no_entries.write_text(json.dumps(content), encoding="utf-8")
    day = "20240109-20240110"
    result = parity("--config", no_entries, "--timerange", day, "--datadir", datadir)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "no trades on either side: nothing was compared"


def test_only_the_pairs_that_were_asked_for_are_compared(parity: Parity, datadir: Path) -> None:
    options = ("--timerange", "20240110-20240111", "--datadir", datadir)
    result = parity(*options, "--pairs", PAIRS[1])
    assert result.exit_code == 0
    assert PAIRS[1] in result.stdout
    assert PAIRS[0] not in result.stdout
    assert "trades are the same" in result.stdout.splitlines()[-1]


def test_an_error_is_one_line(parity: Parity, datadir: Path) -> None:
    absent = parity("--timerange", DAYS, "--datadir", datadir, "--pairs", "XYZ/USDT:USDT")
    assert isinstance(absent.exception, MtfScalperError)
    assert str(absent.exception) == f"XYZ/USDT:USDT: no candles in {datadir}"
    later = parity("--timerange", "20250101-20250102", "--datadir", datadir)
    assert isinstance(later.exception, MtfScalperError)
    assert str(later.exception).startswith("freqtrade: ")
    assert "\n" not in str(later.exception)


WILD = """
    max_leverage = 20.0
    stoploss = -0.3
    emergency_loss = -0.25
    trailing_stop = True
    trailing_stop_positive = 0.03
    trailing_stop_positive_offset = 0.05

    def leverage(self, *args, **kwargs):
        return 20.0
"""


def write_wild_datadir(folder: Path) -> None:
    """Write a month's end with a finer step after it, odd funding, marks with holes, an early end.

    Rates settle every four hours and late by up to 900 ms, in the layout of freqtrade 2026.9.
    """
    spec = SyntheticSpec(seed=7, volatility=0.005, jump_probability=0.01)
    write_datadir(spec, folder, "2024-01-20", "2024-02-02")
    rng = np.random.default_rng(7)
    february = pd.Timestamp("2024-02-01", tz="UTC")
    for path in sorted((folder / "futures").glob("*.feather")):
        table = pd.read_feather(path)
        if "funding_rate" in path.name:
            dates = pd.date_range("2024-01-20", "2024-02-02", freq="4h", tz="UTC")
            late = pd.to_timedelta(rng.integers(0, 901, len(dates)), unit="ms")
            rates = rng.normal(0.0, 2e-3, len(dates))
            table = pd.DataFrame({"date": (dates + late).as_unit("ms"), "funding_rate": rates})
        elif "mark" in path.name:
            table = table.drop(index=table.index[10::3])
        else:
            prices = ["open", "high", "low", "close"]
            step = 100.0 if path.name.startswith("BTC") else 5.0
            rounded = (table[prices] / step).round() * step
            is_earlier = table["date"] < february
            table[prices] = table[prices].where(~is_earlier, rounded)
            if path.name.startswith("ETH"):
                table = table[table["date"] < pd.Timestamp("2024-02-01 16:00", tz="UTC")]
        table.reset_index(drop=True).to_feather(path)


def test_all_that_is_odd_at_once_makes_the_same_trades(
    in_project: Path, parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "project"
    shutil.copytree(in_project, own, ignore=shutil.ignore_patterns("runs", "models", "data"))
    strategy = own / "user_data" / "strategies" / "MtfScalper_RL_Hybrid.py"
    strategy.write_text(strategy.read_text(encoding="utf-8") + WILD, encoding="utf-8")
    write_wild_datadir(tmp_path / "wild")
    monkeypatch.chdir(own)
    result = parity("--timerange", "20240131-20240202", "--datadir", tmp_path / "wild")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    reasons = [line.split("│")[1].strip() for line in lines if line.count("│") == 4]
    assert {"agent_exit", "roi", "stop_loss", "trailing_stop_loss"} <= set(reasons)
    assert int(lines[-1].split()[1]) > 200


def test_real_candles_make_the_same_trades(parity: Parity, real_candles_folder: Path) -> None:
    chosen = ("--pairs", "BTC/USDT:USDT", "--pairs", "SOL/USDT:USDT")
    # An exchange halt on the first of these days: flat candles without volume.
    result = parity("--timerange", "20241028-20241031", "--datadir", real_candles_folder, *chosen)
    assert result.exit_code == 0, result.output
    *_, number, _, _, _, _ = result.stdout.splitlines()[-1].split()
    assert int(number) > 50


def test_a_run_has_a_folder_and_an_identifier_of_its_own(in_project: Path, datadir: Path) -> None:
    seen = []
    for _ in range(2):
        with offline_arguments((CONFIG,), DAYS, datadir=datadir, train_cycles=7) as arguments:
            *configs, overrides = map(Path, arguments["config"])
            content = json.loads(overrides.read_text(encoding="utf-8"))
            url = content["exchange"]["ccxt_config"]["urls"]["api"]["fapiPublic"]
            assert httpx.get(f"{url}/ping", timeout=30).json() == {}
        assert configs == [CONFIG]
        assert content["freqai"]["rl_config"]["train_cycles"] == 7
        assert content["freqai"]["identifier"] == overrides.parent.name
        assert "pair_whitelist" not in content["exchange"]
        assert overrides.parent.parent == in_project / "user_data" / "runs"
        assert arguments["datadir"] == str(datadir)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/ping", timeout=30)
        seen.append(overrides.parent)
    assert seen[0] != seen[1]
