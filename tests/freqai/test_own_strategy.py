"""The strategy of ``docs/own_strategy.md``, as it stands there, through the real program."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mtf_scalper.exchange import offline_exchange_config
from mtf_scalper.records.reader import runs_in

from .conftest import SMALL

PAGE = "docs/own_strategy.md"


@pytest.fixture(scope="module")
def programs(project: Path) -> list[str]:
    text = (project / PAGE).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def backtested(
    ready_python,
    program: str,
    name: str,
    changes: dict,
    project: Path,
    datadir: Path,
    url: str,
    folder: Path,
) -> str:
    (folder / f"{name}.py").write_text(program, encoding="utf-8")
    (folder / "user_data").mkdir()
    layers = [offline_exchange_config(url), SMALL, changes]
    for number, layer in enumerate(layers):
        (folder / f"{number}.json").write_text(json.dumps(layer), encoding="utf-8")
    configs = [project / "configs" / "config_rl_hybrid.json", "0.json", "1.json", "2.json"]
    done = subprocess.run(
        ready_python(
            [
                *(sys.executable, "-m", "freqtrade", "backtesting"),
                *(word for config in configs for word in ("--config", str(config))),
                *("--strategy", name, "--strategy-path", str(folder)),
                *("--freqaimodel", "MtfScalperRLModel"),
                *("--freqaimodel-path", str(project / "user_data" / "freqaimodels")),
                *("--datadir", str(datadir), "--userdir", str(folder / "user_data")),
                *("--timerange", "20240130-20240131", "--cache", "none"),
            ]
        ),
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "4000"},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    return output


def test_the_shown_strategy_trains_trades_and_is_recorded(
    programs, project, datadir, exchange_url, tmp_path, ready_python
) -> None:
    changes = {
        "exchange": {"pair_whitelist": ["BTC/USDT:USDT"]},
        "freqai": {"rl_config": {"entry": "always"}},
    }
    output = backtested(
        ready_python, programs[0], "Breakout", changes, project, datadir, exchange_url, tmp_path
    )
    assert "Traceback" not in output
    (run,) = runs_in(tmp_path / "user_data" / "runs")
    assert run.status == "finished"
    assert len(run.predictions()) > 200
    trades = run.trades()
    assert len(trades) > 0
    # The rules of the strategy are those of the training.
    rules = run.settings["rules"]
    assert rules["stoploss"] == -0.05
    assert rules["minimal_roi"] == {"0": 0.03, "120": 0.0}


def test_the_shown_subclass_adds_its_feature_and_its_stop(
    programs, make_config, make_strategy, candles, tmp_path
) -> None:
    (tmp_path / "Weekend.py").write_text(programs[1], encoding="utf-8")
    config = make_config(strategy="Weekend", strategy_path=str(tmp_path))
    strategy = make_strategy(config)
    frame = strategy.feature_engineering_standard(candles.copy(), {"pair": "BTC/USDT:USDT"})
    saturdays = candles["date"].dt.day_name().isin(["Saturday", "Sunday"])
    assert (frame["%-is_weekend"] == saturdays).all()
    assert saturdays.any()
    assert strategy.stoploss == -0.06
