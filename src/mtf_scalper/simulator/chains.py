"""Every trade that a market allows, as a chain of candles: the exact model of a trade's life.

The agent does not move the market. What a step brings therefore depends on the candle and on the
open trade alone, and a trade is known once its entry is: from there it is one *chain* of states, a
state for each candle at whose close the agent may still leave it. At a state the agent stays or
leaves; both rewards are known beforehand, and so are the candle and the price of the exit that the
rules force. Chains plus the rows without a position are all states that there are.

The rewards come from the compiled environment itself (``lives``): every trade is stayed in to its
end, and left at each of its states. Nothing about a trade is said here a second time. What is kept
of a state are the rewards of both actions: 16 bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import SettingsError
from mtf_scalper.jit import njit
from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator import kernels, lives
from mtf_scalper.simulator.lives import enter, follow, stay
from mtf_scalper.simulator.observation import LONG_TRADE_CANDLES, n_state_inputs
from mtf_scalper.simulator.playback import valid_actions
from mtf_scalper.simulator.prepared import PreparedMarket
from mtf_scalper.simulator.reward_kernels import compiled_reward
from mtf_scalper.simulator.types import Action, Side

FLAT_ACTIONS = (Action.NEUTRAL, Action.LONG_ENTER, Action.SHORT_ENTER)
"""What an agent without a position may do, in the order of ``Chains.flat_valid``."""
SIDES = (Side.LONG, Side.SHORT)
"""Sides in the order of ``Chains.chain_at``."""

RENEWED_AFTER = 96
"""States of a chain without end; 8 hours of 5m candles."""

logger = logging.getLogger(__name__)

_MOST_STATES = 60_000_000
_BYTES_OF_STATE = {False: 20, True: 200}
"""Memory that a training takes for a state at its most, measured; with ``add_state_info`` each is a
context of its own."""
_NOTICED_BYTES = 2**30
_FREE = {"fee_rate": 0.0, "slippage_bps": 0.0}
"""Terms without any costs of a trade."""
_STEPS_AT_ONCE = 2**13
"""Steps whose outcomes are kept for a reward that asks for more than equity."""


class Chains(NamedTuple):
    """All states of one market, with what each action brings; compiled code takes it as it is.

    ``T`` candles, ``C`` chains, ``S`` states of chains. States of a chain lie one after the other,
    one per candle; chains lie in the order of their entries, long before short.

    Attributes
    ----------
    first_row : int
        First row at which the agent decides; the last one is ``T - 2``.
    flat_valid : ndarray of bool, shape (T, 3)
        Which of ``FLAT_ACTIONS`` are valid at a row without a position.
    chain_at : ndarray of int64, shape (T, 2)
        Chain of the entry that is decided at a row, by side; -1 where it is not valid.
    starts : ndarray of int64, shape (C + 1,)
        States of chain ``c`` are ``starts[c] .. starts[c + 1] - 1``; none where the rules end the
        trade in the candle of its entry.
    enter_reward : ndarray of float64, shape (C,)
        Reward of the step that enters.
    fee_relief : ndarray of float64, shape (C,)
        What that reward would be more without fees; 0 for other rewards than ``log_return``.
    continues : ndarray of int64, shape (C,)
        Chain as whose first state a trade goes on after the last state here; -1 where the rules
        end it.
    stay_reward, leave_reward : ndarray of float64, shape (S,)
        Reward of the step after either decision; a forced exit belongs to the last state's stay.
    position : ndarray of float32, shape (S, 5) or (S, 0)
        What the agent sees of its position, with ``settings.add_state_info``.

    Notes
    -----
    A trade without a maximum duration, where an entry is valid at every row, would have states
    in the square of the candles. Such chains end after ``RENEWED_AFTER`` states, and the trade goes
    on as one of the same side that was entered a candle ago. Its marks then start from another
    price: for a long trade of leverage 1 without funding nothing changes, else the rewards to come
    differ in the second order of the price's move. Where there is a stoploss, an ROI ladder or
    another rule that goes by the entry, they start anew as well, and the chain is longer for it:
    ``LONG_TRADE_CANDLES`` states.

    An exit of the agent that freqtrade would not fill, because its price rounded to the step of the
    entry's month leaves the candle, counts here as filled.
    """

    first_row: int
    flat_valid: NDArray[np.bool_]
    chain_at: NDArray[np.int64]
    starts: NDArray[np.int64]
    enter_reward: NDArray[np.float64]
    fee_relief: NDArray[np.float64]
    continues: NDArray[np.int64]
    stay_reward: NDArray[np.float64]
    leave_reward: NDArray[np.float64]
    position: NDArray[np.float32]

    @property
    def n_rows(self) -> int:
        """Candles T."""
        return len(self.flat_valid)

    @property
    def n_states(self) -> int:
        """States of all chains, S."""
        return len(self.stay_reward)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row at whose close the agent decides at each state, int64, shape (S,)."""
        entries, _ = np.nonzero(self.chain_at >= 0)
        lengths = np.diff(self.starts)
        return np.repeat(entries + 1 - self.starts[:-1], lengths) + np.arange(self.n_states)

    @property
    def sides(self) -> NDArray[np.int8]:
        """Index into ``SIDES`` of each state, int8, shape (S,)."""
        _, sides = np.nonzero(self.chain_at >= 0)
        return np.repeat(sides.astype(np.int8), np.diff(self.starts))


