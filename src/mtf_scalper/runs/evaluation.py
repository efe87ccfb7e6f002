"""``mtf-scalper evaluate``: walk-forward over all pairs and seeds, statistics, and a verdict."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mtf_scalper.evaluation.importance import pooled_importance
from mtf_scalper.evaluation.judge import Judged, NotJudged, write_judged
from mtf_scalper.evaluation.judge_into import check_row
from mtf_scalper.evaluation.left_out_pairs import LEFT_OUT, left_out_note
from mtf_scalper.evaluation.peer_words import beside_peers
from mtf_scalper.evaluation.peers import check_installed
from mtf_scalper.evaluation.variants import earlier_variants
from mtf_scalper.market.stored import RecordedPair
from mtf_scalper.paths import user_data
from mtf_scalper.records.files import EVENTS
from mtf_scalper.records.manifest import candle_digest
from mtf_scalper.records.reader import Run
from mtf_scalper.records.sampler import ProcessSampler
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.agreement import (
    Agreement,
    compare_trades,
    not_judged,
    program_request,
)
from mtf_scalper.runs.evaluation_plan import EvaluationPlan
from mtf_scalper.runs.evaluation_tables import evaluation_lines, evaluation_tables
from mtf_scalper.runs.program import run_backtest
from mtf_scalper.runs.project import page_or_reason, shown
from mtf_scalper.walk_forward.kept_policies import KEPT, keep_compared
from mtf_scalper.walk_forward.learned_window import LearnedWindow, WindowTask, window_task
from mtf_scalper.walk_forward.peer_walks import check_held_back, walk_peers
from mtf_scalper.walk_forward.sources import load_pairs
from mtf_scalper.walk_forward.walk import Walk, evaluate_walks, learn_windows, walk
from mtf_scalper.walk_forward.walk_record import KIND, tested_candles, write_pair
from mtf_scalper.walk_forward.windows import Window


def run_evaluation(plan: EvaluationPlan, project: Path, console: Console) -> int:
    """Evaluate, print the verdict and tables, and leave a run record.

    Returns
    -------
    int
        0, or 1 where trades of the real program differ; nothing is judged then.

    Raises
    ------
    MtfScalperError
        If candles are missing, or a training or the program fails.
    """
    return recorded_evaluation(plan, project, console)[1]


def recorded_evaluation(plan: EvaluationPlan, project: Path, console: Console) -> tuple[Path, int]:
    """Do what ``run_evaluation`` does; return the folder of the record besides.

    Raises
    ------
    MtfScalperError
        If candles are missing, or a training or the program fails.
    """
    windows = plan.windows()
    if plan.with_peers:
        check_installed()
    recordeds, left_out = load_pairs(plan.source, plan.recipe.pairs, windows, plan.settings)
    if plan.with_peers:
        check_held_back(recordeds, windows, plan.settings)
    digests = {p: candle_digest(tested_candles(each, windows)) for p, each in recordeds.items()}
    root = user_data(project) / "runs"
    record = RunRecord.begin(
        root,
        KIND,
        settings=plan.facts(),
        pairs=list(recordeds),
        seeds=plan.seeds,
        timerange=plan.timerange,
        datadir=plan.datadir,
        data_digest=digests,
        source=plan.source.name,
    )
    sampler = ProcessSampler(os.getpid(), on_sample=record.append_sample, keeps=False)
    with record, sampler, quiet_trainings():
        _note_windows(record, recordeds, windows)
        for pair, reason in left_out.items():
            record.events().write(LEFT_OUT, pair=pair, reason=reason)
        walks, learned = _learned(plan, windows, recordeds, record, console)
        for pair, each in walks.items():
            write_pair(record, recordeds[pair], each)
        agreements = _agreements(plan, project, record, walks, console)
        with record.phase("evaluation"):
            run = Run.open(record.folder)
            evaluated = not_judged(agreements) or evaluate_walks(
                walks,
                n_draws=plan.n_draws,
                others=lambda judged: earlier_variants(run, judged, root),
                peers={pair: walk_peers(first) for pair, (first, *_) in walks.items()},
            )
            _write(record, evaluated, learned)
        verdict = f"{evaluated.sentence}{left_out_note(left_out, plan.recipe.pairs)}"
        console.print(verdict, markup=False, highlight=False, soft_wrap=True, style="bold")
        if isinstance(evaluated, Judged):
            for table in evaluation_tables(evaluated.figures, evaluated.edge, windows):
                console.print(table)
            compared = beside_peers(evaluated.figures[0])
            if compared:
                console.print(compared, markup=False, highlight=False, soft_wrap=True)
        lines = [f"left out: {reason}" for reason in left_out.values()]
        lines += evaluation_lines(plan.source.name, plan.seeds, plan.embargo, learned)
        for line in (*lines, *(agreement.line for agreement in agreements)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        record.finish(verdict)
    console.print(f"record  {shown(record.folder, project)}", soft_wrap=True)
    console.print(f"page    {page_or_reason(record.folder, project)}", soft_wrap=True)
    return record.folder, int(any(agreement.difference for agreement in agreements))


@contextmanager
def quiet_trainings() -> Iterator[None]:
    """Keep every window's training from telling what the tables tell of all of them."""
    package = logging.getLogger("mtf_scalper")
    level = package.level
    package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(level)


