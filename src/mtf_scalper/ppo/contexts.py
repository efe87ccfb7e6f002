"""The situations in which an agent may have to decide, as rows of plain arrays.

A *context* is a state of ``simulator.chains`` as the policy can tell it from others. Where it sees
its position, that is the state itself. Where it sees the window alone, all long trades that are
open at a candle are one context, and so are all short ones: its advantage is the mean over the
trades, weighted by how often the policy is in each of them.

Several markets form one book: their candles stand one after the other, and no window crosses from
one to the next because no decision is made before the first full window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.market.market import Market
from mtf_scalper.ppo.surrogate import Targets
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.advantages import Evaluation, PolicyTable, evaluate_policy
from mtf_scalper.simulator.by_side import SideEvaluation, SideTable, evaluate_by_side
from mtf_scalper.simulator.chains import SIDES, Chains, chains_of
from mtf_scalper.simulator.prepared import prepare

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Part:
    """One market's place in the book."""

    chains: Chains
    first_row: int
    first_context: int


class Book:
    """Contexts of one or several markets.

    Parameters
    ----------
    markets : sequence of Market
        With the same features.
    settings : Settings
    features : ndarray of float32, shape (T, F), optional
        What the policy's network sees, of all markets one after the other; without it their own.

    Attributes
    ----------
    pairs : str
        Names of the markets.
    features : ndarray of float32, shape (T, F)
        What the network sees, of all markets one after the other.
    rows : ndarray of int64, shape (R,)
        Candles at which there may be a choice, increasing.
    starts : ndarray of int64, shape (R + 1,)
        Contexts of ``rows[i]`` are ``starts[i] .. starts[i + 1] - 1``.
    kinds : ndarray of int8, shape (K,)
        0 without a position, 1 long, 2 short.
    valid : ndarray of bool, shape (K, 3)
        Which of ``ACTIONS_IN[kind]`` are valid.
    position : ndarray of float32, shape (K, 5) or (K, 0)
        What the policy sees of its position.
    """

    def __init__(
        self, markets: Sequence[Market], settings: Settings, features: Floats32 | None = None
    ) -> None:
        self._settings = settings
        self.sees_position = settings.add_state_info
        self.pairs = ", ".join(dict.fromkeys(market.pair for market in markets))
        own = np.concatenate([market.features for market in markets])
        self.features = own if features is None else features
        self._parts: list[_Part] = []
        first_row = first_context = 0
        found: list[list[NDArray[Any]]] = []
        for market in markets:
            chains = chains_of(prepare(market, settings))
            rows, *columns = _contexts_of(chains, self.sees_position)
            # The positions stand in the book from here on.
            chains = chains._replace(position=np.zeros((0, chains.position.shape[1]), np.float32))
            self._parts.append(_Part(chains, first_row, first_context))
            found.append([rows + first_row, *columns])
            first_row += len(market)
            first_context += len(rows)
        rows, self.kinds, self.valid, self.position = (
            # Column by column, and none twice.
            np.concatenate([columns.pop(0) for columns in found])
            for _ in range(4)
        )
        # ``order`` sorts contexts by candle; ``_place`` says where a context went.
        order = np.argsort(rows, kind="stable")
        self._place = np.empty_like(order)
        self._place[order] = np.arange(len(order))
        self.kinds = self.kinds[order]
        self.valid = self.valid[order]
        self.position = self.position[order]
        self.rows, starts = np.unique(rows[order], return_index=True)
        self.starts = np.append(starts, len(order)).astype(np.int64)

    @property
    def n_contexts(self) -> int:
        """Contexts K of all markets."""
        return len(self.kinds)

    @property
    def chains(self) -> list[Chains]:
        """Chains of each market."""
        return [part.chains for part in self._parts]

    def tables(self, probabilities: Floats) -> list[PolicyTable | SideTable]:
        """Return a policy as the evaluation of each market takes it.

        Parameters
        ----------
        probabilities : ndarray of float64, shape (K, 3)
            Of ``ACTIONS_IN``, context by context as in this book.
        """
        if self.sees_position:
            return [self._table(part, probabilities) for part in self._parts]
        return [self._side_table(part, probabilities) for part in self._parts]

    def evaluate(
        self,
        tables: Sequence[PolicyTable | SideTable],
        gamma: float,
        fee_share: float = 1.0,
    ) -> list[Evaluation | SideEvaluation]:
        """Return what a policy is worth on each market."""
        evaluate: Any = evaluate_policy if self.sees_position else evaluate_by_side
        return [
            evaluate(part.chains, table, gamma, fee_share=fee_share)
            for part, table in zip(self._parts, tables, strict=True)
        ]

    def targets(
        self,
        probabilities: Floats,
        evaluations: Sequence[Evaluation | SideEvaluation],
    ) -> Targets:
        """Return what an update learns from, in the order of this book."""
        advantages, weights = np.zeros((self.n_contexts, 3)), np.zeros(self.n_contexts)
        for part, evaluation in zip(self._parts, evaluations, strict=True):
            flat, trades = self._places_of(part)
            rows = slice(part.chains.first_row, part.chains.n_rows - 1)
            advantages[flat] = evaluation.flat_advantages[rows]
            weights[flat] = evaluation.flat_occupancy[rows]
            stay, leave, occupancy = _of_trades(evaluation, rows)
            advantages[trades, 0], advantages[trades, 1] = stay, leave
            weights[trades] = occupancy
        weights[self.valid.sum(axis=1, dtype=np.int8) <= 1] = 0.0
        return Targets(self.kinds, self.valid, probabilities, advantages, weights)

    def _table(self, part: _Part, probabilities: Floats) -> PolicyTable:
        flat, leave = self._chances(part, probabilities)
        return PolicyTable(flat, leave)

    def _side_table(self, part: _Part, probabilities: Floats) -> SideTable:
        flat, leave = self._chances(part, probabilities)
        by_side = np.zeros((len(SIDES), len(flat)))
        by_side[:, part.chains.first_row : -1] = leave.reshape(-1, len(SIDES)).T
        return SideTable(flat, by_side)

    def _chances(self, part: _Part, probabilities: Floats) -> tuple[Floats, Floats]:
        """Return a market's probabilities without a position, (T, 3), and of leaving trades."""
        chains = part.chains
        flat_places, trades = self._places_of(part)
        flat = np.zeros((chains.n_rows, 3))
        flat[chains.first_row : -1] = probabilities[flat_places]
        return flat, probabilities[trades, 1]

    def _places_of(self, part: _Part) -> tuple[Rows, Rows]:
        """Return where a market's contexts stand: without a position, and in trades."""
        n_flat, n_own = _n_contexts(part.chains, self.sees_position)
        own = self._place[part.first_context : part.first_context + n_own]
        return own[:n_flat], own[n_flat:]


