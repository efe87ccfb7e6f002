from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mtf_scalper.cli import app, main
from mtf_scalper.records.writer import RunRecord

PAIR = "BTC/USDT:USDT"


def lines(*arguments: object) -> list[str]:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["runs", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    found = result.output.splitlines()
    assert max(map(len, found)) <= 80
    return found


def test_list_shows_all_runs_newest_first(make_record, tmp_path: Path) -> None:
    first, last = make_record("validation-exact"), make_record("demo")
    begun = RunRecord.begin(tmp_path, "backtest", pairs=[PAIR, "ETH/USDT:USDT"])
    shown = lines("list", "--folder", tmp_path)
    rows = [line for line in shown if line.startswith(("validation", "demo", "backtest"))]
    ids = [row.split()[0] for row in rows]
    assert ids == [begun.run_id, last.run_id, first.run_id]
    assert "running" in rows[0]
    assert "finished" in rows[1]
    text = " ".join(" ".join(shown).split())
    assert "BTC" in rows[1]
    assert "SPA p" in text


def test_without_runs_list_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert lines("list") == ["there are no runs in user_data/runs"]


def test_show_prints_manifest_figures_checks_and_paths(make_record, tmp_path: Path) -> None:
    record = make_record(sharpe=1.25)
    shown = lines("show", "--folder", tmp_path)
    text = " ".join("".join(shown).split())
    assert record.run_id in shown[0]
    for part in (
        "finished",
        "no evidence of an edge",
        PAIR,
        "20240101-20240201",
        "1.25",
        "0.1 [0, 1]",
        "threads",
        "passed",
        "0 events",
    ):
        assert part in text
    assert "99" not in "".join(line for line in shown if "sharpe" in line)  # of a single window


def test_show_tells_how_far_an_unfinished_training_is(tmp_path: Path) -> None:
    record = RunRecord.begin(tmp_path, "backtest", pairs=[PAIR])
    events = record.events(pair=PAIR, window="w1")
    progress = {"total_steps": 200, "seconds": 2.0, "phase": "update"}
    events.write("training_started", total_steps=200)
    events.write("progress", steps=50, **progress)
    others = record.events(pair="ETH", window="w2")
    others.write("training_started", total_steps=200)
    others.write("progress", steps=200, **progress)
    others.write("training_finished", steps=200, seconds=2.0)
    text = " ".join(" ".join(lines("show", record.run_id, "--folder", tmp_path)).split())
    assert "Trainings under way" in text
    assert f"{PAIR} w1 25%, update, 25 steps/s" in text
    assert "ETH w2" not in text


def test_compare_shows_what_differs_and_figures_side_by_side(make_record, tmp_path: Path) -> None:
    one = make_record(
        sharpe=1.5, settings={"n": 1, "rules": {"stop": -0.1}}, data_digest={PAIR: "aa"}
    )
    other = make_record(
        sharpe=0.5, settings={"n": 1, "rules": {"stop": -0.2}}, data_digest={PAIR: "bb"}
    )
    shown = lines("compare", one.run_id, other.run_id, "--folder", tmp_path)
    words = [line.split() for line in shown]
    assert ["rules.stop", "-0.1", "-0.2"] in words
    assert ["candles", "of", PAIR, "aa", "bb"] in words
    assert ["sharpe", "1.5", "0.5"] in words
    assert not any(line[:1] == ["n"] for line in words)
    same = lines("compare", one.run_id, one.run_id, "--folder", tmp_path)
    assert any(line.strip() == "nothing" for line in same)


def test_a_damaged_file_is_told_in_one_line_and_the_rest_shown(
    make_record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = make_record()
    (record.folder / "figures.json").write_bytes(b"{")
    (record.folder / "outcome.json").write_bytes(b"{")
    text = "".join(" ".join(lines("show", record.run_id, "--folder", ".")).split())
    assert "figures.jsonisdamaged" in text
    assert "outcome.jsonisdamaged" in text
    assert "threads" in text
    assert lines("list", "--folder", ".")[1].split() == [record.run_id, "damaged", "-", "BTC"]


def test_an_unknown_run_is_one_line_that_names_the_nearest(
    make_record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record()
    arguments = ["mtf-scalper", "runs", "show", "dmo-2026", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        main()
    assert str(caught.value).startswith("mtf-scalper: error: there is no run 'dmo-2026'")
    assert str(caught.value).endswith(f"the nearest is '{record.run_id}'")
    assert "\n" not in str(caught.value)
