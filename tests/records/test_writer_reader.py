from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.records.files import RecordError, plain
from mtf_scalper.records.reader import PROBABILITIES, Run, Status, runs_in
from mtf_scalper.records.sampler import Sample
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.settings import Settings

PAIR = "BTC/USDT:USDT"
DATES = pd.date_range("2024-01-01", periods=3, freq="5min", tz="UTC")
TRADE = {
    "series": "agent",
    "pair": PAIR,
    "window": None,
    "seed": 3,
    "side": "short",
    "open_date": DATES[0],
    "close_date": DATES[2],
    "open_rate": 100.0,
    "close_rate": 99.0,
    "leverage": 2.0,
    "profit_ratio": np.float64(0.019),
    "log_return": 0.0188,
    "exit_reason": "agent_exit",
    "enter_tag": "always",
}


def sample(time: float) -> Sample:
    return Sample(time, 0.01, (10.0, 30.0), 20.0, 2, 1, 1000, 500, 200, True)


def test_a_full_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    settings = Settings(net_arch=(16,))
    with RunRecord.begin(
        tmp_path / "runs",
        "demo",
        settings=settings,
        pairs=[PAIR],
        seeds=[3],
        timerange="20240101-20240102",
        datadir=Path("data"),
        data_digest={PAIR: "abc"},
        command=["mtf-scalper", "demo"],
        note="more",
    ) as record:
        events = record.events(pair=PAIR, window="w1", seed=3)
        events.write("update", steps=10, seconds=0.5, validation_log_return=0.1)
        with record.phase("backtest"):
            record.append_trades([TRADE])
        record.append_sample(sample(5.0))
        record.write_candles(PAIR, pd.DataFrame({"date": DATES, "open": [1.0, 2.0, 3.0]}))
        made = pd.DataFrame({"date": DATES, **dict.fromkeys(PROBABILITIES, 0.2)})
        record.write_predictions(PAIR, made, "sub-train-BTC_1")
        record.write_table("equity", pd.DataFrame({"date": DATES, "log_return": 0.0}))
        record.write_json("figures", [{"pair": PAIR, "sharpe": float("nan")}])
        record.write_json("checks", [{"name": "n", "verdict": "passed"}])
        record.write_json("random_exits", {PAIR: np.array([0.1, -0.1])})
        record.finish("no evidence", {"log": record.folder / "a.log", "models": "/models"})

    (run,) = runs_in(tmp_path / "runs")
    assert (run.kind, run.status, run.verdict) == ("demo", Status.FINISHED, "no evidence")
    manifest = run.manifest
    assert manifest["id"] == run.run_id == record.run_id
    assert manifest["settings"]["net_arch"] == [16]
    assert (manifest["pairs"], manifest["seeds"], manifest["note"]) == ([PAIR], [3], "more")
    assert manifest["data_digest"] == {PAIR: "abc"}
    assert manifest["versions"]["torch"] is not None
    assert manifest["process"]["pid"] == os.getpid()
    (row,) = run.history().to_dict("records")
    assert (row["pair"], row["window"], row["seed"], row["steps"]) == (PAIR, "w1", 3, 10)
    assert row["validation_log_return"] == 0.1
    assert [event["state"] for event in run.events("phase")] == ["began", "ended"]
    (trade,) = run.trades().to_dict("records")
    assert trade["close_date"] - trade["open_date"] == pd.Timedelta("10min")
    assert (trade["profit_ratio"], trade["side"], trade["seed"]) == (0.019, "short", 3)
    (taken,) = run.samples().to_dict("records")
    assert (taken["core_1_percent"], taken["machine_percent"]) == (30.0, 20.0)
    assert list(run.candles()["pair"].unique()) == [PAIR]
    assert list(run.predictions()["window"].unique()) == ["sub-train-BTC_1"]
    assert len(run.equity()) == 3
    assert run.figures() == [{"pair": PAIR, "sharpe": None}]
    assert run.random_exits() == {PAIR: [0.1, -0.1]}
    assert run.checks()[0]["name"] == "n"
    assert run.outcome is not None
    assert run.outcome["results"] == {"log": "a.log", "models": "/models"}


def test_a_run_without_anything_yet_is_running_and_empty(tmp_path: Path) -> None:
    record = RunRecord.begin(tmp_path, "backtest")
    run = Run.open(record.folder)
    assert run.status is Status.RUNNING
    tables = (run.history(), run.samples(), run.trades(), run.candles(), run.predictions())
    assert all(table.empty and ("time" in table or "pair" in table) for table in tables)
    assert run.equity().empty
    assert (run.figures(), run.checks()) == ([], [])
    assert (run.statistics(), run.random_exits(), run.importance()) == (None, None, None)
    assert (run.outcome, run.verdict, run.seconds) == (None, None, None)


