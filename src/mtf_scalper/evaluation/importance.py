"""Which features a policy trades by: what its return loses when one of them tells nothing.

A feature is made useless by shuffling its values over the candles, which leaves their distribution
as it is and cuts what they tell about the future (permutation importance: Breiman 2001, *Random
forests*, section 10; Fisher, Rudin and Dominici 2019, *All models are wrong, but many are useful*).
Blocks of candles are shuffled instead of single ones: the network sees windows, and a feature that
jumped at every candle would look like nothing that it was ever shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mtf_scalper.market.market import Market
from mtf_scalper.ppo.policy import Policy, decisions_by_side
from mtf_scalper.ppo.team import team
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.chains import Chains, chains_of
from mtf_scalper.simulator.masks import masked_probabilities
from mtf_scalper.simulator.observation import flat_state
from mtf_scalper.simulator.playback import play, play_decided, valid_actions
from mtf_scalper.simulator.prepared import PreparedMarket, prepare
from mtf_scalper.simulator.types import N_ACTIONS, Action, Side

BLOCK_CANDLES = 48
"""Candles per shuffled block; four hours of 5m candles."""
_RUNS_AT_ONCE = 64
"""Runs that one playback trades; more would only take more memory."""
_ROWS_AT_ONCE = 2048
"""Windows that go through the network at once."""


@dataclass(frozen=True)
class Importance:
    """What a policy's log return loses without a feature.

    Attributes
    ----------
    feature : str
    median, low, high : float
        Median, 5% and 95% quantile of the drop over the shuffles, as log returns over the whole
        market. Below zero the policy did better without the feature.
    drops : tuple of float
        The drop of every shuffle.
    """

    feature: str
    median: float
    low: float
    high: float
    drops: tuple[float, ...]

    def as_dict(self) -> dict[str, float]:
        """Return what ``importance.json`` holds of the feature: median, low and high."""
        return {"median": self.median, "low": self.low, "high": self.high}


@team()
def permutation_importance(
    policy: Policy,
    market: Market,
    settings: Settings | None = None,
    *,
    n_repeats: int = 10,
    block_candles: int = BLOCK_CANDLES,
    seed: int = 0,
) -> list[Importance]:
    """Measure what every feature is worth to a policy on candles that it did not learn from.

    For feature ``f`` and shuffle ``r`` the drop is ``log_return(policy, market) -
    log_return(policy, market with f shuffled)``. All shuffles are traded together: the cost is one
    prediction per feature and shuffle, of the candles at which there may be something to decide,
    and one playback for every 64 of them.

    The records of a run take it as it comes::

        found = permutation_importance(result.policy, test_market)
        record.write_json("importance", {each.feature: each.as_dict() for each in found})

    and over several windows, pairs or seeds of the same features ``pooled_importance`` adds up.

    Parameters
    ----------
    policy : Policy
    market : Market
        Held-out candles, with the features of the policy's training.
    settings : Settings, optional
        Rules of the trades; those that the policy was trained with by default.
    n_repeats : int
        Shuffles per feature.
    block_candles : int
        Length of a block; the first begins at a random candle. A market shorter than four blocks
        is cut into four.
    seed : int
        Of the shuffles.

    Returns
    -------
    list of Importance
        In the order of the market's features.

    Raises
    ------
    MarketError
        If the market has other features than the policy, or is too short to trade.
    ValueError
        If ``n_repeats`` or ``block_candles`` is not positive.
    """
    if n_repeats < 1 or block_candles < 1:
        raise ValueError(
            f"n_repeats and block_candles must be positive, got {n_repeats} and {block_candles}"
        )
    policy.check_features(market.feature_names, market.pair)
    policy.check_width(market.features)
    asked = _Asked(policy, prepare(market, settings or policy.settings))
    (base,) = _log_returns(asked, [market.features])
    shuffled = _shuffles(market.features, n_repeats, block_candles, seed)
    returns: list[float] = []
    n_runs = market.n_features * n_repeats
    for start in range(0, n_runs, _RUNS_AT_ONCE):
        size = min(_RUNS_AT_ONCE, n_runs - start)
        returns += _log_returns(asked, [next(shuffled) for _ in range(size)])
    drops = (base - np.array(returns)).reshape(market.n_features, n_repeats)
    return [_importance(name, each) for name, each in zip(market.feature_names, drops, strict=True)]


def pooled_importance(parts: Sequence[Sequence[Importance]]) -> list[Importance]:
    """Add the drops of several windows, pairs or seeds up, shuffle by shuffle.

    Parameters
    ----------
    parts : sequence of sequence of Importance
        From ``permutation_importance`` with the same features and ``n_repeats``.

    Returns
    -------
    list of Importance
        What the sum of all log returns loses.

    Raises
    ------
    ValueError
        If features or numbers of shuffles differ.
    """
    pooled = []
    for features in zip(*parts, strict=True):
        if len({each.feature for each in features}) != 1:
            names = ", ".join(each.feature for each in features)
            raise ValueError(f"these are not one feature: {names}")
        if len({len(each.drops) for each in features}) != 1:
            raise ValueError(f"{features[0].feature}: the parts differ in their number of shuffles")
        drops = np.sum([each.drops for each in features], axis=0)
        pooled.append(_importance(features[0].feature, drops))
    return pooled


def _importance(feature: str, drops: NDArray[np.float64]) -> Importance:
    low, median, high = np.quantile(drops, (0.05, 0.5, 0.95)).tolist()
    return Importance(feature, median, low, high, tuple(drops.tolist()))


def _shuffles(
    features: NDArray[np.float32], n_repeats: int, block_candles: int, seed: int
) -> Iterator[NDArray[np.float32]]:
    """Yield the features with one of them shuffled, ``n_repeats`` times for each in turn.

    The yielded array is one of its own.
    """
    n_candles, n_features = features.shape
    block = max(1, min(block_candles, n_candles // 4))
    for feature in range(n_features):
        for repeat in range(n_repeats):
            # The same order for every feature, so that they differ in what they tell alone.
            rng = np.random.default_rng((seed, repeat))
            result = features.copy()
            result[:, feature] = features[_block_order(rng, n_candles, block), feature]
            yield result


def _block_order(rng: np.random.Generator, n_candles: int, block: int) -> NDArray[np.int64]:
    """Return a permutation of the rows that keeps ``block`` neighbours together."""
    cuts = np.arange(int(rng.integers(1, block + 1)), n_candles, block)
    blocks = np.split(np.arange(n_candles), cuts)
    return np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])


class _Asked:
    """A policy that is asked no more than a trader would ask it: what it decides, by position.

    Without a position there is something to decide where an entry is valid, and in a trade from
    its entry until the rules end it.
    """

    def __init__(self, policy: Policy, prepared: PreparedMarket) -> None:
        self.policy, self.prepared = policy, prepared
        has_choice = valid_actions(prepared)[:, Side.FLAT + 1].sum(axis=1) > 1
        has_choice[: prepared.first_row] = False
        self._entries = np.flatnonzero(has_choice)
        # One that sees its position is asked again at every candle of a trade.
        self._chains = None if policy.settings.add_state_info else chains_of(prepared)

    def decisions(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return ``decisions_by_side`` where they may matter; they do not keep to it elsewhere."""
        chances = np.full((len(features), N_ACTIONS), 1.0 / N_ACTIONS)
        self._ask(features, self._entries, chances)
        decided = decisions_by_side(chances, self.prepared)
        if self._chains is None:
            return decided
        in_trade = _rows_of_trades(self._chains, decided[:, Side.FLAT + 1])
        in_trade[self._entries] = False  # known already
        self._ask(features, np.flatnonzero(in_trade), chances)
        return decisions_by_side(chances, self.prepared)

    def _ask(
        self,
        features: NDArray[np.float32],
        rows: NDArray[np.int64],
        chances: NDArray[np.float64],
    ) -> None:
        length = self.policy.window_shape[0]
        windows = sliding_window_view(features, length, axis=0).transpose(0, 2, 1)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            states = np.broadcast_to(flat_state(), (len(some), len(flat_state())))
            chances[some] = self.policy.probabilities_of(windows[some + 1 - length], states)


