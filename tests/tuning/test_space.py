"""The search space: names, ranges and conditions are checked, and the configuration is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtf_scalper.errors import SettingsError
from mtf_scalper.settings import Settings, TradeRules
from mtf_scalper.tuning.space import Dimension, SearchSpace, plain_value, search_space

SETTINGS = Settings(rules=TradeRules(stoploss=-0.1, max_trade_duration_candles=48))
FEATURES = Settings(policy_inputs="features")


class Lowest:
    """An Optuna trial that takes the lowest value or the first choice of everything."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def suggest_float(self, name, low, high, *, log=False, step=None):
        self.asked.append(name)
        return low

    suggest_int = suggest_float

    def suggest_categorical(self, name, choices):
        self.asked.append(name)
        return choices[0]


def space_of(tmp_path: Path, text: str, base: Settings = SETTINGS) -> SearchSpace:
    file = tmp_path / "space.toml"
    file.write_text(text, encoding="utf-8")
    return search_space(base, file)


def names_of(space: SearchSpace) -> set[str]:
    return {each.name for each in space.dimensions}


def dimension(space: SearchSpace, name: str) -> Dimension:
    return next(each for each in space.dimensions if each.name == name)


def test_the_default_space_is_that_of_what_learns():
    assert {"learning_rate", "dropout", "net_arch"} <= names_of(search_space(SETTINGS))
    assert not {"fee_warmup", "gamma"} & names_of(search_space(SETTINGS))
    assert {"fee_warmup", "keep_bias"} <= names_of(search_space(FEATURES))
    from_rollouts = names_of(search_space(Settings(advantage="gae")))
    assert {"gamma", "gae_lambda", "ent_coef"} <= from_rollouts
    assert not {"dropout", "weight_decay", "fee_warmup"} & from_rollouts


@pytest.mark.parametrize("base", [SETTINGS, FEATURES, Settings(advantage="gae")])
def test_the_configuration_is_in_its_own_space(base):
    space = search_space(base)
    values = space.base_values()
    settings = space.settings(values)
    for each in space.dimensions:
        assert plain_value(settings, each.name) == plain_value(base, each.name)
        if not each.choices:
            assert each.low <= values[each.name] <= each.high


def test_a_range_is_widened_to_the_value_of_the_configuration():
    assert dimension(search_space(SETTINGS), "learning_rate").low == 1e-5
    mis_set = search_space(SETTINGS.changed(learning_rate=1e-7))
    assert dimension(mis_set, "learning_rate").low == 1e-7
    nets = dimension(search_space(SETTINGS.changed(net_arch=(7,))), "net_arch")
    assert nets.choices[0] == [7]
    # What is switched off by 0 stays so by default: it has no place on a log scale.
    assert "weight_decay" not in names_of(search_space(SETTINGS.changed(weight_decay=0.0)))


def test_a_file_changes_the_space(tmp_path):
    text = "learning_rate = false\n[rules.stoploss]\nlow = -0.2\nhigh = -0.02\n"
    space = space_of(tmp_path, text)
    assert names_of(space) == names_of(search_space(SETTINGS)) - {"learning_rate"} | {
        "rules.stoploss"
    }
    alone = space_of(tmp_path, f"defaults = false\n{text}")
    assert names_of(alone) == {"rules.stoploss"}
    assert alone.settings({"rules.stoploss": -0.05}).rules == SETTINGS.rules.changed(stoploss=-0.05)


def test_what_depends_on_something_else_is_tried_with_it_alone(tmp_path):
    text = """
        defaults = false
        [fee_warmup]
        low = 0.0
        high = 0.5
        when = { policy_inputs = "features" }
        [policy_inputs]
        choices = ["forecasts", "features"]
        [reward_parameters]
        rr = { low = 0.5, high = 2.0, when = { reward = ["exit_quality", "freqtrade_example"] } }
        [reward]
        choices = ["exit_quality", "log_return"]
    """
    space = space_of(tmp_path, text)
    trial = Lowest()
    assert space.suggested(trial) == {
        "policy_inputs": "forecasts",
        "reward": "exit_quality",
        "reward_parameters.rr": 0.5,
    }
    assert trial.asked == ["policy_inputs", "reward", "reward_parameters.rr"]
    assert space.base_values() == {"policy_inputs": "forecasts", "reward": "log_return"}
    settings = space.settings({"policy_inputs": "features", "reward_parameters.rr": 1.5})
    assert settings.policy_inputs == "features"
    assert settings.reward_parameters.rr == 1.5


