"""Environment trades == backtester trades: the unmodified freqtrade program is the judge.

Two random walks with random signals run through ``freqtrade backtesting``, with a strategy that
draws entries and the agent's exits from columns and calls the package's ``safety_exit``, and
through the environment with the same signals. Every trade must be the same: candles, prices,
reason and profit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.exchange import offline_exchange_config, running_exchange
from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import ExitReason, Trade

START = pd.Timestamp("2024-01-01", tz="UTC")
N_CANDLES = 12 * 288
FEE_RATE = 0.0005
TICKS = {"BTC": 0.1, "ETH": 0.01}
PRICES = {"BTC": 42_000.0, "ETH": 2_300.0}
# Stop and ladder of the project at its leverage; then the other exits at opens; then a leverage
# at which positions are liquidated.
RUNS: dict[str, dict[str, Any]] = {
    "Parity": {
        "leverage": 3.0,
        "rules": {
            "stoploss": -0.10,
            "minimal_roi": {0: 0.04, 30: 0.02, 60: 0.01},
            "max_trade_duration_candles": 48,
        },
    },
    "ParitySafety": {
        "leverage": 3.0,
        "rules": {
            "stoploss": -0.10,
            "minimal_roi": {0: 0.08, 42: 0.03, 120: -1.0},
            "emergency_loss": -0.03,
            "break_even_trigger": 0.015,
            "break_even_floor": 0.001,
        },
    },
    "ParityLiquidation": {"leverage": 25.0, "rules": {"stoploss": -0.99}},
}

STRATEGY = """
from pathlib import Path

import pandas as pd
from freqtrade.persistence import Trade
from freqtrade.strategy import IStrategy

from mtf_scalper.settings import TradeRules
from mtf_scalper.simulator.exits import profit_ratio, safety_exit


class {name}(IStrategy):
    timeframe = "5m"
    can_short = True
    rules = TradeRules(**{rules!r})
    minimal_roi = {{str(rung): ratio for rung, ratio in rules.minimal_roi.items()}} or {{"0": 99.0}}
    stoploss = rules.stoploss

    def populate_indicators(self, frame, metadata):
        coin = metadata["pair"].split("/")[0]
        signals = pd.read_feather(Path(__file__).parent / f"{{coin}}.feather")
        return frame.merge(signals, on="date", how="left")

    def populate_entry_trend(self, frame, metadata):
        frame["enter_long"] = frame["long"].astype(int)
        frame["enter_short"] = frame["short"].astype(int)
        return frame

    def populate_exit_trend(self, frame, metadata):
        return frame

    def leverage(self, pair, current_time, current_rate, **kwargs):
        return {leverage}

    def confirm_trade_entry(self, pair, *args, current_time, **kwargs):
        # The backtester runs a candle a second time when a trade closed in it and the other side
        # has a signal; the environment decides once per candle.
        closed = Trade.get_trades_proxy(pair=pair, is_open=False)
        return all(trade.close_date_utc < current_time for trade in closed)

    def custom_exit(self, pair, trade, current_time, current_rate, current_profit, **kwargs):
        frame, _ = self.dp.get_analyzed_dataframe(pair, self.timeframe)
        # The last row is the candle before this open: what is known now.
        if trade.open_date_utc < current_time and frame["leave"].iloc[-1]:
            return "agent_exit"
        lived = frame.loc[frame["date"] >= trade.open_date_utc]
        side = -1 if trade.is_short else 1
        extreme = lived["low"].min() if trade.is_short else lived["high"].max()
        best = profit_ratio(
            side, trade.open_rate, trade.open_rate if lived.empty else extreme,
            fee_rate={fee_rate}, leverage=trade.leverage,
        )
        return safety_exit(
            self.rules, age_candles=len(lived), profit=current_profit, best_profit=best
        )
