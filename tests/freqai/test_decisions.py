"""What the model keeps for the strategy of an agent that sees its position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from freqtrade.strategy import IStrategy

from mtf_scalper.errors import MarketError
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.simulator.observation import flat_state, position_state

PAIR = "BTC/USDT:USDT"
LONG = position_state(
    1, 100.0, 103.0, 104.0, 98.0, age_candles=7, age_limit=48, fee_rate=0.0005, leverage=2.0
)
AT = np.datetime64("2024-01-30T12:00", "ns")


def test_a_backtest_that_finds_its_predictions_still_has_the_network_at_hand(
    make_config: Callable[..., dict[str, Any]],
    make_strategy: Callable[..., IStrategy],
    unselected: Callable[..., dict[str, Any]],
    candles: pd.DataFrame,
) -> None:
    """Models are reused; predictions on disk are written, and made again."""
    config = make_config(unselected(add_state_info=True, train_cycles=5))
    strategy = make_strategy(config)
    frames, answers = [], []
    for is_first in (True, False):
        model = MtfScalperRLModel(config=config)
        if not is_first:
            model.train = None  # type: ignore[assignment, method-assign]
        frames.append(model.start(candles.copy(), {"pair": PAIR}, strategy))
        saved = list((model.full_path / "backtesting_predictions").glob("*.feather"))
        assert len(saved) == 1
        states = (flat_state(), LONG)
        answers.append([model.decisions.probabilities(PAIR, AT, state) for state in states])
    names = ["date", "do_predict", *columns.PREDICTIONS]
    pd.testing.assert_frame_equal(frames[0][names], frames[1][names])
    np.testing.assert_array_equal(answers[0], answers[1])
    flat, in_trade = answers[0]
    row = frames[0].loc[frames[0]["date"] == pd.Timestamp(AT, tz="UTC")]
    np.testing.assert_allclose(flat, row[list(columns.PROBABILITIES)].to_numpy()[0], atol=1e-6)
    assert np.abs(in_trade - flat).max() > 1e-3

    before = np.datetime64("2024-01-30T00:05", "ns")  # conv_width is 4: no full window yet
    for pair, date in ((PAIR, before), ("ETH/USDT:USDT", AT)):
        with pytest.raises(MarketError, match=f"^{pair}: no model is at hand for the candle of "):
            model.decisions.probabilities(pair, date, LONG)
