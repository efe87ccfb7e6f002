"""The strategy when it is live: freqtrade's own bot, in dry run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from freqtrade.exceptions import ConfigurationError
from freqtrade.persistence import Trade
from freqtrade.rpc import RPC
from freqtrade.strategy import IStrategy
from live_bot import BEGIN, OTHER, PAIR, Desk, dry, keep_time

from mtf_scalper.freqai.analyses import Analyses
from mtf_scalper.freqai.open_trade import SAFETY_EXITS
from mtf_scalper.freqai.strategy import HybridStrategy, entry_seconds
from mtf_scalper.simulator.types import ExitReason

FIVE = pd.Timedelta(minutes=5)
SECOND = pd.Timedelta(seconds=1)
LONG, SHORT, STAY, LEAVE = (
    np.array(chances)
    for chances in (
        [0.0, 1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0, 0.0],
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.5, 0.0, 0.5],
    )
)


class Opinions:
    """Stands for FreqAI: says at every candle what a test wants, or fails."""

    def __init__(self, with_predictions: Callable[..., pd.DataFrame]) -> None:
        self.with_predictions = with_predictions
        self.now: np.ndarray | Exception = STAY
        self.asked: list[pd.Timestamp] = []

    def start(self, frame: pd.DataFrame, metadata: Any, strategy: Any) -> pd.DataFrame:
        self.asked.append(frame["date"].iloc[-1])
        if isinstance(self.now, Exception):
            raise self.now
        chances = np.tile(STAY, (len(frame), 1))
        chances[-1] = self.now
        return self.with_predictions(frame, chances)

    def shutdown(self) -> None:
        """Nothing to end."""


@pytest.fixture
def opinions(
    with_predictions: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> Opinions:
    said = Opinions(with_predictions)
    monkeypatch.setattr(
        HybridStrategy, "load_freqAI_model", lambda self: setattr(self, "freqai", said)
    )
    return said


@pytest.fixture
def make_desk(
    make_config: Callable[..., dict[str, Any]],
    rl_config: Callable[..., dict[str, Any]],
    datadir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Desk]]:
    keep_time(monkeypatch)
    desks: list[Desk] = []

    def make(**overrides: Any) -> Desk:
        config = make_config({**rl_config(entry="any"), "max_open_trades": 1, **overrides})
        desks.append(Desk(dry(config, tmp_path), datadir))
        desks[-1].tell(BEGIN)
        desks[-1].start()
        return desks[-1]

    yield make
    for desk in desks:
        if hasattr(desk, "bot"):
            desk.stop()


@pytest.fixture(scope="module")
def strategy(make_config: Callable[..., Any], make_strategy: Callable[..., IStrategy]) -> IStrategy:
    return make_strategy(make_config())


def entered(desk: Desk, opinions: Opinions, side: np.ndarray = LONG, price: float = 100.0) -> Trade:
    """Enter the pair at a price, on the first candle."""
    opinions.now = side
    desk.at(BEGIN + SECOND, price)
    desk.fill()
    opinions.now = STAY
    (trade,) = desk.trades
    assert trade.has_open_position
    return trade


# Orders


def test_freqtrade_refuses_market_exits_at_our_own_side_of_the_book(
    make_desk: Callable[..., Desk], opinions: Opinions
) -> None:
    with pytest.raises(ConfigurationError, match=r'require exit_pricing\.price_side = "other"'):
        make_desk(exit_pricing={"price_side": "same"})


@pytest.mark.parametrize("types", [HybridStrategy.order_types, IStrategy.order_types])
def test_in_a_fall_the_first_order_closes_a_trade(
    make_desk: Callable[..., Desk], opinions: Opinions, types: dict[str, Any]
) -> None:
    """12% in 20 minutes, a loop every 5 seconds; limit orders at the ask leave it open."""
    pricing = {"exit_pricing": {"price_side": "other" if types["exit"] == "market" else "same"}}
    desk = make_desk(order_types=types, **pricing)
    trade = entered(desk, opinions)
    for seconds in range(5, 1200, 5):
        desk.tell(BEGIN + FIVE + seconds * SECOND, 100.0 * (1.0 - 0.12 * seconds / 1200))
        desk.bot.process()
        if not trade.is_open:
            break
    exits = [order for order in trade.orders if order.ft_order_side == "sell"]
    if types["exit"] == "limit":
        assert trade.is_open
        assert len(exits) > 1
        return
    assert trade.exit_reason == "emergency_loss"
    assert trade.close_profit == pytest.approx(-0.03, abs=0.005)
    assert [order.order_type for order in exits] == ["market"]
    assert trade.fee_close == 0.0005  # the taker's, which evaluation charges on both sides


@pytest.mark.parametrize("side", [LONG, SHORT])
def test_the_agents_exit_the_stop_and_a_forced_exit_go_to_market(
    make_desk: Callable[..., Desk],
    opinions: Opinions,
    side: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = make_desk()
    sign = 1 if side is LONG else -1
    price, moment = 100.0, BEGIN
    monkeypatch.setattr(HybridStrategy, "protections", [])
    desk.bot.protections._protection_handlers = []
    for wanted in ("agent_exit", "stop_loss", "force_exit"):
        opinions.now, limits = side, desk.bot.strategy._limits
        desk.at(moment + SECOND, price)
        desk.fill()
        trade = desk.trades[-1]
        assert trade.has_open_position
        assert [order.order_type for order in trade.orders] == ["limit"]
        opinions.now = LEAVE if wanted == "agent_exit" else STAY
        if wanted == "stop_loss":
            desk.bot.strategy._limits = (-np.inf, *limits[1:])
            # Beyond liquidation as well.
            desk.at(moment + FIVE + SECOND, price * (1.0 - sign * 0.5))
            assert trade.liquidation_price is not None
            assert (trade.close_rate - trade.liquidation_price) * sign < 0.0
            desk.bot.strategy._limits = limits
        elif wanted == "force_exit":
            desk.tell(moment + FIVE + SECOND)
            RPC(desk.bot)._rpc_force_exit(str(trade.id))
        else:
            desk.at(moment + FIVE + SECOND)
        assert not trade.is_open
        assert trade.exit_reason == wanted
        assert [order.order_type for order in trade.orders] == ["limit", "market"]
        moment += 3 * FIVE


def test_no_safety_exit_is_ever_refused(strategy: IStrategy) -> None:
    for reason in SAFETY_EXITS | set(ExitReason):
        assert strategy.confirm_trade_exit(
            PAIR, None, "market", 1.0, 1.0, "GTC", str(reason), BEGIN.to_pydatetime()
        )


# Safety rules without FreqAI


def fails(desk: Desk, opinions: Opinions) -> None:
    opinions.now = KeyError(PAIR)


def has_no_candles(desk: Desk, opinions: Opinions) -> None:
    desk.without = {PAIR}


def has_left_the_list(desk: Desk, opinions: Opinions) -> None:
    desk.config["exchange"] = {**desk.config["exchange"], "pair_whitelist": [OTHER]}
    opinions.now = KeyError(PAIR)  # what FreqAI says of a pair that it does not know


@pytest.mark.parametrize("trouble", [fails, has_no_candles, has_left_the_list])
@pytest.mark.parametrize("reason", ["emergency_loss", "break_even", "max_duration"])
def test_after_a_start_without_any_analysis_the_safety_rules_close_a_trade(
    make_desk: Callable[..., Desk],
    opinions: Opinions,
    trouble: Callable[[Desk, Opinions], None],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = make_desk()
    entered(desk, opinions)
    if reason == "break_even":  # a peak of 2% that the first life of the bot has seen
        desk.at(BEGIN + 2 * FIVE, 100.9)
    desk.stop()
    trouble(desk, opinions)
    later = {"emergency_loss": 3, "break_even": 3, "max_duration": 48}[reason]
    price = {"emergency_loss": 97.0, "break_even": 100.0, "max_duration": 100.0}[reason]
    desk.tell(BEGIN + later * FIVE + SECOND, price)
    desk.start()
    caplog.clear()
    desk.bot.process()  # the first loop
    told = "gives no candles" if trouble is has_no_candles else "is not analysed"
    assert [line for line in caplog.messages if told in line and line.startswith(PAIR)]
    (trade,) = desk.trades
    assert not trade.is_open
    assert trade.exit_reason == reason


def test_a_failing_agent_stands_in_no_safety_rules_way(
    make_desk: Callable[..., Desk],
    opinions: Opinions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = make_desk()
    trade = entered(desk, opinions)

    def broken(*_: Any) -> bool:
        raise ZeroDivisionError("no network")

    monkeypatch.setattr(HybridStrategy, "_agent_leaves", broken)
    desk.at(BEGIN + FIVE + SECOND, 100.0)
    assert trade.is_open
    assert f"{PAIR}: the agent cannot be asked: ZeroDivisionError: no network" in caplog.text
    desk.at(BEGIN + FIVE + 2 * SECOND, 97.0)
    assert trade.exit_reason == "emergency_loss"
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("side", [LONG, SHORT])
def test_at_a_price_of_zero_nothing_is_entered_and_nothing_left(
    make_desk: Callable[..., Desk],
    opinions: Opinions,
    caplog: pytest.LogCaptureFixture,
    side: np.ndarray,
) -> None:
    """freqtrade itself earns 100% of a short, stops a long, and ends with ZeroDivisionError."""
    desk = make_desk()
    opinions.now = side
    desk.at(BEGIN + SECOND, 0.0)
    assert desk.trades == []
    trade = entered(desk, opinions, side)
    caplog.clear()
    for seconds in (1, 30, 60):
        desk.at(BEGIN + FIVE + seconds * SECOND, 0.0)
    assert trade.is_open
    told = f"Unable to exit trade {PAIR}: the exchange tells a price of 0 for {PAIR}: nothing is"
    assert len([line for line in caplog.messages if line.startswith(told)]) == 3
    desk.at(BEGIN + FIVE + 90 * SECOND, 100.2)
    assert trade.is_open
    desk.at(BEGIN + FIVE + 120 * SECOND, 97.0 if side is LONG else 103.0)
    assert trade.exit_reason == "emergency_loss"


def test_a_list_of_markets_in_halves_leaves_those_before(
    make_desk: Callable[..., Desk],
    opinions: Opinions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = make_desk()
    trade = entered(desk, opinions)
    exchange = desk.bot.exchange
    whole = exchange._api_async.fetch

    async def cut(*given: Any, **named: Any) -> str:
        return str(await whole(*given, **named))[:1000]

    monkeypatch.setattr(exchange._api_async, "fetch", cut)
    exchange._last_markets_refresh = 1
    desk.at(BEGIN + FIVE + SECOND, 100.0)
    assert set(exchange.get_markets()) >= {PAIR, OTHER}
    assert set(exchange._api_async.markets) >= {PAIR, OTHER}
    assert "the exchange lists no markets; those that it listed before stay" in caplog.text
    desk.at(BEGIN + FIVE + 2 * SECOND, 97.0)
    assert trade.exit_reason == "emergency_loss"
    monkeypatch.undo()


# The fill


def test_age_extremes_and_the_roi_ladder_begin_with_the_fill(
    make_desk: Callable[..., Desk], opinions: Opinions
) -> None:
    """The order waits over 60 minutes and a peak; the bot is away, as after a power cut."""
    desk = make_desk()
    opinions.now = LONG
    desk.tell(BEGIN + SECOND, 100.0)
    desk.bot.process()
    desk.stop()
    (trade,) = desk.trades
    assert not trade.has_open_position
    opinions.now = STAY
    filled = BEGIN + 12 * FIVE + SECOND  # the ladder is at 1% then
    frame = desk.frames[PAIR, "5m"]
    frame.loc[frame["date"] == BEGIN + 3 * FIVE, "high"] = 110.0
    desk.tell(filled, 99.8)
    desk.start()
    desk.bot.process()
    (trade,) = desk.trades
    assert trade.date_entry_fill_utc == filled
    assert trade.open_date_utc == BEGIN + SECOND
    rate = trade.open_rate
    desk.at(filled + FIVE, rate * 1.012)  # 2% and more with leverage: above the second rung
    assert trade.calc_profit_ratio(rate * 1.012) > 0.02
    assert trade.is_open
    desk.at(filled + 2 * FIVE, rate * 1.0005)
    assert trade.is_open, trade.exit_reason  # no break-even by a peak from before
    desk.at(filled + 6 * FIVE, rate * 1.012)
    assert trade.exit_reason == "roi"


# Candles that fail


def test_a_failing_candle_ends_the_entry_of_the_one_before(
    make_desk: Callable[..., Desk],
    opinions: Opinions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without ours freqtrade enters ten minutes after the candle's close."""

    def bot_after_a_failing_candle() -> Desk:
        desk = make_desk()
        opinions.now = LONG
        desk.bot.strategy.lock_pair(PAIR, (BEGIN + 4 * FIVE).to_pydatetime())
        desk.bot.strategy.lock_pair(OTHER, (BEGIN + 40 * FIVE).to_pydatetime())
        desk.at(BEGIN + SECOND, 100.0)
        assert desk.trades == []
        desk.bot.strategy.unlock_pair(PAIR)
        opinions.now = RuntimeError("out of\nmemory")
        return desk

    desk = bot_after_a_failing_candle()
    caplog.clear()
    for seconds in range(1, 300, 20):
        desk.at(BEGIN + FIVE + seconds * SECOND)
    assert desk.trades == []
    told = [line for line in caplog.messages if line.startswith(f"{PAIR}: the candle of ")]
    assert len(told) == 1
    assert "2024-02-02 12:00 is not analysed, nothing is entered, and what is open keeps" in told[0]
    assert "RuntimeError: out of memory (" in told[0]
    assert not [record for record in caplog.records if record.exc_info]
    opinions.now = LONG
    desk.at(BEGIN + 2 * FIVE + SECOND)
    assert len(desk.trades) == 1
    desk.stop()

    Trade.session.delete(desk.trades[0])
    Trade.commit()
    monkeypatch.setattr(HybridStrategy, "analyze_ticker", IStrategy.analyze_ticker)
    desk = bot_after_a_failing_candle()
    desk.bot.strategy.ignore_buying_expired_candle_after = 0
    desk.at(BEGIN + 2 * FIVE - SECOND)
    assert len(desk.trades) == 1