def test_what_can_never_be_tried_is_no_part_of_the_space(tmp_path):
    text = "[gae_lambda]\nlow = 0.8\nhigh = 1.0\nwhen = { advantage = 'gae' }\n"
    assert "gae_lambda" not in names_of(space_of(tmp_path, text))
    text = "[dropout]\nlow = 0.1\nhigh = 0.2\nwhen = { net_arch = [[8]] }\n"
    assert "dropout" not in names_of(space_of(tmp_path, text + "[net_arch]\nchoices = [[16]]"))
    assert "dropout" in names_of(space_of(tmp_path, text + "[net_arch]\nchoices = [[16], [8]]"))


def test_what_is_switched_off_in_the_configuration_is_off_in_its_trial(tmp_path):
    space = space_of(tmp_path, "defaults = false\n[target_kl]\nlow = 0.01\nhigh = 0.1\n")
    assert space.base_values() == {}
    assert space.suggested(Lowest(), as_base=True) == {}
    assert space.suggested(Lowest()) == {"target_kl": 0.01}


def test_lists_go_to_a_database_as_texts_and_come_back():
    space = search_space(SETTINGS)
    nets = dimension(space, "net_arch")
    assert space.base_parameters()["net_arch"] == "[512, 512, 256]"
    assert nets.suggested(Lowest()) == [64, 64]
    assert space.settings({"net_arch": [64, 64]}).net_arch == (64, 64)


