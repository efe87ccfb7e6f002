"""PPO with exact advantages: evaluate the policy, then improve it on minibatches of candles.

What is judged and kept is an exponential moving average of the weights (Polyak and Juditsky 1992,
"Acceleration of stochastic approximation by averaging"): the market's noise is the same in every
pass, and the weights of any one moment follow it more than their mean does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy

from mtf_scalper.errors import LearningError
from mtf_scalper.ppo.contexts import Book
from mtf_scalper.ppo.exact_networks import JoinedNetwork, WindowNetwork, network_of
from mtf_scalper.ppo.finite import check_learned
from mtf_scalper.ppo.rounded import has_bfloat16_units
from mtf_scalper.ppo.surrogate import (
    LOSSES,
    Targets,
    gather_contexts,
    probabilities_of,
    surrogate_gradients,
)
from mtf_scalper.ppo.team import team
from mtf_scalper.settings import MatmulPrecision, Settings
from mtf_scalper.simulator.advantages import Evaluation, PolicyTable
from mtf_scalper.simulator.by_side import SideEvaluation, SideTable
from mtf_scalper.simulator.chains import Chains

Floats = NDArray[np.float64]

_ROWS_PER_PASS = 1024
"""Candles that go through the network at once where nothing is learned."""


@dataclass(frozen=True)
class Score:
    """What the most probable actions of a policy earn, from the first full window to the end.

    Attributes
    ----------
    log_return : float
        Sum of the rewards; with the default reward the log of the final equity.
    n_trades : int
    rewards : ndarray of float64, shape (T,)
        Reward of the step that each row decides, of all markets one after the other.
    """

    log_return: float
    n_trades: int
    rewards: Floats

    def __add__(self, other: Score) -> Score:
        """Return the score on the candles of both."""
        return Score(
            self.log_return + other.log_return,
            self.n_trades + other.n_trades,
            np.concatenate([self.rewards, other.rewards]),
        )

    def error_of_difference(self, other: Score) -> float:
        """Return the standard error of the difference between two scores on the same candles.

        Returns of different candles are next to uncorrelated.
        """
        # NumPy's norm would add in another order with another number of threads.
        return float(np.sqrt(((self.rewards - other.rewards) ** 2).sum()))


class ExactLearner:
    """Improves a policy on a book of contexts.

    Parameters
    ----------
    policy : ActorCriticPolicy
        A ``MaskedPolicy``, or a ``PositionPolicy`` where the book sees positions; its weights
        change in place.
    book : Book
    settings : Settings
        Uses the settings of PPO.
    seed : int
        Of the order of minibatches and of what is left out.
    """

    def __init__(
        self, policy: ActorCriticPolicy, book: Book, settings: Settings, seed: int = 0
    ) -> None:
        self._book = book
        self._settings = settings
        rows = max(settings.batch_size, _ROWS_PER_PASS)
        is_rounded = (
            settings.float32_matmul_precision is MatmulPrecision.MEDIUM and has_bfloat16_units()
        )
        self._network = network_of(policy, rows, settings.dropout, is_rounded=is_rounded)
        self._random = np.random.default_rng(seed)
        self._thinning = self._random if settings.dropout else None
        self._average = self._network.storage.weights.detach().clone()
        self._n_steps = 0

    @team()
    def cycle(self, fee_share: float) -> dict[str, float]:
        """Evaluate the policy, improve it over ``n_epochs`` epochs, and return the losses.

        Parameters
        ----------
        fee_share : float
            Share of the fees that counts, in [0, 1].
        """
        book, settings = self._book, self._settings
        probabilities = probabilities_on(self._network, book)
        tables = book.tables(probabilities)
        evaluations = book.evaluate(tables, settings.gamma, fee_share)
        objective = sum(evaluation.objective for evaluation in evaluations)
        if not np.isfinite(objective):
            raise LearningError(
                f"{book.pairs}: reward {str(settings.reward)!r} adds up to {objective}; "
                "it has to be finite at every candle"
            )
        targets = book.targets(probabilities, evaluations)
        del tables, evaluations
        if settings.normalize_advantage:
            targets = _normalized(targets)
        counts = np.add.reduceat(targets.weights, book.starts[:-1])
        candles = np.flatnonzero(counts > 0.0)
        self._network.storage.set_learning_rate(settings.used_learning_rate)
        sums, n_batches = np.zeros(len(LOSSES)), 0
        for _ in range(settings.used_n_epochs):
            order = self._random.permutation(candles)
            for start in range(0, len(order), settings.batch_size):
                losses = self._minibatch(order[start : start + settings.batch_size], targets)
                sums += losses
                n_batches += 1
                if settings.target_kl is not None and losses[2] > 1.5 * settings.target_kl:
                    break
                self._step()
            else:
                continue
            break
        self._network.storage.show_steps()
        learned = {"weights": self._network.storage.weights, "average weights": self._average}
        check_learned(book.pairs, learned, settings)
        means = (sums / max(n_batches, 1)).tolist()
        return {**dict(zip(LOSSES, means, strict=True)), "objective": objective}

    def _step(self) -> None:
        """Take one step of Adam and let the average follow, the faster the earlier it is."""
        self._network.storage.step(self._settings.max_grad_norm)
        decay = min(self._settings.weight_average, (1 + self._n_steps) / (10 + self._n_steps))
        self._average.lerp_(self._network.storage.weights.data, 1.0 - decay)
        self._n_steps += 1

    @property
    def book(self) -> Book:
        """What is learned on."""
        return self._book

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the policy have the average of its weights, which is what is judged and kept."""
        weights = self._network.storage.weights.data
        latest = weights.clone()
        weights.copy_(self._average)
        try:
            yield
        finally:
            weights.copy_(latest)

    def _minibatch(self, candles: NDArray[np.int64], targets: Targets) -> Floats:
        """Write the gradients of a minibatch of candles and return its losses."""
        book, settings = self._book, self._settings
        room = int((book.starts[candles + 1] - book.starts[candles]).sum())
        contexts, owners = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
        n_contexts = gather_contexts(candles, book.starts, contexts, owners, targets.weights)
        contexts, owners = contexts[:n_contexts], owners[:n_contexts]
        position = book.position[contexts]
        rows = book.rows[candles]
        logits = self._network.forward(book.features, rows, owners, position, self._thinning)
        gradient, losses = np.empty_like(logits), np.empty(len(LOSSES))
        surrogate_gradients(
            logits,
            contexts,
            targets,
            1.0 / len(candles),
            settings.clip_range,
            settings.ent_coef,
            gradient,
            losses,
        )
        self._network.backward(gradient, owners, len(rows))
        return losses

    @team()
    def score(self, book: Book) -> Score:
        """Return what the most probable actions earn on a book with the weights of the moment."""
        confidence = self._settings.rules.exit_confidence
        return score(book, probabilities_on(self._network, book), confidence)