@contextmanager
def learning_bar(console: Console, title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar of trainings; yield what moves it on by one."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # Into a file or a pipe nothing but the verdict and its tables is written.
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda: progress.advance(bar)


def _note_windows(record: RunRecord, pairs: Iterable[str], windows: Sequence[Window]) -> None:
    for pair in pairs:
        for each in windows:
            record.events(pair=pair, window=each.name).write(
                "window",
                train_from=each.train_from.isoformat(),
                train_to=each.train_to.isoformat(),
                test_from=each.test_from.isoformat(),
                test_to=each.test_to.isoformat(),
            )


def _learned(
    plan: EvaluationPlan,
    windows: Sequence[Window],
    recordeds: Mapping[str, RecordedPair],
    record: RunRecord,
    console: Console,
) -> tuple[dict[str, list[Walk]], list[LearnedWindow]]:
    """Learn every window of every pair and seed, and let them trade."""
    settings = plan.settings
    events = record.folder / EVENTS
    jobs = [(pair, seed) for pair in recordeds for seed in plan.seeds]
    kept_in: Path | None = None
    if plan.recipe.made_by:
        from mtf_scalper.freqai.frozen import compared_facts

        kept_in = record.folder / KEPT
        keep_compared(kept_in, compared_facts(settings, plan.recipe.made_by))

    def tasks() -> Iterator[WindowTask]:
        for pair, seed in jobs:
            for window in windows:
                task = window_task(
                    recordeds[pair],
                    window,
                    settings,
                    seed=seed,
                    with_history=not plan.with_program,
                    events=events,
                )
                # What the last policy of each pair looks at stands for the others.
                is_last = window is windows[-1] and seed == plan.seeds[0]
                yield replace(
                    task,
                    n_shuffles=5 if is_last else 0,
                    with_peers=plan.with_peers and seed == plan.seeds[0],
                    keep_in=kept_in if window is windows[-1] else None,
                    timeframes=plan.recipe.timeframes,
                )

    total = len(jobs) * len(windows)
    with learning_bar(console, "learning windows", total) as advance:
        learned = learn_windows(tasks(), total, jobs=plan.jobs, on_done=lambda _: advance())
    walks: dict[str, list[Walk]] = {pair: [] for pair in recordeds}
    for number, (pair, _seed) in enumerate(jobs):
        mine = learned[number * len(windows) : (number + 1) * len(windows)]
        walks[pair].append(walk(recordeds[pair], windows, mine, settings))
    return walks, learned


def _write(record: RunRecord, judged: Judged | NotJudged, learned: Sequence[LearnedWindow]) -> None:
    if isinstance(judged, Judged):
        write_judged(record, judged)
    found = [each.importance for each in learned if each.importance]
    if found and len({len(each) for each in found}) == 1:
        pooled = pooled_importance(found)
        record.write_json("importance", {each.feature: each.as_dict() for each in pooled})


def _agreements(
    plan: EvaluationPlan,
    project: Path,
    record: RunRecord,
    walks: Mapping[str, Sequence[Walk]],
    console: Console,
) -> list[Agreement]:
    """Backtest the same windows with the real program, one seed after the other, and compare."""
    if not plan.with_program or plan.datadir is None:
        return []
    found = []
    for number, seed in enumerate(plan.seeds):
        request = program_request(
            plan,
            project,
            user_data(project) / "runs" / record.run_id / f"freqtrade-seed-{seed}",
            tuple(walks),
            seed=seed,
            identifier=f"{record.run_id}-seed-{seed}",
        )
        with console.status(f"freqtrade backtesting with seed {seed}"), record.phase("backtest"):
            outcome = run_backtest(request)
        trades = outcome.strategy["trades"]
        found += [compare_trades(each[number], trades) for each in walks.values()]
    record.write_json(
        "checks",
        [
            check_row(
                f"trades of freqtrade, {each.pair}, seed {each.seed}",
                f"{each.n_equal} of {each.n_program} agree",
                "all, and no others",
                each.difference,
            )
            for each in found
        ],
    )
    return found
