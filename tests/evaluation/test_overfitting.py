"""Checked against the examples that the methods' authors worked out."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import rankdata

from mtf_scalper.evaluation.overfitting import (
    backtest_overfitting,
    daily_sharpe,
    deflated_sharpe,
    minimum_track_record,
)
from mtf_scalper.optional import library


def two_valued_returns(n_days, n_low, sharpe):
    """Return n_days returns of two values: skewness and kurtosis follow from how many are low."""
    share = n_low / n_days
    spread = math.sqrt(share * (1 - share))
    low, high = (share - 1) / spread, share / spread  # mean 0 and deviation 1
    values = np.repeat([low, high], [n_low, n_days - n_low]) / np.sqrt(n_days / (n_days - 1))
    return 0.01 * (values + sharpe)


def with_variance(n, variance):
    """Return n numbers of exactly this sample variance."""
    values = np.linspace(-1.0, 1.0, n)
    return values * math.sqrt(variance / values.var(ddof=1))


@pytest.mark.parametrize(("n_trials", "published"), [(100, 0.9004), (46, 0.9505)])
def test_deflated_sharpe_of_bailey_and_lopez_de_prado_2014(n_trials, published):
    """1,250 days, annual ratio 2.5, skewness -3, kurtosis 10, variance of annual ratios 0.5."""
    returns = two_valued_returns(1250, 105, 2.5 / math.sqrt(250))
    centred = (returns - returns.mean()) / returns.std()
    assert np.mean(centred**3) == pytest.approx(-3.0, abs=0.01)
    assert np.mean(centred**4) == pytest.approx(10.0, abs=0.05)
    trials = with_variance(n_trials, 0.5 / 250)
    assert deflated_sharpe(returns, trials) == pytest.approx(published, abs=5e-4)


def test_expected_largest_ratio_of_the_same_example():
    largest = library("skfolio.measures").expected_max_sharpe_ratio(100, math.sqrt(0.5 / 250))
    assert largest == pytest.approx(0.1132, abs=5e-5)


def test_one_trial_has_nothing_to_deflate():
    days = np.random.default_rng(0).normal(0.1, 1.0, 500)
    sharpe = daily_sharpe(days)
    alone = deflated_sharpe(days, np.array([sharpe]))
    assert alone > 0.9
    assert deflated_sharpe(days, np.array([sharpe, 0.5, -0.5])) < alone


def test_deflated_sharpe_of_nothing_is_zero():
    assert deflated_sharpe(np.zeros(100), np.array([0.0])) == 0.0
    assert deflated_sharpe(np.array([0.1, 0.2]), np.array([1.0])) == 0.0


@pytest.mark.parametrize(
    ("periods", "skewness", "kurtosis", "years"),
    [(250, 0.0, 3.0, 2.73), (52, 0.0, 3.0, 2.83), (12, 0.0, 3.0, 3.24), (12, -0.72, 5.78, 4.99)],
)
def test_minimum_track_record_of_bailey_and_lopez_de_prado_2012(periods, skewness, kurtosis, years):
    """An annual ratio of 2 is above 1 with 95% confidence after so many years."""
    root = math.sqrt(periods)
    found = minimum_track_record(2 / root, skewness, kurtosis, benchmark=1 / root)
    assert found / periods == pytest.approx(years, abs=0.015)


def test_no_track_record_proves_what_is_not_there():
    assert minimum_track_record(0.0) == math.inf


def test_the_best_of_variants_without_skill_is_overfitted_half_of_the_time():
    found = [
        backtest_overfitting(np.random.default_rng(seed).normal(size=(200, 12))).probability
        for seed in range(12)
    ]
    assert 0.35 < np.mean(found) < 0.65


def test_the_best_of_variants_with_a_true_winner_is_not_overfitted():
    days = np.random.default_rng(1).normal(size=(200, 12))
    days[:, 5] += 0.7
    found = backtest_overfitting(days)
    assert found.probability < 0.01
    assert found.probability_of_loss < 0.01
    assert (found.n_variants, found.n_splits) == (12, math.comb(10, 5))


def test_overfitting_by_hand_with_four_folds():
    """Early folds choose the first variant and late ones the last: both fail on the other half.

    Halves of one early and one late fold choose the second variant, which is steady. Two of the six
    splits are overfitted.
    """
    rng = np.random.default_rng(0)
    days = rng.normal(0.0, 1e-3, (16, 3))
    days += np.repeat([[1.0, 0.01, -1.0], [-1.0, 0.01, 1.0]], 8, axis=0)
    found = backtest_overfitting(days, n_folds=4)
    assert found.n_splits == 6
    assert found.probability == pytest.approx(2 / 6)
    assert found.probability_of_loss == pytest.approx(2 / 6)


def test_one_variant_or_too_few_days_have_no_probability():
    assert backtest_overfitting(np.ones((100, 1))) is None
    assert backtest_overfitting(np.ones((19, 3))) is None


@pytest.mark.parametrize("n_variants", [2, 3, 4, 7])
def test_variants_that_are_all_alike_are_overfitted_half_of_the_time(n_variants):
    days = np.random.default_rng(3).normal(0.001, 0.02, 60)
    found = backtest_overfitting(np.column_stack([days] * n_variants))
    assert found.probability == 0.5


def by_hand(days, n_folds):
    """Return the probability as the paper has it, with scipy's middle ranks and exact halves."""
    folds = np.array_split(np.arange(len(days)), n_folds)
    found = []
    for chosen in combinations(range(n_folds), n_folds // 2):
        inside, outside = (
            rankdata(each.mean(axis=0) / np.maximum(each.std(axis=0, ddof=1), 1e-9))
            for each in (
                days[
                    np.concatenate([folds[n] for n in range(n_folds) if (n in chosen) == is_inside])
                ]
                for is_inside in (True, False)
            )
        )
        places = outside[inside == inside.max()] / (days.shape[1] + 1)
        found.append(np.mean([1.0 if place < 0.5 else 0.5 * (place == 0.5) for place in places]))
    return np.mean(found)


def test_the_very_middle_of_an_odd_number_counts_half():
    days = np.random.default_rng(2).normal(0.0, 0.01, (48, 5))
    found = backtest_overfitting(days, n_folds=4).probability
    assert found == pytest.approx(by_hand(days, 4))
    assert found * 12 % 2 == 1.0  # of the six splits one at least is in the middle


def test_the_order_of_equally_good_variants_does_not_matter():
    """Two variants that never trade early on are equally good there, and differ later on."""
    rng = np.random.default_rng(7)
    days = rng.normal(0.0, 0.01, (40, 4))
    days[:20, 2:] -= 0.01
    days[:20, :2] = 0.0
    days[20:, 0] += 0.02
    days[20:, 1] -= 0.02
    found = {
        backtest_overfitting(days[:, order], n_folds=4).probability
        for order in ([0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0])
    }
    assert len(found) == 1
    assert found.pop() == pytest.approx(by_hand(days, 4))


def test_noise_of_three_variants_is_overfitted_half_of_the_time():
    """Their middle rank would otherwise count whole: two thirds."""
    found = [
        backtest_overfitting(np.random.default_rng(seed).normal(size=(100, 3))).probability
        for seed in range(60)
    ]
    # The standard error of the mean over 60 is 0.04.
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)
