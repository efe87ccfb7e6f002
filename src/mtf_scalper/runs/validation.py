"""The validation: a short run of the real program, watched from outside, and what it proves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as RichProgress
from rich.table import Table

from mtf_scalper._version import __version__
from mtf_scalper.checks.checks import judge
from mtf_scalper.checks.exact_checks import judge_exact
from mtf_scalper.checks.facts import (
    RunFacts,
    read_checkpoints,
    read_freqai_config,
    read_predictions,
    read_used_settings,
)
from mtf_scalper.checks.speed import SpeedComparison, compare_speed
from mtf_scalper.errors import MtfScalperError
from mtf_scalper.paths import write_text
from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.progress import EventBars, progress_columns
from mtf_scalper.records.check import Check, Recipe
from mtf_scalper.records.events import Progress, detail
from mtf_scalper.records.reader import Run
from mtf_scalper.records.sampler import ProcessSampler, write_csv
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.program import BacktestOutcome, BacktestRun, RunError, run_backtest
from mtf_scalper.runs.project import find_project, page_or_reason, shown
from mtf_scalper.runs.run_record import begin_record, judgment_in
from mtf_scalper.runs.validation_plan import ValidationPlan, plan_validation, training_market

_T = TypeVar("_T")


def run_validation(full: bool, output: Path | None, datadir: Path | None) -> int:
    """Run the validation, print its checks, and leave a record of each of its two backtests.

    Parameters
    ----------
    full : bool
        Train all cycles of the recipe instead of a few.
    output : Path, optional
        Folder that gets a folder with samples (CSV) and verdicts (JSON) of each backtest; they
        lie in the backtests' records by default.
    datadir : Path, optional
        freqtrade data directory. By default the one of the configuration's exchange if its
        candles suffice, else a synthetic market.

    Returns
    -------
    int
        0 if every check was passed, else 1.

    Raises
    ------
    MtfScalperError
        If there is nothing to run on.
    """
    console = Console()
    plan = plan_validation(find_project(), full=full, datadir=datadir)
    project = plan.request.project
    started = time.monotonic()
    console.print(
        f"freqtrade backtesting {plan.request.timerange} on {shown(plan.request.datadir, project)}"
    )
    console.print(
        f"training {plan.recipe.train_cycles} cycles from rollouts, watching the whole process tree"
    )
    done = [_validate(plan, "validation", judge, output, console)]
    if plan.exact is not None:
        console.print("the same with exact advantages")
        done.append(_validate(plan.exact, "validation-exact", judge_exact, output, console))
    seconds = time.monotonic() - started
    checks = [check for found, *_ in done for check in found]
    _print_checks(console, checks)
    passed = sum(check.has_passed for check in checks)
    console.print(f"{passed} of {len(checks)} checks passed in {seconds:.0f} s")
    for _, folder, page in done:
        console.print(f"record, samples, verdicts  {shown(folder, project)}", soft_wrap=True)
        console.print(f"page to look at            {page}", soft_wrap=True)
    return int(passed < len(checks))


def _validate(
    plan: ValidationPlan,
    kind: str,
    judge_facts: Callable[[RunFacts, Recipe], tuple[Check, ...]],
    output: Path | None,
    console: Console,
) -> tuple[tuple[Check, ...], Path, str]:
    """Run and judge one backtest; return its checks, and where samples, verdicts and page lie."""
    started = time.monotonic()
    record, request = begin_record(plan.request, kind)
    plan = replace(plan, request=request)
    folder = record.folder if output is None else output.resolve() / record.run_id
    with record:
        facts, outcome = observe(plan, console, record, folder / "samples.csv")
        checks = judge_facts(facts, plan.recipe)
        record.write_json("checks", [check.as_dict() for check in checks])
        seconds = time.monotonic() - started
        verdicts = write_verdicts(plan, checks, seconds, folder)
        passed = sum(check.has_passed for check in checks)
        sentence = f"{passed} of {len(checks)} checks passed"
        results: dict[str, Path] = {"verdicts": verdicts, "log": request.log}
        if outcome is not None:
            verdict, _, left_out = judgment_in(Run.open(record.folder))
            sentence += f"; {verdict}"
            for line in left_out:
                console.print(line, markup=False, soft_wrap=True)
            results["freqtrade"] = outcome.results
        record.finish(sentence, {**results, "models": request.models})
    return checks, folder, page_or_reason(record.folder, request.project)


def observe(
    plan: ValidationPlan,
    console: Console,
    record: RunRecord | None = None,
    samples: Path | None = None,
) -> tuple[RunFacts, BacktestOutcome | None]:
    """Run the program, sample its processes meanwhile, and read what it left behind.

    Parameters
    ----------
    plan : ValidationPlan
    console : Console
        For bars.
    record : RunRecord, optional
        Of the backtest.
    samples : Path, optional
        CSV file for the samples; in the request's folder by default.

    Returns
    -------
    facts : RunFacts
    outcome : BacktestOutcome or None
        None where the program failed.
    """
    request = plan.request
    sampler: ProcessSampler | None = None
    exit_error: str | None = None
    outcome: BacktestOutcome | None = None
    events: list[dict[str, Any]] = []
    with ExitStack() as stack:
        bars = stack.enter_context(EventBars(console))

        def keep_samples() -> None:
            if sampler is not None:
                write_csv(samples or request.folder / "samples.csv", sampler.samples)

        def on_poll(run: BacktestRun) -> None:
            nonlocal sampler, events
            if sampler is None:
                sampler = stack.enter_context(
                    ProcessSampler(
                        run.process.pid,
                        on_sample=None if record is None else record.append_sample,
                    )
                )
            events = run.events()
            bars.show(events)

        stack.callback(keep_samples)  # also of a run that is interrupted
        try:
            outcome = run_backtest(request, on_poll, record)
        except RunError as error:
            exit_error = str(error)
    survivors = None if sampler is None else sampler.survivors()
    missing: dict[str, str] = {}
    models = request.models
    # The speed comes first: torch takes the number of its threads only before it has done any work.
    compared = None
    if exit_error is None:
        compared = _tried("speed", lambda: _speed(plan, console), missing)
    facts = RunFacts(
        exit_error=exit_error,
        samples=() if sampler is None else tuple(sampler.samples),
        events=tuple(events),
        checkpoints=_tried("checkpoints", lambda: read_checkpoints(models), missing) or (),
        predictions=_tried("predictions", lambda: read_predictions(models), missing) or {},
        freqai_config=_tried("freqai_config", lambda: read_freqai_config(models), missing) or {},
        survivors=survivors,
        speed=compared,
        cpus=available_cpus(),
        missing=missing,
    )
    return facts, outcome


def write_verdicts(
    plan: ValidationPlan, checks: tuple[Check, ...], seconds: float, folder: Path
) -> Path:
    """Write the checks as JSON into ``folder``; the file appears whole or not at all."""
    request = plan.request
    content = {
        "passed": all(check.has_passed for check in checks),
        "version": __version__,
        "datadir": shown(request.datadir, request.project),
        "timerange": request.timerange,
        "recipe": asdict(plan.recipe),
        "cpus": available_cpus(),
        "seconds": round(seconds, 1),
        "checks": [check.as_dict() for check in checks],
    }
    path = folder / "verdicts.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1) + "\n")
    return path


def _speed(plan: ValidationPlan, console: Console) -> SpeedComparison:
    """Train with the settings of the run and those before, one after the other."""
    settings = read_used_settings(plan.request.models).changed(progress_bar=False)
    market = training_market(plan.request.datadir, plan.pair, plan.until)
    with RichProgress(*progress_columns(), console=console) as bars:
        tasks = {
            name: bars.add_task(f"speed {name}", total=None, detail="waiting")
            for name in ("before", "after")
        }

        def report(name: str, progress: Progress) -> None:
            bars.update(
                tasks[name],
                total=progress.total_steps,
                completed=progress.steps,
                detail=detail(progress),
            )

        return compare_speed(market, settings, report, before=dict(plan.before))


def _tried(name: str, read: Callable[[], _T], missing: dict[str, str]) -> _T | None:
    """Return what ``read`` returns; what keeps it from that becomes a fact of its own."""
    try:
        return read()
    except MtfScalperError as error:
        missing[name] = str(error)
    except Exception as error:  # a damaged file raises whatever its reader met
        missing[name] = f"{type(error).__name__}: {error}"
    return None


def _print_checks(console: Console, checks: Sequence[Check]) -> None:
    table = Table(title="Checks")
    for heading in ("check", "measured", "expected", "verdict"):
        table.add_column(heading)
    for check in checks:
        color = "green" if check.has_passed else "bold red"
        texts = (escape(text) for text in (check.name, check.measured, check.expected))
        table.add_row(*texts, f"[{color}]{check.verdict}[/{color}]")
    console.print(table)
    for check in checks:
        if not check.has_passed:
            console.print(f"failed: {check.name}: {check.reason}", markup=False)
