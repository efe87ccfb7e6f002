"""``mtf-scalper tune``: a search over settings whose last days stay locked away until the end."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from mtf_scalper.errors import MtfScalperError, SettingsError
from mtf_scalper.evaluation.judge import write_daily
from mtf_scalper.evaluation.left_out_pairs import LEFT_OUT
from mtf_scalper.evaluation.variants import TRIALS
from mtf_scalper.freqai.one_program import hold
from mtf_scalper.kept_files import write_json
from mtf_scalper.market.stored import RecordedPair
from mtf_scalper.paths import user_data
from mtf_scalper.progress import TaskBar, only_errors
from mtf_scalper.records.manifest import candle_digest
from mtf_scalper.records.reader import Run
from mtf_scalper.records.sampler import ProcessSampler
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.evaluation import recorded_evaluation
from mtf_scalper.runs.project import page_or_reason, shown
from mtf_scalper.runs.tuning_plan import TuningPlan
from mtf_scalper.runs.tuning_tables import final_table, search_sentence, search_tables
from mtf_scalper.settings import Settings
from mtf_scalper.tuning.findings import is_found, searched, sentence
from mtf_scalper.tuning.study import Told, TuningStudy, opened_study
from mtf_scalper.tuning.trials import Arena, run_trials
from mtf_scalper.walk_forward.learned_window import LearnedWindow
from mtf_scalper.walk_forward.orders import WindowLearner, WindowOrder, unpacked
from mtf_scalper.walk_forward.sources import load_pairs
from mtf_scalper.walk_forward.task_log import TaskLog
from mtf_scalper.walk_forward.walk_record import KIND as EVALUATION
from mtf_scalper.walk_forward.walk_record import tested_candles

KIND: Final = "tune"
BEST: Final = "best.json"
"""The configuration of the best trial, in the study's folder."""
_Orders = Sequence[tuple[int, WindowOrder]]
_SAMPLE_SECONDS: Final = 10.0
"""A search takes hours, and each sample some milliseconds of a core."""


@dataclass(frozen=True, eq=False)
class _Search:
    """A search with its candles and its open study."""

    plan: TuningPlan
    project: Path
    study: TuningStudy
    recordeds: Mapping[str, RecordedPair]
    left_out: Mapping[str, str]
    digests: Mapping[str, str]

    @property
    def arena(self) -> Arena:
        """What trials are learned and traded on."""
        search = self.plan.search
        return Arena(self.recordeds, search.windows(), search.seeds, search.n_draws)


def run_search(
    plan: TuningPlan, project: Path, console: Console, output: Path | None = None
) -> int:
    """Try settings until the study has its trials, and write the best as a configuration.

    The days that are locked away are not looked at.

    Parameters
    ----------
    plan : TuningPlan
    project : Path
    console : Console
    output : Path, optional
        File of the configuration; ``BEST`` in the study's folder by default.

    Returns
    -------
    int
        0.

    Raises
    ------
    MtfScalperError
        If candles are missing, the study is in use, was made with another plan or has been looked
        at with ``--final``, or no trial could be traded.
    """
    with _opened(plan, project) as search:
        final = search.study.final
        if final is not None:
            raise SettingsError(
                f"--study: the locked part of {plan.name!r} was looked at on {final['looked_at']}, "
                "and what is tried after that is no search any more; --final shows what it said; a "
                "new study needs candles that nobody has looked at"
            )
        with _record(search) as record:
            _try_all(search, record, console)
            best = _best(search)
            path = output or plan.folder(project) / BEST
            write_json(path, plan.space.configuration(best.values, plan.name))
            _write_study(search, record)
            told = search.study.told()
            verdict = search_sentence(told, best)
            _print(console, [verdict], style="bold")
            for table in search_tables(told, best, plan.space.base_values()):
                console.print(table)
            record.finish(verdict, {"configuration": path})
        _print(console, [*_about(search), f"best    {shown(path, project)}"])
        _print(console, _where(record.folder, project))
    return 0


