"""What the replay exchange answers, with Binance's field names and types.

Prices, quantities and rates are decimal texts, times are milliseconds since 1970, as Binance
documents them for USDT-margined futures.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

# Opening time, open, high, low, close, volume, closing time, quote volume, trades,
# taker buy volume, taker buy quote volume, unused.
Kline = tuple[int, str, str, str, str, str, int, str, int, str, str, str]


class _Payload(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class ErrorBody(_Payload):
    """Body of every refused request."""

    code: int
    msg: str


class ServerTime(_Payload):
    """The simulated clock."""

    server_time: int


class RateLimit(_Payload):
    """One of the limits that ``exchangeInfo`` announces."""

    rate_limit_type: str
    interval: str
    interval_num: int
    limit: int


class PriceFilter(_Payload):
    """Grid and bounds of an order's price."""

    filter_type: Literal["PRICE_FILTER"] = "PRICE_FILTER"
    min_price: str
    max_price: str
    tick_size: str


class LotSize(_Payload):
    """Grid and bounds of an order's quantity, for limit or for market orders."""

    filter_type: Literal["LOT_SIZE", "MARKET_LOT_SIZE"]
    min_qty: str
    max_qty: str
    step_size: str


class MaxNumOrders(_Payload):
    """How many orders may be open at once."""

    filter_type: Literal["MAX_NUM_ORDERS", "MAX_NUM_ALGO_ORDERS"]
    limit: int


class MinNotional(_Payload):
    """Least value of an order in the quote asset."""

    filter_type: Literal["MIN_NOTIONAL"] = "MIN_NOTIONAL"
    notional: str


class PercentPrice(_Payload):
    """Bounds of an order's price as multiples of the mark price."""

    filter_type: Literal["PERCENT_PRICE"] = "PERCENT_PRICE"
    multiplier_up: str
    multiplier_down: str
    multiplier_decimal: str


class Notional(_Payload):
    """Least value of a spot order in the quote asset."""

    filter_type: Literal["NOTIONAL"] = "NOTIONAL"
    min_notional: str
    apply_min_to_market: bool
    max_notional: str
    apply_max_to_market: bool
    avg_price_mins: int


SymbolFilter = Annotated[
    PriceFilter | LotSize | MaxNumOrders | MinNotional | Notional | PercentPrice,
    Field(discriminator="filter_type"),
]


class SymbolInfo(_Payload):
    """Trading rules of one contract."""

    symbol: str
    pair: str
    contract_type: Literal["PERPETUAL"] = "PERPETUAL"
    delivery_date: int
    onboard_date: int
    status: Literal["TRADING"] = "TRADING"
    maint_margin_percent: str
    required_margin_percent: str
    base_asset: str
    quote_asset: str
    margin_asset: str
    price_precision: int
    quantity_precision: int
    base_asset_precision: int
    quote_precision: int
    underlying_type: Literal["COIN"] = "COIN"
    underlying_sub_type: list[str]
    settle_plan: int
    trigger_protect: str
    liquidation_fee: str
    market_take_bound: str
    filters: list[SymbolFilter]
    order_types: list[str]
    time_in_force: list[str]


class SpotSymbolInfo(_Payload):
    """Trading rules of one spot pair."""

    symbol: str
    status: Literal["TRADING"] = "TRADING"
    base_asset: str
    base_asset_precision: int
    quote_asset: str
    quote_precision: int
    quote_asset_precision: int
    order_types: list[str]
    iceberg_allowed: bool
    oco_allowed: bool
    is_spot_trading_allowed: bool
    is_margin_trading_allowed: bool
    filters: list[SymbolFilter]
    permissions: list[str]
    permission_sets: list[list[str]]


class ExchangeInfo(_Payload):
    """Every contract that is served, and the limits of the server."""

    timezone: Literal["UTC"] = "UTC"
    server_time: int
    futures_type: str | None = None
    rate_limits: list[RateLimit]
    exchange_filters: list[str]
    symbols: list[SymbolInfo] | list[SpotSymbolInfo]


class FundingRecord(_Payload):
    """One settlement of funding."""

    symbol: str
    funding_rate: str
    funding_time: int
    mark_price: str


class PremiumIndex(_Payload):
    """Mark price and funding of the present."""

    symbol: str
    mark_price: str
    index_price: str
    estimated_settle_price: str
    last_funding_rate: str
    interest_rate: str
    next_funding_time: int
    time: int


class PriceTicker(_Payload):
    """Latest price."""

    symbol: str
    price: str
    time: int


class BookTicker(_Payload):
    """Best bid and ask."""

    symbol: str
    bid_price: str
    bid_qty: str
    ask_price: str
    ask_qty: str
    time: int
    last_update_id: int


class Depth(_Payload):
    """Order book, best prices first, as (price, quantity)."""

    last_update_id: int
    event_time: int = Field(alias="E")
    transaction_time: int = Field(alias="T")
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


class Ticker24h(_Payload):
    """Statistics of the 24 hours before the simulated clock; spot has bid and ask."""

    symbol: str
    price_change: str
    price_change_percent: str
    weighted_avg_price: str
    last_price: str
    last_qty: str
    open_price: str
    high_price: str
    low_price: str
    volume: str
    quote_volume: str
    bid_price: str | None = None
    bid_qty: str | None = None
    ask_price: str | None = None
    ask_qty: str | None = None
    open_time: int
    close_time: int
    first_id: int
    last_id: int
    count: int
