"""Markets, pairs and intervals, as Binance and freqtrade call them and as files are named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS

# Binance's intervals of constant length. A calendar month is not one, so 1M is not replayed.
INTERVALS_MS: dict[str, int] = {
    "1m": _MINUTE_MS,
    "3m": 3 * _MINUTE_MS,
    "5m": 5 * _MINUTE_MS,
    "15m": 15 * _MINUTE_MS,
    "30m": 30 * _MINUTE_MS,
    "1h": _HOUR_MS,
    "2h": 2 * _HOUR_MS,
    "4h": 4 * _HOUR_MS,
    "6h": 6 * _HOUR_MS,
    "8h": 8 * _HOUR_MS,
    "12h": 12 * _HOUR_MS,
    "1d": _DAY_MS,
    "3d": 3 * _DAY_MS,
    "1w": 7 * _DAY_MS,
}

_ENDING = r"\.(?P<ending>feather|parquet|json|json\.gz)"


class Venue(StrEnum):
    """One of Binance's markets; the value is freqtrade's ``trading_mode``."""

    FUTURES = "futures"
    SPOT = "spot"

    def folder(self, datadir: Path) -> Path:
        """Return where freqtrade puts its files."""
        return datadir / "futures" if self is Venue.FUTURES else datadir

    @property
    def example(self) -> str:
        """A file's name."""
        return _EXAMPLES[self]

    @property
    def file_name(self) -> re.Pattern[str]:
        """How its files are called: base, quote, interval, for futures kind, and ending."""
        return _FILE_NAMES[self]


_FILE_NAMES = {
    Venue.FUTURES: re.compile(
        r"(?P<base>[^_\-]+)_(?P<quote>USDT|USDC)_(?P=quote)"
        r"-(?P<interval>\d+[mhdw])-(?P<kind>futures|mark|funding_rate)" + _ENDING
    ),
    Venue.SPOT: re.compile(
        r"(?P<base>[^_\-]+)_(?P<quote>[^_\-]+)-(?P<interval>\d+[mhdw])(?P<kind>)" + _ENDING
    ),
}


_EXAMPLES = {
    Venue.FUTURES: "BTC_USDT_USDT-5m-futures.feather",
    Venue.SPOT: "BTC_USDT-5m.feather",
}


class CandleKind(StrEnum):
    """Which price a candle is made of; the value is freqtrade's name of the candle type."""

    TRADES = "futures"
    MARK = "mark"


@dataclass(frozen=True, order=True)
class Symbol:
    """A pair of assets: a linear perpetual contract margined in its quote asset, or spot."""

    base: str
    quote: str
    venue: Venue = Venue.FUTURES

    @property
    def name(self) -> str:
        """Binance's name, as in ``BTCUSDT``."""
        return self.base + self.quote

    @property
    def pair(self) -> str:
        """freqtrade's name, as in ``BTC/USDT:USDT`` or ``BTC/USDT``."""
        settles = f":{self.quote}" if self.venue is Venue.FUTURES else ""
        return f"{self.base}/{self.quote}{settles}"

    def file_name(self, interval: str, kind: str) -> str:
        """Return the name of this pair's feather file, without its folder."""
        if self.venue is Venue.SPOT:
            return f"{self.base}_{self.quote}-{interval}.feather"
        return f"{self.base}_{self.quote}_{self.quote}-{interval}-{kind}.feather"
