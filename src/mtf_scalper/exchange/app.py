"""Binance's public REST calls for USDT futures and spot over ``replay_exchange.Replay``.

Paths, parameters, limits and error bodies are those that Binance documents. Signed calls are not
served: they get the answer of an unknown path.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mtf_scalper.clock import CLOCK_PATH, Clock, ClockAhead, RunningClock, StandingClock, to_ms
from mtf_scalper.exchange.api_errors import ApiError, DataDirectoryError
from mtf_scalper.exchange.faults import FaultPlan, Faulty
from mtf_scalper.exchange.models import (
    BookTicker,
    Depth,
    ErrorBody,
    ExchangeInfo,
    FundingRecord,
    Kline,
    PremiumIndex,
    PriceTicker,
    ServerTime,
    Ticker24h,
)
from mtf_scalper.exchange.replay_exchange import Replay, Rules
from mtf_scalper.exchange.rules import exchange_info
from mtf_scalper.exchange.store import CandleStore
from mtf_scalper.exchange.symbols import CandleKind, Venue
from mtf_scalper.exchange.weights import USED_WEIGHT, Weights

_SPOT_PATH = "/api/v3/"
_INFO_OF = {"/api/v3/exchangeInfo": Venue.SPOT, "/fapi/v1/exchangeInfo": Venue.FUTURES}
_INT64_MAX = 2**63 - 1
_DEPTH_LIMITS = (5, 10, 20, 50, 100, 500, 1000)


def _replay(request: Request) -> Replay:
    """Return the data as seen now; the moment stays while one request is answered."""
    market: Market = request.app.state.market
    is_spot = request.url.path.startswith(_SPOT_PATH)
    return market.seen_now(Venue.SPOT if is_spot else Venue.FUTURES)


def _weighed(request: Request, response: Response) -> None:
    market: Market = request.app.state.market
    if market.is_live:
        used = market.weights.take(
            market.clock.now_ms(), request.url.path, dict(request.query_params)
        )
        response.headers[USED_WEIGHT] = str(used)


def _time_range(
    start_ms: Annotated[int | None, Query(alias="startTime", ge=0, le=_INT64_MAX)] = None,
    end_ms: Annotated[int | None, Query(alias="endTime", ge=0, le=_INT64_MAX)] = None,
) -> tuple[int | None, int | None]:
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise ApiError(-1023, "Start time is greater than end time.")
    return start_ms, end_ms


_router = APIRouter()
_weighed_router = APIRouter(dependencies=[Depends(_weighed)])

ReplayArg = Annotated[Replay, Depends(_replay)]
TimeRange = Annotated[tuple[int | None, int | None], Depends(_time_range)]
Name = Annotated[str, Query(alias="symbol", min_length=1)]
AnyName = Annotated[str | None, Query(alias="symbol", min_length=1)]
KlineLimit = Annotated[int, Query(ge=1, le=1500)]
FundingLimit = Annotated[int, Query(ge=1, le=1000)]


@_router.get("/api/v3/ping")
@_router.get("/fapi/v1/ping")
async def _ping() -> dict[str, str]:
    return {}


@_router.get("/api/v3/time")
@_router.get("/fapi/v1/time")
async def _time(request: Request) -> ServerTime:
    return ServerTime(server_time=request.app.state.market.clock.now_ms())


@_router.get(CLOCK_PATH)
async def _clock(request: Request) -> dict[str, str]:
    """Tell the running clock, for programs that follow it; no call of Binance's."""
    market: Market = request.app.state.market
    if market.told_clock is None:
        raise HTTPException(404)
    return {"clock": str(market.told_clock)}


@_weighed_router.get("/api/v3/exchangeInfo")
@_weighed_router.get("/fapi/v1/exchangeInfo")
@_weighed_router.get("/dapi/v1/exchangeInfo")
async def _info(request: Request) -> ExchangeInfo:
    # ccxt loads all three, whatever is traded; coin-margined markets there are none.
    market: Market = request.app.state.market
    venue = _INFO_OF.get(request.url.path)
    if venue is None or venue not in market.stores:
        return exchange_info(market.clock.now_ms(), [])
    return market.seen_now(venue).exchange_info()


@_weighed_router.get("/api/v3/klines")
@_weighed_router.get("/fapi/v1/klines")
async def _klines(
    replay: ReplayArg, symbol: Name, interval: str, times: TimeRange, limit: KlineLimit = 500
) -> list[Kline]:
    return replay.klines(symbol, interval, CandleKind.TRADES, *times, limit)


@_weighed_router.get("/fapi/v1/markPriceKlines")
async def _mark_klines(
    replay: ReplayArg, symbol: Name, interval: str, times: TimeRange, limit: KlineLimit = 500
) -> list[Kline]:
    return replay.klines(symbol, interval, CandleKind.MARK, *times, limit)


@_weighed_router.get("/fapi/v1/fundingRate")
async def _funding_rate(
    replay: ReplayArg, times: TimeRange, symbol: AnyName = None, limit: FundingLimit = 100
) -> list[FundingRecord]:
    return replay.funding_history(symbol, *times, limit)


@_weighed_router.get("/fapi/v1/premiumIndex")
async def _premium_index(
    replay: ReplayArg, symbol: AnyName = None
) -> PremiumIndex | list[PremiumIndex]:
    answers = [replay.premium_index(each) for each in replay.symbols(symbol)]
    return answers if symbol is None else answers[0]


