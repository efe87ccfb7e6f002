"""What others would have made of the same market: the same fees, funding, fills and forced exits.

Each baseline is traded through the very kernel that the judged run was traded through.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator.playback import (
    Simulation,
    play_by_chance,
    play_decided,
    valid_actions,
)
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.types import Action, ExitReason, Side


def flat(market: Market) -> Simulation:
    """Return the run that never trades; its log return is 0."""
    n_candles = len(market)
    nothing = np.zeros(n_candles, dtype=np.int64)
    return Simulation((), np.ones(n_candles), nothing, nothing.copy())


def buy_and_hold(market: Market, settings: Settings) -> Simulation:
    """Return one long trade of leverage 1 from the first possible open to the last.

    Both fees and funding are paid; no stoploss, ROI, duration, safety rule or liquidation ends it.

    Parameters
    ----------
    market : Market
    settings : Settings
        Only the window counts, which says which open is the first, and the slippage.
    """
    held = settings.changed(
        rules=TradeRules(
            entry=EntryMode.ANY,
            can_short=False,
            liquidation_buffer=0.0,
            slippage_bps=settings.rules.slippage_bps,
        )
    )
    unlevered = replace(market, leverage=np.ones(len(market)), report_gaps=False)
    enters = np.zeros((1, len(market), 3), dtype=np.int8)
    enters[:, :, Side.FLAT + 1] = Action.LONG_ENTER
    return play_decided(prepare(unlevered, held), enters)[0]


def classic_exits(market: Market, settings: Settings) -> Simulation | None:
    """Return the classic strategy: every classic entry is taken, only the rules' exits end a trade.

    None where no classic entry can be taken: none fired on a candle that decides, or shorts only
    and ``can_short`` is off.

    Parameters
    ----------
    market : Market
    settings : Settings
        The rules of the trades; their entry mode does not count.
    """
    classic = settings.changed(rules=settings.rules.changed(entry=EntryMode.ALWAYS))
    prepared = prepare(market, classic)
    entries = valid_actions(prepared)[prepared.first_row :, Side.FLAT + 1, 1:]
    if not entries.any():
        return None
    # Where an entry is the only valid action, it is what this becomes.
    stays = np.full((1, len(market), 3), Action.NEUTRAL, dtype=np.int8)
    return play_decided(prepared, stays)[0]


def random_exits(
    run: Simulation, market: Market, settings: Settings, *, n_draws: int = 100, seed: int = 0
) -> tuple[Simulation, ...]:
    """Return runs that enter as ``run`` does and leave at times that know nothing of the market.

    The null hypothesis is "the same entry rule, the same distribution of holding times, no skill in
    the timing of exits". What it takes for the comparison to be fair:

    - *Entries.* Random exits free a draw earlier or later than the run, at candles where the run
      itself held a position. What its entry rule would have done there is ``run.entries``. Without
      it only the entries that the run executed are known; a draw then misses those that fall into
      a longer trade and finds none of its own, so that it trades less often than the run. Under
      ``entry="always"`` all classic entries are taken in either case.
    - *Holding times.* The rules' exits hold for the draws. Drawing from all holding times
      of the run would shorten trades twice, once by what the rules ended in the run and once by
      the rules themselves. So the holding times that are drawn are those that the run *chose*: a
      trade that was forced out only says that it was not left before (Kaplan and Meier 1958). Each
      candle, a draw leaves with the chance ``exit_chances`` for the age of its trade. Without
      forced exits these are exactly the run's holding times, drawn with replacement.

    A run whose exits depend on the age alone is then one more draw of the same kind, and its rank
    among them is uniform but for the error with which its own chances are estimated.

    Parameters
    ----------
    run : Simulation
    market : Market
    settings : Settings
        The rules that the run was traded under.
    n_draws : int
        N, all traded in one pass over the candles.
    seed : int

    Returns
    -------
    tuple of Simulation, length N; empty where the run has no trades
    """
    if not run.trades:
        return ()
    rng = np.random.default_rng(seed)
    chances = exit_chances(run)
    entries = run.entries
    if entries is None:
        is_entry = np.isin(run.actions, (Action.LONG_ENTER, Action.SHORT_ENTER))
        entries = np.where(is_entry, run.actions, Action.NEUTRAL)
    draws = play_by_chance(prepare(market, settings), entries, chances, n_draws, rng)
    return tuple(replace(draw, entries=run.entries) for draw in draws)


def exit_chances(run: Simulation) -> NDArray[np.float64]:
    """Return with which chance ``run`` left a trade by itself at each age: its hazard.

    Of the trades that lived for ``a`` candles, ``n(a)``, the share that the agent left after
    exactly ``a``, ``d(a) / n(a)``; trades that were forced out count in ``n`` as long as they lived
    (Kaplan and Meier 1958). After the longest of them nothing is known: where the agent left any
    trade, it leaves there (Efron 1967), or one trade that the rules ended late would let the draws
    hold for ever.

    Parameters
    ----------
    run : Simulation
        With at least one trade.

    Returns
    -------
    ndarray of float64, shape (A + 1,)
        By age in candles; A is the longest holding time, and its chance holds beyond it.
    """
    ages = np.array([trade.duration_candles for trade in run.trades])
    by_itself = np.array([trade.exit_reason is ExitReason.AGENT for trade in run.trades])
    longest = int(ages.max())
    left = np.bincount(ages[by_itself], minlength=longest + 1)
    lived = np.bincount(ages, minlength=longest + 1)[::-1].cumsum()[::-1]
    chances: NDArray[np.float64] = left / lived
    if by_itself.any():
        chances[longest] = 1.0
    return chances
