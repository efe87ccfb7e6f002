"""The demo: a synthetic market, the real freqtrade program, and a table of what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mtf_scalper.market.market import Market
from mtf_scalper.progress import EventBars
from mtf_scalper.runs.parity import offline_arguments
from mtf_scalper.runs.program import BacktestOutcome, BacktestRequest, run_backtest
from mtf_scalper.runs.project import demo_market, find_project, shown
from mtf_scalper.runs.verdict import PairVerdict, judge_trades, verdict_lines, verdict_table
from mtf_scalper.settings import Settings

__all__ = ["DEMO_TIMERANGE", "MarketsOf", "run_demo"]

DEMO_TIMERANGE = "20241001-20241101"
"""Five windows of up to seven days for each pair."""
_OVERRIDES = {"freqai": {"rl_config": {"progress_bar": False}}}


MarketsOf = Callable[[Mapping[str, Any]], tuple[dict[str, Market], Settings]]
"""From arguments of freqtrade's command line to what a backtest with them trades, by pair."""


def run_demo(
    markets_of: MarketsOf, datadir: Path | None = None, timerange: str | None = None
) -> int:
    """Train and backtest through the real program, and print tables of what came of it.

    Parameters
    ----------
    markets_of : callable
        What the backtest traded; ``mtf_scalper.freqai.parity.markets_of_backtest``.
    datadir : Path, optional
        freqtrade data directory with the configuration's pairs; the synthetic market by default.
    timerange : str, optional
        Backtest period; ``DEMO_TIMERANGE`` by default.

    Returns
    -------
    int
        0.

    Raises
    ------
    MtfScalperError
        If the program fails: says why.
    """
    console = Console()
    started = time.monotonic()
    project = find_project()
    market = datadir or demo_market(project)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    request = BacktestRequest(
        project=project,
        folder=project / "user_data" / "runs" / f"demo-{stamp}",
        datadir=market.resolve(),
        timerange=timerange or DEMO_TIMERANGE,
        overrides=_OVERRIDES,
    )
    console.print(f"freqtrade backtesting {request.timerange} on {shown(market, project)}")
    console.print("training one agent per pair and week")
    with EventBars(console) as bars:
        outcome = run_backtest(request, lambda run: bars.show(run.events()))
    console.print(_result_table(outcome))
    console.print(_exit_table(outcome))
    verdicts = _verdicts(request, outcome, markets_of)
    console.print(verdict_table(verdicts))
    for line in verdict_lines(verdicts):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"whole run       {time.monotonic() - started:.0f} s")
    for what, path in (
        ("trades, results", outcome.results),
        ("freqtrade's log", request.log),
        ("models, events ", request.models),
    ):
        console.print(f"{what} {shown(path, project)}", soft_wrap=True)
    return 0


def _verdicts(
    request: BacktestRequest, outcome: BacktestOutcome, markets_of: MarketsOf
) -> tuple[PairVerdict, ...]:
    """Play the backtest's trades again on the markets that they were made on."""
    shipped = request.project / "configs" / "config_rl_hybrid.json"
    with offline_arguments(
        (shipped, request.folder / "overrides.json"),
        request.timerange,
        datadir=request.datadir,
        train_cycles=None,
        folder=request.folder / "verdict",
    ) as arguments:
        markets, settings = markets_of(arguments)
    return judge_trades(outcome.strategy["trades"], markets, settings)


def _result_table(outcome: BacktestOutcome) -> Table:
    table = Table(title=f"Backtest {outcome.strategy['strategy_name']}")
    table.add_column("pair")
    for heading in ("trades", "win rate", "profit", "drawdown", "training", "steps/s"):
        table.add_column(heading, justify="right")
    finished = [event for event in outcome.events if event["event"] == "training_finished"]
    for row in outcome.strategy["results_per_pair"]:
        is_total = row["key"] == "TOTAL"
        trainings = [event for event in finished if is_total or event["pair"] == row["key"]]
        seconds = sum(event["seconds"] for event in trainings)
        steps = sum(event["steps"] for event in trainings)
        table.add_row(
            "all" if is_total else row["key"],
            f"{row['trades']}",
            f"{row['winrate']:.1%}" if row["trades"] else "-",
            f"{row['profit_total']:+.2%}",
            f"{_drawdown(outcome, row):.2%}",
            f"{seconds:.0f} s",
            f"{steps / seconds:,.0f}" if seconds else "-",
        )
    return table


def _drawdown(outcome: BacktestOutcome, row: dict[str, Any]) -> float:
    if row["key"] == "TOTAL":
        return float(outcome.strategy["max_drawdown_account"])
    return float(row["max_drawdown_account"])


def _exit_table(outcome: BacktestOutcome) -> Table:
    table = Table(title="Exits by reason")
    table.add_column("reason")
    for heading in ("trades", "win rate", "average profit", "profit"):
        table.add_column(heading, justify="right")
    for row in outcome.strategy["exit_reason_summary"]:
        table.add_row(
            "all" if row["key"] == "TOTAL" else row["key"],
            f"{row['trades']}",
            f"{row['winrate']:.1%}" if row["trades"] else "-",
            f"{row['profit_mean']:+.2%}",
            f"{row['profit_total']:+.2%}",
        )
    return table
