"""``train`` with exact advantages: what it learns, keeps, reports and refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markets import hinting_market
from stable_baselines3 import PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtf_scalper.errors import MarketError, SettingsError
from mtf_scalper.ppo.exact_training import as_judged
from mtf_scalper.ppo.forecasts import N_FORECASTS
from mtf_scalper.ppo.policy import Policy, simulate
from mtf_scalper.ppo.selection import held_back
from mtf_scalper.records.events import EventLog, Progress, read_events
from mtf_scalper.records.trainings import FORETOLD
from mtf_scalper.rollouts.environments import make_vec_env
from mtf_scalper.settings import Advantage, Settings
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.training import TrainResult, train


@pytest.fixture(scope="module")
def tiny() -> Settings:
    return Settings(
        window_size=4, net_arch=(16,), batch_size=32, n_epochs=1, train_cycles=3, cpu_count=1
    )


def weights(result: TrainResult) -> dict[str, np.ndarray]:
    state = result.policy.model.policy.state_dict()
    # Forecasts are fitted anew in every training.
    own = {name: value for name, value in state.items() if not name.startswith("forecasts.")}
    return {name: value.numpy().copy() for name, value in own.items()}


def distance(first: TrainResult, second: TrainResult) -> float:
    ours, theirs = weights(first), weights(second)
    return float(sum(np.abs(ours[name] - theirs[name]).sum() for name in ours))


def test_settings_alone_learn_to_trade_a_market_without_entries_or_exits() -> None:
    """Seeded; doing nothing gets 0, the hindsight optimum 1, and half of it is asked for."""
    settings = Settings(net_arch=(32,), batch_size=32, window_size=2, cpu_count=1)
    result = train(hinting_market(1), settings)
    test = hinting_market(2)
    run = simulate(result.policy, test)
    assert run.log_return > 0.5 * oracle(test, result.policy.settings).log_return
    assert {trade.side for trade in run.trades} == {1, -1}
    shares = [row.oracle_share for row in result.history]
    assert shares[-1] is not None
    assert max(share for share in shares if share is not None) > 0.5


def test_position_in_view_learns_too_and_loads_as_stock_ppo(tmp_path: Path) -> None:
    settings = Settings(
        net_arch=(32,),
        batch_size=32,
        window_size=2,
        cpu_count=1,
        add_state_info=True,
        rules={"entry": "any", "max_trade_duration_candles": 20, "stoploss": -0.02},
    )
    result = train(hinting_market(1, 800), settings)
    test = hinting_market(2, 400)
    run = simulate(result.policy, test)
    assert run.log_return > 0.4 * oracle(test, settings).log_return
    result.policy.save(tmp_path / "model.zip")
    stock = PPO.load(tmp_path / "model.zip", device="cpu")
    assert type(stock) is PPO
    again = simulate(Policy(stock, settings), test)
    assert again.trades == run.trades
    env = make_vec_env(test, settings, n_envs=8)
    seen = env.reset()
    for _ in range(50):
        ours = result.policy.model.predict(seen, deterministic=True)[0]
        np.testing.assert_array_equal(stock.predict(seen, deterministic=True)[0], ours)
        seen = env.step(ours)[0]


@pytest.mark.parametrize("sees_position", [False, True])
def test_the_same_seed_gives_the_same_policy(
    make_market: Any, tiny: Settings, sees_position: bool
) -> None:
    market = make_market(n_candles=200)
    rules = {"entry": "any", "max_trade_duration_candles": 10}
    settings = tiny.changed(add_state_info=sees_position, rules=rules)
    first, again = (train(market, settings) for _ in range(2))
    assert distance(first, again) == 0.0
    assert distance(first, train(market, settings.changed(random_state=1))) > 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"weight_decay": 5.0},
        {"dropout": 0.0},
        {"weight_average": 0.0},
        {"keep_bias": 0.0},
        {"fee_warmup": 0.0},
        {"learning_rate": 1e-2},
        {"n_epochs": 2},
        {"batch_size": 64},
        {"clip_range": 0.01},
        {"ent_coef": 0.1},
        {"gamma": 0.5},
        {"normalize_advantage": False},
        {"max_grad_norm": 1e-4},
        {"policy_inputs": "forecasts"},
        {"validation_share": 0.3},
        {"train_cycles": 2},
        {"add_state_info": True},
        {"reward": "exit_quality"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_has_an_effect(
    make_market: Any, tiny: Settings, change: dict[str, Any]
) -> None:
    market = make_market(n_candles=200, volatility=0.01)
    # A market without a signal has no forecasts either; here it is enough that there are inputs.
    settings = tiny.changed(
        rules={"entry": "any", "max_trade_duration_candles": 10}, policy_inputs="features"
    )
    if "add_state_info" in change:
        names = weights(train(market, settings.changed(**change))).keys()
        assert "mlp_extractor.position_to_head.weight" in names
        return
    settings = settings.changed(validation_share=change.pop("validation_share", 0.15))
    if "policy_inputs" in change:
        first = weights(train(market, settings.changed(**change)))[
            "mlp_extractor.policy_net.0.weight"
        ]
        assert first.shape == (16, N_FORECASTS)
        return
    if not change:
        assert len(held_back([market], settings)[1][0]) == 60
        return
    # Without validation the last weights are kept, so that an effect cannot hide behind the best.
    plain = settings.changed(validation_share=0.0)
    assert distance(train(market, plain), train(market, plain.changed(**change))) > 0.0


def test_a_policy_begins_with_a_bias_to_keep_its_position(make_market: Any, tiny: Settings) -> None:
    market = make_market(n_candles=100)
    settings = tiny.changed(keep_bias=4.0, train_cycles=1, learning_rate=1e-12)
    chances = train(market, settings).policy.probabilities(market.features)[10:]
    np.testing.assert_allclose(chances[:, 0], np.exp(4) / (np.exp(4) + 4), rtol=0.05)


def test_fees_rise_over_the_first_part(make_market: Any, tiny: Settings, tmp_path: Path) -> None:
    settings = tiny.changed(train_cycles=10, fee_warmup=0.5, patience=100, evidence=0.0)
    train(make_market(n_candles=200), settings, tensorboard_log=tmp_path)
    (folder,) = tmp_path.iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    shares = [event.value for event in events.Scalars("train/fee_share")]
    np.testing.assert_allclose(shares, [0.0, 0.2, 0.4, 0.6, 0.8, *[1.0] * 5], atol=1e-6)
    for name in ("validation/log_return", "validation/oracle_share", "train/approx_kl"):
        assert len(events.Scalars(name)) == 10


@pytest.mark.parametrize("exit_confidence", [0.5, 0.8])
def test_the_weights_of_the_best_pass_are_kept(exit_confidence: float, tiny: Settings) -> None:
    """What a pass earns is what its policy trades, at the confidence that it is traded at."""
    settings = tiny.changed(
        net_arch=(32,),
        window_size=2,
        train_cycles=12,
        learning_rate=3e-3,
        patience=100,
        rules=tiny.rules.changed(exit_confidence=exit_confidence),
    )
    market, validation = hinting_market(3), hinting_market(4, 600)
    result = train(market, settings, validation)
    returns = [row.validation_log_return for row in result.history]
    with as_judged(result.policy.model):
        run = simulate(result.policy, validation)
        at_half = simulate(result.policy, validation, exit_threshold=0.5)
    # Passes are compared by the mean of their last five returns.
    means = [float(np.mean(returns[max(0, i - 4) : i + 1])) for i in range(len(returns))]
    best = int(np.argmax(means))
    assert returns[best] > 0.5 * oracle(validation, result.policy.settings).log_return
    # A trade of more than 96 candles goes on in another chain, and every chain rounds a profit to
    # 8 digits, as freqtrade does.
    assert run.log_return == pytest.approx(returns[best], abs=1e-7)
    assert len(run.trades) == result.history[best].validation_trades
    (report,) = result.reports
    assert report.log_return == run.log_return
    assert (at_half.trades == run.trades) is (exit_confidence == 0.5)


def test_what_is_not_evident_is_not_kept(
    make_market: Any, tiny: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing can be learned here; the policy from before the training never trades."""
    market = make_market(n_candles=300, volatility=0.001)
    settings = tiny.changed(
        learning_rate=3e-3, train_cycles=6, fee_warmup=0.9, policy_inputs="features"
    )
    kept = train(market, settings.changed(evidence=50.0))
    assert "market: nothing was learned: no pass earned 50 standard errors more" in caplog.text
    assert kept.reports[0].degenerate is not None
    assert kept.reports[0].degenerate.startswith("never trades")
    still = train(market, settings.changed(evidence=50.0, train_cycles=1))
    assert distance(kept, still) == 0.0
    assert distance(kept, train(market, settings.changed(validation_share=0.0))) > 0.0


