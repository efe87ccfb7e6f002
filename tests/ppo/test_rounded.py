"""Rounded factors belong to one training: torch's own settings are neither read nor changed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from mtf_scalper.errors import SettingsError
from mtf_scalper.ppo import exact_learner, rounded
from mtf_scalper.ppo.flat_storage import Layer
from mtf_scalper.ppo.rounded import RoundedLayer, filled_rows
from mtf_scalper.ppo.team import Team
from mtf_scalper.settings import Settings
from mtf_scalper.training import train

TINY: dict[str, Any] = {
    "window_size": 4,
    "net_arch": (32, 16),
    "batch_size": 32,
    "n_epochs": 1,
    "train_cycles": 3,
    "cpu_count": 1,
    "evidence": 0.0,
}


@pytest.fixture(params=[False, True], ids=["without units", "with units"])
def has_units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the processor is taken for one with bfloat16 units; torch can do both."""
    monkeypatch.setattr(exact_learner, "has_bfloat16_units", lambda: request.param)
    return bool(request.param)


def test_products_are_those_of_factors_rounded_to_eight_bits() -> None:
    """Each factor is off by 2^-9 at most, and so is the result; three times that is allowed."""
    random = torch.Generator().manual_seed(1)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    layer = Layer(some(48, 96), some(48), torch.zeros(48, 96), torch.zeros(48))
    inputs, gradient = some(70, 96), some(70, 48)
    one, here = RoundedLayer(layer, 256), Team(1)
    output, below = torch.empty(70, 48), torch.empty(70, 96)
    one.forward(here, inputs, output)
    one.backward(here, gradient, below)
    for found, left, right, added in (
        (output, inputs, layer.weight.t(), layer.bias),
        (below, gradient, layer.weight, torch.zeros(96)),
        (layer.weight_gradient, gradient.t(), inputs, torch.zeros(96)),
    ):
        most = 3 * 2.0**-9 * (left.abs() @ right.abs()) + 1e-5
        assert bool(((found - (left @ right + added)).abs() <= most).all())
        assert not torch.equal(found, left @ right + added)


def test_a_later_smaller_batch_is_not_mixed_with_an_earlier_one() -> None:
    random = torch.Generator().manual_seed(2)
    layer = Layer(
        torch.randn(8, 5, generator=random), torch.zeros(8), torch.zeros(8, 5), torch.zeros(8)
    )
    one, fresh, here = RoundedLayer(layer, 256), RoundedLayer(layer, 256), Team(1)
    for n_rows in (200, 67):
        inputs = torch.randn(n_rows, 5, generator=random)
        gradient = torch.randn(n_rows, 8, generator=random)
        one.forward(here, inputs, torch.empty(n_rows, 8))
        one.backward(here, gradient, None)
    found = layer.weight_gradient.clone()
    fresh.forward(here, inputs, torch.empty(67, 8))
    fresh.backward(here, gradient, None)
    assert torch.equal(found, layer.weight_gradient)


def test_batches_of_any_size_make_products_of_few_shapes() -> None:
    """A kernel is compiled per shape and kept for good: memory grows by shapes, not by batches."""
    assert {filled_rows(n, 1024) for n in range(1, 1025)} == {64, 128, 256, 512, 1024}
    assert {filled_rows(n, 96) for n in range(1, 97)} == {64, 96}
    assert all(filled_rows(n, 1024) >= n for n in range(1, 1025))


def test_a_training_multiplies_a_fixed_set_of_shapes(
    make_market: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_learner, "has_bfloat16_units", lambda: True)
    shapes = set()
    affine = rounded.affine

    def noted(team: Any, out: Any, bias: Any, inputs: torch.Tensor, weight: torch.Tensor) -> None:
        shapes.add((*inputs.shape, len(weight)))
        affine(team, out, bias, inputs, weight)

    monkeypatch.setattr(rounded, "affine", noted)
    for n_candles in (150, 163, 177, 199):
        train(make_market(n_candles=n_candles), Settings(**TINY))
    rows = {shape[0] for shape in shapes}
    assert rows <= {64, 128, 256}
    # Two layers are rounded, of the whole network and of what a minibatch leaves of it.
    assert len({shape[1:] for shape in shapes}) == 4


def test_rounding_learns_about_the_same_and_only_where_it_is_asked_for(
    make_market: Any, has_units: bool
) -> None:
    market = make_market(n_candles=300)
    found = {
        precision: train(
            market,
            Settings(
                **TINY,
                validation_share=0.0,
                float32_matmul_precision=precision,
                policy_inputs="features",
            ),
        ).policy
        for precision in ("medium", "highest")
    }
    medium, highest = (policy.probabilities(market.features)[3:] for policy in found.values())
    if not has_units:
        np.testing.assert_array_equal(medium, highest)
    else:
        assert 0.0 < np.abs(medium - highest).max() < 0.1


def test_predictions_in_another_thread_and_torchs_settings_stay_as_they_are(
    make_market: Any, has_units: bool
) -> None:
    market = make_market(n_candles=200)
    left, right = torch.randn(64, 64), torch.randn(64, 64)
    before, product = torch.get_float32_matmul_precision(), left @ right
    seen = []

    def look(_progress: Any) -> None:
        seen.append((torch.get_float32_matmul_precision(), torch.equal(left @ right, product)))

    train(market, Settings(**TINY), on_progress=look)
    assert seen == [(before, True)] * len(seen) != []
    assert torch.get_float32_matmul_precision() == before


NEW_STYLE = """
import numpy as np
import torch
torch.backends.fp32_precision = "tf32"
from mtf_scalper import Market, Settings, train
rng = np.random.default_rng(0)
close = 100 * np.exp(np.cumsum(1e-3 * rng.normal(size=200)))
market = Market(features=rng.normal(size=(200, 3)), ohlc=np.repeat(close[:, None], 4, 1))
for precision in ("tf32", "ieee"):
    torch.backends.fp32_precision = precision
    train(market, Settings(train_cycles=1, net_arch=(16,), window_size=3, cpu_count=1))
    print(torch.backends.fp32_precision)
"""


def test_a_users_own_new_style_setting_is_left_alone() -> None:
    """Reading torch's older setting raises where the newer one is in use (torch 2.13)."""
    done = subprocess.run([sys.executable, "-c", NEW_STYLE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["tf32", "ieee"]


def test_the_names_of_the_precisions_are_torchs() -> None:
    with pytest.raises(SettingsError, match="float32_matmul_precision"):
        Settings(float32_matmul_precision="tf32")
