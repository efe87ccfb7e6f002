"""What the trades of a backtest were worth: beside the hindsight optimum and what others did.

freqtrade's own tables say what an account earned. Whether the agent had a part in it is another
question; to answer it the backtest's trades are played again on the market that they were made on,
and measured as every run of the Python API is (``evaluation.report``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table

from mtf_scalper.errors import MarketError
from mtf_scalper.evaluation.baselines import buy_and_hold, classic_exits, flat, random_exits
from mtf_scalper.evaluation.report import TIE, Report, evaluate
from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, Settings
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.simulator.playback import Simulation, play, valid_actions
from mtf_scalper.simulator.types import Action, ExitReason, Side, Trade

__all__ = [
    "PairVerdict",
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


@dataclass(frozen=True, eq=False)
class PairVerdict:
    """What the agent's trades of one pair were worth, or of all together.

    Attributes
    ----------
    name : str
        The pair, or ``"all"``.
    n_trades : int
    log_return : float
        Of an account of its own that stakes all it has; of all together the sum.
    oracle, buy_and_hold : float
        Log returns of the hindsight optimum and of buy and hold.
    classic_exits : float or None
        Log return of leaving all exits to the rules; None without classic entries.
    draws : ndarray of float64, shape (N,)
        Log returns with random exits; empty without trades.
    degenerate : str or None
        Why this is no trading policy, in plain words.
    difference : str or None
        First difference between the backtest and its replay, which this is about; None without.
    report : Report or None
        All figures of the pair; None of all together.
    equity : DataFrame
        Columns ``date`` (UTC) and one per account, ``agent`` first: cumulative log return after
        costs, at each candle of the market. Empty where the market has no dates.
    """

    name: str
    n_trades: int
    log_return: float
    oracle: float
    buy_and_hold: float
    classic_exits: float | None
    draws: NDArray[np.float64]
    degenerate: str | None
    difference: str | None = None
    report: Report | None = None
    equity: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def oracle_share(self) -> float | None:
        """``log_return / oracle``, None where the optimum earns nothing."""
        return self.log_return / self.oracle if self.oracle > TIE else None

    @property
    def random_rank(self) -> float | None:
        """Share of the draws that the trades beat, ties counted half; None without draws."""
        if not len(self.draws):
            return None
        differences = self.log_return - self.draws
        return float(np.mean(np.where(np.abs(differences) <= TIE, 0.5, differences > 0.0)))


def judge_trades(
    trades: Sequence[Mapping[str, Any]],
    markets: Mapping[str, Market],
    settings: Settings,
    *,
    n_draws: int = 100,
) -> tuple[PairVerdict, ...]:
    """Return a verdict per pair, and one on all together where there are several.

    A replay that differs from the backtest is told in the log; the verdict is that on the replay.

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
    """
    verdicts = []
    for seed, (pair, market) in enumerate(markets.items()):
        theirs = trades_on(market, [trade for trade in trades if trade["pair"] == pair])
        run = replay(market, settings, theirs)
        difference = _first_difference(market, run.trades, theirs)
        if difference is not None:
            logger.warning("%s: the replay differs from the backtest: %s", pair, difference)
        best = oracle(market, settings)
        report = evaluate(run, market, settings, oracle=best, n_draws=0)
        draws: tuple[Simulation, ...] = ()
        if n_draws:
            draws = random_exits(run, market, settings, n_draws=n_draws, seed=seed)
        equity = _equity(market, settings, run, best)
        verdicts.append(_pair_verdict(report, best, draws, difference, equity))
    return (*verdicts, _together(verdicts)) if len(verdicts) > 1 else tuple(verdicts)


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


def verdict_table(verdicts: Sequence[PairVerdict]) -> Table:
    """Return the figures as a table for a terminal."""
    table = Table(title="What the agent's trades were worth: log returns after fees")
    table.add_column("pair", no_wrap=True)
    headings = ("trades", "return", "of best", "hold", "classic", "random", "beaten")
    for heading in headings:
        table.add_column(heading, justify="right")
    for each in verdicts:
        table.add_row(
            each.name.split(":")[0],  # so that all fits into 80 columns
            f"{each.n_trades}",
            f"{each.log_return:+.3f}",
            _text(each.oracle_share, ".1%"),
            f"{each.buy_and_hold:+.3f}",
            _text(each.classic_exits, "+.3f"),
            _text(float(np.median(each.draws)) if len(each.draws) else None, "+.3f"),
            _text(each.random_rank, ".0%"),
        )
    return table


def verdict_sentence(verdicts: Sequence[PairVerdict]) -> str:
    """Return what came of it in one line: the last verdict's, which is that on all together."""
    each = verdicts[-1]
    parts = [
        f"log return {each.log_return:+.3f} in {each.n_trades} trades",
        f"{_text(each.oracle_share, '.1%')} of the hindsight optimum",
        f"classic exits {_text(each.classic_exits, '+.3f')}",
        f"buy and hold {each.buy_and_hold:+.3f}",
        f"random exits beaten {_text(each.random_rank, '.0%')}",
    ]
    start = f"DEGENERATE, {each.degenerate}: " if each.degenerate else ""
    return start + ", ".join(parts)