def chains_of(prepared: PreparedMarket, *, longest: int | None = None) -> Chains:
    """Return all chains of a market.

    Parameters
    ----------
    prepared : PreparedMarket
        Uses the rules, the reward, the window and ``add_state_info``.
    longest : int, optional
        States after which a trade goes on in a fresh chain where an entry is valid at every row
        and no maximum duration is set; see the notes of ``Chains`` for the default.

    Raises
    ------
    SettingsError
        If there are more states than memory should be spent on.
    """
    market = prepared.market
    limit = longest_chain(prepared, longest)
    valid = flat_valid(prepared)
    rows, sides = np.nonzero(valid[:, 1:])
    chain_at = np.full((len(market), len(SIDES)), -1, dtype=np.int64)
    chain_at[rows, sides] = np.arange(len(rows))
    _tell_memory(market, prepared.settings, rows, limit)
    trades = _Trades(prepared, rows, sides, limit)
    lengths, is_cut = trades.lengths()
    starts = np.concatenate([[0], np.cumsum(lengths)])
    enter_reward = trades.enter()
    stay_reward, leave_reward, position = trades.live(starts)
    return Chains(
        first_row=prepared.first_row,
        flat_valid=valid,
        chain_at=chain_at,
        starts=starts,
        enter_reward=enter_reward,
        fee_relief=trades.fee_relief(enter_reward),
        continues=_continuations(lengths, is_cut, rows, sides, chain_at, limit),
        stay_reward=stay_reward,
        leave_reward=leave_reward,
        position=position,
    )


def flat_valid(prepared: PreparedMarket) -> NDArray[np.bool_]:
    """Return which of ``FLAT_ACTIONS`` are valid at every row at which it is decided; (T, 3)."""
    valid = valid_actions(prepared)[:, Side.FLAT + 1][:, FLAT_ACTIONS]
    valid[: prepared.first_row] = False
    valid[-1] = False
    return np.ascontiguousarray(valid)


def longest_chain(prepared: PreparedMarket, longest: int | None = None) -> int:
    """Return the most states that a chain may have; ``longest`` as in ``chains_of``."""
    rules = prepared.rules
    if rules.entry is EntryMode.ANY and rules.max_trade_duration_candles is None:
        return longest or _renewed_after(rules)
    return len(prepared)


