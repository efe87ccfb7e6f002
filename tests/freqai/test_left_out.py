"""A pair that cannot be trained is left out of a backtest, and the others go on."""

from __future__ import annotations

import json
import os
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
def backtesting(arguments_for: Callable[..., Config], tmp_path: Path) -> Backtesting:
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
            command,
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
            for file in (folder / "futures").glob(f"{coin}_*-futures.feather"):
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
    row = frame.index[len(frame) - 400]
    frame.loc[row, ["high", "low"]] = [2000.0, 2000.5]
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


@pytest.mark.parametrize("kind", LACKS)
def test_a_pair_that_cannot_be_trained_is_left_out_and_the_other_traded(
    kind: str, backtesting: Backtesting, changed: Callable[..., Path]
) -> None:
    by, lacks = LACKS[kind]
    done = backtesting(changed(by))
    assert done.code == 0, done.output[-3000:]
    assert done.left_out == [lacks]
    assert done.traded == {PAIR}
    (event,) = done.run.events("left_out")
    assert (event["pair"], event["reason"]) == (OTHER, lacks)
    assert done.run.verdict is not None
    assert done.run.verdict.endswith(f"; 1 of 2 pairs left out: {OTHER}")
    assert {row["pair"] for row in done.run.figures()} == {PAIR} or not done.run.figures()


def test_a_pair_without_candles_is_named(
    backtesting: Backtesting, changed: Callable[..., Path]
) -> None:
    folder = changed(None)
    done = backtesting(folder)
    assert done.code == 0, done.output[-3000:]
    assert done.left_out == [f"{OTHER}: no 5m candles in {folder}"]
    assert done.traded == {PAIR}


def test_an_option_makes_it_fatal(
    backtesting: Backtesting, changed: Callable[..., Path]
) -> None:
    done = backtesting(changed(constant), untrainable_pairs="fail")
    assert done.code == 2
    assert done.errors[-1:] == [LACKS["constant"][1]]
    assert done.run.status == "failed"


def test_where_no_pair_is_left_the_run_ends(
    backtesting: Backtesting, changed: Callable[..., Path]
) -> None:
    done = backtesting(changed(constant, "ETH", "BTC"))
    assert done.code == 2
    assert done.errors[-1:] == [f"{LACKS['constant'][1]}; no pair is left, 1 more cannot be trained"]


def test_damaged_candles_end_the_run_unless_they_are_to_be_left_out(
    backtesting: Backtesting, changed: Callable[..., Path]
) -> None:
    """Without the option tests/freqai/test_errors_in_program.py has the line that ends it."""
    done = backtesting(changed(crossed), untrainable_pairs="leave_out_damaged")
    assert done.code == 0, done.output[-3000:]
    (lacks,) = done.left_out
    assert lacks.startswith(f"{OTHER}: column 'low' (2000.5) is above 'high' (2000.0) at ")
    assert done.traded == {PAIR}


def test_a_first_window_that_is_not_whole_is_trained_and_named(
    backtesting: Backtesting, changed: Callable[..., Path]
) -> None:
    """Ten hours of a day are enough to learn from; 1.5 days before them are the warm-up."""
    done = backtesting(changed(since("2024-01-29 12:00")))
    assert done.code == 0, done.output[-3000:]
    words = "its candles begin on 2024-01-29, 1 days before 2024-01-30 are needed"
    assert done.left_out == [] or words in done.left_out[0]
    assert words in done.output
