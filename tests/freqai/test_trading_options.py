"""Options that change freqtrade's trades: followed, or told of by name, or refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from freqtrade.strategy import IStrategy

from mtf_scalper.errors import SettingsError
from mtf_scalper.freqai.config import trade_rules
from mtf_scalper.freqai.strategy import HybridStrategy
from mtf_scalper.freqai.trading_options import _OPTIONS, Use, check_trading_options
from mtf_scalper.settings import TradeRules

Config = dict[str, Any]
CONFIG: Config = {
    "exchange": {"pair_whitelist": ["BTC/USDT:USDT", "ETH/USDT:USDT"]},
    "max_open_trades": 2,
    "margin_mode": "isolated",
    "freqai": {},
}
SWITCHES = (
    "use_custom_stoploss",
    "use_custom_roi",
    "position_adjustment_enable",
    "ignore_roi_if_entry_signal",
)
KEYS: dict[str, Config] = {
    "timeframe_detail": {"timeframe_detail": "1m"},
    "position_stacking": {"position_stacking": True},
    "enable_dynamic_pairlist": {"enable_dynamic_pairlist": True},
    "margin_mode": {"margin_mode": "cross"},
    **{name: {name: True} for name in SWITCHES},
}
CALLBACKS = (
    "custom_exit",
    "populate_entry_trend",
    "populate_exit_trend",
    "confirm_trade_entry",
    "confirm_trade_exit",
    "custom_stake_amount",
    "adjust_order_price",
    "adjust_entry_price",
    "adjust_exit_price",
    "check_entry_timeout",
    "check_exit_timeout",
    "order_filled",
    "bot_loop_start",
)


def not_followed(config: Config, strategy: Any) -> tuple[str, ...]:
    """Return the names of the options that are set and that the simulator does not follow."""
    return tuple(option.key for option in _OPTIONS if option.is_on(config, strategy))


def strategy_of(base: type = HybridStrategy, **attributes: Any) -> Any:
    """Return a strategy of the user's own, made without freqtrade's loading."""
    cls = type("Own", (base,), {"__module__": "Own", **attributes})
    strategy = object.__new__(cls)
    strategy.order_types = attributes.get("order_types", IStrategy.order_types)
    return strategy


def own(*arguments: Any, **named: Any) -> None:
    """Stand for a method of the user's own."""


def test_the_shipped_strategy_has_nothing_that_is_not_followed() -> None:
    for use in Use:
        check_trading_options(CONFIG, strategy_of(), use)
    assert not_followed(CONFIG, strategy_of()) == ()
    assert not_followed(CONFIG, object.__new__(HybridStrategy)) == ()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("use", [Use.PARITY, Use.EVALUATION])
def test_figures_about_other_trades_are_refused(key: str, use: Use) -> None:
    with pytest.raises(SettingsError, match=f"^{key} .*not followed by the simulator") as caught:
        check_trading_options({**CONFIG, **KEYS[key]}, strategy_of(), use)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", KEYS)
def test_a_training_warns_by_name(key: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_trading_options({**CONFIG, **KEYS[key]}, strategy_of(), Use.TRAINING)
    (record,) = caplog.records
    assert record.message.startswith(f"{key} ")
    assert "is not simulated in training; the agent will not know of it" in record.message


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_of_the_strategy_counts_as_well(name: str) -> None:
    assert not_followed(CONFIG, strategy_of(**{name: True})) == (name,)


def test_all_refused_options_are_told_at_once() -> None:
    config = {**CONFIG, "timeframe_detail": "1m", "margin_mode": "cross"}
    with pytest.raises(SettingsError, match=r"timeframe_detail .*; margin_mode 'cross'"):
        check_trading_options(config, strategy_of(), Use.PARITY)


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_of_the_users_own_is_told_of(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A comparison has the backtester beside it; an evaluation runs no callback."""
    strategy = strategy_of(**{name: own})
    for use in (Use.TRAINING, Use.PARITY):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            check_trading_options(CONFIG, strategy, use)
        assert [record.message.split()[0] for record in caplog.records] == [f"{name}()"]
    with pytest.raises(SettingsError, match=rf"^{name}\(\) .*not followed"):
        check_trading_options(CONFIG, strategy, Use.EVALUATION)


@pytest.mark.parametrize("side", ["entry", "exit"])
def test_prices_of_the_users_own_matter_for_limit_orders(side: str) -> None:
    name = f"custom_{side}_price"
    assert not_followed(CONFIG, strategy_of(**{name: own})) == (name,)
    market = {**IStrategy.order_types, side: "market"}
    assert not_followed(CONFIG, strategy_of(**{name: own}, order_types=market)) == ()


def test_slots_and_protections_are_told_of_where_they_are_set(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = {**CONFIG, "max_open_trades": 1, "enable_protections": True}
    expected = {Use.PARITY: [], Use.EVALUATION: ["enable_protections", "max_open_trades"]}
    for use, names in expected.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            check_trading_options(config, strategy_of(), use)
        assert [record.message.split()[0] for record in caplog.records] == names
    for enough in (2, float("inf"), -1):
        assert not_followed({**CONFIG, "max_open_trades": enough}, strategy_of()) == ()


def rules_of(config: Config, **attributes: Any) -> TradeRules:
    strategy = strategy_of(**{"stoploss": -0.1, "minimal_roi": {}, "can_short": True, **attributes})
    return trade_rules({**CONFIG, **config}, strategy)


def test_a_trailing_stop_becomes_a_rule() -> None:
    trailing = {
        "trailing_stop": True,
        "trailing_stop_positive": 0.01,
        "trailing_stop_positive_offset": 0.02,
        "trailing_only_offset_is_reached": True,
    }
    rules = rules_of({}, **trailing)
    assert {name: getattr(rules, name) for name in trailing} == trailing
    off = rules_of({}, **{**trailing, "trailing_stop": False})
    assert off.trailing_stop_positive is None


@pytest.mark.parametrize(
    ("given", "minutes"),
    [
        ({}, None),
        ({"entry": 5, "unit": "minutes"}, None),
        ({"exit": 5}, 5.0),
        ({"exit": 90, "unit": "seconds"}, 1.5),
    ],
)
def test_the_timeout_of_exit_orders_becomes_a_rule(given: Config, minutes: float | None) -> None:
    assert rules_of({"unfilledtimeout": given}).exit_timeout_minutes == minutes


def test_cross_margin_is_taken_for_never_liquidated() -> None:
    assert not rules_of({"margin_mode": "cross"}).is_liquidated
    assert rules_of({}).is_liquidated
