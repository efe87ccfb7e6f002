"""``mtf-scalper evaluate``: walk-forward over all pairs and seeds, statistics, and a verdict."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from mtf_scalper.engines.tasks import Ended
from mtf_scalper.evaluation.importance import pooled_importance
from mtf_scalper.evaluation.judge import Judged, NotJudged, write_judged
from mtf_scalper.evaluation.judge_into import check_row
from mtf_scalper.evaluation.left_out_pairs import LEFT_OUT, left_out_note
from mtf_scalper.evaluation.peer_words import beside_peers
from mtf_scalper.evaluation.peers import check_installed
from mtf_scalper.evaluation.variants import earlier_variants
from mtf_scalper.market.stored import RecordedPair
from mtf_scalper.paths import user_data, written_whole
from mtf_scalper.progress import TaskBar, only_errors
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
from mtf_scalper.walk_forward.learned_window import LearnedWindow
from mtf_scalper.walk_forward.orders import (
    TASKS,
    Result,
    Results,
    WindowLearner,
    WindowOrder,
    learn_orders,
)
from mtf_scalper.walk_forward.peer_walks import check_held_back, walk_peers
from mtf_scalper.walk_forward.sources import check_some_left, goes_on_without, load_pairs
from mtf_scalper.walk_forward.task_log import TaskLog, check_same_plan
from mtf_scalper.walk_forward.walk import Walk, evaluate_walks, walk
from mtf_scalper.walk_forward.walk_record import KIND, tested_candles, write_pair
from mtf_scalper.walk_forward.windows import Window


def run_evaluation(
    plan: EvaluationPlan, project: Path, console: Console, resumed: Run | None = None
) -> int:
    """Evaluate, print the verdict and tables, and leave a run record.

    Parameters
    ----------
    plan : EvaluationPlan
    project : Path
    console : Console
    resumed : Run, optional
        Of the same plan, which was cut off: trainings that it has finished are not done again.

    Returns
    -------
    int
        0, or 1 where trades of the real program differ; nothing is judged then.

    Raises
    ------
    MtfScalperError
        If candles are missing, a training or the program fails where nothing may be left out, or
        the run to resume is of another plan, has ended well or is in use.
    """
    return recorded_evaluation(plan, project, console, resumed)[1]


def recorded_evaluation(
    plan: EvaluationPlan, project: Path, console: Console, resumed: Run | None = None
) -> tuple[Path, int]:
    """Do what ``run_evaluation`` does; return the folder of the record besides.

    Raises
    ------
    MtfScalperError
        As ``run_evaluation`` does.
    """
    windows = plan.windows()
    if plan.with_peers:
        check_installed()
    recordeds, left_out = load_pairs(plan.source, plan.recipe.pairs, windows, plan.settings)
    if plan.with_peers:
        check_held_back(recordeds, windows, plan.settings)
    digests = {p: candle_digest(tested_candles(each, windows)) for p, each in recordeds.items()}
    root = user_data(project) / "runs"
    facts: dict[str, Any] = {
        "settings": plan.facts(),
        "pairs": list(recordeds),
        "seeds": plan.seeds,
        "timerange": plan.timerange,
        "data_digest": digests,
        "options": {"freqtrade": plan.with_program, "peers": plan.with_peers},
    }
    with ExitStack() as stack:
        if resumed is None:
            record = RunRecord.begin(
                root, KIND, datadir=plan.datadir, source=plan.source.name, **facts
            )
            results = stack.enter_context(Results(record.folder))
        else:
            check_same_plan(resumed, KIND, facts)
            results = stack.enter_context(Results(resumed.folder))
            record = RunRecord.resume(resumed.folder, keep=TASKS)
        sampler = ProcessSampler(os.getpid(), on_sample=record.append_sample, keeps=False)
        for entered in (record, sampler, only_errors("mtf_scalper")):
            stack.enter_context(entered)
        _note_windows(record, recordeds, windows)
        for pair, reason in left_out.items():
            record.events().write(LEFT_OUT, pair=pair, reason=reason)
        walks, learned = _learned(plan, windows, recordeds, record, results, left_out, console)
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
    results.clear()
    console.print(f"record  {shown(record.folder, project)}", soft_wrap=True)
    console.print(f"page    {page_or_reason(record.folder, project)}", soft_wrap=True)
    return record.folder, int(any(agreement.difference for agreement in agreements))


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
    results: Results,
    left_out: dict[str, str],
    console: Console,
) -> tuple[dict[str, list[Walk]], list[LearnedWindow]]:
    """Learn every window of every pair and seed, and let them trade.

    A pair of which a window cannot be learned is added to ``left_out``.
    """
    settings = plan.settings
    kept_in: Path | None = None
    if plan.recipe.made_by:
        from mtf_scalper.freqai.frozen import compared_facts

        kept_in = record.folder / KEPT
        keep_compared(kept_in, compared_facts(settings, plan.recipe.made_by))
    orders = [
        WindowOrder(
            pair,
            window,
            seed,
            settings,
            with_history=not plan.with_program,
            # What the last policy of each pair looks at stands for the others.
            n_shuffles=5 if window is windows[-1] and seed == plan.seeds[0] else 0,
            with_peers=plan.with_peers and seed == plan.seeds[0],
            keeps_policy=kept_in is not None and window is windows[-1],
            timeframes=plan.recipe.timeframes,
        )
        for pair in recordeds
        for seed in plan.seeds
        for window in windows
    ]
    found: dict[str, LearnedWindow] = {}
    with TaskBar("learning windows", len(orders), console) as bar, plan.engine() as engine:
        log = TaskLog(record, engine, bar)

        def keep(order: WindowOrder, result: Result, ended: Ended | None) -> None:
            log.done(order, result.events, ended)
            found[order.name] = result.learned
            if kept_in is not None:
                for name, content in result.files.items():
                    with written_whole(kept_in / name) as part:
                        part.write_bytes(content)

        learner = WindowLearner(engine, recordeds)
        failed = learn_orders(learner, orders, results, on_done=keep, on_failed=log.failed)
    for order, error in failed:
        if not goes_on_without(error, settings):
            raise error
        if order.pair not in left_out:
            left_out[order.pair] = str(error)
            record.events().write(LEFT_OUT, pair=order.pair, reason=str(error))
    pairs = [pair for pair in recordeds if pair not in left_out]
    check_some_left(pairs, left_out)
    learned = [found[each.name] for each in orders if each.pair not in left_out]
    walks: dict[str, list[Walk]] = {pair: [] for pair in pairs}
    for start in range(0, len(learned), len(windows)):
        mine = learned[start : start + len(windows)]
        pair = mine[0].pair
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