def _n_contexts(chains: Chains, sees_position: bool) -> tuple[int, int]:
    """Return the contexts without a position, and all contexts of a market."""
    n_flat = chains.n_rows - 1 - chains.first_row
    return n_flat, n_flat + (chains.n_states if sees_position else len(SIDES) * n_flat)


def _contexts_of(
    chains: Chains, sees_position: bool
) -> tuple[Rows, NDArray[np.int8], NDArray[np.bool_], NDArray[np.float32]]:
    """Return candle, kind, valid actions and position of a market's contexts: flat ones first."""
    flat_rows = np.arange(chains.first_row, chains.n_rows - 1)
    flat_valid = chains.flat_valid[flat_rows]
    if sees_position:
        trade_rows, trade_kinds = chains.rows, 1 + chains.sides
        size = (len(flat_rows) + chains.n_states, chains.position.shape[1])
        position = np.zeros(size, dtype=np.float32)
        position[len(flat_rows) :] = chains.position
    else:
        trade_rows = np.repeat(flat_rows, len(SIDES))
        trade_kinds = np.tile(np.array([1, 2], dtype=np.int8), len(flat_rows))
        position = np.zeros((len(flat_rows) * (1 + len(SIDES)), 0), dtype=np.float32)
    trade_valid = np.broadcast_to(np.array([True, True, False]), (len(trade_rows), 3))
    return (
        np.concatenate([flat_rows, trade_rows]),
        np.concatenate([np.zeros(len(flat_rows), dtype=np.int8), trade_kinds.astype(np.int8)]),
        np.concatenate([flat_valid, trade_valid]),
        position,
    )


def _of_trades(
    evaluation: Evaluation | SideEvaluation, rows: slice
) -> tuple[Floats, Floats, Floats]:
    """Return advantages of staying and leaving, and occupancy, of the contexts in trades."""
    stay, leave = evaluation.stay_advantages, evaluation.leave_advantages
    if isinstance(evaluation, Evaluation):
        return stay, leave, evaluation.state_occupancy
    by_side = (stay, leave, evaluation.occupancy)
    stay, leave, occupancy = (each[:, rows].T.reshape(-1) for each in by_side)
    return stay, leave, occupancy