def test_while_the_newest_candle_is_missing_nothing_is_entered(
    make_desk: Callable[..., Desk], opinions: Opinions
) -> None:
    desk = make_desk()
    opinions.now = LONG
    for pair in (PAIR, OTHER):
        desk.bot.strategy.lock_pair(pair, (BEGIN + 4 * FIVE).to_pydatetime())
    desk.at(BEGIN + FIVE + SECOND, 100.0)
    for pair in (PAIR, OTHER):
        desk.bot.strategy.unlock_pair(pair)
        frame = desk.frames[pair, "5m"]
        desk.frames[pair, "5m"] = frame[frame["date"] != BEGIN + FIVE]
    for seconds in range(1, 300, 20):
        desk.at(BEGIN + 2 * FIVE + seconds * SECOND)
    assert desk.trades == []
    desk.at(BEGIN + 3 * FIVE + SECOND)
    assert len(desk.trades) == 1


def test_a_candle_that_is_corrected_is_told_once(
    make_desk: Callable[..., Desk], opinions: Opinions, caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk()
    desk.at(BEGIN + FIVE + SECOND, 100.0)
    frame = desk.frames[PAIR, "5m"]
    frame.loc[frame["date"] == BEGIN, ["high", "close"]] = 100.5
    for seconds in (1, 20, 320):
        desk.at(BEGIN + 2 * FIVE + seconds * SECOND)
    assert [line for line in caplog.messages if "has corrected" in line] == [
        f"{PAIR}: the exchange has corrected the candle of 2024-02-02 12:00 after it was decided "
        "on: it closed at 100.5, not at 100; what was entered on it stays open"
    ]


def test_entries_are_taken_in_the_first_quarter_of_a_candle(
    make_desk: Callable[..., Desk], opinions: Opinions
) -> None:
    desk = make_desk()
    opinions.now = LONG
    desk.at(BEGIN + 76 * SECOND, 100.0)
    assert desk.trades == []
    desk.at(BEGIN + FIVE + 74 * SECOND, 100.0)
    assert len(desk.trades) == 1


@pytest.mark.parametrize(("timeframe", "seconds"), [("1m", 30), ("5m", 75), ("1h", 900)])
def test_how_long_entries_are_taken_follows_the_timeframe(timeframe: str, seconds: int) -> None:
    assert entry_seconds(timeframe) == seconds


def test_a_decision_of_an_earlier_candle_is_none(
    make_desk: Callable[..., Desk], opinions: Opinions
) -> None:
    """The candle of the entry says leave, for whoever held; the next candle fails."""
    desk = make_desk()
    trade = entered(desk, opinions)
    table = desk.bot.strategy._tables[PAIR]
    says_leave = np.where(table.dates == table.dates[-1], 0.9, table.exit_long)
    desk.bot.strategy._tables[PAIR] = replace(table, exit_long=says_leave)
    opinions.now = RuntimeError("no opinion")
    desk.at(BEGIN + FIVE + SECOND, 100.0)
    assert trade.is_open
    opinions.now = LEAVE
    desk.at(BEGIN + 2 * FIVE + SECOND, 100.0)
    assert trade.exit_reason == "agent_exit"


def test_a_pair_without_candles_is_told_once_a_candle(
    make_desk: Callable[..., Desk], opinions: Opinions, caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk()
    desk.without = {OTHER}
    for seconds in (1, 6, 301):
        desk.at(BEGIN + seconds * SECOND, 100.0)
    told = [line for line in caplog.messages if line.startswith(f"{OTHER}: the exchange gives no")]
    assert len(told) == 2
    assert PAIR in desk.bot.strategy._tables
    caplog.clear()
    desk.frames[PAIR, "5m"] = desk.frames[PAIR, "5m"].iloc[:-1]
    last = desk.frames[PAIR, "5m"]["date"].iloc[-1]
    desk.at(last + 3 * FIVE + SECOND)
    assert f"{PAIR}: the exchange's last candle is that of {last:%Y-%m-%d %H:%M}, " in caplog.text


def test_trouble_in_looking_at_candles_stops_no_exit(
    make_desk: Callable[..., Desk],
    opinions: Opinions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = make_desk()
    trade = entered(desk, opinions)
    monkeypatch.delattr(Analyses, "look")
    desk.at(BEGIN + FIVE + SECOND, 97.0)
    assert trade.exit_reason == "emergency_loss"
    assert "the candles of the pairs cannot be looked at: AttributeError" in caplog.text


def test_a_bot_is_told_which_orders_may_rest(
    make_desk: Callable[..., Desk], opinions: Opinions, caplog: pytest.LogCaptureFixture
) -> None:
    make_desk()
    assert "wait at a limit" not in caplog.text
    make_desk(order_types=IStrategy.order_types)
    assert "order_types: exit, stoploss wait at a limit" in caplog.text


# Entries that nobody tested


def test_a_stop_is_not_followed_by_the_reverse_within_the_candle(
    make_desk: Callable[..., Desk], opinions: Opinions
) -> None:
    desk = make_desk()
    desk.bot.protections._protection_handlers = []
    trade = entered(desk, opinions)
    opinions.now = SHORT
    desk.at(BEGIN + FIVE + SECOND, 100.0)
    assert trade.is_open
    desk.at(BEGIN + FIVE + 3 * SECOND, 97.0)
    assert trade.exit_reason == "emergency_loss"
    desk.at(BEGIN + FIVE + 5 * SECOND, 97.0)
    assert [each for each in desk.trades if each.pair == PAIR] == [trade]
    for each in desk.trades:
        if each.is_open:
            each.is_open = False
    desk.at(BEGIN + 2 * FIVE + SECOND, 97.0)
    assert desk.trades[-1].is_short


def test_a_forced_entry_of_a_pair_that_was_not_analysed_is_refused(
    make_desk: Callable[..., Desk], opinions: Opinions
) -> None:
    """Where a stake cannot be computed freqtrade takes what it has proposed: half the wallet."""
    desk = make_desk()
    desk.tell(BEGIN + SECOND, 100.0)
    assert not desk.bot.execute_entry(PAIR, 4000.0)
    desk.at(BEGIN + SECOND)
    assert desk.bot.execute_entry(PAIR, 4000.0)
    (trade,) = desk.trades
    assert trade.stake_amount < 600.0


def test_a_bot_that_starts_within_seconds_of_a_stop_does_not_enter_the_reverse(
    make_desk: Callable[..., Desk], opinions: Opinions
) -> None:
    """What the first life knew of the exit is in the database alone."""
    desk = make_desk()
    trade = entered(desk, opinions)
    desk.at(BEGIN + FIVE + 3 * SECOND, 97.0)
    assert trade.exit_reason == "emergency_loss"
    desk.stop()
    opinions.now = SHORT
    desk.start()
    desk.bot.protections._protection_handlers = []
    for seconds in (5, 10, 60):
        desk.at(BEGIN + FIVE + seconds * SECOND, 97.0)
        assert [each.id for each in desk.trades if each.pair == PAIR] == [1]
    for each in desk.trades:
        if each.is_open:
            each.is_open = False
    desk.at(BEGIN + 2 * FIVE + SECOND, 97.0)
    assert desk.trades[-1].is_short


# A stop at the exchange


ON_EXCHANGE = {"order_types": {**HybridStrategy.order_types, "stoploss_on_exchange": True}}


def stop_orders(trade: Trade) -> list[Any]:
    return [order for order in trade.orders if order.ft_order_side == "stoploss"]


@pytest.mark.parametrize("fall", [0.0, 0.12])
@pytest.mark.parametrize("side", [LONG, SHORT])
def test_a_start_places_the_stop_at_the_exchange_again_or_leaves(
    make_desk: Callable[..., Desk], opinions: Opinions, side: np.ndarray, fall: float
) -> None:
    """A dry run's stop ends with the bot; where the price has passed it meanwhile none is taken."""
    desk = make_desk(**ON_EXCHANGE)
    trade = entered(desk, opinions, side)
    (order,) = stop_orders(trade)
    assert (order.order_type, order.ft_is_open) == ("stop_market", True)
    desk.stop()
    sign = 1 if side is LONG else -1
    desk.tell(BEGIN + FIVE + SECOND, 100.0 * (1.0 - fall * sign))
    desk.start()
    desk.bot.process()  # the first loop
    (trade,) = desk.trades
    placed = [each for each in stop_orders(trade) if each.ft_is_open]
    if fall:
        assert trade.exit_reason == "emergency_exit"
    else:
        assert trade.is_open
        assert len(placed) == 1


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize("side", [LONG, SHORT])
def test_a_stop_that_triggers_and_does_not_fill_leaves_the_trade_to_the_safety_rules(
    make_desk: Callable[..., Desk],
    opinions: Opinions,
    side: np.ndarray,
    is_live: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No dry run has such an order, so the exchange's answer is made up.

    Live, freqtrade leaves the stop to the exchange and does not look at it by itself.
    """
    desk = make_desk(**ON_EXCHANGE)
    trade = entered(desk, opinions, side)
    (order,) = stop_orders(trade)
    triggered = {**desk.bot.exchange.fetch_stoploss_order(order.order_id, PAIR)}
    triggered |= {"status": "open", "filled": 0.0, "status_stop": "triggered"}
    monkeypatch.setattr(desk.bot.exchange, "fetch_stoploss_order", lambda *_, **__: triggered)
    monkeypatch.setattr(
        desk.bot.exchange, "cancel_stoploss_order_with_result", lambda *_, **__: triggered
    )
    sign = 1 if side is LONG else -1
    beyond = 100.0 * (1.0 - 0.12 * sign)  # a gap, in which nobody bought
    if is_live:
        desk.bot.strategy.config = {**desk.bot.strategy.config, "dry_run": False}
        limits = desk.bot.strategy._limits
        desk.bot.strategy._limits = (-np.inf, *limits[1:])
        desk.at(BEGIN + FIVE + SECOND, beyond)
        assert trade.is_open  # it is our rule that bounds it
        desk.bot.strategy._limits = limits
    desk.at(BEGIN + FIVE + 6 * SECOND, beyond)
    assert not trade.is_open
    assert trade.exit_reason == "emergency_loss"
    (exit_,) = [each for each in trade.orders if each.ft_order_side == trade.exit_side]
    assert (exit_.order_type, exit_.status) == ("market", "closed")
    desk.at(BEGIN + FIVE + 11 * SECOND)
    assert len(desk.trades) == 1
