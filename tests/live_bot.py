"""freqtrade's own bot in dry run, with a clock, candles and an order book that a test moves."""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from freqtrade.data.history import load_pair_history
from freqtrade.enums import CandleType, RunMode
from freqtrade.freqai import freqai_interface
from freqtrade.freqtradebot import FreqtradeBot
from freqtrade.persistence import Trade

PAIR, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
MINUTES = {"5m": 5, "15m": 15, "1h": 60}
BEGIN = pd.Timestamp("2024-02-02 12:00", tz="UTC")


class _AsDatetime(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, dt.datetime)


class Clock(dt.datetime, metaclass=_AsDatetime):
    """What freqtrade's modules ask for the time."""

    moment = BEGIN.to_pydatetime()

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
        """Return the test's moment."""
        return cls.moment if tz is not None else cls.moment.replace(tzinfo=None)


def keep_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every module of freqtrade ask ``Clock``."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "freqtrade" and vars(module).get("datetime") is dt.datetime:
            monkeypatch.setattr(module, "datetime", Clock)
    seconds = "freqtrade.util.datetime_helpers.time"  # what fills are dated by
    monkeypatch.setattr(seconds, lambda: Clock.moment.timestamp())
    look_often(monkeypatch)


def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let FreqAI's thread look for a due training every 0.05 seconds instead of every second."""
    quick = SimpleNamespace(**vars(time))
    quick.sleep = lambda seconds: time.sleep(0.05 * seconds)
    monkeypatch.setattr(freqai_interface, "time", quick)


def within(seconds: float, is_so: Callable[[], Any]) -> bool:
    """Wait until something is so, and return whether it came to be."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@dataclass
class Desk:
    """A bot and its market.

    Attributes
    ----------
    config : dict
    datadir : Path
        Candles that have closed by the clock are told to the bot.
    price : float
        The middle of the order book; whoever wants to buy pays a little more.
    """

    config: dict[str, Any]
    datadir: Path
    price: float = 100.0
    without: set[str] = field(default_factory=set)
    bot: FreqtradeBot = field(init=False)

    def __post_init__(self) -> None:
        self.frames = {
            (pair, timeframe): _calm(
                load_pair_history(pair, timeframe, self.datadir, candle_type=CandleType.FUTURES)
            )
            for pair in (PAIR, OTHER)
            for timeframe in MINUTES
        }

    def start(self) -> None:
        """Start the bot; trades of an earlier one go on."""
        self.bot = FreqtradeBot({**self.config, "exchange": dict(self.config["exchange"])})
        exchange = self.bot.exchange
        exchange.refresh_latest_ohlcv = self._told  # type: ignore[method-assign]
        exchange.get_funding_fees = lambda **_: 0.0  # type: ignore[method-assign]
        exchange.fetch_l2_order_book = self._book  # type: ignore[method-assign]
        self.bot.startup()

    def stop(self) -> None:
        """Stop the bot, as Ctrl-C does."""
        self.bot.cleanup()

    def at(self, moment: pd.Timestamp, price: float | None = None) -> None:
        """Set clock and price, then let the bot run one loop."""
        self.tell(moment, price)
        self.bot.process()

    def fill(self) -> None:
        """Let the price come to orders that wait near it, for one loop."""
        before = self.price
        for self.price in (before * 0.998, before * 1.002, before):
            self.bot.process()

    def tell(self, moment: pd.Timestamp, price: float | None = None) -> None:
        """Set clock and price."""
        Clock.moment = moment.to_pydatetime()
        if price is not None:
            self.price = price

    @property
    def trades(self) -> list[Trade]:
        """All trades, oldest first."""
        return list(Trade.get_trades().all())

    def _book(self, pair: str, limit: int = 100, **_: Any) -> dict[str, Any]:
        return {
            "symbol": pair,
            "bids": [[self.price * 0.9999, 1e9]],
            "asks": [[self.price * 1.0001, 1e9]],
        }

    def _told(self, *_: Any, **__: Any) -> dict[Any, Any]:
        klines = self.bot.exchange._klines
        for (pair, timeframe), frame in self.frames.items():
            closed = frame["date"] + pd.Timedelta(minutes=MINUTES[timeframe]) <= Clock.moment
            key = (pair, timeframe, CandleType.FUTURES)
            klines[key] = frame[closed].reset_index(drop=True)
            if pair in self.without:
                klines.pop(key)
        return {}


def _calm(frame: pd.DataFrame) -> pd.DataFrame:
    """Return candles that come to 100 at ``BEGIN`` and stay there."""
    prices = ["open", "high", "low", "close"]
    frame[prices] *= 100.0 / frame.loc[frame["date"] < BEGIN, "close"].iloc[-1]
    frame.loc[frame["date"] >= BEGIN, prices] = 100.0
    return frame


def trained(desk: Desk, *pairs: str, seconds: float = 300.0) -> bool:
    """Wait until all of the pairs have a model."""
    models = desk.bot.strategy.freqai.dd.model_dictionary
    return within(seconds, lambda: all(pair in models for pair in pairs))


def dry(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a configuration of a backtest as that of a bot."""
    return {
        **config,
        "runmode": RunMode.DRY_RUN,
        "dry_run": True,
        "db_url": f"sqlite:///{folder / 'trades.sqlite'}",
        "initial_state": "running",
    }