"""


def coin_candles(coin: str) -> pd.DataFrame:
    """Return a random walk on the coin's price grid, wild enough for every way out."""
    rng = np.random.default_rng(sorted(TICKS).index(coin))
    tick = TICKS[coin]
    volatility = 0.003 * np.exp(0.7 * np.sin(np.arange(N_CANDLES) / 200.0))
    close = PRICES[coin] * np.exp(np.cumsum(volatility * rng.standard_normal(N_CANDLES)))
    # Some candles open away from the close before them.
    gaps = np.where(rng.random(N_CANDLES) < 0.03, 0.01 * rng.standard_normal(N_CANDLES), 0.0)
    open_ = np.concatenate([[PRICES[coin]], close[:-1]]) * np.exp(gaps)
    wicks = 0.7 * volatility * np.abs(rng.standard_normal((2, N_CANDLES)))
    grid = {
        "open": np.rint(open_ / tick),
        "high": np.ceil(np.maximum(open_, close) * (1.0 + wicks[0]) / tick),
        "low": np.floor(np.minimum(open_, close) * (1.0 - wicks[1]) / tick),
        "close": np.rint(close / tick),
    }
    return pd.DataFrame(
        {
            "date": pd.date_range(START, periods=N_CANDLES, freq="5min").as_unit("ms"),
            **{name: np.round(ticks * tick, 2) for name, ticks in grid.items()},
            "volume": np.round(rng.gamma(2.0, 50.0, N_CANDLES), 3),
        }
    )


def coin_signals(coin: str) -> pd.DataFrame:
    rng = np.random.default_rng(10 + sorted(TICKS).index(coin))
    dice = rng.random(N_CANDLES)
    return pd.DataFrame(
        {
            "date": coin_candles(coin)["date"],
            "long": dice < 0.15,
            "short": dice > 0.85,
            "leave": rng.random(N_CANDLES) < 0.02,
        }
    )


