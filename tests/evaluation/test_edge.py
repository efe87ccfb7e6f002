import numpy as np
import pytest

from mtf_scalper.evaluation.edge import Variant, judge_edge


def days(seed, mean=0.0, n_days=91):
    return np.random.default_rng(seed).normal(mean, 0.02, n_days)


def variant(seed, mean=0.0, n_days=91):
    baselines = {"flat": np.zeros(n_days), "classic exits": days(99, -0.001, n_days)}
    return Variant(f"run {seed}", days(seed, mean, n_days), baselines)


def test_an_edge_over_every_baseline_is_found_and_said():
    edge = judge_edge(variant(1, 0.015))
    assert edge.found
    assert edge.sentence.startswith("evidence of an edge over flat and classic exits (SPA p = 0.0")
    assert edge.sentence.endswith("1 variant tried)")
    assert edge.p_value == max(test.p_value for test in edge.tests) < 0.05
    assert edge.deflated_sharpe > 0.95


def test_no_edge_names_the_hardest_baseline_and_the_variants():
    edge = judge_edge(variant(2), [variant(seed) for seed in range(3, 14)])
    assert not edge.found
    assert edge.sentence == (
        f"no evidence of an edge over {edge.hardest} (SPA p = {edge.p_value:.2f}; "
        "12 variants tried)"
    )
    assert edge.overfitting.n_variants == 12


def test_better_than_one_baseline_is_not_better_than_all():
    lucky = days(1, 0.015)
    edge = judge_edge(Variant("x", lucky, {"flat": np.zeros(91), "buy and hold": lucky + 0.001}))
    assert not edge.found
    assert edge.hardest == edge.best_baseline == "buy and hold"


def test_many_variants_make_the_same_days_less_convincing():
    alone = judge_edge(variant(1, 0.009))
    tried = [variant(seed) for seed in range(20, 60)]
    among = judge_edge(variant(1, 0.009), tried)
    assert alone.found
    assert not among.found
    assert among.p_value > alone.p_value
    assert among.deflated_sharpe < alone.deflated_sharpe


def test_a_degenerate_policy_has_no_edge_whatever_it_earned():
    edge = judge_edge(variant(1, 0.015), degenerate="never exits by itself (0 of 9 chances)")
    assert not edge.found
    assert "degenerate, it never exits by itself" in edge.sentence


def test_standing_aside_is_said_as_the_finding_that_it_is():
    took = "took 3 of 412 classic entries"
    edge = judge_edge(variant(1, 0.0), degenerate="never trades", aside=took)
    assert (edge.found, edge.stands_aside) == (False, True)
    assert edge.sentence.startswith(
        "no evidence of an edge: standing aside is the finding, the agent took 3 of 412 classic "
        f"entries (log return {variant(1, 0.0).log_return.sum():+.3f}, all of them under the "
    )
    assert edge.sentence.endswith("; 1 variant tried)")
    # Few trades that are evidence of an edge are that.
    found = judge_edge(variant(1, 0.015), aside=took)
    assert (found.found, found.stands_aside) == (True, False)
    assert found.sentence.startswith("evidence of an edge over ")


def test_a_fortnight_is_the_least_that_tells_anything():
    edge = judge_edge(variant(1, 0.05, n_days=13))
    assert not edge.found
    assert "13 days are too few" in edge.sentence


def test_doing_nothing_at_all_is_no_edge():
    nothing = np.zeros(50)
    edge = judge_edge(Variant("x", nothing, {"flat": nothing}))
    assert (edge.found, edge.p_value, edge.deflated_sharpe) == (False, 1.0, 0.0)


def test_days_needed_shrink_with_the_excess():
    weak, strong = judge_edge(variant(1, 0.002)), judge_edge(variant(1, 0.02))
    assert strong.days_needed < weak.days_needed


@pytest.mark.parametrize("mean", [0.0, 0.015])
def test_everything_goes_into_the_record(mean):
    edge = judge_edge(variant(1, mean), [variant(5)])
    content = edge.as_dict()
    assert content["verdict"] == edge.sentence
    assert content["superiority"]["flat"]["n_variants"] == content["n_variants"] == 2
    assert content["probability_of_overfitting"]["n_splits"] == 252


@pytest.mark.parametrize("n_days", [1, 3, 13])
def test_no_probability_stands_anywhere_under_a_fortnight(n_days):
    content = judge_edge(variant(1, 0.05, n_days), [variant(2, 0.0, n_days)]).as_dict()
    assert content["p_value"] is None
    for test in content["superiority"].values():
        found = {name: test[name] for name in ("p_value", "p_best", "p_lower", "p_upper")}
        assert set(found.values()) == {None}
    # Thirteen days can have a ratio of 0.97, which would be known after nine of them.
    names = ("p_value", "deflated_sharpe", "days_needed", "probability_of_overfitting")
    assert {content[name] for name in names} == {None}
    days = "1 day is" if n_days == 1 else f"{n_days} days are"
    assert content["verdict"] == (
        f"no evidence of an edge: {days} too few to tell (2 variants tried)"
    )


def test_a_fortnight_has_p_values():
    edge = judge_edge(variant(1, 0.05, n_days=14))
    assert all(0.0 < test.p_value < 0.05 for test in edge.tests)
