"""The section of a search says what its file says, and hides nothing that was tried."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mtf_scalper.page.build import build_page
from mtf_scalper.page.parts import Plot, Table
from mtf_scalper.page.search import MAX_LINES, SEARCH, search_section
from mtf_scalper.records.files import RecordError
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord

STUDY: dict[str, Any] = {
    "name": "mine",
    "space": {"learning_rate": {"log": True}, "net_arch": {}, "fee_warmup": {"log": False}},
    "trials": [
        {
            "number": 0,
            "state": "complete",
            "objective": 0.01,
            "windows": [0.02, 0.04],
            "values": {"learning_rate": 1e-5, "net_arch": "[8]"},
            "reason": "",
        },
        {
            "number": 1,
            "state": "stopped",
            "objective": None,
            "windows": [-0.02],
            "values": {"learning_rate": 1e-1, "net_arch": "[8]"},
            "reason": "",
        },
        {
            "number": 2,
            "state": "untradable",
            "objective": None,
            "windows": [],
            "values": {"learning_rate": 1e-2, "net_arch": "[16]"},
            "reason": "rewards are not finite",
        },
        {
            "number": 3,
            "state": "complete",
            "objective": 0.2,
            "windows": [0.3, 0.3],
            "values": {"learning_rate": 1e-3, "net_arch": "[16]", "fee_warmup": 0.5},
            "reason": "",
        },
        {
            "number": 4,
            "state": "complete",
            "objective": 0.1,
            "windows": [0.3, 0.1],
            "values": {"learning_rate": 1e-4, "net_arch": "[16]", "fee_warmup": 0.0},
            "reason": "",
        },
    ],
    "importance": {"learning_rate": 0.8, "net_arch": 0.2},
}


@pytest.fixture
def bare(tmp_path) -> RunRecord:
    """Return the record of a search that holds nothing but its manifest."""
    return RunRecord.begin(tmp_path, SEARCH, pairs=["BTC/USDT:USDT"])


def section_of(record: RunRecord, study: dict[str, Any]) -> Any:
    record.write_json("study", study)
    return search_section(Run.open(record.folder))


def plot(section: Any, name: str) -> Plot:
    return next(part for part in section.parts if part.name == name)


def test_history_shows_each_objective_and_the_best_so_far(bare) -> None:
    history = plot(section_of(bare, STUDY), "search-history-plot")
    points, best = history.traces
    assert list(points["x"]) == [0, 3, 4]
    assert list(points["y"]) == [0.01, 0.2, 0.1]
    assert list(best["y"]) == [0.01, 0.2, 0.2]
    assert "5 trials, 2 of them stopped early or untradable" in history.sentence
    assert "the best objective is +0.2000, of trial 3" in history.sentence


def test_importance_begins_with_what_matters_most(bare) -> None:
    importance = plot(section_of(bare, STUDY), "search-importance-plot")
    assert importance.traces[0]["y"] == ["net_arch", "learning_rate"]
    assert "most by learning_rate (80%)" in importance.sentence


def test_parallel_coordinates_are_lines_of_scaled_values(bare) -> None:
    parallel = plot(section_of(bare, STUDY), "search-parallel-plot")
    by_name = {trace["name"]: trace for trace in parallel.traces}
    assert list(by_name) == ["trial 0", "trial 4", "trial 3"]  # the best one lies on top
    assert by_name["trial 3"]["x"] == ["learning_rate", "net_arch", "fee_warmup", "objective"]
    assert by_name["trial 3"]["y"] == [1.0, 0.0, 1.0, 1.0]
    assert by_name["trial 4"]["y"] == [0.5, 0.0, 0.0, pytest.approx(0.09 / 0.19, abs=1e-4)]
    assert by_name["trial 0"]["y"] == [0.0, 1.0, None, 0.0]  # what was not tried has a gap
    assert by_name["trial 3"]["line"]["color"] == "--agent"
    assert "learning_rate 0.001, net_arch [16], fee_warmup 0.5" in parallel.sentence
    ends = [(each["x"], each["y"], each["text"]) for each in parallel.layout["annotations"]]
    assert ends == [
        ("learning_rate", 0.0, "1e-05"),
        ("learning_rate", 1.0, "0.001"),
        ("net_arch", 0.0, "[16]"),
        ("net_arch", 1.0, "[8]"),
        ("fee_warmup", 0.0, "0"),
        ("fee_warmup", 1.0, "0.5"),
        ("objective", 0.0, "0.01"),
        ("objective", 1.0, "0.2"),
    ]


def test_of_many_trials_the_best_are_drawn_and_all_are_in_the_table(bare) -> None:
    trials = []
    for number in range(MAX_LINES + 50):
        trial = copy.deepcopy(STUDY["trials"][0])
        trials.append({**trial, "number": number, "objective": number / 1000.0})
    section = section_of(bare, {**STUDY, "trials": trials})
    assert len(plot(section, "search-parallel-plot").traces) == MAX_LINES
    table = next(part for part in section.parts if isinstance(part, Table))
    assert len(table.rows) == MAX_LINES + 50


def test_the_table_has_what_was_stopped_and_why(bare) -> None:
    section = section_of(bare, STUDY)
    table = next(part for part in section.parts if isinstance(part, Table))
    texts = [[cell.text for cell in row] for row in table.rows]
    assert texts[1][:5] == ["1", "stopped", "n/a", "-0.0200", "1"]
    assert texts[2][:5] == ["2", "untradable: rewards are not finite", "n/a", "n/a", "0"]
    assert texts[3][5:] == ["0.001", "[16]", "0.5"]


def test_names_of_the_users_own_are_text_in_the_plots(bare) -> None:
    study = copy.deepcopy(STUDY)
    study["trials"][3]["values"] = {"<b>rate</b>": "{evil}"}
    parallel = plot(section_of(bare, study), "search-parallel-plot").as_dict()
    assert "<b>" not in str(parallel)
    assert "{evil}" not in str(parallel)


def test_a_study_without_a_trial_that_was_traded_has_a_table(bare) -> None:
    section = section_of(bare, {**STUDY, "trials": STUDY["trials"][1:3], "importance": {}})
    names = [part.name for part in section.parts]
    assert names == ["search-history-plot", "search-table"]


FINAL: dict[str, Any] = {
    "looked_at": "2026-01-01 00:00 UTC",
    "found": True,
    "locked": {"n_days": 14, "log_return": {"value": 0.25, "low": 0.1, "high": 0.4}},
}


def test_the_page_of_a_search_begins_with_it(bare) -> None:
    page = build_page(Run.open(bare.folder))
    assert [each.name for each in page.sections] == ["search", "tasks", "machine", "manifest"]
    assert page.sections[0].missing == "No trial has ended yet."
    assert [(each.title, each.value) for each in page.facts] == [("Searched", "0 trials")]
    bare.write_json("study", {**STUDY, "final": FINAL})
    page = build_page(Run.open(bare.folder))
    searched, best, locked = page.facts
    assert (searched.value, searched.note) == ("5 trials", "1 stopped, 1 untradable")
    assert (best.value, best.note.partition(":")[0]) == ("+0.2000", "trial 3")
    assert (locked.value, locked.tone) == ("+0.2500", "good")
    assert locked.note == "log return of 14 days, looked at on 2026-01-01 00:00 UTC"


def test_a_search_that_runs_says_how_far_it_is(bare) -> None:
    told = {"pair": "BTC/USDT:USDT", "window": "20240101", "seed": 1, "attempt": 1}
    for state in ("retried", "finished", "finished"):
        bare.events().write("task", state=state, trial=0, **told)
    bare.events().write("trial", **STUDY["trials"][0])
    page = build_page(Run.open(bare.folder))
    assert page.verdict == "Running: 1 trial and 2 trainings finished."
    assert page.facts[0].value == "1 trial"
    assert page.facts[1].value == "+0.0100"
    assert [part.name for part in page.sections[0].parts][-1] == "search-table"


@pytest.mark.parametrize("final", [{}, {**FINAL, "locked": {}}, {**FINAL, "found": "yes"}])
def test_a_damaged_look_at_the_locked_days_is_one_line(bare, final) -> None:
    bare.write_json("study", {**STUDY, "final": final})
    with pytest.raises(RecordError, match=r"study\.json is damaged: 'final"):
        build_page(Run.open(bare.folder))


@pytest.mark.parametrize(
    "trials", [None, [{"number": 0}], [{**STUDY["trials"][0], "objective": "high"}]]
)
def test_a_damaged_study_is_one_line(bare, trials) -> None:
    bare.write_json("study", {**STUDY, "trials": trials})
    with pytest.raises(RecordError, match=r"study\.json is damaged: 'trials"):
        build_page(Run.open(bare.folder))
