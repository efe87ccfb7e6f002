"""What an evaluation leaves in its run folder, and what earlier ones left there to be counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from mtf_scalper.evaluation.edge import Variant
from mtf_scalper.market.recorded import RecordedPair
from mtf_scalper.records.reader import PROBABILITIES, Run, Status, runs_in
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.evidence import Account, PairEvidence
from mtf_scalper.runs.walk_forward import Walk
from mtf_scalper.runs.windows import Window
from mtf_scalper.simulator.playback import Simulation
from mtf_scalper.simulator.types import Side

__all__ = [
    "KIND",
    "earlier_variants",
    "tested_candles",
    "window_days",
    "write_daily",
    "write_equity",
    "write_pair",
]

KIND: Final = "evaluate"
DAILY: Final = "daily"
"""Table of the run folder: date, series, log_return; one row per day."""
JUDGED: Final = "agent"
_SAME = 1e-12
_NO_VARIANT = ("random_state", "cpu_count", "interop_threads", "progress_bar")
"""Settings that luck or the machine decides."""


def tested_candles(recorded: RecordedPair, windows: Sequence[Window]) -> pd.DataFrame:
    """Return the candles of all tests, and the one at which the period ends if there is one."""
    first = recorded.row_of(windows[0].test_from)
    stop = recorded.row_of(windows[-1].test_to)
    return recorded.candles.iloc[first : stop + 1].reset_index(drop=True)


def write_pair(record: RunRecord, recorded: RecordedPair, evidence: PairEvidence) -> None:
    """Write candles, trades and predictions of one pair."""
    dates = _dates(evidence)
    windows = [part.window for part in evidence.walks[0].learned]
    record.write_candles(evidence.pair, tested_candles(recorded, windows))
    for walk in evidence.walks:
        record.append_trades(_trades(walk, dates))
    probabilities = np.mean([walk.probabilities for walk in evidence.walks], axis=0)
    table = pd.DataFrame(probabilities, columns=list(PROBABILITIES))
    table.insert(0, "date", dates)
    table["confidence"] = probabilities.max(axis=1)
    record.write_predictions(evidence.pair, table)


def _dates(evidence: PairEvidence) -> pd.DatetimeIndex:
    dates = evidence.walks[0].market.dates
    assert dates is not None
    return pd.DatetimeIndex(dates, tz="UTC")


def _trades(walk: Walk, dates: pd.DatetimeIndex) -> list[dict[str, Any]]:
    starts = pd.DatetimeIndex([part.window.test_from for part in walk.learned])
    found = []
    for trade in walk.run.trades:
        opened = dates[trade.open_row]
        # A decision at the last candle of a window fills in the next one.
        number = int(starts.searchsorted(dates[trade.open_row - 1], side="right")) - 1
        found.append(
            {
                "series": JUDGED,
                "pair": walk.pair,
                "window": walk.learned[number].window.name,
                "seed": walk.seed,
                "side": "long" if trade.side is Side.LONG else "short",
                "open_date": opened.isoformat(),
                "close_date": dates[trade.close_row].isoformat(),
                "open_rate": trade.open_rate,
                "close_rate": trade.close_rate,
                "leverage": trade.leverage,
                "profit_ratio": trade.profit_ratio,
                "log_return": float(np.log(max(1.0 + trade.profit_ratio, 1e-9))),
                "exit_reason": str(trade.exit_reason),
                "enter_tag": str(walk.settings.rules.entry),
            }
        )
    return found


@dataclass(frozen=True, eq=False)
class _Line:
    """Log equity of one account by date; ``seed`` is None where it does not matter."""

    pair: str
    seed: int | None
    series: str
    log_return: pd.Series[float]

    def table(self) -> pd.DataFrame:
        seed = pd.Series([self.seed] * len(self.log_return), dtype="Int64")
        return pd.DataFrame(
            {
                "date": self.log_return.index,
                "pair": self.pair,
                "seed": seed,
                "series": self.series,
                "log_return": self.log_return.to_numpy(),
            }
        )


def write_equity(record: RunRecord, pairs: Sequence[PairEvidence]) -> None:
    """Write every account candle by candle; all pairs together are the sum."""
    lines = [line for evidence in pairs for line in _lines_of(evidence)]
    if len(pairs) > 1:
        lines += _sums(lines)
    record.write_table("equity", pd.concat([line.table() for line in lines], ignore_index=True))


def _lines_of(evidence: PairEvidence) -> list[_Line]:
    dates = _dates(evidence)
    runs: list[tuple[int | None, str, Simulation]] = [
        *((walk.seed, JUDGED, walk.run) for walk in evidence.walks),
        *((None, name, run) for name, run in evidence.baselines.items()),
        (None, "oracle", evidence.oracle),
    ]
    return [
        _Line(evidence.pair, seed, name, pd.Series(np.log(run.equity), index=dates))
        for seed, name, run in runs
    ]


def _sums(lines: Sequence[_Line]) -> list[_Line]:
    """Return what all pairs together have, by seed and series."""
    groups: dict[tuple[int | None, str], list[pd.Series[float]]] = {}
    for line in lines:
        groups.setdefault((line.seed, line.series), []).append(line.log_return)
    return [
        _Line("all", seed, name, pd.concat(members, axis=1).ffill().fillna(0.0).sum(axis=1))
        for (seed, name), members in groups.items()
    ]


def write_daily(record: RunRecord, first: pd.Timestamp, account: Account) -> None:
    """Write the days that the verdict rests on; later evaluations count this run by them."""
    columns = {JUDGED: account.days.log_return, "oracle": account.oracle, **account.baselines}
    dates = pd.date_range(first, periods=len(account), freq="D")
    parts = [
        pd.DataFrame({"date": dates, "series": name, "log_return": values})
        for name, values in columns.items()
    ]
    record.write_table(DAILY, pd.concat(parts, ignore_index=True))


def earlier_variants(run: Run, judged: Variant, root: Path) -> list[Variant]:
    """Return the other variants that were evaluated on the same candles and days.

    Every finished evaluation of these pairs, candles and days counts, whatever was changed between
    them: settings, windows or code. Other seeds alone are no variant, and where all days are the
    same as those of the judged variant, or of one that is counted already, nothing else was tried.

    Parameters
    ----------
    run : Run
        That of the judged variant.
    judged : Variant
    root : Path
        Folder of the runs.
    """
    found: list[Variant] = []
    known = [_key(run)]
    for each in runs_in(root):
        is_alike = all(
            each.manifest.get(name) == run.manifest.get(name)
            for name in ("kind", "pairs", "timerange", "data_digest")
        )
        if not is_alike or each.status is not Status.FINISHED or _key(each) in known:
            continue
        variant = _variant_of(each)
        if variant is not None and not any(_is_same(variant, one) for one in (judged, *found)):
            found.append(variant)
            known.append(_key(each))
    return found


def _key(run: Run) -> tuple[Any, ...]:
    """Return what a run's seeds and speed leave of it: two runs with the same are one variant."""
    settings = run.manifest.get("settings", {})
    return (
        run.manifest.get("engine"),
        {name: value for name, value in settings.items() if name not in _NO_VARIANT},
    )


def _variant_of(run: Run) -> Variant | None:
    path = run.folder / f"{DAILY}.feather"
    if not path.is_file():
        return None
    table = pd.read_feather(path)
    by_series = {
        str(name): rows["log_return"].to_numpy(dtype=np.float64)
        for name, rows in table.groupby("series", sort=False)
    }
    judged = by_series.pop(JUDGED)
    by_series.pop("oracle", None)
    return Variant(run.run_id, judged, by_series)


def _is_same(one: Variant, other: Variant) -> bool:
    """Whether all days are the same; other days, as of a damaged table, cannot be compared."""
    if one.log_return.shape != other.log_return.shape:
        return True
    return bool(np.abs(one.log_return - other.log_return).max() <= _SAME)


def window_days(windows: Sequence[Window], window: Window) -> slice:
    """Return the days of a window's test, counted from the first test on."""
    first = windows[0].test_from
    return slice((window.test_from - first).days, (window.test_to - first).days)
