"""What the trades of a backtest were worth, beside the hindsight optimum and what others did.

freqtrade's own tables say what an account earned. Whether the agent had a part in it is another
question; to answer it the backtest's trades are played again on the market that they were made on,
judged as a walk-forward evaluation is, and all of it is written into the backtest's record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mtf_scalper.evaluation.accounts import measure_pair
from mtf_scalper.evaluation.days import calendar_of
from mtf_scalper.evaluation.degenerate import aside_in_words
from mtf_scalper.evaluation.edge import Variant
from mtf_scalper.evaluation.judge import Judged, NotJudged, judge_pairs, write_judged
from mtf_scalper.evaluation.replay import replay, with_entries_made
from mtf_scalper.evaluation.trades import ClosedTrade, differences, on_rows, simulated
from mtf_scalper.evaluation.variants import earlier_variants
from mtf_scalper.market.market import Market
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.settings import Settings

logger = logging.getLogger(__name__)

JUDGED_EVENT: Final = "judged"
"""Event of a backtest that was judged: verdict and checks, or why it could not be."""
AGREES: Final = "simulator agrees"
IS_POLICY: Final = "is a policy"
"""Names of a pair's checks, after the pair."""


def judge_into(
    record: RunRecord,
    trades: Sequence[ClosedTrade],
    markets: Mapping[str, Market],
    settings: Settings,
) -> Judged | NotJudged:
    """Judge trades beside the baselines and all variants tried before, and record all of it.

    Trades that are not judged leave no equity, figures or statistics in the record: those of the
    replay would be the figures of other trades.

    Parameters
    ----------
    record : RunRecord
        Of the backtest; variants are looked for beside it.
    trades, markets, settings
        As ``judge_trades`` takes them; freqtrade's backtester has no slippage, so that none is
        charged here, and the log says so.
    """
    if settings.rules.slippage_bps:
        logger.warning(
            "slippage_bps %g is charged in training and by `mtf-scalper evaluate`; freqtrade's "
            "backtester charges none, and neither do the figures beside it",
            settings.rules.slippage_bps,
        )
        settings = settings.changed(rules=settings.rules.changed(slippage_bps=0.0))
    run = Run.open(record.folder)
    judged = judge_trades(
        trades,
        markets,
        settings,
        others=lambda variant: earlier_variants(run, variant, record.folder.parent),
    )
    if isinstance(judged, Judged):
        write_judged(record, judged)
    return judged


def judge_trades(
    trades: Sequence[ClosedTrade],
    markets: Mapping[str, Market],
    settings: Settings,
    *,
    n_draws: int = 100,
    others: Callable[[Variant], Sequence[Variant]] = lambda _: (),
) -> Judged | NotJudged:
    """Play the trades of a backtest again, and decide whether there is an edge.

    The baselines and the optimum use the entries that the strategy made; see
    ``replay.with_entries_made``. Accounts stake all they have, each pair's its own. Where a replay
    differs from the backtest its figures are those of other trades, and nothing is judged; the log
    tells it too.

    Parameters
    ----------
    trades : sequence of ClosedTrade
        Of all pairs.
    markets : mapping of str to Market
        What was traded, with dates, by pair.
    settings : Settings
        The rules and the window that were used.
    n_draws : int
        Runs with random exits.
    others : callable
        From the judged variant to all others that were tried.
    """
    played, differ = [], {}
    for pair, market in markets.items():
        own = [trade for trade in trades if trade.pair == pair]
        theirs = on_rows(own, market)
        rules = settings.for_market(market)  # the entries that were made need not show it
        made = with_entries_made(market, rules, theirs)
        run = replay(made, rules, theirs)
        played.append((market, made, rules, run))
        for first in differences(simulated(run.trades, market), own)[:1]:
            differ[pair] = first.words("the replay", "the backtest")
            logger.warning("%s: the replay differs from the backtest: %s", pair, differ[pair])
    if differ:
        return NotJudged(differ, tuple(markets))
    calendar = calendar_of(markets.values())
    pairs = [
        measure_pair(
            made, rules, {settings.random_state: run}, calendar, n_draws=n_draws, offered=market
        )
        for market, made, rules, run in played
    ]
    return judge_pairs(calendar, pairs, others=others)


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


def verdict_checks(judged: Judged | NotJudged) -> list[dict[str, str]]:
    """Return whether each pair's replay agrees with its backtest, and is a trading policy.

    Returns
    -------
    list of dict
        For ``checks.json``.
    """
    same = "the same trades"
    if isinstance(judged, NotJudged):
        return [
            check_row(f"{pair}: {AGREES}", "replayed", same, judged.differences.get(pair))
            for pair in judged.pairs
        ]
    rows = []
    for pair, account in judged.by_pair.items():
        n_trades = f"{account.days.n_trades.sum():.0f} trades"
        aside = aside_in_words(account.choices)
        why = "" if aside else "; ".join(account.degenerate)
        policy = "not degenerate"
        found = f"stands aside, {aside}" if aside else why or policy
        rows.append(check_row(f"{pair}: {AGREES}", n_trades, same, None))
        rows.append(check_row(f"{pair}: {IS_POLICY}", found, policy, why))
    return rows


def check_row(name: str, measured: str, expected: str, problem: str | None) -> dict[str, str]:
    """Return a row of ``checks.json``, which has failed where there is a problem."""
    return {
        "name": name,
        "measured": measured,
        "expected": expected,
        "verdict": "failed" if problem else "passed",
        "reason": problem or "",
    }


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
