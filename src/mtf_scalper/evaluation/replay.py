"""The trades of a backtest played again on the market that they were made on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError
from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, Settings
from mtf_scalper.simulator.masks import entry_mode
from mtf_scalper.simulator.playback import Simulation, play, valid_actions
from mtf_scalper.simulator.types import Action, ExitReason, Side, Trade

__all__ = ["PROFIT_TOLERANCE", "first_difference", "replay", "trades_on", "with_entries_made"]

PROFIT_TOLERANCE = 1e-6
"""Largest difference of profit ratio between a trade and its replay."""
_EQUAL = ("side", "open_row", "close_row", "open_rate", "close_rate", "leverage", "exit_reason")


def trades_on(market: Market, trades: Sequence[Mapping[str, Any]]) -> tuple[Trade, ...]:
    """Return freqtrade's trades of one pair with rows of ``market``, in the order of time.

    Raises
    ------
    MarketError
        If a trade lies outside the market, or ended for a reason that no rule here has.
    """
    assert market.dates is not None
    found = []
    for trade in sorted(trades, key=lambda trade: str(trade["open_date"])):
        rows = []
        for name in ("open_date", "close_date"):
            date = pd.Timestamp(trade[name]).tz_localize(None).to_datetime64()
            row = int(np.searchsorted(market.dates, date))
            if row == len(market) or market.dates[row] != date:
                raise MarketError(f"{market.pair}: a trade's {name} {trade[name]} is no candle")
            rows.append(row)
        if trade["exit_reason"] not in list(ExitReason):
            raise MarketError(
                f"{market.pair}: the exit {trade['exit_reason']!r} of the trade of "
                f"{trade['open_date']} cannot be played again"
            )
        found.append(
            Trade(
                pair=market.pair,
                side=Side.SHORT if trade["is_short"] else Side.LONG,
                open_row=rows[0],
                close_row=rows[1],
                open_rate=float(trade["open_rate"]),
                close_rate=float(trade["close_rate"]),
                leverage=float(trade["leverage"]),
                profit_ratio=float(trade["profit_ratio"]),
                exit_reason=ExitReason(trade["exit_reason"]),
            )
        )
    return tuple(found)


def replay(market: Market, settings: Settings, trades: Sequence[Trade]) -> Simulation:
    """Play trades again: enter where they did, leave where the agent left.

    All other exits are the rules' and happen by themselves.

    Parameters
    ----------
    market : Market
    settings : Settings
    trades : sequence of Trade
        With rows of ``market``.
    """
    entries = np.zeros(len(market), dtype=np.int64)
    exits = np.zeros(len(market), dtype=np.int64)
    for trade in trades:
        entries[trade.open_row - 1] = _entry_of(trade)
        if trade.exit_reason is ExitReason.AGENT:
            is_long = trade.side is Side.LONG
            exits[trade.close_row - 1] = Action.LONG_EXIT if is_long else Action.SHORT_EXIT

    def choose(
        row: int, states: NDArray[np.void], _extras: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        return np.asarray(np.where(states["side"] == Side.FLAT, entries[row], exits[row]))

    # The backtester may have left an entry out that the rules want, with all slots taken, say.
    free = settings.changed(rules=settings.rules.changed(entry=EntryMode.ANY))
    (run,) = play(market, free, choose)
    if entry_mode(settings.rules, market) is EntryMode.ALWAYS:
        return replace(run, entries=_entry_rule(market, settings))
    return run


def with_entries_made(market: Market, settings: Settings, trades: Sequence[Trade]) -> Market:
    """Return the market with the entries that the strategy made, for whoever trades beside it.

    A strategy may drop entries of the classic rule (a filter of its own, ``confirm_trade_entry``,
    all slots taken, a stake too small, a protection) or make some of its own. What others make of
    entries that it never made says nothing of its exits.

    Candles at which the pair had no position tell what the strategy does with a classic entry. If
    it took all of a side there, its rule for that side is the classic one, and counts where it held
    a position as well: others may have none there. If it dropped any, only those that it made
    count, because nothing tells which others it would have made.

    Parameters
    ----------
    market : Market
    settings : Settings
        Where the agent chooses entries itself (``classic``, ``any``) the market is returned as it
        is: what the agent declines is part of what is judged.
    trades : sequence of Trade
        With rows of ``market``.
    """
    if entry_mode(settings.rules, market) is not EntryMode.ALWAYS:
        return market
    rule = _entry_rule(market, settings)
    made = np.zeros(len(market), dtype=np.int64)
    asked = np.ones(len(market), dtype=np.bool_)
    asked[: settings.window_size - 1] = False  # nothing is decided there
    for trade in trades:
        asked[trade.open_row : trade.close_row] = False
        made[trade.open_row - 1] = _entry_of(trade)
    dropped = asked & (rule != Action.NEUTRAL) & (made != rule)
    entries = {}
    for action in (Action.LONG_ENTER, Action.SHORT_ENTER):
        is_rule = (rule == action) & ((made == action) | (made == Action.NEUTRAL))
        has_dropped = bool((dropped & (rule == action)).any())
        entries[action] = (made == action) | (is_rule & (not has_dropped))
    return replace(
        market,
        entry_long=entries[Action.LONG_ENTER],
        entry_short=entries[Action.SHORT_ENTER],
        report_gaps=False,
    )


def _entry_rule(market: Market, settings: Settings) -> NDArray[np.int64]:
    """Return what is entered at every row without a position; int64, shape (T,)."""
    rules = settings.rules.changed(entry=EntryMode.ALWAYS)
    valid = valid_actions(market, rules)[:, Side.FLAT + 1]
    return np.asarray(valid.argmax(axis=1), dtype=np.int64)


def _entry_of(trade: Trade) -> Action:
    return Action.LONG_ENTER if trade.side is Side.LONG else Action.SHORT_ENTER


def first_difference(market: Market, ours: Sequence[Trade], theirs: Sequence[Trade]) -> str | None:
    """Return the first difference between two lists of trades in words, None without one."""
    assert market.dates is not None
    for our, their in zip_longest(ours, theirs):
        known = their or our
        opened = np.datetime_as_string(market.dates[known.open_row], unit="m").replace("T", " ")
        if our is None or their is None:
            missing = "the replay" if our is None else "the backtest"
            return f"the trade of {opened} is missing in {missing}"
        for name in _EQUAL:
            if getattr(our, name) != getattr(their, name):
                values = f"{getattr(our, name)} in the replay, {getattr(their, name)}"
                return f"{name} of the trade of {opened} is {values} in the backtest"
        if abs(our.profit_ratio - their.profit_ratio) > PROFIT_TOLERANCE:
            values = f"{our.profit_ratio:+.6f} in the replay, {their.profit_ratio:+.6f}"
            return f"profit_ratio of the trade of {opened} is {values} in the backtest"
    return None
