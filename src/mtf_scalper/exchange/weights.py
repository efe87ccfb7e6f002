"""Request weights: how much a client may ask in a minute of the exchange's clock."""

from __future__ import annotations

from collections.abc import Mapping

from mtf_scalper.exchange.api_errors import ApiError
from mtf_scalper.exchange.rules import WEIGHT_LIMIT

USED_WEIGHT = "X-MBX-USED-WEIGHT-1M"
"""The header in which every answer tells what the minute has taken so far."""
_MINUTE_MS = 60_000
_TOO_MANY = 429
# Binance's table for USDT futures: weight up to this `limit`.
_BY_LIMIT = {
    "klines": ((99, 1), (499, 2), (1000, 5), (1500, 10)),
    "markPriceKlines": ((99, 1), (499, 2), (1000, 5), (1500, 10)),
    "depth": ((50, 2), (100, 5), (500, 10), (1000, 20)),
}
_OF_ALL_SYMBOLS = {"24hr": 40, "price": 2, "bookTicker": 5, "premiumIndex": 10}
_DEFAULT_LIMIT = 500


class Weights:
    """Counts the requests of one minute; a clock that stands has no minutes, and no limit."""

    def __init__(self) -> None:
        self._minute = -1
        self.used = 0

    def take(self, now_ms: int, path: str, parameters: Mapping[str, str]) -> int:
        """Count a request and return what the minute has taken with it.

        Raises
        ------
        ApiError
            If that is more than the limit: -1003, status 429.
        """
        minute = now_ms // _MINUTE_MS
        if minute != self._minute:
            self._minute, self.used = minute, 0
        self.used += weight_of(path, parameters)
        if self.used > WEIGHT_LIMIT:
            raise ApiError(
                -1003,
                f"Too many requests; current limit is {WEIGHT_LIMIT} request weight per 1 MINUTE.",
                _TOO_MANY,
            )
        return self.used


def weight_of(path: str, parameters: Mapping[str, str]) -> int:
    """Return the weight of a request by the last part of its path and its parameters."""
    name = path.rpartition("/")[2]
    if name in _BY_LIMIT:
        text = parameters.get("limit", "")
        limit = int(text) if text.isdecimal() and len(text) < 6 else _DEFAULT_LIMIT
        steps = _BY_LIMIT[name]
        return next((weight for most, weight in steps if limit <= most), steps[-1][1])
    return 1 if parameters.get("symbol") else _OF_ALL_SYMBOLS.get(name, 1)
