"""Two answers of an exchange that freqtrade 2026.9 takes for good, and a bot must not.

A price of zero: freqtrade closes a short at once with all that it could ever have earned, a long at
its stop, and ends with ``ZeroDivisionError`` where it looks how far liquidation is away. A list of
markets that came in halves counts as an empty list, and "Markets were not loaded" stops the trader:
open trades are looked after no more until a person starts it again.

Both become errors that freqtrade knows and goes on after. They are raised by methods of the one
exchange of a running bot; its class stays as it is.
"""

from __future__ import annotations

from typing import Any

from freqtrade.exceptions import PricingError, TemporaryError
from freqtrade.exchange import Exchange


def guard(exchange: Exchange) -> None:
    """Let a running bot's exchange refuse prices of zero and empty lists of markets."""
    get_rate, load = exchange.get_rate, exchange._api_reload_markets

    def rate_above_zero(pair: str, *given: Any, **named: Any) -> float:
        rate: float = get_rate(pair, *given, **named)
        if not rate > 0.0:
            raise PricingError(
                f"the exchange tells a price of {rate:g} for {pair}: nothing is entered, and no "
                "rule can close an open trade, until it tells another"
            )
        return rate

    async def some_markets(reload: bool = False) -> None:
        await load(reload)
        if not exchange._api_async.markets:
            exchange._api_async.set_markets_from_exchange(exchange._api)
            raise TemporaryError("the exchange lists no markets; those that it listed before stay")

    exchange.get_rate = rate_above_zero
    exchange._api_reload_markets = some_markets