def run_final(plan: TuningPlan, project: Path, console: Console) -> int:
    """Look at the locked days once, with the best trial; later calls tell the same again.

    Returns
    -------
    int
        0, whatever was found.

    Raises
    ------
    MtfScalperError
        As ``run_search``, and if the study has no trial that was traded to the end.
    """
    with _opened(plan, project) as search:
        final = search.study.final
        folder = None
        if final is None:
            best = _best(search)
            with _record(search) as record:
                final = _looked_at(search, best, console)
                search.study.lock_away(final)
                _write_study(search, record)
                record.finish(final["sentence"])
            folder = record.folder
        _print(console, [final["sentence"]], style="bold")
        console.print(final_table(final))
        again = "" if folder else "; what they said is told again"
        _print(console, [f"the locked days were looked at on {final['looked_at']}{again}"])
        _print(console, [*_about(search), f"locked  record {final['run']}"])
        if folder is not None:
            _print(console, _where(folder, project))
    return 0


@contextmanager
def _opened(plan: TuningPlan, project: Path) -> Iterator[_Search]:
    """Open the study, which nobody else has meanwhile, and load all candles."""
    folder = plan.folder(project)
    holder = _Holder()
    try:
        hold(folder, holder, "--study")
        windows = [*plan.search.windows(), *plan.locked.windows()]
        recordeds, left_out = load_pairs(
            plan.search.source, plan.search.recipe.pairs, windows, plan.search.settings
        )
        digests = {pair: candle_digest(each.candles) for pair, each in recordeds.items()}
        url = plan.storage or f"sqlite:///{(folder / 'study.db').resolve().as_posix()}"
        with opened_study(url, plan.name, plan.facts(digests), plan.space, plan.seed) as study:
            yield _Search(plan, project, study, recordeds, left_out, digests)
    finally:
        del holder  # a caught error would keep it, and with it the lock


class _Holder:
    """Whoever holds the study's folder, for as long as it lives."""


@contextmanager
def _record(search: _Search) -> Iterator[RunRecord]:
    plan = search.plan
    record = RunRecord.begin(
        user_data(search.project) / "runs",
        KIND,
        settings=plan.facts(search.digests),
        pairs=list(search.recordeds),
        seeds=plan.search.seeds,
        timerange=f"{plan.search.timerange[:8]}-{plan.locked.timerange[9:]}",
        datadir=plan.search.datadir,
        data_digest=search.digests,
        source=plan.search.source.name,
        study=plan.name,
    )
    sampler = ProcessSampler(
        os.getpid(),
        interval_seconds=_SAMPLE_SECONDS,
        on_sample=record.append_sample,
        keeps=False,
    )
    with record, sampler, only_errors("mtf_scalper"):
        for pair, reason in search.left_out.items():
            record.events().write(LEFT_OUT, pair=pair, reason=reason)
        yield record


def _try_all(search: _Search, record: RunRecord, console: Console) -> None:
    """Learn generation after generation until the study has its trials."""
    plan, study, arena = search.plan, search.study, search.arena
    with plan.search.engine() as engine:
        learner = WindowLearner(engine, search.recordeds)
        while asked := study.ask(plan.n_trials):
            settings = {each.number: _settings(plan, each.values) for each in asked}
            title = f"trials {asked[0].number} to {asked[-1].number} of {plan.n_trials}"

            def learn(orders: _Orders, title: str = title) -> list[LearnedWindow | MtfScalperError]:
                with TaskBar(title, len(orders), console) as bar:
                    return _learned(learner, orders, TaskLog(record, engine, bar))

            outcomes = run_trials(settings, arena, learn, study.is_poor)
            for told in study.tell(outcomes):
                _record_trial(search, record, told, arena)


def _learned(
    learner: WindowLearner, orders: _Orders, log: TaskLog
) -> list[LearnedWindow | MtfScalperError]:
    """Learn orders of trials, and return what came of each, or why nothing did."""
    found: dict[int, LearnedWindow | MtfScalperError] = {}
    for ended in learner.run([order for _, order in orders]):
        trial, order = orders[ended.number]
        if ended.error is None:
            found[ended.number] = unpacked(ended.value).learned
            log.done(order, "", replace(ended, value=None), trial=trial)
        else:
            found[ended.number] = order.named(ended.error)
            log.failed(order, ended, trial=trial)
    return [found[number] for number in range(len(orders))]


def _settings(plan: TuningPlan, values: Mapping[str, Any]) -> Settings | str:
    """Return the settings of a trial as its trainings get them, or why there are none."""
    try:
        settings = plan.space.settings(values)
    except SettingsError as error:
        return str(error)
    return plan.of_settings(plan.search, settings).settings


