"""The real bot in dry run on history, a hundred times faster than time."""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from freqtrade.configuration.config_validation import validate_config_schema
from rich.console import Console

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.freqai.decision_log import EXITS, SIGNALS, is_late, read_decisions
from mtf_scalper.market.datafiles import DataFile
from mtf_scalper.records.check import Verdict
from mtf_scalper.records.reader import Run
from mtf_scalper.runs import soak, soak_check, soak_report
from mtf_scalper.runs.program import merged
from mtf_scalper.runs.soak import Soaked, SoakPlan
from mtf_scalper.runs.soak_report import SoakResult, plan_soak, run_soak
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

PAIR = "BTC/USDT:USDT"
SMALL: dict[str, Any] = {
    "exchange": {"pair_whitelist": [PAIR]},
    "freqai": {
        "train_period_days": 1,
        "live_retrain_hours": 0.25,
        "expiration_hours": 24,
        "conv_width": 4,
        "activate_tensorboard": False,
        "model_training_parameters": {"n_epochs": 2},
        "data_split_parameters": {"test_size": 0.01},
        "rl_config": {
            "entry": "always",
            "train_cycles": 1,
            "cpu_count": 1,
            "net_arch": [16],
            "validation_share": 0.0,
        },
    },
}
OF_FREQTRADE = pytest.mark.filterwarnings(
    "ignore:The inplace keyword in:pandas.errors.Pandas4Warning",
    "ignore:Series.values returning an ndarray that drops:pandas.errors.Pandas4Warning",
)


@pytest.fixture(scope="module")
def wild_datadir(
    tmp_path_factory: pytest.TempPathFactory, warm_datadir: Callable[..., None]
) -> Path:
    """A market in which the classic rule fires at every other candle of one morning."""
    folder = tmp_path_factory.mktemp("wild")
    spec = SyntheticSpec(seed=7, pairs=(pair_spec(PAIR),), volatility=0.004, jump_probability=0.01)
    warm_datadir(spec, folder, "2024-01-01", "2024-01-13", days=5)
    return folder


@pytest.fixture(scope="module")
def soaked(project: Path, wild_datadir: Path) -> tuple[SoakPlan, SoakResult, str]:
    """A soak of an hour, what came of it, and what it printed."""
    plan, record = plan_soak(
        project,
        days=0.03,
        speed=100.0,
        begin=datetime(2024, 1, 9, 7, 50, tzinfo=UTC),
        datadir=wild_datadir,
        overrides=SMALL,
    )
    printed = io.StringIO()
    before = set(psutil.Process().children(recursive=True))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(soak, "DAYS_OF_GROWTH", 0.01)  # freqtrade alone runs beside it
        result = run_soak(plan, record, Console(file=printed, width=120))
    assert set(psutil.Process().children(recursive=True)) <= before
    return plan, result, printed.getvalue()


@pytest.mark.program
@pytest.mark.slow
@OF_FREQTRADE
def test_the_bot_trains_trades_and_decides_as_a_backtest_with_the_same_weights(
    soaked: tuple[SoakPlan, SoakResult, str],
) -> None:
    plan, result, printed = soaked
    log = plan.log.read_text(encoding="utf-8")
    run = Run.open(plan.folder)
    # A machine that is busy elsewhere may miss candles at this speed; nothing else may fail.
    assert {each.name for each in result.failed} <= {"candles missed"}, printed
    assert result.agreement.unequal == []
    assert result.agreement.candles >= 5
    assert result.agreement.largest_difference < 0.01
    assert "SIGINT received" in log
    trained = run.events("training_finished")
    assert len(trained) >= 2
    windows = {each["window"] for each in read_decisions(plan.predictions)}
    assert len(windows) >= 2
    for name in windows:
        assert list((plan.bot / "models").rglob(f"{name}/*_model.zip"))
    assert result.agreement.asked["leverage"] >= 1
    assert result.agreement.asked["stake"] >= 1
    assert "'type': entry," in log
    assert run.status == "finished"
    lived = run.candles().set_index("date")
    whole = DataFile(plan.datadir, PAIR, "5m").load().set_index("date")
    names = ["open", "high", "low", "close", "volume"]
    assert len(lived) >= result.agreement.candles
    assert (lived[names].to_numpy() == whole.loc[lived.index, names].to_numpy()).all()
    assert run.clock_began == plan.begin
    assert run.samples()["time"].min() >= plan.begin.timestamp()
    assert len(run.checks()) == len(result.checks)
    assert (plan.folder / "report.html").is_file()
    for row in ("candles decided", "trainings", "99th percentile", "errors in the log"):
        assert row in printed


