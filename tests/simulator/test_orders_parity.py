"""Trailing stops, steps that change, pairs that end early: the real backtester is the judge.

Invented pairs, some wild, run through ``freqtrade backtesting`` under several strategies, and
through the environment with the same entries and exits. A month ends in the middle of the candles
and the price step changes with it; some pairs end before the others.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import freqtrade
import numpy as np
import pandas as pd
import pytest

from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, TradeRules
from mtf_scalper.simulator.types import ExitReason, Trade

from .conftest import FEE_RATE

START = pd.Timestamp("2024-01-31 09:00", tz="UTC")
N_CANDLES = 400
MONTH_END = 15 * 12


@dataclass(frozen=True)
class Coin:
    """A random walk: first price, decimals of January and February, volatility, candles."""

    price: float
    decimals: tuple[int, int]
    volatility: float
    n_candles: int = N_CANDLES


COINS = {
    "BTC": Coin(42_000.0, (1, 2), 0.002),
    "ETH": Coin(2_300.0, (2, 1), 0.006),
    "XRP": Coin(0.5, (2, 5), 0.004),  # a step of 2% of the price, then one of 0.002%
    "ADA": Coin(0.5, (5, 2), 0.01),
    "DOGE": Coin(1.0, (4, 4), 0.02, n_candles=N_CANDLES - 37),
    "LTC": Coin(12.0, (1, 4), 0.003, n_candles=280),  # 0.8% and 0.0008%
}
STOP = {"stoploss": -0.06, "trailing_stop": True}
POSITIVE = {"trailing_stop_positive": 0.01, "trailing_stop_positive_offset": 0.02}
ONLY = {"trailing_only_offset_is_reached": True}
LADDER = {"minimal_roi": {0: 0.05, 15: 0.02, 40: 0.01}}
RUNS: dict[str, tuple[float, dict[str, Any]]] = {
    "Trailing": (1.0, STOP),
    "TrailingLadder": (3.0, {**STOP, **LADDER}),
    "Positive": (3.0, {**STOP, **POSITIVE, **LADDER}),
    "PositiveFromTheStart": (2.0, {**STOP, "trailing_stop_positive": 0.01}),
    "OnlyOffsetHigh": (20.0, {"stoploss": -0.9, "trailing_stop": True, **POSITIVE, **ONLY}),
    "TimedOut": (5.0, {**STOP, **POSITIVE, **ONLY, **LADDER, "exit_timeout_minutes": 10.0}),
    "Fixed": (3.0, {"stoploss": -0.04, **LADDER}),
    "Liquidated": (20.0, {"stoploss": -0.99}),
}

STRATEGY = """
from pathlib import Path

import pandas as pd
from freqtrade.persistence import Trade
from freqtrade.strategy import IStrategy


class {name}(IStrategy):
    timeframe = "5m"
    can_short = True
    minimal_roi = {roi!r}
    leaves = {{}}
    unfilledtimeout = {unfilled!r}

    def populate_indicators(self, frame, metadata):
        coin = metadata["pair"].split("/")[0]
        signals = pd.read_feather(Path(__file__).parent / f"{{coin}}.feather")
        # An exit is decided at a close and asked for at the next open.
        leaves = signals.loc[signals["leave"], "date"] + pd.Timedelta("5min")
        self.leaves[metadata["pair"]] = set(leaves)
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
        closed = Trade.get_trades_proxy(pair=pair, is_open=False)
        return all(trade.close_date_utc < current_time for trade in closed)

    def custom_exit(self, pair, trade, current_time, current_rate, current_profit, **kwargs):
        if trade.open_date_utc < current_time and current_time in self.leaves[pair]:
            return "agent_exit"
"""
OF_FREQTRADE = (
    "stoploss",
    "trailing_stop",
    "trailing_stop_positive",
    "trailing_stop_positive_offset",
    "trailing_only_offset_is_reached",
)


def strategy_text(name: str) -> str:
    leverage, rules = RUNS[name]
    ladder = {str(minutes): ratio for minutes, ratio in rules.get("minimal_roi", {}).items()}
    timeout = rules.get("exit_timeout_minutes")
    text = STRATEGY.format(
        name=name,
        leverage=leverage,
        roi=ladder or {"0": 99.0},
        unfilled={} if timeout is None else {"exit": timeout, "unit": "minutes"},
    )
    given = [f"    {key} = {rules[key]!r}" for key in OF_FREQTRADE if key in rules]
    return text + "\n" + "\n".join(given) + "\n"


def steps(coin: str) -> np.ndarray:
    """Return the price step of every candle, in decimals; int64, shape (n_candles,)."""
    rows = np.arange(COINS[coin].n_candles)
    return np.where(rows < MONTH_END, *COINS[coin].decimals)


def candles_of(coin: str) -> pd.DataFrame:
    """Return a random walk on the coin's price grid, which changes with the month."""
    spec, rng = COINS[coin], np.random.default_rng(sorted(COINS).index(coin))
    n_candles = spec.n_candles
    moves = spec.volatility * rng.standard_t(4, n_candles)
    close = spec.price * np.exp(np.cumsum(moves - 0.1 * np.cumsum(moves) / n_candles))
    jumps = np.where(rng.random(n_candles) < 0.03, np.exp(0.02 * rng.normal(size=n_candles)), 1.0)
    opened = np.concatenate([[spec.price], close[:-1]]) * jumps
    wicks = 1.0 + 0.5 * spec.volatility * np.abs(rng.standard_normal((2, n_candles)))
    grid = 10.0 ** steps(coin)
    prices = {
        "open": np.maximum(np.rint(opened * grid), 1.0),
        "high": np.ceil(np.maximum(opened, close) * wicks[0] * grid),
        "low": np.maximum(np.floor(np.minimum(opened, close) / wicks[1] * grid), 1.0),
        "close": np.maximum(np.rint(close * grid), 1.0),
    }
    return pd.DataFrame(
        {
            "date": pd.date_range(START, periods=n_candles, freq="5min").as_unit("ms"),
            **{name: np.round(steps_ / grid, 6) for name, steps_ in prices.items()},
            "volume": 1000.001,  # amounts have its decimals
        }
    )


