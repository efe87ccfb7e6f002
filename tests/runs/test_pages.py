"""A run ends with its page, or with a line that says why there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mtf_scalper.page import render
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.project import page_or_reason


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    record = RunRecord.begin(tmp_path / "user_data" / "runs", "demo", pairs=["BTC/USDT:USDT"])
    record.finish("nothing was traded")
    return record


def test_the_page_is_written_and_named_as_seen_from_the_project(
    record: RunRecord, tmp_path: Path
) -> None:
    said = page_or_reason(record.folder, tmp_path)
    assert Path(said) == Path("user_data", "runs", record.run_id, "report.html")
    assert "Nothing was traded" in (tmp_path / said).read_text(encoding="utf-8")


def test_without_plotly_a_line_says_what_to_install(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    render._plotly.cache_clear()
    said = page_or_reason(record.folder, tmp_path)
    assert said.startswith("not written: plotly")
    assert 'python -m pip install "mtf-scalper[evidence]"' in said
    assert "\n" not in said
    assert not (record.folder / "report.html").exists()
