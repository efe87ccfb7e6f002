"""Nothing that a policy learns, or is scaled by, comes from after its training."""

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.errors import MarketError
from mtf_scalper.market.stored import RecordedPair
from mtf_scalper.ppo.policy import simulate
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator.types import Action, Side
from mtf_scalper.walk_forward.learned_window import learn_window, window_task
from mtf_scalper.walk_forward.sources import PlantedPairs
from mtf_scalper.walk_forward.walk import traded_market, walk
from mtf_scalper.walk_forward.windows import parse_timerange, rolling_windows

PAIR = "planted-linear"
N_DAYS = 2


def settings_of(**values):
    defaults = {
        "net_arch": (16,),
        "train_cycles": 6,
        "window_size": 5,
        "cpu_count": 1,
        "device": "cpu",
        "evidence": 0.0,
        # A few days have no evident forecast; of their features some policy is learned.
        "policy_inputs": "features",
        "learning_rate": 5e-3,
        "weight_average": 0.0,
        "keep_bias": 0.5,
        "rules": TradeRules(entry=EntryMode.ANY, max_trade_duration_candles=48),
    }
    return Settings(**{**defaults, **values})


def windows_of(embargo=50, timerange="20240201-20240203"):
    return rolling_windows(
        *parse_timerange(timerange), train_days=3, test_days=1, embargo_candles=embargo
    )


@pytest.fixture(scope="module")
def recorded():
    return PlantedPairs("linear", 1).load(PAIR, windows_of())


def disturbed(recorded, row):
    """Return the pair with all values from a row on replaced by others."""
    market = recorded.market
    rng = np.random.default_rng(0)
    features, ohlc = recorded.features.copy(), market.ohlc.copy()
    features[row:] += rng.normal(5.0, 3.0, features[row:].shape)
    ohlc[row:] *= 1.5
    changed = type(market)(
        features=features,
        ohlc=ohlc,
        dates=market.dates,
        pair=market.pair,
        feature_names=market.feature_names,
    )
    return RecordedPair(changed, features, recorded.candles)


def test_a_window_is_cut_where_it_says(recorded):
    window = windows_of()[0]
    task = window_task(recorded, window, settings_of(), seed=3)
    n_trained = 3 * 288 - 50
    n_held = int(np.ceil(0.15 * n_trained))
    assert len(task.seen) == n_trained - n_held
    assert len(task.choosing) == n_held
    assert task.seen.dates[0] == window.train_from.tz_localize(None)
    assert task.choosing.dates[-1] == window.train_to.tz_localize(None) - np.timedelta64(5, "m")
    # Four candles of history, then the day.
    assert (task.n_history, len(task.tested)) == (4, 4 + 288)
    assert task.tested.dates[4] == window.test_from.tz_localize(None)
    assert task.settings.random_state == task.seed == 3


def test_features_are_scaled_by_what_is_learned_on_alone(recorded):
    task = window_task(recorded, windows_of()[0], settings_of(), seed=3)
    assert task.seen.features.min() == pytest.approx(-1.0)
    assert task.seen.features.max() == pytest.approx(1.0)
    assert np.abs(task.tested.features).max() > 1.0


def test_constant_features_are_left_out(recorded):
    features = recorded.features.copy()
    features[:864, 2] = 7.0
    other = RecordedPair(recorded.market, features, recorded.candles)
    task = window_task(other, windows_of()[0], settings_of(), seed=3)
    assert task.seen.n_features == task.tested.n_features == recorded.market.n_features - 1


def test_scaling_is_that_of_freqais_pipeline(recorded):
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    task = window_task(recorded, windows_of()[0], settings_of(), seed=3)
    begin = recorded.row_of(windows_of()[0].train_from)
    seen = recorded.features[begin : begin + len(task.seen)]
    scaler = preprocessing.MinMaxScaler((-1, 1)).fit(seen)
    np.testing.assert_array_equal(task.seen.features, scaler.transform(seen).astype(np.float32))


def test_the_future_changes_nothing_that_is_learned_or_predicted_before_it(recorded):
    settings, (first, second) = settings_of(), windows_of()
    row = recorded.row_of(second.test_from)
    ours = learn_window(window_task(recorded, first, settings, seed=1))
    theirs = learn_window(window_task(disturbed(recorded, row), first, settings, seed=1))
    np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
    # The same from the middle of a test on: what is predicted before stays as it is.
    middle = row - 100
    cut = learn_window(window_task(disturbed(recorded, middle), first, settings, seed=1))
    np.testing.assert_array_equal(ours.probabilities[:-100], cut.probabilities[:-100])
    assert not np.array_equal(ours.probabilities[-100:], cut.probabilities[-100:])


