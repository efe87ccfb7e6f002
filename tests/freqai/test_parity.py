"""Trades of the simulator are trades of freqtrade's own backtester, candle by candle."""

from __future__ import annotations

import functools
import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from ccxt import TICK_SIZE
from freqtrade.exchange import Exchange
from freqtrade.exchange.exchange_utils import price_to_precision
from freqtrade.persistence import LocalTrade
from freqtrade.strategy import IStrategy
from rich.console import Console

from mtf_scalper.evaluation.trades import ClosedTrade
from mtf_scalper.freqai.traded import ParityError
from mtf_scalper.runs.given_predictions import GIVEN, Given, always_enter, random_policy
from mtf_scalper.runs.parity import (
    LEAST_WALLET,
    Backtested,
    PairBacktest,
    backtest,
    compare,
    load_config,
)
from mtf_scalper.runs.parity_report import first_difference, print_report
from mtf_scalper.simulator.exits import EQUITY_FLOOR, round_to_tick, stop_price
from mtf_scalper.simulator.observation import flat_state
from mtf_scalper.simulator.types import Action, ExitReason, Side

Config = dict[str, Any]

DAYS = "20240130-20240203"
CANDLES = 4 * 288 + 1  # to midnight, where funding is due on the last candle
PAIRS = {"BTC/USDT:USDT", "ETH/USDT:USDT"}
ONE_PAIR = {"exchange": {"pair_whitelist": ["BTC/USDT:USDT"]}}
WITHOUT_PREDICTION = 3  # candles at the start of each day's window: conv_width is 4


@dataclass(frozen=True)
class Case:
    """Where the agent enters, what the strategy does otherwise, and exits that have to occur."""

    entry: str = "any"
    attributes: dict[str, Any] = field(default_factory=dict)
    reasons: frozenset[str] = frozenset()
    leverage: float | None = None


NO_SAFETY_EXITS = {"emergency_loss": None, "break_even_trigger": None}
LADDER = {0: 0.05, 7: 0.02, 15: 0.01, 120: -1}
SHIPPED = Case(
    reasons=frozenset({"agent_exit", "roi", "emergency_loss", "break_even", "max_duration"})
)
CASES = {
    "shipped rules, any entry": SHIPPED,
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
    "trailing stop": Case(
        attributes={**NO_SAFETY_EXITS, "stoploss": -0.015, "trailing_stop": True},
        reasons=frozenset({"trailing_stop_loss", "stop_loss"}),
    ),
    "trailing stop that comes nearer, with a ladder": Case(
        attributes={
            **NO_SAFETY_EXITS,
            "minimal_roi": LADDER,
            "stoploss": -0.10,
            "trailing_stop": True,
            "trailing_stop_positive": 0.01,
            "trailing_stop_positive_offset": 0.015,
        },
        reasons=frozenset({"trailing_stop_loss", "roi"}),
    ),
    "trailing stop from an offset at leverage 20": Case(
        attributes={
            **NO_SAFETY_EXITS,
            "stoploss": -0.99,
            "minimal_roi": {0: 0.5},
            "trailing_stop": True,
            "trailing_stop_positive": 0.02,
            "trailing_stop_positive_offset": 0.03,
            "trailing_only_offset_is_reached": True,
        },
        reasons=frozenset({"trailing_stop_loss"}),
        leverage=20.0,
    ),
}


# A day of candles known by heart, so that there are trades.
LEARNS = {"train_cycles": 10, "learning_rate": 0.01, "dropout": 0.0, "weight_average": 0.0}


@pytest.fixture(scope="module")
def run(
    make_config: Callable[..., Config], rl_config: Callable[..., Config], exchange: Exchange
) -> Callable[..., Backtested]:
    """Return a function that runs freqtrade's backtester on given or learned predictions."""

    def backtested(
        given: Given | None,
        overrides: Config | None = None,
        *,
        entry: str = "any",
        days: str = DAYS,
        **attributes: Any,
    ) -> Backtested:
        def prepare(strategy: IStrategy) -> None:
            for name, value in attributes.items():
                setattr(strategy, name, value)

        config = make_config({**rl_config(entry=entry), **(overrides or {})}, timerange=days)
        return backtest(config, given, exchange=exchange, prepare=prepare)

    return backtested


