"""stable-baselines3's rollout buffer, made when a rollout begins and not with the model.

A training with exact advantages makes a model and collects no rollout; neither does a prediction.
"""

from __future__ import annotations

from stable_baselines3.common.buffers import RolloutBuffer


class LateRolloutBuffer(RolloutBuffer):
    """Takes no memory until ``collect_rollouts`` resets it."""

    _is_made = False

    def reset(self) -> None:
        """Allocate, but for the call of the constructor."""
        if self._is_made:
            super().reset()
        self._is_made = True
