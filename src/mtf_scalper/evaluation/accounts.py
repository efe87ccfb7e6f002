"""What walks were worth: days of agent, baselines and optimum, and every figure with its interval.

An ``Account`` holds the days of one pair and seed. Accounts of several seeds are averaged, those of
several pairs added up; each pair stakes all that it has, so that the sum is what a user earns who
gives every pair an account of its own, in units of one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.evaluation.baselines import buy_and_hold, classic_exits, flat, random_exits
from mtf_scalper.evaluation.bootstrap import (
    LEAST_DAYS,
    block_length,
    interval_of,
    resampled_rows,
)
from mtf_scalper.evaluation.days import FIGURES, Days, days_by_row, days_of, pooled_days
from mtf_scalper.evaluation.degenerate import (
    Choices,
    aside_in_words,
    choices_of,
    degeneracy,
    mean_choices,
)
from mtf_scalper.evaluation.rank import TIE, rank
from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.simulator.playback import Simulation

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

FLAT: Final = "flat"
BUY_AND_HOLD: Final = "buy and hold"
CLASSIC_EXITS: Final = "classic exits"
RANDOM_EXITS: Final = "random exits"
N_RESAMPLES: Final = 2000


@dataclass(frozen=True, eq=False)
class Account:
    """The days of an account and of what others made of the same candles.

    Attributes
    ----------
    days : Days
        Of the agent.
    baselines : mapping of str to ndarray of float64, shape (D,)
        Daily log returns by name; classic exits are missing where there are no classic entries,
        and supervised peers are there where they were asked for.
        That of random exits is the mean over the draws: what such a policy is worth on each day.
    oracle : ndarray of float64, shape (D,)
    draws : ndarray of float64, shape (N, D)
        Of random exits. A run without trades has nothing to be left at random: its draws earn 0.
    drawdown : float
        Largest fall from a peak candle by candle, of several seeds the mean; NaN where that is not
        known.
    degenerate : tuple of str
        What the accounts' policies are instead of policies, where they are none.
    choices : tuple of Choices
        What each of the accounts' agents made of its chances to enter.
    """

    days: Days
    baselines: Mapping[str, Floats]
    oracle: Floats
    draws: Floats
    drawdown: float
    degenerate: tuple[str, ...] = ()
    choices: tuple[Choices, ...] = ()

    def __len__(self) -> int:
        """Return the number of days D."""
        return len(self.days)

    def part(self, days: slice) -> Account:
        """Return some of the days; the drawdown of a part is not known candle by candle."""
        return Account(
            days=Days(*self.days.stacked()[days].T),
            baselines={name: each[days] for name, each in self.baselines.items()},
            oracle=self.oracle[days],
            draws=self.draws[:, days],
            drawdown=float("nan"),
        )

    def figures(self, *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> dict[str, Any]:
        """Return all figures; those that days can be drawn for have an interval.

        Parameters
        ----------
        n_resamples : int
            Of the stationary bootstrap over days; under ``LEAST_DAYS`` days there are none.
        seed : int

        Returns
        -------
        dict
            Numbers, or ``{"value", "low", "high"}``; for ``figures.json``.
        """
        stacked, returns, best = self.days.stacked(), self.days.log_return, self.oracle
        n_days, n_blocks = len(self), 0.0
        rows = np.zeros((0, n_days), dtype=np.int64)
        if n_days >= LEAST_DAYS:
            block = block_length(returns)
            rows = resampled_rows(n_days, block, n_resamples, seed)
            n_blocks = n_days / block
        drawn = stacked[rows]
        found: dict[str, Any] = {"n_days": n_days, "n_trades": float(stacked[:, 3].sum())}
        for name, figure in FIGURES.items():
            found[name] = _interval(float(figure(stacked)), figure(drawn), n_blocks)
        found["max_drawdown_by_candle"] = self.drawdown
        found["oracle"] = float(best.sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = returns[rows].sum(axis=1) / best[rows].sum(axis=1)
        share = oracle_share(returns.sum(), best.sum())
        share = float("nan") if share is None else share
        found["oracle_share"] = _interval(share, shares, n_blocks)
        for name, baseline in self.baselines.items():
            if name != RANDOM_EXITS:
                found[figure_name(name)] = float(baseline.sum())
            excess = returns - baseline
            found[f"excess_over_{figure_name(name)}"] = _interval(
                float(excess.sum()), excess[rows].sum(axis=1), n_blocks
            )
        found |= random_figures(returns.sum(), self.draws.sum(axis=1))
        found["degenerate"] = "; ".join(dict.fromkeys(self.degenerate)) or None
        found["stands_aside"] = aside_in_words(self.choices)
        return found


@dataclass(frozen=True, eq=False)
class PairEvidence:
    """One pair: its runs and baselines candle by candle, and an account per seed.

    Attributes
    ----------
    market : Market
        What was traded.
    settings : Settings
        With the rules that were used.
    runs : mapping of int to Simulation
        By seed.
    baselines : mapping of str to Simulation
        Without random exits, which belong to a seed.
    oracle : Simulation
    accounts : mapping of int to Account
        By seed.
    """

    market: Market
    settings: Settings
    runs: Mapping[int, Simulation]
    baselines: Mapping[str, Simulation]
    oracle: Simulation
    accounts: Mapping[int, Account]

    @property
    def pair(self) -> str:
        """The pair."""
        return self.market.pair

    @property
    def dates(self) -> pd.DatetimeIndex:
        """When the candles open, in UTC; shape (T,)."""
        assert self.market.dates is not None
        return pd.DatetimeIndex(self.market.dates, tz="UTC")


def measure_pair(
    market: Market,
    settings: Settings,
    runs: Mapping[int, Simulation],
    calendar: NDArray[np.datetime64],
    *,
    n_draws: int = 100,
    offered: Market | None = None,
    peers: Mapping[str, Simulation] = MappingProxyType({}),
) -> PairEvidence:
    """Trade the baselines and the optimum on the candles of a pair, and count days.

    Parameters
    ----------
    market : Market
        With dates.
    settings : Settings
        With the rules that the runs were traded under.
    runs : mapping of int to Simulation
        By seed; of this market.
    calendar : ndarray of datetime64[D], shape (D,)
        The days of all pairs; on those that this one has no candles of, nothing happens.
    n_draws : int
        Random exits per seed.
    offered : Market, optional
        The same candles with all entries that the runs could have made, where ``market`` has only
        those that a strategy made of them.
    peers : mapping of str to Simulation, optional
        More baselines by name: what supervised peers made of this market under the same rules.
    """
    settings = settings.for_market(market)
    days, n_days = np.searchsorted(calendar, days_by_row(market)), len(calendar)
    baselines = {**traded_baselines(market, settings), **peers}
    best = oracle(market, settings)
    by_day = {name: days_of(run, days, n_days).log_return for name, run in baselines.items()}
    best_by_day = days_of(best, days, n_days).log_return
    accounts = {}
    for seed, run in runs.items():
        drawn = random_exits(run, market, settings, n_draws=n_draws, seed=seed)
        draws = np.zeros((n_draws, n_days))
        for number, draw in enumerate(drawn):
            draws[number] = days_of(draw, days, n_days).log_return
        reason = degeneracy(run, offered or market, settings)
        choices = choices_of(run, offered or market, settings)
        accounts[seed] = Account(
            days=days_of(run, days, n_days),
            baselines={**by_day, RANDOM_EXITS: draws.mean(axis=0)},
            oracle=best_by_day,
            draws=draws,
            drawdown=run.max_drawdown,
            degenerate=() if reason is None else (reason,),
            choices=(choices,),
        )
    return PairEvidence(market, settings, runs, baselines, best, accounts)


def averaged(accounts: Sequence[Account]) -> Account:
    """Return the mean over seeds, which are no variants: a user has to take one as it comes."""
    days = pooled_days([each.days for each in accounts])
    drawdown = float(np.mean([each.drawdown for each in accounts]))
    mean = _combined(accounts, np.mean, days, drawdown)
    return replace(mean, choices=(mean_choices(mean.choices),)) if mean.choices else mean


def together(accounts: Sequence[Account]) -> Account:
    """Return the sum over pairs; shares of the time and of an account are their means."""
    days = Days(*np.sum([each.days.stacked() for each in accounts], axis=0).T)
    n = len(accounts)
    days = replace(days, exposure=days.exposure / n, turnover=days.turnover / n)
    # No account of all pairs together was traded candle by candle.
    return _combined(accounts, np.sum, days, float("nan"))


def _combined(accounts: Sequence[Account], how: Any, days: Days, drawdown: float) -> Account:
    """Return accounts added or averaged; a baseline that one does not have earns nothing there."""
    names = dict.fromkeys(name for each in accounts for name in each.baselines)
    nothing = np.zeros(len(accounts[0]))
    return Account(
        days=days,
        baselines={
            name: how([each.baselines.get(name, nothing) for each in accounts], axis=0)
            for name in names
        },
        oracle=how([each.oracle for each in accounts], axis=0),
        draws=how([each.draws for each in accounts], axis=0),
        drawdown=drawdown,
        degenerate=tuple(reason for each in accounts for reason in each.degenerate),
        choices=tuple(choices for each in accounts for choices in each.choices),
    )


def traded_baselines(market: Market, settings: Settings) -> dict[str, Simulation]:
    """Return the baselines that no run has a part in, by name; no classic ones without entries."""
    classic = classic_exits(market, settings)
    known = {FLAT: flat(market), BUY_AND_HOLD: buy_and_hold(market, settings)}
    return known if classic is None else {**known, CLASSIC_EXITS: classic}


def figure_name(baseline: str) -> str:
    """Return what a baseline is called in a row of figures: ``"buy_and_hold"``, ``"lightgbm"``."""
    return baseline.lower().replace(" ", "_")


def random_figures(value: float, draws: Floats) -> dict[str, float | None]:
    """Return median, 5% and 95% quantile of the draws (N,), and what share ``value`` beats."""
    names = ("random_median", "random_low", "random_high", "random_rank")
    if not len(draws):
        return dict.fromkeys(names)
    figures = (*np.quantile(draws, (0.5, 0.05, 0.95)).tolist(), rank(value, draws))
    return dict(zip(names, figures, strict=True))


def oracle_share(value: float, best: float) -> float | None:
    """Return which share of the optimum a log return is; None where that earns nothing either."""
    return value / best if best > TIE else None


def _interval(value: float, resamples: Floats, n_blocks: float) -> dict[str, float | None]:
    return interval_of(value, resamples, n_blocks).as_dict()
