"""Paths that cannot be used: exit code 1 and one line on stderr, for every command and option."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtf_scalper import paths
from mtf_scalper.cli import main
from mtf_scalper.page.render import write_page
from mtf_scalper.paths import PathError, check_file, check_file_to_write, check_folder_to_write
from mtf_scalper.records.writer import RunRecord

DAYS = ("--timerange", "20241001-20241003")

READ = [
    ("demo", "--datadir"),
    ("validate", "--datadir"),
    ("parity", *DAYS, "--datadir"),
    ("evaluate", *DAYS, "--datadir"),
    ("exchange", "--datadir"),
    ("doctor", "--datadir"),
    ("runs", "list", "--folder"),
    ("runs", "show", "--folder"),
    ("runs", "compare", "one", "other", "--folder"),
    ("report", "--folder"),
    ("watch", "--folder"),
]
MISSING_IS_TOLD_LATER = ("doctor", "runs", "report", "watch")
CONFIGS = [("parity", *DAYS, "--config"), ("evaluate", *DAYS, "--config")]
WRITTEN = [("validate", "--output"), ("synth", "--end", "2024-08-02", "--datadir")]

Ended = Callable[..., str]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ended:
    """Return what runs a command line, checks how it ends, and returns the line that says why."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["mtf-scalper", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        # What Python prints to stderr before it exits with 1.
        assert isinstance(end.value.code, str), (end.value.code, capsys.readouterr())
        assert "\n" not in end.value.code
        assert capsys.readouterr().err == ""
        return end.value.code.removeprefix("mtf-scalper: error: ")

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("text", encoding="utf-8")
    return path


@pytest.mark.parametrize("command", [*READ, *WRITTEN], ids=" ".join)
def test_a_file_where_a_folder_is_wanted(ended: Ended, file: Path, command: tuple[str]) -> None:
    assert ended(*command, file) == f"{command[-1]}: {file}: is no folder"
    assert file.read_text(encoding="utf-8") == "text"


@pytest.mark.skipif(os.name == "nt", reason="Windows calls it a path that is not there")
@pytest.mark.parametrize("command", [*READ, *CONFIGS, *WRITTEN], ids=" ".join)
def test_a_path_through_a_file(ended: Ended, file: Path, command: tuple[str]) -> None:
    line = ended(*command, file / "below")
    expected = f"{file} is no folder" if command in WRITTEN else os.strerror(errno.ENOTDIR)
    assert line == f"{command[-1]}: {file / 'below'}: {expected}"


@pytest.mark.parametrize(
    "command",
    [*(each for each in READ if each[0] not in MISSING_IS_TOLD_LATER), *CONFIGS],
    ids=" ".join,
)
def test_a_path_that_is_not_there(ended: Ended, tmp_path: Path, command: tuple[str]) -> None:
    line = ended(*command, tmp_path / "none")
    assert line.startswith(f"{command[-1]}: {tmp_path / 'none'}: ")


@pytest.mark.parametrize("command", CONFIGS, ids=" ".join)
def test_a_folder_where_a_file_is_wanted(ended: Ended, tmp_path: Path, command: tuple[str]) -> None:
    assert ended(*command, tmp_path) == (f"--config: {tmp_path}: is a folder, a file is needed")


@pytest.mark.parametrize(
    "command", [("runs", "show"), ("runs", "compare", "a", "b"), ("report",), ("watch",)]
)
def test_no_runs_are_one_line(ended: Ended, tmp_path: Path, command: tuple[str]) -> None:
    none = tmp_path / "none"
    assert ended(*command, "--folder", none) == f"there are no runs in {none}"


def test_a_name_of_several_lines_is_shown_on_one(ended: Ended, tmp_path: Path) -> None:
    folder = tmp_path / "two\nlines"
    assert ended("demo", "--datadir", folder).startswith(f"--datadir: {str(folder)!r}: ")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("command", WRITTEN, ids=" ".join)
