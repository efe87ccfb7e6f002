"""What a running bot tells where a candle of a pair could not be analysed.

freqtrade 2026.9 logs a failing analysis with its traceback at every loop, and goes on with what the
candle before has left: its entry can be taken for minutes. Here such a candle has no opinion, and
one line a candle says so.
"""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar

import pandas as pd

from mtf_scalper.errors import MtfScalperError

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

_CANDLE = ["date", "open", "high", "low", "close", "volume"]
_MEANWHILE = "nothing is entered, and what is open keeps its stop and its safety exits"


def reason_of(error: BaseException) -> str:
    """Return an error in one line; one that nobody expects is told with its place."""
    text = " ".join(str(error).split())
    if isinstance(error, MtfScalperError) or type(error).__module__.startswith("freqtrade"):
        return text or type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{place}"


def without_opinion(candles: pd.DataFrame) -> pd.DataFrame:
    """Return candles on which nothing is entered and nobody decides to leave."""
    return candles[_CANDLE].assign(enter_long=0, enter_short=0, exit_long=0, exit_short=0)


class Analyses:
    """Tells each pair's trouble once a candle, whatever kind it is."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], datetime] = {}
        self._closes: dict[str, tuple[datetime, float]] = {}

    def failed(self, pair: str, candle: datetime, error: Exception) -> None:
        """Say that the analysis of a candle has raised an error."""
        self._tell(
            "analysis",
            pair,
            candle,
            f"the candle of {candle:%Y-%m-%d %H:%M} is not analysed, {_MEANWHILE}; tried again at "
            f"the next candle: {reason_of(error)}",
        )
        logger.debug("%s: %s", pair, "".join(traceback.format_exception(error)))

    def look(
        self,
        pairs: Iterable[str],
        candle: datetime,
        step: timedelta,
        candles_of: Callable[[str], Any],
    ) -> None:
        """Say which pairs have no candles, or none of late, and which candle was corrected.

        Parameters
        ----------
        pairs : iterable of str
        candle : datetime
            The candle that is being traded in opened then.
        step : timedelta
            Length of a candle.
        candles_of : callable
            The candles that the exchange has given of a pair.
        """
        for pair in pairs:
            frame = candles_of(pair)
            if not isinstance(frame, pd.DataFrame) or frame.empty:
                self._tell(
                    "candles",
                    pair,
                    candle,
                    f"the exchange gives no candles, {_MEANWHILE}; take the pair out of the pair "
                    "list if it is no longer traded there",
                )
                continue
            self._compare(pair, frame)
            last = frame["date"].iloc[-1]
            if last < candle - 2 * step:  # one candle may come late
                self._tell(
                    "candles",
                    pair,
                    candle,
                    f"the exchange's last candle is that of {last:%Y-%m-%d %H:%M}, {_MEANWHILE}; "
                    "look whether the pair is still traded, and at the clock of this machine",
                )

    def _compare(self, pair: str, frame: pd.DataFrame) -> None:
        """Say that the exchange has another close of the candle that was the last one before."""
        last = frame["date"].iloc[-1]
        before = self._closes.get(pair)
        if before is not None and before[0] == last:
            return
        self._closes[pair] = (last, float(frame["close"].iloc[-1]))
        if before is None:
            return
        now = frame.loc[frame["date"] == before[0], "close"]
        if len(now) and before[1] > 0.0 and now.iloc[0] != before[1]:
            self._tell(
                "correction",
                pair,
                before[0],
                f"the exchange has corrected the candle of {before[0]:%Y-%m-%d %H:%M} after it was "
                f"decided on: it closed at {now.iloc[0]:g}, not at {before[1]:g}; what was entered "
                "on it stays open",
            )

    def _tell(self, kind: str, pair: str, candle: datetime, text: str) -> None:
        if self._told.get((kind, pair)) != candle:
            self._told[kind, pair] = candle
            logger.warning("%s: %s", pair, text)


def answering(otherwise: T) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a callback answer ``otherwise`` where it fails, in one line of the log.

    freqtrade would go on with an answer of its own: the whole proposed stake, or "yes".
    """

    def around(callback: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(callback)
        def answer(*given: P.args, **named: P.kwargs) -> T:
            try:
                return callback(*given, **named)
            except Exception as error:
                logger.warning("%s answers %s: %s", callback.__name__, otherwise, reason_of(error))
                return otherwise

        return answer

    return around