def _rows_of_trades(chains: Chains, decided: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the rows at which trades may be open that are entered at some rows, shape (T,)."""
    change = np.zeros(chains.n_rows + 1, dtype=np.int64)
    for side, enter in enumerate((Action.LONG_ENTER, Action.SHORT_ENTER)):
        rows = np.flatnonzero((decided == enter) & (chains.chain_at[:, side] >= 0))
        own = chains.chain_at[rows, side]
        ends = rows + 1 + chains.starts[own + 1] - chains.starts[own]
        # Where a trade goes on in another chain, it may last to the end.
        ends = np.where(chains.continues[own] >= 0, chains.n_rows, ends)
        np.add.at(change, rows + 1, 1)
        np.add.at(change, np.minimum(ends, chains.n_rows), -1)
    return np.asarray(np.cumsum(change[:-1]) > 0)


def _log_returns(asked: _Asked, versions: Sequence[NDArray[np.float32]]) -> list[float]:
    """Return the log return of the policy on each version of the features, as ``simulate`` does."""
    policy, prepared, n_runs = asked.policy, asked.prepared, len(versions)
    decided = np.empty((n_runs, len(prepared), 3), dtype=np.int8)
    for run, features in enumerate(versions):
        decided[run] = asked.decisions(features)
    if not policy.settings.add_state_info:
        return [run.log_return for run in play_decided(prepared, decided)]
    confidence = prepared.rules.exit_confidence
    runs = np.arange(n_runs)

    def choose(
        row: int, states: NDArray[np.void], extras: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        sides = states["side"]
        actions: NDArray[np.int64] = decided[runs, row, sides + 1].astype(np.int64)
        if sides.any():
            held = np.flatnonzero(sides)
            length = policy.window_shape[0]
            windows = np.stack([versions[run][row + 1 - length : row + 1] for run in held.tolist()])
            chances = policy.probabilities_of(windows, extras[held, :-N_ACTIONS])
            masked = masked_probabilities(chances, extras[held, -N_ACTIONS:] > 0.0)
            leave = np.where(sides[held] == Side.LONG, Action.LONG_EXIT, Action.SHORT_EXIT)
            is_sure = np.take_along_axis(masked, leave[:, None], axis=1)[:, 0] > confidence
            actions[held] = np.where(is_sure, leave, Action.NEUTRAL)
        return actions

    return [run.log_return for run in play(prepared, choose, n_runs)]
