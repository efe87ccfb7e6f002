"""What runs were worth together: figures, whether there is an edge, and the record of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.evaluation.accounts import Account, PairEvidence, averaged, together
from mtf_scalper.evaluation.degenerate import aside_in_words
from mtf_scalper.evaluation.edge import Edge, Variant, judge_edge
from mtf_scalper.evaluation.trades import JUDGED
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.simulator.playback import Simulation

ALL: Final = "all"
"""Instead of a pair's name: all of them together."""
DAILY: Final = "daily"
"""Table of the run folder: date, series, log_return; one row per day."""

_Line = tuple[str, int | None, str]
"""Pair, seed (None where it does not matter) and series of an account's equity."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What was found.

    Attributes
    ----------
    calendar : ndarray of datetime64[D], shape (D,)
        The days.
    pairs : tuple of PairEvidence
    by_pair : mapping of str to Account
        The mean over seeds.
    whole : Account
        All pairs together, the mean over seeds.
    edge : Edge
    figures : list of dict
        For ``figures.json``: by pair, window and seed, those of all together first.
    """

    calendar: NDArray[np.datetime64]
    pairs: tuple[PairEvidence, ...]
    by_pair: Mapping[str, Account]
    whole: Account
    edge: Edge
    figures: list[dict[str, Any]]

    @property
    def sentence(self) -> str:
        """Whether there is evidence of an edge, in words."""
        return self.edge.sentence


@dataclass(frozen=True)
class NotJudged:
    """Trades that are not judged, because the simulator made others of them.

    Attributes
    ----------
    differences : mapping of str to str
        By pair, the first difference in words; at least one.
    pairs : tuple of str
        All of them, those that agree as well.
    """

    differences: Mapping[str, str]
    pairs: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """Why there is no verdict: pair, candle and what differs there."""
        (pair, difference), *more = self.differences.items()
        others = f" (and in {', '.join(name for name, _ in more)})" if more else ""
        return f"not judged: the replay differs at {pair}: {difference}{others}"


def judge_pairs(
    calendar: NDArray[np.datetime64],
    pairs: Sequence[PairEvidence],
    windows: Mapping[str, slice] | None = None,
    others: Callable[[Variant], Sequence[Variant]] = lambda _: (),
) -> Judged:
    """Decide whether there is an edge.

    Parameters
    ----------
    calendar : ndarray of datetime64[D], shape (D,)
    pairs : sequence of PairEvidence
        Of these days and of the same seeds.
    windows : mapping of str to slice, optional
        Days by the name of the window that they belong to; each gets figures of its own.
    others : callable
        From the judged variant to all others that were tried.
    """
    by_pair = {each.pair: averaged(list(each.accounts.values())) for each in pairs}
    means = list(by_pair.values())
    whole = whole_account(means)
    judged = Variant("judged", whole.days.log_return, whole.baselines)
    n_accounts = sum(len(each.accounts) for each in pairs)
    reasons = whole.degenerate if len(whole.degenerate) == n_accounts else ()
    edge = judge_edge(
        judged,
        others(judged),
        degenerate=_in_short(reasons),
        aside=aside_in_words(whole.choices),
    )
    figures = _figures(pairs, means, whole, windows or {})
    return Judged(calendar, tuple(pairs), by_pair, whole, edge, figures)


def whole_account(means: Sequence[Account]) -> Account:
    """Return all pairs together, from the mean over seeds of each."""
    return together(means) if len(means) > 1 else means[0]


def _in_short(reasons: Sequence[str]) -> str | None:
    """Return different reasons once each; where they differ in their counts alone, without them."""
    if len(set(reasons)) == 1:
        return reasons[0]
    return ", or ".join(dict.fromkeys(each.partition(" (")[0] for each in reasons)) or None


def _figures(
    pairs: Sequence[PairEvidence],
    by_pair: Sequence[Account],
    whole: Account,
    windows: Mapping[str, slice],
) -> list[dict[str, Any]]:
    """Return the rows of ``figures.json``: pooled, by pair, by seed, and by window."""
    rows = []
    if len(pairs) > 1:
        rows.append(_row(whole, None, None, None))
        rows += [_row(whole.part(days), None, name, None) for name, days in windows.items()]
    for evidence, mean in zip(pairs, by_pair, strict=True):
        pair = evidence.pair
        rows.append(_row(mean, pair, None, None))
        # With one seed they would say the same again.
        seeds = evidence.accounts if len(evidence.accounts) > 1 else {}
        rows += [_row(account, pair, None, seed) for seed, account in seeds.items()]
        for name, days in windows.items():
            rows.append(_row(mean.part(days), pair, name, None))
            rows += [_row(each.part(days), pair, name, seed) for seed, each in seeds.items()]
    return rows


def _row(
    account: Account, pair: str | None, window: str | None, seed: int | None
) -> dict[str, Any]:
    return {"pair": pair or ALL, "window": window, "seed": seed, **account.figures()}


def write_judged(record: RunRecord, judged: Judged) -> None:
    """Write equity, days, random exits, figures and statistics."""
    _write_equity(record, judged.pairs)
    whole = judged.whole
    days = {JUDGED: whole.days.log_return, "oracle": whole.oracle, **whole.baselines}
    write_daily(record, judged.calendar, days)
    draws = {pair: account.draws.sum(axis=1) for pair, account in judged.by_pair.items()}
    if len(draws) > 1:
        draws[ALL] = judged.whole.draws.sum(axis=1)
    record.write_json("random_exits", draws)
    record.write_json("figures", judged.figures)
    record.write_json("statistics", judged.edge.as_dict())


def _write_equity(record: RunRecord, pairs: Sequence[PairEvidence]) -> None:
    """Write log equity of every account candle by candle; all pairs together are the sum."""
    lines: dict[_Line, pd.Series[float]] = {}
    groups: dict[_Line, list[pd.Series[float]]] = {}
    for evidence in pairs:
        runs: list[tuple[int | None, str, Simulation]] = [
            *((seed, JUDGED, run) for seed, run in evidence.runs.items()),
            *((None, name, run) for name, run in evidence.baselines.items()),
            (None, "oracle", evidence.oracle),
        ]
        for seed, series, run in runs:
            line = pd.Series(np.log(run.equity), index=evidence.dates)
            lines[evidence.pair, seed, series] = line
            groups.setdefault((ALL, seed, series), []).append(line)
    if len(pairs) > 1:
        for key, members in groups.items():
            lines[key] = pd.concat(members, axis=1).ffill().fillna(0.0).sum(axis=1)
    tables = [
        pd.DataFrame(
            {
                "date": line.index,
                "pair": pair,
                "seed": pd.Series([seed] * len(line), dtype="Int64"),
                "series": series,
                "log_return": line.to_numpy(),
            }
        )
        for (pair, seed, series), line in lines.items()
    ]
    record.write_table("equity", pd.concat(tables, ignore_index=True))


def write_daily(
    record: RunRecord,
    calendar: NDArray[np.datetime64],
    columns: Mapping[str, NDArray[np.float64]],
) -> None:
    """Write the days that a verdict rests on; later runs count this one by them.

    Parameters
    ----------
    record : RunRecord
    calendar : ndarray of datetime64[D], shape (D,)
    columns : mapping of str to ndarray of float64, shape (D,)
        Daily log returns of ``JUDGED`` and of each baseline by name.
    """
    dates = pd.DatetimeIndex(calendar.astype("datetime64[ns]"), tz="UTC")
    parts = [
        pd.DataFrame({"date": dates, "series": name, "log_return": values})
        for name, values in columns.items()
    ]
    record.write_table(DAILY, pd.concat(parts, ignore_index=True))