def test_the_embargo_keeps_its_candles_out_of_the_training(recorded):
    settings, window = settings_of(), windows_of(embargo=50)[0]
    row = recorded.row_of(window.train_to)
    ours = window_task(recorded, window, settings, seed=1)
    theirs = window_task(disturbed(recorded, row), window, settings, seed=1)
    for name in ("seen", "choosing"):
        for array in ("features", "ohlc"):
            one, other = (getattr(getattr(task, name), array) for task in (ours, theirs))
            np.testing.assert_array_equal(one, other)
    without = windows_of(embargo=0)[0]
    assert len(window_task(recorded, without, settings, seed=1).seen) > len(ours.seen)


def test_policies_take_turns_at_one_account(recorded):
    # Nothing is held back, so that the last weights are kept, and they trade.
    settings, windows = settings_of(validation_share=0.0), windows_of()
    learned = [learn_window(window_task(recorded, each, settings, seed=1)) for each in windows]
    found = walk(recorded, windows, learned, settings)
    assert len(found.market) == N_DAYS * 288 + 1
    assert found.market.dates[0] == windows[0].test_from.tz_localize(None)
    assert found.market.dates[-1] == windows[-1].test_to.tz_localize(None)
    for number, part in enumerate(learned):
        rows = slice(number * 288, (number + 1) * 288)
        np.testing.assert_array_equal(found.probabilities[rows], part.probabilities)
    # Every entry is what the policy of that candle's window thought best.
    assert found.run.trades
    for trade in found.run.trades:
        row = found.probabilities[trade.open_row - 1]
        best = [Action.NEUTRAL, Action.LONG_ENTER, Action.SHORT_ENTER]
        entered = best[int(np.argmax(row[best]))]
        assert entered is (Action.LONG_ENTER if trade.side is Side.LONG else Action.SHORT_ENTER)


def test_without_history_nothing_is_entered_at_the_start_of_a_test(recorded):
    settings, windows = settings_of(validation_share=0.0), windows_of(embargo=0)
    learned = [
        learn_window(window_task(recorded, each, settings, seed=1, with_history=False))
        for each in windows
    ]
    assert np.isnan(learned[0].probabilities[:4]).all()
    found = walk(recorded, windows, learned, settings)
    assert (found.probabilities[288 : 288 + 4, Action.NEUTRAL] == 1.0).all()
    assert not [t for t in found.run.trades if t.open_row - 1 in range(288, 292)]


def test_an_agent_that_sees_its_position_is_asked_again_in_its_own_window(recorded):
    settings, windows = settings_of(add_state_info=True, validation_share=0.0), windows_of()
    learned = [learn_window(window_task(recorded, each, settings, seed=1)) for each in windows]
    found = walk(recorded, windows, learned, settings)
    # One window alone, traded by the simulator itself on the task's own market.
    task = window_task(recorded, windows[1], settings, seed=1)
    alone = simulate(learned[1].loaded(task.settings), task.tested)
    day, offset = 288, task.n_history
    ours = {
        (t.open_row - day, t.close_row - day, str(t.exit_reason))
        for t in found.run.trades
        if t.open_row > day + 60
    }
    theirs = {
        (t.open_row - offset, t.close_row - offset, str(t.exit_reason))
        for t in alone.trades
        if t.open_row - offset > 60
    }
    together = ours & theirs
    # The first trades may differ: the walk brings one along. The last one ends with the data.
    assert len(together) >= max(1, len(theirs) - 2)


def test_a_period_without_earlier_candles_is_named(recorded):
    windows = windows_of(timerange="20240131-20240202")
    with pytest.raises(MarketError, match="needs candles and features from then on"):
        window_task(recorded, windows[0], settings_of(), seed=1)


def test_a_period_after_the_candles_is_named(recorded):
    windows = windows_of(timerange="20240204-20240206")
    with pytest.raises(MarketError, match="no candles from 2024-02-04"):
        window_task(recorded, windows[0], settings_of(), seed=1)


def test_classic_entries_are_off_where_nothing_is_predicted(recorded):
    windows = windows_of()
    predicted = np.zeros(N_DAYS * 288 + 1, dtype=bool)
    predicted[10:20] = True
    market = traded_market(recorded, windows, predicted)
    assert not market.entry_long[~predicted].any()
    assert pd.Timestamp(market.dates[0]) == pd.Timestamp("2024-02-01")
