"""The command ``soak``: a market, a record and a table around the bot."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.exchange import CandleStore, running_exchange
from mtf_scalper.freqai.config import read_settings
from mtf_scalper.freqai.decision_log import read_decisions
from mtf_scalper.freqai.loading import load_configuration
from mtf_scalper.paths import user_data
from mtf_scalper.records.check import Check, Verdict
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.program import merged
from mtf_scalper.runs.project import demo_market, page_or_reason, shown
from mtf_scalper.runs.soak import DAYS_OF_GROWTH, Soaked, SoakPlan, check_arguments, run_bot
from mtf_scalper.runs.soak_check import Agreement, check_decisions
from mtf_scalper.settings import TradeRules

_ERROR = re.compile(r" - (ERROR|CRITICAL) - |^Traceback ", re.MULTILINE)
_SHOWN_LINES = 10
_DAY_MS = 86_400_000
_MOST_GROWTH_MIB = 10.0
"""A month of it is less than the bot itself."""


@dataclass(frozen=True)
class SoakResult:
    """What came of a soak.

    Attributes
    ----------
    checks : list of Check
        The rows of the table.
    agreement : Agreement
    """

    checks: list[Check]
    agreement: Agreement

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [each for each in self.checks if each.verdict is Verdict.FAILED]

    @property
    def verdict(self) -> str:
        """One line."""
        failed = ", ".join(f"{each.name}: {each.measured}" for each in self.failed)
        told = f"{self.agreement.candles:,} candles, decisions equal {self.agreement.share:.3%}"
        return f"{told}; FAILED {failed}" if failed else told


def plan_soak(
    project: Path,
    *,
    days: float,
    speed: float,
    begin: datetime,
    datadir: Path | None = None,
    overrides: dict[str, Any] | None = None,
) -> tuple[SoakPlan, RunRecord]:
    """Return what to soak and the record that was begun for it.

    Parameters
    ----------
    project : Path
    days, speed, begin, overrides
        As ``SoakPlan`` has them; ``begin`` without time zone is UTC.
    datadir : Path, optional
        freqtrade data directory; the synthetic market by default.

    Raises
    ------
    MtfScalperError
        If the candles end before the soak does, or a setting is wrong.
    """
    market = (datadir or demo_market(project)).resolve()
    begin = begin if begin.tzinfo else begin.replace(tzinfo=UTC)
    last = datetime.fromtimestamp(CandleStore(market).end_ms() / 1000, UTC)
    if begin + timedelta(days=days) > last:
        raise MtfScalperError(
            f"the candles in {market} end on {last:%Y-%m-%d %H:%M}, and {days:g} days from "
            f"{begin:%Y-%m-%d} end later; choose another --from or fewer --days"
        )
    shipped = project / "configs" / "config_rl_hybrid.json"
    config = merged(load_files([shipped]), overrides or {})
    settings = read_settings(config, TradeRules())  # the strategy's are not known yet
    record = RunRecord.begin(
        user_data(project) / "runs",
        "soak",
        settings=settings,
        pairs=config["exchange"]["pair_whitelist"],
        seeds=[settings.random_state],
        datadir=market,
        timeframe=str(config["timeframe"]),
        clock_began=begin.isoformat(),
        days=days,
        speed=speed,
    )
    plan = SoakPlan(
        project=project,
        folder=record.folder.resolve(),
        datadir=market,
        last=last,
        begin=begin,
        days=days,
        speed=speed,
        overrides=overrides or {},
    )
    return plan, record


def load_files(files: Sequence[Path]) -> dict[str, Any]:
    """Return configurations laid over one another, comments allowed as freqtrade allows them."""
    from freqtrade.configuration.load_config import load_file

    content: dict[str, Any] = {}
    for file in files:
        content = merged(content, load_file(file))
    return content


def run_soak(plan: SoakPlan, record: RunRecord, console: Console) -> SoakResult:
    """Run the bot, compare its decisions, and print a table of what came of it.

    Parameters
    ----------
    plan : SoakPlan
    record : RunRecord
    console : Console

    Raises
    ------
    MtfScalperError
        If the bot ends by itself.
    """
    console.print(
        f"freqtrade trade (dry run) from {plan.begin:%Y-%m-%d %H:%M} for {plan.days:g} days at "
        f"{plan.speed:g} times the speed of time; mtf-scalper watch shows it",
        soft_wrap=True,
        highlight=False,
    )
    with record:
        with console.status("starting") as status:
            soaked = run_bot(
                plan, record, lambda now: status.update(f"the bot's clock: {now:%Y-%m-%d %H:%M}")
            )
            status.update("comparing its decisions with those of a backtest")
            agreement = agreement_of(plan, soaked.end)
        result = SoakResult(_checks(plan, soaked, agreement), agreement)
        record.write_json("checks", result.checks)
        record.finish(result.verdict, {"log": plan.log, "decisions": plan.decisions})
    _print(result, plan, console)
    return result


def agreement_of(plan: SoakPlan, end: datetime) -> Agreement:
    """Return how far the decisions of a bot, stopped at ``end``, are those of a backtest."""
    from freqtrade.enums import RunMode

    predictions = list(read_decisions(plan.predictions))
    with running_exchange(plan.datadir) as url:
        config = load_configuration(check_arguments(plan, url, end), RunMode.BACKTEST)
        return check_decisions(config, plan.decisions, predictions)


def _checks(plan: SoakPlan, soaked: Soaked, agreement: Agreement) -> list[Check]:
    run = Run.open(plan.folder)
    decisions = list(read_decisions(plan.decisions))
    candles = [each for each in decisions if each["kind"] == "candle"]
    trainings = len(run.events("training_finished"))
    trades = run.trades()
    log = plan.log.read_text(encoding="utf-8", errors="replace")
    errors = len(_ERROR.findall(log))
    unequal, asked = len(agreement.unequal), sum(agreement.asked.values())
    first, last = _memory(soaked.memory)
    slow, beside = _slowest(candles), _slowest([each for each in candles if each["training"]])
    return [
        _check("candles decided", f"{agreement.candles:,}", "some", agreement.candles > 0),
        _check("candles missed", f"{len(agreement.missed)}", "0", not agreement.missed),
        _told("answers before a candle was analysed", f"{agreement.late}"),
        _check("trainings", f"{trainings}", "some", trainings > 0),
        _told("trades closed", f"{len(trades)}"),
        _check(
            "decisions equal to a backtest's",
            f"{agreement.share:.3%} of {agreement.candles + asked:,}",
            "100%",
            unequal == 0 and agreement.candles > 0,
        ),
        _told("largest difference of a chance of leaving", f"{agreement.largest_difference:.1e}"),
        _told("memory at the end of the first day, of the last", f"{first}, {last}"),
        *_growth_rows(soaked),
        _told("99th percentile of a candle's decision, beside a training", f"{slow}, {beside}"),
        _check("errors in the log", f"{errors}", "0", errors == 0),
        _told("real time", f"{soaked.seconds:.0f} s"),
    ]


def _slowest(candles: Sequence[Mapping[str, Any]]) -> str:
    """Return the 99th percentile of what an analysis took, `-` of none."""
    if not candles:
        return "-"
    return f"{np.quantile([each['seconds'] for each in candles], 0.99) * 1000:.0f} ms"


def _memory(samples: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """Return the memory at the end of the first day, `-` in a shorter soak, and of the last."""
    if not samples:
        return "-", "-"
    day = [used for at, used in samples if at <= samples[0][0] + _DAY_MS]
    is_longer = len(day) < len(samples)
    return f"{day[-1] / 2**20:.0f} MiB" if is_longer else "-", f"{samples[-1][1] / 2**20:.0f} MiB"


def _growth_rows(soaked: Soaked) -> list[Check]:
    """Compare how memory grows after the first day with freqtrade that does nothing."""
    samples = soaked.idle_memory
    if not samples or samples[-1][0] - samples[0][0] < DAYS_OF_GROWTH * _DAY_MS:
        return []
    bot, idle = _growth(soaked.memory), _growth(soaked.idle_memory)
    return [
        _check(
            "memory grows a day after the first, beside freqtrade alone",
            f"{bot:+.1f}, {idle:+.1f} MiB",
            f"at most {_MOST_GROWTH_MIB:g} MiB more",
            bot - idle <= _MOST_GROWTH_MIB,
        )
    ]


def _growth(samples: Sequence[tuple[int, int]]) -> float:
    """Return the slope of memory after the first day, in MiB a day."""
    at, used = np.asarray(samples, dtype=np.float64).T
    later = at > at[0] + _DAY_MS
    slope, _ = np.polyfit((at[later] - at[0]) / _DAY_MS, used[later] / 2**20, 1)
    return float(slope)


def _check(name: str, measured: str, expected: str, is_passed: bool) -> Check:
    verdict = Verdict.PASSED if is_passed else Verdict.FAILED
    return Check(name, measured, expected, verdict, "" if is_passed else f"expected {expected}")


def _told(name: str, measured: str) -> Check:
    return Check(name, measured, "-", Verdict.PASSED)


def _print(result: SoakResult, plan: SoakPlan, console: Console) -> None:
    table = Table(title=f"Soak of {plan.days:g} days at {plan.speed:g} times the speed of time")
    table.add_column("what")
    table.add_column("measured", justify="right")
    table.add_column("expected", justify="right")
    for each in result.checks:
        mark = "" if each.verdict is Verdict.PASSED else " FAILED"
        table.add_row(each.name, each.measured, f"{each.expected}{mark}")
    console.print(table)
    lines = [*result.agreement.missed, *result.agreement.unequal]
    for line in lines[:_SHOWN_LINES]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if len(lines) > _SHOWN_LINES:
        console.print(f"and {len(lines) - _SHOWN_LINES} more", highlight=False)
    for what, path in (("record of it   ", plan.folder), ("freqtrade's log", plan.log)):
        console.print(f"{what} {shown(path, plan.project)}", soft_wrap=True, highlight=False)
    page = page_or_reason(plan.folder, plan.project)
    console.print(f"page to look at {page}", soft_wrap=True, highlight=False)
    console.print(f"verdict         {result.verdict}", markup=False, soft_wrap=True)
