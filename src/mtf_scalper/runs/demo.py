"""The demo: a synthetic market, the real freqtrade program, and a table of what came out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.market.datadir import ensure_datadir
from mtf_scalper.market.synthetic import SyntheticSpec
from mtf_scalper.progress import EventBars
from mtf_scalper.runs.program import BacktestOutcome, BacktestRequest, run_backtest

__all__ = ["DEMO_TIMERANGE", "SYNTHETIC_PERIOD", "demo_market", "find_project", "run_demo"]

DEMO_TIMERANGE = "20241001-20241015"
"""Two windows of seven days for each pair."""
SYNTHETIC_PERIOD = ("2024-08-01", "2024-11-02")
"""Enough before October 2024 for 30 days of training and the indicators' warm-up."""
# The reference recipe but for its length: 3 passes over the data instead of 30, in rollouts a
# quarter as long so that there are several updates.
_OVERRIDES = {"freqai": {"rl_config": {"train_cycles": 3, "n_steps": 1024, "progress_bar": False}}}


def find_project() -> Path:
    """Return the project's root, the current folder.

    Raises
    ------
    MtfScalperError
        If it holds no ``configs/config_rl_hybrid.json``.
    """
    project = Path.cwd()
    if not (project / "configs" / "config_rl_hybrid.json").is_file():
        raise MtfScalperError(
            f"{project} holds no configs/config_rl_hybrid.json; run this from the project's root"
        )
    return project


def demo_market(project: Path) -> Path:
    """Return the data directory of the synthetic market, written on first use."""
    datadir = project / "user_data" / "data" / "synthetic"
    ensure_datadir(SyntheticSpec(), datadir, *SYNTHETIC_PERIOD)
    return datadir


def run_demo(datadir: Path | None = None, timerange: str | None = None) -> int:
    """Train and backtest through the real program and print a table.

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
    console.print(f"freqtrade backtesting {request.timerange} on {_short(market, project)}")
    console.print("training one agent per pair and week; the environments run on all cores")
    with EventBars(console) as bars:
        outcome = run_backtest(request, lambda run: bars.show(run.events()))
    console.print(_result_table(outcome))
    console.print(_exit_table(outcome))
    console.print(f"whole run       {outcome.seconds:.0f} s")
    console.print(f"trades, results {_short(outcome.results, project)}")
    console.print(f"freqtrade's log {_short(request.log, project)}")
    console.print(f"models, events  {_short(request.models, project)}")
    return 0


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


def _short(path: Path, project: Path) -> str:
    """Return the path as seen from the project."""
    absolute = path.resolve()
    inside = absolute.is_relative_to(project)
    return str(absolute.relative_to(project) if inside else absolute)
