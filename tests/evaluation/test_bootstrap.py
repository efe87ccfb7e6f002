import numpy as np
import pytest

from mtf_scalper import optional
from mtf_scalper.errors import MtfScalperError
from mtf_scalper.evaluation.bootstrap import (
    LEAST_DAYS,
    Interval,
    block_length,
    interval_of,
    resampled_rows,
)
from mtf_scalper.evaluation.days import FIGURES, Days, sharpe_ratio
from mtf_scalper.optional import library


def autoregression(rng, n, persistence):
    values = np.zeros(n)
    for row in range(1, n):
        values[row] = persistence * values[row - 1] + rng.normal()
    return values


def test_dependent_days_are_drawn_in_longer_blocks():
    rng = np.random.default_rng(0)
    independent, dependent = rng.normal(size=400), autoregression(rng, 400, 0.8)
    assert block_length(independent) < 4 < block_length(dependent)
    together = block_length(np.stack([independent, dependent], axis=1))
    assert block_length(independent) <= together < block_length(dependent)


def test_blocks_of_what_does_not_vary_have_length_one():
    assert block_length(np.zeros(50)) == 1.0
    assert block_length(np.arange(LEAST_DAYS - 1.0)) == 1.0


def test_resamples_hold_runs_of_days_of_the_wanted_mean_length():
    rows = resampled_rows(200, 5.0, 400, seed=3)
    goes_on = (np.diff(rows, axis=1) % 200) == 1
    assert 1.0 / (1.0 - goes_on.mean()) == pytest.approx(5.0, rel=0.05)
    assert np.array_equal(rows, resampled_rows(200, 5.0, 400, seed=3))


@pytest.mark.parametrize(("n_days", "persistence", "least"), [(14, 0.0, 0.9), (200, 0.5, 0.85)])
def test_intervals_of_the_mean_cover_it_nearly_as_often_as_they_say(n_days, persistence, least):
    rng = np.random.default_rng(7)
    covered = []
    for seed in range(150):
        days = autoregression(rng, n_days, persistence)
        block = block_length(days)
        rows = resampled_rows(n_days, block, 400, seed)
        found = interval_of(days.mean(), days[rows].mean(axis=1), n_days / block)
        covered.append(found.low <= 0.0 <= found.high)
    assert least < np.mean(covered) <= 1.0


def test_of_normal_days_the_interval_is_students():
    """By hand: mean -+ t(13; 2.5%) s / sqrt(14), with s = 1 and t = 2.1604 of the tables."""
    n_days = 14
    days = np.random.default_rng(0).normal(size=n_days)
    days = (days - days.mean()) / days.std(ddof=1)
    drawn = np.random.default_rng(1).normal(size=1_000_000) * days.std() / np.sqrt(n_days)
    found = interval_of(0.0, drawn, n_days)
    right = 2.1604 / np.sqrt(n_days)
    assert (found.low, found.high) == pytest.approx((-right, right), rel=0.01)
    # So many days are told by plain percentiles.
    plain = tuple(np.quantile(drawn, (0.025, 0.975)))
    found = interval_of(0.0, drawn, 1e6)
    assert (found.low, found.high) == pytest.approx(plain, rel=1e-3)


def test_interval_of_a_ratio_of_trades_has_its_estimate_inside():
    rng = np.random.default_rng(2)
    columns = [rng.normal(0.01, 0.02, 60), *np.abs(rng.normal(1, 0.2, (5, 60)))]
    days = Days(*columns).stacked()
    drawn = days[resampled_rows(60, 1.0, 500, seed=0)]
    for figure in FIGURES.values():
        found = interval_of(float(figure(days)), figure(drawn), 60)
        assert found.low < found.high
    found = interval_of(float(sharpe_ratio(columns[0])), sharpe_ratio(drawn[..., 0]), 60)
    assert found.low < found.value < found.high


def test_no_interval_where_resamples_are_mostly_undefined():
    assert interval_of(1.0, np.array([np.nan, np.nan, 1.0]), 14) == Interval(1.0)
    assert interval_of(np.nan, np.ones(9), 14) == Interval(None)
    assert interval_of(1.0, np.zeros(0), 14) == Interval(1.0)


def test_a_library_that_is_missing_is_one_line_that_says_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="arch")

    monkeypatch.setattr(optional.importlib, "import_module", missing)
    with pytest.raises(MtfScalperError, match=r'arch is not installed.*"mtf-scalper\[evidence\]"'):
        library("arch.bootstrap")
