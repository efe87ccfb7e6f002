"""The real bot through one fault of the exchange, and what the benchmark of all makes of that."""

import importlib
import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from mtf_scalper.exchange import CandleStore
from mtf_scalper.exchange.symbols import CandleKind
from mtf_scalper.worlds.datadir import write_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def faults() -> Iterator[ModuleType]:
    """The benchmark, imported as a script among the others imports it."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("exchange_faults")
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in ("exchange_faults", "report"):
            sys.modules.pop(name, None)


@pytest.mark.program
@pytest.mark.slow
@pytest.mark.usefixtures("no_child_left")
def test_the_bot_goes_on_after_candles_and_prices_of_zero(
    faults: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, minutes in {"BEFORE": 10, "DURING": 15, "AFTER": 25}.items():
        monkeypatch.setattr(faults, name, timedelta(minutes=minutes))
    found = faults.Outcome(**faults.outcome_of("zero-price", str(tmp_path), compares=False))
    assert found.ended == ""
    assert min(found.decided[0], found.decided[2]) > 0
    assert found.entered_badly == 0
    assert found.worst > -0.1
    assert found.tracebacks[1] == 0
    told = " ".join(found.warnings)
    assert "is not analysed, nothing is entered" in told
    assert "candles with prices that no market can have count as missing" in told


def outcome(faults: ModuleType, **values: Any) -> Any:
    good = {
        "name": "none",
        "ended": "",
        "decided": (9, 9, 9),
        "entered": (2, 0, 2),
        "held": 1,
        "entered_badly": 0,
        "missed": 0,
        "due": 9,
        "unequal": [],
        "worst": -0.01,
        "longest": 30.0,
        "errors": [],
        "tracebacks": (3, 0),
        "warnings": [],
        "megabytes": (900.0, 910.0),
    }
    return faults.Outcome(**{**good, **values})


@pytest.mark.parametrize(
    ("values", "requirement"),
    [
        ({"ended": "freqtrade ended by itself"}, "bots that ended"),
        ({"decided": (9, 9, 0)}, "bots that did not decide and trade again"),
        ({"entered": (2, 2, 0)}, "bots that did not decide and trade again"),
        ({"entered_badly": 1}, "trades begun on data known to be bad"),
        ({"unequal": ["BTC"]}, "decisions unlike a backtest's, before and after"),
        ({"tracebacks": (3, 1)}, "tracebacks of this package"),
        ({"missed": 5}, "share of the candles from 15 minutes after a fault on that were missed"),
        ({"megabytes": (900.0, 1300.0)}, "memory at the end over that when the fault began"),
        ({"megabytes": (float("nan"), 900.0)}, "memory at the end over that when the fault began"),
    ],
)
def test_every_requirement_can_fail(
    faults: ModuleType, values: dict[str, Any], requirement: str
) -> None:
    good = outcome(faults)
    assert all(each.met for each in faults.measured([good, good]).requirements)
    found = faults.measured([good, outcome(faults, **values)])
    assert [each.what for each in found.requirements if not each.met] == [requirement]
    json.dumps(found.results)


def test_a_market_halves_and_funding_comes_every_four_hours(
    faults: ModuleType, tmp_path: Path
) -> None:
    spec = SyntheticSpec(pairs=tuple(map(pair_spec, faults.PAIRS)))
    write_datadir(spec, tmp_path, "2024-01-12", "2024-01-15")
    before = CandleStore(tmp_path)
    kept = {
        (symbol, interval): before.candles(symbol, CandleKind.TRADES, interval)
        for symbol in before.symbols
        for interval in ("5m", "15m", "1h")
    }
    faults.halved(tmp_path)
    faults.four_hourly(tmp_path)
    after = CandleStore(tmp_path)
    bitcoin, ether = after.symbols
    at = int(pd.Timestamp(faults.FIXED).timestamp() * 1000)
    for interval in ("5m", "15m", "1h"):
        was, has = kept[bitcoin, interval], after.candles(bitcoin, CandleKind.TRADES, interval)
        is_later = has.open_ms > at
        assert has.close[is_later] == pytest.approx(was.close[is_later] / 2, abs=0.1)
        is_before = has.open_ms + has.interval_ms <= at
        assert (has.close[is_before] == was.close[is_before]).all()
    assert (after.finest(ether).close == kept[ether, "5m"].close).all()
    hours = (after.funding(bitcoin).time_ms // 3_600_000) % 24
    assert set(hours[after.funding(bitcoin).time_ms > at]) == {0, 4, 8, 12, 16, 20}
    assert set(hours[after.funding(bitcoin).time_ms < at - 5 * 3_600_000]) == {0, 8, 16}