def test_nothing_is_learned_where_nothing_is_foretold(
    make_market: Any, tiny: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Unless rules enter anyway, trades are seen, or something else is rewarded or asked for."""
    market = make_market(n_candles=300, volatility=0.001)
    result = train(market, tiny, events=EventLog(tmp_path / "events.jsonl"))
    assert result.history == ()
    assert "returns agree with no forecast at 2 standard errors" in caplog.text
    (told,) = read_events(tmp_path / "events.jsonl", FORETOLD)
    assert told["standard_errors"] < told["asked"] == 2.0
    (report,) = result.reports
    assert report.degenerate is not None
    assert report.degenerate.startswith("never trades")
    rows = np.arange(len(market)) % 10 == 0
    entered = dataclasses.replace(market, entry_long=rows, entry_short=np.zeros_like(rows))
    for each, change in (
        (market, {"add_state_info": True}),
        (market, {"evidence": 0.0}),
        (market, {"validation_share": 0.0}),
        (market, {"policy_inputs": "features"}),
        (market, {"reward": "exit_quality"}),
        (entered, {"rules": {"entry": "always"}}),
    ):
        assert len(train(each, tiny.changed(**change)).history) == 3, change
    assert train(entered, tiny.changed(rules={"entry": "classic"})).history == ()
    again = tiny.changed(train_cycles=1)
    assert len(train(market, again, initial=result.policy.model).history) == 1


def test_training_ends_when_nothing_better_comes(make_market: Any, tiny: Settings) -> None:
    market = make_market(n_candles=300)  # nothing to be learned
    settings = tiny.changed(
        train_cycles=40, fee_warmup=0.1, patience=3, learning_rate=3e-3, policy_inputs="features"
    )
    result = train(market, settings)
    assert len(result.history) < 40
    returns = [row.validation_log_return for row in result.history]
    assert max(returns) == max(returns[:-3])
    assert len(train(market, settings.changed(patience=100)).history) == 40


def test_a_market_without_a_signal_is_traded_little(make_market: Any) -> None:
    """Never trading is what is right here, and costs nothing."""
    settings = Settings(net_arch=(32,), train_cycles=15, window_size=2, cpu_count=1)
    result = train(make_market(n_candles=1500, volatility=0.002), settings)
    run = simulate(result.policy, make_market(n_candles=1500, seed=9, volatility=0.002))
    assert len(run.trades) < 100
    assert run.log_return > -0.15


def test_several_markets_are_learned_together(make_market: Any, tiny: Settings) -> None:
    markets = [hinting_market(seed, 200 + 50 * seed) for seed in (1, 2)]
    result = train(markets, tiny)
    learned = sum(len(market) - int(0.15 * len(market)) for market in markets)
    assert result.steps == 3 * learned
    assert len(result.reports) == 2
    last = tiny.changed(evidence=0.0, keep_bias=0.0)
    assert distance(train(markets, last), train(markets[0], last)) > 0.0
    other = make_market(n_candles=200, n_features=4)
    with pytest.raises(MarketError, match="market: has other features"):
        train([markets[0], other], tiny)
    with pytest.raises(MarketError, match="there is no market to train on"):
        train([], tiny)
    with pytest.raises(SettingsError, match="'gae' learns on one market; use 'exact' for several"):
        train(markets, tiny.changed(advantage="gae"))


def test_training_goes_on_from_other_weights(make_market: Any, tiny: Settings) -> None:
    first = train(make_market(n_candles=200), tiny)
    still = tiny.changed(learning_rate=1e-12, train_cycles=1)
    again = train(make_market(n_candles=200, seed=1), still, initial=first.policy.model)
    ours, theirs = weights(first), weights(again)
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], atol=1e-6)
    with pytest.raises(
        SettingsError, match="net_arch, the window, policy_inputs or the features differ"
    ):
        train(
            make_market(n_candles=200),
            tiny.changed(net_arch=(8,)),
            initial=first.policy.model,
        )


def test_environments_are_refused(make_market: Any, tiny: Settings) -> None:
    market = make_market(n_candles=200)
    with pytest.raises(SettingsError, match="'exact' uses no environments"):
        train(market, tiny, env=make_vec_env(market, tiny))


def test_events_and_progress_tell_how_it_went(
    make_market: Any, tiny: Settings, tmp_path: Path
) -> None:
    told: list[Progress] = []
    path = tmp_path / "events.jsonl"
    settings = tiny.changed(evidence=0.0)
    market = make_market(n_candles=200)
    result = train(market, settings, events=EventLog(path), on_progress=told.append)
    (started,) = read_events(path, "training_started")
    assert (started["advantage"], started["algorithm"]) == ("exact", "PPO")
    assert started["layer_sizes"] == [16]
    assert len(list(read_events(path, "update"))) == 3
    (finished,) = read_events(path, "training_finished")
    assert finished["steps"] == result.steps == told[-1].steps == told[-1].total_steps == 510
    assert {progress.phase for progress in told} == {"evaluation", "update"}
    assert told[-1].oracle_share == result.history[-1].oracle_share


def test_what_needs_rollouts_gets_them(tiny: Settings) -> None:
    assert Settings().advantage is Advantage.EXACT
    for change in (
        {"algorithm": "ppo"},
        {"max_episode_steps": 10},
        {"randomize_starting_position": True},
        {"rules": {"max_training_drawdown": 0.5}},
        {"fills": "freqtrade_env", "reward": "freqtrade_example"},
        {"device": "cuda"},
    ):
        assert Settings(**change).advantage is Advantage.GAE
        with pytest.raises(SettingsError, match="advantage 'exact' does not go with"):
            Settings(**change, advantage="exact")


def test_nothing_that_only_training_needed_is_kept(make_market: Any, tiny: Settings) -> None:
    model = train(make_market(n_candles=200), tiny).policy.model
    assert model.env is None
    assert not hasattr(model, "rollout_buffer")
    assert torch.get_num_threads() == 1