def test_a_folder_that_takes_no_file(
    ended: Ended,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str],
    number: int,
) -> None:
    """Told before anything is computed. Permissions do not bind root: the probe is refused here."""

    def refuse(**_options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(paths.tempfile, "TemporaryFile", refuse)
    folder = tmp_path / "new" / "folder"
    line = ended(*command, folder)
    assert line == f"{command[-1]}: {folder}: cannot be written: {os.strerror(number)}"
    assert not folder.exists()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc")
def test_a_folder_in_which_not_even_root_can_make_a_file() -> None:
    with pytest.raises(PathError, match=r"^--output: /proc/new: cannot be written: "):
        check_folder_to_write(Path("/proc/new"), "--output")


def test_the_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    check_folder_to_write(tmp_path / "a" / "b", "--output")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind root")
def test_permissions(tmp_path: Path, file: Path) -> None:
    file.chmod(0)
    with pytest.raises(PathError, match="Permission denied"):
        check_file(file, "--config")
    tmp_path.chmod(0o500)
    with pytest.raises(PathError, match="cannot be written: Permission denied"):
        check_folder_to_write(tmp_path / "new", "--output")
    tmp_path.chmod(0o700)


def recorded(folder: Path) -> RunRecord:
    record = RunRecord.begin(folder, "evaluation")
    record.finish("nothing")
    return record


def test_a_page_goes_to_a_file(ended: Ended, tmp_path: Path, file: Path) -> None:
    record = recorded(tmp_path / "runs")
    command = ("report", record.run_id, "--folder", record.folder.parent, "--output")
    assert ended(*command, tmp_path) == f"--output: {tmp_path}: is a folder, a file is needed"
    below = file / "page.html"
    assert ended(*command, below) == f"--output: {file}: is no folder"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_is_not_replaced_by_a_page(ended: Ended, tmp_path: Path) -> None:
    """The page is written beside its place and moved there: over a device it would stay."""
    record = recorded(tmp_path / "runs")
    command = ("report", record.run_id, "--folder", record.folder.parent, "--output", "/dev/full")
    assert ended(*command) == "--output: /dev/full: is no file that could be replaced"
    with pytest.raises(PathError, match="is no file that could be replaced"):
        write_page(record.folder, Path("/dev/full"))
    assert not Path("/dev/full").is_file()


def test_a_file_is_replaced_by_a_page(file: Path) -> None:
    check_file_to_write(file, "--output")
    check_file_to_write(file.with_name("new"), "--output")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project whose ``user_data`` cannot hold anything, as the current folder."""
    (tmp_path / "configs").mkdir()
    shipped = Path(__file__).resolve().parents[1] / "configs" / "config_rl_hybrid.json"
    (tmp_path / "configs" / shipped.name).write_bytes(shipped.read_bytes())
    (tmp_path / "user_data").write_text("in the way", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ("demo",),
        ("validate",),
        ("parity", *DAYS),
        ("evaluate", *DAYS),
        ("evaluate", *DAYS, "--planted", "none"),
        ("synth", "--end", "2024-08-02"),
    ],
    ids=" ".join,
)
def test_user_data_that_cannot_be_written(
    ended: Ended, project: Path, command: tuple[str, ...]
) -> None:
    assert "user_data" in ended(*command)
    assert (project / "user_data").read_text(encoding="utf-8") == "in the way"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_under_stdout() -> None:
    import subprocess

    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from mtf_scalper.cli import main; main()", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "mtf-scalper: error: cannot write: No space left on device\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), "a/b: Read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied", Path("a")), "a: Permission denied"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), None),
        (OSError("a program's own"), None),
    ],
)
def test_errors_of_files_are_told_from_others(error: OSError, line: str | None) -> None:
    assert paths.problem_with_files(error) == line


def test_a_file_gets_its_name_when_it_is_whole_or_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.json"
    with paths.written_whole(path) as part:
        part.write_text("{}", encoding="utf-8")
        assert not path.exists()

    def interrupted() -> None:
        with paths.written_whole(path) as part:
            part.write_text("{", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [each.name for each in tmp_path.iterdir()] == ["verdicts.json"]
    assert path.read_text(encoding="utf-8") == "{}"
