"""The trading rules of a contract, found from its candles, as ``exchangeInfo`` tells them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.exchange.models import (
    ExchangeInfo,
    LotSize,
    MaxNumOrders,
    MinNotional,
    Notional,
    PercentPrice,
    PriceFilter,
    RateLimit,
    SpotSymbolInfo,
    SymbolFilter,
    SymbolInfo,
)
from mtf_scalper.exchange.store import Candles
from mtf_scalper.exchange.symbols import Symbol

_PRICE_DIGITS = 8
_MOST_PRICE_DECIMALS = 10
"""freqtrade 2026.9 trades no pair whose price step is 1e-11 or less (``market_is_tradable``)."""
_MOST_QUANTITY_DECIMALS = 3
_MIN_NOTIONAL = "5"
_MOST_LOTS_PER_ORDER = 10_000_000
_LEAST_MAXIMUM = 10_000_000
"""Value in the quote asset that an order may have at least, however low the price."""
WEIGHT_LIMIT = 2400
"""Request weight that a client may use in a minute of a clock that runs."""
_PERPETUAL_DELIVERY_MS = 4_133_404_800_000


def decimal_text(value: float) -> str:
    """Return the shortest decimal text that reads back as exactly ``value``, without exponent."""
    text = repr(float(value))
    if "e" in text:
        text = str(np.format_float_positional(value, trim="-"))
    return text.removesuffix(".0")


@dataclass(frozen=True)
class Grid:
    """Decimals of a contract's prices and quantities."""

    price_decimals: int
    quantity_decimals: int

    @property
    def tick_size(self) -> float:
        """Smallest step of a price, in the quote asset."""
        return float(f"1e-{self.price_decimals}")

    @property
    def lot_size(self) -> float:
        """Smallest step of a quantity, in the base asset."""
        return float(f"1e-{self.quantity_decimals}")


def grid_of(candles: Candles) -> Grid:
    """Return the coarsest decimal grid on which all prices and volumes lie.

    Where none fits, as with prices that were never rounded, the finest is taken: 8 decimals for
    prices from 1 on, more for lower ones but never more than 10, and 3 for quantities.
    """
    prices = np.concatenate([candles.open, candles.high, candles.low, candles.close])
    zeros = max(0, -math.floor(math.log10(prices.min())) - 1)
    most = min(_PRICE_DIGITS + zeros, _MOST_PRICE_DECIMALS)
    return Grid(_decimals(prices, most), _decimals(candles.volume, _MOST_QUANTITY_DECIMALS))


def _decimals(values: NDArray[np.float64], most: int) -> int:
    for decimals in range(most):
        scaled = values * 10.0**decimals
        steps = np.rint(scaled)
        # A price below a step is on no grid, however small its distance from zero.
        if ((np.abs(scaled - steps) <= 1e-6) & ((steps > 0.0) | (values == 0.0))).all():
            return decimals
    return most


def symbol_info(symbol: Symbol, candles: Candles) -> SymbolInfo:
    """Return the trading rules of one contract.

    Parameters
    ----------
    symbol
        The contract.
    candles
        Its trade candles of the shortest interval; tick and lot size are derived from them.
    """
    grid = grid_of(candles)
    tick, lot = decimal_text(grid.tick_size), decimal_text(grid.lot_size)
    lots = max(_MOST_LOTS_PER_ORDER, _LEAST_MAXIMUM / candles.low.min() / grid.lot_size)
    max_quantity = decimal_text(grid.lot_size * math.ceil(lots))
    return SymbolInfo(
        symbol=symbol.name,
        pair=symbol.name,
        delivery_date=_PERPETUAL_DELIVERY_MS,
        onboard_date=int(candles.open_ms[0]),
        maint_margin_percent="2.5000",
        required_margin_percent="5.0000",
        base_asset=symbol.base,
        quote_asset=symbol.quote,
        margin_asset=symbol.quote,
        price_precision=grid.price_decimals,
        quantity_precision=grid.quantity_decimals,
        base_asset_precision=8,
        quote_precision=8,
        underlying_sub_type=[],
        settle_plan=0,
        trigger_protect="0.0500",
        liquidation_fee="0.012500",
        market_take_bound="0.05",
        filters=[
            PriceFilter(min_price=tick, max_price="10000000", tick_size=tick),
            LotSize(filter_type="LOT_SIZE", min_qty=lot, max_qty=max_quantity, step_size=lot),
            LotSize(
                filter_type="MARKET_LOT_SIZE", min_qty=lot, max_qty=max_quantity, step_size=lot
            ),
            MaxNumOrders(filter_type="MAX_NUM_ORDERS", limit=200),
            MaxNumOrders(filter_type="MAX_NUM_ALGO_ORDERS", limit=10),
            MinNotional(notional=_MIN_NOTIONAL),
            PercentPrice(multiplier_up="1.0500", multiplier_down="0.9500", multiplier_decimal="4"),
        ],
        order_types=[
            "LIMIT",
            "MARKET",
            "STOP",
            "STOP_MARKET",
            "TAKE_PROFIT",
            "TAKE_PROFIT_MARKET",
            "TRAILING_STOP_MARKET",
        ],
        time_in_force=["GTC", "IOC", "FOK", "GTX"],
    )


def spot_symbol_info(symbol: Symbol, candles: Candles) -> SpotSymbolInfo:
    """Return the trading rules of one spot pair; see :func:`symbol_info`."""
    contract = symbol_info(symbol, candles)
    filters: list[SymbolFilter] = [
        each for each in contract.filters if isinstance(each, PriceFilter | LotSize)
    ]
    filters.append(
        Notional(
            min_notional=_MIN_NOTIONAL,
            apply_min_to_market=True,
            max_notional="9000000",
            apply_max_to_market=False,
            avg_price_mins=5,
        )
    )
    return SpotSymbolInfo(
        symbol=symbol.name,
        base_asset=symbol.base,
        base_asset_precision=8,
        quote_asset=symbol.quote,
        quote_precision=8,
        quote_asset_precision=8,
        order_types=["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"],
        iceberg_allowed=True,
        oco_allowed=True,
        is_spot_trading_allowed=True,
        is_margin_trading_allowed=False,
        filters=filters,
        permissions=[],
        permission_sets=[["SPOT"]],
    )


def exchange_info(
    now_ms: int, symbols: list[SymbolInfo] | list[SpotSymbolInfo], futures_type: str | None = None
) -> ExchangeInfo:
    """Return the answer of ``exchangeInfo``."""
    return ExchangeInfo(
        server_time=now_ms,
        futures_type=futures_type,
        rate_limits=[
            RateLimit(
                rate_limit_type="REQUEST_WEIGHT",
                interval="MINUTE",
                interval_num=1,
                limit=WEIGHT_LIMIT,
            )
        ],
        exchange_filters=[],
        symbols=symbols,
    )
