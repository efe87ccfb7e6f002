"""Closed trades outside the kernels: one form, where it comes from, and how two lists differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd

from mtf_scalper.errors import MarketError
from mtf_scalper.market.market import Market
from mtf_scalper.simulator.types import ExitReason, Side, Trade

FIELDS: Final = ("side", "close_date", "exit_reason", "open_rate", "close_rate", "leverage")
"""What has to be equal between two trades that open at the same time."""
PROFIT_TOLERANCE: Final = 1e-6
"""Largest difference of profit ratio between equal trades."""
JUDGED: Final = "agent"
"""Series of the account that is judged."""


@dataclass(frozen=True)
class ClosedTrade:
    """A closed trade with dates, as ``simulator.types.Trade`` has it with rows.

    Attributes
    ----------
    pair : str
    side : str
        ``"long"`` or ``"short"``.
    open_date, close_date : Timestamp
        UTC.
    open_rate, close_rate, leverage, profit_ratio : float
    exit_reason : str
        One of freqtrade's or of the strategy's own.
    enter_tag : str or None
    """

    pair: str
    side: str
    open_date: pd.Timestamp
    close_date: pd.Timestamp
    open_rate: float
    close_rate: float
    leverage: float
    profit_ratio: float
    exit_reason: str
    enter_tag: str | None = None


def from_freqtrade(trade: Any) -> ClosedTrade:
    """Return a trade of freqtrade's: its object, or the mapping that it writes into results."""
    is_row = isinstance(trade, Mapping)
    read = trade.__getitem__ if is_row else partial(getattr, trade)
    return ClosedTrade(
        pair=read("pair"),
        side="short" if read("is_short") else "long",
        open_date=_utc(read("open_date")),
        close_date=_utc(read("close_date")),
        open_rate=read("open_rate"),
        close_rate=read("close_rate"),
        leverage=read("leverage"),
        profit_ratio=float(read("profit_ratio" if is_row else "close_profit") or 0.0),
        exit_reason=read("exit_reason"),
        enter_tag=trade.get("enter_tag") if is_row else trade.enter_tag,
    )


def simulated(
    trades: Iterable[Trade], market: Market, enter_tag: str | None = None
) -> list[ClosedTrade]:
    """Return the simulator's trades with the dates of the market that they were made on."""
    assert market.dates is not None
    dates = pd.DatetimeIndex(market.dates, tz="UTC")
    return [
        ClosedTrade(
            pair=trade.pair,
            side="short" if trade.side is Side.SHORT else "long",
            open_date=dates[trade.open_row],
            close_date=dates[trade.close_row],
            open_rate=trade.open_rate,
            close_rate=trade.close_rate,
            leverage=trade.leverage,
            profit_ratio=trade.profit_ratio,
            exit_reason=str(trade.exit_reason),
            enter_tag=enter_tag,
        )
        for trade in trades
    ]


def on_rows(trades: Iterable[ClosedTrade], market: Market) -> tuple[Trade, ...]:
    """Return trades of one pair with rows of ``market``, in the order of time.

    Raises
    ------
    MarketError
        If a trade lies outside the market, or ended for a reason that no rule here has.
    """
    assert market.dates is not None
    found = []
    for trade in sorted(trades, key=lambda trade: trade.open_date):
        rows = []
        for name in ("open_date", "close_date"):
            date = getattr(trade, name)
            row = int(np.searchsorted(market.dates, date.to_datetime64()))
            if row == len(market) or market.dates[row] != date.to_datetime64():
                raise MarketError(f"{market.pair}: a trade's {name} {date} is no candle")
            rows.append(row)
        if trade.exit_reason not in list(ExitReason):
            raise MarketError(
                f"{market.pair}: the exit {trade.exit_reason!r} of the trade of "
                f"{trade.open_date} cannot be played again"
            )
        found.append(
            Trade(
                pair=market.pair,
                side=Side.SHORT if trade.side == "short" else Side.LONG,
                open_row=rows[0],
                close_row=rows[1],
                open_rate=trade.open_rate,
                close_rate=trade.close_rate,
                leverage=trade.leverage,
                profit_ratio=trade.profit_ratio,
                exit_reason=ExitReason(trade.exit_reason),
            )
        )
    return tuple(found)


