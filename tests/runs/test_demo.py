from __future__ import annotations

from pathlib import Path

import pytest

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.runs import demo
from mtf_scalper.runs.project import demo_market


def test_the_demo_runs_only_in_the_projects_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MtfScalperError, match=r"configs/config_rl_hybrid\.json; run this from"):
        demo.run_demo(lambda _: pytest.fail("not needed"))


def test_the_demo_market_is_written_once(tmp_path: Path) -> None:
    datadir = demo_market(tmp_path)
    files = sorted((datadir / "futures").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    assert demo_market(tmp_path) == datadir
    assert [file.stat().st_mtime_ns for file in files] == before
    assert {file.name.split("-")[0] for file in files} == {"BTC_USDT_USDT", "ETH_USDT_USDT"}
