from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mtf_scalper.errors import SettingsError
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import Action
from mtf_scalper.worlds.planted import MIN_FEATURES, PlantedMarket, planted_market
from mtf_scalper.worlds.planted_reference import reference_targets, reference_thresholds
from mtf_scalper.worlds.planted_spec import PLANTED_SPECS, PlantedKind

KINDS = list(PlantedKind)
WINDOW = 10
SIGNAL_KINDS = [kind for kind in KINDS if kind is not PlantedKind.NONE]


def played(
    planted: PlantedMarket,
    targets: np.ndarray,
    entry: EntryMode = EntryMode.ANY,
    *,
    first_row: int = 0,
) -> float:
    """Return the log return after fees of holding ``targets`` in the reference environment."""
    rules = TradeRules(entry=entry)
    env = ReferenceEnv(planted.market, Settings(window_size=first_row + 1, rules=rules))
    env.reset(options={"row": first_row})
    terminated = False
    while not terminated:
        wanted, side = int(targets[env.row]), int(env.side)
        assert wanted * side >= 0  # never from long to short in one step
        action = Action.NEUTRAL
        if wanted and not side:
            action = Action.LONG_ENTER if wanted > 0 else Action.SHORT_ENTER
        elif side and not wanted:
            action = Action.LONG_EXIT if side > 0 else Action.SHORT_EXIT
        mask = env.action_masks()
        # No position is opened on the last candle.
        assert mask[action] or env.row + 2 == len(planted.market)
        _, _, terminated, _, _ = env.step(action)
    return float(np.log(env.equity))


def open_returns(planted: PlantedMarket) -> np.ndarray:
    """Return log(open[t+2] / open[t+1]) for the rows 0 .. T-3."""
    return np.diff(np.log(planted.market.ohlc[1:, 0]))


def last_rows(features: np.ndarray) -> np.ndarray:
    """Return the last row of each window, shape (N, F)."""
    return features[WINDOW - 1 :]


def windows(features: np.ndarray) -> np.ndarray:
    """Return all rows of each window, shape (N, F * WINDOW)."""
    views = np.lib.stride_tricks.sliding_window_view(features, WINDOW, axis=0)
    return views.reshape(len(views), -1)


def last_rows_mean(features: np.ndarray) -> np.ndarray:
    """Return the mean over the last 3 rows of each window, shape (N, F)."""
    return (features[WINDOW - 1 :] + features[WINDOW - 2 : -1] + features[WINDOW - 3 : -2]) / 3.0


def products(features: np.ndarray) -> np.ndarray:
    """Return the means over the last 3 rows, and the products of any two of them."""
    means = last_rows_mean(features)
    pairs = np.triu_indices(means.shape[1], 1)
    return np.concatenate([means, means[:, pairs[0]] * means[:, pairs[1]]], axis=1)


def forecast_correlation(
    inputs: Callable[[np.ndarray], np.ndarray], learnt_on: PlantedMarket, other: PlantedMarket
) -> float:
    """Return how a least-squares forecast of the next step goes with what can be expected."""
    known = inputs(learnt_on.market.features)[:-2]
    weights = np.linalg.lstsq(known, open_returns(learnt_on)[WINDOW - 1 :], rcond=None)[0]
    forecast = inputs(other.market.features) @ weights
    return float(np.corrcoef(forecast, other.expected_return[WINDOW - 1 :])[0, 1])


def held(planted: PlantedMarket, enter: float, leave: float) -> np.ndarray:
    """Return the positions of a trader with the given thresholds, shape (T,)."""
    sides, side = np.zeros(len(planted.expected_return)), 0
    for row, expected in enumerate(planted.expected_return.tolist()):
        if side:
            side = 0 if side * expected < leave else side
        elif abs(expected) > enter:
            side = 1 if expected > 0.0 else -1
        sides[row] = side
    return sides


def every_entry_held(planted: PlantedMarket, n_candles: int) -> np.ndarray:
    """Return the positions of a trader who takes every classic entry for ``n_candles``."""
    sides, side, left = np.zeros(len(planted.market), dtype=np.int8), 0, 0
    for row in range(len(sides)):
        left -= 1
        if side:
            side = side if left else 0
        elif planted.market.entry_long[row] or planted.market.entry_short[row]:
            side, left = 1 if planted.market.entry_long[row] else -1, n_candles
        sides[row] = side
    return sides


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


@pytest.mark.parametrize("kind", KINDS)
def test_candles_are_plausible(kind):
    planted = planted_market(kind, 2, 5000)
    opened, high, low, close = planted.market.ohlc.T
    np.testing.assert_allclose(opened[1:], close[:-1], rtol=1e-12)
    body, spread = np.abs(np.log(close / opened)), np.log(high / low)
    # A Brownian path without drift spans twice its mean absolute move, one with drift less.
    assert 1.3 < spread.mean() / body.mean() < 2.5
    assert np.abs(planted.market.features.mean(axis=0)).max() < 1.0
    deviations = planted.market.features.std(axis=0)
    assert deviations.min() > 0.3
    assert deviations.max() < 2.0


@pytest.mark.parametrize("kind", SIGNAL_KINDS)
def test_expected_return_is_the_mean_of_the_next_step_and_decays_as_told(kind):
    planted = planted_market(kind, 0, 40_000, n_features=8)
    returns, expected = open_returns(planted), planted.expected_return[:-2]
    slope = float(returns @ expected / (expected @ expected))
    # Standard error: noise over signal over sqrt(40,000), at most 0.013.
    assert slope == pytest.approx(1.0, abs=0.06)
    for lag in (1, 5):
        decay = np.corrcoef(expected[:-lag], expected[lag:])[0, 1]
        assert decay == pytest.approx(planted.spec.persistence**lag, abs=0.02)


