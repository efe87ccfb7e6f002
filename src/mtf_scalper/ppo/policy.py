"""A trained policy: batched probabilities over a market, and the trades that it makes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from stable_baselines3 import PPO

from mtf_scalper.errors import MarketError, SettingsError
from mtf_scalper.market.market import Market
from mtf_scalper.market.names import check_names, column_names
from mtf_scalper.ppo.finite import first_not_finite
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.ppo.model_files import read_model, write_tensors
from mtf_scalper.ppo.rebuilt import weights_digest
from mtf_scalper.ppo.team import team
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.masks import masked_action, masked_probabilities
from mtf_scalper.simulator.observation import (
    age_limit,
    flat_state,
    n_state_inputs,
    position_state,
)
from mtf_scalper.simulator.playback import Simulation, play, play_decided, valid_actions
from mtf_scalper.simulator.prepared import PreparedMarket, prepare
from mtf_scalper.simulator.types import N_ACTIONS, Action, Side, five_actions


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


def remember_features(model: PPO, names: tuple[str, ...]) -> None:
    """Note the names of the features that a model was trained on; its checkpoints keep them."""
    # stable-baselines3 saves a model's attributes, and sets them when it loads.
    model.feature_names = list(names)  # type: ignore[attr-defined]


def remembered_features(model: PPO) -> tuple[str, ...]:
    """Return the names that ``remember_features`` noted; empty for older checkpoints."""
    return tuple(getattr(model, "feature_names", ()))


_MOST_SPREAD = 690.0
"""Difference of two logits whose probabilities are still numbers beside each other: exp(-690)."""


class Policy:
    """A network that maps what the agent sees to probabilities of the five actions.

    Parameters
    ----------
    model : stable_baselines3.PPO
        With ``MaskedPolicy`` over observations as ``simulator.observation`` describes them.
    settings : Settings
        The settings that it was trained with.

    Attributes
    ----------
    feature_names : tuple of str
        Features of the training in the network's order; empty where the checkpoint is older than
        that they are noted.

    Raises
    ------
    SettingsError
        If the model is not made for such observations, or has weights that are not finite.
    """

    feature_names: tuple[str, ...] = ()

    def __init__(self, model: PPO, settings: Settings) -> None:
        self.model = model
        self.feature_names = remembered_features(model)
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
        bad = first_not_finite(model.policy.state_dict())
        if bad is not None:
            raise SettingsError(f"the checkpoint has infinite or NaN weights in {bad!r}")
        self.window_shape: tuple[int, int] = (window, n_market // window)

    @property
    def n_members(self) -> int:
        """Networks whose probabilities are averaged."""
        policy = self.model.policy
        assert isinstance(policy, MaskedPolicy)
        return policy.n_members

    def check_features(self, names: Sequence[str], pair: str) -> None:
        """Compare features by name and order with those of the training.

        Raises
        ------
        MarketError
            Names the pair and the first feature that is missing, unknown or moved.
        """
        cure = "give the features of the policy's training, in their order"
        check_names(self.feature_names, names, pair, cure)

    def check_width(self, features: NDArray[np.float32]) -> None:
        """Compare the shape of features, (T, F), with that of the training's.

        Raises
        ------
        MarketError
            If there are more or fewer of them.
        """
        n_features = self.window_shape[1]
        if features.ndim != 2 or features.shape[1] != n_features:
            raise MarketError(
                f"the policy was trained on {n_features} features, got shape {features.shape}"
            )

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of every action at every row, for an agent without a position.

        Up to ``settings.inference_batch_size`` windows go through the network at once. What an
        ensemble says is the mean of its members.

        Parameters
        ----------
        features : ndarray of float32, shape (T, F)
            Of a DataFrame the names of the columns are compared with those of the training.

        Returns
        -------
        ndarray of float64, shape (T, 5)
            Row ``t`` belongs to the window ``t - window + 1 .. t``; the first ``window - 1`` rows
            have no full window and are NaN. No mask is applied: see ``masked_probabilities``.

        Raises
        ------
        MarketError
            If the features are not those of the policy.
        """
        return np.asarray(self.member_probabilities(features).mean(axis=0))

    @team()
    def member_probabilities(
        self, features: NDArray[np.float32], side: Side = Side.FLAT
    ) -> NDArray[np.float64]:
        """Return what each member of the ensemble says by itself, shape (n_members, T, 5).

        See ``probabilities``; a policy of one seed has one member. With ``side`` the agent is in a
        trade of that side, one candle old and without profit; only one with ``add_state_info``
        sees it.
        """
        window = self.window_shape[0]
        names = column_names(features)
        features = np.asarray(features, dtype=np.float32)
        if names:
            self.check_features(names, "features")
        self.check_width(features)
        result = np.full((self.n_members, len(features), N_ACTIONS), np.nan)
        if len(features) < window:
            return result
        windows = sliding_window_view(features, window, axis=0).transpose(0, 2, 1)
        size = self.settings.inference_batch_size
        state = _young_trade(side, self.settings)[: n_state_inputs(self.settings)]
        for start in range(0, len(windows), size):
            batch = windows[start : start + size]
            rows = slice(window - 1 + start, window - 1 + start + len(batch))
            result[:, rows] = self._through(batch, state)
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
        window = features[row + 1 - self.window_shape[0] : row + 1]
        chances: NDArray[np.float64] = self.probabilities_of(window[None], state[None])[0]
        return chances

    @team()
    def probabilities_of(
        self, windows: NDArray[np.float32], states: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Return the probability of every action for N windows, each in a position of its own.

        Parameters
        ----------
        windows : ndarray of float32, shape (N, window, F)
        states : ndarray of float32, shape (N, 5)
            See ``probabilities_in``.

        Returns
        -------
        ndarray of float64, shape (N, 5)
        """
        seen = states[:, : n_state_inputs(self.settings)]
        return np.asarray(self._through(windows, seen).mean(axis=0))

    def _through(
        self, windows: NDArray[np.float32], state: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Return members' probabilities, (n_members, N, 5), for windows (N, window, F).

        ``state`` is that of all windows, or of each by itself, shape (N, S).
        """
        policy = self.model.policy
        assert isinstance(policy, MaskedPolicy)
        if policy.training:  # asking takes a tenth of the time of setting it in every layer
            policy.set_training_mode(False)
        length = self.window_shape[0] * self.window_shape[1]
        inputs = np.empty((len(windows), length + state.shape[-1]), dtype=np.float32)
        inputs[:, :length] = windows.reshape(len(windows), length)
        inputs[:, length:] = state
        with torch.inference_mode():
            logits = policy.member_logits(torch.from_numpy(inputs).to(self.model.device))
            chances = _chances(logits.cpu().double()).numpy()
        return np.asarray(chances[:, :, self._actions])

    def save(self, path: Path) -> None:
        """Write a checkpoint; stock ``PPO.load`` reads all but files that end in .safetensors."""
        if path.suffix == ".safetensors":
            write_tensors(path, self.model)
        else:
            self.model.save(path)

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, in hex."""
        return weights_digest(self.model.policy)

    @classmethod
    def load(cls, path: Path, settings: Settings) -> Policy:
        """Read a checkpoint of either kind; nothing that stands in it is run.

        Raises
        ------
        SettingsError
            If it is damaged, its weights are not finite, or made for other settings; names the
            file.
        """
        model = read_model(path)
        try:
            return cls(model, settings)
        except SettingsError as error:
            raise SettingsError(f"{path}: {error}") from None


def _chances(logits: torch.Tensor) -> torch.Tensor:
    """Return probabilities of which none is zero, for logits (..., 5) in double precision.

    The mask comes after them: where a policy is so sure of an action that is not valid that those
    which are valid have no probability left, nothing would be known of what it prefers among them.
    Logits further apart than doubles can tell are drawn together, in the same order.
    """
    spread = logits.amax(dim=-1, keepdim=True) - logits.amin(dim=-1, keepdim=True)
    return torch.softmax(logits * (_MOST_SPREAD / spread).clamp(max=1.0), dim=-1)


def _young_trade(side: Side, settings: Settings) -> NDArray[np.float32]:
    """Return the state of a trade after one candle at the price of its entry, shape (5,)."""
    if side is Side.FLAT:
        return flat_state()
    return position_state(
        side,
        1.0,
        1.0,
        1.0,
        1.0,
        age_candles=1,
        age_limit=age_limit(settings),
        fee_rate=0.0,
        leverage=1.0,
    )


def simulate(
    policy: Policy,
    market: Market,
    settings: Settings | None = None,
    exit_threshold: float | None = None,
) -> Simulation:
    """Let ``policy`` trade ``market`` from the first full window to the end.

    Parameters
    ----------
    policy : Policy
    market : Market
    settings : Settings, optional
        Rules of the trades; those that the policy was trained with by default. What concerns
        training episodes only (where they start, the drawdown that ends them) does not apply.
    exit_threshold : float, optional
        In place of the rules' ``exit_confidence``.

    Raises
    ------
    MarketError
        If the market has other features than the training had, or is too short.
    """
    policy.check_features(market.feature_names, market.pair)
    settings = settings or policy.settings
    if exit_threshold is not None:
        rules = settings.rules.changed(exit_confidence=exit_threshold)
        settings = settings.changed(rules=rules)
    prepared = prepare(market, settings)
    probabilities = policy.probabilities(market.features)
    decisions = decisions_by_side(probabilities, prepared)

    def choose(
        row: int, states: NDArray[np.void], extras: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        side = int(states["side"][0])
        if side == Side.FLAT:
            return decisions[row, side + 1 : side + 2]
        state, mask = extras[0, :-N_ACTIONS], extras[0, -N_ACTIONS:] > 0.0
        chances = policy.probabilities_in(market.features, row, state)
        return np.array([masked_action(chances, mask, prepared.rules.exit_confidence)])

    sees_position = policy.settings.add_state_info
    (run,) = play(prepared, choose) if sees_position else play_decided(prepared, decisions[None])
    return replace(run, entries=decisions[:, Side.FLAT + 1].copy())


def decisions_by_side(
    probabilities: NDArray[np.float64],
    prepared: PreparedMarket,
) -> NDArray[np.int64]:
    """Return what is decided at every row in every position, by the network's probabilities there.

    Parameters
    ----------
    probabilities : ndarray of float64, shape (T, 5)
        From ``Policy.probabilities``.
    prepared : PreparedMarket

    Returns
    -------
    ndarray of int64, shape (T, 3)
        ``masked_action`` by row and ``side + 1``; 0 in rows without a full window.
    """
    first_row = prepared.first_row
    valid = valid_actions(prepared)[first_row:]
    chances = masked_probabilities(probabilities[first_row:, None], valid)
    decisions = np.zeros((len(prepared), 3), dtype=np.int64)
    decisions[first_row:, Side.FLAT + 1] = chances[:, Side.FLAT + 1].argmax(axis=1)
    for side, leave in ((Side.LONG, Action.LONG_EXIT), (Side.SHORT, Action.SHORT_EXIT)):
        leaves = chances[:, side + 1, leave] > prepared.rules.exit_confidence
        decisions[first_row:, side + 1] = np.where(leaves, leave, Action.NEUTRAL)
    return decisions
