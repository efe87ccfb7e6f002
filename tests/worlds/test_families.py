"""Draws of planted markets: the same for the same arguments, within their ranges, and learnable."""

from __future__ import annotations

import numpy as np
import pytest

from mtf_scalper.errors import SettingsError
from mtf_scalper.worlds.families import Form, Half, family_draw, family_market
from mtf_scalper.worlds.planted_reference import reference_targets

DRAWS = [family_draw(half, index) for half in Half for index in range(12)]


def test_the_same_arguments_give_the_same_market_and_others_another() -> None:
    draw = family_draw("choosing", 3)
    assert family_draw("choosing", 3) == draw
    assert family_draw("reporting", 3) != draw
    first, again, other = (family_market(draw, seed, 500).market for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.features, again.features)
    np.testing.assert_array_equal(first.ohlc, again.ohlc)
    assert not np.array_equal(first.ohlc, other.ohlc)


def test_draws_lie_in_their_ranges_and_every_form_occurs() -> None:
    assert {draw.form for draw in DRAWS} == set(Form)
    for draw in DRAWS:
        assert 2_000 <= draw.n_candles <= 30_000
        assert 5 <= draw.n_features <= 200
        assert 1 <= draw.n_informative <= draw.n_features
        assert 1.0 <= draw.spec.half_life <= 100.0
    assert {draw.entry_share is None for draw in DRAWS} == {True, False}
    assert {draw.has_rules for draw in DRAWS} == {True, False}


@pytest.mark.parametrize("form", [form for form in Form if form is not Form.DRIFT])
def test_a_longer_market_begins_with_the_rows_of_a_shorter_one(form: Form) -> None:
    draw = next(draw for draw in DRAWS if draw.form is form)
    short, long = (family_market(draw, 1, n).market for n in (400, 600))
    np.testing.assert_array_equal(long.features[:400], short.features)
    np.testing.assert_array_equal(long.ohlc[:400], short.ohlc)


@pytest.mark.parametrize("draw", DRAWS[:6], ids=lambda draw: str(draw.form))
def test_candles_are_candles_and_who_knows_the_signal_earns(draw) -> None:
    planted = family_market(draw, 1, 4000)
    opened, high, low, close = planted.market.ohlc.T
    assert (high >= np.maximum(opened, close)).all()
    assert (low <= np.minimum(opened, close)).all()
    np.testing.assert_allclose(opened[1:], close[:-1])
    sides = reference_targets(planted)
    returns = np.diff(np.log(opened))
    earned = float((sides[:-2] * returns[1:]).sum() - 0.0005 * np.abs(np.diff(sides)).sum())
    assert earned > 0.0
    assert np.isfinite(planted.market.features).all()


def test_what_is_seen_through_a_sign_alone_no_line_knows() -> None:
    """Of a product draw the squared correlation with the signal is near 0, of a linear one not."""
    best = {}
    for form in (Form.LINEAR, Form.PRODUCT):
        draw = next(
            draw
            for draw in (family_draw("choosing", index) for index in range(120))
            if draw.form is form and (form is Form.LINEAR or draw.sign_share > 0.95)
        )
        planted = family_market(draw, 1, 8000)
        signal = planted.expected_return / draw.spec.strength
        features = planted.market.features
        best[form] = max(abs(np.corrcoef(column, signal)[0, 1]) for column in features.T)
    assert best[Form.LINEAR] > 0.3
    assert best[Form.PRODUCT] < 0.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("neither", 0), "half: 'neither'"), (("choosing", -1), "index: -1")],
)
def test_bad_arguments_are_named(arguments: tuple[str, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        family_draw(*arguments)
    with pytest.raises(SettingsError, match="seed -1"):
        family_market(family_draw("choosing", 0), -1)
