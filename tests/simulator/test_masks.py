from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtf_scalper.settings import EntryMode
from mtf_scalper.simulator.masks import action_mask, masked_action, masked_probabilities

ALWAYS, CLASSIC, ANY = EntryMode.ALWAYS, EntryMode.CLASSIC, EntryMode.ANY


def valid(
    side: int,
    entry: EntryMode = ANY,
    *,
    can_short: bool = True,
    long: bool = False,
    short: bool = False,
    can_enter: bool = True,
) -> set[int]:
    mask = action_mask(
        side,
        entry=entry,
        can_short=can_short,
        signal_long=long,
        signal_short=short,
        can_enter=can_enter,
    )
    assert mask.shape == (5,)
    assert mask.dtype == np.bool_
    return set(np.flatnonzero(mask).tolist())


@pytest.mark.parametrize("entry", list(EntryMode))
@pytest.mark.parametrize(("long", "short"), list(product([False, True], repeat=2)))
def test_in_a_position_only_its_own_exit_is_valid(entry, long, short) -> None:
    assert valid(1, entry, long=long, short=short) == {0, 2}
    assert valid(-1, entry, long=long, short=short) == {0, 4}


@pytest.mark.parametrize(
    ("entry", "long", "short", "expected"),
    [
        (ANY, False, False, {0, 1, 3}),
        (ANY, True, True, {0, 1, 3}),
        (CLASSIC, False, False, {0}),
        (CLASSIC, True, False, {0, 1}),
        (CLASSIC, False, True, {0, 3}),
        (CLASSIC, True, True, {0, 1, 3}),
        (ALWAYS, False, False, {0}),
        (ALWAYS, True, False, {1}),
        (ALWAYS, False, True, {3}),
        (ALWAYS, True, True, {1, 3}),
    ],
)
def test_entries_when_flat(entry, long, short, expected) -> None:
    assert valid(0, entry, long=long, short=short) == expected


@pytest.mark.parametrize(
    ("entry", "long", "short", "expected"),
    [
        (ANY, False, True, {0, 1}),
        (CLASSIC, True, True, {0, 1}),
        (CLASSIC, False, True, {0}),
        (ALWAYS, True, True, {1}),
        (ALWAYS, False, True, {0}),
    ],
)
def test_without_shorts_there_are_no_short_entries(entry, long, short, expected) -> None:
    assert valid(0, entry, can_short=False, long=long, short=short) == expected


@pytest.mark.parametrize("entry", list(EntryMode))
def test_no_entry_where_none_is_possible(entry) -> None:
    assert valid(0, entry, long=True, short=True, can_enter=False) == {0}
    assert valid(1, entry, long=True, short=True, can_enter=False) == {0, 2}


masks = st.lists(st.booleans(), min_size=5, max_size=5).filter(any).map(np.array)
weights = st.lists(st.floats(0.0, 1.0), min_size=5, max_size=5).map(np.array)


@given(mask=masks, probabilities=weights)
def test_masked_probabilities_are_a_distribution_over_valid_actions(mask, probabilities) -> None:
    masked = masked_probabilities(probabilities, mask)
    assert masked.sum() == pytest.approx(1.0)
    assert (masked[~mask] == 0.0).all()
    assert (masked >= 0.0).all()


def test_masked_probabilities_keep_their_ratios() -> None:
    masked = masked_probabilities(
        np.array([0.1, 0.2, 0.3, 0.2, 0.2]), np.array([True, True, False, True, False])
    )
    np.testing.assert_allclose(masked, [0.2, 0.4, 0.0, 0.4, 0.0])


def test_masked_probabilities_of_many_rows_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), size=50)
    many = rng.random((50, 5)) < 0.5
    many[:, 0] = True
    together = masked_probabilities(probabilities, many)
    for row in range(50):
        np.testing.assert_array_equal(
            together[row], masked_probabilities(probabilities[row], many[row])
        )


def test_where_the_policy_gives_no_weight_to_valid_actions_they_are_equal() -> None:
    masked = masked_probabilities(np.array([0, 0, 1.0, 0, 0]), np.array([1, 1, 0, 0, 0], bool))
    np.testing.assert_allclose(masked, [0.5, 0.5, 0, 0, 0])


@given(mask=masks, probabilities=weights, threshold=st.floats(0.0, 1.0))
def test_a_masked_action_is_valid(mask, probabilities, threshold) -> None:
    # As in the simulator: an exit never stands alone.
    mask = mask | np.array([bool(mask[2] or mask[4]), False, False, False, False])
    assert mask[masked_action(probabilities, mask, threshold)]


@pytest.mark.parametrize(
    ("probabilities", "valid_actions", "expected"),
    [
        ([0.5, 0.2, 0.1, 0.1, 0.1], {0, 1, 3}, 0),
        ([0.1, 0.2, 0.5, 0.15, 0.05], {0, 1, 3}, 1),
        ([0.1, 0.2, 0.1, 0.5, 0.1], {0, 1, 3}, 3),
        ([0.9, 0.02, 0.02, 0.03, 0.03], {1, 3}, 3),
    ],
)
def test_when_flat_the_most_probable_valid_action_is_taken(
    probabilities, valid_actions, expected
) -> None:
    mask = np.isin(np.arange(5), list(valid_actions))
    assert masked_action(np.array(probabilities), mask) == expected


@pytest.mark.parametrize(("exit_action", "mask"), [(2, {0, 2}), (4, {0, 4})])
@pytest.mark.parametrize(
    ("exit_share", "threshold", "exits"),
    [(0.51, 0.5, True), (0.5, 0.5, False), (0.3, 0.2, True), (0.7, 0.8, False), (0.9, 0.8, True)],
)
def test_an_exit_is_taken_where_its_share_exceeds_the_threshold(
    exit_action, mask, exit_share, threshold, exits
) -> None:
    # Half of the weight lies on actions that are not valid: only the shares count.
    probabilities = np.full(5, 0.5 / 3)
    probabilities[0] = 0.5 * (1.0 - exit_share)
    probabilities[exit_action] = 0.5 * exit_share
    chosen = masked_action(probabilities, np.isin(np.arange(5), list(mask)), threshold)
    assert chosen == (exit_action if exits else 0)
