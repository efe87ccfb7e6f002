"""Policies that have learned nothing, and those that stand aside, named in plain words.

Where the agent may decline entries, to decline them is a decision, and on most candles the right
one: it costs nothing. What it is not is trading, and it is said in words of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, Settings
from mtf_scalper.simulator.exits import EQUITY_FLOOR
from mtf_scalper.simulator.playback import INSIDE_EXITS, Simulation, valid_actions
from mtf_scalper.simulator.prepared import PreparedMarket, prepare
from mtf_scalper.simulator.types import Action, ExitReason, Side

ALWAYS_IN_MARKET = 0.99
"""Exposure from which a run with one side only counts as staying in the market."""

MOST_TAKEN = 0.05
"""Share of the classic entries, or of the time, up to which an agent stands aside."""


@dataclass(frozen=True)
class Choices:
    """What an agent made of its chances to enter.

    Attributes
    ----------
    mode : EntryMode
    n_taken, n_chances : int
        Decisions without a position at which it entered, and at which it could.
    is_aside : bool
        Whether it declined nearly all: under ``classic`` at most ``MOST_TAKEN`` of the chances were
        taken, under ``any`` it was in the market for at most so much of the time.
    """

    mode: EntryMode
    n_taken: int
    n_chances: int
    is_aside: bool


def choices_of(run: Simulation, market: Market, settings: Settings) -> Choices:
    """Return what an agent made of its chances to enter; see ``degeneracy`` for the arguments."""
    prepared = prepare(market, settings)
    mode = prepared.rules.entry
    assert mode is not None
    rows, sides, valid = _decisions(run, prepared)
    # Under "always" there is nothing to decline.
    is_chance = (sides == Side.FLAT) & valid[:, 1:].any(axis=1) & valid[:, 0]
    n_chances = int(is_chance.sum())
    n_taken = int((run.actions[rows][is_chance] != Action.NEUTRAL).sum())
    taken = exposure(run, settings) if mode is EntryMode.ANY else n_taken / max(n_chances, 1)
    return Choices(mode, n_taken, n_chances, n_chances > 0 and taken <= MOST_TAKEN)


def mean_choices(choices: Sequence[Choices]) -> Choices:
    """Return what several seeds made of the same chances on average; at least one."""
    n_taken = sum(each.n_taken for each in choices) / len(choices)
    n_chances = sum(each.n_chances for each in choices) / len(choices)
    is_aside = all(each.is_aside for each in choices)
    return Choices(choices[0].mode, math.ceil(n_taken), round(n_chances), is_aside)


def aside_in_words(choices: Sequence[Choices]) -> str | None:
    """Say how few chances several accounts took, None where not all of them stand aside."""
    if not choices or not all(each.is_aside for each in choices):
        return None
    n_taken = sum(each.n_taken for each in choices)
    n_chances = sum(each.n_chances for each in choices)
    anywhere = any(each.mode is EntryMode.ANY for each in choices)
    where = "candles" if anywhere else "classic entries"
    return f"{'entered at' if anywhere else 'took'} {n_taken:,} of {n_chances:,} {where}"


def exposure(run: Simulation, settings: Settings) -> float:
    """Return the share of the candles that could be traded in which a position was held.

    The first is that at whose open the first decision fills. In the last no position is held: a
    trade still open is closed at its open.
    """
    return float(np.mean(run.sides_held()[settings.window_size : -1] != Side.FLAT))


def degeneracy(run: Simulation, market: Market, settings: Settings) -> str | None:
    """Say in plain words why a run is no trading policy, None where it is one.

    What is looked at are choices: decisions at which more than one action was valid.

    - It never trades.
    - It leaves at every chance, the first candle of a trade.
    - All trades last one candle, unless the rules allow no more.
    - Under ``entry="any"``: it is in the market on one side all the time, either for
      ``ALWAYS_IN_MARKET`` of the candles, or because whenever it is without a position it enters
      that side, and never leaves by itself.
    - It never leaves by itself, and either had nothing else to decide (``always``), or took every
      classic entry as well (``classic``), or held its last trade to the end of the data without
      any other. To choose among entries and to leave the exits to the rules is no degeneracy.

    Parameters
    ----------
    run : Simulation
    market : Market
    settings : Settings
        The rules that the run was traded under.
    """
    prepared = prepare(market, settings)
    mode = prepared.rules.entry
    rows, sides, valid = _decisions(run, prepared)
    actions = run.actions[rows]
    without = sides == Side.FLAT
    is_entry_choice = without & valid[:, 1:].any(axis=1)
    if not run.trades:
        n_chances = int(is_entry_choice.sum())
        return f"never trades ({_of(0, n_chances) if n_chances else 'no entry was possible'})"
    n_chances = int((~without).sum())
    n_exits = int(np.isin(actions, (Action.LONG_EXIT, Action.SHORT_EXIT)).sum())
    # With a maximum duration of one candle there is nothing to choose after an entry.
    may_stay = settings.rules.max_trade_duration_candles != 1
    if may_stay and 0 < n_chances == n_exits:
        return f"always exits at once ({_of(n_exits, n_chances)})"
    if may_stay and _all_last_one_candle(run):
        return f"all trades last one candle ({len(run.trades)} of {len(run.trades)})"
    entered = actions[is_entry_choice]
    if mode is EntryMode.ANY and _one_side_always(run, settings, entered, n_exits):
        return f"stays in the market on one side ({run.trades[0].side.name.lower()})"
    if n_exits or not may_stay:
        return None
    chances = f"({_of(0, n_chances)})"
    if mode is EntryMode.CLASSIC and len(entered) > 1 and (entered != Action.NEUTRAL).all():
        return f"takes every entry and never exits by itself {chances}"
    if mode is EntryMode.ALWAYS or _holds_to_the_end(run):
        return f"never exits by itself {chances}"
    return None


def _decisions(
    run: Simulation, prepared: PreparedMarket
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the rows that decided, the sides held there and the valid actions, (D, 5)."""
    end = len(prepared) - 1
    if run.trades and run.equity[-1] <= EQUITY_FLOOR:
        end = run.trades[-1].close_row  # an account that is gone decides nothing any more
    rows = np.arange(prepared.first_row, end)
    sides = run.sides_decided_in()[rows]
    return rows, sides, valid_actions(prepared)[rows, sides + 1]


def _of(n_taken: int, n_chances: int) -> str:
    return f"{n_taken} of {n_chances} chance{'' if n_chances == 1 else 's'}"


def _all_last_one_candle(run: Simulation) -> bool:
    return all(
        trade.duration_candles + (trade.exit_reason in INSIDE_EXITS) == 1 for trade in run.trades
    )


def _one_side_always(
    run: Simulation, settings: Settings, entered: NDArray[np.int64], n_exits: int
) -> bool:
    if len({trade.side for trade in run.trades}) > 1:
        return False
    always_enters = len(np.unique(entered)) == 1 and n_exits == 0
    return always_enters or exposure(run, settings) >= ALWAYS_IN_MARKET


def _holds_to_the_end(run: Simulation) -> bool:
    return all(trade.exit_reason is ExitReason.END_OF_DATA for trade in run.trades)
