"""A pair that cannot be trained is left out of a backtest, and the others go on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqtrade.configuration import TimeRange
from freqtrade.data.history import load_pair_history
from freqtrade.enums import CandleType
from freqtrade.exceptions import OperationalException
from freqtrade.strategy import IStrategy
from ready_python import ReadyPython

from mtf_scalper.freqai import columns
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.freqai.strategy import HybridStrategy
from mtf_scalper.records.reader import Run, runs_in

PAIR, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
Config = dict[str, Any]


@dataclass(frozen=True)
class Done:
    """A finished ``freqtrade backtesting``."""

    code: int
    output: str
    folder: Path

    @property
    def errors(self) -> list[str]:
        """What the program said of its end."""
        marked = [line for line in self.output.splitlines() if " - freqtrade - ERROR - " in line]
        return [line.partition(" - ERROR - ")[2].strip() for line in marked]

    @property
    def left_out(self) -> list[str]:
        """What the log says of pairs that were left out."""
        lines = [line for line in self.output.splitlines() if "left out of this run: " in line]
        return [line.partition("left out of this run: ")[2].strip() for line in lines]

    @property
    def run(self) -> Run:
        """The only record."""
        (run,) = runs_in(self.folder / "user_data" / "runs")
        return run

    @property
    def traded(self) -> set[str]:
        """Pairs with trades in freqtrade's own result."""
        (archive,) = (self.folder / "results").glob("*.zip")
        with zipfile.ZipFile(archive) as files:
            report = json.loads(files.read(f"{archive.stem}.json"))
        return {trade["pair"] for trade in report["strategy"]["MtfScalper_RL_Hybrid"]["trades"]}


Backtesting = Callable[..., Done]


@pytest.fixture
def backtesting(
    arguments_for: Callable[..., Config], tmp_path: Path, ready_python: ReadyPython
) -> Backtesting:
    """Return a function that runs the program on a data directory, one trade at a time open."""

    def run(datadir: Path, **rl_config: Any) -> Done:
        given = arguments_for({"max_open_trades": 2, "freqai": {"rl_config": rl_config}})
        (tmp_path / "results").mkdir()
        (tmp_path / "user_data").mkdir()
        command = [
            *(sys.executable, "-m", "freqtrade", "backtesting"),
            *(f"--config={file}" for file in given["config"]),
            *("--userdir", str(tmp_path / "user_data"), "--datadir", str(datadir)),
            *("--strategy", given["strategy"], "--strategy-path", given["strategy_path"]),
            *("--freqaimodel", given["freqaimodel"]),
            *("--freqaimodel-path", given["freqaimodel_path"], "--timerange", given["timerange"]),
            *("--export", "trades", "--backtest-directory", str(tmp_path / "results")),
            *("--cache", "none"),
        ]
        env = {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "500"}
        done = subprocess.run(
            ready_python(command),
            cwd=tmp_path,
            env=env,
            capture_output=True,
            encoding="utf-8",
            timeout=200,
            check=False,
        )
        return Done(done.returncode, done.stdout + done.stderr, tmp_path)

    return run