def _record_trial(search: _Search, record: RunRecord, told: Told, arena: Arena) -> None:
    """Leave the days of a trial, so that every later verdict on them counts it."""
    outcome, plan = told.outcome, search.plan
    record.events().write("trial", **_trial(told))
    if not outcome.days:
        return
    of_trial = plan.of_settings(plan.search, plan.space.settings(told.values))
    digests = {
        pair: candle_digest(tested_candles(each, arena.windows))
        for pair, each in search.recordeds.items()
    }
    with RunRecord.begin(
        record.folder / TRIALS,
        EVALUATION,
        settings=of_trial.facts(),
        pairs=list(search.recordeds),
        seeds=plan.search.seeds,
        timerange=plan.search.timerange,
        datadir=plan.search.datadir,
        data_digest=digests,
        source=plan.search.source.name,
        study=plan.name,
        trial=told.number,
    ) as kept:
        days = {name: np.asarray(each) for name, each in outcome.days.items()}
        write_daily(kept, arena.calendar, days)
        kept.finish(f"trial {told.number} of study {plan.name}: {outcome.state}")


def _best(search: _Search) -> Told:
    best = search.study.best()
    if best is None:
        told = search.study.told()
        reasons = [each.outcome.reason for each in told if each.outcome.reason]
        raise MtfScalperError(
            f"--study: {search.plan.name!r} has no trial that was traded to the end, of {len(told)}"
            + (f"; trial {told[0].number}: {reasons[0]}" if reasons else "; raise --trials")
        )
    return best


def _looked_at(search: _Search, best: Told, console: Console) -> dict[str, Any]:
    """Learn and trade the locked days with the best trial, by the rules of every evaluation."""
    plan = search.plan
    of_best = plan.of_settings(plan.locked, plan.space.settings(best.values))
    with console.status("the locked days"):
        quiet = Console(file=io.StringIO(), width=80)
        folder, _ = recorded_evaluation(of_best, search.project, quiet)
    run = Run.open(folder)
    statistics, row = run.statistics() or {}, run.figures()[0]
    locked = {
        "verdict": statistics["verdict"],
        "found": statistics["found"],
        "n_days": statistics["n_days"],
        "n_trades": row["n_trades"],
        "log_return": row["log_return"],
        "deflated_sharpe": statistics["deflated_sharpe"],
        "p_value": statistics["p_value"],
        "hardest": statistics["hardest"],
        "n_variants": statistics["n_variants"],
    }
    found = searched(search.study.told(), best).as_dict()
    return {
        "looked_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "trial": best.number,
        "sentence": sentence(found, locked),
        "found": is_found(locked),
        "search": found,
        "locked": locked,
        "run": run.run_id,
    }


def _write_study(search: _Search, record: RunRecord) -> None:
    study, plan = search.study, search.plan
    best = study.best()
    content = {
        "name": plan.name,
        "search": plan.search.timerange,
        "locked": plan.locked.timerange,
        "windows": [each.name for each in plan.search.windows()],
        "space": plan.space.facts(),
        "trials": [_trial(each) for each in study.told()],
        "best": None if best is None else best.number,
        "importance": study.importance(),
        "final": study.final,
    }
    record.write_json("study", content)


def _trial(told: Told) -> dict[str, Any]:
    values = told.values.items()
    return {
        "number": told.number,
        "state": told.outcome.state,
        "objective": told.outcome.objective,
        "windows": list(told.outcome.windows),
        "values": {k: json.dumps(v) if isinstance(v, list) else v for k, v in values},
        "reason": told.outcome.reason,
    }


def _about(search: _Search) -> list[str]:
    plan = search.plan
    left_out = [f"left out: {reason}" for reason in search.left_out.values()]
    return [
        *left_out,
        f"candles from {plan.search.source.name}; searched {plan.search.timerange}, locked "
        f"{plan.locked.timerange}; {len(plan.search.seeds)} seed"
        f"{'' if len(plan.search.seeds) == 1 else 's'}, embargo {plan.search.embargo} candles",
    ]


def _where(folder: Path, project: Path) -> list[str]:
    return [
        f"record  {shown(folder, project)}",
        f"page    {page_or_reason(folder, project)}",
    ]


def _print(console: Console, lines: Sequence[str], style: str | None = None) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True, style=style)
