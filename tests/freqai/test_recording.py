"""The real program leaves a record of what it did, whoever started it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from freqtrade.enums import RunMode
from freqtrade.persistence import Trade, init_db

from mtf_scalper.checks.facts import read_predictions, read_used_settings
from mtf_scalper.errors import MarketError
from mtf_scalper.freqai.lifecycle import kind_of_program
from mtf_scalper.freqai.recording import ProgramRecord
from mtf_scalper.market.market import Market
from mtf_scalper.records.manifest import candle_digest
from mtf_scalper.records.reader import PROBABILITIES, Run, Status
from mtf_scalper.records.writer import RunRecord

PAIR = "BTC/USDT:USDT"
MakeProgram = Callable[..., Any]
# The last trade is open when it ends, in the night of the second day.
END = pd.Timestamp("2024-01-31 03:20", tz="UTC")
PERIOD = f"20240130-{END.timestamp():.0f}"


BACKTEST = ("backtesting", "--timerange", PERIOD, "--cache", "none", "--backtest-directory")


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


FILTERED = """
from mtf_scalper.freqai.strategy import HybridStrategy

class Filtered(HybridStrategy):
    def confirm_trade_entry(self, pair, order_type, amount, rate, time_in_force, current_time,
                            entry_tag, side, **kwargs):
        # The shorts of the morning and the longs of every fourth hour are refused.
        if current_time.hour < 12 if side == "short" else current_time.hour % 4 == 0:
            return False
        return super().confirm_trade_entry(pair, order_type, amount, rate, time_in_force,
                                           current_time, entry_tag, side, **kwargs)

    def _leave(self, pair, row, side, state):
        return 0.0
"""


def test_baselines_of_a_strategy_that_drops_entries_are_what_freqtrade_makes_of_the_others(
    make_program: MakeProgram, tmp_path: Path
) -> None:
    """It leaves all exits to the rules, so that classic exits of its entries are its own trades."""
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "filtered.py").write_text(FILTERED, encoding="utf-8")
    started = make_program(tmp_path)
    own = ("--strategy", "Filtered", "--strategy-path", str(tmp_path / "strategies"))
    started.run(*BACKTEST, str(tmp_path / "results"), *own)
    (run,) = started.runs
    trades = run.trades()
    assert len(trades) > 2
    assert "agent_exit" not in set(trades["exit_reason"])
    assert {each["verdict"] for each in run.checks() if "simulator" in each["name"]} == {"passed"}
    for row in run.figures():
        assert row["log_return"]["value"] == pytest.approx(
            trades.loc[
                trades["pair"].isin([row["pair"]]) | (row["pair"] == "all"), "log_return"
            ].sum(),
            abs=1e-6,
        )
        if row["n_trades"]:
            assert row["classic_exits"] == pytest.approx(row["log_return"]["value"], abs=1e-12)


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


def test_a_started_program_writes_into_the_record_that_it_is_told_of(
    make_program: MakeProgram, tmp_path: Path
) -> None:
    started = make_program(tmp_path)
    with RunRecord.begin(tmp_path / "user_data" / "runs", "demo") as record:
        started.run(*BACKTEST, str(tmp_path / "results"), told=str(record.folder))
        assert not record.has_ended
    (run,) = started.runs
    assert len(run.trades()) > 0
    assert len(run.events("training_finished")) == 4
    assert run.samples().empty
    assert run.settings["n_envs"] == 2
    # It judges what it traded; whoever began the record reads that there, and ends it.
    (judged,) = run.events("judged")
    assert judged["verdict"].startswith("no evidence of an edge")
    agreed = [each for each in judged["checks"] if each["name"].endswith("simulator agrees")]
    assert {each["verdict"] for each in agreed} == {"passed"}
    assert run.figures()[0]["n_trades"] == len(run.trades())
    assert run.checks() == []


def test_a_program_ends_with_the_one_that_records_it(
    make_program: MakeProgram, tmp_path: Path
) -> None:
    started = make_program(tmp_path)
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    record = RunRecord.begin(tmp_path / "user_data" / "runs", "demo")
    manifest = record.folder / "manifest.json"
    content = json.loads(manifest.read_text())
    begun = psutil.Process(parent.pid).create_time()
    content["process"] = {"pid": parent.pid, "started": begun}
    manifest.write_text(json.dumps(content))
    child = started.start(*BACKTEST, str(tmp_path / "results"), told=str(record.folder))
    until = time.monotonic() + 60.0
    while not Run.open(record.folder).events() and time.monotonic() < until:
        time.sleep(0.1)
    assert child.poll() is None
    parent.kill()
    parent.wait()
    assert child.wait(30) != 0
    assert Run.open(record.folder).status is Status.KILLED


def test_a_program_that_fails_says_why_in_its_record(
    make_program: MakeProgram, tmp_path: Path
) -> None:
    started = make_program(tmp_path)
    (tmp_path / "broken.json").write_text(json.dumps({"freqai": {"conv_width": 288}}))
    config = f"--config={tmp_path / 'broken.json'}"
    started.run(*BACKTEST, str(tmp_path / "results"), config, code=2)
    (run,) = started.runs
    assert run.status is Status.FAILED
    assert run.verdict is not None
    assert "usable candles are too few, at least 580 are needed" in run.verdict
    assert "no pair is left" in run.verdict


def test_an_analysis_leaves_no_record(make_program: MakeProgram, tmp_path: Path) -> None:
    started = make_program(tmp_path)
    few = ("--minimum-trade-amount", "1", "--targeted-trade-amount", "1")
    started.run("lookahead-analysis", "--timerange", PERIOD, *few)
    assert started.runs == []


@pytest.fixture
def database() -> Iterator[None]:
    """A bot's database, in memory."""
    init_db("sqlite://")
    yield
    Trade.session.remove()


