"""What freqtrade's own commands show of a backtest: results, and plots with the agent's columns."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from ready_python import ReadyPython

from mtf_scalper.freqai.strategy import HybridStrategy

pytest.importorskip("plotly")

PAIR = "BTC/USDT:USDT"
ENVIRONMENT = {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "200"}


@dataclass(frozen=True)
class Backtested:
    """A finished backtest and the command line that asks about it again."""

    given: dict[str, Any]
    folder: Path
    output: str
    ready: ReadyPython

    def run(self, command: str, *more: str, without: tuple[str, ...] = ()) -> str:
        """Run a command of freqtrade with the backtest's arguments and return what it printed."""
        done = subprocess.run(
            self.ready([*self.command(command, without), *more]),
            cwd=self.folder,
            env=ENVIRONMENT,
            capture_output=True,
            encoding="utf-8",
            timeout=180,
            check=False,
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        return output

    def command(self, command: str, without: tuple[str, ...] = ()) -> list[str]:
        """Return a command line of freqtrade with the backtest's arguments."""
        options = [
            f"--{'userdir' if name == 'user_data_dir' else name.replace('_', '-')}={value}"
            for name, value in self.given.items()
            if name not in ("config", *without)
        ]
        configs = [f"--config={file}" for file in self.given["config"]]
        return [sys.executable, "-m", "freqtrade", command, *configs, *options]

    @property
    def n_trades(self) -> int:
        """Trades of the pair as the backtest's own table has them."""
        found = re.search(rf"{re.escape(PAIR)}\s*.\s*(\d+)", self.output)
        assert found is not None, self.output
        return int(found.group(1))


@pytest.fixture(scope="module")
def backtested(
    arguments_for: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    ready_python: ReadyPython,
) -> Backtested:
    folder = tmp_path_factory.mktemp("plots")
    # A wallet in which no stake is too small.
    given = arguments_for({"exchange": {"pair_whitelist": [PAIR]}, "dry_run_wallet": 100_000})
    given["timerange"] = "20240130-20240202"
    del given["export"]
    first = Backtested(given, folder, "", ready_python)
    output = first.run("backtesting", "--cache=none")
    return Backtested(given, folder, output, ready_python)


ASKS_NOTHING = ("strategy", "strategy_path", "freqaimodel", "freqaimodel_path", "datadir", "export")


def test_the_result_can_be_shown_again(backtested: Backtested) -> None:
    assert backtested.n_trades > 0
    shown = backtested.run("backtesting-show", without=(*ASKS_NOTHING, "timerange"))
    assert "MtfScalper_RL_Hybrid" in shown
    assert re.search(rf"{re.escape(PAIR)}\s*.\s*{backtested.n_trades}\b", shown), shown


def test_the_candle_plot_shows_the_agents_columns_and_the_trades(backtested: Backtested) -> None:
    backtested.run("plot-dataframe", f"--pairs={PAIR}", "--plot-limit=300")
    (page,) = (Path(backtested.given["user_data_dir"]) / "plot").glob("freqtrade-plot-BTC*.html")
    content = page.read_text(encoding="utf-8")
    configured = HybridStrategy.plot_config
    for columns in (configured["main_plot"], *configured["subplots"].values()):
        for column in columns:
            name = column.replace("&", "\\u0026")
            assert f'"name":"{column}"' in content or f'"name":"{name}"' in content, column
    assert '"name":"Trade entry"' in content


def test_the_profit_plot_shows_the_backtests_trades(backtested: Backtested) -> None:
    backtested.run("plot-profit", without=("strategy", "strategy_path"))
    page = Path(backtested.given["user_data_dir"]) / "plot" / "freqtrade-profit-plot.html"
    content = page.read_text(encoding="utf-8")
    assert f'"name":"Profit {PAIR}"' in content.replace("\\u002f", "/")


@contextmanager
def web_server(backtested: Backtested) -> Iterator[httpx.Client]:
    """Run ``freqtrade webserver`` on a free port of loopback, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = {
        "enabled": True,
        "listen_ip_address": "127.0.0.1",
        "listen_port": port,
        "username": "user",
        "password": "for this test only",
        "jwt_secret_key": "a key of this test that is long enough",
    }
    classes = {name: backtested.given[name] for name in ("strategy_path", "freqaimodel_path")}
    config = backtested.folder / "web.json"
    config.write_text(json.dumps({"api_server": server, **classes}), encoding="utf-8")
    without = ("timerange", *(name for name in ASKS_NOTHING if name != "datadir"))
    command = [*backtested.command("webserver", without), f"--config={config}"]
    log = backtested.folder / "web.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            backtested.ready(command),
            cwd=backtested.folder,
            env=ENVIRONMENT,
            stdout=output,
            stderr=output,
        )
        try:
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}/api/v1",
                auth=("user", "for this test only"),
                timeout=120.0,
            ) as client:
                while process.poll() is None:
                    try:
                        client.get("/ping")
                        break
                    except httpx.TransportError:
                        time.sleep(0.2)
                assert process.poll() is None, log.read_text(encoding="utf-8")
                yield client
        finally:
            process.terminate()
            process.wait(30)


def test_the_web_interface_gets_the_plot_and_its_columns(backtested: Backtested) -> None:
    """What freqtrade's own web page draws: the plot's configuration and the columns it names."""
    strategy = {"strategy": "MtfScalper_RL_Hybrid"}
    with web_server(backtested) as client:
        shown = client.get("/plot_config", params=strategy)
        assert shown.status_code == 200, shown.text
        asked = {**strategy, "freqaimodel": "MtfScalperRLModel", "pair": PAIR, "timeframe": "5m"}
        history = client.get("/pair_history", params={**asked, "timerange": "20240130-20240202"})
        assert history.status_code == 200, history.text
    configured = HybridStrategy.plot_config
    assert shown.json()["subplots"].keys() == configured["subplots"].keys()
    named = [
        *configured["main_plot"],
        *(name for each in configured["subplots"].values() for name in each),
    ]
    assert set(named) <= set(history.json()["columns"])
    assert len(history.json()["data"]) > 288