def as_row(
    trade: ClosedTrade, *, window: str | None, seed: int, log_return: float | None
) -> dict[str, Any]:
    """Return a trade as ``trades.jsonl`` has it.

    Its ``log_return`` is that of an account that stakes all it has, ``window`` that whose policy
    decided on it.
    """
    return {
        "series": JUDGED,
        "pair": trade.pair,
        "window": window,
        "seed": seed,
        "side": trade.side,
        "open_date": trade.open_date.isoformat(),
        "close_date": trade.close_date.isoformat(),
        "open_rate": trade.open_rate,
        "close_rate": trade.close_rate,
        "leverage": trade.leverage,
        "profit_ratio": trade.profit_ratio,
        "log_return": log_return,
        "exit_reason": trade.exit_reason,
        "enter_tag": trade.enter_tag,
    }


@dataclass(frozen=True)
class Match:
    """Two trades that open at the same time; None where one side has no such trade."""

    ours: ClosedTrade | None
    theirs: ClosedTrade | None

    @property
    def open_date(self) -> pd.Timestamp:
        """When they open."""
        known = self.theirs or self.ours
        assert known is not None
        return known.open_date

    @property
    def names(self) -> tuple[str, ...]:
        """What differs between the two, of ``FIELDS`` or else ``profit_ratio``."""
        ours, theirs = self.ours, self.theirs
        if ours is None or theirs is None:
            return ()
        names = tuple(each for each in FIELDS if getattr(ours, each) != getattr(theirs, each))
        is_near = abs(ours.profit_ratio - theirs.profit_ratio) <= PROFIT_TOLERANCE
        return names or (() if is_near else ("profit_ratio",))

    @property
    def is_equal(self) -> bool:
        """Whether both sides have the same trade."""
        return None not in (self.ours, self.theirs) and not self.names

    def words(self, our_side: str, their_side: str) -> str:
        """Return what differs first, in words."""
        opened = f"the trade of {self.open_date:%Y-%m-%d %H:%M}"
        if self.ours is None or self.theirs is None:
            return f"only {their_side if self.ours is None else our_side} has {opened}"
        name = self.names[0]
        ours, theirs = (getattr(each, name) for each in (self.ours, self.theirs))
        return f"{name} of {opened} is {ours} in {our_side}, {theirs} in {their_side}"


def matched(ours: Iterable[ClosedTrade], theirs: Iterable[ClosedTrade]) -> list[Match]:
    """Return all trades of either side, in the order of time."""
    mine, others = _by_open_date(ours), _by_open_date(theirs)
    return [Match(mine.get(key), others.get(key)) for key in sorted({*mine, *others})]


def differences(ours: Iterable[ClosedTrade], theirs: Iterable[ClosedTrade]) -> list[Match]:
    """Return the trades that are not the same on both sides, in the order of time."""
    return [match for match in matched(ours, theirs) if not match.is_equal]


def _by_open_date(trades: Iterable[ClosedTrade]) -> dict[tuple[pd.Timestamp, int], ClosedTrade]:
    # A strategy of another's making may open two trades within one candle.
    seen: Counter[pd.Timestamp] = Counter()
    found = {}
    for trade in trades:
        found[trade.open_date, seen[trade.open_date]] = trade
        seen[trade.open_date] += 1
    return found


def _utc(date: Any) -> pd.Timestamp:
    """Return a time in UTC; a bot's database has no zones."""
    moment = pd.Timestamp(date)
    return moment.tz_localize("UTC") if moment.tz is None else moment.tz_convert("UTC")
