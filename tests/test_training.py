from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from markets import trending_market
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtf_scalper.errors import MarketError, SettingsError, WorkerDiedError
from mtf_scalper.market.market import Market
from mtf_scalper.ppo.policy import Policy, simulate
from mtf_scalper.records.events import EventLog, Progress, read_events
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.rollouts.environments import make_vec_env
from mtf_scalper.rollouts.fast_ppo import FastPPO
from mtf_scalper.settings import Settings, VecEnvKind
from mtf_scalper.simulator.observation import flat_state, position_state
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import Action
from mtf_scalper.training import train

PAIR = "BTC/USDT:USDT"


def weights(model: PPO) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.policy.state_dict().items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("no_child_left")
def test_the_same_seed_gives_the_same_policy_in_one_process_or_several(
    make_market, tiny_settings
) -> None:
    market, test = make_market(), make_market(seed=1)
    settings = tiny_settings(train_cycles=3, randomize_starting_position=True, algorithm="ppo")
    first = train(market, settings.changed(vec_env="dummy"))
    for kind in VecEnvKind:
        again = train(market, settings.changed(vec_env=kind))
        assert same(weights(first.policy.model), weights(again.policy.model))
        runs = [simulate(result.policy, test) for result in (first, again)]
        np.testing.assert_array_equal(runs[0].actions, runs[1].actions)
        assert runs[0].trades == runs[1].trades


def test_another_seed_gives_another_policy(make_market, tiny_settings) -> None:
    market = make_market()
    policies = [
        weights(train(market, tiny_settings(random_state=seed)).policy.model) for seed in (1, 2)
    ]
    assert not same(*policies)


def test_training_changes_the_weights(make_market, tiny_settings) -> None:
    market = make_market()
    once = train(market, tiny_settings(train_cycles=1)).policy.model
    twice = train(market, tiny_settings(train_cycles=2)).policy.model
    assert once.num_timesteps < twice.num_timesteps
    assert not same(weights(once), weights(twice))


def test_the_result_tells_what_was_done(make_market, tiny_settings) -> None:
    market = make_market(n_candles=200)
    result = train(market, tiny_settings(train_cycles=2))
    assert result.steps == 512
    assert [row.steps for row in result.history] == [128, 256, 384, 512]
    assert all(row.validation_log_return is None for row in result.history)
    assert result.seconds > 0
    assert result.steps_per_second == result.steps / result.seconds
    assert result.compute.device == "cpu"
    seconds = [row.seconds for row in result.history]
    assert seconds == sorted(seconds)


def test_nothing_that_only_training_needed_is_kept(make_market, tiny_settings) -> None:
    model = train(make_market(), tiny_settings()).policy.model
    assert model.env is None
    assert not hasattr(model, "rollout_buffer")


