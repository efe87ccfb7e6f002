"""What the strategy reads out of FreqAI's columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.freqai import columns, opinions
from mtf_scalper.settings import EntryMode
from mtf_scalper.simulator.types import Side

ENTERS_AND_LEAVES = np.array([0.0, 0.4, 0.3, 0.0, 0.3])
ZEROS, MISSING = np.zeros(5), np.full(5, np.nan)


@pytest.mark.parametrize(
    ("chances", "do_predict", "has_opinion"),
    [
        (ENTERS_AND_LEAVES, 1, True),
        (ENTERS_AND_LEAVES, 0, False),  # a model's first prediction, or an outlier
        (ENTERS_AND_LEAVES, 2, False),  # an expired model
        (ENTERS_AND_LEAVES, np.nan, False),
        (ZEROS, 0, False),  # what FreqAI fills gaps with
        (ZEROS, 1, False),
        (MISSING, 1, False),  # a candle that it could not join
        (np.array([0.0, 0.4, np.nan, 0.0, 0.3]), 1, False),
    ],
)
def test_rows_that_are_filled_or_missing_are_no_opinion(
    with_predictions: Callable[..., pd.DataFrame],
    chances: np.ndarray,
    do_predict: float,
    has_opinion: bool,
) -> None:
    frame = with_predictions(pd.DataFrame(index=range(2)), np.tile(chances, (2, 1)), do_predict)
    everywhere = np.ones(2, dtype=np.bool_)
    assert (opinions.predicted(frame) == has_opinion).all()
    action = opinions.entry_actions(frame, everywhere, everywhere, EntryMode.ANY, True)
    assert action.tolist() == [1 if has_opinion else 0] * 2
    for side in (Side.LONG, Side.SHORT):
        leave = opinions.exit_chances(frame, side)
        assert (leave == (1.0 if has_opinion else 0.0)).all()


def test_a_frame_without_predicted_columns_has_no_opinion() -> None:
    frame = pd.DataFrame({"close": [1.0, 2.0]})
    assert not opinions.predicted(frame).any()
    assert not opinions.exit_chances(frame, Side.LONG).any()
    assert opinions.probabilities(frame).shape == (2, len(columns.PROBABILITIES))


def test_one_prediction_is_asked_as_a_column_is() -> None:
    chances = np.array([0.3, 0.1, 0.2, 0.3, 0.1])
    assert opinions.exit_chance(chances, Side.LONG) == pytest.approx(0.2 / 0.5)
    assert opinions.exit_chance(chances, Side.SHORT) == pytest.approx(0.1 / 0.4)
