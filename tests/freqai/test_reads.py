"""Which columns a strategy reads, and what it is told about them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from freqtrade.templates import FreqaiExampleStrategy

from mtf_scalper.freqai.reads import column_warnings, columns_read, sets_classic_entries
from mtf_scalper.freqai.strategy import HybridStrategy
from mtf_scalper.settings import Settings

SOURCE = """
class Mine:
    plot_config = {{"subplots": {{"&-plotted": {{}}}}}}

    def set_freqai_targets(self, dataframe, metadata):
        dataframe["&-target"] = 0
        return dataframe

    def populate_entry_trend(self, df, metadata):
        {body}
        return df
"""


def strategy_of(tmp_path: Path, body: str) -> Any:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE.format(body=body), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mine", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    strategy = module.Mine()
    strategy.__file__ = str(path)
    return strategy


def test_what_is_plotted_or_a_target_is_not_read(tmp_path: Path) -> None:
    strategy = strategy_of(tmp_path, 'df["x"] = (df["&-action_flat"] == 3) & (df["&-a"] > 2)')
    reads = columns_read(strategy)
    assert reads.names == {"&-action_flat", "&-a"}
    assert reads.codes == {"&-action_flat": {3}}


@pytest.mark.parametrize(
    ("body", "settings", "words"),
    [
        ('df["x"] = df["&-s_close"] > 0', {}, "Mine reads '&-s_close', which no agent predicts"),
        ('df["x"] = df["&-action"] == 2', {}, "Mine takes exits from '&-action', one action"),
        (
            'df["x"] = df["&-action_long"] == 2',
            {"add_state_info": True},
            "they depend on the trade",
        ),
        ('df["x"] = df["&-prob_long_exit"] > 0.5', {}, "a share among all actions"),
        (
            'df["x"] = df["&-action"] == 4',
            {"fills": "freqtrade_env", "reward": "freqtrade_example", "n_actions": 4},
            "compares '&-action' with 4, which an environment of 4 actions does not have: "
            "0 Neutral, 1 Exit, 2 Long_enter, 3 Short_enter",
        ),
        ('df["x"] = df["&-action_flat"] == 1', {}, None),
        ('df["x"] = df["&-action_mean"]', {}, None),
        ('df["x"] = df["&-action"] == 3', {}, None),
    ],
)
def test_a_column_that_cannot_mean_what_is_assumed_is_named(
    tmp_path: Path, body: str, settings: dict[str, Any], words: str | None
) -> None:
    warnings = column_warnings(strategy_of(tmp_path, body), Settings(**settings))
    if words is None:
        assert warnings == []
    else:
        (warning,) = warnings
        assert words in warning
        assert "\n" not in warning


def test_the_stock_example_reads_a_column_of_a_regressor(make_config) -> None:
    strategy = FreqaiExampleStrategy.FreqaiExampleStrategy(make_config())
    (warning,) = column_warnings(strategy, Settings())
    assert "FreqaiExampleStrategy reads '&-s_close'" in warning
    assert not sets_classic_entries(strategy)


def test_the_packages_own_strategy_is_told_nothing(make_config) -> None:
    strategy = HybridStrategy(make_config())
    assert column_warnings(strategy, Settings(add_state_info=True)) == []
    assert sets_classic_entries(strategy)