def coin_funding(coin: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return 8-hourly funding rates and the hourly mark candles, as freqtrade keeps them."""
    rng = np.random.default_rng(20 + sorted(TICKS).index(coin))
    hours = coin_candles(coin).iloc[::12].reset_index(drop=True)
    mark = hours.assign(volume=0.0)
    mark[["open", "high", "low", "close"]] *= 1.0 + rng.normal(0.0, 1e-4, (len(mark), 1))
    rates = pd.DataFrame({"date": hours["date"].iloc[::8].reset_index(drop=True)})
    # Ten times what is usual, so that a mistake would show.
    rates["open"] = rng.normal(0.0, 1e-3, len(rates))
    rates[["high", "low", "close", "volume"]] = 0.0
    return rates, mark


def coin_market(coin: str, leverage: float) -> Market:
    candles, signals = coin_candles(coin), coin_signals(coin)
    rates, mark = coin_funding(coin)
    due = rates.merge(mark, on="date", suffixes=("_rate", "_mark"))
    funding = np.zeros(N_CANDLES)
    funding[::96] = due["open_rate"] * due["open_mark"]
    return Market(
        features=np.zeros((N_CANDLES, 1)),
        ohlc=candles[["open", "high", "low", "close"]],
        entry_long=signals["long"],
        entry_short=signals["short"],
        fee_rate=FEE_RATE,
        leverage=leverage,
        funding=funding,
        tick_size=TICKS[coin],
        pair=f"{coin}/USDT:USDT",
    )


def environment_trades(coin: str, run: dict[str, Any]) -> list[Trade]:
    """Return the environment's trades: every entry is taken, exits where ``leave`` says so."""
    rules = TradeRules(entry=EntryMode.ALWAYS, **run["rules"])
    env = ReferenceEnv(coin_market(coin, run["leverage"]), Settings(window_size=1, rules=rules))
    leave = coin_signals(coin)["leave"].to_numpy()
    trades: list[Trade] = []
    row = 0
    # Where the account is gone the episode ends; the backtester, with its fixed stake, goes on.
    while row < N_CANDLES - 1:
        env.reset(options={"row": row})
        terminated = False
        while not terminated:
            actions = np.flatnonzero(env.action_masks())
            action = actions[-1] if env.side == 0 or leave[env.row] else 0
            _, _, terminated, _, _ = env.step(int(action))
        trades += env.trades
        row = env.row
    return trades


@pytest.fixture(scope="module")
def backtests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """Run the real program once over all strategies: trades by strategy."""
    root = tmp_path_factory.mktemp("parity")
    datadir = root / "data" / "binance"
    strategies = root / "user_data" / "strategies"
    for folder in (datadir / "futures", strategies):
        folder.mkdir(parents=True)
    for coin in TICKS:
        stem = datadir / "futures" / f"{coin}_USDT_USDT"
        rates, mark = coin_funding(coin)
        coin_candles(coin).to_feather(f"{stem}-5m-futures.feather")
        mark.to_feather(f"{stem}-1h-mark.feather")
        rates.to_feather(f"{stem}-1h-funding_rate.feather")
        coin_signals(coin).to_feather(strategies / f"{coin}.feather")
    for name, run in RUNS.items():
        text = STRATEGY.format(name=name, fee_rate=FEE_RATE, **run)
        (strategies / f"{name}.py").write_text(text, encoding="utf-8")
    config: dict[str, Any] = {
        "stake_currency": "USDT",
        "stake_amount": 1000,
        "max_open_trades": 2,
        "dry_run": True,
        "dry_run_wallet": 1e9,
        "trading_mode": "futures",
        "margin_mode": "isolated",
        "fee": FEE_RATE,
        "timeframe": "5m",
        "exchange": {
            "name": "binance",
            "pair_whitelist": [f"{coin}/USDT:USDT" for coin in TICKS],
            "pair_blacklist": [],
        },
        "pairlists": [{"method": "StaticPairList"}],
        "entry_pricing": {"use_order_book": True},
        "exit_pricing": {"use_order_book": True},
    }
    (root / "config.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "freqtrade", "backtesting", "--cache", "none"]
    command += ["--config", "config.json", "--config", "offline.json", "--datadir", str(datadir)]
    command += ["--user-data-dir", str(root / "user_data"), "--export", "trades"]
    with running_exchange(datadir) as url:
        offline = json.dumps(offline_exchange_config(url))
        (root / "offline.json").write_text(offline, encoding="utf-8")
        done = subprocess.run(
            [*command, "--strategy-list", *RUNS],
            cwd=root,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = (root / "user_data" / "backtest_results").glob("*.zip")
    with zipfile.ZipFile(archive) as zipped:
        result = json.loads(zipped.read(f"{archive.stem}.json"))
    return {name: pd.DataFrame(result["strategy"][name]["trades"]) for name in RUNS}


def row_of(timestamps: pd.Series) -> pd.Series:
    return (timestamps - int(START.timestamp() * 1000)) // 300_000


@pytest.mark.parametrize("coin", TICKS)
@pytest.mark.parametrize("name", RUNS)
def test_the_backtester_makes_the_same_trades(name, coin, backtests) -> None:
    trades = backtests[name]
    theirs = trades[trades["pair"] == f"{coin}/USDT:USDT"].sort_values("open_timestamp")
    ours = environment_trades(coin, RUNS[name])
    assert row_of(theirs["open_timestamp"]).tolist() == [trade.open_row for trade in ours]
    assert row_of(theirs["close_timestamp"]).tolist() == [trade.close_row for trade in ours]
    assert theirs["exit_reason"].tolist() == [str(trade.exit_reason) for trade in ours]
    assert theirs["is_short"].tolist() == [trade.side < 0 for trade in ours]
    for column in ("open_rate", "close_rate", "leverage", "profit_ratio"):
        np.testing.assert_allclose(
            theirs[column], [getattr(trade, column) for trade in ours], rtol=1e-9, atol=1e-6
        )


def test_every_way_out_was_judged_for_both_sides() -> None:
    """The parity above would say little about exits that its markets never take."""
    met = Counter(
        (trade.exit_reason, trade.side < 0)
        for run in RUNS.values()
        for coin in TICKS
        for trade in environment_trades(coin, run)
    )
    # Stops that trail are judged in test_orders_parity.py, on markets of their own.
    for reason in set(ExitReason) - {ExitReason.END_OF_DATA, ExitReason.TRAILING_STOP}:
        for is_short in (False, True):
            assert met[reason, is_short] >= 5, (reason, is_short)
    assert met[ExitReason.END_OF_DATA, False] + met[ExitReason.END_OF_DATA, True] >= 1