@_weighed_router.get("/api/v3/ticker/24hr", response_model_exclude_none=True)
@_weighed_router.get("/fapi/v1/ticker/24hr", response_model_exclude_none=True)
async def _ticker_24h(replay: ReplayArg, symbol: AnyName = None) -> Ticker24h | list[Ticker24h]:
    answers = [replay.ticker_24h(each) for each in replay.symbols(symbol)]
    return answers if symbol is None else answers[0]


@_weighed_router.get("/api/v3/ticker/price")
@_weighed_router.get("/fapi/v1/ticker/price")
@_weighed_router.get("/fapi/v2/ticker/price")
async def _price_ticker(
    replay: ReplayArg, symbol: AnyName = None
) -> PriceTicker | list[PriceTicker]:
    answers = [replay.price_ticker(each) for each in replay.symbols(symbol)]
    return answers if symbol is None else answers[0]


@_weighed_router.get("/api/v3/ticker/bookTicker")
@_weighed_router.get("/fapi/v1/ticker/bookTicker")
async def _book_ticker(replay: ReplayArg, symbol: AnyName = None) -> BookTicker | list[BookTicker]:
    answers = [replay.book_ticker(each) for each in replay.symbols(symbol)]
    return answers if symbol is None else answers[0]


@_weighed_router.get("/api/v3/depth")
@_weighed_router.get("/fapi/v1/depth")
async def _depth(replay: ReplayArg, symbol: Name, limit: int = 500) -> Depth:
    if limit not in _DEPTH_LIMITS:
        raise ApiError(-4021, f"{limit} is not valid depth limit.")
    (known,) = replay.symbols(symbol)
    return replay.depth(known, limit)


@dataclass(frozen=True)
class Market:
    """The data that is served, and the clock that says how much of it is known."""

    stores: Mapping[Venue, CandleStore]
    clock: Clock
    spread: float
    told_clock: RunningClock | None = None
    rules: Rules = field(default_factory=Rules)
    weights: Weights = field(default_factory=Weights)

    @property
    def is_live(self) -> bool:
        """Whether the clock runs."""
        return self.told_clock is not None

    def seen_now(self, venue: Venue) -> Replay:
        """Return the data as seen from this moment; refuse a market without any (-1121)."""
        if venue not in self.stores:
            raise ApiError(-1121, "Invalid symbol.")
        return Replay(
            self.stores[venue],
            self.clock.now_ms(),
            is_live=self.is_live,
            spread=self.spread,
            rules=self.rules,
        )


def create_app(
    stores: CandleStore | Mapping[Venue, CandleStore],
    now: datetime | RunningClock | None = None,
    spread: float = 0.0,
    fault: FaultPlan | None = None,
) -> FastAPI:
    """Return the exchange as an ASGI application.

    Parameters
    ----------
    stores
        The data to serve, of one market or of several.
    now
        The moment at which the simulated clock stands, with time zone, or a clock that runs. By
        default the close of the last recorded candle.
    spread
        Distance of the best ask from the best bid as a part of the price; at least one tick.
    fault
        What goes wrong; nothing by default.

    Raises
    ------
    ValueError
        ``now`` has no time zone.
    DataDirectoryError
        A candle file that tells the last moment is not valid.
    """
    app = FastAPI(title="Replay exchange", docs_url=None, redoc_url=None, openapi_url=None)
    if isinstance(stores, CandleStore):
        stores = {stores.venue: stores}
    clock: Clock
    if isinstance(now, RunningClock):
        clock = now
    elif now is None:
        clock = StandingClock(max(store.end_ms() for store in stores.values()))
    else:
        clock = StandingClock(to_ms(now))
    if fault is not None:
        clock = ClockAhead(clock, fault.fault.ahead_ms)
        app.add_middleware(Faulty, plan=fault, clock=clock)
    told = now if isinstance(now, RunningClock) else None
    app.state.market = Market(stores, clock, spread, told)
    app.include_router(_router)
    app.include_router(_weighed_router)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(DataDirectoryError, _on_data_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameter)
    app.add_exception_handler(HTTPException, _on_http_error)
    return app


def _refusal(code: int, message: str, status: int) -> JSONResponse:
    return JSONResponse(ErrorBody(code=code, msg=message).model_dump(), status_code=status)


async def _on_api_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return _refusal(error.code, error.message, error.status)


async def _on_data_error(_request: Request, error: Exception) -> JSONResponse:
    return _refusal(-1000, f"An unknown error occurred: {error}", 500)


async def _on_invalid_parameter(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    kind, name = str(problem["type"]), str(problem["loc"][-1])
    if kind == "missing":
        message = f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
        return _refusal(-1102, message, 400)
    if kind == "string_too_short":
        return _refusal(-1105, f"Parameter '{name}' was empty.", 400)
    if name == "limit" and not kind.startswith("int_"):
        return _refusal(-1130, f"Data sent for parameter '{name}' is not valid.", 400)
    legal = "^[0-9]{1,20}$"
    message = f"Illegal characters found in parameter '{name}'; legal range is '{legal}'."
    return _refusal(-1100, message, 400)


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = f"Path {request.url.path}, Method {request.method} is invalid"
    return _refusal(-5000, message, error.status_code)