@pytest.fixture(scope="module")
def sometimes_silent(random_probabilities: Callable[[int, int], np.ndarray]) -> Given:
    """Return random predictions, with none at a tenth of the candles."""

    def given(pair: str, n_candles: int) -> np.ndarray:
        probabilities = random_probabilities(n_candles, sorted(PAIRS).index(pair))
        probabilities[np.random.default_rng(7).random(n_candles) < 0.1] = 0.0
        return probabilities

    return given


@pytest.fixture(scope="module")
def shipped(run: Callable[..., Backtested], sometimes_silent: Given) -> Backtested:
    return run(sometimes_silent)


@pytest.fixture(scope="module")
def traded(
    run: Callable[..., Backtested], sometimes_silent: Given, shipped: Backtested
) -> Callable[[str], Backtested]:
    """Return a function that runs freqtrade's backtester on a case, once."""

    @functools.cache
    def backtested(name: str) -> Backtested:
        case = CASES[name]
        if case is SHIPPED:
            return shipped
        with pytest.MonkeyPatch.context() as patch:
            if case.leverage is not None:
                constant = case.leverage
                patch.setattr(
                    "mtf_scalper.freqai.strategy.leverage_for",
                    lambda indicators, most: np.full(len(indicators), constant),
                )
            return run(sometimes_silent, entry=case.entry, **case.attributes)

    return backtested


@pytest.mark.parametrize("name", CASES)
def test_simulator_and_backtester_make_the_same_trades(
    name: str, traded: Callable[[str], Backtested]
) -> None:
    case, backtested = CASES[name], traded(name)
    assert set(backtested.pairs) == PAIRS
    compared = compare(backtested)
    for pair, each in compared.items():
        market = backtested.pairs[pair].market
        assert len(market) == CANDLES
        assert each.unequal == []
        assert len(each.trades) == len(backtested.pairs[pair].trades) >= 5
        assert each.largest_profit_difference <= 1e-8
    trades = [each.trades for each in backtested.pairs.values()]
    assert case.reasons <= {trade.exit_reason for each in trades for trade in each}
    sides = {"long"} if case.attributes.get("can_short") is False else {"long", "short"}
    assert {trade.side for each in trades for trade in each} == sides
    assert any(crosses_funding(each) for each in backtested.pairs.values())
    assert backtested.refused_stakes == 0


def test_every_way_out_was_judged_for_both_sides(traded: Callable[[str], Backtested]) -> None:
    met = Counter(
        (trade.exit_reason, trade.side)
        for backtested in map(traded, CASES)
        for each in backtested.pairs.values()
        for trade in each.trades
    )
    for reason in ExitReason:
        for side in ("long", "short"):
            assert met[reason, side] >= 3, (reason, side)


def crosses_funding(run: PairBacktest) -> bool:
    """Say whether any trade is open at a candle at which funding is due."""
    assert run.market.dates is not None
    due = run.market.dates[run.market.funding != 0.0]
    opens, closes = (dates_of(run.trades, name)[:, None] for name in ("open_date", "close_date"))
    return bool(((opens <= due) & (due <= closes)).any())


def dates_of(trades: list[ClosedTrade], name: str) -> np.ndarray:
    return np.array([getattr(trade, name).to_datetime64() for trade in trades])


def test_trades_go_on_where_the_simulator_is_ruined(
    run: Callable[..., Backtested], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mtf_scalper.freqai.strategy.leverage_for",
        lambda indicators, most: np.full(len(indicators), 20.0),
    )
    restless = np.array([0.1, 0.3, 0.2, 0.2, 0.2])  # leaves as soon as it can, for the fees
    backtested = run(lambda pair, n_candles: np.tile(restless, (n_candles, 1)), ONE_PAIR)
    for each in compare(backtested).values():
        assert each.unequal == []
        equity = np.cumprod([1.0 + trade.profit_ratio for trade in each.run.trades])
        assert equity[-10] < EQUITY_FLOOR


@pytest.fixture(scope="module")
def given_for_two_days(run: Callable[..., Backtested], unselected: Callable[..., Config]) -> Any:
    return run(random_policy, unselected(entry="any"), days="20240130-20240201")


