"""What a comparison with freqtrade's backtester found: tables, and the first difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from mtf_scalper.evaluation.trades import FIELDS, Match
from mtf_scalper.market.problems import PRICES
from mtf_scalper.runs.parity import Backtested, PairBacktest, PairComparison
from mtf_scalper.simulator.types import Action

_AROUND = 2
"""Candles shown before and after the one at which two trades part."""
_AT_ENTRY = ("side", "open_rate", "leverage")


@dataclass(frozen=True)
class Difference:
    """The first trade that is not the same on both sides.

    Attributes
    ----------
    pair : str
    match : Match
    date : Timestamp
        Open time of the candle inside which the two part.
    """

    pair: str
    match: Match
    date: pd.Timestamp


def first_difference(compared: Mapping[str, PairComparison]) -> Difference | None:
    """Return the difference whose trade opens first, None if all trades are the same."""
    found = [(each.unequal[0], pair) for pair, each in compared.items() if each.unequal]
    if not found:
        return None
    match, pair = min(found, key=lambda each: each[0].open_date)
    date, ours, theirs = match.open_date, match.ours, match.theirs
    if ours and theirs and not set(match.names) & set(_AT_ENTRY):
        date = min(theirs.close_date, ours.close_date)
    return Difference(pair, match, date)


def print_report(
    console: Console, backtested: Backtested, compared: Mapping[str, PairComparison]
) -> int:
    """Print tables of all trades, then that they are the same or the first that are not.

    Returns
    -------
    int
        0 if there were trades and all are the same, else 1.
    """
    trades = [match for each in compared.values() for match in each.trades]
    console.print(_pair_table(compared, backtested.slippage_bps))
    if not trades:
        console.print("no trades on either side: nothing was compared", markup=False)
        return 1
    console.print(_reason_table(trades))
    difference = first_difference(compared)
    if difference is None:
        console.print(f"all {len(trades)} trades are the same", markup=False)
        return 0
    run = compared[difference.pair].run
    console.print(_trade_table(difference))
    console.print(_candle_table(difference, _candles_around(run, difference.date)))
    if backtested.refused_stakes:
        console.print(
            f"freqtrade left out {backtested.refused_stakes} entries whose stake would be below "
            "the exchange's minimum; raise dry_run_wallet"
        )
    unequal = sum(len(each.unequal) for each in compared.values())
    what = ", ".join(difference.match.names) or _missing(difference.match)
    console.print(
        f"{unequal} of {len(trades)} trades differ; the first: {difference.pair} at "
        f"{difference.date:%Y-%m-%d %H:%M}: {what}",
        markup=False,
        soft_wrap=True,
    )
    return 1


def _missing(match: Match) -> str:
    return "freqtrade has no trade" if match.theirs is None else "the simulator has no trade"


def _candles_around(run: PairBacktest, date: pd.Timestamp) -> pd.DataFrame:
    market = run.market
    assert market.dates is not None
    dates = pd.DatetimeIndex(market.dates, tz="UTC")
    place = int(dates.searchsorted(date))
    rows = slice(max(0, place - _AROUND), place + _AROUND + 1)
    signal = np.select(
        [market.entry_long & market.entry_short, market.entry_long, market.entry_short],
        ["both", "long", "short"],
        "-",
    )
    values: dict[str, Any] = {name: market.ohlc[rows, i] for i, name in enumerate(PRICES)}
    values |= {"entry signal": signal[rows], "leverage": market.leverage[rows]}
    values |= {"funding": market.funding[rows].round(6), "price step": market.tick_size[rows]}
    for action in Action:
        chosen = np.where(run.is_predicted, run.probabilities[:, action].round(6), np.nan)
        values[f"P {action.name.lower()}"] = chosen[rows]
    return pd.DataFrame(values, index=dates[rows])


def _pair_table(compared: Mapping[str, PairComparison], slippage_bps: float) -> Table:
    """Return the trades by pair; what slippage costs has a column of its own, nobody pays it here.

    freqtrade's backtester has no slippage.
    """
    table = Table(title="Trades")
    table.add_column("pair")
    headings = ["freqtrade", "simulator", "equal", "largest profit difference"]
    headings += [f"{slippage_bps:g} bps would cost"] * bool(slippage_bps)
    for heading in headings:
        table.add_column(heading, justify="right")
    for pair, each in compared.items():
        costs = [f"{each.costs_of_slippage(slippage_bps):.3%} of stakes"] * bool(slippage_bps)
        table.add_row(
            pair,
            f"{sum(match.theirs is not None for match in each.trades)}",
            f"{sum(match.ours is not None for match in each.trades)}",
            f"{len(each.trades) - len(each.unequal)}",
            f"{each.largest_profit_difference:.1e}",
            *costs,
        )
    return table


def _reason_table(trades: Sequence[Match]) -> Table:
    table = Table(title="Exits by reason")
    table.add_column("reason")
    for heading in ("freqtrade", "simulator"):
        table.add_column(heading, justify="right")
    theirs = Counter(each.theirs.exit_reason for each in trades if each.theirs)
    ours = Counter(each.ours.exit_reason for each in trades if each.ours)
    for reason in sorted({*theirs, *ours}):
        table.add_row(reason, str(theirs[reason]), str(ours[reason]))
    return table


def _trade_table(difference: Difference) -> Table:
    table = Table(title=f"First difference: {difference.pair}")
    for heading in ("", "freqtrade", "simulator"):
        table.add_column(heading)
    match = difference.match
    for name in ("open_date", *FIELDS, "profit_ratio"):
        style = "bold red" if name in match.names else None
        sides = (match.theirs, match.ours)
        values = ("no trade" if side is None else _text(getattr(side, name)) for side in sides)
        table.add_row(name, *values, style=style)
    return table


def _candle_table(difference: Difference, candles: pd.DataFrame) -> Table:
    """Return candles as columns, so that a terminal of 80 columns has room for five."""
    table = Table(title=f"Candles around {difference.date:%Y-%m-%d %H:%M} UTC")
    table.add_column("", no_wrap=True)
    for date in candles.index:
        style = "bold" if date == difference.date else None
        table.add_column(f"{date:%H:%M}", justify="right", style=style, no_wrap=True)
    for name in candles.columns:
        table.add_row(str(name), *(_text(value) for value in candles[name]))
    return table


def _text(value: Any) -> str:
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, float):
        return "none" if np.isnan(value) else f"{value:.10g}"
    return str(value)
