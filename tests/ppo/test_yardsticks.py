"""Yardsticks that public trading agents fail, learned with the defaults and nothing else.

What was measured with seeds 1 to 5, of candles and of learning, traded on 3,000 others
(``python benchmarks/yardsticks.py``; the share is that of the reference):

- leaked futures, 5,000 candles: 0.952 0.955 0.960 0.953 0.953 of the optimum in hindsight
- leaked futures, 2,000 candles: 0.954 0.944 0.954 0.948 0.948
- noisy sine, 3,000 candles: 1.057 1.048 1.051 1.047 1.039 of who knows the signal without noise
- slopes and sines, 3,000 candles: 0.828 0.890 0.856 0.902 0.938

The sine's policies earn more than who knows the sine, because the noise of a close is undone by the
next. The first seeds run here; bounds are the requirement (95% of the optimum; with 2,000 candles
of the median of three) or lie well below the worst seed.
"""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mtf_scalper.settings import Settings
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.worlds.yardsticks import leaked_market, sine_market, slopes_market


@pytest.fixture(scope="module")
def yardsticks() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "yardsticks.py"
    spec = importlib.util.spec_from_file_location("yardsticks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("n_candles", "seeds"), [(5000, (1,)), (2000, (1, 2, 3))])
def test_leaked_futures_are_traded_near_the_optimum(
    n_candles: int, seeds: tuple[int, ...], yardsticks: ModuleType
) -> None:
    found = [yardsticks.learned("leaked futures", n_candles, seed) for seed in seeds]
    assert statistics.median(each["share"] for each in found) >= 0.95
    for each in found:
        assert each["share"] >= 0.93
        assert each["reference"] > 5.0
        assert each["log_return"] > each["hold"] + 5.0


@pytest.mark.parametrize(("name", "least"), [("sine", 0.95), ("slopes and sines", 0.7)])
def test_noisy_waves_and_slopes_are_learned(
    name: str, least: float, yardsticks: ModuleType
) -> None:
    found = yardsticks.learned(name, 3000, 1)
    assert found["share"] >= least
    assert found["log_return"] > found["hold"] + 1.0


def test_the_first_leaked_feature_is_what_a_position_taken_then_gets() -> None:
    market = leaked_market(3, 50)
    opens = np.log(market.ohlc[:, 0])
    for ahead in (1, 5):
        later = opens[ahead + 1 :] - opens[ahead:-1]
        np.testing.assert_allclose(market.features[: 49 - ahead, ahead - 1], later, atol=1e-7)


@pytest.mark.parametrize("make", [sine_market, slopes_market])
def test_ordinary_features_are_of_past_closes_and_the_reference_is_below_the_optimum(
    make, yardsticks: ModuleType
) -> None:
    whole, other = make(4, 600), make(5, 600)
    assert not np.array_equal(whole.market.ohlc, other.market.ohlc)
    close = np.log(whole.market.ohlc[:, 3])
    np.testing.assert_allclose(whole.market.features[34:, 7], close[34:] - close[:-34], atol=1e-7)
    settings = Settings()
    reference = yardsticks.known(whole, settings).log_return
    assert 0.0 < reference < oracle(whole.market, settings).log_return
