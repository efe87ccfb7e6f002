"""Every trade that a market allows, as a chain of candles: the exact model of a trade's life.

The agent does not move the market. What a step brings therefore depends on the candle and on the
open trade alone, and a trade is known once its entry is: from there it is one *chain* of states, a
state for each candle at whose close the agent may still leave it. At a state the agent stays or
leaves; both rewards are known beforehand, and so are the candle and the price of the exit that the
rules force. Chains plus the rows without a position are all states that there are.

The rewards come from the compiled environment itself: all chains are stepped together, a candle at
a time, and each state is tried both ways. Nothing about a trade is said here a second time.
"""

from __future__ import annotations

import logging
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import SettingsError
from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, RewardName, Settings, TradeRules
from mtf_scalper.simulator import kernels
from mtf_scalper.simulator.exits import STAY
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
_BYTES_OF_STATE = {False: 100, True: 310}
"""Memory that a training takes for a state at its most, measured; with ``add_state_info`` each is a
context of its own."""
_NOTICED_BYTES = 2**30
_Value = TypeVar("_Value", bound=np.generic)


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
    rows : ndarray of int64, shape (S,)
        Row at whose close the agent decides.
    sides : ndarray of int8, shape (S,)
        Index into ``SIDES``.
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
    rows: NDArray[np.int64]
    sides: NDArray[np.int8]
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
        return len(self.rows)


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
    stepper = _Stepper(prepared)
    valid = flat_valid(prepared)
    rows, sides = np.nonzero(valid[:, 1:])
    chain_at = np.full((len(market), len(SIDES)), -1, dtype=np.int64)
    chain_at[rows, sides] = np.arange(len(rows))
    _tell_memory(market, prepared.settings, rows, limit)
    states, extras, enter_reward, is_open = stepper.enter(rows, sides)
    walk = _walk(stepper, states, extras, np.flatnonzero(is_open), limit)
    starts = np.concatenate([[0], np.cumsum(walk.lengths)])
    return Chains(
        first_row=prepared.first_row,
        flat_valid=valid,
        chain_at=chain_at,
        starts=starts,
        enter_reward=enter_reward,
        fee_relief=stepper.fee_relief(rows, sides, enter_reward),
        continues=_continuations(walk, rows, sides, chain_at, limit),
        rows=np.repeat(rows + 1 - starts[:-1], walk.lengths) + np.arange(starts[-1]),
        sides=np.repeat(sides.astype(np.int8), walk.lengths),
        stay_reward=walk.in_order(starts, walk.stay),
        leave_reward=walk.in_order(starts, walk.leave),
        position=walk.in_order(starts, walk.position),
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


class _Stepper:
    """The compiled environment over one market, for as many states at once as are given."""

    def __init__(self, prepared: PreparedMarket) -> None:
        settings = prepared.settings
        self._terms = prepared.terms
        self._settings = settings
        self._first_row = prepared.first_row
        self._reward = compiled_reward(settings)
        self.n_position = n_state_inputs(settings)

    def enter(
        self, rows: NDArray[np.int64], sides: NDArray[np.int64], *, with_fees: bool = True
    ) -> tuple[NDArray[np.void], NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_]]:
        """Enter at every (row, side); return states, extras, rewards and whether it is open."""
        states = np.zeros(len(rows), kernels.STATE)
        kernels.start_episodes(states, rows)
        actions = np.array([Action.LONG_ENTER, Action.SHORT_ENTER], dtype=np.int64)[sides]
        terms = self._terms if with_fees else kernels.terms_with(self._terms, fee_rate=0.0)
        return self._stepped(terms, states, actions)

    def stay(
        self, states: NDArray[np.void]
    ) -> tuple[NDArray[np.void], NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_]]:
        """Stay in every trade for a candle; as ``enter``."""
        actions = np.full(len(states), Action.NEUTRAL, dtype=np.int64)
        return self._stepped(self._terms, states.copy(), actions)

    def leave(self, states: NDArray[np.void]) -> NDArray[np.float64]:
        """Leave every trade at the next open; return the rewards."""
        actions = np.where(states["side"] > 0, Action.LONG_EXIT, Action.SHORT_EXIT)
        return self._stepped(
            kernels.terms_with(self._terms, always_fills=True), states.copy(), actions
        )[2]

    def fee_relief(
        self,
        rows: NDArray[np.int64],
        sides: NDArray[np.int64],
        enter_reward: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return by how much the reward of an entry is lower for its fees."""
        if self._settings.reward != RewardName.LOG_RETURN:
            return np.zeros(len(rows))
        without = self.enter(rows, sides, with_fees=False)[2]
        return np.maximum(without - enter_reward, 0.0)

    def _stepped(
        self, terms: kernels.Terms, states: NDArray[np.void], actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.void], NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_]]:
        n_states = len(states)
        outcome = np.zeros(n_states, kernels.OUTCOME)
        extras = np.zeros((n_states, self.n_position + len(Action)), dtype=np.float32)
        restarts = np.full(n_states, self._first_row, dtype=np.int64)
        kernels.step(
            terms,
            states,
            actions.astype(np.int64),
            restarts,
            outcome,
            extras,
            np.zeros_like(extras),
        )
        if self._reward is not None:
            self._reward.write(outcome, actions)
        is_open = outcome["exit_code"] == STAY
        return states, extras[:, : self.n_position], outcome["reward"].copy(), is_open


class _Walk:
    """What was found at each age: arrays by age, for the chains that were open at it."""

    def __init__(self, n_chains: int) -> None:
        self.lengths = np.zeros(n_chains, dtype=np.int64)
        self.is_cut = np.zeros(n_chains, dtype=np.bool_)
        self.open: list[NDArray[np.int64]] = []
        self.stay: list[NDArray[np.float64]] = []
        self.leave: list[NDArray[np.float64]] = []
        self.position: list[NDArray[np.float32]] = []

    def in_order(self, starts: NDArray[np.int64], found: list[NDArray[_Value]]) -> NDArray[_Value]:
        """Return values by age as one array, chain after chain."""
        ordered = np.empty((starts[-1], *found[0].shape[1:]), dtype=found[0].dtype)
        for age, (chains, values) in enumerate(zip(self.open, found, strict=True)):
            ordered[starts[chains] + age] = values
        return ordered


def _walk(
    stepper: _Stepper,
    states: NDArray[np.void],
    position: NDArray[np.float32],
    chains: NDArray[np.int64],
    limit: int,
) -> _Walk:
    """Go through all chains together, a candle at a time, until the rules have ended them."""
    walk = _Walk(len(states))
    states, position = states[chains], position[chains]
    n_states = 0
    for age in range(limit):
        if age and not len(chains):
            break
        n_states += len(chains)
        if n_states > _MOST_STATES:
            raise SettingsError(
                f"advantage 'exact': more than {_MOST_STATES:,} states of trades; "
                "set max_trade_duration_candles or use fewer candles"
            )
        walk.open.append(chains)
        walk.lengths[chains] += 1
        walk.leave.append(stepper.leave(states))
        walk.position.append(position)
        states, position, reward, is_open = stepper.stay(states)
        walk.stay.append(reward)
        chains, states, position = chains[is_open], states[is_open], position[is_open]
    walk.is_cut[chains] = True
    return walk


def _continuations(
    walk: _Walk,
    rows: NDArray[np.int64],
    sides: NDArray[np.int64],
    chain_at: NDArray[np.int64],
    limit: int,
) -> NDArray[np.int64]:
    """Return the chain whose first state stands where a cut chain's next one would."""
    continues = np.full(len(rows), -1, dtype=np.int64)
    cut = np.flatnonzero(walk.is_cut)
    # State 0 of an entry decided at row r stands at row r + 1, state ``limit`` at r + 1 + limit.
    chains = chain_at[rows[cut] + limit, sides[cut]]
    continues[cut] = np.where(walk.lengths[chains] > 0, chains, -1)
    return continues
