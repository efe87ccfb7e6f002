"""What a flat, a long and a short agent would do, and the one action of freqtrade's strategies."""

from __future__ import annotations

import numpy as np
import pytest
from freqtrade.freqai.RL.Base3ActionRLEnv import Actions as Three
from freqtrade.freqai.RL.Base4ActionRLEnv import Actions as Four
from freqtrade.freqai.RL.Base5ActionRLEnv import Actions as Five

from mtf_scalper.freqai.actions import describe_codes, prediction_frame
from mtf_scalper.settings import Settings, TradeRules
from mtf_scalper.simulator.types import five_actions

NONE = np.zeros(4, dtype=bool), np.zeros(4, dtype=bool)
# Neutral, Long_enter, Long_exit, Short_enter, Short_exit
ROWS = np.array(
    [
        [0.10, 0.05, 0.60, 0.20, 0.05],  # flat: short; long: leave; short: stay
        [0.30, 0.05, 0.35, 0.10, 0.20],  # flat: out; long: leave; short: stay
        [0.20, 0.05, 0.25, 0.10, 0.40],  # flat: out; both leave, the short with more ease
        [0.00, 0.00, 0.00, 0.00, 0.00],  # no prediction
    ]
)


def frame_of(entry: str, signals=NONE, **settings):
    rules = TradeRules(entry=entry, can_short=settings.pop("can_short", True))
    given = Settings(rules=rules, **settings)
    return prediction_frame([ROWS[None]] * 3, signals, given)


def test_the_largest_of_all_five_is_no_decision() -> None:
    """Row 0: 'Long_exit' is largest, and means nothing to an agent that wants to go short."""
    frame = frame_of("any")
    assert frame["&-action_flat"].tolist() == [3, 0, 0, 0]
    assert frame["&-action_long"].tolist() == [2, 2, 2, 0]
    assert frame["&-action_short"].tolist() == [0, 0, 4, 0]
    assert frame["&-action"].tolist() == [3, 2, 4, 0]
    assert frame["&-action_confidence"].tolist() == [0.20, 0.35, 0.40, 0.0]


def test_entries_follow_the_classic_rule_and_can_short() -> None:
    long = np.array([True, True, False, True])
    signals = long, np.zeros(4, dtype=bool)
    assert frame_of("always", signals)["&-action_flat"].tolist() == [1, 1, 0, 0]
    assert frame_of("classic", signals)["&-action_flat"].tolist() == [0, 0, 0, 0]
    assert frame_of("any", can_short=False)["&-action_flat"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("n_actions", "theirs"), [(3, Three), (4, Four), (5, Five)])
def test_codes_are_those_of_freqtrades_classes(n_actions: int, theirs: type) -> None:
    assert describe_codes(Settings(n_actions=n_actions, **OF_FREQTRADE)) == {
        action.value: action.name for action in theirs
    }


OF_FREQTRADE = {"fills": "freqtrade_env", "reward": "freqtrade_example"}


@pytest.mark.parametrize("n_actions", [3, 4, 5])
def test_freqtrades_environments_show_the_most_probable_of_their_own_actions(
    n_actions: int,
) -> None:
    own = np.random.default_rng(3).dirichlet(np.ones(n_actions), 200)
    spread = own[:, list(five_actions(n_actions))]
    none = np.zeros(200, dtype=bool), np.zeros(200, dtype=bool)
    settings = Settings(n_actions=n_actions, **OF_FREQTRADE)
    frame = prediction_frame([spread[None]] * 3, none, settings)
    np.testing.assert_array_equal(frame["&-action"], own.argmax(axis=1))
    np.testing.assert_array_equal(frame["&-action_confidence"], own.max(axis=1))
    allowed = {3: ({0, 1, 2}, {0, 2}, {0, 1}), 4: ({0, 2, 3}, {0, 1}, {0, 1})}
    allowed[5] = ({0, 1, 3}, {0, 2}, {0, 4})
    for name, codes in zip(("flat", "long", "short"), allowed[n_actions], strict=True):
        assert set(frame[f"&-action_{name}"]) == codes
