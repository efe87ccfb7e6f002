from __future__ import annotations

from pathlib import Path

import pytest

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.evaluation.judge_into import check_row
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs import demo
from mtf_scalper.runs.program import RunError
from mtf_scalper.runs.project import demo_market
from mtf_scalper.runs.run_record import judgment_in


def test_the_demo_runs_only_in_the_projects_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MtfScalperError, match=r"configs/config_rl_hybrid\.json; run this from"):
        demo.run_demo()


def test_the_demo_market_is_written_once(tmp_path: Path) -> None:
    datadir = demo_market(tmp_path)
    files = sorted((datadir / "futures").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    assert demo_market(tmp_path) == datadir
    assert [file.stat().st_mtime_ns for file in files] == before
    assert {file.name.split("-")[0] for file in files} == {"BTC_USDT_USDT", "ETH_USDT_USDT"}


FIGURES = {
    "n_trades": 3.0,
    "log_return": {"value": -0.0125, "low": None, "high": None},
    "oracle_share": {"value": None, "low": None, "high": None},
    "buy_and_hold": 0.5,
    "random_median": 0.001,
    "random_rank": 0.25,
}


def test_the_table_shows_what_is_known_and_all_pairs_last() -> None:
    pairs = ("all", "BTC/USDT:USDT", "ETH/USDT:USDT")
    table = demo._verdict_table([{"pair": pair, **FIGURES} for pair in pairs])
    rows = list(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert [row[0] for row in rows] == ["BTC/USDT", "ETH/USDT", "all"]
    # Nobody can earn anything there, and there are no classic entries.
    assert rows[0][1:] == ("3", "-0.013", "-", "+0.500", "-", "+0.001", "25%")


def test_a_replay_that_differs_is_told_and_a_policy_that_is_none() -> None:
    differs = check_row("BTC/USDT:USDT: simulator agrees", "replayed", "the same", "leverage is 2")
    (line,) = demo._verdict_lines([differs])
    assert line == "BTC/USDT:USDT: the replay differs from the backtest: leverage is 2"
    policies = [
        check_row(f"{pair}: is a policy", found, "not degenerate", why)
        for pair, found, why in (
            ("BTC/USDT:USDT", "not degenerate", None),
            ("ETH/USDT:USDT", "never exits", "never exits"),
            ("SOL/USDT:USDT", "stands aside, took 1 of 99 classic entries", None),
        )
    ]
    first, second, third, *legend = demo._verdict_lines(policies)
    assert first == "BTC/USDT:USDT: not degenerate"
    assert second == "ETH/USDT:USDT: DEGENERATE, never exits"
    assert third == "SOL/USDT:USDT: stands aside, took 1 of 99 classic entries"
    assert [text.split()[0] for text in legend[:3]] == ["of", "hold", "random"]


@pytest.mark.parametrize(
    ("said", "words"),
    [({}, "ended without a word"), ({"error": "BTC/USDT:USDT: no candle"}, "USDT: no candle")],
)
def test_a_backtest_that_could_not_be_judged_is_an_error_that_says_why(
    said: dict[str, str], words: str, tmp_path: Path
) -> None:
    record = RunRecord.begin(tmp_path, "demo")
    if said:
        record.events().write("judged", **said)
    with pytest.raises(RunError, match=f"^the backtest is not set beside the baselines: .*{words}"):
        judgment_in(Run.open(record.folder))


def test_the_verdict_names_the_pairs_that_are_not_in_it(tmp_path: Path) -> None:
    record = RunRecord.begin(tmp_path, "demo", pairs=["BTC/USDT:USDT"])
    record.events().write("left_out", pair="ETH/USDT:USDT", reason="ETH/USDT:USDT: no candles")
    record.events().write("judged", verdict="no evidence", checks=[])
    verdict, checks, left_out = judgment_in(Run.open(record.folder))
    assert (verdict, checks) == ("no evidence; 1 of 2 pairs left out: ETH/USDT:USDT", [])
    assert left_out == ["left out: ETH/USDT:USDT: no candles"]
