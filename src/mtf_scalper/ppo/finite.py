"""Weights that are no numbers: a policy of NaN trades nothing, which looks better than a loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mtf_scalper.errors import WeightsError
from mtf_scalper.settings import RewardName, Settings

_USUAL = {
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "keep_bias": 2.0,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
    "clip_range": 0.2,
    "max_grad_norm": 0.5,
}
"""Values in use; what exceeds them most is named."""
_SUSPECT = 100.0
"""Times the usual value from which a setting is suspected."""


def first_not_finite(weights: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the first weights that hold an infinity or NaN, None if all are finite."""
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            return name
    return None


def check_learned(pair: str, weights: Mapping[str, torch.Tensor], settings: Settings) -> None:
    """Refuse weights that have become infinite or NaN while learning.

    Raises
    ------
    WeightsError
        One line that names the setting that is likely to be responsible.
    """
    name = first_not_finite(weights)
    if name is not None:
        raise WeightsError(
            f"{pair}: while learning {name!r} became infinite or NaN; {_suspect(settings)}"
        )


def _suspect(settings: Settings) -> str:
    values = {name: getattr(settings, name) for name in _USUAL}
    values["learning_rate"] = settings.used_learning_rate
    times = {name: abs(values[name]) / usual for name, usual in _USUAL.items()}
    worst = max(times, key=lambda name: times[name])
    if times[worst] > _SUSPECT:
        return f"{worst} {values[worst]:g} is probably too large"
    if not isinstance(settings.reward, RewardName):
        return f"look at what reward {settings.reward!r} returns"
    return f"try a smaller learning_rate than {values['learning_rate']:g}"