@pytest.mark.parametrize("advantage", ["exact", "gae"])
def test_nothing_is_left_among_the_temporary_files(
    make_market, tiny_settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, advantage: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    train(make_market(), tiny_settings(advantage=advantage))
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told(make_market, tiny_settings) -> None:
    told: list[Progress] = []
    train(make_market(n_candles=200), tiny_settings(train_cycles=2), on_progress=told.append)
    assert told[0].steps == 0
    assert told[-1].steps == told[-1].total_steps == 512
    assert {progress.phase for progress in told} == {"rollout", "update"}
    assert [progress.steps for progress in told] == sorted(progress.steps for progress in told)


def test_events_tell_what_was_used(make_market, tiny_settings, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    settings = tiny_settings(train_cycles=2, net_arch=(24, 8), n_epochs=3)
    result = train(make_market(), settings, events=EventLog(path, pair=PAIR))
    (started,) = read_events(path, "training_started")
    expected = {
        "total_steps": 240,
        "n_envs": 2,
        "algorithm": "FastPPO",
        "vec_env": "batched",
        "torch_threads": torch.get_num_threads(),
        "torch_interop_threads": torch.get_num_interop_threads(),
        "device": "cpu",
        "batch_size": 32,
        "n_steps": 64,
        "n_epochs": 3,
        "layer_sizes": [24, 8],
        "random_state": 42,
    }
    assert {name: started[name] for name in expected} == expected
    (finished,) = read_events(path, "training_finished")
    assert finished["steps"] == result.steps == 256
    assert finished["history"] == [asdict(row) for row in result.history]
    assert [event["steps"] for event in read_events(path, "update")] == [128, 256]
    assert not list(read_events(path, "training_failed"))


@pytest.mark.usefixtures("no_child_left")
def test_a_worker_killed_in_mid_training_ends_it_with_a_clear_error(
    make_market, tiny_settings, tmp_path: Path
) -> None:
    market = make_market(pair=PAIR)
    settings = tiny_settings(train_cycles=50, vec_env="subproc")
    env = make_vec_env(market, settings)
    workers = [psutil.Process(process.pid) for process in env.processes]

    def kill_after_the_first_update(progress: Progress) -> None:
        if progress.steps >= 128 and progress.phase == "rollout":
            workers[0].kill()

    path = tmp_path / "events.jsonl"
    with pytest.raises(WorkerDiedError) as caught:
        train(
            market,
            settings,
            env=env,
            on_progress=kill_after_the_first_update,
            events=EventLog(path),
        )
    assert str(caught.value).startswith(f"{PAIR}: environment process 0 (pid {workers[0].pid}) ")
    assert "ended during training with exit code" in str(caught.value)
    assert not any(worker.is_running() for worker in workers)
    (failed,) = read_events(path, "training_failed")
    assert failed["error"] == f"WorkerDiedError: {caught.value}"
    assert len(list(read_events(path, "update"))) == 1


class Closing(VecEnvWrapper):
    """Environments that remember whether they were stepped and closed."""

    steps = 0
    closed = False

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        self.steps += 1
        return self.venv.step_wait()

    def close(self) -> None:
        self.closed = True
        super().close()


def test_an_interrupted_training_closes_its_environments(make_market, tiny_settings) -> None:
    """Closed ones leave no process: tests/rollouts/test_process_env.py."""
    market, settings = make_market(), tiny_settings(vec_env="dummy")
    env = Closing(make_vec_env(market, settings))

    def interrupt(progress: Progress) -> None:
        if progress.steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(market, settings, env=env, on_progress=interrupt)
    assert env.steps > 0
    assert env.closed


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ({"n_candles": 5}, "SOL/USDT:USDT: 5 candles are too few for a window of 4"),
        ({"n_features": 2}, "SOL/USDT:USDT: the validation market has other features"),
        ({"feature_names": ("a", "b", "c")}, "the validation market has other features"),
    ],
)
def test_a_validation_market_that_does_not_fit_is_refused_before_the_first_step(
    validation, message, make_market, tiny_settings
) -> None:
    market, settings = make_market(), tiny_settings()
    env = Closing(make_vec_env(market, settings))
    with pytest.raises(MarketError, match=message):
        train(market, settings, make_market(pair="SOL/USDT:USDT", **validation), env=env)
    assert env.closed
    assert env.steps == 0


def test_a_market_too_short_is_refused_before_the_first_step(make_market, tiny_settings) -> None:
    with pytest.raises(MarketError, match=r"^market: 5 candles are too few"):
        train(make_market(n_candles=5), tiny_settings())


def test_the_weights_with_the_best_validation_return_are_kept(make_market, tiny_settings) -> None:
    settings = tiny_settings(train_cycles=8, learning_rate=0.01)
    market, validation = make_market(), make_market(seed=9, volatility=0.01)
    result = train(market, settings, validation)
    returns = [row.validation_log_return for row in result.history]
    assert len(returns) == 8
    assert max(returns) > returns[-1]
    assert simulate(result.policy, validation).log_return == pytest.approx(max(returns))
    best = returns.index(max(returns))
    kept = simulate(result.policy, validation)
    assert len(kept.trades) == result.history[best].validation_trades
    # They are the weights of that update: a training that ends there has them as its last ones.
    ended_there = train(market, settings.changed(train_cycles=best + 1))
    assert same(weights(result.policy.model), weights(ended_there.policy.model))


def test_validation_does_not_change_the_training(make_market, tiny_settings) -> None:
    settings = tiny_settings(train_cycles=1)
    with_it = train(make_market(), settings, make_market(seed=1))
    without = train(make_market(), settings)
    assert same(weights(with_it.policy.model), weights(without.policy.model))


