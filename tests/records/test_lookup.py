from __future__ import annotations

from pathlib import Path

import pytest

from mtf_scalper.records.files import RecordError
from mtf_scalper.records.lookup import find_run


def test_a_run_is_found_by_id_beginning_folder_and_as_latest(make_record, tmp_path: Path) -> None:
    demo, backtest = make_record("demo"), make_record("backtest")
    for name, record in (
        (demo.run_id, demo),
        ("dem", demo),
        (str(demo.folder), demo),
        ("latest", backtest),
        ("latest-demo", demo),
    ):
        assert find_run(name, tmp_path).run_id == record.run_id


def test_a_beginning_of_several_runs_names_them(make_record, tmp_path: Path) -> None:
    ids = [make_record("demo").run_id for _ in range(2)]
    with pytest.raises(RecordError, match="'demo' begins several runs: ") as caught:
        find_run("demo", tmp_path)
    assert all(each in str(caught.value) for each in ids)


def test_an_unknown_run_names_the_nearest(make_record, tmp_path: Path) -> None:
    record = make_record("validation")
    make_record("demo")
    with pytest.raises(RecordError, match=f"the nearest is '{record.run_id}'"):
        find_run("valdation-2026", tmp_path)
    with pytest.raises(RecordError, match="there are no runs in"):
        find_run("latest", tmp_path / "nothing")