def probabilities_on(network: WindowNetwork | JoinedNetwork, book: Book) -> Floats:
    """Return the probabilities of a network at all contexts of a book, shape (K, 3)."""
    probabilities = np.empty((book.n_contexts, 3))
    for start in range(0, len(book.rows), network.batch_size):
        rows = book.rows[start : start + network.batch_size]
        starts = book.starts[start : start + len(rows) + 1]
        contexts = slice(starts[0], starts[-1])
        owners = np.repeat(np.arange(len(rows)), np.diff(starts))
        logits = network.forward(book.features, rows, owners, book.position[contexts])
        probabilities_of(
            logits, book.kinds[contexts], book.valid[contexts], probabilities[contexts]
        )
    return probabilities


def score(book: Book, probabilities: Floats, exit_confidence: float = 0.5) -> Score:
    """Return what a policy earns on a book that acts as ``masks.masked_action`` does."""
    leaves = probabilities[:, 1] > exit_confidence
    chosen = np.where(book.kinds == 0, np.argmax(probabilities, axis=1), leaves)
    greedy = np.zeros_like(probabilities)
    greedy[np.arange(len(chosen)), chosen] = 1.0
    tables = book.tables(greedy)
    evaluations = book.evaluate(tables, gamma=1.0)
    visits = [
        _visits(chains, table, evaluation)
        for chains, table, evaluation in zip(book.chains, tables, evaluations, strict=True)
    ]
    return Score(
        log_return=sum(each.objective for each in evaluations),
        n_trades=round(sum(entries for entries, _ in visits)),
        rewards=np.concatenate([rewards for _, rewards in visits]),
    )


def _visits(
    chains: Chains, table: PolicyTable | SideTable, evaluation: Evaluation | SideEvaluation
) -> tuple[float, Floats]:
    """Return the expected entries, and the expected reward of each row's step, shape (T,)."""
    rows, sides = np.nonzero(chains.chain_at >= 0)
    entries = (evaluation.flat_occupancy[:, None] * table.flat[:, 1:])[rows, sides]
    rewards = np.bincount(
        rows, entries * chains.enter_reward[chains.chain_at[rows, sides]], chains.n_rows
    )
    return float(entries.sum()), np.asarray(rewards + evaluation.held_rewards, dtype=np.float64)


def _normalized(targets: Targets) -> Targets:
    """Return targets whose advantages have the variance 1 under the policy; their mean is 0."""
    weights = targets.weights[:, None] * targets.old
    total = weights.sum()
    if not total > 0.0:
        return targets
    weights *= targets.advantages**2
    deviation = float(np.sqrt(weights.sum() / total))
    return targets._replace(advantages=targets.advantages / (deviation + 1e-8))