@pytest.mark.parametrize("advantage", ["exact", "gae"])
def test_a_trained_model_trades_the_same_and_predicts_where_given_predictions_do(
    advantage: str,
    run: Callable[..., Backtested],
    unselected: Callable[..., Config],
    given_for_two_days: Backtested,
) -> None:
    # A window of a few days has no evident forecast; of its features some policy is learned.
    overrides = unselected(advantage=advantage, entry="any", policy_inputs="features", **LEARNS)
    learned = run(None, overrides, days="20240130-20240201")
    expected = np.arange(2 * 288 + 1) % 288 >= WITHOUT_PREDICTION
    expected[-1] = False  # FreqAI predicts up to the end of the period, the backtest includes it
    for pair, each in compare(learned).items():
        assert each.unequal == []
        assert len(each.trades) > 0
        assert np.ptp(learned.pairs[pair].probabilities[expected], axis=0).min() > 0.0
        for one in (learned, given_for_two_days):
            np.testing.assert_array_equal(one.pairs[pair].is_predicted, expected)


@pytest.mark.parametrize("advantage", ["exact", "gae"])
def test_an_agent_that_sees_its_position_trades_the_same(
    advantage: str, run: Callable[..., Backtested], unselected: Callable[..., Config]
) -> None:
    """In the backtest it is asked at the state of freqtrade's trade, here at the simulator's."""
    overrides = unselected(
        advantage=advantage,
        entry="any",
        policy_inputs="features",
        add_state_info=True,
        **LEARNS,
    )
    backtested = run(None, overrides, days="20240130-20240201")
    left, blind_differs = 0, 0
    blind = {
        pair: replace(each, decide=lambda date, _, ask=each.decide: ask(date, flat_state()))
        for pair, each in backtested.pairs.items()
    }
    compared_blind = compare(replace(backtested, pairs=blind))
    for pair, each in compare(backtested).items():
        assert each.unequal == []
        assert len(each.trades) >= 10
        left += sum(trade.exit_reason == "agent_exit" for trade in each.run.trades)
        blind_differs += len(compared_blind[pair].unequal)
    assert left >= 10
    # Had it not seen its position it would have traded otherwise.
    assert blind_differs > 0


def test_given_policies_trade_the_same_where_agents_see_their_position(
    run: Callable[..., Backtested], sometimes_silent: Given, rl_config: Callable[..., Config]
) -> None:
    overrides = {**rl_config(add_state_info=True, entry="any"), **ONE_PAIR}
    (each,) = compare(run(sometimes_silent, overrides, days="20240130-20240201")).values()
    assert each.unequal == []
    assert "agent_exit" in {trade.exit_reason for trade in each.run.trades}


def test_nothing_enters_without_a_prediction_whatever_the_signal(
    run: Callable[..., Backtested], sometimes_silent: Given
) -> None:
    given = {"entry": "always", "days": "20240130-20240201"}
    backtested, loud = (run(policy, **given) for policy in (sometimes_silent, random_policy))
    silenced = 0
    for pair, each in backtested.pairs.items():
        market = each.market
        assert not (market.entry_long | market.entry_short)[~each.is_predicted].any()
        assert market.entry_long[each.is_predicted].any()
        other = loud.pairs[pair].market
        silenced += int((other.entry_long & ~market.entry_long).sum())
    assert silenced > 0


def test_always_enter_never_leaves_by_itself(run: Callable[..., Backtested]) -> None:
    backtested = run(always_enter, {"max_open_trades": 1})
    assert "max_open_trades 2" in backtested.conditions  # every pair can have a trade open
    for each in compare(backtested).values():
        assert each.unequal == []
        trades, run_ = each.run.trades, each.run
        assert "agent_exit" not in {trade.exit_reason for trade in trades}
        assert {trade.side for trade in trades} == {"long", "short"}
        # As soon as a trade is closed and there is a prediction, the next one opens.
        assert run_.market.dates is not None
        opened = np.searchsorted(run_.market.dates, dates_of(trades, "open_date")[1:])
        closed = np.searchsorted(run_.market.dates, dates_of(trades, "close_date")[:-1])
        for close_row, open_row in zip(closed, opened, strict=True):
            assert not run_.is_predicted[close_row : open_row - 1].any()
            assert open_row > close_row


@pytest.mark.parametrize("name", GIVEN)
def test_given_probabilities_are_seeded_by_the_pair(name: str) -> None:
    first, again = GIVEN[name]("BTC/USDT:USDT", 500), GIVEN[name]("BTC/USDT:USDT", 500)
    np.testing.assert_array_equal(first, again)
    assert (first != GIVEN[name]("ETH/USDT:USDT", 500)).any()
    np.testing.assert_allclose(first.sum(axis=1), 1.0)
    assert (first >= 0.0).all()
    asks = first[:, Action.LONG_EXIT] > first[:, Action.NEUTRAL]
    assert asks.any() == (name == "random")


