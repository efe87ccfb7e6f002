"""Pairs of a running bot whose training failed: they wait for their next candle.

FreqAI tries again every second, and always with a traceback. freqtrade 2026.9 keeps the last
thousand records of its log for the API, and each traceback keeps the frames that it went through,
with the candles and features of a whole training: memory grew by 10 MB a second.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from mtf_scalper.errors import MtfScalperError

logger = logging.getLogger(__name__)


class WaitingPairs:
    """Takes pairs out of FreqAI's queue of trainings, and puts them back.

    Parameters
    ----------
    queue : deque of str
        FreqAI's own; read by the thread that trains, appended to by the one that trades.
    """

    def __init__(self, queue: deque[str]) -> None:
        self._queue = queue
        self._waiting: set[str] = set()
        self._told: dict[str, str] = {}

    def has_new_candle(self, pair: str) -> None:
        """Let a pair that waits be trained again."""
        if pair in self._waiting:
            self._waiting.discard(pair)
            self._queue.append(pair)

    @contextmanager
    def trying(self, pair: str) -> Iterator[None]:
        """Catch whatever a training raises; the log tells it where it was not told last time."""
        try:
            yield
        except Exception as error:
            expected = isinstance(error, MtfScalperError)
            text = str(error) if expected else traceback.format_exc()
            if self._told.get(pair) != text:
                self._told[pair] = text
                logger.warning(
                    "%s is not trained, and tried again at every new candle: %s", pair, text
                )
            if pair in self._queue:
                self._queue.remove(pair)
            self._waiting.add(pair)
        else:
            self._told.pop(pair, None)
