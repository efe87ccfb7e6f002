"""Weights that are no numbers are never kept, loaded or traded without a word."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtf_scalper.errors import SettingsError
from mtf_scalper.ppo.policy import Policy
from mtf_scalper.settings import Settings
from mtf_scalper.training import TrainResult, train

TINY: dict[str, Any] = {"train_cycles": 2, "net_arch": (16, 16), "window_size": 3, "cpu_count": 1}
GAE = {**TINY, "advantage": "gae", "n_envs": 2, "n_steps": 128, "batch_size": 64, "n_epochs": 2}


class Unlimited(Settings):
    """Limits of settings make a divergence rare, and not impossible."""

    learning_rate: float | None = None


def n_bad(result: TrainResult) -> int:
    weights = result.policy.model.policy.state_dict().values()
    return sum(int((~torch.isfinite(value)).sum()) for value in weights)


@pytest.mark.parametrize(
    ("ways", "named"),
    [
        (
            {**TINY, "evidence": 0.0, "learning_rate": 1e9, "net_arch": (64, 64, 64, 64)},
            "learning_rate 1e+09",
        ),
        ({**GAE, "learning_rate": 1e9}, "learning_rate 1e+09"),
        ({**GAE, "learning_rate": 1e9, "algorithm": "ppo"}, "learning_rate 1e+09"),
    ],
    ids=["exact", "gae", "ppo"],
)
@pytest.mark.parametrize("is_validated", [True, False])
def test_a_training_that_diverges_keeps_weights_from_before_and_names_the_setting(
    make_market: Any,
    caplog: pytest.LogCaptureFixture,
    ways: dict[str, Any],
    named: str,
    is_validated: bool,
) -> None:
    ways = ways if is_validated else {**ways, "validation_share": 0.0}
    held = make_market(n_candles=100, seed=1) if is_validated else None
    with caplog.at_level(logging.WARNING):
        result = train(make_market(n_candles=400), Unlimited(**ways), held)
    assert n_bad(result) == 0
    lines = [record.getMessage() for record in caplog.records if named in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("market: while learning ")
    assert lines[0].endswith(
        f"{named} is probably too large: the training ends here, and weights from before are kept"
    )
    again = train(
        make_market(n_candles=400),
        Settings(**{**ways, "learning_rate": 1e-3}),
        held,
        initial=result.policy.model,
    )
    assert n_bad(again) == 0


def test_features_at_the_end_of_float32_are_learned_from(make_market: Any) -> None:
    market = make_market(n_candles=300)
    values = np.clip(market.features, -1.0, 1.0).astype(np.float64) * 3e38
    large = type(market)(features=values, ohlc=market.ohlc)
    for ways in (TINY, GAE):
        result = train(large, Settings(**ways))
        assert n_bad(result) == 0
        assert np.isfinite(result.policy.probabilities(large.features)[2:]).all()


def test_a_checkpoint_with_nan_is_refused_by_its_name(make_market: Any, tmp_path: Path) -> None:
    policy = train(make_market(n_candles=200), Settings(**TINY)).policy
    with torch.no_grad():
        policy.model.policy.action_net.bias[1] = torch.nan
    path = tmp_path / "broken.zip"
    policy.save(path)
    with pytest.raises(SettingsError) as caught:
        Policy.load(path, policy.settings)
    expected = f"{path}: the checkpoint has infinite or NaN weights in 'action_net.bias'"
    assert str(caught.value) == expected
    with pytest.raises(SettingsError, match="the model to go on from has infinite or NaN weights"):
        train(make_market(n_candles=200), Settings(**TINY), initial=policy.model)


def test_rewards_that_are_no_numbers_are_refused(make_market: Any, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    code = "def nothing(state, parameters):\n    return float('nan')\n"
    file.write_text(f"from mtf_scalper import reward\n\n@reward\n{code}")
    settings = Settings(**TINY, reward=f"{file}:nothing")
    with pytest.raises(SettingsError, match="it returned nan, which is no finite 32-bit number"):
        train(make_market(n_candles=200), settings)
