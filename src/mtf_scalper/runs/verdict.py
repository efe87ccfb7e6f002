"""What the trades of a backtest were worth: beside the hindsight optimum and what others did.

freqtrade's own tables say what an account earned. Whether the agent had a part in it is another
question; to answer it the backtest's trades are played again on the market that they were made on,
and judged as a walk-forward evaluation is (``runs.judgment``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table

from mtf_scalper.errors import MarketError
from mtf_scalper.evaluation.edge import Variant
from mtf_scalper.evaluation.performance import calendar_of
from mtf_scalper.market.market import Market
from mtf_scalper.runs.evidence import measure_pair
from mtf_scalper.runs.judgment import Judged, judge_pairs
from mtf_scalper.settings import EntryMode, Settings
from mtf_scalper.simulator.playback import Simulation, play, valid_actions
from mtf_scalper.simulator.types import Action, ExitReason, Side, Trade

__all__ = [
    "degenerate_pairs",
    "judge_trades",
    "replay",
    "trades_on",
    "verdict_lines",
    "verdict_sentence",
    "verdict_table",
]

logger = logging.getLogger(__name__)

PROFIT_TOLERANCE = 1e-6
"""Largest difference of profit ratio between a trade and its replay."""
_EQUAL = ("side", "open_row", "close_row", "open_rate", "close_rate", "leverage", "exit_reason")


def judge_trades(
    trades: Sequence[Mapping[str, Any]],
    markets: Mapping[str, Market],
    settings: Settings,
    *,
    n_draws: int = 100,
    others: Callable[[Variant], Sequence[Variant]] = lambda _: (),
) -> tuple[Judged, dict[str, str]]:
    """Play the trades of a backtest again, and decide whether there is an edge.

    Parameters
    ----------
    trades : sequence of mapping
        As freqtrade writes them into its results.
    markets : mapping of str to Market
        What was traded, with dates, by pair.
    settings : Settings
        The rules and the window in force.
    n_draws : int
        Runs with random exits.
    others : callable
        From the judged variant to all others that were tried.

    Returns
    -------
    judged : Judged
        Of the replays; accounts stake all they have, each pair's its own.
    differences : dict of str to str
        By pair, the first difference between its replay and the backtest. The log tells it too.
    """
    calendar = calendar_of(markets.values())
    pairs, differences = [], {}
    for pair, market in markets.items():
        theirs = trades_on(market, [trade for trade in trades if trade["pair"] == pair])
        run = replay(market, settings, theirs)
        difference = _first_difference(market, run.trades, theirs)
        if difference is not None:
            differences[pair] = difference
            logger.warning("%s: the replay differs from the backtest: %s", pair, difference)
        runs = {settings.random_state: run}
        pairs.append(measure_pair(market, settings, runs, calendar, n_draws=n_draws))
    return judge_pairs(calendar, pairs, others=others), differences


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
        is_long = trade.side is Side.LONG
        entries[trade.open_row - 1] = Action.LONG_ENTER if is_long else Action.SHORT_ENTER
        if trade.exit_reason is ExitReason.AGENT:
            exits[trade.close_row - 1] = Action.LONG_EXIT if is_long else Action.SHORT_EXIT

    def choose(
        row: int, states: NDArray[np.void], _extras: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        return np.asarray(np.where(states["side"] == Side.FLAT, entries[row], exits[row]))

    # The backtester may have left an entry out that the rules want, with all slots taken, say.
    free = settings.changed(rules=settings.rules.changed(entry=EntryMode.ANY))
    (run,) = play(market, free, choose)
    if settings.rules.entry is EntryMode.ALWAYS:
        rule = valid_actions(market, settings.rules)[:, Side.FLAT + 1].argmax(axis=1)
        return replace(run, entries=rule.astype(np.int64))
    return run


def verdict_table(judged: Judged) -> Table:
    """Return the figures as a table for a terminal."""
    table = Table(title="What the agent's trades were worth: log returns after fees")
    table.add_column("pair", no_wrap=True)
    headings = ("trades", "return", "of best", "hold", "classic", "random", "beaten")
    for heading in headings:
        table.add_column(heading, justify="right")
    of_all, *of_pairs = judged.figures
    for row in (*of_pairs, of_all):
        table.add_row(
            row["pair"].split(":")[0],  # so that all fits into 80 columns
            f"{row['n_trades']:.0f}",
            _text(row["log_return"]["value"], "+.3f"),
            _text(row["oracle_share"]["value"], ".1%"),
            _text(row["buy_and_hold"], "+.3f"),
            _text(row.get("classic_exits"), "+.3f"),
            _text(row.get("random_median"), "+.3f"),
            _text(row.get("random_rank"), ".0%"),
        )
    return table


def verdict_sentence(judged: Judged) -> str:
    """Return in one line whether there is evidence of an edge, and what all together earned."""
    row = judged.figures[0]
    parts = [
        f"log return {_text(row['log_return']['value'], '+.3f')} in {row['n_trades']:.0f} trades",
        f"{_text(row['oracle_share']['value'], '.1%')} of the hindsight optimum",
        f"classic exits {_text(row.get('classic_exits'), '+.3f')}",
        f"buy and hold {_text(row['buy_and_hold'], '+.3f')}",
        f"random exits beaten {_text(row.get('random_rank'), '.0%')}",
    ]
    return f"{judged.edge.sentence}; {', '.join(parts)}"


def verdict_lines(judged: Judged, differences: Mapping[str, str]) -> list[str]:
    """Return what the table cannot say: is it a policy at all, and what its columns mean."""
    return [
        *(
            f"{pair}: {f'DEGENERATE, {why}' if why else 'not degenerate'}"
            for pair, why in degenerate_pairs(judged).items()
        ),
        *(
            f"{pair}: the replay differs from the backtest: {difference}"
            for pair, difference in differences.items()
        ),
        "of best  share of what the best trades in hindsight earn under the same rules",
        "hold     buy and hold; classic: the same entries, all exits left to the rules",
        "random   the same entry rule, exits at random times: median of 100 draws, and",
        "         how many of them are beaten, ties counted half",
    ]


def degenerate_pairs(judged: Judged) -> dict[str, str | None]:
    """Return for each pair why it has no trading policy, None where it has one."""
    return {pair: "; ".join(each.degenerate) or None for pair, each in judged.by_pair.items()}


def _first_difference(market: Market, ours: Sequence[Trade], theirs: Sequence[Trade]) -> str | None:
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


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
