"""Runs whose decisions stand in a table, walked from candle to candle in compiled code.

What a run does is known beforehand for every candle and position, or it leaves its trades by
chance; so nothing is observed and nobody is asked. A candle is lived through by the functions of
``kernels`` that every environment calls.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.jit import njit
from mtf_scalper.simulator.exits import STAY
from mtf_scalper.simulator.kernels import (
    LONG_EXIT,
    NEUTRAL,
    SHORT_EXIT,
    Terms,
    begin,
    find_exit,
    settle,
)


class Runs(NamedTuple):
    """N runs over one market of T candles.

    Attributes
    ----------
    states : ndarray of kernels.STATE, shape (N,)
    equity : ndarray of float64, shape (N, T)
    actions : ndarray of int64, shape (N, T)
    closed : ndarray of kernels.OUTCOME, shape (M,)
        Trades that were closed, run by run, by the latest call.
    closed_by : ndarray of int64, shape (M,)
        Which run closed them.
    """

    states: NDArray[np.void]
    equity: NDArray[np.float64]
    actions: NDArray[np.int64]
    closed: NDArray[np.void]
    closed_by: NDArray[np.int64]


class Chance(NamedTuple):
    """With which chance trades are left, where that is not in the table.

    Attributes
    ----------
    by_age : ndarray of float64, shape (A,)
        Chance by age in candles, the last one for all ages beyond; none where the table decides.
    drawn : ndarray of float64, shape (R, N)
        Uniform numbers for the rows of a call, the first one for the row at which the runs stand.
    """

    by_age: NDArray[np.float64]
    drawn: NDArray[np.float64]


NO_CHANCE = Chance(np.zeros(0), np.zeros((0, 0)))


@njit(cache=True, error_model="numpy")
def walk(
    terms: Terms, decided: NDArray[np.int8], chance: Chance, start: int, stop: int, runs: Runs
) -> int:
    """Let all runs go on from row ``start`` to row ``stop``; return how many trades they closed.

    A run whose account is gone keeps what is left and does nothing more; its state stands behind
    the last row then.

    Parameters
    ----------
    terms : tuple
        From ``kernels.terms_of``.
    decided : ndarray of int8, shape (1, T, 3) or (N, T, 3)
        Actions by row and ``side + 1``, one table for all runs or each its own. An action that is
        not valid is executed as the first valid one.
    chance : Chance
        Decides within trades in place of the table, if it has ages.
    start, stop : int
    runs : Runs
        Overwritten; with room for as many closed trades as there are rows in this call and runs.
    """
    candles, roi, rules = terms
    rule = rules[0]
    n_closed = 0
    for run in range(len(runs.states)):
        state, table = runs.states[run], min(run, len(decided) - 1)
        while state.row < stop:
            action: Any = np.int64(decided[table, state.row, state.side + 1])
            if (state.side != 0) & (len(chance.by_age) > 0):
                age = min(max(state.row + 1 - state.open_row, 0), len(chance.by_age) - 1)
                leaves = chance.drawn[state.row - start, run] < chance.by_age[age]
                action = (LONG_EXIT if state.side > 0 else SHORT_EXIT) if leaves else NEUTRAL
            row: Any = np.uint64(state.row)
            candle, outcome = candles[row + np.uint64(1)], runs.closed[n_closed]
            following = candles[np.uint64(min(state.row + 2, rule.last_row))]
            code, price = STAY, 0.0
            if begin(candles[row], candle, rule, state, action, outcome):
                code, price = find_exit(candle, roi, rule, state)
            is_over = settle(candle, following, rule, state, code, price, outcome)
            runs.closed_by[n_closed] = run
            n_closed += note(runs, run, state, outcome)
            if is_over:
                end(runs, run, state, outcome)
    return n_closed


@njit(cache=True, error_model="numpy", inline="always")
def note(runs: Runs, run: int, state: Any, outcome: Any) -> bool:
    """Note what a step did to a run; return whether it closed a trade."""
    row: Any = np.uint64(state.row)
    runs.actions[run, row - np.uint64(1)] = outcome.executed
    runs.equity[run, row] = outcome.equity
    return bool(outcome.exit_code != STAY)


@njit(cache=True, error_model="numpy")
def end(runs: Runs, run: int, state: Any, outcome: Any) -> None:
    """Let a run keep what it has, and do nothing more."""
    n_rows = runs.equity.shape[1]
    runs.equity[run, state.row + 1 :] = outcome.equity
    runs.actions[run, state.row :] = NEUTRAL
    state.row = n_rows
