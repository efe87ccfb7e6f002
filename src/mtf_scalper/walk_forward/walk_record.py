"""Candles, trades and predictions that an evaluation leaves in its run folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from mtf_scalper.evaluation.trades import as_row, simulated
from mtf_scalper.market.stored import RecordedPair
from mtf_scalper.records.reader import PROBABILITIES
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.walk_forward.walk import Walk
from mtf_scalper.walk_forward.windows import Window

KIND: Final = "evaluate"


def tested_candles(recorded: RecordedPair, windows: Sequence[Window]) -> pd.DataFrame:
    """Return the candles of all tests, and the one at which the period ends if there is one."""
    first = recorded.row_of(windows[0].test_from)
    stop = recorded.row_of(windows[-1].test_to)
    return recorded.candles.iloc[first : stop + 1].reset_index(drop=True)


def write_pair(record: RunRecord, recorded: RecordedPair, walks: Sequence[Walk]) -> None:
    """Write candles, trades and predictions of one pair, which was traded once per seed."""
    windows = [part.window for part in walks[0].learned]
    assert walks[0].market.dates is not None
    dates = pd.DatetimeIndex(walks[0].market.dates, tz="UTC")
    record.write_candles(walks[0].pair, tested_candles(recorded, windows))
    for walk in walks:
        record.append_trades(_trades(walk, dates))
    probabilities = np.mean([walk.probabilities for walk in walks], axis=0)
    table = pd.DataFrame(probabilities, columns=list(PROBABILITIES))
    table.insert(0, "date", dates)
    table["confidence"] = probabilities.max(axis=1)
    record.write_predictions(walks[0].pair, table)


def _trades(walk: Walk, dates: pd.DatetimeIndex) -> Iterator[dict[str, Any]]:
    starts = pd.DatetimeIndex([part.window.test_from for part in walk.learned])
    closed = simulated(walk.run.trades, walk.market, enter_tag=str(walk.settings.rules.entry))
    for trade, row in zip(walk.run.trades, closed, strict=True):
        # A decision at the last candle of a window fills in the next one.
        number = int(starts.searchsorted(dates[trade.open_row - 1], side="right")) - 1
        yield as_row(
            row,
            window=walk.learned[number].window.name,
            seed=walk.seed,
            log_return=float(np.log(max(1.0 + trade.profit_ratio, 1e-9))),
        )
