"""The real bot at an exchange that misbehaves: what it does meanwhile, and whether it comes back.

Run: ``python benchmarks/exchange_faults.py``, 40 minutes, two bots at a time. The real
``freqtrade trade`` (dry run) trades a made-up market at forty times the speed of time. 40 minutes
after its first decision the exchange has one fault for half an hour; then the bot has an hour to
recover. What it decided, entered and left is read from its own files.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from report import HERE, Measured, Requirement, Workload, in_fresh_process, run, table

from mtf_scalper.clock import to_ms
from mtf_scalper.errors import MtfScalperError
from mtf_scalper.exchange import Fault, FaultPlan
from mtf_scalper.freqai.decision_log import read_decisions
from mtf_scalper.market.candles import resample_candles
from mtf_scalper.records.reader import Run
from mtf_scalper.runs.soak import SoakPlan, run_bot
from mtf_scalper.runs.soak_report import agreement_of, plan_soak
from mtf_scalper.worlds.datadir import write_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

DOCUMENT = "reliability.md"
PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
HIT, SYMBOL = PAIRS[0], "BTCUSDT"
"""The pair that faults of candles and prices are about; the other one is to notice nothing."""
SPEED = 40.0
BEGIN = datetime(2024, 1, 13, 9, 30, tzinfo=UTC)
BEFORE, DURING, AFTER = (timedelta(minutes=each) for each in (40, 30, 60))
FIXED = datetime(2024, 1, 13, 12, 30, tzinfo=UTC)
"""When what is wrong with the market itself begins; faults of the exchange wait for the bot."""
CANDLE = timedelta(minutes=5)
SETTLED = 3 * CANDLE
"""After a fault; then every candle has to be decided again."""
OVERRIDES: dict[str, Any] = {
    "exchange": {"pair_whitelist": list(PAIRS), "markets_refresh_interval": 10},
    "minimal_roi": {"0": 0.005},  # many short trades
    "ignore_buying_expired_candle_after": 240,  # six seconds of this machine
    "freqai": {
        "train_period_days": 1,
        "live_retrain_hours": 0.5,
        "expiration_hours": 24,
        "conv_width": 4,
        "activate_tensorboard": False,
        "model_training_parameters": {"n_epochs": 2},
        "data_split_parameters": {"test_size": 0.01},
        "rl_config": {
            "entry": "always",
            "train_cycles": 1,
            "cpu_count": 1,
            "net_arch": [16],
            "validation_share": 0.0,
        },
    },
}
_ERROR = re.compile(r" - (?:ERROR|CRITICAL) - (.*)$")
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)")


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes
    ----------
    fault : Fault or None
    symbol : str, optional
        The pair that it is about; all by default.
    market : callable, optional
        Changes the data directory instead.
    bad : (timedelta, timedelta), optional
        When nothing may be entered in the pair, after the begin and after the end of the fault.
    is_same : bool
        Whether a backtest on whole candles decides the same after the fault as well.
    seed : int
        Of the made-up market; entries are short with 14, and long with 9.
    """

    fault: Fault | None = None
    symbol: str | None = None
    market: Callable[[Path], None] | None = None
    bad: tuple[timedelta, timedelta] | None = None
    is_same: bool = True
    seed: int = 14


def halved(datadir: Path) -> None:
    """Let the price of a pair fall by half inside one candle."""
    prices = ["open", "high", "low", "close"]
    name = HIT.replace("/", "_").replace(":", "_")
    at = pd.Timestamp(FIXED)
    file = datadir / "futures" / f"{name}-5m-futures.feather"
    candles = pd.read_feather(file)
    candles.loc[candles["date"] > at, prices] *= 0.5
    candles.loc[candles["date"] == at, ["low", "close"]] *= 0.5
    candles[prices] = candles[prices].round(1)
    candles.to_feather(file)
    for timeframe in ("15m", "1h"):
        longer = resample_candles(candles, timeframe)
        longer.to_feather(datadir / "futures" / f"{name}-{timeframe}-futures.feather")
        if timeframe == "1h":
            longer.assign(volume=0.0).to_feather(datadir / "futures" / f"{name}-1h-mark.feather")