@pytest.fixture
def changed(datadir: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of data directories in which a pair's files are changed."""

    def change(by: Callable[[pd.DataFrame], pd.DataFrame] | None, *coins: str) -> Path:
        folder = tmp_path / "candles"
        if not folder.exists():
            shutil.copytree(datadir, folder)
        for coin in coins or ("ETH",):
            for file in (folder / "futures").glob(f"{coin}*-futures.feather"):
                if by is None:
                    file.unlink()
                else:
                    by(pd.read_feather(file)).reset_index(drop=True).to_feather(file)
        return folder

    return change


def since(day: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame[frame["date"] >= pd.Timestamp(day, tz="UTC")]


def until(day: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame[frame["date"] < pd.Timestamp(day, tz="UTC")]


def constant(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(open=5.0, high=5.0, low=5.0, close=5.0)


def crossed(frame: pd.DataFrame) -> pd.DataFrame:
    """A low above the high on one candle of every file."""
    frame.loc[frame["date"] == "2024-01-29 12:00", ["high", "low"]] = [2000.0, 2000.5]
    return frame


# The backtest trades 30 January and trains on the 29th.
LACKS = {
    "late": (
        since("2024-01-30 06:00"),
        f"{OTHER}: its candles begin on 2024-01-30, 1 days before 2024-01-30 are needed; begin "
        "the backtest later or download earlier candles",
    ),
    "later": (
        since("2024-02-01"),
        f"{OTHER}: its candles begin on 2024-02-01, after the end of the backtest",
    ),
    "too short": (
        since("2024-01-29 23:15"),
        f"{OTHER}: its candles begin on 2024-01-29, 1 days before 2024-01-30 are needed; begin "
        "the backtest later or download earlier candles",
    ),
    "ended": (
        until("2024-01-29 12:00"),
        f"{OTHER}: its candles end on 2024-01-29, before the backtest begins",
    ),
    "constant": (
        constant,
        f"{OTHER}, window 2024-01-29 to 2024-01-29: column 'close' is constant (5.0)",
    ),
}


def test_a_pair_that_cannot_be_trained_is_left_out_and_the_other_goes_on(
    backtesting: Backtesting, changed: Callable[..., Path]
) -> None:
    by, lacks = LACKS["late"]
    done = backtesting(changed(by))
    assert done.code == 0, done.output[-3000:]
    assert done.left_out == [lacks]
    (event,) = done.run.events("left_out")
    assert (event["pair"], event["reason"]) == (OTHER, lacks)
    assert set(done.run.predictions()["pair"]) == {PAIR}
    assert done.traded <= {PAIR}
    assert done.run.verdict is not None
    assert done.run.verdict.endswith(f"; 1 of 2 pairs left out: {OTHER}")


def test_an_option_makes_it_fatal(backtesting: Backtesting, changed: Callable[..., Path]) -> None:
    done = backtesting(changed(constant), untrainable_pairs="fail")
    assert done.code == 2
    assert done.errors[-1:] == [LACKS["constant"][1]]
    assert done.run.status == "failed"
    assert done.run.events("left_out") == []


@pytest.fixture
def started(
    make_config: Callable[..., Config],
    make_strategy: Callable[..., IStrategy],
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., tuple[dict[str, pd.DataFrame], list[str]]]:
    """Return a function that hands the model every pair that freqtrade finds candles of."""

    def start(
        folder: Path, *pairs: str, overrides: Config | None = None, **rl_config: Any
    ) -> tuple[dict[str, pd.DataFrame], list[str]]:
        overrides = overrides or {"freqai": {"rl_config": rl_config}}
        config = make_config(overrides, datadir=str(folder))
        strategy, model = make_strategy(config), MtfScalperRLModel(config=config)
        whole = TimeRange.parse_timerange("20240124-20240131")
        frames = {}
        for pair in pairs or (PAIR, OTHER):
            found = load_pair_history(
                pair, "5m", folder, timerange=whole, candle_type=CandleType.FUTURES
            )
            if len(found):
                frames[pair] = model.start(found, {"pair": pair}, strategy)
        marked = [line for line in caplog.messages if line.startswith("left out of this run: ")]
        return frames, [line.removeprefix("left out of this run: ") for line in marked]

    return start


@pytest.mark.parametrize("kind", LACKS)
def test_what_a_pair_lacks_is_named(
    kind: str, started: Callable[..., Any], changed: Callable[..., Path]
) -> None:
    by, lacks = LACKS[kind]
    frames, left_out = started(changed(by))
    assert left_out == [lacks]
    assert frames[PAIR]["do_predict"].any()
    if OTHER in frames:
        assert not frames[OTHER]["do_predict"].any()
        assert not frames[OTHER][list(columns.PREDICTIONS)].any(axis=None)


def test_a_pair_without_candles_is_named(
    started: Callable[..., Any], changed: Callable[..., Path]
) -> None:
    folder = changed(None)
    frames, left_out = started(folder)
    assert list(frames) == [PAIR]
    assert left_out == [f"{OTHER}: no 5m candles in {folder}"]


@pytest.mark.parametrize("by", [constant, None], ids=["constant", "without candles"])
def test_the_option_ends_the_run_with_what_the_pair_lacks(
    by: Any, started: Callable[..., Any], changed: Callable[..., Path]
) -> None:
    folder = changed(by)
    lacks = f"{OTHER}: no 5m candles in {folder}" if by is None else LACKS["constant"][1]
    with pytest.raises(OperationalException) as caught:
        started(folder, untrainable_pairs="fail")
    assert str(caught.value) == lacks


def test_where_no_pair_is_left_the_run_ends(
    started: Callable[..., Any], changed: Callable[..., Path]
) -> None:
    with pytest.raises(OperationalException) as caught:
        started(changed(constant, "ETH", "BTC"))
    lacks = LACKS["constant"][1]
    assert str(caught.value) == f"{lacks}; no pair is left, 1 more cannot be trained"


def test_damaged_candles_are_left_out_where_the_option_says_so(
    started: Callable[..., Any], changed: Callable[..., Path]
) -> None:
    folder = changed(crossed)
    lacks = f"{OTHER}: column 'low' (2000.5) is above 'high' (2000.0) at "
    with pytest.raises(OperationalException, match=re.escape(lacks)):
        started(folder)
    frames, (left_out,) = started(folder, untrainable_pairs="leave_out_damaged")
    assert left_out.startswith(lacks)
    assert frames[PAIR]["do_predict"].any()


def test_a_first_window_that_is_not_whole_is_trained_and_named(
    started: Callable[..., Any], changed: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Of three days of training two are there."""
    days = {"freqai": {"train_period_days": 3}}
    folder = changed(since("2024-01-28"), "ETH_USDT_USDT-5m")
    frames, left_out = started(folder, overrides=days)
    words = f"{OTHER}: its candles begin on 2024-01-28, 3 days before 2024-01-30 are needed; "
    assert f"{words}it is trained on fewer" in caplog.messages
    assert left_out == []
    assert frames[OTHER]["do_predict"].any()


def test_a_pair_whose_indicators_are_not_warm_in_the_whole_window_is_left_out(
    started: Callable[..., Any], changed: Callable[..., Path]
) -> None:
    """1h features need days before their first value; five hours of candles come before."""
    frames, left_out = started(changed(since("2024-01-28 19:00")))
    hours = HybridStrategy.startup_candle_count * 5 / 60
    assert left_out == [
        f"{OTHER}: its candles begin on 2024-01-28, 1 days before 2024-01-30 are needed and "
        f"before them {hours:.0f} hours for the indicators; begin the backtest later or download "
        "earlier candles"
    ]
    assert frames[PAIR]["do_predict"].any()
