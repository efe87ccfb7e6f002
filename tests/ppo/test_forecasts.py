"""Forecasts: no candle is foretold by what was fitted on it, no bit goes by batch or threads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from mtf_scalper.errors import SettingsError
from mtf_scalper.market.market import Market
from mtf_scalper.ppo.boosting import BOOSTING, TREE_COUNTS, FoldTrees
from mtf_scalper.ppo.exact_training import as_judged
from mtf_scalper.ppo.folds import Part
from mtf_scalper.ppo.forecasting import Fitted, fit_forecasts
from mtf_scalper.ppo.forecasts import N_FORECASTS, Forecasts, forecasts_of
from mtf_scalper.ppo.interactions import best_interactions
from mtf_scalper.ppo.policy import Policy, simulate
from mtf_scalper.ppo.selection import held_back
from mtf_scalper.ppo.trees import add_leaves, are_sound, trees_of
from mtf_scalper.settings import Settings
from mtf_scalper.training import train
from mtf_scalper.worlds.planted import planted_market
from mtf_scalper.worlds.planted_reference import reference_targets

WINDOW = 10
SETTINGS = Settings(cpu_count=1, net_arch=(32,), train_cycles=12)


def planted(kind: str, seed: int = 1, n_candles: int = 2500) -> Market:
    return planted_market(kind, seed, n_candles, n_features=12).market


def fitted_on(market: Market, n_threads: int = 1, n_held_back: int = 0) -> Fitted:
    markets = [market]
    if n_held_back:
        learned, held = held_back([market], SETTINGS)
        markets = [*learned, *held]
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        return fit_forecasts([each.features for each in markets], markets, n_held_back, SETTINGS)
    finally:
        torch.set_num_threads(before)


def with_moved_returns(market: Market, rows: slice) -> Market:
    """Return the market with other returns on some rows, and all others as they are."""
    moves = np.diff(np.log(market.ohlc[:, 0]), prepend=np.log(market.ohlc[0, 0]))
    changed = moves.copy()
    changed[rows] = np.random.default_rng(5).permutation(changed[rows]) + 1e-3
    ratio = np.exp(np.cumsum(changed) - np.cumsum(moves))[:, None]
    after = np.append(ratio[1:, 0], ratio[-1, 0])
    ohlc = market.ohlc * ratio
    # A candle closes where the next one opens.
    ohlc[:, 3] = market.ohlc[:, 3] * after
    ohlc[:, 1], ohlc[:, 2] = ohlc.max(axis=1), ohlc.min(axis=1)
    return replace(market, ohlc=ohlc)


def part_of(market: Market, n_folds: int, *, is_held: bool = False) -> Part:
    return Part(
        market.features,
        market,
        window_size=WINDOW,
        horizon=100,
        n_folds=n_folds,
        is_held=is_held,
    )


@pytest.fixture(scope="module")
def linear() -> Market:
    return planted("linear")


@pytest.fixture(scope="module")
def fitted(linear: Market) -> Fitted:
    return fitted_on(linear)


def test_a_fold_is_fitted_without_its_own_returns(linear: Market) -> None:
    """The second quarter's returns change: what it is foretold by may not, the rest does."""
    parts = [part_of(linear, 4)]
    own = np.flatnonzero(parts[0].folds == 1) + WINDOW - 1
    changed = with_moved_returns(linear, slice(own[0] + 1, own[-1] + 2))
    moved = [part_of(changed, 4)]
    for fold, is_same in ((1, True), (2, False)):
        products = [best_interactions(each, fold) for each in (parts, moved)]
        assert np.array_equal(*products) == is_same
        both = [FoldTrees(each, fold, 0, 1) for each in (parts, moved)]
        for each in both:
            each.grow(0, 0, TREE_COUNTS[-1])
        # Prices that were multiplied have other last bits.
        ours, theirs = (found.trees[0].value for found in both)
        assert (ours.shape == theirs.shape and np.allclose(ours, theirs, 1e-6, 1e-9)) == is_same