def four_hourly(datadir: Path) -> None:
    """Let funding be settled every four hours from the last settlement before a moment on."""
    for file in datadir.glob("futures/*-funding_rate.feather"):
        rates = pd.read_feather(file)
        last = rates.loc[rates["date"] <= pd.Timestamp(FIXED), "date"].iloc[-1]
        later = rates[rates["date"] >= last]
        between = later.assign(date=later["date"] + pd.Timedelta(hours=4))
        whole = pd.concat([rates, between]).sort_values("date", ignore_index=True)
        whole.to_feather(file)


@dataclass(frozen=True)
class Awaited(FaultPlan):
    """A fault whose begin is known once the bot has decided a candle.

    Attributes
    ----------
    span : list of datetime
        Begin and end, then.
    """

    span: list[datetime] = field(default_factory=list)

    def holds_at(self, at_ms: int) -> bool:
        """Return whether a moment lies in it."""
        return bool(self.span) and to_ms(self.span[0]) <= at_ms < to_ms(self.span[1])

    def seconds_left(self, at_ms: int) -> int:
        """Return how long it goes on after a moment."""
        return (to_ms(self.span[1]) - at_ms) // 1000


class EnoughError(Exception):
    """The bot has run for as long as it should."""


class Timetable:
    """Looks at the bot's decisions, lets the fault begin, and ends the run.

    Parameters
    ----------
    plan : SoakPlan
    span : list of datetime
        Begin and end of the fault; they are put in where there are none yet.
    """

    def __init__(self, plan: SoakPlan, span: list[datetime]) -> None:
        self._plan = plan
        self._span = span

    def __call__(self, now: datetime) -> None:
        """Look what the time is."""
        if not self._span:
            if any(each.get("predicted") for each in read_decisions(self._plan.decisions)):
                begin = pd.Timestamp(now + BEFORE).ceil("5min").to_pydatetime()
                self._span += [begin, begin + DURING]
        elif now >= self._span[1] + AFTER:
            raise EnoughError


_NOW, _LATER = timedelta(), CANDLE
CASES: dict[str, Case] = {
    "none": Case(),
    **{
        str(each): Case(each, bad=(_NOW, _NOW))
        for each in (
            Fault.TIMEOUT,
            Fault.SERVER_ERROR,
            Fault.TOO_MANY_REQUESTS,
            Fault.BANNED,
            Fault.TRUNCATED_JSON,
        )
    },
    "missing-candle": Case(Fault.MISSING_CANDLE, SYMBOL, bad=(_LATER, _LATER), is_same=False),
    "duplicate-candle": Case(Fault.DUPLICATE_CANDLE, SYMBOL),
    "late-correction": Case(Fault.LATE_CORRECTION, SYMBOL, is_same=False),
    "clock-ahead-1s": Case(Fault.CLOCK_AHEAD_1S),
    "clock-ahead-5s": Case(Fault.CLOCK_AHEAD_5S),
    "delisted": Case(Fault.DELISTED, SYMBOL, bad=(_NOW, _NOW)),
    "zero-price": Case(Fault.ZERO_PRICE, SYMBOL, bad=(_NOW, _LATER), is_same=False),
    "price-halved": Case(market=halved, seed=9),
    "funding-every-4h": Case(market=four_hourly),
}


@dataclass(frozen=True)
class Outcome:
    """What a bot did.

    Attributes
    ----------
    name : str
    ended : str
        Why it ended by itself; empty where it did not.
    decided : (int, int, int)
        Candles of all pairs decided with a prediction before, during and after the fault.
    entered : (int, int, int)
        Trades begun before, during and after.
    held : int
        Trades of the pair that were open when the fault began.
    entered_badly : int
        Trades of the pair that were begun on candles or prices known to be bad.
    missed, due : int
        Candles later than `SETTLED` after the fault: those that were not decided, and all.
    unequal : list of str
        Decisions that differ from a backtest's, before the fault and, where candles are the same,
        after it.
    worst : float
        Worst profit ratio of a closed trade.
    longest : float
        Minutes of the longest trade.
    errors : list of str
        Lines of the log that are errors, each kind once.
    tracebacks : (int, int)
        In the log, and those of them that this package has raised.
    warnings : list of str
        This package's warnings, each kind once.
    megabytes : (float, float)
        Memory of the bot when the fault began and at the end.
    """

    name: str
    ended: str
    decided: tuple[int, int, int]
    entered: tuple[int, int, int]
    held: int
    entered_badly: int
    missed: int
    due: int
    unequal: list[str]
    worst: float
    longest: float
    errors: list[str]
    tracebacks: tuple[int, int]
    warnings: list[str]
    megabytes: tuple[float, float]