# What is spoiled, and what the report has to name as the first difference.
SPOILED: dict[str, tuple[Callable[[PairBacktest], PairBacktest], str]] = {
    "another fee": (
        lambda run: replace(run, market=replace(run.market, fee_rate=0.001)),
        "profit_ratio|close_rate|close_date",
    ),
    "predictions one candle late": (
        lambda run: replace(run, probabilities=np.roll(run.probabilities, 1, axis=0)),
        "the simulator has no trade|freqtrade has no trade|side|close_date",
    ),
    "no funding": (
        lambda run: replace(run, market=replace(run.market, funding=np.zeros(CANDLES))),
        "profit_ratio",
    ),
    "another leverage": (
        lambda run: replace(run, market=replace(run.market, leverage=np.ones(CANDLES))),
        "leverage",
    ),
    "coarse price steps": (
        lambda run: replace(run, market=replace(run.market, tick_size=np.full(CANDLES, 50.0))),
        "close_rate",
    ),
    "candles one step up": (
        lambda run: replace(run, market=replace(run.market, ohlc=run.market.ohlc + 0.1)),
        "open_rate",
    ),
    "no predictions": (
        lambda run: replace(run, probabilities=np.tile([1.0, 0, 0, 0, 0], (CANDLES, 1))),
        "the simulator has no trade",
    ),
}


def report(backtested: Backtested) -> tuple[int, str]:
    """Return exit code and text of the report."""
    text = io.StringIO()
    code = print_report(Console(file=text, width=80), backtested, compare(backtested))
    return code, text.getvalue()


def test_the_report_says_that_all_trades_are_the_same(shipped: Backtested) -> None:
    code, text = report(shipped)
    total = sum(len(each.trades) for each in shipped.pairs.values())
    assert code == 0
    assert text.splitlines()[-1] == f"all {total} trades are the same"
    for pair, each in shipped.pairs.items():
        count = str(len(each.trades))
        row = next(line for line in text.splitlines() if pair in line)
        assert re.findall(r"\d+", row.split(pair)[1])[:3] == [count] * 3
    assert "First difference" not in text


def test_what_slippage_would_cost_has_a_column_of_its_own(
    run: Callable[..., Backtested],
    rl_config: Callable[..., Config],
    sometimes_silent: Given,
    shipped: Backtested,
) -> None:
    """freqtrade's backtester charges none, so that the comparison does not either."""
    charged = run(sometimes_silent, rl_config(entry="any", slippage_bps=10.0))
    assert charged.slippage_bps == 10.0
    assert charged.settings == shipped.settings
    assert "bps" not in report(shipped)[1]
    code, text = report(charged)
    assert code == 0
    assert "10 bps" in text
    assert "% of" in text
    each = compare(shipped)["BTC/USDT:USDT"]
    notional = sum(trade.leverage * trade.close_rate / trade.open_rate for trade in each.run.trades)
    assert each.costs_of_slippage(10.0) == pytest.approx(0.001 * notional, rel=0.01)
    assert each.costs_of_slippage(0.0) == 0.0


@pytest.mark.parametrize(("spoil", "named"), SPOILED.values(), ids=SPOILED)
def test_a_spoiled_simulator_is_found_and_its_first_difference_printed(
    shipped: Backtested, spoil: Callable[[PairBacktest], PairBacktest], named: str
) -> None:
    pair = "ETH/USDT:USDT"
    spoiled = replace(shipped, pairs={**shipped.pairs, pair: spoil(shipped.pairs[pair])})
    compared = compare(spoiled)
    assert compared["BTC/USDT:USDT"].unequal == []
    difference = first_difference(compared)
    assert difference is not None
    assert difference.pair == pair

    code, text = report(spoiled)
    assert code == 1
    assert f"First difference: {pair}" in text
    last = text.splitlines()[-1]
    assert re.search(rf"trades differ; the first: {pair} at .*: .*({named})", last)
    assert f"Candles around {difference.date:%Y-%m-%d %H:%M} UTC" in text
    # The candle where they part, those before and after it, and what was decided on.
    market = spoiled.pairs[pair].market
    assert market.dates is not None
    row = int(np.searchsorted(market.dates, difference.date.to_datetime64()))
    for name, column in (("open", 0), ("high", 1), ("low", 2), ("close", 3)):
        line = next(line for line in text.splitlines() if line.startswith(f"│ {name} "))
        values = [float(value) for value in re.findall(r"[\d.]+", line)]
        np.testing.assert_allclose(values, market.ohlc[row - 2 : row + 3, column], rtol=1e-9)
    for name in ("entry signal", "P long_enter", "P short_exit", "funding", "leverage"):
        assert name in text
    assert max(map(len, text.splitlines()[:-1])) <= 80


