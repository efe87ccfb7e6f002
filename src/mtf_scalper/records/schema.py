"""What the files of a record hold, by type: the one place where what was read is judged.

A record may be cut, garbled or made by somebody else. What passes here can be trusted by all who
read records: types, ranges and dates are those that are written, and no text holds a character that
a terminal would obey. Fields that are not named here are taken as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

import pydantic_core
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    model_validator,
)

from mtf_scalper.paths import printable
from mtf_scalper.records.files import RecordError, plain

LARGEST: Final = 1e18
"""Numbers beyond it are no figures of a run; sums and squares of smaller ones are finite."""
MOST_CORES: Final = 4096
_FIRST_YEAR, _LAST_YEAR = 1970, 2199
_LAST_SECOND = 7_258_118_400
_ISO = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?(Z|[+-]\d\d:?\d\d)?", flags=re.ASCII
)


def iso_date(text: str) -> str:
    """Return the text if it is an ISO date of the years that there are markets in."""
    if not _ISO.fullmatch(text):
        raise ValueError("is no ISO date")
    year = datetime.fromisoformat(text).year
    if not _FIRST_YEAR <= year <= _LAST_YEAR:
        raise ValueError(f"is a date of the year {year}")
    return text


def scalar(value: Any) -> Any:
    """Return a number, text, flag or null; an infinite number is written as text."""
    if isinstance(value, int | float) and not abs(value) <= LARGEST:
        raise ValueError("is a number beyond all bounds")
    if not isinstance(value, int | float | str | None):
        raise ValueError("is no number and no text")
    return value


def figure(value: Any) -> Any:
    """Return a figure: a scalar, or an interval of them."""
    if isinstance(value, dict):
        for each in value.values():
            scalar(each)
        return value
    return scalar(value)


Finite = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Amount = Annotated[float, Field(ge=0.0, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Moment = Annotated[float, Field(ge=0.0, le=_LAST_SECOND)]
"""Seconds since the epoch."""
IsoDate = Annotated[str, AfterValidator(iso_date)]
Scalar = Annotated[Any, AfterValidator(scalar)]
FigureValue = Annotated[Any, AfterValidator(figure)]


class Part(BaseModel):
    """What all parts of a record have in common: no conversions, and more fields than are named."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Process(Part):
    """A process of this machine."""

    pid: Annotated[int, Field(ge=0, lt=2**31)]
    started: Annotated[float, Field(ge=0.0, le=_LAST_SECOND)]


class Machine(Part):
    """What a run was made on."""

    processor: str | None = None
    cpus: Count | None = None
    memory_bytes: Amount = 0.0


class Manifest(Part):
    """``manifest.json``."""

    kind: str = "unknown"
    began: IsoDate
    clock_began: IsoDate | None = None
    process: Process | None = None
    command: list[Scalar] = []
    versions: dict[str, str | None] = {}
    commit: str | None = None
    is_clean: bool | None = None
    engine: str | None = None
    machine: Machine = Machine()
    settings: dict[str, Any] = {}
    pairs: list[str] = []
    seeds: list[Seed] = []
    timerange: str | None = None
    datadir: str | None = None
    data_digest: dict[str, str | None] = {}


class Outcome(Part):
    """``outcome.json``."""

    status: Literal["finished", "failed"]
    ended: IsoDate
    seconds: Amount
    verdict: str | None = None
    error: str | None = None
    results: dict[str, str] = {}


class Check(Part):
    """A row of ``checks.json``."""

    name: str
    verdict: str
    measured: str = ""
    expected: str = ""
    reason: str = ""


class Report(Part):
    """What a training's policy earned on candles held out."""

    log_return: Finite | None = None
    oracle_share: Finite | None = None


class Event(Part):
    """A line of any file of events; which facts there are depends on the event."""

    event: str
    time: Moment
    pair: str | None = None
    window: str | None = None
    seed: Seed | None = None
    steps: Amount | None = None
    total_steps: Amount | None = None
    seconds: Amount | None = None
    steps_per_second: Amount | None = None
    phase: str | None = None
    name: str | None = None
    state: str | None = None
    oracle_share: Finite | None = None
    mean_episode_return: Finite | None = None
    validation_log_return: Finite | None = None
    validation_trades: Amount | None = None
    reports: list[Report] | None = None
    train_from: IsoDate | None = None
    train_to: IsoDate | None = None
    test_from: IsoDate | None = None
    test_to: IsoDate | None = None
    reason: str | None = None
    verdict: str | None = None
    error: str | None = None
    checks: list[Check] | None = None
    rows: Count | None = None
    batch_sizes: list[Count] | None = None
    device: str | None = None
    standard_errors: Amount | None = None
    asked: Amount | None = None
    began: Moment | None = None
    ended: Moment | None = None
    node: str | None = None
    attempt: Count | None = None
    trial: Count | None = None
    number: Count | None = None
    objective: Finite | None = None
    windows: Annotated[list[Finite], Field(max_length=100_000)] | None = None
    values: dict[str, Scalar] | None = None


_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "progress": ("steps", "total_steps", "seconds", "phase"),
    "update": ("steps",),
    "foretold": ("standard_errors", "asked"),
    "phase": ("name",),
    "left_out": ("pair", "reason"),
    "task": ("pair", "window", "seed", "state", "attempt"),
    "trial": ("number", "state", "values"),
}
_ONLY_NUMBERS = {"prediction": ("seconds",)}
"""Facts that may be missing, but are never null."""


