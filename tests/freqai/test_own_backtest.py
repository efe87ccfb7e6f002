"""One backtest of the user's own: what it leaves, and what a second one makes of it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mtf_scalper.checks.facts import read_predictions, read_used_settings
from mtf_scalper.records.events import SETTINGS_FILE
from mtf_scalper.records.manifest import candle_digest
from mtf_scalper.records.reader import PROBABILITIES, Run, Status

from .conftest import BACKTEST, END, PERIOD

PAIR = "BTC/USDT:USDT"
MakeProgram = Callable[..., Any]


@dataclass(frozen=True)
class Done:
    """A finished backtest of the user's own and its record."""

    program: Any
    run: Run
    strategy: dict[str, Any]


@pytest.fixture(scope="module")
def done(make_program: MakeProgram, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("own")
    started = make_program(folder, is_ready=False)
    started.run(*BACKTEST, str(folder / "results"))
    (archive,) = (folder / "results").glob("*.zip")
    with zipfile.ZipFile(archive) as content:
        result = json.loads(content.read(f"{archive.stem}.json"))
    (run,) = started.runs
    return Done(started, run, result["strategy"]["MtfScalper_RL_Hybrid"])


def test_a_backtest_of_the_users_own_leaves_a_finished_record(done: Done, datadir: Path) -> None:
    run, models = done.run, done.program.folder / "user_data" / "models" / "mtf_scalper_rl"
    assert (run.kind, run.status) == ("backtest", Status.FINISHED)
    assert run.outcome is not None
    assert Path(run.outcome["results"]["freqtrade"]).suffix == ".zip"
    assert run.verdict is not None
    said = f"in {done.strategy['total_trades']} trades, "
    assert run.verdict.startswith("no evidence of an edge")
    assert said in run.verdict
    manifest = run.manifest
    assert manifest["timerange"] == PERIOD
    assert manifest["pairs"][0] == PAIR
    assert manifest["settings"] == read_used_settings(models).model_dump(mode="json")
    file = datadir / "futures" / "BTC_USDT_USDT-5m-futures.feather"
    candles = pd.read_feather(file)
    before = candles[candles["date"] < END]
    assert manifest["data_digest"][PAIR] == candle_digest(before)
    assert manifest["command"][1] == "backtesting"


def test_it_is_judged_beside_the_baselines(done: Done) -> None:
    statistics, random_exits = done.run.statistics(), done.run.random_exits()
    assert statistics is not None
    assert random_exits is not None
    assert not statistics["found"]
    assert set(random_exits) == set(done.run.manifest["pairs"]) | (
        {"all"} if len(done.run.manifest["pairs"]) > 1 else set()
    )
    equity = done.run.equity()
    assert set(equity["series"]) == {"agent", "oracle", "classic exits", "buy and hold", "flat"}
    trades, whole = done.run.trades(), done.run.figures()[0]
    assert whole["n_trades"] == len(trades) > 0
    # What freqtrade earned is what the replay earned: markets, funding and rules are the same.
    assert whole["log_return"]["value"] == pytest.approx(trades["log_return"].sum(), abs=1e-6)
    assert whole["oracle"] > whole["log_return"]["value"]
    agreed = [each for each in done.run.checks() if each["name"].endswith("simulator agrees")]
    assert [each["verdict"] for each in agreed] == ["passed"] * len(done.run.manifest["pairs"])


def test_its_trades_are_those_of_freqtrades_own_result(done: Done) -> None:
    theirs = pd.DataFrame(done.strategy["trades"])
    assert "force_exit" in set(theirs["exit_reason"]), "no trade was open at the end of the data"
    assert len(theirs) > 3
    ours = done.run.trades()
    order = ["open_date", "pair"]
    theirs["open_date"] = pd.to_datetime(theirs["open_date"], utc=True)
    theirs["close_date"] = pd.to_datetime(theirs["close_date"], utc=True)
    theirs, ours = theirs.sort_values(order), ours.sort_values(order)
    for name in ("pair", "open_date", "close_date", "exit_reason", "enter_tag"):
        assert ours[name].tolist() == theirs[name].tolist()
    for name in ("open_rate", "close_rate", "leverage", "profit_ratio"):
        assert ours[name].to_numpy() == pytest.approx(theirs[name].to_numpy(), abs=1e-8)
    assert (ours["side"] == "short").tolist() == theirs["is_short"].tolist()
    assert set(ours["series"]) == {"agent"}


def test_its_events_samples_candles_and_predictions_are_there(done: Done) -> None:
    run = done.run
    windows = [event for event in run.events("window") if event["pair"] == PAIR]
    tested = [pd.Timestamp(event["test_to"]) for event in windows]
    assert tested == [pd.Timestamp("2024-01-31", tz="UTC"), END]
    names = {event["window"] for event in windows}
    assert {e["window"] for e in run.events("training_finished") if e["pair"] == PAIR} == names
    history = run.history()
    assert set(history["pair"]) == set(run.manifest["pairs"])
    assert set(history["seed"]) == {42}
    assert {"features", "update", "evaluation", "inference", "backtest"} <= set(
        run.phases()["phase"]
    )
    samples = run.samples()
    assert (samples["resident_bytes"] > 0).all()
    assert (samples["processes"] >= 1).all()
    candles = run.candles()
    period = candles.loc[candles["pair"] == PAIR, "date"]
    assert period.iloc[0] == pd.Timestamp("2024-01-30", tz="UTC")
    saved = read_predictions(done.program.folder / "user_data" / "models" / "mtf_scalper_rl")
    predicted = run.predictions()
    for window in names:
        ours = predicted[(predicted["pair"] == PAIR) & (predicted["window"] == window)]
        stop = window.rsplit("_", 1)[-1]
        (theirs,) = (frame for name, frame in saved.items() if f"btc_{stop}" in name)
        assert ours["date"].tolist() == theirs["date"].tolist()
        assert ours[PROBABILITIES[0]].to_numpy() == pytest.approx(
            theirs["&-prob_neutral"].to_numpy(), abs=1e-6
        )


def test_a_second_run_records_the_predictions_that_it_reuses(done: Done) -> None:
    again = done.program
    again.run(*BACKTEST, str(again.folder / "results"))
    run, first = again.runs[0], again.runs[1]
    assert run.events("training_started") == []
    assert len(first.events("training_started")) == 4
    columns = ["pair", "window", "date", *PROBABILITIES]
    pd.testing.assert_frame_equal(run.predictions()[columns], first.predictions()[columns])
    assert len(run.trades()) == len(first.trades())


def test_the_program_refuses_predictions_of_other_candles_and_models_of_other_code(
    done: Done, make_program: MakeProgram, datadir: Path, tmp_path: Path
) -> None:
    candles = tmp_path / "candles"
    shutil.copytree(datadir, candles)
    program = make_program(tmp_path / "program", candles)
    models = Path("user_data") / "models"
    shutil.copytree(done.program.folder / models, program.folder / models)
    results = str(program.folder / "results")

    # After the last training, so that only a window's predictions were made from it.
    file = candles / "futures" / "BTC_USDT_USDT-5m-futures.feather"
    table = pd.read_feather(file)
    original = table.copy()
    table.loc[table["date"] == "2024-01-31 01:00", "volume"] *= 2.0
    table.to_feather(file)
    program.run(*BACKTEST, results, code=2)
    failed = program.runs[0]
    assert failed.verdict == (
        "freqai.identifier: 'mtf_scalper_rl' holds predictions of BTC/USDT:USDT to 2024-01-31 "
        "made from other candles (5m); choose a new identifier or delete its folder under "
        "user_data/models"
    )
    assert failed.manifest["data_digest"][PAIR] != done.run.manifest["data_digest"][PAIR]
    original.to_feather(file)

    made_with = program.folder / models / "mtf_scalper_rl" / SETTINGS_FILE
    content = json.loads(made_with.read_text())
    made_with.write_text(json.dumps({**content, "engine": "0123456789abcdef"}))
    program.run(*BACKTEST, results, code=2)
    said = program.runs[0].verdict
    assert "made with other settings (engine; engine was '0123456789abcdef'" in said