@pytest.mark.program
@pytest.mark.slow
@OF_FREQTRADE
def test_freqtrade_alone_runs_beside_a_soak(
    soaked: tuple[SoakPlan, SoakResult, str],
) -> None:
    plan, _, _ = soaked
    log = (plan.folder / "idle.log").read_text(encoding="utf-8")
    assert "DoesNothing" in log
    assert "SIGINT received" in log
    assert " - ERROR - " not in log


def soaked_memory(growth: float, idle: float, days: float) -> Soaked:
    """Memory that grows by so many MiB a day after a first day in which it doubles."""

    def samples(slope: float) -> list[tuple[int, int]]:
        at = np.arange(0.0, days, 1 / 96)
        used = np.minimum(at, 1.0) * 300 + 300 + np.maximum(at - 1, 0.0) * slope
        return [
            (int(day * 86_400_000), int(mib * 2**20)) for day, mib in zip(at, used, strict=True)
        ]

    return Soaked(datetime(2024, 1, 9, tzinfo=UTC), samples(growth), samples(idle))


@pytest.mark.parametrize(
    ("growth", "expected"), [(1.0, Verdict.PASSED), (12.5, Verdict.PASSED), (14.0, Verdict.FAILED)]
)
def test_memory_that_grows_more_than_that_of_freqtrade_alone_fails(
    growth: float, expected: Verdict
) -> None:
    (row,) = soak_report._growth_rows(soaked_memory(growth, 3.0, 14.0))
    assert row.verdict is expected
    assert row.measured == f"{growth:+.1f}, +3.0 MiB"


def test_the_growth_of_memory_is_not_told_of_a_day_and_a_half() -> None:
    assert soak_report._growth_rows(soaked_memory(100.0, 0.0, 1.5)) == []


def test_a_soak_tells_nobody_trades_nothing_and_writes_no_secret(tmp_path: Path) -> None:
    given = {
        "dry_run": False,
        "db_url": "postgresql://me:D4tabase@host/trades",
        "exchange": {"key": "K3y", "secret": "S3cret"},
        "telegram": {"enabled": True, "token": "T0ken", "chat_id": "7"},
        "api_server": {"enabled": True, "password": "Pa55word", "listen_port": 1},
        "webhook": {"enabled": True, "url": "https://me:Pa55word@host"},
    }
    moment = datetime(2024, 1, 9, tzinfo=UTC)
    plan = SoakPlan(tmp_path, tmp_path, tmp_path, moment, moment, 1.0, 60.0, given)
    text = plan.configs("http://127.0.0.1:1", "bot")[-1].read_text(encoding="utf-8")
    for secret in ("D4tabase", "K3y", "S3cret", "T0ken", "Pa55word"):
        assert secret not in text
    content = json.loads(text)
    assert content["dry_run"] is True
    assert content["db_url"] == f"sqlite:///{(tmp_path / 'trades.sqlite').as_posix()}"
    assert not any(content[name]["enabled"] for name in ("telegram", "api_server", "webhook"))
    shipped = Path(__file__).resolve().parents[2] / "configs" / "config_rl_hybrid.json"
    validate_config_schema(merged(json.loads(shipped.read_text(encoding="utf-8")), content))


