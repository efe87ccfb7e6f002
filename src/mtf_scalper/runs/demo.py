"""The demo: a synthetic market, the real freqtrade program, and a table of what came out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mtf_scalper.evaluation.judge_into import IS_POLICY
from mtf_scalper.paths import user_data
from mtf_scalper.progress import EventBars
from mtf_scalper.records.reader import Run
from mtf_scalper.records.sampler import ProcessSampler
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.program import BacktestOutcome, BacktestRequest, BacktestRun, run_backtest
from mtf_scalper.runs.project import demo_market, find_project, page_or_reason, shown
from mtf_scalper.runs.run_record import begin_record, judgment_in

DEMO_TIMERANGE = "20241001-20241101"
"""Five windows of up to seven days for each pair."""
_OVERRIDES = {"freqai": {"rl_config": {"progress_bar": False}}}


_SAMPLE_SECONDS = 1.0


def run_demo(datadir: Path | None = None, timerange: str | None = None) -> int:
    """Train and backtest through the real program, and print tables of what came of it.

    Parameters
    ----------
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
    record, request = begin_record(
        BacktestRequest(
            project=project,
            folder=user_data(project) / "runs" / "demo",
            datadir=market.resolve(),
            timerange=timerange or DEMO_TIMERANGE,
            overrides=_OVERRIDES,
        ),
        "demo",
    )
    with record:
        console.print(f"freqtrade backtesting {request.timerange} on {shown(market, project)}")
        console.print("training one agent per pair and week")
        outcome = _watched(request, record, console)
        console.print(_result_table(outcome))
        console.print(_exit_table(outcome))
        run = Run.open(record.folder)
        verdict, checks, left_out = judgment_in(run)
        record.write_json("checks", checks)
        record.finish(
            verdict,
            {"freqtrade": outcome.results, "log": request.log, "models": request.models},
        )
    figures = run.figures()
    if figures:
        console.print(_verdict_table(figures))
    for line in (*_verdict_lines(checks), *left_out, f"verdict         {verdict}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"whole run       {time.monotonic() - started:.0f} s")
    for what, path in (
        ("record of it   ", record.folder),
        ("trades, results", outcome.results),
        ("freqtrade's log", request.log),
        ("models, events ", request.models),
    ):
        console.print(f"{what} {shown(path, project)}", soft_wrap=True)
    console.print(f"page to look at {page_or_reason(record.folder, project)}", soft_wrap=True)
    return 0


def _watched(request: BacktestRequest, record: RunRecord, console: Console) -> BacktestOutcome:
    """Run the program, with bars on the console and samples of its processes in the record."""
    with ExitStack() as stack:
        bars = stack.enter_context(EventBars(console))
        sampled: list[ProcessSampler] = []

        def on_poll(run: BacktestRun) -> None:
            if not sampled:
                sampler = ProcessSampler(
                    run.process.pid,
                    interval_seconds=_SAMPLE_SECONDS,
                    on_sample=record.append_sample,
                    keeps=False,
                )
                sampled.append(stack.enter_context(sampler))
            bars.show(run.events())

        return run_backtest(request, on_poll, record)


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


def _verdict_table(figures: Sequence[Mapping[str, Any]]) -> Table:
    """Return what all trades of each pair were worth, those of all pairs together last."""
    table = Table(title="What the agent's trades were worth: log returns after fees")
    table.add_column("pair", no_wrap=True)
    for heading in ("trades", "return", "of best", "hold", "classic", "random", "beaten"):
        table.add_column(heading, justify="right")
    of_all, *of_pairs = figures
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


def _verdict_lines(checks: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield what the table cannot say: is it a policy at all, and what its columns mean."""
    is_judged = False
    for check in checks:
        pair, _, name = check["name"].rpartition(": ")
        why = check["reason"]
        if name == IS_POLICY:
            is_judged = True
            yield f"{pair}: {f'DEGENERATE, {why}' if why else check['measured']}"
        elif why:
            yield f"{pair}: the replay differs from the backtest: {why}"
    if is_judged:
        yield "of best  share of what the best trades in hindsight earn under the same rules"
        yield "hold     buy and hold; classic: the same entries, all exits left to the rules"
        yield "random   the same entry rule, exits at random times: median of 100 draws, and"
        yield "         how many of them are beaten, ties counted half"


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
