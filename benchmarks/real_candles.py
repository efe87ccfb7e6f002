"""Real candles: 30 days to learn, the next 7 to trade, October to December 2024, BTC and SOL.

Run: ``python benchmarks/real_candles.py``. Candles come from a freqtrade data directory: the
environment variable ``MTF_SCALPER_CANDLES``, else ``../shared/candles/binance`` beside the
repository; without either nothing is measured. Exact advantages learn every window,
``--opponent-windows`` of each pair are learned by the reference recipes too (by FastPPO, see
``learning.py``). Funding is paid, the account trades one position of its whole equity at a time,
and features are scaled to [-1, 1] by the candles that are learned on, as FreqAI does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from learning_runs import SIDES, settings_of
from report import (
    HERE,
    Measured,
    commit,
    finish,
    quick_project,
    recorded,
    shipped_rules,
    show,
    table,
    write,
)
from run_store import Result, RunStore, Task, commits, on_one_thread

from mtf_scalper.evaluation.baselines import random_exits
from mtf_scalper.evaluation.rank import rank
from mtf_scalper.evaluation.report import evaluate
from mtf_scalper.market.market import Market
from mtf_scalper.market.stored import recorded_pair
from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.ppo.policy import simulate
from mtf_scalper.ppo.selection import held_back
from mtf_scalper.settings import EntryMode, Settings
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.training import train

DOCUMENT = "learning_results.md"
RUNS = HERE / "results" / "real_runs"
FEE_RATE = 0.0005
FIRST_TEST = pd.Timestamp("2024-10-01", tz="UTC")
N_WINDOWS = 13
"""Weeks from the first of October to the last of December."""
TRAIN_DAYS, TEST_DAYS = 30, 7
CANDLES_PER_DAY = 288
N_DRAWS = 100
PAIRS = ("BTC/USDT:USDT", "SOL/USDT:USDT")
ENTRIES = (str(EntryMode.ALWAYS), str(EntryMode.ANY))
LEARNERS = ("exact", "after", "before")


@dataclass(frozen=True)
class Plan:
    """What is learned and traded.

    Attributes
    ----------
    pairs, entries, sides : sequence of str
    windows, opponent_windows : sequence of int
        Weeks of exact advantages, and those of them that the others learn too.
    train_days, test_days : int
    settings : dict
        Changes for all sides, to make them smaller.
    threads : int
        Of exact advantages.
    """

    pairs: Sequence[str] = PAIRS
    entries: Sequence[str] = ENTRIES
    sides: Sequence[str] = LEARNERS
    windows: Sequence[int] = tuple(range(N_WINDOWS))
    opponent_windows: Sequence[int] = (2, 6, 10)
    train_days: int = TRAIN_DAYS
    test_days: int = TEST_DAYS
    settings: dict[str, Any] | None = None
    threads: int = 2


def candles_folder() -> Path | None:
    """Return the freqtrade data directory with real candles, None where there is none."""
    named = os.environ.get("MTF_SCALPER_CANDLES")
    folder = Path(named) if named else HERE.parents[1] / "shared" / "candles" / "binance"
    return folder if (folder / "futures").is_dir() else None


@lru_cache(maxsize=4)
def whole_market(folder: Path, pair: str) -> Market:
    """Return all candles of a pair with the project's features, entries, leverage and funding."""
    return recorded_pair(folder, pair, fee_rate=FEE_RATE).market


def window_of(market: Market, week: int, plan: Plan, window_size: int) -> tuple[Market, Market]:
    """Return the candles to learn on and those to trade, scaled by the former.

    The first decision of the test is made at its first candle, with the window that ends there.
    """
    assert market.dates is not None
    first = FIRST_TEST + pd.Timedelta(days=TEST_DAYS * week)
    test = int(np.searchsorted(market.dates, first.tz_localize(None).to_datetime64()))
    n_learned, n_tested = CANDLES_PER_DAY * plan.train_days, CANDLES_PER_DAY * plan.test_days
    learned = market.slice(test - n_learned, test)
    tested = market.slice(test - window_size + 1, test + n_tested)
    (seen,), _ = held_back([learned], Settings(window_size=window_size))
    return _scaled(learned, seen), _scaled(tested, seen)


def _scaled(market: Market, by: Market) -> Market:
    """Return features scaled so that those of ``by`` lie in [-1, 1]; constant ones become 0."""
    low, high = by.features.min(axis=0), by.features.max(axis=0)
    width = np.where(high > low, high - low, np.inf)
    features = 2.0 * (market.features - low) / width - np.where(high > low, 1.0, 0.0)
    return replace(market, features=features.astype(np.float32), report_gaps=False)