def outcome_of(name: str, folder: str, compares: bool = True) -> dict[str, Any]:
    """Run one bot; the record and all files of it stay in a folder."""
    case, root = CASES[name], Path(folder)
    data = root / "data"
    spec = SyntheticSpec(
        seed=case.seed,
        pairs=tuple(map(pair_spec, PAIRS)),
        volatility=0.002,
        jump_probability=0.01,
        leg_hours=12.0,
        trend_share=0.95,
        signal_strength=0.4,
        market_correlation=0.9,
    )
    write_datadir(spec, data, "2024-01-01", "2024-01-14")
    if case.market is not None:
        case.market(data)
    project = root / "project"
    for part in ("configs", "user_data/strategies", "user_data/freqaimodels"):
        (project / part).parent.mkdir(parents=True, exist_ok=True)
        (project / part).symlink_to(HERE.parent / part, target_is_directory=True)
    # The timetable ends it before its days are over.
    plan, record = plan_soak(
        project, days=0.5, speed=SPEED, begin=BEGIN, datadir=data, overrides=OVERRIDES
    )
    span = [] if case.market is None else [FIXED, FIXED + DURING]
    if case.fault is not None:
        plan = replace(plan, fault=Awaited(case.fault, case.symbol, span=span))
    ended: str = ""
    unequal: list[str] = []
    with record:
        try:
            run_bot(plan, record, Timetable(plan, span))
        except MtfScalperError as error:
            ended = str(error)
        except EnoughError:
            if compares:
                unequal = _unequal(case, span, agreement_of(plan, span[1] + AFTER).unequal)
        record.finish(ended or "went on")
    return asdict(_judged(name, case, plan, span or [FIXED, FIXED], ended, unequal))


def _unequal(case: Case, span: list[datetime], lines: list[str]) -> list[str]:
    """Return the decisions that differ before the fault, and after it until the hour is over.

    A bot that takes long to stop decides on, and the backtest ends with the hour.
    """
    found = []
    for line in lines:
        told = _DATE.search(line)
        assert told is not None  # of whichever candle it is
        moment = datetime.fromisoformat(f"{told[1]}T{told[2]}+00:00")
        is_after = span[1] + CANDLE <= moment <= span[1] + AFTER and case.is_same
        if moment < span[0] - CANDLE or is_after:
            found.append(line)
    return found


def _judged(
    name: str,
    case: Case,
    plan: SoakPlan,
    span: list[datetime],
    ended: str,
    unequal: list[str],
) -> Outcome:
    begin, end = span
    lines = [each for each in read_decisions(plan.decisions) if each["kind"] == "candle"]
    dates = {
        (each["pair"], datetime.fromisoformat(each["date"])) for each in lines if each["predicted"]
    }
    last = max((date for _, date in dates), default=end)
    due = [each.to_pydatetime() for each in pd.date_range(end + SETTLED, last, freq=CANDLE)]
    missed = sum((pair, date) not in dates for pair in PAIRS for date in due)
    trades = list(_trades(plan.folder / "trades.sqlite"))
    bad = []
    if case.bad is not None:
        pairs = PAIRS if case.symbol is None else (HIT,)
        bad = [
            t for t in trades if t[0] in pairs and begin + case.bad[0] <= t[1] < end + case.bad[1]
        ]
    log = plan.log.read_text(encoding="utf-8", errors="replace")
    closed = [each for each in trades if each[2] is not None]
    samples = Run.open(plan.folder).samples()
    sizes = samples["resident_bytes"].to_numpy() / 1e6
    at_begin = sizes[samples["time"].to_numpy() < begin.timestamp()]
    return Outcome(
        name=name,
        ended=ended,
        decided=_in_parts([date for _, date in dates], span),
        entered=_in_parts([each[1] for each in trades], span),
        held=sum(
            each[0] == HIT and each[1] < begin and (each[2] is None or each[2] >= begin)
            for each in trades
        ),
        entered_badly=len(bad),
        missed=missed,
        due=len(due) * len(PAIRS),
        unequal=unequal,
        worst=min((each[3] for each in closed), default=0.0),
        longest=max(((each[2] - each[1]).total_seconds() / 60 for each in closed), default=0.0),
        errors=_kinds(found[1] for line in log.splitlines() if (found := _ERROR.search(line))),
        tracebacks=_tracebacks(log),
        warnings=_kinds(
            line.split(" - WARNING - ", 1)[1]
            for line in log.splitlines()
            if " - mtf_scalper" in line and " - WARNING - " in line
        ),
        megabytes=(
            float(at_begin[-1]) if len(at_begin) else float("nan"),
            float(sizes[-1]) if len(sizes) else float("nan"),
        ),
    )