def test_a_difference_within_the_tolerance_of_profit_only_is_none(shipped: Backtested) -> None:
    pair = "BTC/USDT:USDT"
    trades = shipped.pairs[pair].trades
    for shift, expected in ((5e-7, 0), (5e-6, len(trades))):
        moved = [replace(trade, profit_ratio=trade.profit_ratio + shift) for trade in trades]
        each = replace(shipped.pairs[pair], trades=moved)
        compared = compare(replace(shipped, pairs={pair: each}))
        assert len(compared[pair].unequal) == expected


def test_the_first_difference_is_that_of_the_earliest_trade(shipped: Backtested) -> None:
    pairs = {
        pair: replace(each, trades=each.trades[:row] + each.trades[row + 1 :])
        for (pair, each), row in zip(shipped.pairs.items(), (9, 2), strict=True)
    }
    difference = first_difference(compare(replace(shipped, pairs=pairs)))
    assert difference is not None
    dropped = [
        (each.trades[row].open_date, pair)
        for (pair, each), row in zip(shipped.pairs.items(), (9, 2), strict=True)
    ]
    assert (difference.date, difference.pair) == min(dropped)
    assert difference.match.theirs is None
    assert difference.match.ours is not None


def test_no_trades_are_a_failure(run: Callable[..., Backtested]) -> None:
    neutral = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    backtested = run(
        lambda pair, n_candles: np.tile(neutral, (n_candles, 1)), days="20240130-20240131"
    )
    code, text = report(backtested)
    assert code == 1
    assert text.splitlines()[-1] == "no trades on either side: nothing was compared"


def test_entries_without_a_stake_are_told(run: Callable[..., Backtested]) -> None:
    backtested = run(random_policy, {**ONE_PAIR, "dry_run_wallet": 200}, days="20240130-20240131")
    assert backtested.refused_stakes > 0
    code, text = report(backtested)
    assert code == 1
    assert f"left out {backtested.refused_stakes} entries whose stake would be below" in text


def test_the_configuration_of_a_comparison(arguments_for: Callable[..., Config]) -> None:
    overrides = {"enable_protections": True, "dry_run_wallet": 300}
    config = load_config(arguments_for(overrides))
    assert config["enable_protections"] is False
    assert config["dry_run_wallet"] == LEAST_WALLET
    assert load_config(arguments_for({"dry_run_wallet": 30_000}))["dry_run_wallet"] == 30_000
    for timerange, problem in (("20240130-", "needs a start and an end"), ("soon", "freqtrade: ")):
        with pytest.raises(ParityError, match=problem):
            load_config({**arguments_for(), "timerange": timerange})


def test_what_cannot_be_compared_is_one_line(
    make_config: Callable[..., Config], exchange: Exchange
) -> None:
    before = make_config(timerange="20230101-20230105")
    with pytest.raises(ParityError, match=r"^freqtrade: [^\n]*$"):
        backtest(before, random_policy, exchange=exchange)
    absent = make_config({"exchange": {"pair_whitelist": ["BTC/USDT:USDT", "XYZ/USDT:USDT"]}})
    with pytest.raises(ParityError, match="XYZ/USDT:USDT: no candles in "):
        backtest(absent, random_policy, exchange=exchange)


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


def test_prices_in_the_middle_of_two_steps_are_rounded_as_freqtrade_rounds_them() -> None:
    """ccxt rounds the text of a price; half of them lie below the middle as doubles."""
    rng = np.random.default_rng(0)
    n_up = 0
    for digits in (1, 2, 4, 8):
        for steps in rng.integers(0, 10**6, 500).tolist():
            middle = float(f"{steps}5e-{digits + 1}")
            for price in (middle, steps / 10**digits * 1.0166666666666666):
                theirs = price_to_precision(price, 10.0**-digits, TICK_SIZE)
                assert round_to_tick(price, 1.0 / 10**digits) == theirs, (price, digits)
                n_up += theirs > price
    assert n_up > 1000
