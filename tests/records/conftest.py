"""Small records to read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtf_scalper.records.writer import RunRecord

PAIR = "BTC/USDT:USDT"
MakeRecord = Callable[..., RunRecord]


@pytest.fixture
def make_record(tmp_path: Path) -> MakeRecord:
    """Return a maker of finished records with figures and a check, in ``tmp_path``."""

    def make(kind: str = "demo", *, sharpe: float = 1.0, **facts: Any) -> RunRecord:
        given = {"pairs": [PAIR], "timerange": "20240101-20240201", **facts}
        with RunRecord.begin(tmp_path, kind, **given) as record:
            figures = [
                {"pair": PAIR, "window": "w1", "seed": 1, "sharpe": 99.0},
                {"pair": "all", "sharpe": sharpe, "drawdown": {"median": 0.1, "low": 0, "high": 1}},
            ]
            record.write_json("figures", figures)
            check = {"name": "threads", "measured": "2", "expected": "2", "verdict": "passed"}
            record.write_json("checks", [check])
            record.finish("no evidence of an edge over classic exits (SPA p = 0.41)")
        return record

    return make
