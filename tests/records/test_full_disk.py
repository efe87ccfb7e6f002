"""A disk that is full, and folders that cannot be written: one line, and what was there stays."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from mtf_scalper.cli import app
from mtf_scalper.paths import problem_with_files, write_text
from mtf_scalper.records.reader import Run, runs_in
from mtf_scalper.records.writer import RunRecord

resource = pytest.importorskip("resource", reason="Windows has no such limits")
NOBODY = 65534
LONG = [{"pair": "BTC/USDT:USDT", "note": "x" * 20_000}]


@contextmanager
def full_disk(n_bytes: int = 4096) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes, as on a disk that has no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python itself would leave half a compiled module, and never start again with it.
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        monkeypatch.undo()


@contextmanager
def nobody() -> Iterator[None]:
    """Be somebody whom permissions bind, where this process is root's."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """Return a folder that everybody can read, and nobody but root can write."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_record_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    with full_disk(64), pytest.raises(OSError, match=r"manifest\.json") as caught:
        RunRecord.begin(tmp_path / "runs", "demo")
    assert problem_with_files(caught.value) is not None
    assert list((tmp_path / "runs").iterdir()) == []


TABLE = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=9000), "log_return": range(9000)})
WRITES: dict[str, Callable[[RunRecord], Any]] = {
    "figures.json": lambda record: record.write_json("figures", LONG),
    "equity.feather": lambda record: record.write_table("equity", TABLE),
    "events.jsonl": lambda record: record.events().write("judged", verdict="x" * 20_000),
    "trades.jsonl": lambda record: record.append_trades(LONG),
    "outcome.json": lambda record: record.finish("x" * 20_000),
    "settings.json": lambda record: record.write_settings({"note": "x" * 20_000}),
}


@pytest.mark.parametrize("name", WRITES)
def test_every_file_of_a_record_on_a_full_disk(name: str, tmp_path: Path) -> None:
    record = RunRecord.begin(tmp_path, "demo")
    events = record.events()
    events.write("left_out", pair="A/B", reason="x")
    record.append_trades([{"pair": "A/B", "profit_ratio": 0.1}])
    before = files_in(tmp_path)
    with full_disk(), pytest.raises(OSError, match=name.replace(".", r"\.")) as caught:
        WRITES[name](record)
    problem = problem_with_files(caught.value)
    assert problem is not None
    assert name in problem
    assert "\n" not in problem
    after = files_in(tmp_path)
    assert after.keys() == before.keys()
    for path, content in before.items():
        assert after[path].startswith(content)
    # There is room again: what was cut off is lost, and nothing that comes after it.
    events.write("left_out", pair="C/D", reason="y")
    record.append_trades([{"pair": "C/D", "profit_ratio": 0.2}])
    if name == "outcome.json":
        record.finish("done")
    run = Run.open(record.folder)
    assert [event["pair"] for event in run.events()] == ["A/B", "C/D"]
    assert list(run.trades()["pair"]) == ["A/B", "C/D"]
    assert len(runs_in(tmp_path)) == 1


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "before")
    with full_disk(), pytest.raises(OSError, match=r"a\.json'") as caught:
        write_text(path, "x" * 20_000)
    assert ".part" not in str(caught.value)
    assert files_in(tmp_path) == {str(path): b"before"}


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    record = RunRecord.begin(tmp_path, "demo")
    (record.folder / "report.html").write_text("the old page")
    with full_disk():
        done = CliRunner().invoke(app, ["report", record.run_id, "--folder", str(tmp_path)])
    assert done.exit_code == 1
    assert "cannot write the page" in str(done.exception)
    assert "\n" not in str(done.exception)
    assert (record.folder / "report.html").read_text() == "the old page"
    assert [path.name for path in record.folder.iterdir() if path.name.startswith(".")] == []


def test_a_set_up_that_is_cut_off_can_be_done_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with full_disk(100):
        done = CliRunner().invoke(app, ["init"])
    assert isinstance(done.exception, OSError)
    assert problem_with_files(done.exception) is not None
    assert files_in(tmp_path) == {}
    assert CliRunner().invoke(app, ["init"]).exit_code == 0


def test_folders_that_cannot_be_written(read_only: Path, monkeypatch: Any) -> None:
    record = RunRecord.begin(read_only / "runs", "demo")
    record.events().write("left_out", pair="A/B", reason="x")
    for path in (read_only, *read_only.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = files_in(read_only)
    folder = str(read_only / "runs")
    CliRunner().invoke(app, ["runs", "list", "--folder", folder])  # nobody may import nothing
    with nobody():
        for name, write in WRITES.items():
            with pytest.raises(PermissionError, match=name.replace(".", r"\.")):
                write(record)
        with pytest.raises(PermissionError, match="runs"):
            RunRecord.begin(read_only / "runs", "demo")
        page = CliRunner().invoke(app, ["report", record.run_id, "--folder", folder])
        listed = CliRunner().invoke(app, ["runs", "list", "--folder", folder])
    assert "cannot write the page" in str(page.exception)
    assert listed.exit_code == 0
    assert record.run_id in listed.output
    assert files_in(read_only) == before
