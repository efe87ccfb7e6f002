"""The strategy: its entries, exits, leverage and stakes, and what freqtrade reads from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.persistence import LocalTrade, Trade
from freqtrade.plugins.protectionmanager import ProtectionManager
from freqtrade.strategy import IStrategy

from mtf_scalper.freqai import columns
from mtf_scalper.freqai.decision_table import DecisionTable
from mtf_scalper.market.candles import resample_candles
from mtf_scalper.market.features import WARMUP_CANDLES_5M
from mtf_scalper.market.market import Market
from mtf_scalper.market.signals import (
    EntryThresholds,
    atr_stake_fraction,
    classic_entries,
    entry_indicators,
)
from mtf_scalper.settings import EntryMode
from mtf_scalper.simulator.exits import EXIT_CODES, profit_ratio, safety_exit, safety_limits
from mtf_scalper.simulator.masks import action_mask, masked_action
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import Side

PAIR = "BTC/USDT:USDT"
Config = dict[str, Any]
MakeConfig = Callable[..., Config]
MakeStrategy = Callable[..., IStrategy]
WithPredictions = Callable[..., pd.DataFrame]
Draw = Callable[[int, int], np.ndarray]

FIRST = datetime(2024, 1, 30, tzinfo=UTC)
CANDLE = timedelta(minutes=5)


@pytest.fixture(scope="module")
def strategy(make_config: MakeConfig, make_strategy: MakeStrategy) -> IStrategy:
    return make_strategy(make_config())


def analysed(
    strategy: IStrategy,
    candles: pd.DataFrame,
    probabilities: np.ndarray,
    with_predictions: WithPredictions,
    do_predict: np.ndarray | int = 1,
) -> pd.DataFrame:
    """Run the strategy over candles with known predictions, as freqtrade does."""
    strategy.freqai = SimpleNamespace(
        start=lambda frame, metadata, strategy: with_predictions(frame, probabilities, do_predict)
    )
    frame = strategy.populate_indicators(candles.copy(), {"pair": PAIR})
    frame = strategy.populate_entry_trend(frame, {"pair": PAIR})
    return strategy.populate_exit_trend(frame, {"pair": PAIR})


# No future


def test_no_signal_and_no_decision_knows_the_future(
    strategy: IStrategy,
    candles: pd.DataFrame,
    with_predictions: WithPredictions,
    random_probabilities: Draw,
) -> None:
    probabilities = random_probabilities(len(candles), 1)
    known = analysed(strategy, candles, probabilities, with_predictions)
    known_table = strategy._tables[PAIR]
    assert known["enter_long"].sum() > 10
    assert known["enter_short"].sum() > 10
    for t in (1500, 2001, 2402):
        other = analysed(strategy, disturbed(candles, after=t), probabilities, with_predictions)
        pd.testing.assert_frame_equal(other.iloc[: t + 1], known.iloc[: t + 1])
        table = strategy._tables[PAIR]
        for name, values in vars(known_table).items():
            np.testing.assert_array_equal(getattr(table, name)[: t + 1], values[: t + 1])
        assert not other.iloc[t + 1 :]["ema_9_5m"].equals(known.iloc[t + 1 :]["ema_9_5m"])


def test_nothing_that_freqai_trains_on_knows_the_future(
    make_config: MakeConfig, strategy: IStrategy, candles: pd.DataFrame
) -> None:
    config = make_config()

    def columns_of(frame_5m: pd.DataFrame) -> pd.DataFrame:
        frames = {tf: resample_candles(frame_5m, tf) for tf in ("15m", "1h")}
        kitchen = FreqaiDataKitchen(config, False, PAIR)
        return kitchen.use_strategy_to_populate_indicators(
            strategy, base_dataframes={"5m": frame_5m, **frames}, pair=PAIR
        )

    known = columns_of(candles)
    for t in (1500, 2002):
        other = columns_of(disturbed(candles, after=t))
        pd.testing.assert_frame_equal(other.iloc[: t + 1], known.iloc[: t + 1])


def disturbed(candles: pd.DataFrame, after: int) -> pd.DataFrame:
    """Return the candles with everything after row ``after`` changed."""
    changed = candles.copy()
    factor = np.random.default_rng(after).uniform(0.5, 2.0, len(candles) - after - 1)
    for column in ("open", "high", "low", "close", "volume"):
        changed.loc[after + 1 :, column] *= factor
    return changed


# Features


def test_there_are_forty_features_or_more_and_none_is_a_price(
    make_config: MakeConfig, strategy: IStrategy, candles: pd.DataFrame, featured: pd.DataFrame
) -> None:
    """Prices times 1,024 (exact in binary) leave everything as it is, but for the raw prices."""
    seen = [name for name in featured if "%" in name and name not in columns.RAW_PRICES]
    assert len(seen) >= 40
    assert set(columns.RAW_PRICES) <= set(featured)
    assert np.isfinite(featured[seen].iloc[WARMUP_CANDLES_5M:]).all(axis=None)
    scaled = candles.copy()
    scaled[["open", "high", "low", "close"]] *= 1024.0
    frames = {tf: resample_candles(scaled, tf) for tf in ("15m", "1h")}
    kitchen = FreqaiDataKitchen(make_config(), False, PAIR)
    other = kitchen.use_strategy_to_populate_indicators(
        strategy, base_dataframes={"5m": scaled, **frames}, pair=PAIR
    )
    other = kitchen.remove_special_chars_from_feature_names(other)
    rows = slice(WARMUP_CANDLES_5M, len(candles))
    np.testing.assert_allclose(other[seen].iloc[rows], featured[seen].iloc[rows], atol=1e-6)
    for name in (columns.ENTRY_LONG, columns.ENTRY_SHORT, columns.LEVERAGE):
        np.testing.assert_array_equal(other[name].iloc[rows], featured[name].iloc[rows])


def test_training_sees_the_entries_and_leverage_that_are_traded(
    strategy: IStrategy,
    candles: pd.DataFrame,
    featured: pd.DataFrame,
    with_predictions: WithPredictions,
    random_probabilities: Draw,
) -> None:
    traded = analysed(strategy, candles, random_probabilities(len(candles), 1), with_predictions)
    np.testing.assert_array_equal(featured[columns.ENTRY_LONG], traded["enter_long"] == 1)
    np.testing.assert_array_equal(featured[columns.ENTRY_SHORT], traded["enter_short"] == 1)
    np.testing.assert_array_equal(featured[columns.LEVERAGE], traded[columns.LEVERAGE])


# Entries


def test_always_takes_every_classic_entry_that_has_a_prediction(
    strategy: IStrategy,
    candles: pd.DataFrame,
    with_predictions: WithPredictions,
    random_probabilities: Draw,
) -> None:
    probabilities = random_probabilities(len(candles), 2)
    probabilities[::5] = 0.0
    do_predict = np.ones(len(candles))
    do_predict[1::5] = 0
    frame = analysed(strategy, candles, probabilities, with_predictions, do_predict)
    long, short = classic_entries(entry_indicators(candles), EntryThresholds())
    predicted = np.arange(len(candles)) % 5 >= 2
    np.testing.assert_array_equal(frame["enter_long"], long & predicted)
    np.testing.assert_array_equal(frame["enter_short"], short & predicted)
    assert (long & predicted).any()
    assert (short & predicted).any()
    assert (long & ~predicted).any()
    entered = frame["enter_long"] + frame["enter_short"] > 0
    assert set(frame.loc[entered, "enter_tag"]) == {"always"}
    assert not frame[["exit_long", "exit_short"]].any(axis=None)


@pytest.mark.parametrize("entry", ["classic", "any"])
@pytest.mark.parametrize("can_short", [True, False])
def test_the_agent_enters_where_its_masked_choice_is_to(
    entry: str,
    can_short: bool,
    make_config: MakeConfig,
    make_strategy: MakeStrategy,
    rl_config: Callable[..., Config],
    candles: pd.DataFrame,
    with_predictions: WithPredictions,
) -> None:
    strategy = make_strategy(make_config(rl_config(entry=entry)), can_short=can_short)
    probabilities = np.random.default_rng(3).dirichlet(np.ones(5), len(candles))
    frame = analysed(strategy, candles, probabilities, with_predictions)
    signals = zip(*classic_entries(entry_indicators(candles), EntryThresholds()), strict=True)
    expected = []
    for row, (long, short) in enumerate(signals):
        mask = action_mask(
            Side.FLAT,
            entry=EntryMode(entry),
            can_short=can_short,
            signal_long=bool(long),
            signal_short=bool(short),
        )
        expected.append(masked_action(probabilities[row], mask))
    np.testing.assert_array_equal(frame["enter_long"], np.equal(expected, 1))
    np.testing.assert_array_equal(frame["enter_short"], np.equal(expected, 3))
    assert frame["enter_long"].any()
    assert frame["enter_short"].any() == can_short


def test_the_hyperopt_thresholds_move_the_entries(
    strategy: IStrategy,
    candles: pd.DataFrame,
    with_predictions: WithPredictions,
    random_probabilities: Draw,
) -> None:
    indicators = entry_indicators(candles)
    probabilities = random_probabilities(len(candles), 2)
    counts = []
    for changes in (
        {},
        {"adx_min": 35.0},
        {"rsi_long_min": 65.0},
        {"rsi_short_max": 35.0},
        {"atr_pct_max": 0.005},
    ):
        with pytest.MonkeyPatch.context() as patch:  # strategies of one class share parameters
            for name, value in changes.items():
                patch.setattr(getattr(strategy, name), "value", value)
            frame = analysed(strategy, candles, probabilities, with_predictions)
        long, short = classic_entries(indicators, EntryThresholds(**changes))
        np.testing.assert_array_equal(frame["enter_long"], long)
        np.testing.assert_array_equal(frame["enter_short"], short)
        counts.append(int(long.sum() + short.sum()))
    assert all(count < counts[0] for count in counts[1:])


def test_without_a_model_there_are_no_entries_and_no_agent_exits(
    strategy: IStrategy, candles: pd.DataFrame
) -> None:
    """FreqAI returns no predictions at all while the first model is being trained."""
    strategy.freqai = SimpleNamespace(start=lambda frame, metadata, strategy: frame)
    frame = strategy.populate_indicators(candles.copy(), {"pair": PAIR})
    frame = strategy.populate_entry_trend(frame, {"pair": PAIR})
    frame = strategy.populate_exit_trend(frame, {"pair": PAIR})
    decided = ["enter_long", "enter_short", "agent_exit_long", "agent_exit_short"]
    assert not frame[decided].any(axis=None)


# Exits


def decision_table(n: int = 60, **changes: np.ndarray) -> DecisionTable:
    """Return a table of candles at 100 from ``FIRST`` on, at which the agent stays."""
    arrays: dict[str, Any] = {
        "dates": np.datetime64(FIRST.replace(tzinfo=None), "ns")
        + np.arange(n) * np.timedelta64(5, "m"),
        "close": np.full(n, 100.0),
        "high": np.full(n, 100.0),
        "low": np.full(n, 100.0),
        "predicted": np.ones(n, dtype=np.bool_),
        "atr_pct": np.full(n, 0.004),
        "leverage": np.full(n, 1.5),
        "exit_long": np.zeros(n),
        "exit_short": np.zeros(n),
    }
    return DecisionTable(**{**arrays, **changes})


def open_trade(row: int, *, is_short: bool = False, leverage: float = 2.0) -> LocalTrade:
    return LocalTrade(
        pair=PAIR,
        open_rate=100.0,
        open_date=FIRST + row * CANDLE,
        stake_amount=100.0,
        amount=1.0,
        fee_open=0.0005,
        fee_close=0.0005,
        is_short=is_short,
        leverage=leverage,
        is_open=True,
        exchange="binance",
    )


def asked(
    strategy: IStrategy,
    trade: LocalTrade,
    row: int,
    *,
    profit: float = 0.0,
    seconds: int = 0,
) -> str | None:
    """Ask the strategy inside the candle of ``row`` whether to leave."""
    return strategy.custom_exit(
        PAIR, trade, FIRST + row * CANDLE + timedelta(seconds=seconds), 100.0, profit
    )


@pytest.mark.parametrize("is_short", [False, True])
@pytest.mark.parametrize("seconds", [0, 299])
def test_the_agent_leaves_by_the_last_closed_candle(
    strategy: IStrategy, is_short: bool, seconds: int
) -> None:
    leave = np.zeros(60)
    leave[20] = 0.9
    side, other = ("exit_short", "exit_long") if is_short else ("exit_long", "exit_short")
    strategy._tables[PAIR] = decision_table(**{side: leave})
    trade = open_trade(10, is_short=is_short)
    answers = {row: asked(strategy, trade, row, seconds=seconds) for row in range(11, 40)}
    assert answers.pop(21) == "agent_exit"
    assert set(answers.values()) == {None}
    strategy._tables[PAIR] = decision_table(**{other: leave})
    assert asked(strategy, trade, 21, seconds=seconds) is None


@pytest.mark.parametrize("is_short", [False, True])
def test_an_agent_that_sees_its_position_is_asked_at_the_state_of_the_actual_trade(
    strategy: IStrategy,
    is_short: bool,
    make_market: Callable[..., Market],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The state of every candle is that of the environment in the same trade."""
    rng = np.random.default_rng(3)
    market = make_market(n_candles=60, volatility=0.003, leverage=2.0, seed=8)
    settings = strategy._settings.changed(add_state_info=True, window_size=1)
    env = ReferenceEnv(market, settings.changed(rules=settings.rules.changed(entry="any")))
    env.reset(options={"row": 9})
    states = {}
    env.step(3 if is_short else 1)
    while env.side:
        states[env.row] = env.position_state()
        env.step(0)
    trade = open_trade(10, is_short=is_short)
    trade.open_rate = market.ohlc[10, 0]
    assert len(states) > 5

    leave_at = int(rng.choice(list(states)))
    asked_at: dict[int, np.ndarray] = {}

    def probabilities(pair: str, date: np.datetime64, state: np.ndarray) -> np.ndarray:
        row = int(np.flatnonzero(strategy._tables[PAIR].dates == date)[0])
        asked_at[row] = state
        stays = [0.3, 0.1, 0.2, 0.2, 0.2]
        return np.array([0.1, 0.0, 0.5, 0.0, 0.5] if row == leave_at else stays)

    decisions = SimpleNamespace(probabilities=probabilities)
    monkeypatch.setattr(strategy, "_settings", settings)
    monkeypatch.setattr(strategy, "freqai", SimpleNamespace(decisions=decisions), raising=False)
    _, high, low, close = market.ohlc.T
    strategy._tables[PAIR] = decision_table(high=high, low=low, close=close)
    answers = {row: asked(strategy, trade, row + 1) for row in states}
    for row, state in states.items():
        np.testing.assert_array_equal(asked_at[row], state)
    assert answers[leave_at] == "agent_exit"
    assert "agent_exit" not in [answer for row, answer in answers.items() if row != leave_at]

    strategy._tables[PAIR] = decision_table(predicted=np.zeros(60, dtype=np.bool_))
    assert asked(strategy, trade, leave_at + 1) != "agent_exit"