def test_continual_learning_goes_on_from_the_initial_model(make_market, tiny_settings) -> None:
    """With a learning rate of almost nothing the weights stay where they were."""
    market = make_market()
    first = train(market, tiny_settings(random_state=1)).policy.model
    before = weights(first)
    fresh = train(market, tiny_settings(random_state=2, learning_rate=1e-12)).policy.model
    on = train(
        market, tiny_settings(random_state=2, learning_rate=1e-12), initial=first
    ).policy.model
    for name, value in before.items():
        np.testing.assert_allclose(weights(on)[name], value, atol=1e-6)
    assert not np.allclose(weights(fresh)["action_net.weight"], before["action_net.weight"])


def test_continual_learning_obeys_the_new_settings_and_spares_the_initial_model(
    make_market, tiny_settings
) -> None:
    market = make_market()
    first = train(market, tiny_settings()).policy.model
    before, steps = weights(first), first.num_timesteps
    averages = first.policy.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    settings = tiny_settings(n_envs=4, n_steps=32, batch_size=64, learning_rate=0.01, gamma=0.5)
    result = train(market, settings, initial=first)
    model = result.policy.model
    assert (model.n_envs, model.n_steps, model.batch_size, model.gamma) == (4, 32, 64, 0.5)
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.01
    assert result.steps == 128
    assert model is not first
    assert not same(weights(model), before)
    assert same(weights(first), before)
    assert first.num_timesteps == steps
    assert torch.equal(first.policy.optimizer.state_dict()["state"][0]["exp_avg"], averages)


def test_continual_learning_is_deterministic(make_market, tiny_settings) -> None:
    market = make_market()
    first = train(market, tiny_settings()).policy.model
    on = [train(market, tiny_settings(), initial=first).policy.model for _ in range(2)]
    assert same(weights(on[0]), weights(on[1]))


def test_an_initial_model_of_another_shape_is_refused(make_market, tiny_settings) -> None:
    market = make_market()
    first = train(market, tiny_settings()).policy.model
    with pytest.raises(SettingsError, match="differ from those of the model to go on from"):
        train(market, tiny_settings(net_arch=(24,)), initial=first)


