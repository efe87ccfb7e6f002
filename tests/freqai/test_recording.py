"""The real program leaves a record of what it did, whoever started it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from freqtrade.enums import RunMode
from freqtrade.persistence import Trade, init_db

from mtf_scalper.errors import MarketError
from mtf_scalper.freqai.lifecycle import kind_of_program
from mtf_scalper.freqai.recording import ProgramRecord
from mtf_scalper.market.market import Market
from mtf_scalper.records.reader import Run, Status
from mtf_scalper.records.writer import RUN_VARIABLE, RunRecord
from mtf_scalper.settings import Settings

from .conftest import BACKTEST, PERIOD

PAIR = "BTC/USDT:USDT"
MakeProgram = Callable[..., Any]


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
    ("content", "said"),
    [
        ({"process": None}, "manifest.json: names no process, so this program goes on if"),
        ({"process": {"pid": "x"}}, "this run leaves no record: "),
    ],
)
def test_a_program_whose_starter_is_not_known_goes_on_and_says_so(
    make_config: Callable[..., Any],
    tmp_path: Path,
    content: dict[str, Any],
    said: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = RunRecord.begin(tmp_path / "runs", "demo")
    manifest = record.folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **content}))
    monkeypatch.setenv(RUN_VARIABLE, str(record.folder))
    provider = SimpleNamespace(runmode=RunMode.BACKTEST, current_whitelist=lambda: [PAIR])
    program = ProgramRecord.begin(make_config(), Settings(), provider)  # type: ignore[arg-type]
    program.end()
    (line,) = [text for text in caplog.messages if said in text]
    assert "manifest.json" in line
    assert "\n" not in line


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
