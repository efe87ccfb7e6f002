"""The best that can be done on a planted market by who knows its signal but not its noise.

The hidden signal is an autoregression, so the best causal policy depends on its present value
``s`` and on the position alone. Let ``V(p, s)`` be the value of being in position ``p`` when ``s``
is seen, before the decision. With ``c`` the fee per side, ``m = strength * s`` the expected return
of the step and ``E`` the expectation over the next signal ``s'``::

    V(long, s)  = max(m + E V(long, s'), E V(flat, s') - c)
    V(flat, s)  = max(E V(flat, s'), m - c + E V(long, s'), -m - c + E V(short, s'))
    V(short, s) = V(long, -s)

Where entries go by the classic rule, the second line is the mean over whether it fires, which is
known to depend on ``s`` (`entry_probability`); under ``always`` a firing rule leaves no choice.
A long becomes a short by way of one candle without position, as in the simulator. The equations are
solved by relative value iteration for the average reward (Puterman 1994, *Markov Decision
Processes*, 8.5.5) on a grid of ``s``; the policy has one threshold above which it enters and one
below which it leaves. No approximation but the grid and the end of the data is involved: every kind
has this signal, whatever its features show of it.

The risk of a position is not charged: the reward of the simulator is the log return, whose
curvature costs a short about the candle's variance, a millionth, per candle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import SettingsError
from mtf_scalper.settings import EntryMode
from mtf_scalper.worlds.planted import PlantedMarket, entry_probability

Float64 = NDArray[np.float64]

GRID_REACH: Final = 6.0
GRID_POINTS: Final = 241
TOLERANCE: Final = 1e-12
MAX_ITERATIONS: Final = 20_000


@dataclass(frozen=True)
class ReferenceThresholds:
    """The best policy of a symmetric market, in expected log return per candle.

    Attributes
    ----------
    enter : float
        A flat trader goes long where the expected return exceeds it and short below ``-enter``;
        infinite where trading is never worth its fees.
    leave : float
        A long is left where the expected return is below it, a short above ``-leave``.
    """

    enter: float
    leave: float


def reference_targets(
    planted: PlantedMarket, entry: EntryMode = EntryMode.ANY, *, first_row: int = 0
) -> NDArray[np.int8]:
    """Return the position that the best causal policy holds after the decision at each row.

    Play it from flat: at the close of row ``t`` take the action that leads to ``targets[t]``; a
    long never becomes a short in one step. It trades without stops at
    ``planted.market.fee_rate``. Row ``t`` depends on rows up to ``t`` alone.

    Parameters
    ----------
    planted : PlantedMarket
    entry : EntryMode
        Where it may enter. ``classic`` and ``always`` go by the market's entry masks.
    first_row : int
        Row of the first decision; before it all targets are 0. An agent with a window of ``w``
        candles decides first at row ``w - 1``.

    Returns
    -------
    ndarray of int8, shape (T,)
        1 long, 0 flat, -1 short.

    Raises
    ------
    SettingsError
        ``entry`` goes by masks and the market was made without.
    """
    thresholds = reference_thresholds(planted, entry)
    may_long, may_short = planted.market.entry_long, planted.market.entry_short
    if entry is EntryMode.ANY:
        may_long = may_short = np.ones_like(may_long)
    enter = -math.inf if entry is EntryMode.ALWAYS else thresholds.enter
    targets = np.zeros(len(planted.expected_return), dtype=np.int8)
    side = 0
    for row in range(first_row, len(targets)):
        expected = float(planted.expected_return[row])
        if side:
            side = 0 if side * expected < thresholds.leave else side
        elif may_long[row] and expected > enter:
            side = 1
        elif may_short[row] and -expected > enter:
            side = -1
        targets[row] = side
    return targets


def reference_thresholds(
    planted: PlantedMarket, entry: EntryMode = EntryMode.ANY
) -> ReferenceThresholds:
    """Return where the best causal policy enters and leaves; arguments of `reference_targets`."""
    if entry is not EntryMode.ANY and planted.entry_share is None:
        raise SettingsError(f"entry: {entry} needs a planted market with entry_share")
    spec = planted.spec
    problem = (spec.strength, spec.persistence, planted.market.fee_rate)
    crossings = _solve(*problem, EntryMode(entry), planted.entry_share)
    # Without a signal both are infinite, which no strength can scale.
    enter, leave = (each if math.isinf(each) else spec.strength * each for each in crossings)
    return ReferenceThresholds(enter, leave)


@lru_cache(maxsize=64)
def _solve(
    strength: float,
    persistence: float,
    fee_rate: float,
    entry: EntryMode,
    entry_share: float | None,
) -> tuple[float, float]:
    """Return the signal's values at which the best policy enters and leaves a long."""
    signal = np.linspace(-GRID_REACH, GRID_REACH, GRID_POINTS)
    transition = _transition(signal, persistence)
    chance = np.ones(GRID_POINTS)
    if entry is not EntryMode.ANY and entry_share is not None:
        chance = entry_probability(signal, entry_share)
    # The round trip of the simulator, log((1 + fee) / (1 - fee)), in two halves.
    cost = math.atanh(fee_rate)
    flat, long = np.zeros(GRID_POINTS), np.zeros(GRID_POINTS)
    for _ in range(MAX_ITERATIONS):
        wait, stay = transition @ flat, strength * signal + transition @ long
        new_flat = _value_when_flat(wait, stay - cost, chance, entry)
        new_long = np.maximum(stay, wait - cost)
        change = np.concatenate([new_flat - flat, new_long - long])
        flat, long = new_flat - new_flat[0], new_long - new_flat[0]
        if np.ptp(change) < TOLERANCE:
            break
    return _crossing(signal, stay - wait - cost), _crossing(signal, stay - wait + cost)


def _value_when_flat(
    wait: Float64, enter_long: Float64, chance: Float64, entry: EntryMode
) -> Float64:
    """Return the value of no position, before it is known whether the classic rule fires."""
    # The grid is symmetric: what holds for a short is what holds for a long, read backwards.
    if entry is EntryMode.ANY:
        return np.maximum(wait, np.maximum(enter_long, enter_long[::-1]))
    gain = enter_long - wait
    if entry is EntryMode.CLASSIC:
        gain = np.maximum(gain, 0.0)
    # ``wait`` is symmetric, so the gain of a short is that of a long read backwards.
    return wait + chance * gain + (chance * gain)[::-1]


def _transition(signal: Float64, persistence: float) -> Float64:
    """Return the probabilities of the next grid point (columns) given this one (rows)."""
    deviation = math.sqrt(1.0 - persistence**2)
    distance = (signal[None, :] - persistence * signal[:, None]) / deviation
    density = np.exp(-0.5 * distance**2)
    return np.asarray(density / density.sum(axis=1, keepdims=True))


def _crossing(signal: Float64, gain: Float64) -> float:
    """Return the lowest signal from which the gain is positive, infinite where it never is."""
    above = np.flatnonzero(gain > 0.0)
    if not above.size:
        return math.inf
    first = int(above[0])
    if first == 0:
        return -math.inf
    before, after = gain[first - 1], gain[first]
    share = before / (before - after)
    return float(signal[first - 1] + share * (signal[first] - signal[first - 1]))
