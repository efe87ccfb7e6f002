"""One market traded from its first full window to its end, by many decision makers at once.

``play_decided`` walks runs whose decisions stand in a table by candle and position, and
``play_by_chance`` those that leave their trades at random: compiled, from the first candle to the
last. ``play`` drives the compiled kernel with all runs on the same candle, so that a decision for
all of them is one Python call, for decisions that depend on more. What is left is a ``Simulation``
each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode
from mtf_scalper.simulator import kernels, walks
from mtf_scalper.simulator.exits import EXIT_CODES
from mtf_scalper.simulator.observation import POSITION_STATE
from mtf_scalper.simulator.prepared import PreparedMarket
from mtf_scalper.simulator.types import N_ACTIONS, Action, ExitReason, Side, Trade

INSIDE_EXITS = frozenset(
    {ExitReason.STOP_LOSS, ExitReason.TRAILING_STOP, ExitReason.LIQUIDATION, ExitReason.ROI}
)
"""Exits inside a candle; all others fill at its open, before the candle is lived through."""

Choose = Callable[[int, NDArray[np.void], NDArray[np.float32]], NDArray[np.int64]]
"""``choose(row, states, extras)`` returns the actions of all N runs at the close of ``row``, int64
of shape (N,). ``states`` is ``kernels.STATE`` of shape (N,) and ``extras`` float32 of shape
(N, 10): the five numbers of ``position_state``, then the action mask. Both are buffers to read and
not to keep. An invalid action is executed as the first valid one."""


_STEPS_AT_ONCE = 2**17
"""Candles times runs that are walked in one call; each takes room for a trade."""


@dataclass(frozen=True)
class Simulation:
    """What a policy did on a market.

    Attributes
    ----------
    trades : tuple of Trade
    equity : ndarray of float64, shape (T,)
        Account at the open after each row (at the open of the last row for that row), fees of an
        open trade's exit included; starts at 1. A decision at row ``t`` first shows at ``t + 1``.
    actions : ndarray of int64, shape (T,)
        Action executed at the close of each row; 0 before the first full window.
    entries : ndarray of int64, shape (T,), optional
        Action that would be executed at the close of each row by an agent without a position: the
        entry rule by itself. None where it is not known.
    feature_names : tuple of str
        Features of the market that was traded; empty where they are not known.
    """

    trades: tuple[Trade, ...]
    equity: NDArray[np.float64]
    actions: NDArray[np.int64]
    entries: NDArray[np.int64] | None = None
    feature_names: tuple[str, ...] = ()

    @property
    def log_return(self) -> float:
        """Log of the final equity."""
        return float(np.log(self.equity[-1]))

    @property
    def max_drawdown(self) -> float:
        """Largest fall of equity from an earlier peak, as a share of that peak."""
        peaks = np.maximum.accumulate(self.equity)
        return float(np.max(1.0 - self.equity / peaks))

    @property
    def win_rate(self) -> float:
        """Share of trades with a profit; NaN without trades."""
        wins = [trade.profit_ratio > 0.0 for trade in self.trades]
        return float(np.mean(wins)) if wins else float("nan")

    @property
    def profit_factor(self) -> float:
        """Sum of the profit ratios above zero over that of the losses.

        Infinite without losses, NaN where no trade gained or lost anything.
        """
        ratios = [trade.profit_ratio for trade in self.trades]
        gained, lost = sum(r for r in ratios if r > 0.0), -sum(r for r in ratios if r < 0.0)
        if lost > 0.0:
            return gained / lost
        return float("inf") if gained > 0.0 else float("nan")

    @property
    def mean_profit_ratio(self) -> float:
        """Mean profit of a trade after fees and funding, share of its stake; NaN without trades."""
        ratios = [trade.profit_ratio for trade in self.trades]
        return float(np.mean(ratios)) if ratios else float("nan")

    @property
    def mean_holding_candles(self) -> float:
        """Mean of the candles between entry and exit; NaN without trades."""
        candles = [trade.duration_candles for trade in self.trades]
        return float(np.mean(candles)) if candles else float("nan")

    def sides_decided_in(self) -> NDArray[np.int64]:
        """Return the side held at the close of each row, where the decision falls; int64, (T,)."""
        sides = np.zeros(len(self.equity), dtype=np.int64)
        for trade in self.trades:
            sides[trade.open_row : trade.close_row] = trade.side
        return sides

    def sides_held(self) -> NDArray[np.int64]:
        """Return the side held in each candle, be it for a part of it; int64, shape (T,).

        The candle at whose open a trade is closed does not count, the one inside which it is does.
        """
        sides = self.sides_decided_in()
        for trade in self.trades:
            if trade.exit_reason in INSIDE_EXITS:
                sides[trade.close_row] = trade.side
        return sides


def valid_actions(prepared: PreparedMarket) -> NDArray[np.bool_]:
    """Return which actions are valid at the close of every row, for every position.

    Parameters
    ----------
    prepared : PreparedMarket

    Returns
    -------
    ndarray of bool, shape (T, 3, 5)
        Indexed by row, ``side + 1`` and action; ``masks.action_mask`` for all rows at once.
    """
    market, rules = prepared.market, prepared.rules
    valid = np.zeros((len(market), 3, N_ACTIONS), dtype=np.bool_)
    valid[:, :, Action.NEUTRAL] = True
    valid[:, Side.LONG + 1, Action.LONG_EXIT] = True
    valid[:, Side.SHORT + 1, Action.SHORT_EXIT] = True
    # No trade opens in the last candle, but for that of a pair that ends before others.
    n_deciding = len(market) - (1 if market.ends_early else 2)
    flat = valid[:n_deciding, Side.FLAT + 1]
    anywhere = rules.entry is EntryMode.ANY
    flat[:, Action.LONG_ENTER] = anywhere | market.entry_long[:n_deciding]
    if rules.can_short:
        flat[:, Action.SHORT_ENTER] = anywhere | market.entry_short[:n_deciding]
    if rules.entry is EntryMode.ALWAYS:
        flat[:, Action.NEUTRAL] = ~flat[:, 1:].any(axis=1)
    return valid


def play(prepared: PreparedMarket, choose: Choose, n_runs: int = 1) -> tuple[Simulation, ...]:
    """Let N decision makers trade a market from the first full window to the end.

    All are at the same candle at every time and know nothing of each other. A run whose account is
    gone ends there and keeps what is left; what ``choose`` is shown of it afterwards, and what it
    chooses, means nothing.

    Parameters
    ----------
    prepared : PreparedMarket
    choose : Choose
        Decides for all runs at once, called once per candle.
    n_runs : int
        N.

    Returns
    -------
    tuple of Simulation, length N

    Raises
    ------
    ValueError
        If ``choose`` returns another shape than (N,), or N is not positive.
    """
    if n_runs < 1:
        raise ValueError(f"n_runs must be at least 1, got {n_runs}")
    first_row, terms = prepared.first_row, prepared.terms
    states, outcomes = np.zeros(n_runs, kernels.STATE), np.zeros(n_runs, kernels.OUTCOME)
    extras = np.zeros((n_runs, len(POSITION_STATE) + N_ACTIONS), dtype=np.float32)
    last_extras, next_rows = extras.copy(), np.full(n_runs, first_row, dtype=np.int64)
    kernels.start_episodes(states, next_rows)
    kernels.observe(terms, states, extras)
    record = _Record(prepared.market, outcomes)
    for row in range(first_row, len(prepared) - 1):
        actions = np.ascontiguousarray(choose(row, states, extras), dtype=np.int64)
        if actions.shape != (n_runs,):
            raise ValueError(f"choose returned shape {actions.shape} for {n_runs} runs")
        # The kernel restarts an account that is gone: on the next row, to stay in step.
        next_rows.fill(row + 1)
        events = kernels.step(terms, states, actions, next_rows, outcomes, extras, last_extras)
        record.add(row, bool(events))
        if not record.any_alive:
            break
    return record.simulations()


def play_decided(
    prepared: PreparedMarket, decisions: NDArray[np.integer[Any]]
) -> tuple[Simulation, ...]:
    """Let runs trade a market as tables say; ``play`` with the same actions returns the same.

    Parameters
    ----------
    prepared : PreparedMarket
    decisions : ndarray of int, shape (N, T, 3)
        Action of each run by row and ``side + 1``.

    Returns
    -------
    tuple of Simulation, length N
    """
    tables, terms = np.ascontiguousarray(decisions, dtype=np.int8), prepared.terms

    def advance(start: int, stop: int, runs: walks.Runs) -> int:
        return walks.walk(terms, tables, walks.NO_CHANCE, start, stop, runs)

    return walked(prepared, len(tables), advance)


def play_by_chance(
    prepared: PreparedMarket,
    entries: NDArray[np.int64],
    chances: NDArray[np.float64],
    n_runs: int,
    rng: np.random.Generator,
) -> tuple[Simulation, ...]:
    """Let runs enter as they are told and leave their trades by chance.

    Parameters
    ----------
    prepared : PreparedMarket
    entries : ndarray of int64, shape (T,)
        Action of a run without a position.
    chances : ndarray of float64, shape (A,)
        Chance with which a trade is left after so many candles; the last one holds beyond.
    n_runs : int
        N.
    rng : numpy.random.Generator
        Draws a number per candle and run, candle by candle.

    Returns
    -------
    tuple of Simulation, length N
    """
    table = np.zeros((1, len(prepared), 3), dtype=np.int8)
    table[0, :, Side.FLAT + 1] = entries

    def advance(start: int, stop: int, runs: walks.Runs) -> int:
        chance = walks.Chance(chances, rng.random((stop - start, n_runs)))
        return walks.walk(prepared.terms, table, chance, start, stop, runs)

    return walked(prepared, n_runs, advance)


def walked(
    prepared: PreparedMarket, n_runs: int, advance: Callable[[int, int, walks.Runs], int]
) -> tuple[Simulation, ...]:
    """Return runs that are walked a piece of the market at a time.

    Parameters
    ----------
    prepared : PreparedMarket
    n_runs : int
        N.
    advance : callable
        ``advance(start, stop, runs)`` lets all runs go on from row ``start`` to ``stop`` and
        returns how many trades they closed, as ``walks.walk`` does.

    Returns
    -------
    tuple of Simulation, length N
    """
    market, first_row, last_row = prepared.market, prepared.first_row, len(prepared) - 1
    n_rows = max(1, min(last_row - first_row, _STEPS_AT_ONCE // n_runs))
    runs = walks.Runs(
        states=np.zeros(n_runs, kernels.STATE),
        equity=np.empty((n_runs, len(prepared))),
        actions=np.zeros((n_runs, len(prepared)), dtype=np.int64),
        closed=np.empty(n_rows * n_runs + 1, kernels.OUTCOME),
        closed_by=np.empty(n_rows * n_runs + 1, dtype=np.int64),
    )
    runs.equity[:, : first_row + 1] = 1.0
    kernels.start_episodes(runs.states, np.full(n_runs, first_row, dtype=np.int64))
    trades: list[list[Trade]] = [[] for _ in range(n_runs)]
    for start in range(first_row, last_row, n_rows):
        stop = min(start + n_rows, last_row)
        n_closed = advance(start, stop, runs)
        _add_trades(trades, market.pair, runs.closed[:n_closed], runs.closed_by[:n_closed].tolist())
    return tuple(
        Simulation(tuple(made), equity, actions, feature_names=market.feature_names)
        for made, equity, actions in zip(trades, runs.equity, runs.actions, strict=True)
    )


class _Record:
    """What happened to N runs, candle by candle."""

    def __init__(self, market: Market, outcomes: NDArray[np.void]) -> None:
        n_candles, n_runs = len(market), len(outcomes)
        self._pair, self._feature_names = market.pair, market.feature_names
        # Views of what the kernel overwrites at every step. Rows of bytes are many times faster to
        # pick and to join than those of a structured array, whose fields are compared each time.
        names = ("executed", "equity", "exit_code", "terminated")
        self._now = {name: outcomes[name] for name in names}
        self._bytes = outcomes.view(np.uint8).reshape(n_runs, -1)
        self._equity = np.ones((n_candles, n_runs))
        self._actions = np.zeros((n_candles, n_runs), dtype=np.int64)
        self._ends = np.full(n_runs, n_candles - 1)
        self._alive = np.ones(n_runs, dtype=np.bool_)
        self._closed: list[bytes] = []
        self._closed_by: list[int] = []
        self.any_alive = True

    def add(self, row: int, has_events: bool) -> None:
        """Note the step from ``row``; events are trades that closed and episodes that ended."""
        self._actions[row] = self._now["executed"]
        self._equity[row + 1] = self._now["equity"]
        if not has_events:
            return
        closed = ((self._now["exit_code"] != 0) & self._alive).nonzero()[0]
        self._closed.append(self._bytes[closed].tobytes())
        self._closed_by += closed.tolist()
        ended = self._now["terminated"] & self._alive
        if ended.any():
            self._ends[ended] = row + 1
            self._alive &= ~ended
            self.any_alive = bool(self._alive.any())

    def simulations(self) -> tuple[Simulation, ...]:
        """Return the runs; after its end each keeps its equity and does nothing."""
        trades = self._trades()
        runs = []
        for run, end in enumerate(self._ends.tolist()):
            equity, actions = self._equity[:, run].copy(), self._actions[:, run].copy()
            equity[end:] = equity[end]
            actions[end:] = 0
            runs.append(
                Simulation(tuple(trades[run]), equity, actions, feature_names=self._feature_names)
            )
        return tuple(runs)

    def _trades(self) -> list[list[Trade]]:
        trades: list[list[Trade]] = [[] for _ in self._ends]
        closed = np.frombuffer(b"".join(self._closed), kernels.OUTCOME)
        _add_trades(trades, self._pair, closed, self._closed_by)
        return trades


_REASONS = {code: ExitReason(reason) for code, reason in EXIT_CODES.items()}
_SIDES = {int(side): side for side in Side}


def _add_trades(
    trades: list[list[Trade]], pair: str, closed: NDArray[np.void], closed_by: list[int]
) -> None:
    """Add trades that were closed, in their order, to those of the runs that closed them."""
    names = ("trade_side", "open_row", "row", "open_rate", "close_rate", "leverage")
    columns = [closed[name].tolist() for name in (*names, "profit_ratio", "exit_code")]
    for run, values in zip(closed_by, zip(*columns, strict=True), strict=True):
        side, open_row, close_row, open_rate, close_rate, leverage, profit, code = values
        trades[run].append(
            Trade(
                pair=pair,
                side=_SIDES[side],
                open_row=open_row,
                close_row=close_row,
                open_rate=open_rate,
                close_rate=close_rate,
                leverage=leverage,
                profit_ratio=profit,
                exit_reason=_REASONS[code],
            )
        )
