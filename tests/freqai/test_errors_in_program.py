"""The real program ends with one line that says what is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ready_python import ReadyPython

Backtesting = Callable[..., tuple[int, str]]

STRATEGY_WITH_A_HOLE = """
from mtf_scalper.freqai.strategy import HybridStrategy


class WithAHole(HybridStrategy):
    def feature_engineering_standard(self, dataframe, metadata, **kwargs):
        frame = super().feature_engineering_standard(dataframe, metadata, **kwargs)
        frame.loc[frame["date"] == "2024-01-29 12:00", "%-body"] = float("nan")
        return frame
"""


@pytest.fixture
def backtesting(
    arguments_for: Callable[..., dict[str, Any]], tmp_path: Path, ready_python: ReadyPython
) -> Backtesting:
    """Run ``freqtrade backtesting``; returns its exit code and its last error."""

    def run(overrides: dict[str, Any] | None = None, **changes: str) -> tuple[int, str]:
        given = {**arguments_for(overrides), **changes}
        options = [
            f"--{'userdir' if name == 'user_data_dir' else name.replace('_', '-')}={value}"
            for name, value in given.items()
            if name != "config"
        ]
        configs = [f"--config={file}" for file in given["config"]]
        done = subprocess.run(
            ready_python([sys.executable, "-m", "freqtrade", "backtesting", *configs, *options]),
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "500"},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        output = done.stdout + done.stderr
        errors = [line for line in output.splitlines() if " - freqtrade - ERROR - " in line]
        assert errors, output
        return done.returncode, errors[-1].partition(" - ERROR - ")[2].strip()

    return run


def test_a_mistyped_setting_is_named_with_the_nearest_one(
    backtesting: Backtesting, rl_config: Callable[..., dict[str, Any]]
) -> None:
    code, error = backtesting(rl_config(n_env=4))
    assert code == 2
    assert error == "freqai.rl_config.n_env: unknown key; did you mean 'n_envs'?"


def test_a_missing_feature_value_is_named_with_pair_window_and_column(
    backtesting: Backtesting, tmp_path: Path
) -> None:
    (tmp_path / "WithAHole.py").write_text(STRATEGY_WITH_A_HOLE, encoding="utf-8")
    code, error = backtesting(strategy="WithAHole", strategy_path=str(tmp_path))
    assert code == 2
    assert error == (
        "BTC/USDT:USDT, window 2024-01-29 to 2024-01-29: column '%-body' is nan at "
        "2024-01-29 12:00 (1 such row)"
    )


def test_a_candle_that_cannot_be_is_named_with_pair_column_and_date(
    backtesting: Backtesting, datadir: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "candles"
    shutil.copytree(datadir, damaged)
    file = damaged / "futures" / "BTC_USDT_USDT-5m-futures.feather"
    candles = pd.read_feather(file)
    rows = candles["date"].isin(pd.to_datetime(["2024-01-29 12:00", "2024-01-29 18:00"], utc=True))
    candles.loc[rows, ["high", "low"]] = [50_000.0, 50_001.5]
    candles.to_feather(file)
    code, error = backtesting(datadir=str(damaged))
    assert code == 2
    assert error == (
        "BTC/USDT:USDT: column 'low' (50001.5) is above 'high' (50000.0) at 2024-01-29 12:00 "
        "(2 such rows)"
    )