def test_the_agent_does_not_leave_on_the_candle_of_the_entry(strategy: IStrategy) -> None:
    strategy._tables[PAIR] = decision_table(exit_long=np.full(60, 0.9))
    trade = open_trade(10)
    assert asked(strategy, trade, 10) is None
    assert asked(strategy, trade, 10, seconds=299) is None
    assert asked(strategy, trade, 11) == "agent_exit"


def test_the_exit_threshold_is_honoured(
    strategy: IStrategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    trade = open_trade(10)
    for threshold in (0.5, 0.8):
        monkeypatch.setattr(strategy.exit_confidence, "value", threshold)
        for confidence, expected in ((threshold, None), (threshold + 0.01, "agent_exit")):
            strategy._tables[PAIR] = decision_table(exit_long=np.full(60, confidence))
            assert asked(strategy, trade, 20) == expected


def test_the_decisions_are_the_agents_probabilities_of_leaving(
    strategy: IStrategy, candles: pd.DataFrame, with_predictions: WithPredictions
) -> None:
    probabilities = np.random.default_rng(4).dirichlet(np.ones(5), len(candles))
    probabilities[:100] = 0.0
    frame = analysed(strategy, candles, probabilities, with_predictions)
    table = strategy._tables[PAIR]
    stay, leave_long, leave_short = probabilities[100:, [0, 2, 4]].T
    np.testing.assert_allclose(table.exit_long[100:], leave_long / (stay + leave_long))
    np.testing.assert_allclose(table.exit_short[100:], leave_short / (stay + leave_short))
    assert not table.exit_long[:100].any()
    np.testing.assert_array_equal(table.exit_long, frame["agent_exit_long"])
    np.testing.assert_array_equal(table.dates, candles["date"].dt.tz_localize(None))
    np.testing.assert_array_equal(table.high, candles["high"])


@pytest.mark.parametrize("is_short", [False, True])
def test_safety_exits_are_the_simulators(strategy: IStrategy, is_short: bool) -> None:
    rng = np.random.default_rng(6)
    side, limits = (-1 if is_short else 1), safety_limits(strategy._rules)
    seen = set()
    for _ in range(400):
        high, low = 100.0 + rng.uniform(0.0, 2.0, 60), 100.0 - rng.uniform(0.0, 2.0, 60)
        strategy._tables[PAIR] = decision_table(high=high, low=low)
        opened, age = int(rng.integers(1, 10)), int(rng.integers(0, 50))
        profit = float(rng.uniform(-0.04, 0.02))
        trade = open_trade(opened, is_short=is_short)
        closed = slice(opened, opened + age)
        best = low[closed].min(initial=100.0) if is_short else high[closed].max(initial=100.0)
        best_profit = profit_ratio(side, 100.0, best, 0.0005, 2.0)
        expected = EXIT_CODES.get(safety_exit(age, profit, best_profit, *limits))
        answer = asked(strategy, trade, opened + age, profit=profit)
        assert answer == expected
        seen.add(answer)
    assert seen == {None, "emergency_loss", "break_even", "max_duration"}


@pytest.mark.parametrize("is_short", [False, True])
def test_break_even_looks_at_closed_candles_of_the_trade_only(
    strategy: IStrategy, is_short: bool
) -> None:
    """A 2% move at leverage 2 reaches the trigger of 1.5%."""
    for row, expected in ((9, None), (10, "break_even"), (19, "break_even"), (20, None)):
        prices = np.full(60, 100.0)
        prices[row] = 98.0 if is_short else 102.0
        strategy._tables[PAIR] = decision_table(**{"low" if is_short else "high": prices})
        trade = open_trade(10, is_short=is_short)
        assert asked(strategy, trade, 20, profit=0.0, seconds=200) == expected


# Entering: leverage, stake, refusals


def test_leverage_is_that_of_the_last_closed_candle(strategy: IStrategy) -> None:
    strategy._tables[PAIR] = decision_table(leverage=1.0 + np.arange(60) / 10.0)

    def leverage(row: int, most: float = 50.0) -> float:
        moment = FIRST + row * CANDLE + timedelta(seconds=3)
        return strategy.leverage(PAIR, moment, 100.0, 1.0, most, None, "long")

    assert leverage(11) == 2.0
    assert leverage(11, most=1.5) == 1.5
    assert leverage(0) == 1.0
    assert leverage(500) == pytest.approx(6.9)


def test_the_stake_is_two_percent_of_risk_and_five_percent_of_equity_at_most(
    make_config: MakeConfig, make_strategy: MakeStrategy
) -> None:
    strategy = make_strategy(make_config())
    strategy.wallets = SimpleNamespace(get_total_stake_amount=lambda: 10_000.0)
    atr = np.full(60, np.nan)
    atr[1:] = np.geomspace(0.0001, 0.9, 59)
    strategy._tables[PAIR] = decision_table(atr_pct=atr)

    def stake(row: int, *, least: float | None = 1.0, most: float = 1e9) -> float:
        moment = FIRST + row * CANDLE
        return strategy.custom_stake_amount(
            PAIR, moment, 100.0, 5_000.0, least, most, 2.0, None, "long"
        )

    stakes = [stake(row + 1) for row in range(60)]
    assert stakes[0] == 0.0  # the risk is unknown
    assert stakes[1:] == [10_000.0 * atr_stake_fraction(value, 2.0) for value in atr[1:]]
    assert max(stakes) == 500.0
    assert min(stakes[1:]) < 50.0
    assert stake(0) == 0.0  # no candle has closed
    assert stake(2, least=500.1) == 0.0
    assert stake(2, least=500.0) == 500.0
    assert stake(2, least=None) == 500.0
    assert stake(2, most=80.0) == 80.0


@pytest.fixture
def trades_in_memory(without_database: None) -> Iterator[list[LocalTrade]]:
    Trade.reset_trades()
    yield LocalTrade.bt_trades
    Trade.reset_trades()


def test_an_entry_is_refused_on_the_candle_of_the_last_exit(
    strategy: IStrategy, trades_in_memory: list[LocalTrade]
) -> None:
    def confirmed(pair: str, row: int, seconds: int = 0) -> bool:
        moment = FIRST + row * CANDLE + timedelta(seconds=seconds)
        return strategy.confirm_trade_entry(
            pair, "limit", 1.0, 100.0, "GTC", moment, "always", "long"
        )

    assert confirmed(PAIR, 20)
    trade = open_trade(10)
    trades_in_memory.append(trade)
    trade.is_open = False
    trade.close_date = FIRST + 20 * CANDLE
    assert not confirmed(PAIR, 20)
    assert not confirmed(PAIR, 20, seconds=200)
    assert confirmed(PAIR, 21)
    assert confirmed("ETH/USDT:USDT", 20)
    trade.close_date += timedelta(seconds=100)  # live trades close inside a candle
    assert not confirmed(PAIR, 20, seconds=200)
    assert confirmed(PAIR, 21)


# What freqtrade reads from the strategy


def test_freqtrade_accepts_the_protections(make_config: MakeConfig, strategy: IStrategy) -> None:
    manager = ProtectionManager(make_config(), strategy.protections)
    assert manager.name_list == ["CooldownPeriod", "StoplossGuard", "MaxDrawdown"]


def test_freqtrade_finds_the_hyperopt_parameters(
    make_config: MakeConfig, make_strategy: MakeStrategy
) -> None:
    strategy = make_strategy(make_config())
    strategy.ft_load_hyper_params(hyperopt=True)
    found = {space: dict(strategy.enumerate_parameters(space)) for space in ("buy", "sell")}
    assert set(found["buy"]) == {"adx_min", "rsi_long_min", "rsi_short_max", "atr_pct_max"}
    assert set(found["sell"]) == {"exit_confidence"}
    defaults = EntryThresholds()
    for name, parameter in found["buy"].items():
        assert parameter.low <= parameter.value <= parameter.high
        assert parameter.value == getattr(defaults, name)


def test_funding_and_mark_prices_are_asked_for_in_futures_only(
    make_config: MakeConfig, make_strategy: MakeStrategy
) -> None:
    strategy = make_strategy(make_config())
    strategy.dp = SimpleNamespace(current_whitelist=lambda: [PAIR], _exchange=None)
    assert strategy.informative_pairs() == [(PAIR, "1h", "mark"), (PAIR, "1h", "funding_rate")]
    strategy.config["trading_mode"] = "spot"
    assert strategy.informative_pairs() == []


def test_wrong_rules_stop_the_bot_at_its_start(
    make_config: MakeConfig, make_strategy: MakeStrategy
) -> None:
    with pytest.raises(OperationalException, match="emergency_loss"):
        make_strategy(make_config(), emergency_loss=0.03)


def test_the_plot_shows_columns_that_exist(
    strategy: IStrategy,
    candles: pd.DataFrame,
    with_predictions: WithPredictions,
    random_probabilities: Draw,
) -> None:
    frame = analysed(strategy, candles, random_probabilities(len(candles), 1), with_predictions)
    lines = [strategy.plot_config["main_plot"], *strategy.plot_config["subplots"].values()]
    assert {name for part in lines for name in part} <= set(frame)


def test_the_face_adds_nothing(strategy: IStrategy) -> None:
    own = {name for name in vars(type(strategy)) if not name.startswith("__")}
    assert own <= {"_abc_impl", "_ft_informative"}
    assert Path(strategy.__file__).name == "MtfScalper_RL_Hybrid.py"
