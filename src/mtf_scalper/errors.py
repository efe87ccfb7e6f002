"""The errors that a user of this package meets: one line each, naming what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    """A process that was to learn, or to step an environment, ended before it was done."""


class MemoryLackError(MtfScalperError):
    """The memory does not suffice; names what for."""

    @classmethod
    @contextmanager
    def named(cls, what: str, advice: str) -> Iterator[None]:
        """Raise it where NumPy, torch, an import or Python itself gets no memory.

        Parameters
        ----------
        what : str
            What the memory is needed for; stands first.
        advice : str
            What to do; stands last.
        """
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split())
            if not isinstance(error, MemoryError) and "allocate memory" not in text:
                raise
            reason = f" ({text[:200]})" if text else ""
            raise cls(f"{what}: there is not enough memory{reason}; {advice}") from None


class LearningError(MtfScalperError):
    """A training meets numbers that it cannot learn from; names where they come from."""


class WeightsError(LearningError):
    """A training has come to weights that are no numbers; names what is likely to blame."""
