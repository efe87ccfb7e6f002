"""Pagination, limits, clock and error bodies of the served calls, over real HTTP."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from mtf_scalper.exchange import running_exchange

Recorded = Callable[[str], pd.DataFrame]

FIVE_MIN_MS = 300_000
HOUR_MS = 3_600_000
START_MS = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)
END_MS = int(datetime(2024, 1, 11, tzinfo=UTC).timestamp() * 1000)
KLINES = "/fapi/v1/klines"
FUNDING = "/fapi/v1/fundingRate"


def get(client: httpx.Client, path: str, **parameters: Any) -> Any:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def klines(client: httpx.Client, **parameters: Any) -> list[list[Any]]:
    rows: list[list[Any]] = get(
        client, KLINES, **{"symbol": "BTCUSDT", "interval": "5m", **parameters}
    )
    return rows


def test_a_kline_has_the_documented_fields_and_the_recorded_values(
    client: httpx.Client, recorded: Recorded
) -> None:
    row = klines(client, startTime=START_MS + 7 * FIVE_MIN_MS, limit=1)[0]
    source = recorded("BTC-5m-futures").iloc[7]
    assert [type(field) for field in row] == [int, *[str] * 5, int, str, int, *[str] * 3]
    assert (row[0], row[6]) == (source["ms"], source["ms"] + FIVE_MIN_MS - 1)
    columns = ["open", "high", "low", "close", "volume"]
    assert [float(text) for text in row[1:6]] == source[columns].tolist()
    mean_price = source[["open", "high", "low", "close"]].mean()
    assert float(row[7]) == pytest.approx(source["volume"] * mean_price, abs=1e-4)


def test_klines_default_to_the_newest_500_and_end_with_the_forming_one(
    client: httpx.Client, recorded: Recorded
) -> None:
    rows = klines(client)
    source = recorded("BTC-5m-futures")
    assert [row[0] for row in rows] == [*source["ms"].tolist()[-499:], END_MS]
    last_close = source["close"].iloc[-1]
    assert [float(text) for text in rows[-1][1:6]] == [*[last_close] * 4, 0.0]


@pytest.mark.parametrize("limit", [1, 2, 499, 1500])
def test_klines_with_start_are_the_oldest_from_it(client: httpx.Client, limit: int) -> None:
    start_ms = START_MS + 100 * FIVE_MIN_MS
    rows = klines(client, startTime=start_ms - 1, limit=limit)
    assert [row[0] for row in rows] == [start_ms + i * FIVE_MIN_MS for i in range(limit)]


@pytest.mark.parametrize("limit", [1, 2, 1500])
def test_klines_with_end_alone_are_the_newest_up_to_it(client: httpx.Client, limit: int) -> None:
    end_ms = START_MS + 2000 * FIVE_MIN_MS
    rows = klines(client, endTime=end_ms, limit=limit)
    assert [row[0] for row in rows] == [end_ms - i * FIVE_MIN_MS for i in reversed(range(limit))]


def test_start_and_end_are_both_included(client: httpx.Client) -> None:
    start_ms, end_ms = START_MS + HOUR_MS, START_MS + 2 * HOUR_MS
    rows = klines(client, startTime=start_ms, endTime=end_ms)
    assert [row[0] for row in rows] == list(range(start_ms, end_ms + 1, FIVE_MIN_MS))


def test_start_before_the_first_candle_finds_the_first(client: httpx.Client) -> None:
    assert klines(client, startTime=0, limit=1)[0][0] == START_MS


def test_start_after_the_clock_finds_nothing(client: httpx.Client) -> None:
    assert klines(client, startTime=END_MS + 1) == []


@pytest.mark.parametrize("limit", [3, 4, 5])
def test_the_forming_kline_counts_towards_the_limit(client: httpx.Client, limit: int) -> None:
    rows = klines(client, startTime=END_MS - 3 * FIVE_MIN_MS, limit=limit)
    assert [row[0] for row in rows] == [
        END_MS + (i - 3) * FIVE_MIN_MS for i in range(min(limit, 4))
    ]


def test_pages_join_to_the_whole_file(client: httpx.Client, recorded: Recorded) -> None:
    pages: list[list[Any]] = []
    while not pages or pages[-1][0] < END_MS - FIVE_MIN_MS:
        start_ms = pages[-1][0] + 1 if pages else 0
        pages += klines(client, startTime=start_ms, endTime=END_MS - 1, limit=700)
    source = recorded("BTC-5m-futures")
    assert [row[0] for row in pages] == source["ms"].tolist()
    assert [float(row[4]) for row in pages] == source["close"].tolist()


def test_mark_klines_are_exact_and_have_no_volume(client: httpx.Client, recorded: Recorded) -> None:
    rows = get(
        client, "/fapi/v1/markPriceKlines", symbol="ETHUSDT", interval="1h", endTime=END_MS - 1
    )
    source = recorded("ETH-1h-mark")
    assert [float(row[1]) for row in rows] == source["open"].tolist()
    assert {(row[5], row[7]) for row in rows} == {("0", "0")}


def test_funding_history_pages(client: httpx.Client, recorded: Recorded) -> None:
    source = recorded("BTC-1h-funding_rate")
    newest = get(client, FUNDING, symbol="BTCUSDT", limit=4)
    oldest = get(client, FUNDING, symbol="BTCUSDT", limit=4, startTime=START_MS)
    for rows, expected in ((newest, source.tail(4)), (oldest, source.head(4))):
        assert [row["fundingTime"] for row in rows] == expected["ms"].tolist()
        assert [float(row["fundingRate"]) for row in rows] == expected["open"].tolist()
    assert set(newest[0]) == {"symbol", "fundingRate", "fundingTime", "markPrice"}
    marks = recorded("BTC-1h-mark").set_index("ms")
    mark_before = marks["close"][newest[-1]["fundingTime"] - HOUR_MS]
    assert float(newest[-1]["markPrice"]) == mark_before


def test_funding_start_and_end_are_both_included(client: httpx.Client) -> None:
    start_ms, end_ms = START_MS + 8 * HOUR_MS, START_MS + 24 * HOUR_MS
    rows = get(client, FUNDING, symbol="BTCUSDT", startTime=start_ms, endTime=end_ms)
    assert [row["fundingTime"] for row in rows] == [start_ms, start_ms + 8 * HOUR_MS, end_ms]


def test_funding_of_all_symbols_is_in_order_of_time(client: httpx.Client) -> None:
    rows = get(client, FUNDING, startTime=START_MS, limit=3)
    assert [(row["symbol"], row["fundingTime"] - START_MS) for row in rows] == [
        ("BTCUSDT", 0),
        ("ETHUSDT", 0),
        ("BTCUSDT", 8 * HOUR_MS),
    ]


def test_clock_stands_at_the_close_of_the_last_candle(client: httpx.Client) -> None:
    assert get(client, "/fapi/v1/ping") == {}
    assert get(client, "/fapi/v1/time") == {"serverTime": END_MS}


def test_exchange_info_lists_the_recorded_contracts(client: httpx.Client) -> None:
    info = get(client, "/fapi/v1/exchangeInfo")
    assert [entry["symbol"] for entry in info["symbols"]] == ["BTCUSDT", "ETHUSDT"]
    btc = info["symbols"][0]
    assert (btc["contractType"], btc["status"], btc["marginAsset"], btc["onboardDate"]) == (
        "PERPETUAL",
        "TRADING",
        "USDT",
        START_MS,
    )
    filters = {entry["filterType"]: entry for entry in btc["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.1"
    assert filters["LOT_SIZE"]["stepSize"] == filters["MARKET_LOT_SIZE"]["stepSize"] == "0.001"
    assert float(filters["MIN_NOTIONAL"]["notional"]) > 0


@pytest.mark.parametrize("path", ["/api/v3/exchangeInfo", "/dapi/v1/exchangeInfo"])
def test_other_markets_are_empty(client: httpx.Client, path: str) -> None:
    assert get(client, path)["symbols"] == []


def test_tickers_tell_the_last_day(client: httpx.Client, recorded: Recorded) -> None:
    day = recorded("BTC-5m-futures").tail(288)
    ticker = get(client, "/fapi/v1/ticker/24hr", symbol="BTCUSDT")
    assert float(ticker["openPrice"]) == day["open"].iloc[0]
    assert float(ticker["highPrice"]) == day["high"].max()
    assert float(ticker["lowPrice"]) == day["low"].min()
    assert float(ticker["lastPrice"]) == day["close"].iloc[-1]
    assert float(ticker["volume"]) == pytest.approx(day["volume"].sum(), abs=1e-3)
    for version in ("v1", "v2"):
        price = get(client, f"/fapi/{version}/ticker/price", symbol="BTCUSDT")
        assert float(price["price"]) == day["close"].iloc[-1]


@pytest.mark.parametrize("call", ["ticker/24hr", "ticker/price", "ticker/bookTicker"])
def test_tickers_without_symbol_are_a_list(client: httpx.Client, call: str) -> None:
    rows = get(client, f"/fapi/v1/{call}")
    assert [row["symbol"] for row in rows] == ["BTCUSDT", "ETHUSDT"]
    assert get(client, f"/fapi/v1/{call}", symbol="ETHUSDT") == rows[1]


def test_order_book_straddles_the_last_close(client: httpx.Client, recorded: Recorded) -> None:
    close = recorded("ETH-5m-futures")["close"].iloc[-1]
    book = get(client, "/fapi/v1/depth", symbol="ETHUSDT", limit=20)
    bids = [float(price) for price, _ in book["bids"]]
    asks = [float(price) for price, _ in book["asks"]]
    assert bids == pytest.approx([close - 0.1 * level for level in range(20)])
    assert asks == pytest.approx([close + 0.1 * level for level in range(1, 21)])
    assert all(float(quantity) > 0 for _, quantity in book["bids"] + book["asks"])
    best = get(client, "/fapi/v1/ticker/bookTicker", symbol="ETHUSDT")
    assert [best["bidPrice"], best["askPrice"]] == [book["bids"][0][0], book["asks"][0][0]]


def test_premium_index_tells_mark_and_funding(client: httpx.Client, recorded: Recorded) -> None:
    index = get(client, "/fapi/v1/premiumIndex", symbol="BTCUSDT")
    assert float(index["markPrice"]) == recorded("BTC-1h-mark")["close"].iloc[-1]
    assert float(index["lastFundingRate"]) == recorded("BTC-1h-funding_rate")["open"].iloc[-1]
    assert index["nextFundingTime"] == END_MS + 8 * HOUR_MS
    assert len(get(client, "/fapi/v1/premiumIndex")) == 2


@pytest.mark.parametrize(
    ("path", "parameters", "code", "message"),
    [
        (KLINES, {"symbol": "NOPE", "interval": "5m"}, -1121, "Invalid symbol."),
        (KLINES, {"symbol": "BTCUSDT", "interval": "7m"}, -1120, "Invalid interval."),
        (
            KLINES,
            {"symbol": "BTCUSDT", "interval": "4h"},
            -1120,
            "Invalid interval. The data directory has no BTC_USDT_USDT-4h-futures.feather.",
        ),
        (
            KLINES,
            {"interval": "5m"},
            -1102,
            "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.",
        ),
        (
            KLINES,
            {"symbol": "BTCUSDT"},
            -1102,
            "Mandatory parameter 'interval' was not sent, was empty/null, or malformed.",
        ),
        (KLINES, {"symbol": "", "interval": "5m"}, -1105, "Parameter 'symbol' was empty."),
        (
            KLINES,
            {"symbol": "BTCUSDT", "interval": "5m", "limit": 1501},
            -1130,
            "Data sent for parameter 'limit' is not valid.",
        ),
        (FUNDING, {"limit": 1001}, -1130, "Data sent for parameter 'limit' is not valid."),
        (FUNDING, {"limit": 0}, -1130, "Data sent for parameter 'limit' is not valid."),
        (
            FUNDING,
            {"startTime": "yesterday"},
            -1100,
            "Illegal characters found in parameter 'startTime'; legal range is '^[0-9]{1,20}$'.",
        ),
        (
            FUNDING,
            {"endTime": 10**19},
            -1100,
            "Illegal characters found in parameter 'endTime'; legal range is '^[0-9]{1,20}$'.",
        ),
        (
            KLINES,
            {"symbol": "BTCUSDT", "interval": "5m", "startTime": 2, "endTime": 1},
            -1023,
            "Start time is greater than end time.",
        ),
        (
            "/fapi/v1/depth",
            {"symbol": "BTCUSDT", "limit": 7},
            -4021,
            "7 is not valid depth limit.",
        ),
        ("/fapi/v1/ticker/24hr", {"symbol": "NOPE"}, -1121, "Invalid symbol."),
    ],
)
def test_refused_requests_have_binances_body(
    client: httpx.Client, path: str, parameters: dict[str, Any], code: int, message: str
) -> None:
    answer = client.get(path, params=parameters)
    assert (answer.status_code, answer.json()) == (400, {"code": code, "msg": message})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/fapi/v1/leverageBracket", 404), ("POST", "/fapi/v1/ping", 405)],
)
def test_calls_that_are_not_served_say_so(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json() == {"code": -5000, "msg": f"Path {path}, Method {method} is invalid"}


def test_an_earlier_clock_hides_what_comes_after_it(datadir: Path, recorded: Recorded) -> None:
    now = datetime(2024, 1, 4, 10, 42, tzinfo=UTC)
    now_ms = int(now.timestamp() * 1000)
    with (
        running_exchange(datadir, now=now) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        (closed, forming) = get(client, KLINES, symbol="BTCUSDT", interval="1h", limit=2)
        (quarter,) = get(client, KLINES, symbol="BTCUSDT", interval="15m", limit=1)
        (funding,) = get(client, FUNDING, symbol="BTCUSDT", limit=1)
        asked_for_later = {"symbol": "BTCUSDT", "startTime": now_ms, "endTime": END_MS}
        assert get(client, FUNDING, **asked_for_later) == []
        assert get(client, KLINES, interval="5m", **asked_for_later) == []
        price = get(client, "/fapi/v1/ticker/price", symbol="BTCUSDT")
        assert get(client, "/fapi/v1/time") == {"serverTime": now_ms}

    five = recorded("BTC-5m-futures").set_index("ms")
    ten_o_clock = now_ms - 42 * 60_000
    past = five.loc[ten_o_clock : now_ms - FIVE_MIN_MS]
    assert len(past) == 8
    assert closed[0] == ten_o_clock - HOUR_MS
    assert forming[0] == ten_o_clock
    assert [float(text) for text in forming[1:5]] == [
        past["open"].iloc[0],
        past["high"].max(),
        past["low"].min(),
        past["close"].iloc[-1],
    ]
    assert float(forming[5]) == pytest.approx(past["volume"].sum())
    assert quarter[0] == now_ms - 12 * 60_000
    assert float(quarter[4]) == float(price["price"]) == past["close"].iloc[-1]
    assert funding["fundingTime"] == ten_o_clock - 2 * HOUR_MS
