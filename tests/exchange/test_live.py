"""A clock that runs, and prices that move inside the candle."""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from mtf_scalper import clock as clocks
from mtf_scalper.clock import RunningClock, to_ms
from mtf_scalper.exchange import running_exchange, slow_clients
from mtf_scalper.exchange.store import Candles
from mtf_scalper.exchange.within_candle import formed_part
from mtf_scalper.runs.clocked import ClockError, clock_of, clocked_command

Recorded = Callable[[str], pd.DataFrame]
FIVE_MIN_MS = 300_000
BEGIN = datetime(2024, 1, 4, 10, 40, tzinfo=UTC)
SPEED = 100.0


def get(client: httpx.Client, path: str, **parameters: Any) -> Any:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The machine's clock, one number of nanoseconds that a test may change."""
    shown = [1_700_000_000_000_000_000]
    monkeypatch.setattr(clocks, "machine_time_ns", lambda: shown[0])
    return shown


@pytest.fixture
def live(datadir: Path, machine: list[int]) -> Iterator[httpx.Client]:
    clock = RunningClock.starting_at(BEGIN, SPEED)
    with (
        running_exchange(datadir, now=clock, spread=0.001) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        yield client


def test_the_clock_runs_at_its_speed_and_survives_being_written_down(machine: list[int]) -> None:
    clock = RunningClock.starting_at(BEGIN, 300.0)
    assert clock.now_ms() == to_ms(BEGIN)
    machine[0] += 2_000_000_000
    assert clock.now_ms() == to_ms(BEGIN) + 600_000
    assert RunningClock.from_text(str(clock)) == clock


def test_candles_arrive_as_they_close_and_are_the_recorded_ones(
    live: httpx.Client, machine: list[int], recorded: Recorded
) -> None:
    source = recorded("BTC-5m-futures").set_index("ms")
    begin_ms = to_ms(BEGIN)
    ask = {"symbol": "BTCUSDT", "interval": "5m", "limit": 3}
    for step in range(4):
        now_ms = get(live, "/fapi/v1/time")["serverTime"]
        assert now_ms == begin_ms + step * FIVE_MIN_MS
        rows = get(live, "/fapi/v1/klines", **ask)
        assert [row[0] for row in rows] == [now_ms - 2 * FIVE_MIN_MS, now_ms - FIVE_MIN_MS, now_ms]
        for row in rows[:-1]:
            wanted = source.loc[row[0], ["open", "high", "low", "close", "volume"]].tolist()
            assert [float(text) for text in row[1:6]] == wanted
        # At its first moment the next candle is its open, and nothing else of it is told.
        assert [float(text) for text in rows[-1][1:6]] == [source.loc[now_ms, "open"]] * 4 + [0.0]
        machine[0] += round(FIVE_MIN_MS * 1e6 / SPEED)


def test_all_prices_of_one_moment_agree(live: httpx.Client, machine: list[int]) -> None:
    machine[0] += round(100_000 * 1e6 / SPEED)  # a third of the candle
    last = float(get(live, "/fapi/v1/ticker/price", symbol="BTCUSDT")["price"])
    forming = get(live, "/fapi/v1/klines", symbol="BTCUSDT", interval="5m", limit=1)[0]
    hour = get(live, "/fapi/v1/klines", symbol="BTCUSDT", interval="1h", limit=1)[0]
    book = get(live, "/fapi/v1/ticker/bookTicker", symbol="BTCUSDT")
    day = get(live, "/fapi/v1/ticker/24hr", symbol="BTCUSDT")
    mark = get(live, "/fapi/v1/premiumIndex", symbol="BTCUSDT")
    prices = [forming[4], hour[4], book["bidPrice"], day["lastPrice"], mark["markPrice"]]
    assert {float(price) for price in prices} == {last}
    assert float(book["askPrice"]) == pytest.approx(last * 1.001, abs=0.1)


def test_the_whole_candle_is_seen_by_its_end_and_nothing_before_it_happens() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        opened, close = np.round(rng.uniform(99.0, 101.0, 2), 2)
        high = round(max(opened, close) + rng.uniform(0.0, 1.0), 2)
        low = round(min(opened, close) - rng.uniform(0.0, 1.0), 2)
        columns = [np.array([value]) for value in (opened, high, low, close, 10.0)]
        candle = Candles(FIVE_MIN_MS, np.array([0]), *columns)
        seen = [formed_part(candle, at, 2) for at in range(0, FIVE_MIN_MS + 1, 5_000)]
        assert seen[0].close[0] == seen[0].high[0] == seen[0].low[0] == opened
        end = seen[-1]
        values = (end.open[0], end.high[0], end.low[0], end.close[0], end.volume[0])
        assert values == (opened, high, low, close, 10.0)
        assert all(low <= each.close[0] <= high for each in seen)
        for before, after in itertools.pairwise(seen):
            assert after.high[0] == max(before.high[0], after.high[0])
            assert after.low[0] == min(before.low[0], after.low[0])
            assert after.low[0] <= after.close[0] <= after.high[0]


def test_the_clock_can_be_asked_for_where_it_runs(live: httpx.Client, exchange_url: str) -> None:
    told = RunningClock.from_text(get(live, clocks.CLOCK_PATH)["clock"])
    assert told.from_ms == to_ms(BEGIN)
    assert httpx.get(exchange_url + clocks.CLOCK_PATH, trust_env=False).status_code == 404


@pytest.mark.parametrize("sent", [b"", b"GET /fapi/v1/ping HTTP/1.1\r\nHost: x\r\n"])
def test_a_request_that_does_not_end_loses_its_connection(
    datadir: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(slow_clients, "REQUEST_SECONDS", 0.3)
    with running_exchange(datadir) as url:
        where = httpx.URL(url)
        with socket.create_connection((where.host, where.port or 0), timeout=10) as client:
            client.sendall(sent)
            began = time.monotonic()
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
            assert time.monotonic() - began < 5.0
        # A second request of one connection has a deadline of its own, and answers go on.
        with httpx.Client(base_url=url, trust_env=False) as other:
            for _ in range(3):
                assert other.get("/fapi/v1/ping").json() == {}
                time.sleep(0.2)


def test_a_header_without_end_is_refused(datadir: Path) -> None:
    with running_exchange(datadir) as url:
        where = httpx.URL(url)
        with socket.create_connection((where.host, where.port or 0), timeout=10) as client:
            client.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * (2 * slow_clients.MOST_HEADER_BYTES))
            assert client.recv(100).startswith(b"HTTP/1.1 400")


PROGRAM = """
import asyncio, datetime, json, threading, time
from time import time as by_name
began, mono = by_name(), time.monotonic()
time.sleep(30)
slept, real = by_name() - began, time.monotonic() - mono
async def wait():
    before = time.monotonic()
    await asyncio.sleep(0.1)
    return time.monotonic() - before
inside = []
thread = threading.Thread(target=lambda: inside.append(datetime.datetime.now(datetime.UTC)))
thread.start(); thread.join()
print(json.dumps({"began": began, "slept": slept, "real": real, "asyncio": asyncio.run(wait()),
                  "thread": inside[0].timestamp() - by_name()}))
"""


@pytest.mark.program
def test_a_program_lives_by_the_clock_and_waits_for_the_network_in_real_time(
    tmp_path: Path,
) -> None:
    (tmp_path / "asked.py").write_text(PROGRAM, encoding="utf-8")
    clock = RunningClock.starting_at(BEGIN, SPEED)
    command = clocked_command(clock, [sys.executable, "-m", "asked"])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert BEGIN.timestamp() < told["began"] < clock.now_ms() / 1000
    assert told["slept"] >= 30.0
    assert 0.25 < told["real"] < 5.0
    assert 0.09 < told["asyncio"] < 5.0
    assert abs(told["thread"]) < 300.0


def test_an_exchange_without_a_running_clock_is_refused_in_one_line(exchange_url: str) -> None:
    with pytest.raises(ClockError, match="has no clock that runs; start it with: mtf-scalper"):
        clock_of(exchange_url)
    with pytest.raises(ClockError, match=r"no live exchange at http://127\.0\.0\.1:9 "):
        clock_of("http://127.0.0.1:9")
