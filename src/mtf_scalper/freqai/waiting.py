"""Whose turn it is to be trained in a running bot, and pairs whose training failed.

FreqAI (freqtrade 2026.9) looks at the first pair of its queue every second, and at the next one
only once that has been trained: a pair behind one that is not due waits until it is, up to a day.
One whose training fails it tries again every second, always with a traceback. freqtrade keeps the
last thousand records of its log for the API, and each traceback keeps the frames that it went
through, with the candles and features of a whole training: memory grew by 10 MB a second.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, SupportsIndex

from mtf_scalper.freqai.analyses import reason_of

logger = logging.getLogger(__name__)


class Turns(deque[str]):
    """FreqAI's queue of trainings; at every look the next pair stands first.

    Parameters
    ----------
    pairs : iterable of str
        In the order in which they are looked at.
    """

    def __init__(self, pairs: Iterable[str]) -> None:
        super().__init__(pairs)
        super().rotate(1)

    def __getitem__(self, index: SupportsIndex) -> Any:  # type: ignore[override]  # no slices
        """Return a pair; whoever looks at the first one sees another every time."""
        if index == 0:
            super().rotate(-1)
        return super().__getitem__(index)

    def rotate(self, n: int = 1) -> None:
        """Do nothing: FreqAI asks for it after a training, and the next look goes on anyway."""


class WaitingPairs:
    """Takes pairs out of FreqAI's queue of trainings, and puts them back.

    Parameters
    ----------
    queue : deque of str
        FreqAI's own; read by the thread that trains, appended to by the one that trades.
    """

    def __init__(self, queue: deque[str]) -> None:
        self._queue = queue
        self._told: dict[str, str] = {}

    def has_new_candle(self, pair: str) -> None:
        """Let a pair be trained that waits, or that FreqAI has dropped while it was in no list."""
        if pair not in self._queue:
            self._queue.append(pair)

    @contextmanager
    def trying(self, pair: str) -> Iterator[None]:
        """Catch whatever a training raises; the log tells it where it was not told last time."""
        try:
            yield
        except Exception as error:
            text = reason_of(error)
            if self._told.get(pair) != text:
                self._told[pair] = text
                logger.warning(
                    "%s is not trained, and tried again at every new candle; until then the model "
                    "before is used, and without one nothing is entered: %s",
                    pair,
                    text,
                )
                logger.debug("%s: %s", pair, traceback.format_exc())
            if pair in self._queue:
                self._queue.remove(pair)
        else:
            self._told.pop(pair, None)
