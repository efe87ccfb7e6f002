"""A record that was damaged in any way: every command that reads it goes on, or says so in a line.

Every field of every file is put to another type, taken away, or cut; nothing here is left to
chance but which bytes of the files are garbled, and that is seeded.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from mtf_scalper.evaluation.edge import Variant
from mtf_scalper.evaluation.variants import earlier_variants
from mtf_scalper.page.build import SECTIONS
from mtf_scalper.page.live import _READS, LivePage
from mtf_scalper.page.render import plots_of, render_head, render_section
from mtf_scalper.page.summary import page_head
from mtf_scalper.records.files import RecordError
from mtf_scalper.records.reader import PROBABILITIES, Run, runs_in
from mtf_scalper.records.terminal import comparison, runs_lines, summary
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.program import RunError
from mtf_scalper.runs.run_record import judgment_in

PAIR = "BTC/USDT:USDT"
START = pd.Timestamp("2024-10-01", tz="UTC")
KEY = {"pair": PAIR, "window": "sub-train-BTC_1727740800", "seed": 1}
OTHERS = (
    *(None, True, 7, -1, 10**30, 1.5, 1e300, float("nan"), "", "text", "\x1b[2J"),
    *([], [None], [[]], [{}], {}, {"a": []}, {"low": {}, "high": []}),
)
"""What any field is put to."""
LONGEST_SECONDS = 20.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs: a small whole one, and another of the same days beside it."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        write_small_run(root, name)
    return root


def write_small_run(root: Path, engine: str) -> None:
    record = RunRecord.begin(
        root,
        "demo",
        settings={"net_arch": [8], "random_state": 1, "rules": {"stoploss": -0.1}, "of": engine},
        pairs=[PAIR],
        seeds=[1],
        timerange="20241001-20241003",
        datadir=Path("data"),
        data_digest={PAIR: "0123"},
        command=["mtf-scalper", "demo"],
    )
    dates = pd.date_range(START, periods=48, freq="5min")
    close = 100.0 + np.sin(np.arange(48) / 9.0)
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    record.write_candles(PAIR, pd.DataFrame({"date": dates, **prices, "volume": 1.0}))
    made = pd.DataFrame({"date": dates, **dict.fromkeys(PROBABILITIES, 0.2), "confidence": 0.2})
    record.write_predictions(PAIR, made, KEY["window"])
    live = {**dict.fromkeys(PROBABILITIES, 0.2), **dict.fromkeys(prices, 100.0), "volume": 1.0}
    record.append_predictions([{**KEY, "date": dates[-1] + pd.Timedelta("5min"), **live}])
    lines = [
        pd.DataFrame({"date": dates, "pair": PAIR, "seed": 1, "series": name, "log_return": value})
        for name, value in (("agent", 0.01), ("oracle", 0.2), ("flat", 0.0))
    ]
    record.write_table("equity", pd.concat(lines))
    days = pd.date_range(START, periods=2)
    rows = [
        pd.DataFrame({"date": days, "series": name, "log_return": [value, -value]})
        for name, value in (("agent", len(engine) + 0.01), ("oracle", 0.2), ("flat", 0.0))
    ]
    record.write_table("daily", pd.concat(rows))
    write_lines(record)
    interval = {"value": 0.1, "low": 0.0, "high": 0.2}
    figures = {"log_return": interval, "n_trades": 3, "oracle": 0.2, "sharpe": float("inf")}
    record.write_json("figures", [{**KEY, **figures}, {"pair": PAIR, **figures, "degenerate": "x"}])
    record.write_json("random_exits", {PAIR: [0.1, -0.1, 0.05]})
    record.write_json("importance", {"%-rsi": {"median": 0.1, "low": 0.0, "high": 0.2}})
    record.write_json("statistics", {"found": False, "spa": {"p": 0.4}, "variants": ["a"]})
    trial = {"number": 0, "state": "complete", "objective": 0.1, "windows": [0.1, 0.2]}
    trials = [{**trial, "number": n, "values": {"net_arch": "[8]", "gamma": 0.9}} for n in (0, 1)]
    space = {"gamma": {"low": 0.9, "high": 1.0, "log": True}}
    study = {"name": "mine", "trials": trials, "space": space, "importance": {"gamma": 1.0}}
    record.write_json("study", study)
    check = {"name": "threads", "measured": "2", "expected": "2", "verdict": "passed"}
    record.write_json("checks", [{**check, "reason": ""}])
    record.write_settings({"net_arch": [8], "rules": {"stoploss": -0.1}})
    record.finish("no evidence", {"log": "/a.log"})


def write_lines(record: RunRecord) -> None:
    log, now = record.events(**KEY), time.time()
    times = dict.fromkeys(("train_from", "train_to", "test_from", "test_to"), START.isoformat())
    log.write("window", time=now, **times)
    log.write("training_started", time=now, total_steps=20, device="cpu")
    steps = {"steps": 10, "seconds": 1.0, "oracle_share": 0.1}
    log.write("progress", time=now + 1, **steps, total_steps=20, phase="update")
    curve = {"mean_episode_return": 0.1, "validation_log_return": 0.1, "validation_trades": 2}
    log.write("update", time=now + 2, **steps, **curve)
    reports = [{"log_return": 0.1, "oracle_share": 0.2}]
    log.write("training_finished", time=now + 3, **steps, steps_per_second=10.0, reports=reports)
    log.write("weights", time=now + 3, digest="ab" * 32, policy="october")
    log.write("prediction", time=now + 4, seconds=0.1, rows=3, batch_sizes=[3])
    log.write("phase", time=now + 4, name="backtest", state="began")
    log.write("left_out", time=now + 4, reason="its candles begin too late")
    check = {"name": "n", "measured": "1", "expected": "1", "verdict": "passed", "reason": ""}
    log.write("judged", time=now + 5, verdict="no evidence", checks=[check])
    sample = {"seconds": 0.01, "core_percent": [1.0, 2.0], "tree_percent": 3.0, "processes": 2}
    memory = {"resident_bytes": 5, "unique_bytes": 4, "worker_unique_bytes": 3}
    for number in range(3):
        taken = {"time": now + number, **sample, "workers": 0, **memory}
        record.append_sample({**taken, "is_unique_measured": True})
    dates = {"open_date": START, "close_date": START + pd.Timedelta("10min")}
    rates = dict.fromkeys(
        ("open_rate", "close_rate", "leverage", "profit_ratio", "log_return"), 1.0
    )
    words = {"side": "long", "exit_reason": "own reason", "enter_tag": "tag", "series": "agent"}
    record.append_trades([{**KEY, **dates, **rates, **words}] * 3)


def read_everything(root: Path, name: str, changed: str) -> list[str]:
    """Read a run as all commands do; return the lines of error. Anything else is raised."""
    said: list[str] = []

    def tried(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (RecordError, RunError) as error:
            said.append(str(error))
            return None

    console = Console(file=io.StringIO(), width=80)
    began = time.monotonic()
    lines = tried(lambda: runs_lines(runs_in(root)))
    assert len(lines) >= 3, "the other run is listed whatever this one is"
    other = next(run for run in runs_in(root) if run.run_id != name)
    judged = Variant("judged", np.array([9.0, 9.0]), {})
    found = earlier_variants(Run.open(other.folder), judged, root)
    assert len(found) <= 2
    run = tried(lambda: Run.open(root / name))
    if run is not None:
        for table in tried(lambda: summary(run)) or ():
            console.print(table)
        for table in tried(lambda: comparison(run, other)) or ():
            console.print(table)
        head = tried(lambda: page_head(run))
        texts = [] if head is None else [render_head(head)]
        for section, make in SECTIONS.items():
            if any(Path(changed).match(pattern) for pattern in _READS[section]):
                made = tried(lambda make=make: make(run))
                if made is not None:
                    texts += [render_section(made), json.dumps(plots_of([made]), allow_nan=False)]
        tried(lambda: judgment_in(run))
        shown = "".join([*lines, *texts, *said])
        assert "\x1b" not in shown
        assert "\x1b" not in console.file.getvalue()
    assert time.monotonic() - began < LONGEST_SECONDS
    for line in said:
        assert "\n" not in line
        assert len(line) < 400, line
    return said


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where every value inside a JSON value stands, itself among them."""
    yield path
    if isinstance(value, dict | list):
        children = value.items() if isinstance(value, dict) else enumerate(value[:1])
        for key, each in children:
            yield from places(each, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy with the value there replaced; ``...`` takes it away."""
    if not path:
        return None if new is ... else new
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


def mutations_of(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield every field, each put to every second value and the next one to those between."""
    for number, path in enumerate(places(content)):
        for new in (*OTHERS, ...)[number % 2 :: 2]:
            yield f"{path} to {new!r}", put(content, path, new)


JSON_FILES = (
    *("manifest", "outcome", "settings", "figures", "random_exits", "importance"),
    *("statistics", "checks", "study"),
)
LINE_FILES = ("events", "samples", "trades", "predictions")
TABLES = ("candles-*", "predictions-*", "equity", "daily")


@pytest.fixture
def damaged(whole: Path) -> Iterator[tuple[Path, Callable[[str], Path]]]:
    """Return the run to be damaged, and a function that names its file; it is whole afterwards."""
    folder = min(whole.iterdir())
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def file(pattern: str) -> Path:
        (path,) = folder.glob(pattern)
        return path

    yield folder, file
    for path in folder.iterdir():
        if path not in before:
            path.unlink()
    for path, content in before.items():
        if path.is_symlink() or path.is_fifo():
            path.unlink()
        path.write_bytes(content)


Damaged = tuple[Path, Callable[[str], Path]]


def test_the_whole_record_is_read_without_a_word(damaged: Damaged) -> None:
    folder, _ = damaged
    assert read_everything(folder.parent, folder.name, "*") == []
    for pattern in (*(f"{name}.json*" for name in JSON_FILES), "*.feather"):
        for path in folder.glob(pattern):
            assert read_everything(folder.parent, folder.name, path.name) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", JSON_FILES)
def test_every_field_of_every_file_of_another_type(name: str, damaged: Damaged) -> None:
    folder, file = damaged
    path = file(f"{name}.json")
    content = json.loads(path.read_bytes())
    for what, mutated in mutations_of(content):
        path.write_text(json.dumps(mutated))
        try:
            read_everything(folder.parent, folder.name, path.name)
        except Exception as error:
            raise AssertionError(f"{name}: {what}") from error


@pytest.mark.slow
@pytest.mark.parametrize("name", LINE_FILES)
def test_every_field_of_every_line_of_another_type(name: str, damaged: Damaged) -> None:
    folder, file = damaged
    path = file(f"{name}.jsonl")
    lines = path.read_text().splitlines()
    for place, line in enumerate(lines if name == "events" else lines[:1]):
        # One new value for all fields at a time: a line for each.
        content = json.loads(line)
        for new in (*OTHERS, ...)[place % 2 :: 2]:
            mutated = [json.dumps(put(content, where, new)) for where in places(content)]
            changed = [*lines[:place], *mutated, *lines[place + 1 :]]
            path.write_text("".join(f"{each}\n" for each in changed))
            try:
                assert read_everything(folder.parent, folder.name, path.name) in ([], ANY_LINE)
            except Exception as error:
                raise AssertionError(f"{name} {place + 1}: {new!r}") from error


class _AnyLine:
    """Equal to one line of error: of the verdict of a backtest, whose event was damaged."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and len(other) == 1 and "not set beside" in other[0]

    __hash__ = None  # type: ignore[assignment]


ANY_LINE = _AnyLine()
COLUMNS: tuple[Callable[[pd.Series], Any], ...] = (
    lambda column: pd.Series([None] * len(column), dtype=object),
    lambda column: pd.Series([1] * len(column)),
    lambda column: pd.Series([-1e300] * len(column)),
    lambda column: pd.Series([np.nan, np.inf] * (len(column) // 2)),
    lambda column: pd.Series([True] * len(column)),
    lambda column: pd.Series(["x\x1b[2J"] * len(column)),
    lambda column: pd.Series([b"x"] * len(column)),
    lambda column: pd.Series([[1]] * len(column)),
    lambda column: pd.Series([{"a": 1}] * len(column)),
    lambda column: pd.Series(pd.to_datetime(["2024-10-01"] * len(column))),
    lambda column: pd.Series([pd.NaT] * len(column), dtype="datetime64[ns, UTC]"),
    lambda column: pd.Series(np.array(["0001-01-01"] * len(column), dtype="datetime64[s]")),
    lambda column: pd.Series(np.array(["30000-01-01"] * len(column), dtype="datetime64[s]")),
    lambda column: column.sample(frac=1.0, random_state=1).reset_index(drop=True),
    lambda column: column.astype(str),
    lambda column: column.astype(str).astype("category"),
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TABLES)
def test_every_column_of_every_table_of_another_type(kind: str, damaged: Damaged) -> None:
    folder, file = damaged
    path = file(f"{kind}.feather")
    table = pd.read_feather(path)
    changes = [table.drop(columns=column) for column in table.columns]
    changes += [table.rename(columns={column: "odd"}) for column in table.columns]
    changes += [table.iloc[:0], table.iloc[:1], table[[]], pd.concat([table, table])]
    changes += [
        table.assign(**{column: make(table[column])})
        for column in table.columns
        for make in COLUMNS
    ]
    for number, changed in enumerate(changes):
        changed.reset_index(drop=True).to_feather(path)
        try:
            read_everything(folder.parent, folder.name, path.name)
        except Exception as error:
            raise AssertionError(f"{kind}: change {number}: {changed.dtypes}") from error


ALL_FILES = (*(f"{n}.json" for n in JSON_FILES), *(f"{n}.jsonl" for n in LINE_FILES))
ALL_FILES += tuple(f"{name}.feather" for name in TABLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_FILES)
def test_files_cut_at_bytes_and_garbled(name: str, damaged: Damaged) -> None:
    folder, file = damaged
    path = file(name)
    content = path.read_bytes()
    n_cuts = min(len(content), 25)
    cuts = {int(place) for place in np.linspace(0, len(content), n_cuts, endpoint=False)}
    for cut in sorted(cuts):
        path.write_bytes(content[:cut])
        read_everything(folder.parent, folder.name, path.name)

    @settings(
        max_examples=40,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.lists(
            st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=4
        )
    )
    def garbled(flips: list[tuple[int, int]]) -> None:
        found = bytearray(content)
        for place, value in flips:
            found[place] = value
        path.write_bytes(bytes(found))
        read_everything(folder.parent, folder.name, path.name)

    garbled()


ODD = (
    b"",
    b"null",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"1" * 100_000,
    b"\x00" * 4096,
    b"\xff\xfe" * 100,
    b'"\\ud800"',
    b'{"began": "\\ud83d"}\n',
    b"ARROW1\x00\x00" + b"\xff" * 64 + b"ARROW1",
)


@pytest.mark.parametrize("name", ALL_FILES)
def test_odd_contents_end_nothing(name: str, damaged: Damaged) -> None:
    folder, file = damaged
    path = file(name)
    for content in ODD:
        path.write_bytes(content)
        read_everything(folder.parent, folder.name, path.name)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("name", ["manifest.json", "events.jsonl", "equity.feather"])
def test_what_is_no_file_is_not_waited_for_and_no_link_is_followed(
    name: str, damaged: Damaged, tmp_path: Path
) -> None:
    folder, file = damaged
    path = file(name)
    path.unlink()
    os.mkfifo(path)
    said = read_everything(folder.parent, folder.name, name)
    assert said
    assert all(f"{name} is damaged: it is no file" in line for line in said)
    path.unlink()
    (tmp_path / "secret").write_text('{"began": "2024-01-01", "kind": "secret"}')
    path.symlink_to(tmp_path / "secret")
    said = read_everything(folder.parent, folder.name, name)
    assert said
    assert all(f"{name} is damaged: it is a link" in line for line in said)


def test_damaged_lines_are_named_once_and_the_others_are_read(
    damaged: Damaged, caplog: pytest.LogCaptureFixture
) -> None:
    folder, file = damaged
    path = file("events.jsonl")
    n_events = len(Run.open(folder).events())
    lines = path.read_text().splitlines()
    lines[1] = '{"event": "update", "time": "noon"}'
    lines[3] = '{"event": "update"'
    path.write_text("".join(f"{line}\n" for line in lines))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert len(Run.open(folder).events()) == n_events - 2
    (message,) = caplog.messages
    assert message.endswith(
        "events.jsonl: 2 damaged lines are left out, the first is line 2: 'time' should be a valid "
        "number"
    )


def test_an_earlier_run_whose_days_are_damaged_is_named_and_not_counted(
    damaged: Damaged, caplog: pytest.LogCaptureFixture
) -> None:
    folder, file = damaged
    other = next(run for run in runs_in(folder.parent) if run.folder != folder)
    judged = Variant("judged", np.array([9.0, 9.0]), {})
    assert len(earlier_variants(other, judged, folder.parent)) == 1
    path = file("daily.feather")
    path.write_bytes(path.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        assert earlier_variants(other, judged, folder.parent) == []
    (message,) = caplog.messages
    assert "not counted as a variant" in message
    assert "daily.feather is damaged" in message


def test_a_watched_page_names_the_damage_and_recovers(damaged: Damaged) -> None:
    folder, file = damaged
    page = LivePage(lambda: Run.open(folder))
    path = file("equity.feather")
    content = path.read_bytes()
    path.write_bytes(content[:500])
    with pytest.raises(RecordError, match=r"equity\.feather is damaged"):
        page.news({})
    path.write_bytes(content)
    assert page.news({})["status"] == "finished"
