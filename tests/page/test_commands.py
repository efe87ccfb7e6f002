"""``mtf-scalper report``: which run, which file, and the browser where it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mtf_scalper.cli import app
from mtf_scalper.errors import MtfScalperError


def report(*arguments: str, folder: Path) -> Any:
    return CliRunner().invoke(app, ["report", *arguments, "--folder", str(folder)])


def test_the_newest_run_is_reported_into_its_folder(recorded: Any) -> None:
    page = recorded.folder / "report.html"
    page.unlink(missing_ok=True)
    done = report(folder=recorded.folder.parent)
    assert done.exit_code == 0
    assert done.stdout.strip() == str(page)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_run_is_reported_into_another_file(recorded: Any, tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "page.html"
    done = report(str(recorded.folder), "--output", str(target), folder=tmp_path)
    assert done.exit_code == 0
    assert "No evidence of an edge." in target.read_text(encoding="utf-8")
    assert [each.name for each in target.parent.iterdir()] == ["page.html"]


def test_it_is_opened_only_where_that_is_asked_for(
    recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    report("latest", folder=recorded.folder.parent)
    assert opened == []
    report("latest", "--open", folder=recorded.folder.parent)
    assert opened == [(recorded.folder / "report.html").resolve().as_uri()]


def test_an_unknown_run_is_a_line_that_names_the_nearest(recorded: Any) -> None:
    done = report("demo-1999", folder=recorded.folder.parent)
    assert isinstance(done.exception, MtfScalperError)
    assert f"the nearest is '{recorded.folder.name}'" in str(done.exception)