def closed_trade(minutes_ago: float, profit: float) -> Trade:
    """Return a trade that a bot has closed, as it stands in its database."""
    closed = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    return Trade(
        pair=PAIR,
        exchange="binance",
        stake_amount=10.0,
        amount=1.0,
        amount_requested=1.0,
        open_rate=100.0,
        close_rate=99.0,
        open_date=closed - timedelta(hours=1),
        close_date=closed,
        fee_open=0.0005,
        fee_close=0.0005,
        leverage=2.0,
        is_short=True,
        is_open=False,
        close_profit=profit,
        exit_reason="roi",
        enter_tag="always",
    )


@pytest.mark.usefixtures("database")
def test_a_bot_records_every_trade_once_as_it_closes_and_none_from_before(tmp_path: Path) -> None:
    Trade.session.add(closed_trade(60.0, 0.5))
    Trade.commit()
    record = RunRecord.begin(tmp_path, "dry-run")
    program = ProgramRecord(record, "dry-run", is_own=True)
    for profit in (0.01, 0.02):
        Trade.session.add(closed_trade(-1.0, profit))
        Trade.commit()
        program.loop_started()  # nothing was filled, so that nothing can have closed
        assert len(Run.open(record.folder).trades()) < round(100 * profit)
        program.order_filled()
        program.loop_started()
        assert Run.open(record.folder).trades()["profit_ratio"].iloc[-1] == profit
    program.end()
    run = Run.open(record.folder)
    assert run.trades()["profit_ratio"].tolist() == [0.01, 0.02]
    assert set(run.trades()["side"]) == {"short"}
    assert run.verdict == "2 trades, average profit +1.500% after fees"


@pytest.mark.usefixtures("database")
def test_a_backtest_that_cannot_be_judged_says_why_and_keeps_its_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = RunRecord.begin(tmp_path, "backtest")
    program = ProgramRecord(record, "backtest", is_own=True)

    def build() -> Market:
        raise MarketError(f"{PAIR}: column 'x' is missing")

    program.traded(PAIR, build)
    program.end()
    run = Run.open(record.folder)
    assert (run.status, run.verdict) == (Status.FINISHED, "no trades")
    assert run.statistics() is None
    (said,) = [text for text in caplog.messages if "baselines" in text]
    assert said == f"this backtest is not set beside the baselines: {PAIR}: column 'x' is missing"


def test_a_record_that_cannot_be_written_never_stops_the_program(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = RunRecord.begin(tmp_path / "runs", "live")
    program = ProgramRecord(record, "live", is_own=True)
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs").write_text("no folder any more")
    program.event("window", pair=PAIR)
    program.event("window", pair=PAIR)
    program.loop_started()
    program.end()
    said = [text for text in caplog.messages if "the record of this run ends here" in text]
    assert len(said) == 1
    assert program.event_files == ()


@pytest.mark.parametrize(
    ("line", "mode", "kind"),
    [
        ("/bin/freqtrade backtesting --config c", RunMode.BACKTEST, "backtest"),
        ("/x/freqtrade/__main__.py backtesting", RunMode.BACKTEST, "backtest"),
        ("freqtrade.exe trade", RunMode.DRY_RUN, "dry-run"),
        ("freqtrade trade", RunMode.LIVE, "live"),
        ("freqtrade lookahead-analysis", RunMode.BACKTEST, None),
        ("freqtrade webserver", RunMode.BACKTEST, None),
        ("freqtrade hyperopt", RunMode.HYPEROPT, None),
        ("mtf-scalper parity", RunMode.BACKTEST, None),
        ("pytest backtesting", RunMode.BACKTEST, None),
    ],
)
def test_only_backtests_and_bots_leave_records(line: str, mode: RunMode, kind: str | None) -> None:
    assert kind_of_program(mode, line.split()) == kind