def test_a_soak_beyond_the_candles_is_refused(project: Path, tiny_datadir: Path) -> None:
    with pytest.raises(MtfScalperError, match=r"end on 2024-01-13 00:00, and 3 days from"):
        plan_soak(
            project,
            days=3,
            speed=60.0,
            begin=datetime(2024, 1, 11),
            datadir=tiny_datadir,
            overrides=SMALL,
        )


def frame() -> pd.DataFrame:
    dates = pd.date_range("2024-01-11", periods=6, freq="5min", tz="UTC")
    table = pd.DataFrame({"date": dates, "do_predict": 1, "classic_leverage": 2.0})
    table[list(SIGNALS)] = [[0, 0], [1, 0], [0, 1], [0, 0], [1, 0], [0, 0]]
    table[list(EXITS)] = np.full((6, 2), 0.3)
    return table.set_index("date", drop=False)


def candles() -> list[dict[str, Any]]:
    decided = [soak_check.decision_of(row) for _, row in frame().iterrows()]
    return [{"kind": "candle", "pair": PAIR, "seconds": 0.1, **each} for each in decided]


STRATEGY: Any = SimpleNamespace(timeframe="5m", leverage=lambda **_: 2.0)


def test_equal_decisions_agree() -> None:
    found = soak_check.compared(STRATEGY, {PAIR: frame()}, candles())
    assert (found.candles, found.missed, found.unequal, found.share) == (6, [], [], 1.0)


def test_an_entry_an_exit_and_an_answer_that_differ_are_told() -> None:
    decided = candles()
    decided[1]["enter_long"] = 0
    decided[3]["agent_exit_short"] = 0.7
    decided.append(
        {
            "kind": "leverage",
            "pair": PAIR,
            "time": "2024-01-11T00:30:02+00:00",
            "candle": "2024-01-11T00:25:00+00:00",
            "arguments": {},
            "answer": 3.0,
        }
    )
    found = soak_check.compared(STRATEGY, {PAIR: frame()}, decided)
    assert found.unequal == [
        f"{PAIR} 2024-01-11 00:05: enter_long 0 and 1 in the backtest",
        f"{PAIR} 2024-01-11 00:15: agent_exit_short 0.7 and 0.3 in the backtest",
        f"{PAIR} 2024-01-11T00:30:02+00:00: leverage 3.0, in the backtest 2.0",
    ]
    assert found.share == pytest.approx(1.0 - 3 / 7)


@pytest.mark.parametrize(("answer", "lines"), [("emergency_loss", 0), (None, 0), ("agent_exit", 1)])
def test_the_agent_leaves_nothing_on_a_candle_that_it_has_not_seen(
    answer: str | None, lines: int
) -> None:
    asked = {
        "kind": "exit",
        "pair": PAIR,
        "time": "2024-01-11T00:35:02+00:00",
        "candle": "2024-01-11T00:25:00+00:00",
        "trade": {},
        "arguments": {},
        "answer": answer,
    }
    found = soak_check.compared(STRATEGY, {PAIR: frame()}, [*candles(), asked])
    assert (found.late, len(found.unequal)) == (1, lines)


def test_a_candle_without_a_decision_is_missed_but_for_the_first_ones() -> None:
    decided = candles()
    decided[0]["predicted"] = False
    del decided[3]
    found = soak_check.compared(STRATEGY, {PAIR: frame()}, decided)
    assert (found.candles, found.missed) == (4, [f"{PAIR} 2024-01-11 00:15"])


@pytest.mark.parametrize(
    ("time", "expected"),
    [("00:30:02", False), ("00:34:59", False), ("00:35:00", True)],
)
def test_an_answer_on_an_older_candle_is_late(time: str, expected: bool) -> None:
    decision = {"time": f"2024-01-11T{time}+00:00", "candle": "2024-01-11T00:25:00+00:00"}
    assert is_late(decision, "5m") is expected


def test_a_torn_last_line_of_a_log_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text(json.dumps({"kind": "exit"}) + '\n{"kind": "ex', encoding="utf-8")
    assert list(read_decisions(file)) == [{"kind": "exit"}]
    assert list(read_decisions(tmp_path / "none.jsonl")) == []
