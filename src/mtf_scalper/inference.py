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

from mtf_scalper.errors import MarketError, SettingsError
from mtf_scalper.market.market import Market
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.settings import Fills, RewardName, Settings
from mtf_scalper.simulator.freqtrade_env import five_actions
from mtf_scalper.simulator.masks import masked_action
from mtf_scalper.simulator.observation import n_state_inputs
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import N_ACTIONS, Trade

__all__ = ["Policy", "Simulation", "observed_batch_sizes", "simulate"]


@contextlib.contextmanager
def observed_batch_sizes(model: PPO) -> Iterator[list[int]]:
    """Yield a list that gets the rows of every batch that enters the model's network."""
    sizes: list[int] = []

    def note(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        sizes.append(len(inputs[0]))

    network = model.policy.mlp_extractor.policy_net  # what every probability comes through
    hook = network.register_forward_pre_hook(note)
    try:
        yield sizes
    finally:
        hook.remove()


class Policy:
    """A network that maps what the agent sees to probabilities of the five actions.

    Parameters
    ----------
    model : stable_baselines3.PPO
        With ``MaskedPolicy`` over observations as ``simulator.observation`` describes them.
    settings : Settings
        The settings that it was trained with.

    Raises
    ------
    SettingsError
        If the model is not made for such observations.
    """

    def __init__(self, model: PPO, settings: Settings) -> None:
        self.model = model
        self.settings = settings
        self._actions = list(five_actions(settings.n_actions))
        shape = model.observation_space.shape or ()
        n_market = (shape[0] if len(shape) == 1 else 0) - n_state_inputs(settings)
        n_market -= settings.n_actions
        window = settings.window_size
        if not isinstance(model.policy, MaskedPolicy) or n_market < 1 or n_market % window:
            raise SettingsError(
                f"the checkpoint takes observations of shape {shape}, which is no window of "
                f"{window} candles with {n_state_inputs(settings)} numbers of the position and "
                f"{settings.n_actions} of the mask; window_size, add_state_info or n_actions "
                "differ from those of its training"
            )
        self.window_shape: tuple[int, int] = (window, n_market // window)

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of every action at every row, for an agent without a position.

        Up to ``settings.inference_batch_size`` windows go through the network at once.

        Parameters
        ----------
        features : ndarray of float32, shape (T, F)

        Returns
        -------
        ndarray of float64, shape (T, 5)
            Row ``t`` belongs to the window ``t - window + 1 .. t``; the first ``window - 1`` rows
            have no full window and are NaN. No mask is applied: see ``masked_probabilities``.

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
        state = np.zeros(n_state_inputs(self.settings), dtype=np.float32)
        for start in range(0, len(windows), size):
            batch = windows[start : start + size]
            rows = slice(window - 1 + start, window - 1 + start + len(batch))
            result[rows] = self._through(batch, state)
        return result

    def probabilities_in(
        self, features: NDArray[np.float32], row: int, state: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Return the probability of every action at one row for an agent in the given position.

        Parameters
        ----------
        features : ndarray of float32, shape (T, F)
        row : int
            At least ``window - 1``.
        state : ndarray of float32, shape (5,)
            From ``position_state``; a policy without ``add_state_info`` does not look at it.

        Returns
        -------
        ndarray of float64, shape (5,)
        """
        seen = state[: n_state_inputs(self.settings)]
        window = features[row + 1 - self.window_shape[0] : row + 1]
        probabilities: NDArray[np.float64] = self._through(window[None], seen)[0]
        return probabilities

    def _through(
        self, windows: NDArray[np.float32], state: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Return probabilities of shape (N, 5) for windows of shape (N, window, F)."""
        policy = self.model.policy
        assert isinstance(policy, MaskedPolicy)
        policy.set_training_mode(False)
        length = self.window_shape[0] * self.window_shape[1]
        inputs = np.empty((len(windows), length + len(state)), dtype=np.float32)
        inputs[:, :length] = windows.reshape(len(windows), length)
        inputs[:, length:] = state
        with torch.inference_mode():
            logits = policy.logits(torch.from_numpy(inputs).to(self.model.device))
            chances = torch.softmax(logits, dim=1).cpu().numpy()
        return np.asarray(chances[:, self._actions], dtype=np.float64)

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
    # No reward is looked at, and one of the user's own need not be there any more.
    plain = settings.changed(
        rules=rules,
        max_episode_steps=None,
        reward=RewardName.LOG_RETURN,
        fills=Fills.BACKTEST,
        n_actions=N_ACTIONS,
    )
    env = ReferenceEnv(market, plain)
    probabilities = policy.probabilities(market.features)
    equity = np.ones(len(market))
    actions = np.zeros(len(market), dtype=np.int64)
    env.reset(options={"row": settings.window_size - 1})
    terminated = False
    while not terminated:
        row = env.row
        chances = probabilities[row]
        if policy.settings.add_state_info and env.side:
            chances = policy.probabilities_in(market.features, row, env.position_state())
        action = masked_action(chances, env.action_masks(), exit_threshold)
        _, _, terminated, _, info = env.step(action)
        actions[row] = info["executed"]
        equity[env.row] = info["equity"]
    equity[env.row :] = env.equity
    return Simulation(tuple(env.trades), equity, actions)