class Counting(VecEnvWrapper):
    """Keeps what every environment did, step by step."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.infos: list[dict[str, Any]] = []
        self.returns: list[float] = []
        self._running = np.zeros(venv.num_envs)

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.infos += infos
        self._running += rewards
        self.returns += self._running[dones].tolist()
        self._running[dones] = 0.0
        return observations, rewards, dones, infos


@pytest.fixture(scope="module")
def logged(make_market, tiny_settings, tmp_path_factory) -> tuple[Counting, Any, Any]:
    """Train four environments for three rollouts of 256 steps; short episodes, several exits."""
    market = make_market(n_candles=256, volatility=0.01)
    settings = tiny_settings(
        n_envs=4,
        vec_env="dummy",
        train_cycles=3,
        rules={"entry": "any", "stoploss": -0.03, "minimal_roi": {0: 0.02}},
    )
    env = Counting(make_vec_env(market.slice(0, 64), settings))
    folder = tmp_path_factory.mktemp("tensorboard")
    validation = make_market(n_candles=100, seed=4, volatility=0.01)
    result = train(market, settings, validation, env=env, tensorboard_log=folder)
    (run,) = folder.iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    return env, result, events


def scalars(events: Any, name: str) -> dict[int, float]:
    return {scalar.step: scalar.value for scalar in events.Scalars(name)}


STEPS = [256, 512, 768]


@pytest.mark.parametrize(
    "name",
    [
        "actions/neutral",
        "trades/per_1000_steps",
        "rollout/ep_rew_mean",
        "rollout/ep_len_mean",
        "train/loss",
        "train/approx_kl",
        "train/entropy_loss",
        "validation/log_return",
        "validation/trades",
        "time/fps",
    ],
)
def test_tensorboard_has_one_value_per_update_at_its_steps(name, logged) -> None:
    _, _, events = logged
    values = scalars(events, name)
    assert list(values) == STEPS
    assert np.isfinite(list(values.values())).all()


def test_tensorboards_action_shares_are_those_of_all_environments(logged) -> None:
    env, _, events = logged
    assert len(env.infos) == 768
    for action in Action:
        shares = scalars(events, f"actions/{action.name.lower()}")
        for step in STEPS:
            executed = [info["executed"] for info in env.infos[step - 256 : step]]
            assert shares[step] == pytest.approx(executed.count(action) / 256, abs=1e-6)


@pytest.mark.parametrize("name", ["actions/neutral", "actions/long_enter", "trades/win_rate"])
def test_tensorboard_says_the_same_of_batched_environments(
    name, make_market, tiny_settings, tmp_path: Path
) -> None:
    values = []
    for kind in (VecEnvKind.DUMMY, VecEnvKind.BATCHED):
        settings = tiny_settings(n_envs=4, train_cycles=3, vec_env=kind, algorithm="ppo")
        train(make_market(n_candles=256), settings, tensorboard_log=tmp_path / kind)
        (run,) = (tmp_path / kind).iterdir()
        events = EventAccumulator(str(run))
        events.Reload()
        values.append(scalars(events, name))
    assert values[0] == values[1]
    assert len(set(values[0].values())) > 1


def test_tensorboards_trades_are_those_of_all_environments(logged) -> None:
    env, _, events = logged
    for step in STEPS:
        trades = [info["trade"] for info in env.infos[step - 256 : step] if "trade" in info]
        assert len(trades) > 5
        profits = [trade.profit_ratio for trade in trades]
        reasons = [trade.exit_reason for trade in trades]
        expected = {
            "trades/per_1000_steps": len(trades) / 0.256,
            "trades/win_rate": float(np.mean(np.array(profits) > 0)),
            "trades/mean_profit_ratio": float(np.mean(profits)),
            **{f"exits/{name}": reasons.count(name) / len(trades) for name in set(reasons)},
        }
        for name, value in expected.items():
            assert scalars(events, name)[step] == pytest.approx(value, rel=1e-5, abs=1e-7), name


def test_tensorboards_episode_returns_are_those_of_all_environments(logged) -> None:
    env, result, events = logged
    assert len(env.returns) > 8
    means = scalars(events, "rollout/ep_rew_mean")
    assert means[768] == pytest.approx(np.mean(env.returns), abs=1e-4)
    assert result.history[-1].mean_episode_return == pytest.approx(means[768], abs=1e-6)


def test_tensorboards_validation_is_that_of_the_history(logged) -> None:
    _, result, events = logged
    values = scalars(events, "validation/log_return")
    for row in result.history:
        assert values[row.steps] == pytest.approx(row.validation_log_return, abs=1e-6)


def test_without_a_folder_nothing_is_written(
    make_market, tiny_settings, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(make_market(), tiny_settings())
    assert list(tmp_path.iterdir()) == []


def random_log_return(market: Market, settings: Settings, seed: int) -> float:
    env = ReferenceEnv(market, settings)
    env.reset()
    rng = np.random.default_rng(seed)
    total, terminated = 0.0, False
    while not terminated:
        action = int(rng.choice(np.flatnonzero(env.action_masks())))
        _, reward, terminated, _, _ = env.step(action)
        total += reward
    return total


PLANTED: dict[str, Any] = {
    "window_size": 1,
    "n_envs": 8,
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 6,
    "learning_rate": 0.01,
    "gamma": 0.95,
    "net_arch": (32,),
    "train_cycles": 6,
}


def test_fast_ppo_and_stable_baselines3s_ppo_learn_a_planted_market(
    tiny_settings: Callable[..., Settings],
) -> None:
    """Held-out log return after 6 passes over 1,000 candles.

    Random valid actions: -0.29 on average over 20 seeds, 0.10 at best. The hindsight optimum at
    the same fees: 3.67. That both learn the same from the same rollout: tests/ppo/test_fast_ppo.
    """
    market, held_out = trending_market(1000, seed=1), trending_market(1000, seed=2)
    for name, seed in (("fast_ppo", 0), ("fast_ppo", 1), ("fast_ppo", 2), ("ppo", 0)):
        settings = tiny_settings(**PLANTED, algorithm=name, random_state=seed)
        reached = simulate(train(market, settings).policy, held_out).log_return
        assert reached > 2.9, (name, seed)
    by_chance = [random_log_return(held_out, settings, seed) for seed in range(5)]
    assert max(by_chance) < 0.5


@pytest.mark.parametrize("n_actions", [5, 4, 3])
def test_freqtrades_own_environment_can_be_trained_in(
    n_actions: int, make_market, tiny_settings
) -> None:
    settings = tiny_settings(
        fills="freqtrade_env", n_actions=n_actions, reward="freqtrade_example", train_cycles=2
    )
    market = make_market(n_candles=200)
    result = train(market, settings, make_market(n_candles=60, seed=1))
    assert isinstance(result.policy.model, FastPPO)
    assert result.policy.model.action_space.n == n_actions
    assert result.steps == 512
    probabilities = result.policy.probabilities(market.features)[3:]
    assert probabilities.shape == (197, 5)
    # With fewer actions one plays several of the five parts.
    assert len(np.unique(probabilities[0].round(12))) == n_actions
    run = simulate(result.policy, market)
    assert len(run.equity) == 200


def test_an_agent_that_sees_its_position_acts_on_it(make_market, tiny_settings) -> None:
    """The same candle has another answer in another trade, in training and in simulation."""
    market = make_market(n_candles=300, volatility=0.01)
    settings = tiny_settings(add_state_info=True, train_cycles=3, learning_rate=0.01)
    policy = train(market, settings).policy
    states = [
        position_state(
            1, 100.0, close, 103.0, 97.0, age_candles=5, age_limit=300, fee_rate=0.0, leverage=1.0
        )
        for close in (98.0, 102.0)
    ]
    answers = [policy.probabilities_in(market.features, 50, state) for state in states]
    assert not np.allclose(*answers, atol=1e-3)
    flat = policy.probabilities_in(market.features, 50, flat_state())
    np.testing.assert_allclose(flat, policy.probabilities(market.features)[50], atol=1e-6)
    assert simulate(policy, market).trades


def test_a_policy_and_settings_of_another_kind_are_refused(make_market, tiny_settings) -> None:
    policy = train(make_market(), tiny_settings()).policy
    with pytest.raises(SettingsError, match="observations of shape \\(17,\\)") as caught:
        Policy(policy.model, tiny_settings(add_state_info=True, window_size=5))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "learns"), [({}, FastPPO), ({"algorithm": "ppo"}, PPO)])
def test_the_algorithm_is_chosen_by_the_settings(
    change, learns, make_market, tiny_settings, caplog: pytest.LogCaptureFixture
) -> None:
    assert type(train(make_market(), tiny_settings(**change)).policy.model) is learns
    assert "fast_ppo needs" not in caplog.text


def test_where_fast_ppo_cannot_run_the_log_says_so(
    make_market, tiny_settings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        model = train(make_market(), tiny_settings(vec_env="dummy")).policy.model
    assert type(model) is PPO
    assert "fast_ppo needs vec_env 'batched' on the CPU, not dummy on cpu" in caplog.text


def test_a_record_is_told_of_the_training_and_nothing_is_written_without_it(
    make_market: Callable[..., Market], tiny_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = tiny_settings(advantage="exact", random_state=7, evidence=0.0)
    record = RunRecord.begin(tmp_path / "runs", "training", settings=settings, seeds=[7])
    result = train(make_market(pair="ABC"), settings, record=record)
    record.finish()
    run = Run.open(record.folder)
    history = run.history()
    assert set(history["pair"]) == {"ABC"}
    assert set(history["seed"]) == {7}
    assert history["steps"].tolist() == [row.steps for row in result.history]
    assert history["validation_log_return"].tolist() == [
        row.validation_log_return for row in result.history
    ]
    assert len(run.events("training_finished")) == 1
    before = sorted(tmp_path.rglob("*"))
    train(make_market(), settings)
    assert sorted(tmp_path.rglob("*")) == before


def test_every_seed_of_an_ensemble_has_its_own_learning_curve(
    make_market: Callable[..., Market], tiny_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = tiny_settings(
        advantage="exact", random_state=7, n_seeds=2, train_cycles=2, evidence=0.0
    )
    record = RunRecord.begin(tmp_path, "training")
    train(make_market(), settings, record=record)
    assert set(Run.open(record.folder).history()["seed"]) == {7, 8}