def signals_of(coin: str) -> pd.DataFrame:
    """Return entries on three of ten candles, an entry at the last decision, and the exits."""
    rng = np.random.default_rng(100 + sorted(COINS).index(coin))
    dates = candles_of(coin)["date"]
    dice = rng.random(len(dates))
    long = dice < 0.15
    long[-2] = True
    return pd.DataFrame(
        {
            "date": dates,
            "long": long,
            "short": (dice > 0.85) & ~long,
            "leave": rng.random(len(dates)) < 0.03,
        }
    )


def liquidations(coin: str, leverage: float) -> dict[str, float]:
    """Return liquidation prices as multiples of the open rate, by the coin's first tier.

    Binance's isolated formula, in which that tier's amount is 0, and freqtrade's buffer of 5%.
    """
    file = Path(freqtrade.__file__).parent / "exchange" / "binance_leverage_tiers.json"
    tier = json.loads(file.read_text(encoding="utf-8"))[f"{coin}/USDT:USDT"][0]
    rate = tier["maintenanceMarginRate"]
    bare = {"long": (1 - 1 / leverage) / (1 - rate), "short": (1 + 1 / leverage) / (1 + rate)}
    return {f"liquidation_{side}": price + 0.05 * (1 - price) for side, price in bare.items()}


def market_of(coin: str, leverage: float) -> Market:
    candles, signals = candles_of(coin), signals_of(coin)
    return Market(
        features=np.zeros((len(candles), 1)),
        ohlc=candles[["open", "high", "low", "close"]],
        entry_long=signals["long"],
        entry_short=signals["short"],
        fee_rate=FEE_RATE,
        leverage=leverage,
        tick_size=1.0 / 10.0 ** steps(coin),
        **liquidations(coin, leverage),
        pair=f"{coin}/USDT:USDT",
        ends_early=len(candles) < N_CANDLES,
    )


@pytest.fixture(scope="module")
def ours(environment_trades: Any) -> dict[tuple[str, str], list[Trade]]:
    """Return the environment's trades by strategy and coin."""
    return {
        (name, coin): environment_trades(
            market_of(coin, leverage),
            TradeRules(entry=EntryMode.ALWAYS, **rules),
            signals_of(coin)["leave"].to_numpy(),
        )
        for name, (leverage, rules) in RUNS.items()
        for coin in COINS
    }


@pytest.fixture(scope="module")
def backtests(run_backtester: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run the real program once over all strategies: trades by strategy."""
    hours = pd.date_range(START, periods=N_CANDLES // 12 + 1, freq="1h").as_unit("ms")
    names = ("open", "high", "low", "close", "volume")
    nothing = pd.DataFrame({"date": hours, **dict.fromkeys(names, 0.0)})
    tables = {
        coin: {
            "5m-futures": candles_of(coin),
            "1h-mark": nothing,
            "1h-funding_rate": nothing,
            "signals": signals_of(coin),
        }
        for coin in COINS
    }
    texts = {name: strategy_text(name) for name in RUNS}
    return run_backtester(tmp_path_factory.mktemp("orders"), tables, texts)


@pytest.mark.parametrize("coin", COINS)
@pytest.mark.parametrize("name", RUNS)
def test_the_backtester_makes_the_same_trades(
    name, coin, backtests, ours, assert_same_trades
) -> None:
    assert_same_trades(backtests[name], ours[name, coin], coin, START)


def test_every_case_was_met(ours) -> None:
    """The parity above would say little about what its markets never do."""
    met: Counter[str] = Counter()
    for (_, coin), trades in ours.items():
        for trade in trades:
            in_entry = "entry candle" if trade.duration_candles == 0 else "later"
            met[f"{trade.exit_reason} {in_entry} {trade.side.name}"] += 1
            met["month"] += trade.open_row < MONTH_END <= trade.close_row
            met["early"] += trade.open_row == COINS[coin].n_candles - 1 < N_CANDLES - 1
    for reason in (ExitReason.TRAILING_STOP, ExitReason.STOP_LOSS, ExitReason.ROI):
        for when in ("entry candle", "later"):
            for side in ("LONG", "SHORT"):
                assert met[f"{reason} {when} {side}"] >= 3, (reason, when, side, met)
    assert met["month"] >= 15
    assert met["early"] >= 5