class RunEvent(Event):
    """A line of ``events.jsonl``: with the facts that readers of this event need."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        missing = [name for name in _NEEDED.get(self.event, ()) if getattr(self, name) is None]
        missing += [
            name
            for name in _ONLY_NUMBERS.get(self.event, ())
            if name in self.model_fields_set and getattr(self, name) is None
        ]
        if self.event == "judged" and self.error is None:
            missing += [name for name in ("verdict", "checks") if getattr(self, name) is None]
        if missing:
            raise ValueError(f"has no {', '.join(missing)}")
        return self


class SampleLine(Part):
    """A line of ``samples.jsonl``."""

    time: Moment
    seconds: Amount | None = None
    core_percent: Annotated[list[Amount], Field(max_length=MOST_CORES)] = []
    tree_percent: Amount
    processes: Count
    workers: Count
    resident_bytes: Amount
    unique_bytes: Amount
    worker_unique_bytes: Amount | None = None
    is_unique_measured: bool | None = None


class TradeLine(Part):
    """A line of ``trades.jsonl``."""

    series: str | None = None
    pair: str
    window: str | None = None
    seed: Seed | None = None
    side: str | None = None
    open_date: IsoDate | None = None
    close_date: IsoDate | None = None
    open_rate: Finite | None = None
    close_rate: Finite | None = None
    leverage: Finite | None = None
    profit_ratio: Finite | None = None
    log_return: Finite | None = None
    exit_reason: str | None = None
    enter_tag: str | None = None


class PredictionLine(Part):
    """A line of ``predictions.jsonl``: a candle and what was predicted of it."""

    pair: str
    window: str | None = None
    date: IsoDate
    open: Finite | None = None
    high: Finite | None = None
    low: Finite | None = None
    close: Finite | None = None
    volume: Finite | None = None
    neutral: Finite | None = None
    long_enter: Finite | None = None
    long_exit: Finite | None = None
    short_enter: Finite | None = None
    short_exit: Finite | None = None
    confidence: Finite | None = None


class FigureRow(Part):
    """A row of ``figures.json``: other fields are figures, alone or with their interval."""

    __pydantic_extra__: dict[str, FigureValue] = Field(init=False)
    pair: str | None = None
    window: str | None = None
    seed: Seed | None = None
    degenerate: str | None = None


class Importance(Part):
    """What one feature is worth."""

    median: Finite | None = None
    low: Finite | None = None
    high: Finite | None = None


class StudyTrial(Part):
    """A trial of a search."""

    number: Count
    state: str
    objective: Finite | None = None
    windows: Annotated[list[Finite], Field(max_length=100_000)] = []
    values: dict[str, Scalar]
    reason: str = ""


class StudyDimension(Part):
    """What is tried of one setting."""

    log: bool = False


class LockedReturn(Part):
    """What the locked days of a search earned."""

    value: Finite


class StudyLocked(Part):
    """The locked days of a search."""

    n_days: Count
    log_return: LockedReturn


class StudyFinal(Part):
    """What a look at the locked days said."""

    looked_at: str
    found: bool
    locked: StudyLocked


class Study(Part):
    """``study.json``."""

    name: str
    trials: list[StudyTrial]
    space: dict[str, StudyDimension] = {}
    importance: dict[str, Finite] = {}
    final: StudyFinal | None = None


class SettingsFile(RootModel[dict[str, Any]]):
    """``settings.json``."""


class Statistics(RootModel[dict[str, Any]]):
    """``statistics.json``: read as it is, whatever tests there were."""


class Figures(RootModel[list[FigureRow]]):
    """``figures.json``."""


class Checks(RootModel[list[Check]]):
    """``checks.json``."""


class RandomExits(RootModel[dict[str, list[Finite | Literal["inf", "-inf"]]]]):
    """``random_exits.json``."""


class Importances(RootModel[dict[str, Importance]]):
    """``importance.json``."""


def parsed(text: bytes, model: type[BaseModel]) -> Any:
    """Return what a JSON text holds, as it is written, once the model has passed it.

    Raises
    ------
    RecordError
        One line that says what is wrong: of JSON, or of which field.
    """
    try:
        # No recursion beyond 200 levels, no number of thousands of digits, no half of a letter.
        content = pydantic_core.from_json(text)
    except ValueError as error:
        raise RecordError(_one_line(error)) from None
    if b"NaN" in text or b"Infinity" in text:  # older records; JSON has no words for them
        content = plain(content)
    # Only an escape or what is no letter can hide a control character.
    if b"\\" in text or not text.decode().replace("\n", "").isprintable():
        content = _cleaned(content)
    try:
        model.model_validate(content)
    except ValidationError as error:
        raise RecordError(_first_problem(error)) from None
    return content


def began_at(manifest: Mapping[str, Any], name: str = "began") -> datetime:
    """Return when a run began, UTC."""
    found = datetime.fromisoformat(manifest[name])
    return found.astimezone(UTC)


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    said = _one_line(first["msg"].removeprefix("Value error, ").removeprefix("Input "))
    said = said.partition(" or instance")[0]
    said = said[:1].lower() + said[1:]
    return f"'{printable(place)}' {said}" if place else f"it {said}"


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_cleaned(each) for each in value]
    if isinstance(value, dict):
        return {printable(name): _cleaned(each) for name, each in value.items()}
    return value


def _one_line(problem: object) -> str:
    return printable(str(problem).partition("\n")[0])