def verdict_lines(verdicts: Sequence[PairVerdict]) -> list[str]:
    """Return what the table cannot say: is it a policy at all, and what its columns mean."""
    pairs = [each for each in verdicts if each.name != _ALL]
    lines = [
        f"{each.name}: DEGENERATE, {each.degenerate}"
        if each.degenerate
        else f"{each.name}: not degenerate"
        for each in pairs
    ]
    lines += [
        f"{each.name}: the replay differs from the backtest: {each.difference}"
        for each in pairs
        if each.difference is not None
    ]
    return [
        *lines,
        "of best  share of what the best trades in hindsight earn under the same rules",
        "hold     buy and hold; classic: the same entries, all exits left to the rules",
        "random   the same entry rule, exits at random times: median of 100 draws, and",
        "         how many of them are beaten, ties counted half",
    ]


_ALL = "all"


def _equity(market: Market, settings: Settings, run: Simulation, best: Simulation) -> pd.DataFrame:
    """Return the accounts of the agent and of all that it is compared with."""
    if market.dates is None:
        return pd.DataFrame()
    runs = {
        "agent": run,
        "oracle": best,
        "classic exits": classic_exits(market, settings),
        "buy and hold": buy_and_hold(market, settings),
        "flat": flat(market),
    }
    dates = pd.DatetimeIndex(market.dates, tz="UTC")
    found = {name: np.log(each.equity) for name, each in runs.items() if each is not None}
    return pd.DataFrame({"date": dates, **found})


def _pair_verdict(
    report: Report,
    best: Simulation,
    draws: Sequence[Simulation],
    difference: str | None,
    equity: pd.DataFrame,
) -> PairVerdict:
    return PairVerdict(
        name=report.pair,
        n_trades=report.n_trades,
        log_return=report.log_return,
        oracle=best.log_return,
        buy_and_hold=report.buy_and_hold,
        classic_exits=report.classic_exits,
        draws=np.array([draw.log_return for draw in draws]),
        degenerate=report.degenerate,
        difference=difference,
        report=report,
        equity=equity,
    )


def _together(verdicts: Sequence[PairVerdict]) -> PairVerdict:
    """Return the sums; a pair without trades adds nothing to any draw."""
    classic = [each.classic_exits for each in verdicts if each.classic_exits is not None]
    draws = [each.draws for each in verdicts if len(each.draws)]
    degenerate = [each for each in verdicts if each.degenerate]
    return PairVerdict(
        name=_ALL,
        n_trades=sum(each.n_trades for each in verdicts),
        log_return=sum(each.log_return for each in verdicts),
        oracle=sum(each.oracle for each in verdicts),
        buy_and_hold=sum(each.buy_and_hold for each in verdicts),
        classic_exits=sum(classic) if classic else None,
        draws=np.sum(draws, axis=0) if draws else np.zeros(0),
        degenerate=f"{len(degenerate)} of {len(verdicts)} pairs" if degenerate else None,
        equity=_summed([each.equity for each in verdicts]),
    )


def _summed(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the sums of accounts by date; one that has ended keeps what it had."""
    full = [table.set_index("date") for table in tables if not table.empty]
    if not full:
        return pd.DataFrame()
    dates = full[0].index
    for table in full[1:]:
        dates = dates.union(table.index)
    filled = [table.reindex(dates).ffill().fillna(0.0) for table in full]
    total = filled[0]
    for table in filled[1:]:
        total = total.add(table, fill_value=0.0)
    # In the order of the first pair's accounts; adding has sorted them by name.
    names = list(dict.fromkeys(name for table in full for name in table.columns))
    return total[names].rename_axis("date").reset_index()


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
