"""One exact evaluation of a policy: values, advantages and occupancy of every state, on one core.

Run: ``python benchmarks/evaluation.py``. 10,000 candles with 500 entries of 300 candles each, and
then 16 times as many candles with as many entries per candle. Before anything is timed, small
markets are evaluated a second time by solving the equations as one dense linear system.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from report import (
    Measured,
    ParityError,
    Requirement,
    Workload,
    benchmark_market,
    run,
    spread,
    table,
    with_spread,
)

from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator.advantages import Evaluation, PolicyTable, evaluate_policy, start_weights
from mtf_scalper.simulator.chains import SIDES, Chains, chains_of
from mtf_scalper.simulator.prepared import prepare

DOCUMENT = "learning_results.md"
CANDLES = 10_000
CANDLES_PER_ENTRY = 20
LONGEST_TRADE = 300
FACTORS = (0.25, 0.5, 1, 2, 4)
"""Markets of so many times the candles: a 16-fold range."""
MOST_MILLISECONDS = 5.0
MOST_PER_STATE = 1.2
"""Largest cost per state on the most candles, as a multiple of that on the fewest."""
PARITY = 1e-10
GAMMA = 0.99

Floats = NDArray[np.float64]


def measure(
    workload: Workload,
    repeats: int,
    n_candles: int | None = None,
    longest: int = LONGEST_TRADE,
    n_calls: int = 30,
) -> Measured:
    """Check parity, then time the evaluation by the number of candles."""
    if n_candles is None:
        n_candles = CANDLES if workload == Workload() else 10 * workload.n_candles
    apart = check_parity()
    times: dict[int, list[float]] = {}
    rows, sizes, costs = [], {}, {}
    for factor in FACTORS:
        n_here = round(factor * n_candles)
        chains = entries_and_chains(n_here, longest)
        policy = random_policy(chains)
        times[n_here] = [_milliseconds(chains, policy, n_calls) for _ in range(repeats)]
        n_entries = int(np.count_nonzero(chains.chain_at >= 0))
        sizes[n_here] = {"entries": n_entries, "states": chains.n_states}
        # Trades near the end are shorter, so that a small market has fewer states per candle.
        per_state = [1e6 * each / (n_here + chains.n_states) for each in times[n_here]]
        costs[n_here] = statistics.median(per_state)
        rows.append(
            [
                f"{n_here:,}",
                f"{n_entries:,}",
                f"{chains.n_states:,}",
                with_spread(times[n_here]),
                with_spread(per_state),
            ]
        )
    header = ["candles", "entries", "states of trades", "ms", "ns per candle and state"]
    least, most = min(times), max(times)
    what = f"one evaluation of {n_candles:,} candles, {sizes[n_candles]['entries']:,} entries"
    return Measured(
        results={
            "threads": 1,
            "parity": apart,
            "sizes": {str(size): found for size, found in sizes.items()},
            "milliseconds": {str(size): spread(found) for size, found in times.items()},
        },
        tables=[table(header, rows)],
        requirements=[
            Requirement(
                what, spread(times[n_candles])["median"], at_most=MOST_MILLISECONDS, unit="ms"
            ),
            Requirement(
                f"cost per candle and state, {most:,} candles over {least:,}",
                costs[most] / costs[least],
                at_most=MOST_PER_STATE,
            ),
        ],
    )


def entries_and_chains(n_candles: int, longest: int) -> Chains:
    """Return the chains of evenly spread entries that no rule but the longest duration ends."""
    market = benchmark_market(n_candles=n_candles, n_features=1)
    entries = np.arange(n_candles) % CANDLES_PER_ENTRY == CANDLES_PER_ENTRY // 2
    is_long = np.arange(n_candles) % (2 * CANDLES_PER_ENTRY) < CANDLES_PER_ENTRY
    market = replace(
        market, entry_long=entries & is_long, entry_short=entries & ~is_long, report_gaps=False
    )
    rules = TradeRules(entry=EntryMode.CLASSIC, max_trade_duration_candles=longest)
    return chains_of(prepare(market, Settings(rules=rules)))


def random_policy(chains: Chains, seed: int = 0) -> PolicyTable:
    """Return random probabilities at every state; every valid action has some."""
    rng = np.random.default_rng(seed)
    flat = chains.flat_valid * (0.1 + rng.random(chains.flat_valid.shape))
    total = flat.sum(axis=1, keepdims=True)
    flat = np.divide(flat, total, out=np.zeros_like(flat), where=total > 0.0)
    return PolicyTable(flat, 0.1 * rng.random(chains.n_states))


def _milliseconds(chains: Chains, policy: PolicyTable, n_calls: int) -> float:
    """Return the median of some calls, after one that is not counted."""
    evaluate_policy(chains, policy, GAMMA)
    taken = []
    for _ in range(n_calls):
        started = time.perf_counter()
        evaluate_policy(chains, policy, GAMMA)
        taken.append(1e3 * (time.perf_counter() - started))
    return float(np.median(taken))


def check_parity() -> dict[str, float]:
    """Compare the evaluation with a dense linear system, on entries by mask and at will.

    Raises
    ------
    ParityError
        Where a value, advantage or occupancy differs by more than ``PARITY``.
    """
    market = benchmark_market(n_candles=120, n_features=1)
    apart = {}
    for name, chains in {
        "classic": chains_of(prepare(market, _short_trades(EntryMode.CLASSIC))),
        "any": chains_of(prepare(market, _short_trades(EntryMode.ANY))),
        # Trades without a maximum duration go on in the chain of a later entry.
        "any, renewed": _renewed(market),
    }.items():
        policy = random_policy(chains)
        found, wanted = evaluate_policy(chains, policy, GAMMA), dense_evaluation(chains, policy)
        differences = {
            each: float(np.abs(getattr(found, each) - getattr(wanted, each)).max(initial=0.0))
            for each in Evaluation._fields
        }
        apart[name] = max(differences.values())
        if not apart[name] <= PARITY:
            raise ParityError(f"{name}: {differences}")
    return apart


def _short_trades(entry: EntryMode) -> Settings:
    rules = TradeRules(entry=entry, stoploss=-0.01, max_trade_duration_candles=9)
    return Settings(window_size=4, rules=rules)


def _renewed(market: Market) -> Chains:
    settings = Settings(window_size=4, rules=TradeRules(entry=EntryMode.ANY))
    return chains_of(prepare(market, settings), longest=7)


def dense_evaluation(chains: Chains, policy: PolicyTable) -> Evaluation:
    """Solve ``V = r + gamma P V`` and ``d = mu + gamma P^T d`` over rows and states together."""
    n_rows, n_states = chains.n_rows, chains.n_states
    steps = _steps(chains, policy)
    size = n_rows + n_states
    chance, reward = np.zeros((size, size)), np.zeros(size)
    for place, _action, probability, gain, target in steps:
        chance[place, target] += probability
        reward[place] += probability * gain
    identity = np.eye(size)
    values = np.linalg.solve(identity - GAMMA * chance, reward)
    mu = start_weights(chains, GAMMA)
    starts = np.concatenate([mu, np.zeros(n_states)])
    occupancy = np.linalg.solve(identity - GAMMA * chance.T, starts)
    occupancy[n_rows - 1] = 0.0
    advantages = np.zeros((size, 3))
    for place, action, _probability, gain, target in steps:
        advantages[place, action] = gain + GAMMA * values[target] - values[place]
    return Evaluation(
        flat_values=values[:n_rows],
        flat_advantages=advantages[:n_rows],
        stay_advantages=advantages[n_rows:, 0],
        leave_advantages=advantages[n_rows:, 1],
        flat_occupancy=occupancy[:n_rows],
        state_occupancy=occupancy[n_rows:],
        held_rewards=np.bincount(
            chains.rows,
            occupancy[n_rows:]
            * (policy.leave * chains.leave_reward + (1.0 - policy.leave) * chains.stay_reward),
            n_rows,
        ),
        objective=float(mu @ values[:n_rows]),
    )


def _steps(chains: Chains, policy: PolicyTable) -> list[tuple[int, int, float, float, int]]:
    """Return (place, action, probability, reward, next place) of everything that can happen."""
    steps: list[tuple[int, int, float, float, int]] = []
    n_rows = chains.n_rows
    for row in range(chains.first_row, n_rows - 1):
        if chains.flat_valid[row, 0]:
            steps.append((row, 0, policy.flat[row, 0], 0.0, row + 1))
        for side in range(len(SIDES)):
            chain = chains.chain_at[row, side]
            if chain < 0:
                continue
            states = range(chains.starts[chain], chains.starts[chain + 1])
            goes_on = chains.continues[chain]
            end = n_rows + chains.starts[goes_on] if goes_on >= 0 else row + 1 + len(states)
            places = [n_rows + state for state in states] + [int(end)]
            enter = policy.flat[row, 1 + side], chains.enter_reward[chain]
            steps.append((row, 1 + side, *enter, places[0]))
            for age, state in enumerate(states):
                leave, place = policy.leave[state], places[age]
                steps.append((place, 0, 1.0 - leave, chains.stay_reward[state], places[age + 1]))
                steps.append((place, 1, leave, chains.leave_reward[state], row + 2 + age))
    return steps


if __name__ == "__main__":
    sys.exit(run("evaluation", __doc__, measure, document=DOCUMENT))
