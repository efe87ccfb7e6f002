from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mtf_scalper.errors import SettingsError
from mtf_scalper.market.planted import (
    MIN_FEATURES,
    PlantedKind,
    PlantedMarket,
    planted_market,
)
from mtf_scalper.market.planted_reference import reference_targets, reference_thresholds
from mtf_scalper.settings import Settings, TradeRules
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import Action

KINDS = list(PlantedKind)
SIGNAL_KINDS = [kind for kind in KINDS if kind is not PlantedKind.NONE]


def played(planted: PlantedMarket, targets: np.ndarray) -> float:
    """Return the log return after fees of holding ``targets``, decided by the reference env."""
    rules = TradeRules(entry="any", max_training_drawdown=None)
    env = ReferenceEnv(planted.market, Settings(window_size=1, rules=rules))
    env.reset(options={"row": 0})
    terminated = False
    while not terminated:
        wanted, held = int(targets[env.row]), int(env.side)
        assert wanted * held >= 0  # never from long to short in one step
        action = Action.NEUTRAL
        if wanted and not held:
            action = Action.LONG_ENTER if wanted > 0 else Action.SHORT_ENTER
        elif held and not wanted:
            action = Action.LONG_EXIT if held > 0 else Action.SHORT_EXIT
        _, _, terminated, _, _ = env.step(action)
    return float(np.log(env.equity))


def open_returns(planted: PlantedMarket) -> np.ndarray:
    """Return log(open[t+2] / open[t+1]) for the rows 0 .. T-3."""
    return np.diff(np.log(planted.market.ohlc[1:, 0]))


@pytest.mark.parametrize("kind", KINDS)
def test_same_arguments_give_the_same_market_and_another_seed_another(kind):
    one, again, other = (planted_market(kind, seed, 500) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.market.features, again.market.features)
    np.testing.assert_array_equal(one.market.ohlc, again.market.ohlc)
    np.testing.assert_array_equal(one.expected_return, again.expected_return)
    assert not np.isclose(one.market.features, other.market.features).any(axis=0).all()
    assert not np.array_equal(one.market.ohlc, other.market.ohlc)


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_market_begins_with_the_rows_of_a_shorter_one(kind):
    short, long = (planted_market(kind, 5, n, entry_share=0.08) for n in (700, 3000))
    for name in ("features", "ohlc", "entry_long", "entry_short"):
        np.testing.assert_array_equal(
            getattr(short.market, name), getattr(long.market, name)[:700], err_msg=name
        )
    np.testing.assert_array_equal(short.expected_return, long.expected_return[:700])
    np.testing.assert_array_equal(reference_targets(short), reference_targets(long)[:700])


@pytest.mark.parametrize("kind", SIGNAL_KINDS)
def test_reference_earns_on_every_signal(kind):
    for seed in range(3):
        planted = planted_market(kind, seed)
        assert 0.5 < played(planted, reference_targets(planted)) < 3.0


def test_reference_does_not_trade_without_a_signal():
    planted = planted_market("none", 0)
    targets = reference_targets(planted)
    assert not targets.any()
    assert played(planted, targets) == 0.0
    assert np.isinf(reference_thresholds(planted).enter)


@pytest.mark.parametrize("kind", SIGNAL_KINDS)
def test_reference_does_not_see_the_future(kind):
    planted = planted_market(kind, 1, 2000)
    later = planted.expected_return.copy()
    later[1200:] *= -3.0
    changed = reference_targets(replace(planted, expected_return=later))
    expected = reference_targets(planted)
    np.testing.assert_array_equal(changed[:1200], expected[:1200])
    assert not np.array_equal(changed[1200:], expected[1200:])


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"kind": "linaer"}, "kind"),
        ({"seed": -1}, "seed"),
        ({"n_candles": 2}, "n_candles"),
        ({"n_features": MIN_FEATURES - 1}, "n_features"),
        ({"fee_rate": 0.1}, "fee_rate"),
        ({"fee_rate": float("nan")}, "fee_rate"),
        ({"entry_share": 0.0}, "entry_share"),
        ({"entry_share": 1.0}, "entry_share"),
        ({"mapping_seed": -1}, "mapping_seed"),
    ],
)
def test_bad_argument_is_named_in_one_line(values, name):
    with pytest.raises(SettingsError, match=rf"^{name}: .+ must be [^\n]+$"):
        planted_market(**{"kind": "linear", "seed": 0, **values})
