"""What killed programs have begun to write is removed by the next one, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtf_scalper.freqai.vetting import vet
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.trusted import FOLDER, TrustedFiles
from mtf_scalper.unfinished import PARTS, remove_unfinished

KILLED = """
import os, signal, sys
from pathlib import Path
from mtf_scalper.paths import written_whole
with written_whole(Path(sys.argv[1])) as part:
    part.write_text("half")
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
"""


@pytest.fixture(scope="module")
def gone() -> int:
    """Id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.processes
def test_a_file_that_a_killed_program_was_writing_is_removed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "file.json")], check=False)
    assert len(list(tmp_path.glob(PARTS))) == 1
    remove_unfinished(tmp_path.glob(PARTS))
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_work_or_somebody_elses_stays(tmp_path: Path, gone: int) -> None:
    mine = tmp_path / f".file.json.{os.getpid()}.part"
    others = [tmp_path / name for name in (".download.part", f"file.{gone}.part", "file.json")]
    for path in (mine, *others):
        path.write_text("half")
    remove_unfinished(tmp_path.iterdir())
    assert sorted(tmp_path.iterdir()) == sorted([mine, *others])
    # An id that the system has given to another process since, as in a container it always does.
    os.utime(mine, (1e9, 1e9))
    remove_unfinished(tmp_path.iterdir())
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_records_identifiers_and_trusted_files_begin_without_them(
    tmp_path: Path, gone: int
) -> None:
    runs, models, trusted = tmp_path / "runs", tmp_path / "models" / "mine", tmp_path / FOLDER
    record = runs / f".backtest-20240101-000000.{gone}.0a1b2c3d.part"
    parts = [
        models / f".historic_predictions.pkl.{gone}.part",
        models / "sub-train-BTC_1704938782" / f".cb_btc_scaling.json.{gone}.part",
        trusted / f".{'0' * 64}.json.{gone}.part",
    ]
    for path in (record / "manifest.json", *parts):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    RunRecord.begin(runs, "backtest")
    vet(models, TrustedFiles(tmp_path))
    assert not record.exists()
    assert not [path for path in parts if path.exists()]
