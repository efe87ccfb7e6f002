"""The errors that a user of this package meets: one line each, naming what is wrong."""

from __future__ import annotations

_LONGEST, _HEAD, _TAIL = 1200, 800, 200


class MtfScalperError(Exception):
    """Base of every error that this package raises on purpose."""


class SettingsError(MtfScalperError):
    """A setting is unknown, mistyped, out of range or at odds with another one.

    What was written in its place is repeated, and cut where nobody would read on.
    """

    def __init__(self, message: str = "") -> None:
        is_long = len(message) > _LONGEST
        super().__init__(f"{message[:_HEAD]} ... {message[-_TAIL:]}" if is_long else message)


class MarketError(MtfScalperError):
    """Candles, features or signals cannot be traded on: names pair, column and place."""


class UntrainableError(MarketError):
    """A pair has too few candles to learn from, or none that move; others may have enough."""


class WorkerDiedError(MtfScalperError):
    """An environment process ended before its training did."""


class LearningError(MtfScalperError):
    """A training meets numbers that it cannot learn from; names where they come from."""


class WeightsError(LearningError):
    """A training has come to weights that are no numbers; names what is likely to blame."""