def _tell_memory(market: Market, settings: Settings, rows: NDArray[np.int64], limit: int) -> None:
    """Say before it is taken how much memory the states may need, where that is gigabytes.

    Stops and the ROI ladder end trades sooner; by how much is known only afterwards.
    """
    longest = min(limit, settings.rules.max_trade_duration_candles or limit)
    n_states = int(np.minimum(longest, len(market) - 1 - rows).sum())
    n_bytes = n_states * _BYTES_OF_STATE[settings.add_state_info]
    if n_bytes < _NOTICED_BYTES:
        return
    logger.warning(
        "%s: %s possible entries, held for up to %s candles, may make %s states of trades and take "
        "%.1f GB of memory; set max_trade_duration_candles or use fewer candles",
        market.pair,
        f"{len(rows):,}",
        f"{longest:,}",
        f"{n_states:,}",
        n_bytes / 1e9,
    )


def _renewed_after(rules: TradeRules) -> int:
    goes_by_entry = (
        rules.stoploss is not None
        or rules.minimal_roi
        or rules.emergency_loss is not None
        or rules.break_even_trigger is not None
    )
    return LONG_TRADE_CANDLES if goes_by_entry else RENEWED_AFTER


class _Trades:
    """All trades of a market, lived by the compiled environment."""

    def __init__(
        self,
        prepared: PreparedMarket,
        rows: NDArray[np.int64],
        sides: NDArray[np.int64],
        limit: int,
    ) -> None:
        self._terms = lives.two_ways(prepared.terms)
        self._rows, self._sides, self._limit = rows, sides, limit
        self._reward = compiled_reward(prepared.settings)  # None for log returns
        self._n_position = n_state_inputs(prepared.settings)

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the states of every trade, and whether it is open after the most that may be."""
        lengths = np.zeros(len(self._rows), dtype=np.int64)
        is_cut = np.zeros(len(self._rows), dtype=np.bool_)
        room = lives.room_for(0)
        most = _MOST_STATES
        n_states = _find_lengths(
            self._terms, self._rows, self._sides, self._limit, room, (lengths, is_cut), most
        )
        if n_states > most:
            raise SettingsError(
                f"advantage 'exact': more than {most:,} states of trades; "
                "set max_trade_duration_candles or use fewer candles"
            )
        return lengths, is_cut

    def enter(self, *, with_fees: bool = True) -> NDArray[np.float64]:
        """Return the reward of every step that enters, shape (C,)."""
        terms = self._terms if with_fees else kernels.terms_with(self._terms, **_FREE)
        rewards = np.empty(len(self._rows))
        for first in range(0, len(self._rows), _STEPS_AT_ONCE):
            piece = slice(first, min(first + _STEPS_AT_ONCE, len(self._rows)))
            rows, sides = self._rows[piece], self._sides[piece]
            room = lives.room_for(len(rows), 1 if self._reward is None else len(rows) + 1)
            _enter_all(terms, rows, sides, room)
            rewards[piece] = room.stay_reward
            if self._reward is not None:
                actions = np.array([Action.LONG_ENTER, Action.SHORT_ENTER], dtype=np.int64)[sides]
                rewards[piece] = self._rewarded(room.stayed[: len(rows)], actions)
        return rewards

    def fee_relief(self, enter_reward: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return by how much the reward of every entry is lower for its fees."""
        if self._reward is not None:
            return np.zeros(len(enter_reward))
        return np.maximum(self.enter(with_fees=False) - enter_reward, 0.0)

    def live(
        self, starts: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
        """Return both rewards of every state, and what the agent sees of its position."""
        n_states = int(starts[-1])
        stays, leaves = np.empty(n_states), np.empty(n_states)
        position = np.empty((n_states, self._n_position), dtype=np.float32)
        pieces = [(0, len(self._rows))] if self._reward is None else self._pieces(starts)
        for first, last in pieces:
            here = slice(starts[first], starts[last])
            n_here = int(starts[last] - starts[first])
            # Only rewards that ask for more than equity need what every step did.
            n_outcomes = 1 if self._reward is None else n_here + 1
            room = lives.room_for(0, n_outcomes)._replace(
                stay_reward=stays[here], leave_reward=leaves[here], position=position[here]
            )
            chains = slice(first, last)
            rows, sides = self._rows[chains], self._sides[chains]
            _live_all(self._terms, rows, sides, starts[first : last + 1], self._limit, room)
            if self._reward is not None:
                exits = np.array([Action.LONG_EXIT, Action.SHORT_EXIT], dtype=np.int64)
                left = exits[np.repeat(sides, np.diff(starts[first : last + 1]))]
                stayed = np.full(n_here, Action.NEUTRAL, dtype=np.int64)
                stays[here] = self._rewarded(room.stayed[:n_here], stayed)
                leaves[here] = self._rewarded(room.left[:n_here], left)
        return stays, leaves, position

    def _pieces(self, starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Yield first and last chain of pieces of few states, or of one chain."""
        first = 0
        while first < len(self._rows):
            most = starts[first] + _STEPS_AT_ONCE
            last = max(first + 1, int(np.searchsorted(starts, most, side="right")) - 1)
            yield first, last
            first = last

    def _rewarded(
        self, outcomes: NDArray[np.void], actions: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the rewards of steps."""
        assert self._reward is not None
        self._reward.write(outcomes, actions)
        return outcomes["reward"]


@njit(cache=True, error_model="numpy")
def _enter_all(
    terms: kernels.Terms, rows: NDArray[np.int64], sides: NDArray[np.int64], room: lives.Room
) -> None:
    """Enter at every (row, side), one log return each, and one outcome if there is room."""
    keeps = len(room.stayed) > 1
    for chain in range(len(rows)):
        side, place = 1 - 2 * sides[chain], chain if keeps else 0
        room.stay_reward[chain], _ = enter(terms, rows[chain], side, room, place)


@njit(cache=True, error_model="numpy")
def _find_lengths(
    terms: kernels.Terms,
    rows: NDArray[np.int64],
    sides: NDArray[np.int64],
    limit: int,
    room: lives.Room,
    found: tuple[NDArray[np.int64], NDArray[np.bool_]],
    most: int,
) -> int:
    """Write the states of every trade; return how many there are in all, or more than ``most``."""
    lengths, is_cut = found
    n_states = 0
    for chain in range(len(rows)):
        _, is_open = enter(terms, rows[chain], 1 - 2 * sides[chain], room, 0)
        if is_open:
            lengths[chain], is_cut[chain] = stay(terms, limit, room)
        n_states += lengths[chain]
        if n_states > most:
            break
    return n_states


@njit(cache=True, error_model="numpy")
def _live_all(
    terms: kernels.Terms,
    rows: NDArray[np.int64],
    sides: NDArray[np.int64],
    starts: NDArray[np.int64],
    limit: int,
    room: lives.Room,
) -> None:
    """Live all trades to their ends, one after the other."""
    keeps = len(room.stayed) > 1
    for chain in range(len(rows)):
        first = starts[chain] - starts[0]
        if starts[chain + 1] > starts[chain]:
            enter(terms, rows[chain], 1 - 2 * sides[chain], room, first if keeps else 0)
            follow(terms, limit, room, first)


def _continuations(
    lengths: NDArray[np.int64],
    is_cut: NDArray[np.bool_],
    rows: NDArray[np.int64],
    sides: NDArray[np.int64],
    chain_at: NDArray[np.int64],
    limit: int,
) -> NDArray[np.int64]:
    """Return the chain whose first state stands where a cut chain's next one would."""
    continues = np.full(len(rows), -1, dtype=np.int64)
    cut = np.flatnonzero(is_cut)
    # State 0 of an entry decided at row r stands at row r + 1, state ``limit`` at r + 1 + limit.
    chains = chain_at[rows[cut] + limit, sides[cut]]
    continues[cut] = np.where(lengths[chains] > 0, chains, -1)
    return continues