def tasks_of(plan: Plan) -> dict[str, Task]:
    """Return the runs of a plan by name."""
    tasks: dict[str, Task] = {}
    for side in plan.sides:
        threads = plan.threads if side == "exact" else 1
        settings = settings_of(side, plan.settings or {}, threads)
        for pair in plan.pairs:
            for entry in plan.entries:
                for week in plan.windows if side == "exact" else plan.opponent_windows:
                    tasks[f"{pair.split('/')[0]}-{entry}-{side}-{week}"] = {
                        "pair": pair,
                        "entry": entry,
                        "side": side,
                        "week": week,
                        "days": [plan.train_days, plan.test_days],
                        "settings": settings,
                    }
    return tasks


def run(task: Task) -> Result:
    """Learn one window, trade the days after it, and trade the baselines there."""
    folder = candles_folder()
    assert folder is not None
    plan = Plan(train_days=task["days"][0], test_days=task["days"][1])
    rules = shipped_rules(EntryMode(task["entry"]))
    settings = Settings(**{**task["settings"], "rules": rules})
    market = whole_market(folder, task["pair"])
    learned, tested = window_of(market, task["week"], plan, settings.window_size)
    # The same stretch chooses the weights of all sides.
    (seen,), (choosing,) = held_back([learned], settings)
    result = train(seen, settings, choosing)
    played = simulate(result.policy, tested)
    best = oracle(tested, settings)
    report = evaluate(played, tested, settings, oracle=best, n_draws=0)
    draws = random_exits(played, tested, settings, n_draws=N_DRAWS, seed=task["week"])
    profits = [trade.profit_ratio for trade in played.trades]
    return {
        **{name: task[name] for name in ("pair", "entry", "side", "week")},
        "commit": commit(),
        "seconds": result.seconds,
        "updates": len(result.history),
        "chosen_on": [each.log_return for each in result.reports],
        "log_return": report.log_return,
        "n_trades": report.n_trades,
        "n_wins": sum(profit > 0.0 for profit in profits),
        "sum_of_profits": float(sum(profits)),
        "gained": float(sum(profit for profit in profits if profit > 0.0)),
        "max_drawdown": report.max_drawdown,
        "exposure": report.exposure,
        "degenerate": report.degenerate,
        "flat": report.flat,
        "buy_and_hold": report.buy_and_hold,
        "classic_exits": report.classic_exits or 0.0,
        "oracle": best.log_return,
        "oracle_trades": len(best.trades),
        # A run without trades has nothing to be left at random.
        "random_exits": [each.log_return for each in draws] or [0.0] * N_DRAWS,
    }


def complete(
    plan: Plan,
    store: RunStore,
    *,
    again: bool = False,
    jobs: int = 1,
    call: Callable[[Task], Result] | None = None,
) -> None:
    """Do what is missing; opponents in processes of their own, several at a time."""
    tasks = tasks_of(plan)
    exact = {name: task for name, task in tasks.items() if task["side"] == "exact"}
    others = {name: task for name, task in tasks.items() if name not in exact}
    store.complete(exact, call or run, again=again)
    store.complete(others, call or on_one_thread("real_candles:run"), again=again, jobs=jobs)


def measured(results: Sequence[Result]) -> Measured:
    """Return a table of all windows, and one of those that every side has learned."""
    tables = []
    for entry in dict.fromkeys(run["entry"] for run in results):
        found = [run for run in results if run["entry"] == entry]
        exact = [run for run in found if run["side"] == "exact"]
        tables += _table(f"`{entry}`, all windows of exact advantages", exact)
        common = _common(found)
        if len({run["side"] for run in common}) > 1:
            tables += _table(f"`{entry}`, windows that all have learned", common)
    tables.append(f"Runs were made at: {commits(results)}.")
    return Measured(results={"fee_rate": FEE_RATE, "runs": list(results)}, tables=tables)


def _common(found: Sequence[Result]) -> list[Result]:
    """Return the runs of windows that every side has."""
    sides = {run["side"] for run in found}
    by_window: dict[tuple[str, int], set[str]] = {}
    for run_ in found:
        by_window.setdefault((run_["pair"], run_["week"]), set()).add(run_["side"])
    return [run_ for run_ in found if by_window[run_["pair"], run_["week"]] == sides]