def test_held_back_candles_are_a_fold_of_their_own(linear: Market) -> None:
    learned, held = held_back([linear], SETTINGS)
    found = fitted_on(linear, n_held_back=1)
    np.testing.assert_array_equal(
        found.seen[1], forecasts_of(found.without_held_back, held[0].features)
    )
    parts = [
        part_of(each, 3, is_held=is_held)
        for each, is_held in ((learned[0], False), (held[0], True))
    ]
    assert not parts[1].rows_without(3).any()
    assert parts[0].rows_without(3).sum() == len(parts[0].targets) - 2


@pytest.mark.parametrize(
    ("kind", "least"), [("linear", 0.85), ("nonlinear", 0.6), ("regime", 0.6), ("fast", 0.85)]
)
def test_they_find_what_is_hidden(kind: str, least: float) -> None:
    """Correlation of the best forecast with what is expected, on a market not fitted on."""
    found = fitted_on(planted(kind))
    test = planted_market(kind, 1001, 2500, n_features=12)
    seen = forecasts_of(found.tables, test.market.features)[WINDOW - 1 :]
    expected = test.expected_return[WINDOW - 1 :]
    used = np.flatnonzero(found.tables.units)
    assert max(np.corrcoef(seen[:, each], expected)[0, 1] for each in used) > least
    assert max(found.evidence) > 8.0


def test_where_there_is_no_signal_returns_agree_with_no_forecast() -> None:
    """Of 4 markets none is above 3.5 standard errors, where signals have 8 and more."""
    found = [fitted_on(planted("none", seed, 1500)).evidence for seed in range(4)]
    assert max(max(each) for each in found) < 3.5