def _in_parts(moments: list[datetime], span: list[datetime]) -> tuple[int, int, int]:
    before = sum(each < span[0] for each in moments)
    after = sum(each >= span[1] for each in moments)
    return before, len(moments) - before - after, after


def _tracebacks(log: str) -> tuple[int, int]:
    """Count tracebacks, and those of them that this package has raised.

    The guard of the exchange raises errors that freqtrade goes on after, and some it logs so.
    """
    blocks = re.findall(r"^Traceback .*\n(?:(?: .*)?\n)*", log, re.MULTILINE)
    last = [re.findall(r'File "([^"]+)"', each)[-1:] for each in blocks]
    ours = [file for files in last for file in files if "mtf_scalper" in file]
    return len(blocks), sum(not file.endswith("exchange_guard.py") for file in ours)


def _trades(database: Path) -> Iterator[tuple[str, datetime, datetime | None, float]]:
    """Yield pair, begin, end and profit ratio of the trades that were filled."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "select pair, open_date, close_date, close_profit from trades where amount > 0"
        ).fetchall()
    for pair, begin, end, profit in rows:
        yield pair, _moment(begin), _moment(end) if end else None, profit or 0.0


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _kinds(lines: Iterator[str]) -> list[str]:
    """Return one line of each kind, numbers left out of account."""
    kinds: dict[str, str] = {}
    for line in lines:
        kinds.setdefault(re.sub(r"[\d.:-]+", "#", line)[:120], line[:400])
    return list(kinds.values())


def measure(workload: Workload, repeats: int) -> Measured:
    """Run all bots, or with small sizes one of them."""
    names = list(CASES) if workload == Workload() else ["server-error"]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:

        def ran(name: str) -> Outcome:
            return Outcome(
                **in_fresh_process("exchange_faults:outcome_of", name, f"{folder}/{name}")
            )

        return measured(list(pool.map(ran, names)))


def measured(found: list[Outcome]) -> Measured:
    """Return the table, and what has to be."""
    header = [
        *("fault", "bot", "candles decided before, during, after"),
        *(
            "trades begun before, during, after",
            "held then",
            "on bad data",
            "worst trade",
            "tracebacks",
        ),
    ]
    rows = [
        [
            each.name,
            "ended" if each.ended else "went on",
            ", ".join(map(str, each.decided)),
            ", ".join(map(str, each.entered)),
            str(each.held),
            str(each.entered_badly),
            f"{each.worst:.1%}",
            str(each.tracebacks[0]),
        ]
        for each in found
    ]
    idle = sum(not each.decided[2] or not each.entered[2] for each in found)
    growth = float(np.max([each.megabytes[1] / each.megabytes[0] for each in found]))
    missed = sum(each.missed for each in found) / max(1, sum(each.due for each in found))
    sums = {
        "bots that ended": sum(bool(each.ended) for each in found),
        "bots that did not decide and trade again": idle,
        "trades begun on data known to be bad": sum(each.entered_badly for each in found),
        "decisions unlike a backtest's, before and after": sum(len(e.unequal) for e in found),
        "tracebacks of this package": sum(each.tracebacks[1] for each in found),
    }
    return Measured(
        results={"outcomes": [asdict(each) for each in found]},
        tables=[table(header, rows)],
        requirements=[
            *(Requirement(what, count, at_most=0) for what, count in sums.items()),
            Requirement(
                "share of the candles from 15 minutes after a fault on that were missed",
                missed,
                at_most=0.05,
            ),
            Requirement("memory at the end over that when the fault began", growth, at_most=1.3),
        ],
    )


if __name__ == "__main__":
    sys.exit(run("exchange_faults", __doc__, measure, repeats=1, document=DOCUMENT))