def _table(title: str, found: Sequence[Result]) -> list[str]:
    """Return title and table: each side by pair and together, then the baselines."""
    if not found:
        return []
    header = [
        "side",
        "pair",
        "windows",
        "log return",
        "windows above 0",
        "trades",
        "win rate",
        "average trade",
        "worst drawdown",
        "in the market",
        "random exits beaten",
        "% of the optimum",
        "degenerate windows",
        "s per window",
    ]
    pairs = list(dict.fromkeys(run["pair"] for run in found))
    groups = [*[(pair, [pair]) for pair in pairs], ("all", pairs)][-1 if len(pairs) == 1 else 0 :]
    rows = []
    for side in dict.fromkeys(run["side"] for run in found):
        for name, members in groups:
            runs = [run for run in found if run["side"] == side and run["pair"] in members]
            if runs:
                rows.append([SIDES[side].name, name.split("/")[0], *_cells(runs)])
    first_side = found[0]["side"]
    for name, members in groups:
        runs = [run for run in found if run["side"] == first_side and run["pair"] in members]
        rows += [
            [label, name.split("/")[0], *_baseline_cells(runs, key), *["-"] * 8]
            for label, key in (
                ("flat", "flat"),
                ("buy and hold, leverage 1", "buy_and_hold"),
                ("classic entries, rules' exits", "classic_exits"),
                ("hindsight optimum", "oracle"),
            )
        ]
    return [f"**{title}**", table(header, rows)]


def _baseline_cells(runs: Sequence[Result], key: str) -> list[str]:
    returns = [run[key] for run in runs]
    trades = f"{sum(run['oracle_trades'] for run in runs):,}" if key == "oracle" else "-"
    above = f"{sum(each > 0.0 for each in returns)}"
    return [str(len(runs)), f"{sum(returns):+.3f}", above, trades]


def _cells(runs: Sequence[Result]) -> list[str]:
    total, trades = sum(run["log_return"] for run in runs), sum(run["n_trades"] for run in runs)
    drawn = np.sum([run["random_exits"] for run in runs], axis=0)
    beaten = rank(total, drawn)
    optimum = sum(run["oracle"] for run in runs)
    wins, profits = (sum(run[key] for run in runs) for key in ("n_wins", "sum_of_profits"))
    return [
        str(len(runs)),
        f"{total:+.3f}",
        f"{sum(run['log_return'] > 0.0 for run in runs)}",
        f"{trades:,}",
        f"{wins / trades:.0%}" if trades else "-",
        f"{profits / trades:+.3%}" if trades else "-",
        f"{max(run['max_drawdown'] for run in runs):.1%}",
        f"{statistics.mean(run['exposure'] for run in runs):.0%}",
        f"{beaten:.0%}" if trades else "-",
        f"{100.0 * total / optimum:.1f}" if optimum > 0.0 else "-",
        f"{sum(run['degenerate'] is not None for run in runs)}",
        f"{statistics.median(run['seconds'] for run in runs):.1f}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=PAIRS)
    parser.add_argument("--entries", nargs="+", choices=ENTRIES, default=ENTRIES)
    parser.add_argument("--sides", nargs="+", choices=LEARNERS, default=LEARNERS)
    parser.add_argument("--windows", nargs="+", type=int, default=Plan.windows)
    parser.add_argument("--opponent-windows", nargs="*", type=int, default=Plan.opponent_windows)
    parser.add_argument("--threads", type=int, default=available_cpus(), help="of exact runs")
    parser.add_argument("--jobs", type=int, default=available_cpus(), help="opponents at a time")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of finished runs")
    parser.add_argument("--again", action="store_true", help="do finished runs again")
    parser.add_argument("--only-runs", action="store_true", help="write no tables")
    parser.add_argument("--quick", action="store_true", help="tiny sizes in a temporary folder")
    given = parser.parse_args(arguments)
    if candles_folder() is None:
        print(
            "real_candles: nothing was measured: MTF_SCALPER_CANDLES is unset and there is no "
            "../shared/candles/binance"
        )
        return 0
    plan = Plan(
        given.pairs,
        given.entries,
        given.sides,
        given.windows,
        given.opponent_windows,
        threads=given.threads,
    )
    project, folder = HERE.parent, given.runs
    if given.quick:
        project = quick_project(DOCUMENT)
        folder, plan = project / "runs", quick_plan(plan)
    with recorded("real_candles", project, asdict(plan)) as record:
        store = RunStore(folder)
        complete(plan, store, again=given.again, jobs=given.jobs)
        if given.only_runs:
            return 0
        every = tuple(range(N_WINDOWS))
        # Of runs that other parts have left, too.
        whole = plan if given.quick else Plan(opponent_windows=every, threads=given.threads)
        found = measured(store.results(tasks_of(whole)))
        path = write("real_candles", found, 1, project, DOCUMENT)
        finish(record, found, path)
    show("real_candles", found, path)
    return 0


def quick_plan(plan: Plan) -> Plan:
    """Return the plan with sizes that only show that it runs."""
    small = {"net_arch": (16, 8), "train_cycles": 1, "n_steps": 128, "batch_size": 64}
    return replace(
        plan, windows=(0,), opponent_windows=(0,), train_days=2, test_days=1, settings=small
    )


if __name__ == "__main__":
    sys.exit(main())