@pytest.mark.parametrize("n_threads", [2, 3])
def test_threads_change_no_bit(linear: Market, fitted: Fitted, n_threads: int) -> None:
    again = fitted_on(linear, n_threads)
    np.testing.assert_array_equal(again.seen[0], fitted.seen[0])
    for ours, theirs in zip(again.tables[:-1], fitted.tables[:-1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(again.tables.trees, fitted.tables.trees, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_row_has_the_same_bits_in_every_batch(linear: Market, fitted: Fitted) -> None:
    forecasts = Forecasts(WINDOW, linear.n_features)
    forecasts.take(fitted.tables)
    views = sliding_window_view(linear.features[:60], WINDOW, axis=0).transpose(0, 2, 1)
    windows = torch.from_numpy(views.reshape(len(views), -1).copy())
    together = forecasts(windows).numpy()
    alone = np.concatenate([forecasts(windows[i : i + 1]).numpy() for i in range(len(windows))])
    np.testing.assert_array_equal(together, alone)
    whole = forecasts_of(fitted.tables, linear.features[:60])
    np.testing.assert_array_equal(whole[WINDOW - 1 :], together)
    assert not whole[: WINDOW - 1].any()
    assert together.shape[1] == N_FORECASTS


def test_trees_say_what_lightgbm_says(linear: Market) -> None:
    """Nodes are read from LightGBM's text; its own prediction is the yardstick."""
    lightgbm = pytest.importorskip("lightgbm")
    inputs, target = linear.features, linear.features[:, 0] * (linear.features[:, 1] > 0.2)
    booster = lightgbm.train(BOOSTING, lightgbm.Dataset(inputs, label=target), 40)
    trees = trees_of(booster.model_to_string(), 1.0, np.arange(inputs.shape[1]))
    out = np.zeros(len(inputs))
    add_leaves(inputs, trees, 0, len(trees.output), out)
    np.testing.assert_allclose(out, booster.predict(inputs), rtol=1e-12, atol=1e-14)
    assert np.abs(out).max() > 0.1


def test_a_policy_of_forecasts_earns_most_of_what_can_be_known(tmp_path: Path) -> None:
    """Seeded; the reference knows the signal. A checkpoint says the same to the last bit."""
    result = train(planted("nonlinear", n_candles=3000), SETTINGS)
    test = planted_market("nonlinear", 1001, 3000, n_features=12)
    run = simulate(result.policy, test.market)
    sides = reference_targets(test, first_row=WINDOW - 1)
    returns = np.diff(np.log(test.market.ohlc[:, 0]))
    ideal = float((sides[:-2] * returns[1:]).sum() - 0.0005 * np.abs(np.diff(sides)).sum())
    assert run.log_return > 0.7 * ideal
    result.policy.save(tmp_path / "policy.zip")
    loaded = Policy.load(tmp_path / "policy.zip", result.policy.settings)
    np.testing.assert_array_equal(
        loaded.probabilities(test.market.features),
        result.policy.probabilities(test.market.features),
    )


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_the_report_is_of_forecasts_that_have_not_seen_its_candles(
    linear: Market, n_seeds: int
) -> None:
    result = train(linear, SETTINGS.changed(n_seeds=n_seeds))
    _, held = held_back([linear], SETTINGS)
    told = result.reports[0].log_return
    with as_judged(result.policy.model):
        assert simulate(result.policy, held[0]).log_return == pytest.approx(told, abs=1e-12)
    assert simulate(result.policy, held[0]).log_return != pytest.approx(told, abs=1e-12)


@pytest.mark.parametrize("n_candles", [40, 120, 300])
def test_few_candles_are_enough_to_begin_with(make_market: Any, n_candles: int) -> None:
    result = train(make_market(n_candles=n_candles), SETTINGS.changed(train_cycles=2))
    features = make_market(n_candles=n_candles).features
    assert np.isfinite(result.policy.probabilities(features)[WINDOW - 1 :]).all()


@pytest.mark.parametrize("n_features", [1, 2])
@pytest.mark.parametrize("window_size", [1, 2])
def test_few_features_and_short_windows(
    make_market: Any, n_features: int, window_size: int
) -> None:
    market = make_market(n_candles=600, n_features=n_features)
    result = train(market, SETTINGS.changed(train_cycles=2, window_size=window_size))
    assert np.isfinite(result.policy.probabilities(market.features)[window_size - 1 :]).all()


def test_constant_features_are_harmless(linear: Market) -> None:
    features = np.array(linear.features)
    features[:, 3] = 7.0
    result = train(replace(linear, features=features), SETTINGS.changed(train_cycles=2))
    assert np.isfinite(result.policy.probabilities(features)[WINDOW - 1 :]).all()


def test_a_checkpoint_of_damaged_trees_is_refused(linear: Market, fitted: Fitted) -> None:
    """A child that stands before its parent would be a walk without an end."""
    n_inputs = len(fitted.tables.coefficients)
    trees = fitted.tables.trees
    assert are_sound(trees, n_inputs)
    inner = int(np.flatnonzero(trees.column >= 0)[3])
    for name, value in (("child", 0), ("child", 10**9), ("column", n_inputs), ("first_node", -1)):
        changed = np.array(getattr(trees, name))
        changed[inner if name != "first_node" else 1] = value
        damaged = trees._replace(**{name: changed})
        assert not are_sound(damaged, n_inputs)
        forecasts = Forecasts(WINDOW, linear.n_features)
        forecasts.take(fitted.tables._replace(trees=damaged))
        with pytest.raises(SettingsError, match="forecasts are damaged"):
            Forecasts(WINDOW, linear.n_features).load_state_dict(forecasts.state_dict())


def test_forecasts_are_refused_with_rollouts() -> None:
    with pytest.raises((SettingsError, ValueError), match="policy_inputs"):
        Settings(advantage="gae", policy_inputs="forecasts")
    assert str(Settings(advantage="gae").used_policy_inputs) == "features"
    assert str(Settings().used_policy_inputs) == "forecasts"
