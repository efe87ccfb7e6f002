"""The trades of a backtest played again on the market that they were made on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, Settings
from mtf_scalper.simulator.playback import Simulation, play_decided, valid_actions
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.types import Action, ExitReason, Side, Trade


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
    decided = np.zeros((1, len(market), len(Side)), dtype=np.int8)
    for trade in trades:
        decided[0, trade.open_row - 1, Side.FLAT + 1] = _entry_of(trade)
        if trade.exit_reason is ExitReason.AGENT:
            leave = Action.LONG_EXIT if trade.side is Side.LONG else Action.SHORT_EXIT
            decided[0, trade.close_row - 1, trade.side + 1] = leave
    # The backtester may have left an entry out that the rules want, with all slots taken, say.
    free = settings.changed(rules=settings.rules.changed(entry=EntryMode.ANY))
    (run,) = play_decided(prepare(market, free), decided)
    if settings.rules.for_market(market).entry is EntryMode.ALWAYS:
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
    if settings.rules.for_market(market).entry is not EntryMode.ALWAYS:
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
    valid = valid_actions(prepare(market, settings.changed(rules=rules)))[:, Side.FLAT + 1]
    return np.asarray(valid.argmax(axis=1), dtype=np.int64)


def _entry_of(trade: Trade) -> Action:
    return Action.LONG_ENTER if trade.side is Side.LONG else Action.SHORT_ENTER