@pytest.mark.parametrize("changed", [{"pid": 2**22 + 7}, {"started": 1.0}])
def test_a_run_whose_process_is_gone_was_killed(tmp_path: Path, changed: dict[str, float]) -> None:
    record = RunRecord.begin(tmp_path, "backtest")
    run = Run.open(record.folder)
    run.manifest["process"].update(changed)
    assert run.status is Status.KILLED


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no candles\nand more"), "no candles"),
        (KeyboardInterrupt(), "interrupted"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_an_exception_ends_the_record_with_one_line(
    tmp_path: Path, error: BaseException, text: str
) -> None:
    with pytest.raises(type(error)), RunRecord.begin(tmp_path, "demo"):
        raise error
    (run,) = runs_in(tmp_path)
    assert (run.status, run.verdict) == (Status.FAILED, text)


def test_records_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    ids = {RunRecord.begin(tmp_path, "demo").run_id for _ in range(5)}
    assert len(ids) == 5
    assert {run.run_id for run in runs_in(tmp_path)} == ids
    assert [run.began for run in runs_in(tmp_path)] == sorted(
        (run.began for run in runs_in(tmp_path)), reverse=True
    )
    assert not list(tmp_path.glob(".*"))


def test_what_is_written_stays(tmp_path: Path) -> None:
    record = RunRecord.begin(tmp_path, "demo")
    record.write_json("figures", [])
    with pytest.raises(RecordError, match=r"figures.json is written already"):
        record.write_json("figures", [1])
    with record:
        record.finish("first")
    assert Run.open(record.folder).verdict == "first"


def test_a_torn_line_is_skipped_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    record = RunRecord.begin(tmp_path, "demo")
    record.append_sample(sample(1.0))
    with (record.folder / "samples.jsonl").open("ab") as file:
        file.write(b'{"time": 2.0, "sec\xc3')
    run = Run.open(record.folder)
    assert list(run.samples()["time"]) == [1.0]
    for name, read in (
        ("figures.json", run.figures),
        ("equity.feather", run.equity),
        ("outcome.json", lambda: run.outcome),
    ):
        (record.folder / name).write_bytes(b"{")
        with pytest.raises(RecordError, match=rf"{name} is damaged: [^\n]*$"):
            read()
    (record.folder / "manifest.json").write_bytes(b"{")
    with pytest.raises(RecordError, match=r"manifest.json is damaged"):
        Run.open(record.folder)
    assert runs_in(tmp_path) == []


def test_a_folder_without_manifest_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "demo-old").mkdir()
    assert runs_in(tmp_path) == []
    with pytest.raises(RecordError, match="demo-old is no run folder"):
        Run.open(tmp_path / "demo-old")


def test_a_started_program_writes_into_the_same_record(tmp_path: Path) -> None:
    record = RunRecord.begin(tmp_path, "demo")
    RunRecord(record.folder).append_trades([TRADE])
    assert len(Run.open(record.folder).trades()) == 1


def test_live_predictions_follow_those_of_windows(tmp_path: Path) -> None:
    record = RunRecord.begin(tmp_path, "dry-run")
    made = pd.DataFrame({"date": DATES, **dict.fromkeys(PROBABILITIES, 0.2)})
    record.write_predictions(PAIR, made)
    row = {"pair": PAIR, "date": DATES[2], **dict.fromkeys(PROBABILITIES, 0.1)}
    record.append_predictions([row])
    table = Run.open(record.folder).predictions()
    assert list(table["neutral"]) == [0.2, 0.2, 0.2, 0.1]
    assert table["date"].iloc[-1] == DATES[2]


def test_fields_that_nobody_knows_are_no_columns(tmp_path: Path) -> None:
    """One of them could pass for the load of a core, unchecked."""
    record = RunRecord.begin(tmp_path, "demo")
    known = {"time": 1.7e9, "tree_percent": 50.0, "processes": 1, "workers": 0}
    sizes = {"resident_bytes": 1, "unique_bytes": 1}
    lines = [{**known, **sizes, "core_percent": [10.0, 30.0]}, {**known, **sizes, "core_x": [1, 2]}]
    file = record.folder / "samples.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    table = Run.open(record.folder).samples()
    cores = [name for name in table.columns if name.startswith("core_")]
    assert cores == ["core_0_percent", "core_1_percent"]
    assert table["machine_percent"].tolist() == [20.0, 0.0]


def test_live_candles_are_those_that_were_predicted(tmp_path: Path) -> None:
    record = RunRecord.begin(tmp_path, "dry-run")
    prices = {"open": 1.0, "high": 3.0, "low": 0.5, "close": 2.0, "volume": 7.0}
    chances = dict.fromkeys(PROBABILITIES, 0.1)
    record.append_predictions([{"pair": PAIR, "date": DATES[0], **chances}])  # of an older version
    for close in (2.0, 2.5):  # analysed twice
        row = {"pair": PAIR, "date": DATES[1], **chances, **prices, "close": close}
        record.append_predictions([row])
    table = Run.open(record.folder).candles()
    expected = [{"pair": PAIR, "date": DATES[1], **prices, "close": 2.5}]
    assert table.to_dict("records") == expected
    assert len(Run.open(record.folder).predictions()) == 3


def test_plain_values_are_json() -> None:
    value = {
        "a": np.float32(1.5),
        "b": float("inf"),
        "c": np.array([1, 2]),
        "d": DATES[0],
        "e": Status.KILLED,
        "f": Path("x"),
        "g": np.datetime64("2024-01-01"),
        "h": (np.nan, True, None),
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "a": 1.5,
        "b": "inf",
        "c": [1, 2],
        "d": "2024-01-01T00:00:00+00:00",
        "e": "killed",
        "f": "x",
        "g": "2024-01-01",
        "h": [None, True, None],
    }
