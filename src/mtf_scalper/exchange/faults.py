"""An exchange that misbehaves on demand: one fault at a time, for a while by its own clock.

What is told is spoiled on its way out, so that everything else of the exchange knows nothing of it.
Faults of the wire hold for the requests of that while; faults of the data for the candles that open
in it, however late they are asked for, and for the prices and lists that are told in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtf_scalper.clock import CLOCK_PATH, Clock, to_ms
from mtf_scalper.errors import MtfScalperError
from mtf_scalper.exchange.symbols import INTERVALS_MS

_CORRECTION = 1.005


class FaultError(MtfScalperError):
    """A fault was asked for that there is not."""


class Fault(StrEnum):
    """What goes wrong; the value is its name on the command line."""

    TIMEOUT = "timeout"
    SERVER_ERROR = "server-error"
    TOO_MANY_REQUESTS = "too-many-requests"
    BANNED = "banned"
    TRUNCATED_JSON = "truncated-json"
    MISSING_CANDLE = "missing-candle"
    DUPLICATE_CANDLE = "duplicate-candle"
    LATE_CORRECTION = "late-correction"
    CLOCK_AHEAD_1S = "clock-ahead-1s"
    CLOCK_AHEAD_5S = "clock-ahead-5s"
    DELISTED = "delisted"
    ZERO_PRICE = "zero-price"

    @property
    def ahead_ms(self) -> int:
        """How far the exchange's clock is ahead of its clients'."""
        return {Fault.CLOCK_AHEAD_1S: 1000, Fault.CLOCK_AHEAD_5S: 5000}.get(self, 0)


_REFUSALS = {
    Fault.SERVER_ERROR: (503, -1001, "Internal error; unable to process your request."),
    Fault.TOO_MANY_REQUESTS: (429, -1003, "Too many requests."),
    Fault.BANNED: (418, -1003, "Way too many requests; IP banned. Please use the websocket."),
}
_TELL_WHEN = (429, 418)
"""Status of refusals that say after how many seconds to come back."""
_UNTOLD_SECONDS = 60


@dataclass(frozen=True)
class FaultPlan:
    """One fault, of which pair, and when.

    Attributes
    ----------
    fault : Fault
    symbol : str, optional
        Binance's name of the pair that faults of the data are about; all pairs by default.
    begin, end : datetime, optional
        With time zone; from the beginning and without end by default. A clock that is ahead always
        is.
    """

    fault: Fault
    symbol: str | None = None
    begin: datetime | None = None
    end: datetime | None = None

    @classmethod
    def named(
        cls,
        name: str,
        symbol: str | None = None,
        begin: datetime | None = None,
        minutes: float | None = None,
    ) -> FaultPlan:
        """Return the plan of a fault by its name, which lasts for some minutes from ``begin`` on.

        Raises
        ------
        FaultError
            If there is no such fault, or the minutes have no beginning.
        """
        if name not in list(Fault):
            raise FaultError(f"--fault {name}: there is none of this name; {', '.join(Fault)}")
        if minutes is not None and begin is None:
            raise FaultError("--fault-minutes needs --fault-from, from where they count")
        end = None if begin is None or minutes is None else begin + timedelta(minutes=minutes)
        return cls(Fault(name), symbol, begin, end)

    def holds_at(self, at_ms: int) -> bool:
        """Return whether a moment lies in it."""
        is_late = self.end is not None and at_ms >= to_ms(self.end)
        return not is_late and (self.begin is None or at_ms >= to_ms(self.begin))

    def is_about(self, symbol: str | None) -> bool:
        """Return whether a pair has the fault."""
        return self.symbol is None or symbol == self.symbol

    def seconds_left(self, at_ms: int) -> int:
        """Return how long it goes on after a moment; a minute where it has no end."""
        if self.end is None:
            return _UNTOLD_SECONDS
        return max(1, -(-(to_ms(self.end) - at_ms) // 1000))


class Faulty:
    """ASGI middleware that spoils answers.

    Parameters
    ----------
    app
        The exchange.
    plan
        What to do, and when.
    clock
        The exchange's.
    """

    def __init__(self, app: ASGIApp, plan: FaultPlan, clock: Clock) -> None:
        self._app = app
        self._plan = plan
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] == CLOCK_PATH:
            await self._app(scope, receive, send)
            return
        now_ms = self._clock.now_ms()
        fault, is_now = self._plan.fault, self._plan.holds_at(now_ms)
        symbol = parse_qs(scope["query_string"].decode("latin-1")).get("symbol", [None])[0]
        if is_now and fault is Fault.TIMEOUT:
            while (await receive())["type"] != "http.disconnect":
                pass
        elif is_now and fault in _REFUSALS:
            await _refuse(send, *_REFUSALS[fault], self._plan.seconds_left(now_ms))
        elif is_now and fault is Fault.DELISTED and symbol and self._plan.is_about(symbol):
            await _refuse(send, 400, -1121, "Invalid symbol.")
        else:
            spoil = self._spoiler(scope["path"], scope["query_string"], symbol, now_ms)
            await self._app(scope, receive, send if spoil is None else _Spoiled(send, spoil))

    def _spoiler(
        self, path: str, query: bytes, symbol: str | None, now_ms: int
    ) -> Callable[[bytes], bytes] | None:
        plan = self._plan
        if plan.fault is Fault.TRUNCATED_JSON and plan.holds_at(now_ms):
            return lambda body: body[: len(body) // 2]
        if path.endswith("/klines"):
            interval = parse_qs(query.decode("latin-1")).get("interval", [""])[0]
            interval_ms = INTERVALS_MS.get(interval)
            if interval_ms is None or not plan.is_about(symbol):
                return None
            length = interval_ms
            return _of_json(lambda rows: self._candles(rows, length, now_ms))
        if plan.holds_at(now_ms) and plan.fault is Fault.DELISTED:
            return _of_json(self._without_pair)
        if plan.holds_at(now_ms) and plan.fault is Fault.ZERO_PRICE:
            return _of_json(lambda content: self._zeroed(content, symbol))
        return None

    def _candles(self, rows: Any, interval_ms: int, now_ms: int) -> Any:
        if not isinstance(rows, list):
            return rows
        told: list[Any] = []
        for row in rows:
            if not self._plan.holds_at(row[0]):
                told.append(row)
            else:
                told += self._candle(row, interval_ms, now_ms)
        return told

    def _candle(self, row: list[Any], interval_ms: int, now_ms: int) -> list[Any]:
        has_closed = row[0] + interval_ms <= now_ms
        match self._plan.fault:
            case Fault.MISSING_CANDLE:
                return [] if has_closed else [row]
            case Fault.DUPLICATE_CANDLE:
                return [row, row] if has_closed else [row]
            case Fault.LATE_CORRECTION if has_closed and now_ms < row[0] + 2 * interval_ms:
                close = f"{float(row[4]) * _CORRECTION:.8f}"
                return [[*row[:2], max(row[2], close, key=float), row[3], close, *row[5:]]]
            case Fault.ZERO_PRICE:
                return [[*row[:3], "0", "0", *row[5:]]]
        return [row]

    def _without_pair(self, content: Any) -> Any:
        if isinstance(content, dict) and "symbols" in content:
            return {**content, "symbols": self._without_pair(content["symbols"])}
        if isinstance(content, list) and all(isinstance(each, dict) for each in content):
            return [each for each in content if not self._plan.is_about(each.get("symbol"))]
        return content

    def _zeroed(self, content: Any, symbol: str | None) -> Any:
        if isinstance(content, list):
            return [self._zeroed(each, symbol) for each in content]
        if not isinstance(content, dict) or not self._plan.is_about(content.get("symbol", symbol)):
            return content
        zeroed = {
            name: "0" if name.endswith("Price") or name == "price" else value
            for name, value in content.items()
        }
        for side in ("bids", "asks"):
            if side in zeroed:
                zeroed[side] = [["0", level[1]] for level in zeroed[side]]
        return zeroed


class _Spoiled:
    """Holds an answer back until it is whole, and sends it spoiled."""

    def __init__(self, send: Send, spoil: Callable[[bytes], bytes]) -> None:
        self._send = send
        self._spoil = spoil
        self._start: Message = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = self._spoil(self._body)
        headers = [each for each in self._start["headers"] if each[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _of_json(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    return lambda body: json.dumps(change(json.loads(body))).encode()


async def _refuse(
    send: Send, status: int, code: int, message: str, seconds_left: int | None = None
) -> None:
    body = json.dumps({"code": code, "msg": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if seconds_left is not None and status in _TELL_WHEN:
        headers.append((b"retry-after", str(seconds_left).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
