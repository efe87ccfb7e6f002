"""Answers of the exchange as functions of the recorded data and a simulated clock.

No price after the clock is ever told. As on Binance the newest candle may still be forming: it is
made of what has closed of it, or flat at the latest price. freqtrade relies on it, because it
drops the newest candle of every download. By a clock that runs, the price also moves inside the
shortest candle (``within_candle``), and what it has been there is part of all that is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.exchange.api_errors import ApiError
from mtf_scalper.exchange.models import (
    BookTicker,
    Depth,
    ExchangeInfo,
    FundingRecord,
    Kline,
    PremiumIndex,
    PriceTicker,
    SpotSymbolInfo,
    SymbolInfo,
    Ticker24h,
)
from mtf_scalper.exchange.rules import (
    Grid,
    decimal_text,
    exchange_info,
    grid_of,
    spot_symbol_info,
    symbol_info,
)
from mtf_scalper.exchange.store import Candles, CandleStore
from mtf_scalper.exchange.symbols import INTERVALS_MS, CandleKind, Symbol, Venue
from mtf_scalper.exchange.within_candle import formed_part

_DAY_MS = INTERVALS_MS["1d"]
_FUNDING_INTERVAL_MS = INTERVALS_MS["8h"]
_MOST_KNOWN = 10_080  # a week of minutes is in the longest candle that can be forming


@dataclass(frozen=True)
class Rules:
    """Trading rules found so far, by contract; kept from one request to the next."""

    infos: dict[Symbol, SymbolInfo] = field(default_factory=dict)
    spot_infos: dict[Symbol, SpotSymbolInfo] = field(default_factory=dict)
    grids: dict[Symbol, Grid] = field(default_factory=dict)


class Replay:
    """A data directory seen from one moment.

    Parameters
    ----------
    store
        The recorded data.
    now_ms
        The moment, in milliseconds since 1970.
    is_live
        Whether the price moves inside the shortest candle.
    spread
        Distance of the best ask from the best bid as a part of the price; at least one tick.
    rules
        Shared by the moments of one exchange.
    """

    def __init__(
        self,
        store: CandleStore,
        now_ms: int,
        *,
        is_live: bool = False,
        spread: float = 0.0,
        rules: Rules | None = None,
    ) -> None:
        self._store = store
        self.now_ms = now_ms
        self._is_live = is_live
        self._spread = spread
        self._rules = Rules() if rules is None else rules

    def symbols(self, name: str | None) -> tuple[Symbol, ...]:
        """Return the named contract alone, or all of them; refuse an unknown name (-1121)."""
        if name is None:
            return self._store.symbols
        symbol = self._store.symbol(name)
        if symbol is None:
            raise ApiError(-1121, "Invalid symbol.")
        return (symbol,)

    def exchange_info(self) -> ExchangeInfo:
        """Return the rules of all contracts."""
        futures, spot = self._rules.infos, self._rules.spot_infos
        for symbol in self._store.symbols:
            candles = self._store.finest(symbol)
            if symbol.venue is Venue.SPOT and symbol not in spot:
                spot[symbol] = spot_symbol_info(symbol, candles)
            if symbol.venue is Venue.FUTURES and symbol not in futures:
                futures[symbol] = symbol_info(symbol, candles)
        if self._store.venue is Venue.SPOT:
            return exchange_info(self.now_ms, list(spot.values()))
        return exchange_info(self.now_ms, list(futures.values()), "U_MARGINED")

    def klines(
        self,
        name: str,
        interval: str,
        kind: CandleKind,
        start_ms: int | None,
        end_ms: int | None,
        limit: int,
    ) -> list[Kline]:
        """Return at most ``limit`` candles that open in ``start_ms .. end_ms``, oldest first.

        From the oldest on where ``start_ms`` is given, else the newest.
        """
        (symbol,) = self.symbols(name)
        if interval not in self._store.intervals(symbol, kind):
            raise _no_interval(symbol, interval, kind)
        candles = self._store.candles(symbol, kind, interval)
        closed = candles.rows(0, candles.closed_count(self.now_ms))
        start, stop = _window(closed.open_ms, start_ms, end_ms)
        forming = self._forming(symbol, kind, closed)
        if forming is not None and _window(forming.open_ms, start_ms, end_ms) != (0, 1):
            forming = None
        available = stop - start + (forming is not None)
        if start_ms is None:
            start += max(0, available - limit)
        elif available > limit:
            stop, forming = min(stop, start + limit), None
        told = _klines(closed.rows(start, stop), kind)
        return told if forming is None else told + _klines(forming, kind)

    def _forming(self, symbol: Symbol, kind: CandleKind, closed: Candles) -> Candles | None:
        if not len(closed):
            return None
        open_ms = int(closed.open_ms[-1]) + closed.interval_ms
        if not open_ms <= self.now_ms < open_ms + closed.interval_ms:
            return None
        known = self._known(symbol, kind)
        parts = known.rows(int(np.searchsorted(known.open_ms, open_ms)), len(known))
        if len(parts):
            values = [
                parts.open[0],
                parts.high.max(),
                parts.low.min(),
                parts.close[-1],
                parts.volume.sum(),
            ]
        else:
            values = [closed.close[-1]] * 4 + [0.0]
        columns = [np.array([value], dtype=np.float64) for value in values]
        return Candles(closed.interval_ms, np.array([open_ms], dtype=np.int64), *columns)

    def funding_history(
        self, name: str | None, start_ms: int | None, end_ms: int | None, limit: int
    ) -> list[FundingRecord]:
        """Return at most ``limit`` settlements in ``start_ms .. end_ms``, oldest first.

        From the oldest on where ``start_ms`` is given, else the newest.
        """
        found: list[tuple[int, Symbol, float]] = []
        for symbol in self.symbols(name):
            funding = self._store.funding(symbol)
            last_ms = self.now_ms if end_ms is None else min(end_ms, self.now_ms)
            rows = slice(*_window(funding.time_ms, start_ms, last_ms))
            rates = zip(funding.time_ms[rows].tolist(), funding.rate[rows].tolist(), strict=True)
            found += [(time_ms, symbol, rate) for time_ms, rate in rates]
        found.sort(key=lambda record: record[:2])
        found = found[-limit:] if start_ms is None else found[:limit]
        return [
            FundingRecord(
                symbol=symbol.name,
                funding_rate=decimal_text(rate),
                funding_time=time_ms,
                mark_price=self._mark_price(symbol, time_ms),
            )
            for time_ms, symbol, rate in found
        ]

    def premium_index(self, symbol: Symbol) -> PremiumIndex:
        """Return mark price and funding; the index price is not recorded, the mark stands in."""
        self._past(symbol)
        mark = self._mark_price(symbol, self.now_ms)
        funding = self._store.funding(symbol)
        settled = int(np.searchsorted(funding.time_ms, self.now_ms, side="right"))
        steps = np.diff(funding.time_ms[:settled])
        step_ms = int(steps[-1]) if len(steps) else _FUNDING_INTERVAL_MS
        last_ms = int(funding.time_ms[settled - 1]) if settled else 0
        return PremiumIndex(
            symbol=symbol.name,
            mark_price=mark,
            index_price=mark,
            estimated_settle_price=mark,
            last_funding_rate=decimal_text(funding.rate[settled - 1]) if settled else "0",
            interest_rate="0.00010000",
            next_funding_time=last_ms + ((self.now_ms - last_ms) // step_ms + 1) * step_ms,
            time=self.now_ms,
        )

    def _mark_price(self, symbol: Symbol, at_ms: int) -> str:
        """Return the latest mark price at ``at_ms``, else the trade price; empty before both."""
        for kind in (CandleKind.MARK, CandleKind.TRADES):
            if not self._store.intervals(symbol, kind):
                continue
            candles = self._store.finest(symbol, kind)
            if self._is_live and at_ms == self.now_ms:
                if candles.interval_ms > self._store.finest(symbol).interval_ms:
                    continue  # an hour old, where the trades are known to the second
                candles = self._known(symbol, kind)
                return decimal_text(candles.close[-1]) if len(candles) else ""
            known = candles.closed_count(at_ms)
            if known:
                return decimal_text(candles.close[known - 1])
            if candles.open_ms[0] <= at_ms:
                return decimal_text(candles.open[0])
        return ""

    def ticker_24h(self, symbol: Symbol) -> Ticker24h:
        """Return the statistics of the last 24 hours; trades are not recorded, so not counted."""
        past = self._past(symbol)
        day = past.rows(int(np.searchsorted(past.open_ms, self.now_ms - _DAY_MS)), len(past))
        if not len(day):
            day = past.rows(len(past) - 1, len(past))
        volume, quote_volume = float(day.volume.sum()), float((day.volume * _mean_price(day)).sum())
        first, last = float(day.open[0]), float(day.close[-1])
        grid = self._grid(symbol)
        book = self.book_ticker(symbol) if symbol.venue is Venue.SPOT else None
        return Ticker24h(
            symbol=symbol.name,
            price_change=f"{last - first:.{grid.price_decimals}f}",
            price_change_percent=f"{100 * (last / first - 1):.3f}",
            weighted_avg_price=(
                f"{quote_volume / volume if volume else last:.{max(8, grid.price_decimals)}f}"
            ),
            last_price=decimal_text(last),
            last_qty=decimal_text(grid.lot_size),
            open_price=decimal_text(first),
            high_price=decimal_text(day.high.max()),
            low_price=decimal_text(day.low.min()),
            volume=f"{volume:.{grid.quantity_decimals}f}",
            quote_volume=f"{quote_volume:.2f}",
            bid_price=None if book is None else book.bid_price,
            bid_qty=None if book is None else book.bid_qty,
            ask_price=None if book is None else book.ask_price,
            ask_qty=None if book is None else book.ask_qty,
            open_time=int(day.open_ms[0]),
            close_time=int(day.open_ms[-1]) + day.interval_ms,
            first_id=0,
            last_id=0,
            count=0,
        )

    def price_ticker(self, symbol: Symbol) -> PriceTicker:
        """Return the close of the last candle."""
        price = decimal_text(self._past(symbol).close[-1])
        return PriceTicker(symbol=symbol.name, price=price, time=self.now_ms)

    def book_ticker(self, symbol: Symbol) -> BookTicker:
        """Return the best level of each side of :meth:`depth`."""
        book = self.depth(symbol, 5)
        (bid_price, bid_qty), (ask_price, ask_qty) = book.bids[0], book.asks[0]
        return BookTicker(
            symbol=symbol.name,
            bid_price=bid_price,
            bid_qty=bid_qty,
            ask_price=ask_price,
            ask_qty=ask_qty,
            time=self.now_ms,
            last_update_id=self.now_ms,
        )

    def depth(self, symbol: Symbol, limit: int) -> Depth:
        """Return an order book made from the last candle.

        The best bid is its close, the best ask the spread above it and at least one tick, and every
        further level one tick away. Each level holds a hundredth of the volume of the last whole
        candle, at least one lot.
        """
        past, grid = self._past(symbol), self._grid(symbol)
        whole = -2 if self._is_live and len(past) > 1 else -1
        quantity = max(past.volume[whole] / 100, grid.lot_size)
        text = f"{quantity:.{grid.quantity_decimals}f}"
        ticks = max(1, round(past.close[-1] / grid.tick_size))
        apart = max(1, round(past.close[-1] * self._spread / grid.tick_size))
        bids = [ticks - level for level in range(min(limit, ticks))]
        asks = [ticks + apart + level for level in range(limit)]

        def side(levels: list[int]) -> list[tuple[str, str]]:
            digits = grid.price_decimals
            return [(f"{level * grid.tick_size:.{digits}f}", text) for level in levels]

        return Depth(
            last_update_id=self.now_ms,
            E=self.now_ms,
            T=self.now_ms,
            bids=side(bids),
            asks=side(asks),
        )

    def _past(self, symbol: Symbol) -> Candles:
        past = self._known(symbol, CandleKind.TRADES)
        if not len(past):
            raise ApiError(-1000, f"No candle of {symbol.name} has closed at the simulated time.")
        return past

    def _known(self, symbol: Symbol, kind: CandleKind) -> Candles:
        """Return the shortest candles that have closed and, live, what has formed of the next."""
        finest = self._store.finest(symbol, kind)
        closed = finest.closed_count(self.now_ms)
        past = finest.rows(max(0, closed - _MOST_KNOWN), closed)
        if not self._is_live or closed == len(finest) or finest.open_ms[closed] > self.now_ms:
            return past
        decimals = self._grid(symbol).price_decimals
        return past.then(formed_part(finest.rows(closed, closed + 1), self.now_ms, decimals))

    def _grid(self, symbol: Symbol) -> Grid:
        if symbol not in self._rules.grids:
            self._rules.grids[symbol] = grid_of(self._store.finest(symbol))
        return self._rules.grids[symbol]


def _no_interval(symbol: Symbol, interval: str, kind: CandleKind) -> ApiError:
    if interval not in INTERVALS_MS:
        return ApiError(-1120, "Invalid interval.")
    name = symbol.file_name(interval, kind.value)
    return ApiError(-1120, f"Invalid interval. The data directory has no {name}.")


def _window(
    times_ms: NDArray[np.int64], start_ms: int | None, end_ms: int | None
) -> tuple[int, int]:
    """Return start and stop row of the rising times within ``start_ms .. end_ms``, both told."""
    start = 0 if start_ms is None else int(np.searchsorted(times_ms, start_ms))
    stop = len(times_ms)
    if end_ms is not None:
        stop = int(np.searchsorted(times_ms, end_ms, side="right"))
    return start, max(start, stop)


def _mean_price(candles: Candles) -> NDArray[np.float64]:
    return (candles.open + candles.high + candles.low + candles.close) / 4.0


def _klines(candles: Candles, kind: CandleKind) -> list[Kline]:
    """Return Binance's rows.

    Number of trades and taker volumes are not recorded and are zero; the quote volume is the
    volume at the mean of open, high, low and close. Mark price candles have no volume.
    """
    columns = (candles.open, candles.high, candles.low, candles.close)
    opens, highs, lows, closes = ([decimal_text(v) for v in col.tolist()] for col in columns)
    if kind is CandleKind.MARK:
        volumes = quotes = ["0"] * len(candles)
    else:
        volumes = [decimal_text(volume) for volume in candles.volume.tolist()]
        quotes = [f"{quote:.5f}" for quote in (candles.volume * _mean_price(candles)).tolist()]
    open_ms = candles.open_ms.tolist()
    close_ms = (candles.open_ms + (candles.interval_ms - 1)).tolist()
    rows = zip(open_ms, opens, highs, lows, closes, volumes, close_ms, quotes, strict=True)
    return [(*row, 0, "0", "0", "0") for row in rows]
