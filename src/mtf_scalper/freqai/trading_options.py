"""Which of freqtrade's options that change trades the simulator follows, and what of the others.

The one list of them, asked by every command. Options that are followed go into ``TradeRules`` and
``Market``; the others, below, are told by name wherever they are set. Training goes on with a
warning, because the backtest or the bot behind it is what the user wants and knows; a comparison
or an evaluation, whose figures would be about something else, is refused. docs/design.md has the
same list in words, and that of the options which do not change a backtest's trades.

Taken from ``freqtrade/optimize/backtesting.py`` and ``strategy/interface.py`` of freqtrade 2026.9.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mtf_scalper.errors import SettingsError

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]


class Use(Enum):
    """What the trading rules are wanted for, with what it does to options that are not followed."""

    TRAINING = "training"
    PARITY = "parity"
    EVALUATION = "evaluation"


@dataclass(frozen=True)
class _Option:
    """One option that the simulator does not follow.

    Attributes
    ----------
    key : str
        As the user wrote it.
    does : str
        What it does to trades.
    is_on : callable
        Of configuration and strategy.
    warned_in : frozenset of Use
        Where it is only told of; elsewhere it is refused.
    without : frozenset of Use
        Where it is switched off anyway.
    """

    key: str
    does: str
    is_on: Callable[[Config, Any], bool]
    warned_in: frozenset[Use] = frozenset({Use.TRAINING})
    without: frozenset[Use] = frozenset()


def _setting(key: str) -> Callable[[Config, Any], bool]:
    """Return whether a key is on; freqtrade lays the configuration's over the strategy's."""
    return lambda config, strategy: bool(getattr(strategy, key, False) or config.get(key))


def _callback(name: str) -> Callable[[Config, Any], bool]:
    """Return whether the user's own strategy has this method."""

    def is_own(_: Config, strategy: Any) -> bool:
        method = getattr(type(strategy), name, None)
        module = str(getattr(method, "__module__", "mtf_scalper"))
        return module.split(".")[0] not in ("freqtrade", "mtf_scalper")

    return is_own


def _has_limit_price(name: str, order: str) -> Callable[[Config, Any], bool]:
    """Return whether a price of the user's own is asked for: of limit orders only."""
    is_own = _callback(name)

    def is_on(config: Config, strategy: Any) -> bool:
        types = getattr(strategy, "order_types", None) or {}
        return is_own(config, strategy) and types.get(order, "limit") == "limit"

    return is_on


def _lacks_slots(config: Config, strategy: Any) -> bool:
    pairs = config.get("exchange", {}).get("pair_whitelist", ())
    slots = config.get("max_open_trades", getattr(strategy, "max_open_trades", -1))
    return slots is not None and 0 <= float(slots) < len(pairs)


_NOT_IN_COMPARISONS = frozenset({Use.TRAINING, Use.EVALUATION})
_NOT_IN_EVALUATIONS = frozenset({Use.TRAINING, Use.PARITY})

_OPTIONS = (
    _Option(
        "timeframe_detail",
        "makes freqtrade go through finer candles inside each candle",
        _setting("timeframe_detail"),
    ),
    _Option(
        "use_custom_stoploss", "moves stops by custom_stoploss", _setting("use_custom_stoploss")
    ),
    _Option("use_custom_roi", "takes profit by custom_roi", _setting("use_custom_roi")),
    _Option(
        "position_adjustment_enable",
        "adds to trades and takes from them",
        _setting("position_adjustment_enable"),
    ),
    _Option(
        "ignore_roi_if_entry_signal",
        "keeps ROI off at candles with an entry signal",
        _setting("ignore_roi_if_entry_signal"),
    ),
    _Option("position_stacking", "holds several trades of a pair", _setting("position_stacking")),
    _Option(
        "enable_dynamic_pairlist", "changes pairs on the way", _setting("enable_dynamic_pairlist")
    ),
    _Option(
        "margin_mode",
        "'cross' liquidates by the whole wallet (the simulator takes it for never)",
        lambda config, _: config.get("margin_mode") == "cross",
    ),
    _Option(
        "custom_entry_price",
        "asks for other prices than the open",
        _has_limit_price("custom_entry_price", "entry"),
    ),
    _Option(
        "custom_exit_price",
        "asks for other prices than the open",
        _has_limit_price("custom_exit_price", "exit"),
    ),
    # In a comparison the backtester is there, and shows whether these change anything.
    *(
        _Option(f"{name}()", does, _callback(name), _NOT_IN_EVALUATIONS)
        for name, does in (
            ("custom_exit", "may leave trades for other reasons than the agent's"),
            ("custom_sell", "may leave trades for other reasons than the agent's"),
            ("populate_entry_trend", "may make other entries than those that are trained on"),
            ("populate_exit_trend", "may set exit signals, which the simulator has none of"),
            ("confirm_trade_entry", "may decline entries"),
            ("confirm_trade_exit", "may decline exits"),
            ("custom_stake_amount", "may decline entries by a stake of 0"),
            ("adjust_order_price", "may move orders that wait"),
            ("adjust_entry_price", "may move orders that wait"),
            ("adjust_exit_price", "may move orders that wait"),
            ("check_entry_timeout", "may withdraw orders that wait"),
            ("check_exit_timeout", "may withdraw orders that wait"),
            ("order_filled", "may change trades that are open"),
            ("bot_loop_start", "may lock pairs"),
        )
    ),
    _Option(
        "enable_protections",
        "locks pairs after losses",
        lambda config, _: bool(config.get("enable_protections")),
        _NOT_IN_COMPARISONS,
        without=frozenset({Use.PARITY}),
    ),
    _Option(
        "max_open_trades",
        "is below the number of pairs: entries are left out while all slots are taken",
        _lacks_slots,
        _NOT_IN_COMPARISONS,
        without=frozenset({Use.PARITY}),
    ),
)


def check_trading_options(config: Config, strategy: Any, use: Use) -> None:
    """Warn of the options that are set and are not followed, and refuse those that must not be.

    Parameters
    ----------
    config : mapping
    strategy : IStrategy
    use : Use

    Raises
    ------
    SettingsError
        One line that names every option that has to be off.
    """
    found = [
        option
        for option in _OPTIONS
        if use not in option.without and option.is_on(config, strategy)
    ]
    refused = [option for option in found if use not in option.warned_in]
    if refused:
        named = "; ".join(f"{option.key} {option.does}" for option in refused)
        raise SettingsError(
            f"{named}: not followed by the simulator, so that the figures of {_A[use]} would be "
            "about other trades; leave it out"
        )
    for option in found:
        logger.warning(
            "%s %s: this is not simulated in %s; the agent will not know of it",
            option.key,
            option.does,
            use.value,
        )


_A = {Use.TRAINING: "a training", Use.PARITY: "a comparison", Use.EVALUATION: "an evaluation"}
