"""A policy meets the features it was trained on, by name and order, or one line says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from stable_baselines3 import PPO

from mtf_scalper.errors import MarketError
from mtf_scalper.evaluation.importance import permutation_importance
from mtf_scalper.evaluation.report import evaluate
from mtf_scalper.market.market import Market
from mtf_scalper.ppo.policy import Policy, simulate
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.training import train

NAMES = ("rsi", "adx", "mfi")

DIFFERENT = {
    "swapped": (
        ("adx", "rsi", "mfi"),
        "feature 'adx' is number 1, in the model's training 2",
    ),
    "missing": (
        ("rsi", "adx"),
        "feature 'mfi' of the model's training is missing (1 missing, 0 unknown, 3 trained)",
    ),
    "more": (
        ("rsi", "adx", "mfi", "cci"),
        "feature 'cci' is not known to the model (0 missing, 1 unknown, 3 trained)",
    ),
    "renamed": (
        ("rsi", "adx", "MFI"),
        "feature 'mfi' of the model's training is missing, 'MFI' is not known to the model "
        "(1 missing, 1 unknown, 3 trained)",
    ),
}


def named(make_market: Any, names: tuple[str, ...] = NAMES, **fields: Any) -> Market:
    market: Market = make_market(
        n_features=len(names), feature_names=names, pair="SOL/USDT:USDT", **fields
    )
    return market


@pytest.fixture(scope="module", params=["gae", "exact"])
def policy(request: Any, make_market: Any, tiny_settings: Any) -> Policy:
    return train(named(make_market), tiny_settings(advantage=request.param)).policy


@pytest.fixture(params=DIFFERENT)
def other(request: Any, make_market: Any) -> tuple[Market, str]:
    names, problem = DIFFERENT[request.param]
    return named(make_market, names), problem


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(MarketError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


CURE = "give the features of the policy's training, in their order"


def test_simulate_compares_names(policy: Policy, other: tuple[Market, str]) -> None:
    market, problem = other
    assert refusal(simulate, policy, market) == f"SOL/USDT:USDT: {problem}; {CURE}"
    assert refusal(permutation_importance, policy, market) == f"SOL/USDT:USDT: {problem}; {CURE}"


def test_a_frame_is_compared_where_no_market_is(policy: Policy, make_market: Any) -> None:
    market = named(make_market)
    frame = pd.DataFrame(market.features, columns=list(NAMES))
    np.testing.assert_array_equal(
        policy.probabilities(frame), policy.probabilities(market.features)
    )
    swapped = frame[["adx", "rsi", "mfi"]]
    assert DIFFERENT["swapped"][1] in refusal(policy.probabilities, swapped)


def test_a_checkpoint_remembers_names(policy: Policy, make_market: Any, tmp_path: Path) -> None:
    policy.save(tmp_path / "policy.zip")
    loaded = Policy.load(tmp_path / "policy.zip", policy.settings)
    assert loaded.feature_names == policy.feature_names == NAMES
    market = named(make_market)
    np.testing.assert_array_equal(simulate(loaded, market).equity, simulate(policy, market).equity)
    # FreqAI loads it as stock PPO.
    stock = PPO.load(tmp_path / "policy.zip", device="cpu")
    swapped = named(make_market, ("adx", "rsi", "mfi"))
    assert "number 1" in refusal(simulate, Policy(stock, policy.settings), swapped)


def test_a_checkpoint_without_names_is_of_an_older_version(
    policy: Policy, make_market: Any, tmp_path: Path
) -> None:
    older = PPO.load(_saved(policy, tmp_path), device="cpu")
    del older.feature_names
    older.save(tmp_path / "older.zip")
    loaded = Policy.load(tmp_path / "older.zip", policy.settings)
    assert loaded.feature_names == ()
    market = named(make_market, ("a", "b", "c"))
    expected = simulate(policy, named(make_market)).equity
    np.testing.assert_array_equal(simulate(loaded, market).equity, expected)


def test_going_on_compares_names(
    policy: Policy, other: tuple[Market, str], make_market: Any
) -> None:
    market, problem = other
    message = refusal(train, market, policy.settings, initial=policy.model)
    assert message == (
        f"SOL/USDT:USDT: {problem}; go on with the features of the first training, in their "
        "order, or begin anew"
    )
    assert train(named(make_market), policy.settings, initial=policy.model).policy


@pytest.mark.parametrize("kind", DIFFERENT)
def test_validation_and_several_markets_are_compared(
    kind: str, make_market: Any, tiny_settings: Any
) -> None:
    names, problem = DIFFERENT[kind]
    market, other = named(make_market), named(make_market, names)
    settings = tiny_settings(advantage="exact")
    message = refusal(train, market, settings, other)
    assert message.startswith("SOL/USDT:USDT: the validation market has other features (")
    assert message.endswith(f": {problem}")
    message = refusal(train, [market, other], settings)
    assert message.startswith("SOL/USDT:USDT: has other features (")
    assert message.endswith(f": {problem}")


def test_evaluate_compares_the_markets_of_run_and_oracle(
    policy: Policy, other: tuple[Market, str], make_market: Any
) -> None:
    market, problem = other
    run, best = simulate(policy, named(make_market)), oracle(named(make_market), policy.settings)
    report = evaluate(run, named(make_market), policy.settings, oracle=best, n_draws=2)
    assert report.oracle is not None
    for name, options in (("run", {}), ("oracle", {"oracle": best})):
        played = run if name == "run" else oracle(market, policy.settings)
        message = refusal(evaluate, played, market, policy.settings, **options)
        assert message == (
            f"SOL/USDT:USDT: {problem}; evaluate the {name} on the market that it was traded on"
        )


def test_names_on_one_side_only_are_told(
    policy: Policy, make_market: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Arrays without names worked with a policy of named features, and go on to."""
    run = simulate(policy, make_market(n_features=3))
    expected = simulate(policy, named(make_market)).equity
    np.testing.assert_array_equal(run.equity, expected)
    (record,) = caplog.records
    assert record.getMessage() == (
        "market: features have names in one of training and use alone, and are not compared; give "
        "feature_names to both"
    )
    with pytest.raises(MarketError, match="the policy was trained on 3 features, got shape"):
        simulate(policy, make_market(n_features=2))


def _saved(policy: Policy, folder: Path) -> Path:
    policy.save(folder / "whole.zip")
    return folder / "whole.zip"
