"""The real bot is killed in every phase and started again; a hundred times in a benchmark."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from ready_python import ReadyPython

from mtf_scalper.records.reader import runs_in
from mtf_scalper.worlds.datadir import ensure_datadir

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def kills() -> Iterator[ModuleType]:
    """The benchmark, imported as its own scripts are, without a trace."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield __import__("kills")
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
                del sys.modules[name]


@pytest.mark.slow
def test_a_bot_that_is_killed_goes_on_from_what_it_has_saved(
    kills: ModuleType, ready_python: ReadyPython, tmp_path: Path
) -> None:
    data, project = tmp_path / "data", kills.linked_project(tmp_path)
    ensure_datadir(kills.MARKET, data, *kills.PERIOD)
    plan = kills.bot_plan(project, data)
    with kills.killed_bot(plan, ready_python) as bot:
        kills.kill_often(bot)
        candles = plan.bot / "data" / "futures" / "BTC_USDT_USDT-5m-futures.feather"
        whole = candles.read_bytes()
        candles.write_bytes(whole[: len(whole) // 2])  # as where freqtrade was killed writing it
        last = bot.last_start()
        log = bot.log(last).read_text(encoding="utf-8")
    assert f"BTC/USDT:USDT: {candles.resolve()} cannot be read (" in log
    assert candles.stat().st_size > len(whole) // 2
    lives = [*bot.kills, last]
    assert [fault for life in lives for fault in life.faults] == []
    hit = {phase for life in bot.kills for phase in life.hit}
    assert len(hit) >= 3, hit  # a busy machine may miss some
    assert max(life.lost for life in lives) <= 1
    runs = runs_in(plan.bot / "runs")
    assert {run.status for run in runs} == {"killed", "finished"}
    assert kills.records_listed(plan.bot) == len(runs) - 1
