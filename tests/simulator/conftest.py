"""The unmodified freqtrade program as the judge of trades, and the environment beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from ready_python import ReadyPython

from mtf_scalper.exchange import offline_exchange_config, running_exchange
from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import Trade

FEE_RATE = 0.0005

Backtests = dict[str, pd.DataFrame]


@pytest.fixture(scope="session")
def run_backtester(ready_python: ReadyPython) -> Callable[..., Backtests]:
    """Return a function that runs ``freqtrade backtesting`` once over several strategies."""

    def run(
        root: Path,
        tables: Mapping[str, Mapping[str, pd.DataFrame]],
        strategies: Mapping[str, str],
    ) -> Backtests:
        """Return freqtrade's trades by strategy.

        ``tables`` holds, by coin, what is kept of it: ``5m-futures``, ``1h-mark``,
        ``1h-funding_rate``, and ``signals``, which the strategies find beside their own file.
        ``strategies`` holds their texts by name.
        """
        datadir, home = root / "data" / "binance", root / "user_data" / "strategies"
        for folder in (datadir / "futures", home):
            folder.mkdir(parents=True)
        for coin, kept in tables.items():
            for kind, table in kept.items():
                is_signals = kind == "signals"
                own = datadir / "futures" / f"{coin}_USDT_USDT-{kind}.feather"
                table.to_feather(home / f"{coin}.feather" if is_signals else own)
        for name, text in strategies.items():
            (home / f"{name}.py").write_text(text, encoding="utf-8")
        config: dict[str, Any] = {
            "stake_currency": "USDT",
            "stake_amount": 1000,
            "max_open_trades": len(tables),
            "dry_run": True,
            "dry_run_wallet": 1e9,
            "trading_mode": "futures",
            "margin_mode": "isolated",
            "fee": FEE_RATE,
            "timeframe": "5m",
            "exchange": {
                "name": "binance",
                "pair_whitelist": [f"{coin}/USDT:USDT" for coin in tables],
                "pair_blacklist": [],
            },
            "pairlists": [{"method": "StaticPairList"}],
            "entry_pricing": {"use_order_book": True},
            "exit_pricing": {"use_order_book": True},
        }
        (root / "config.json").write_text(json.dumps(config), encoding="utf-8")
        command = [sys.executable, "-m", "freqtrade", "backtesting", "--cache", "none"]
        command += ["--config", "config.json", "--config", "offline.json"]
        command += ["--datadir", str(datadir), "--user-data-dir", str(root / "user_data")]
        with running_exchange(datadir) as url:
            offline = json.dumps(offline_exchange_config(url))
            (root / "offline.json").write_text(offline, encoding="utf-8")
            done = subprocess.run(
                ready_python([*command, "--export", "trades", "--strategy-list", *strategies]),
                cwd=root,
                env={**os.environ, "PYTHONIOENCODING": "utf-8"},
                capture_output=True,
                encoding="utf-8",
                timeout=900,
                check=False,
            )
        assert done.returncode == 0, done.stdout + done.stderr
        (archive,) = (root / "user_data" / "backtest_results").glob("*.zip")
        with zipfile.ZipFile(archive) as zipped:
            result = json.loads(zipped.read(f"{archive.stem}.json"))
        return {name: pd.DataFrame(result["strategy"][name]["trades"]) for name in strategies}

    return run


@pytest.fixture(scope="session")
def environment_trades() -> Callable[[Market, TradeRules, NDArray[np.bool_]], list[Trade]]:
    """Return a function that trades in the environment: enter wherever it may, leave when told."""

    def play(market: Market, rules: TradeRules, leave: NDArray[np.bool_]) -> list[Trade]:
        assert rules.entry is EntryMode.ALWAYS
        env = ReferenceEnv(market, Settings(window_size=1, rules=rules))
        trades: list[Trade] = []
        row = 0
        # Where the account is gone the episode ends; the backtester, with its fixed stake, goes on.
        while row < len(market) - 1:
            env.reset(options={"row": row})
            terminated = False
            while not terminated:
                actions = np.flatnonzero(env.action_masks())
                action = actions[-1] if env.side == 0 or leave[env.row] else 0
                _, _, terminated, _, _ = env.step(int(action))
            trades += env.trades
            row = env.row
        return trades

    return play


@pytest.fixture(scope="session")
def assert_same_trades() -> Callable[[pd.DataFrame, list[Trade], str, pd.Timestamp], None]:
    """Return the comparison of freqtrade's trades of a coin with the environment's."""

    def check(theirs: pd.DataFrame, ours: list[Trade], coin: str, start: pd.Timestamp) -> None:
        theirs = theirs[theirs["pair"] == f"{coin}/USDT:USDT"].sort_values("open_timestamp")
        for moment in ("open", "close"):
            since = theirs[f"{moment}_timestamp"] - int(start.timestamp() * 1000)
            rows = [getattr(trade, f"{moment}_row") for trade in ours]
            assert (since // 300_000).tolist() == rows
        assert theirs["exit_reason"].tolist() == [str(trade.exit_reason) for trade in ours]
        assert theirs["is_short"].tolist() == [trade.side < 0 for trade in ours]
        for column in ("open_rate", "close_rate", "leverage", "profit_ratio"):
            np.testing.assert_allclose(
                theirs[column], [getattr(trade, column) for trade in ours], rtol=1e-9, atol=1e-6
            )

    return check
