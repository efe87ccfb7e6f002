import numpy as np
import pytest

from mtf_scalper.evaluation.superiority import superiority


def market_days(rng, n_days, n_variants, persistence=0.0):
    """Return daily returns that share the market's, shape (D, K): all correlated, none better."""
    shared = rng.standard_t(5, size=n_days) * 0.02
    own = rng.normal(0.0, 0.01, (n_days, n_variants))
    for day in range(1, n_days):
        own[day] += persistence * own[day - 1]
    return shared[:, None] + own


@pytest.mark.parametrize(("n_days", "persistence"), [(90, 0.0), (250, 0.3)])
@pytest.mark.parametrize("n_variants", [1, 6])
def test_the_test_keeps_its_size_where_nothing_is_better(n_variants, n_days, persistence):
    rng = np.random.default_rng(5)
    rejected = []
    for seed in range(150):
        days = market_days(rng, n_days, n_variants + 1, persistence)
        found = superiority("x", days[:, 0], days[:, 1], days[:, 2:], n_draws=200, seed=seed)
        rejected.append([found.p_value < 0.05, found.p_best < 0.05])
    judged, best = np.mean(rejected, axis=0)
    # 0.05 with a standard error of 0.018; so few days make every bootstrap a little too sure.
    assert judged <= 0.10
    assert 0.01 <= best <= 0.12


def test_an_edge_is_found_and_others_that_were_tried_make_it_harder():
    rng = np.random.default_rng(2)
    days = market_days(rng, 90, 20)
    judged = days[:, 1] + 0.0045
    alone = superiority("x", days[:, 0], judged)
    among = superiority("x", days[:, 0], judged, days[:, 2:])
    assert alone.p_value < 0.02
    assert alone.p_value < among.p_value
    assert (alone.n_variants, among.n_variants) == (1, 19)
    assert alone.excess_per_day == pytest.approx(np.mean(judged - days[:, 0]))


def test_the_best_of_many_without_skill_is_no_evidence():
    alone, among = [], []
    for seed in range(8):
        days = market_days(np.random.default_rng(seed), 90, 40)
        best = 1 + int(np.argmax(days[:, 1:].mean(axis=0)))
        others = np.delete(days, [0, best], axis=1)
        alone.append(superiority("x", days[:, 0], days[:, best], n_draws=400).p_value)
        found = superiority("x", days[:, 0], days[:, best], others, n_draws=400)
        assert found.p_value >= found.p_best
        among.append(found.p_value)
    assert np.median(alone) < 0.15
    assert np.median(among) > 0.3


def test_a_variant_that_is_not_the_best_is_judged_by_itself():
    rng = np.random.default_rng(4)
    days = market_days(rng, 90, 3)
    winner = days[:, 2] + 0.02
    found = superiority("x", days[:, 0], days[:, 1] - 0.001, winner[:, None])
    assert found.p_best < 0.01
    assert found.p_value == 1.0


def test_a_variant_that_does_what_the_baseline_does_is_not_better():
    days = np.random.default_rng(0).normal(size=50)
    found = superiority("flat", days, days.copy())
    assert (found.p_value, found.excess_per_day) == (1.0, 0.0)


def test_nothing_that_earns_less_than_the_baseline_is_better():
    days = market_days(np.random.default_rng(6), 90, 4)
    found = superiority("x", days.max(axis=1), days[:, 0], days[:, 1:])
    assert (found.p_value, found.p_best, found.p_lower) == (1.0, 1.0, 1.0)


def test_bounds_stand_around_the_p_value():
    days = market_days(np.random.default_rng(9), 90, 12)
    found = superiority("x", days[:, 0], days[:, 1], days[:, 2:])
    assert found.p_lower <= found.p_best <= found.p_upper


@pytest.mark.parametrize("n_days", [1, 2, 3, 13])
def test_of_a_few_days_nothing_is_said(n_days: int) -> None:
    found = superiority("flat", np.zeros(n_days), np.linspace(0.1, 0.3, n_days), n_draws=50)
    assert found.p_value == 1.0
    assert found.excess_per_day > 0.0