def test_features_know_nothing_of_returns_without_a_signal():
    planted = planted_market("none", 0, 30_000)
    assert not planted.expected_return.any()
    returns = open_returns(planted)
    for features in (planted.market.features[:-2], planted.market.features[:-2] ** 2):
        correlations = [abs(np.corrcoef(column, returns)[0, 1]) for column in features.T]
        assert max(correlations) < 4.0 / np.sqrt(len(returns))


@pytest.mark.parametrize("kind", ["linear", "slow", "fast"])
def test_weights_found_on_one_market_hold_on_another_of_its_mapping_only(kind):
    one, other = (planted_market(kind, seed, 20_000) for seed in (0, 1))
    assert forecast_correlation(last_rows_mean, one, other) > 0.8
    elsewhere = planted_market(kind, 1, 20_000, mapping_seed=1)
    assert abs(forecast_correlation(last_rows_mean, one, elsewhere)) < 0.6


@pytest.mark.parametrize("kind", ["linear", "slow"])
def test_a_window_knows_more_than_its_last_row(kind):
    one, other = (planted_market(kind, seed, 20_000, n_features=8) for seed in (0, 1))
    of_last_rows = forecast_correlation(last_rows, one, other)
    assert forecast_correlation(windows, one, other) > of_last_rows + 0.01


def test_no_linear_function_of_features_sees_the_nonlinear_signal_but_products_do():
    one, other = (planted_market("nonlinear", seed, 20_000, n_features=8) for seed in (0, 1))
    assert abs(forecast_correlation(last_rows_mean, one, other)) < 0.1
    assert forecast_correlation(products, one, other) > 0.8


def test_fixed_weights_see_at_most_half_of_the_regime_signal_and_products_see_more():
    one, other = (planted_market("regime", seed, 20_000, n_features=8) for seed in (0, 1))
    assert forecast_correlation(last_rows_mean, one, other) < 0.6
    assert forecast_correlation(products, one, other) > 0.8


def test_regimes_change_several_times_in_a_training_window():
    lives = PLANTED_SPECS[PlantedKind.REGIME].context_life
    assert 6240 / (1.5 * lives) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_entries_have_their_share_and_know_a_little(kind):
    planted = planted_market(kind, 0, 20_000, n_features=8, entry_share=0.08)
    up, down = planted.market.entry_long, planted.market.entry_short
    assert up.mean() == pytest.approx(0.04, abs=0.006)
    assert down.mean() == pytest.approx(0.04, abs=0.006)
    assert not (up & down).any()
    if kind is not PlantedKind.NONE:
        assert planted.expected_return[up].mean() > 0.0 > planted.expected_return[down].mean()
    plain = planted_market(kind, 0, 20_000, n_features=8)
    assert not plain.market.entry_long.any()
    np.testing.assert_array_equal(plain.market.features, planted.market.features)
    np.testing.assert_array_equal(plain.market.ohlc, planted.market.ohlc)


def test_other_thresholds_earn_no_more_than_the_reference():
    planted = planted_market("linear", 0, 60_000)
    best = reference_thresholds(planted)
    earned = {}
    for enter_factor in (0.3, 1.0, 2.5):
        for leave_factor in (0.0, 1.0, 2.0):
            sides = held(planted, best.enter * enter_factor, best.leave * leave_factor)
            changes = np.abs(np.diff(sides, prepend=0.0)).sum()
            earned[enter_factor, leave_factor] = (
                sides @ planted.expected_return - changes * planted.market.fee_rate
            )
    assert max(earned, key=earned.__getitem__) == (1.0, 1.0)


def test_higher_fees_make_the_reference_trade_less():
    cheap, dear = (planted_market("fast", 0, fee_rate=fee) for fee in (0.0, 0.001))
    trades = [np.count_nonzero(np.diff(reference_targets(each))) for each in (cheap, dear)]
    assert trades[0] > 2 * trades[1] > 0
    # Even without fees a weak signal is let go: a later change of side would take a candle.
    assert 0.0 < reference_thresholds(cheap).enter < reference_thresholds(dear).enter


@pytest.mark.parametrize("kind", SIGNAL_KINDS)
@pytest.mark.parametrize("entry", [EntryMode.CLASSIC, EntryMode.ALWAYS])
def test_reference_plays_the_hybrid(kind, entry):
    planted = planted_market(kind, 0, entry_share=0.08)
    targets = reference_targets(planted, entry, first_row=9)
    assert not targets[:9].any()
    at_will = played(planted, reference_targets(planted, first_row=9), first_row=9)
    earned = played(planted, targets, entry, first_row=9)
    until_the_end = played(planted, every_entry_held(planted, 12), entry)
    assert until_the_end < earned < at_will


def test_reference_under_masks_needs_masks():
    planted = planted_market("linear", 0, 500)
    with pytest.raises(SettingsError, match=r"^entry: classic needs .+ entry_share$"):
        reference_targets(planted, EntryMode.CLASSIC)


def test_forced_entries_without_a_signal_are_held_because_leaving_costs_another_round():
    planted = planted_market("none", 0, 2000, entry_share=0.08)
    assert not reference_targets(planted, EntryMode.CLASSIC).any()
    targets = reference_targets(planted, EntryMode.ALWAYS)
    assert np.count_nonzero(np.diff(targets)) == 1
