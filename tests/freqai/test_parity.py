"""Trades of the simulator are trades of freqtrade's own backtester, candle by candle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ccxt import TICK_SIZE
from freqtrade.data.converter import trim_dataframe
from freqtrade.data.dataprovider import DataProvider
from freqtrade.exchange import Exchange
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.persistence import LocalTrade
from freqtrade.strategy import IStrategy

from mtf_scalper.freqai import columns
from mtf_scalper.freqai.config import read_settings, trade_rules
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.freqai.windows import build_market
from mtf_scalper.inference import Policy, Simulation, simulate
from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.exits import stop_price
from mtf_scalper.simulator.types import Side

Config = dict[str, Any]

CANDLES = 4 * 288 + 1  # to midnight, where funding is due on the last candle
SHARED = ["is_short", "open_rate", "close_rate", "leverage", "exit_reason"]


@dataclass(frozen=True)
class Case:
    """Where the agent enters, what the strategy does otherwise, and exits that have to occur."""

    entry: str = "any"
    attributes: dict[str, Any] = field(default_factory=dict)
    reasons: frozenset[str] = frozenset()
    leverage: float | None = None


NO_SAFETY_EXITS = {"emergency_loss": None, "break_even_trigger": None}
LADDER = {0: 0.05, 7: 0.02, 15: 0.01, 120: -1}
CASES = {
    "shipped rules, any entry": Case(
        reasons=frozenset({"agent_exit", "roi", "emergency_loss", "break_even", "max_duration"})
    ),
    "shipped rules, classic entries": Case("classic"),
    "shipped rules, always": Case("always"),
    "long only": Case(attributes={"can_short": False}),
    "near stop": Case(
        attributes={**NO_SAFETY_EXITS, "stoploss": -0.04}, reasons=frozenset({"stop_loss"})
    ),
    "other ladder": Case(
        attributes={**NO_SAFETY_EXITS, "minimal_roi": LADDER}, reasons=frozenset({"roi"})
    ),
    "liquidation": Case(
        attributes={**NO_SAFETY_EXITS, "stoploss": -0.99, "minimal_roi": {0: 0.5}},
        reasons=frozenset({"liquidation"}),
        leverage=20.0,
    ),
}


class KnownPolicy(Policy):
    """A policy whose probabilities are given row by row."""

    def __init__(self, probabilities: np.ndarray, settings: Settings) -> None:
        self.settings = settings
        self._probabilities = probabilities

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        assert len(features) == len(self._probabilities)
        return self._probabilities


@dataclass(frozen=True)
class Backtested:
    """Trades of the backtester and, by pair, the market it traded and the predictions it had."""

    trades: pd.DataFrame
    settings: Settings
    markets: dict[str, Market]
    predictions: dict[str, np.ndarray]

    def simulated(self, pair: str) -> Simulation:
        """Let the same predictions trade the same candles in the simulator."""
        policy = KnownPolicy(self.predictions[pair], self.settings)
        return simulate(policy, self.markets[pair])


@pytest.fixture
def backtested(
    make_config: Callable[..., Config],
    rl_config: Callable[..., Config],
    exchange: Exchange,
    with_predictions: Callable[..., pd.DataFrame],
    random_probabilities: Callable[[int, int], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Case], Backtested]:
    """Return a function that runs freqtrade's backtester with random predictions."""
    frames: dict[str, pd.DataFrame] = {}

    def predict(
        model: MtfScalperRLModel, frame: pd.DataFrame, metadata: dict[str, str], maker: IStrategy
    ) -> pd.DataFrame:
        probabilities = random_probabilities(len(frame), len(frames))
        # With entry=always the simulator enters without a prediction, the strategy does not.
        if model.settings.rules.entry != "always":
            probabilities[np.random.default_rng(7).random(len(frame)) < 0.1] = 0.0
        frame = maker.feature_engineering_standard(frame.copy(), metadata)
        frames[metadata["pair"]] = with_predictions(frame, probabilities)
        return frames[metadata["pair"]]

    def run(case: Case) -> Backtested:
        config = make_config(rl_config(entry=case.entry), timerange="20240130-20240203")
        monkeypatch.setattr(MtfScalperRLModel, "start", predict)
        if case.leverage is not None:
            constant = case.leverage
            monkeypatch.setattr(
                "mtf_scalper.freqai.strategy.leverage_for",
                lambda indicators, most: np.full(len(indicators), constant),
            )
        backtesting = Backtesting(config, exchange=exchange)
        strategy = backtesting.strategylist[0]
        for name, value in case.attributes.items():
            setattr(strategy, name, value)
        try:
            data, timerange = backtesting.load_bt_data()
            backtesting.backtest_one_strategy(strategy, data, timerange)
            trades = backtesting.all_bt_content[strategy.get_strategy_name()]["results"]
        finally:
            Backtesting.cleanup()
        settings = read_settings(config, trade_rules(config, strategy)).changed(window_size=1)
        provider = DataProvider(config, exchange)  # the backtester's ends before the last candle
        markets, predictions = {}, {}
        for pair, frame in frames.items():
            rows = trim_dataframe(frame, timerange, startup_candles=backtesting.required_startup)
            markets[pair] = build_market(
                rows[["%-body"]], frame, pair, settings, config=config, provider=provider
            )
            predictions[pair] = rows[list(columns.PROBABILITIES)].to_numpy()
        return Backtested(trades, settings, markets, predictions)

    return run


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_simulator_and_backtester_make_the_same_trades(
    case: Case, backtested: Callable[[Case], Backtested]
) -> None:
    backtest = backtested(case)
    assert set(backtest.markets) == {"BTC/USDT:USDT", "ETH/USDT:USDT"}
    for pair, market in backtest.markets.items():
        assert len(market) == CANDLES
        run = backtest.simulated(pair)
        theirs = backtest.trades[backtest.trades["pair"] == pair].sort_values("open_date")
        if case.leverage is not None:  # the simulator stakes all it has and may be ruined
            theirs = theirs.iloc[: len(run.trades)]
        assert market.dates is not None
        np.testing.assert_array_equal(
            [(market.dates[trade.open_row], market.dates[trade.close_row]) for trade in run.trades],
            theirs[["open_date", "close_date"]].apply(lambda dates: dates.dt.tz_localize(None)),
        )
        ours = [
            (
                trade.side is Side.SHORT,
                trade.open_rate,
                trade.close_rate,
                trade.leverage,
                str(trade.exit_reason),
            )
            for trade in run.trades
        ]
        assert ours == list(theirs[SHARED].itertuples(index=False, name=None))
        assert len(ours) >= 5
        np.testing.assert_allclose(
            [trade.profit_ratio for trade in run.trades], theirs["profit_ratio"], rtol=0, atol=1e-8
        )
    assert case.reasons <= set(backtest.trades["exit_reason"])
    assert backtest.trades["funding_fees"].abs().max() > 0.0
    sides = {False} if case.attributes.get("can_short") is False else {False, True}
    assert set(backtest.trades["is_short"]) == sides


def test_stops_stand_where_freqtrade_puts_them() -> None:
    """Also where the stop falls on a step of the price but for the last binary digit."""
    rng = np.random.default_rng(1)
    for _ in range(3000):
        digits, is_short = int(rng.integers(1, 4)), bool(rng.random() < 0.5)
        open_rate = round(float(rng.uniform(100.0, 60_000.0)), digits)
        leverage, stoploss = int(rng.integers(10, 31)) / 10.0, -int(rng.integers(1, 30)) / 100.0
        trade = LocalTrade(
            pair="BTC/USDT:USDT",
            open_rate=open_rate,
            open_date=datetime(2024, 1, 30, tzinfo=UTC),
            stake_amount=100.0,
            amount=1.0,
            fee_open=0.0,
            fee_close=0.0,
            is_short=is_short,
            leverage=leverage,
            price_precision=10.0**-digits,
            precision_mode_price=TICK_SIZE,
            exchange="binance",
        )
        trade.adjust_stop_loss(open_rate, stoploss, initial=True)
        side = Side.SHORT if is_short else Side.LONG
        ours = stop_price(side, open_rate, leverage, stoploss, 10.0**-digits)
        assert ours == trade.stop_loss