def test_the_configuration_of_a_trial_is_laid_over_the_users(tmp_path):
    text = """
        [rules.max_trade_duration_candles]
        low = 12
        high = 96
        [rules.stoploss]
        choices = [-0.1, -0.05]
        [window_size]
        low = 5
        high = 20
        [reward_parameters.rr]
        low = 0.5
        high = 2.0
    """
    space = space_of(tmp_path, text)
    values = {
        "learning_rate": 1e-4,
        "net_arch": [64, 64],
        "window_size": 7,
        "reward_parameters.rr": 2.0,
        "rules.max_trade_duration_candles": 24,
        "rules.stoploss": -0.05,
    }
    found = space.configuration(values, "mine")
    identifier = found["freqai"].pop("identifier")
    assert found == {
        "stoploss": -0.05,
        "freqai": {
            "conv_width": 7,
            "rl_config": {
                "learning_rate": 1e-4,
                "net_arch": [64, 64],
                "max_trade_duration_candles": 24,
                "model_reward_parameters": {"rr": 2.0},
            },
        },
    }
    assert identifier.startswith("mine_")
    others = space.configuration({**values, "window_size": 8}, "mine")
    assert others["freqai"]["identifier"] != identifier
    assert space.longest_trade == 96


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[learning_rat]\nlow = 1\nhigh = 2", "space.toml: learning_rat: unknown setting; did you"),
        ("[dropout]\nlow = 0.1\nhihg = 2", r"dropout\.hihg: unknown key; did you mean 'high'\?"),
        ("[dropout]\nlow = 0.1\nhigh = 2.0", "space.toml: dropout: Input should be less than 1"),
        ("[dropout]\nlow = 0.5\nhigh = 0.1", "dropout: low 0.5 is not below high 0.1"),
        ("[dropout]\nlow = 0.5", "dropout.high: None is no number"),
        ("[dropout]\nchoices = [0.1]\nlow = 0.5", "dropout: give low and high, or choices of it"),
        ("[dropout]\nlow = 0.0\nhigh = 0.5\nlog = true", "dropout: a log scale has a low above"),
        ("[dropout]\nlow = 0.0\nhigh = 0.5\nlog = 1", "dropout.log: 1 is neither true nor false"),
        ("[n_epochs]\nlow = 1\nhigh = 2.5", "n_epochs: low, high and step have to be whole"),
        ("[n_epochs]\nlow = 1\nhigh = 8\nstep = 2", "from 1 no steps of 2 lead to 8"),
        ("[n_epochs]\nlow = 2\nhigh = 8\nstep = 2", "configuration's 1 is no whole number of st"),
        ("[weight_decay]\nchoices = 3", "weight_decay.choices: 3 is no list"),
        ("[net_arch]\nchoices = [[0]]", "space.toml: net_arch.0: Input should be greater"),
        ("[cpu_count]\nlow = 1\nhigh = 2", "cpu_count: is no part of what is learned"),
        ("[rules.exit_confidence]\nlow = 0.4\nhigh = 0.6", "no configuration sets it; `freqtrade"),
        ("[rules.slippage_bps]\nlow = 0.0\nhigh = 1.0", "rules.slippage_bps: no configuration"),
        ("[rules.stoploss]\nlow = -0.1\nhigh = 0.1", "rules.stoploss: Input should be less than 0"),
        ("dropout = 0.3", "dropout: 0.3 is no table; write .dropout., or false"),
        ("dropout = ", "space.toml: Invalid value"),
        ("defaults = false", "no setting is left to search over"),
        (
            "[dropout]\nlow = 0.1\nhigh = 0.2\nwhen = { keep_bias = 2.0 }\n"
            "[keep_bias]\nlow = 0.1\nhigh = 2.0\nwhen = { dropout = 0.1 }",
            "dropout, keep_bias: each is tried only with another of them",
        ),
        ("[dropout]\nlow = 0.1\nhigh = 0.2\nwhen = { nothing = 2.0 }", "nothing: unknown setting"),
        ("[dropout]\nlow = 0.1\nhigh = 0.2\nwhen = [1]", r"dropout\.when: \[1\] is no table"),
        (
            "[dropout]\nlow = 0.1\nhigh = 0.2\nwhen = { advantage = 'exakt' }",
            r"space\.toml: dropout\.when: advantage: Input should be 'exact'",
        ),
        (
            "[dropout]\nlow = 0.1\nhigh = 0.2\nwhen = { net_arch = [32] }\n"
            "[net_arch]\nchoices = [[16], [32]]",
            r"space\.toml: dropout\.when: net_arch: Input should be",
        ),
        ("defaults = 'no'", "space.toml: defaults: 'no' is neither true nor false"),
        ("[dropout]\nlow = 0.1\nhigh = 0.2\nwhen = 3", "dropout.when: 3 is no table"),
        ("[dropout]\nlow = 0.1\nhigh = 0.2\nwhen = { gamma = nan }", "dropout.when.gamma: nan is"),
        ("[dropout]\nlow = 0.1\nhigh = 0.2\nstep = nan", "dropout.step: nan is no finite number"),
        ("[dropout]\nlow = 0.1\nhigh = 0.2\nstep = inf", "dropout.step: inf is no finite number"),
        ("[dropout]\nlow = 0.1\nhigh = 0.2\nstep = 1e-320", "no steps of 1e-320 lead to 0.2"),
        ("[dropout]\nlow = 0.1\nhigh = 0.2\nstep = ''", "dropout.step: '' is no number"),
        ("[n_epochs]\nlow = 1\nhigh = 8\nstep = 10000000000", "from 1 no steps of 10000000000"),
        (f"[dropout]\nlow = 0.1\nhigh = 1{'0' * 400}", "dropout.high: a whole number of more than"),
        (f"[dropout]\nlow = 0.1\nhigh = 1{'0' * 5000}", "space.toml: Exceeds the limit"),
        ("[dropout]\nchoices = [1979-05-27]", "dropout.choices: 1979-05-27 is a date or a time"),
        (f"dropout = {'[' * 3000}{']' * 3000}", "space.toml: lists or tables are nested too deep"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path, text, message):
    with pytest.raises(SettingsError, match=message) as caught:
        space_of(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_what_is_zero_has_no_place_on_a_log_scale_of_the_users(tmp_path):
    base = SETTINGS.changed(weight_decay=0.0)
    text = "[weight_decay]\nlow = 0.001\nhigh = 1.0\nlog = true\n"
    with pytest.raises(SettingsError, match=r"configuration's 0\.0 has no place on a log scale"):
        space_of(tmp_path, text, base)
