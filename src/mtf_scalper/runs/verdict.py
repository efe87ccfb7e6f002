"""What the trades of a backtest were worth: beside the hindsight optimum and what others did.

freqtrade's own tables say what an account earned. Whether the agent had a part in it is another
question; to answer it the backtest's trades are played again on the market that they were made on,
and judged as a walk-forward evaluation is (``runs.judgment``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from mtf_scalper.evaluation.edge import Variant
from mtf_scalper.evaluation.performance import calendar_of
from mtf_scalper.market.market import Market
from mtf_scalper.runs.evidence import measure_pair
from mtf_scalper.runs.judgment import Judged, NotJudged, judge_pairs
from mtf_scalper.runs.replay import (
    PROFIT_TOLERANCE,
    first_difference,
    replay,
    trades_on,
    with_entries_made,
)
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.masks import with_entry_mode

__all__ = [
    "PROFIT_TOLERANCE",
    "degenerate_pairs",
    "judge_trades",
    "replay",
    "trades_on",
    "verdict_lines",
    "verdict_sentence",
    "verdict_table",
]

logger = logging.getLogger(__name__)


def judge_trades(
    trades: Sequence[Mapping[str, Any]],
    markets: Mapping[str, Market],
    settings: Settings,
    *,
    n_draws: int = 100,
    others: Callable[[Variant], Sequence[Variant]] = lambda _: (),
) -> tuple[Judged | NotJudged, dict[str, str]]:
    """Play the trades of a backtest again, and decide whether there is an edge.

    The baselines and the optimum use the entries that the strategy made; see
    ``replay.with_entries_made``.

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
    judged : Judged or NotJudged
        Of the replays; accounts stake all they have, each pair's its own. Where a replay differs
        from the backtest its figures are those of other trades, and nothing is judged.
    differences : dict of str to str
        By pair, the first difference between its replay and the backtest. The log tells it too.
    """
    played, differences = [], {}
    for pair, market in markets.items():
        theirs = trades_on(market, [trade for trade in trades if trade["pair"] == pair])
        rules = with_entry_mode(settings, market)  # the entries that were made need not show it
        made = with_entries_made(market, rules, theirs)
        run = replay(made, rules, theirs)
        played.append((market, made, rules, run))
        difference = first_difference(market, run.trades, theirs)
        if difference is not None:
            differences[pair] = difference
            logger.warning("%s: the replay differs from the backtest: %s", pair, difference)
    if differences:
        return NotJudged(differences, tuple(markets)), differences
    calendar = calendar_of(markets.values())
    pairs = [
        measure_pair(
            made,
            rules,
            {settings.random_state: run},
            calendar,
            n_draws=n_draws,
            offered=market,
        )
        for market, made, rules, run in played
    ]
    return judge_pairs(calendar, pairs, others=others), differences


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


def verdict_sentence(judged: Judged | NotJudged) -> str:
    """Return in one line whether there is evidence of an edge, and what all together earned."""
    if isinstance(judged, NotJudged):
        return judged.sentence
    row = judged.figures[0]
    parts = [
        f"log return {_text(row['log_return']['value'], '+.3f')} in {row['n_trades']:.0f} trades",
        f"{_text(row['oracle_share']['value'], '.1%')} of the hindsight optimum",
        f"classic exits {_text(row.get('classic_exits'), '+.3f')}",
        f"buy and hold {_text(row['buy_and_hold'], '+.3f')}",
        f"random exits beaten {_text(row.get('random_rank'), '.0%')}",
    ]
    return f"{judged.edge.sentence}; {', '.join(parts)}"


def verdict_lines(judged: Judged | NotJudged, differences: Mapping[str, str]) -> list[str]:
    """Return what the table cannot say: is it a policy at all, and what its columns mean."""
    legend = [
        "of best  share of what the best trades in hindsight earn under the same rules",
        "hold     buy and hold; classic: the same entries, all exits left to the rules",
        "random   the same entry rule, exits at random times: median of 100 draws, and",
        "         how many of them are beaten, ties counted half",
    ]
    return [
        *(
            f"{pair}: {f'DEGENERATE, {why}' if why else 'not degenerate'}"
            for pair, why in degenerate_pairs(judged).items()
        ),
        *(
            f"{pair}: the replay differs from the backtest: {difference}"
            for pair, difference in differences.items()
        ),
        *(legend if isinstance(judged, Judged) else ()),
    ]


def degenerate_pairs(judged: Judged | NotJudged) -> dict[str, str | None]:
    """Return for each judged pair why it has no trading policy, None where it has one."""
    if isinstance(judged, NotJudged):
        return {}
    return {pair: "; ".join(each.degenerate) or None for pair, each in judged.by_pair.items()}


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
