"""A trained policy: batched probabilities over a market, and the trades that it makes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from stable_baselines3 import PPO

from mtf_scalper.errors import MarketError
from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.masks import masked_action
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import N_ACTIONS, Trade

__all__ = ["Policy", "Simulation", "observed_batch_sizes", "simulate"]


@contextlib.contextmanager
def observed_batch_sizes(model: PPO) -> Iterator[list[int]]:
    """Yield a list that gets the rows of every batch that enters the model's network."""
    sizes: list[int] = []

    def note(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        sizes.append(len(inputs[0]))

    hook = model.policy.features_extractor.register_forward_pre_hook(note)
    try:
        yield sizes
    finally:
        hook.remove()


class Policy:
    """A network that maps windows of features to probabilities of the five actions.

    Parameters
    ----------
    model : stable_baselines3.PPO
        With a Discrete(5) action space and windows of shape (window, F) as observations.
    settings : Settings
        The settings that it was trained with.
    """

    def __init__(self, model: PPO, settings: Settings) -> None:
        self.model = model
        self.settings = settings

    @property
    def window_shape(self) -> tuple[int, int]:
        """Shape (window, F) of one observation."""
        shape = self.model.observation_space.shape
        assert shape is not None
        return int(shape[0]), int(shape[1])

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of every action at every row.

        Up to ``settings.inference_batch_size`` windows go through the network at once.

        Parameters
        ----------
        features : ndarray of float32, shape (T, F)

        Returns
        -------
        ndarray of float64, shape (T, 5)
            Row ``t`` belongs to the window ``t - window + 1 .. t``; the first ``window - 1`` rows
            have no full window and are NaN.

        Raises
        ------
        MarketError
            If the number of features is not that of the policy.
        """
        window, n_features = self.window_shape
        features = np.asarray(features, dtype=np.float32)
        if features.ndim != 2 or features.shape[1] != n_features:
            raise MarketError(
                f"the policy was trained on {n_features} features, got shape {features.shape}"
            )
        result = np.full((len(features), N_ACTIONS), np.nan)
        if len(features) < window:
            return result
        windows = sliding_window_view(features, window, axis=0).transpose(0, 2, 1)
        size = self.settings.inference_batch_size
        policy = self.model.policy
        policy.set_training_mode(False)
        with torch.inference_mode():
            for start in range(0, len(windows), size):
                # A copy in any case: torch does not take the read-only arrays of a market.
                batch = np.array(windows[start : start + size], order="C")
                observations = torch.from_numpy(batch).to(self.model.device)
                probabilities = policy.get_distribution(observations).distribution.probs  # type: ignore[union-attr]
                rows = slice(window - 1 + start, window - 1 + start + len(batch))
                result[rows] = probabilities.cpu().numpy()
        return result

    def save(self, path: Path) -> None:
        """Write a checkpoint that stock ``PPO.load`` reads as well."""
        self.model.save(path)

    @classmethod
    def load(cls, path: Path, settings: Settings) -> Policy:
        """Read a checkpoint."""
        return cls(PPO.load(path, device="cpu"), settings)


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
    """

    trades: tuple[Trade, ...]
    equity: NDArray[np.float64]
    actions: NDArray[np.int64]

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


def simulate(
    policy: Policy, market: Market, settings: Settings | None = None, exit_threshold: float = 0.5
) -> Simulation:
    """Let ``policy`` trade ``market`` from the first full window to the end.

    Parameters
    ----------
    policy : Policy
    market : Market
    settings : Settings, optional
        Rules of the trades; those that the policy was trained with by default. What concerns
        training episodes only (where they start, the drawdown that ends them) does not apply.
    exit_threshold : float
        Probability among valid actions from which an exit is taken.
    """
    settings = settings or policy.settings
    rules = settings.rules.changed(max_training_drawdown=None)
    env = ReferenceEnv(market, settings.changed(rules=rules))
    probabilities = policy.probabilities(market.features)
    equity = np.ones(len(market))
    actions = np.zeros(len(market), dtype=np.int64)
    env.reset(options={"row": settings.window_size - 1})
    terminated = False
    while not terminated:
        row = env.row
        action = masked_action(probabilities[row], env.action_masks(), exit_threshold)
        _, _, terminated, _, info = env.step(action)
        actions[row] = info["executed"]
        equity[env.row] = info["equity"]
    equity[env.row :] = env.equity
    return Simulation(tuple(env.trades), equity, actions)
