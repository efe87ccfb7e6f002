"""Environment trades == backtester trades: the unmodified freqtrade program is the judge.

Two random walks with random signals run through ``freqtrade backtesting``, with a strategy that
draws entries and the agent's exits from columns and calls the package's ``safety_exit``, and
through the environment with the same signals. Every trade must be the same: candles, prices,
reason and profit.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, TradeRules
from mtf_scalper.simulator.types import ExitReason, Trade

from .conftest import FEE_RATE

START = pd.Timestamp("2024-01-01", tz="UTC")
N_CANDLES = 10 * 288
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

import numpy as np
import pandas as pd
from freqtrade.persistence import Trade
from freqtrade.strategy import IStrategy

from mtf_scalper.settings import TradeRules
from mtf_scalper.simulator.exits import EXIT_CODES, profit_ratio, safety_exit, safety_limits


class {name}(IStrategy):
    timeframe = "5m"
    can_short = True
    rules = TradeRules(**{rules!r})
    minimal_roi = {{str(rung): ratio for rung, ratio in rules.minimal_roi.items()}} or {{"0": 99.0}}
    stoploss = rules.stoploss
    seen = {{}}

    def populate_indicators(self, frame, metadata):
        coin = metadata["pair"].split("/")[0]
        signals = pd.read_feather(Path(__file__).parent / f"{{coin}}.feather")
        frame = frame.merge(signals, on="date", how="left")
        dates = frame["date"].dt.tz_localize(None).to_numpy("datetime64[s]")
        columns = (frame[name].to_numpy() for name in ("high", "low", "leave"))
        self.seen[metadata["pair"]] = (dates, *columns)
        return frame

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
        dates, high, low, leave = self.seen[pair]
        opened, now = (
            int(np.searchsorted(dates, np.datetime64(moment.replace(tzinfo=None), "s")))
            for moment in (trade.open_date_utc, current_time)
        )
        # The candle before this open is the last that is known now.
        if opened < now and leave[now - 1]:
            return "agent_exit"
        extreme = low[opened:now].min if trade.is_short else high[opened:now].max
        best = profit_ratio(
            -1 if trade.is_short else 1, trade.open_rate, extreme(initial=trade.open_rate),
            {fee_rate}, trade.leverage,
        )
        limits = safety_limits(self.rules)
        return EXIT_CODES.get(safety_exit(now - opened, current_profit, best, *limits))
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


@pytest.fixture(scope="module")
def backtests(run_backtester: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run the real program once over all strategies: trades by strategy."""
    tables = {}
    for coin in TICKS:
        rates, mark = coin_funding(coin)
        tables[coin] = {
            "5m-futures": coin_candles(coin),
            "1h-mark": mark,
            "1h-funding_rate": rates,
            "signals": coin_signals(coin),
        }
    texts = {
        name: STRATEGY.format(name=name, fee_rate=FEE_RATE, **run) for name, run in RUNS.items()
    }
    return run_backtester(tmp_path_factory.mktemp("parity"), tables, texts)


@pytest.fixture(scope="module")
def ours(environment_trades: Any) -> dict[tuple[str, str], list[Trade]]:
    """Return the environment's trades by strategy and coin."""
    return {
        (name, coin): environment_trades(
            coin_market(coin, run["leverage"]),
            TradeRules(entry=EntryMode.ALWAYS, **run["rules"]),
            coin_signals(coin)["leave"].to_numpy(),
        )
        for name, run in RUNS.items()
        for coin in TICKS
    }


@pytest.mark.parametrize("coin", TICKS)
@pytest.mark.parametrize("name", RUNS)
def test_the_backtester_makes_the_same_trades(
    name, coin, backtests, ours, assert_same_trades
) -> None:
    assert_same_trades(backtests[name], ours[name, coin], coin, START)


def test_every_way_out_was_judged_for_both_sides(ours) -> None:
    """The parity above would say little about exits that its markets never take."""
    met = Counter(
        (trade.exit_reason, trade.side < 0) for trades in ours.values() for trade in trades
    )
    # Stops that trail are judged in test_orders_parity.py, on markets of their own.
    for reason in set(ExitReason) - {ExitReason.END_OF_DATA, ExitReason.TRAILING_STOP}:
        for is_short in (False, True):
            assert met[reason, is_short] >= 5, (reason, is_short)
    assert met[ExitReason.END_OF_DATA, False] + met[ExitReason.END_OF_DATA, True] >= 1
