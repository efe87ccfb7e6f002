"""Faults that are asked for, one by one, and that they end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from mtf_scalper.clock import CLOCK_PATH, RunningClock, to_ms
from mtf_scalper.exchange import Fault, FaultPlan, running_exchange, slow_clients
from mtf_scalper.exchange.faults import FaultError

Recorded = Callable[[str], pd.DataFrame]
FIVE = timedelta(minutes=5)
FIVE_MS = 300_000
NOW = datetime(2024, 1, 4, 10, 42, tzinfo=UTC)
LAST = NOW.replace(minute=35)  # opening time of the last candle that has closed
ASKED = {"symbol": "BTCUSDT", "interval": "5m", "limit": 3}


@contextmanager
def faulty(datadir: Path, plan: FaultPlan, now: datetime = NOW) -> Iterator[httpx.Client]:
    with (
        running_exchange(datadir, now=now, fault=plan) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=10) as client,
    ):
        yield client


def klines(client: httpx.Client, **more: Any) -> list[list[Any]]:
    answer = client.get("/fapi/v1/klines", params={**ASKED, **more})
    assert answer.status_code == 200, answer.text
    rows: list[list[Any]] = answer.json()
    return rows


@pytest.mark.parametrize(
    ("fault", "status", "code", "retry_after"),
    [
        (Fault.SERVER_ERROR, 503, -1001, None),
        (Fault.TOO_MANY_REQUESTS, 429, -1003, "300"),
        (Fault.BANNED, 418, -1003, "300"),
    ],
)
def test_requests_are_refused_for_a_while(
    datadir: Path, fault: Fault, status: int, code: int, retry_after: str | None
) -> None:
    with faulty(datadir, FaultPlan(fault, begin=NOW, end=NOW + FIVE)) as client:
        for path in ("/fapi/v1/ping", "/fapi/v1/exchangeInfo"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert answer.headers.get("retry-after") == retry_after
    for begin, end in ((NOW + FIVE, None), (None, NOW)):
        with faulty(datadir, FaultPlan(fault, begin=begin, end=end)) as client:
            assert client.get("/fapi/v1/ping").status_code == 200


def test_a_request_that_times_out_gets_nothing_and_holds_nobody(
    datadir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_clients, "REQUEST_SECONDS", 0.3)
    with (
        faulty(datadir, FaultPlan(Fault.TIMEOUT)) as client,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        client.get("/fapi/v1/ping")


def test_json_is_cut_in_a_whole_answer(datadir: Path) -> None:
    with faulty(datadir, FaultPlan(Fault.TRUNCATED_JSON)) as client:
        answer = client.get("/fapi/v1/klines", params=ASKED)
        assert answer.status_code == 200
        with pytest.raises(ValueError, match=r"Expecting|Unterminated|delimiter"):
            answer.json()


@pytest.mark.parametrize(
    ("fault", "steps"),
    [(Fault.MISSING_CANDLE, [-2, 0]), (Fault.DUPLICATE_CANDLE, [-2, -1, -1, 0])],
)
def test_a_candle_is_missing_or_told_twice(datadir: Path, fault: Fault, steps: list[int]) -> None:
    plan = FaultPlan(fault, "BTCUSDT", LAST, LAST + FIVE)
    forming_ms = to_ms(LAST) + FIVE_MS
    with faulty(datadir, plan) as client:
        assert [row[0] for row in klines(client)] == [forming_ms + step * FIVE_MS for step in steps]
        whole = [forming_ms + step * FIVE_MS for step in (-2, -1, 0)]
        assert [row[0] for row in klines(client, symbol="ETHUSDT")] == whole


def test_a_candle_is_corrected_one_candle_later(datadir: Path, recorded: Recorded) -> None:
    close = recorded("BTC-5m-futures").set_index("ms").loc[to_ms(LAST), "close"]
    plan = FaultPlan(Fault.LATE_CORRECTION, begin=LAST, end=LAST + FIVE)
    with faulty(datadir, plan) as client:
        told = klines(client)[-2]
        assert float(told[4]) == pytest.approx(close * 1.005)
        assert float(told[2]) >= float(told[4])
    with faulty(datadir, plan, NOW + FIVE) as client:
        assert float(klines(client)[-3][4]) == close


@pytest.mark.parametrize(
    ("fault", "seconds"), [(Fault.CLOCK_AHEAD_1S, 1), (Fault.CLOCK_AHEAD_5S, 5)]
)
def test_the_exchange_is_ahead_of_its_clients(datadir: Path, fault: Fault, seconds: int) -> None:
    with faulty(datadir, FaultPlan(fault)) as client:
        told = client.get("/fapi/v1/time").json()["serverTime"]
        assert told == to_ms(NOW) + seconds * 1000
    clock = RunningClock.starting_at(NOW, 1.0)
    with running_exchange(datadir, now=clock, fault=FaultPlan(fault)) as url:
        assert httpx.get(url + CLOCK_PATH, trust_env=False).json() == {"clock": str(clock)}


def test_a_pair_is_delisted(datadir: Path) -> None:
    with faulty(datadir, FaultPlan(Fault.DELISTED, "ETHUSDT")) as client:
        listed = client.get("/fapi/v1/exchangeInfo").json()["symbols"]
        tickers = client.get("/fapi/v1/ticker/24hr").json()
        gone = client.get("/fapi/v1/klines", params={**ASKED, "symbol": "ETHUSDT"})
        assert [each["symbol"] for each in listed] == ["BTCUSDT"]
        assert [each["symbol"] for each in tickers] == ["BTCUSDT"]
        assert (gone.status_code, gone.json()["code"]) == (400, -1121)
        assert len(klines(client)) == 3
        marks = client.get("/fapi/v1/markPriceKlines", params={**ASKED, "interval": "1h"})
        assert len(marks.json()) == 3


def test_prices_are_zero(datadir: Path) -> None:
    with faulty(datadir, FaultPlan(Fault.ZERO_PRICE, "BTCUSDT", begin=LAST)) as client:
        assert [float(row[4]) > 0.0 for row in klines(client)] == [True, False, False]
        for path in ("ticker/price", "ticker/bookTicker", "premiumIndex"):
            bitcoin, ether = client.get(f"/fapi/v1/{path}").json()
            names = [name for name in bitcoin if name == "price" or name.endswith("Price")]
            assert names
            assert {float(bitcoin[name]) for name in names} == {0.0}
            assert min(float(ether[name]) for name in names) > 0.0
        book = client.get("/fapi/v1/depth", params={"symbol": "BTCUSDT", "limit": 5}).json()
        assert {level[0] for level in book["bids"] + book["asks"]} == {"0"}


def test_a_fault_that_there_is_not_is_named() -> None:
    with pytest.raises(FaultError, match=r"--fault quake: there is none .*timeout, server-error"):
        FaultPlan.named("quake")
    with pytest.raises(FaultError, match="--fault-minutes needs --fault-from"):
        FaultPlan.named("timeout", minutes=5)
    assert FaultPlan.named("timeout", None, NOW, 5) == FaultPlan(
        Fault.TIMEOUT, None, NOW, NOW + FIVE
    )
