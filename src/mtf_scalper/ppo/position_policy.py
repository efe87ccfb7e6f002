"""A policy whose large network sees the market only, and whose position joins at a small head.

Many trades can be open at one candle: the window of candles is the same for all of them, and goes
through the encoder once. Profit and age of each trade join behind it:

    h = encoder(window),  logits = W2 relu(W1 h + U position + b1) + b2
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.simulator.observation import POSITION_STATE

HEAD_UNITS = 64
"""Units of the layer at which window and position meet."""


class JoinedExtractor(nn.Module):
    """Encoder of the window and the head at which the position joins.

    Parameters
    ----------
    n_window : int
        Numbers of a window; the rest of the input is the position.
    net_arch : list of int
        Layers of the encoder.
    activation_fn : type of Module
    """

    def __init__(self, n_window: int, net_arch: list[int], activation_fn: type[nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in zip([n_window, *net_arch[:-1]], net_arch, strict=True):
            layers += [nn.Linear(n_in, n_out), activation_fn()]
        self._n_window = n_window
        self.policy_net = nn.Sequential(*layers)
        self.window_to_head = nn.Linear(net_arch[-1], HEAD_UNITS)
        self.position_to_head = nn.Linear(len(POSITION_STATE), HEAD_UNITS, bias=False)
        self.latent_dim_pi = HEAD_UNITS
        self.latent_dim_vf = len(POSITION_STATE)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what policy and value function are made from."""
        return self.forward_actor(inputs), self.forward_critic(inputs)

    def forward_actor(self, inputs: Tensor) -> Tensor:
        """Return float32 of shape (N, HEAD_UNITS) for inputs of shape (N, n_window + 5)."""
        window, position = inputs[:, : self._n_window], inputs[:, self._n_window :]
        joined = self.window_to_head(self.policy_net(window)) + self.position_to_head(position)
        return torch.relu(joined)

    def forward_critic(self, inputs: Tensor) -> Tensor:
        """Return the position alone: stable-baselines3 wants a value function, nothing uses it."""
        return inputs[:, self._n_window :]


class PositionPolicy(MaskedPolicy):
    """``MaskedPolicy`` over windows, position states and masks, with one encoder per window.

    ``net_arch`` in the policy's arguments is a list: the layers of the encoder.
    """

    @property
    def _n_window(self) -> int:
        return self.features_dim - len(POSITION_STATE)

    def _build_mlp_extractor(self) -> None:
        assert isinstance(self.net_arch, list)
        extractor = JoinedExtractor(self._n_seen, self.net_arch, self.activation_fn)
        self.mlp_extractor = extractor.to(self.device)  # type: ignore[assignment]
