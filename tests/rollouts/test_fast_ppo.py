"""``FastPPO`` against stable-baselines3's own ``PPO``, on the same rollouts and minibatches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markets import classic_market
from stable_baselines3 import PPO
from stable_baselines3.common import policies
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from mtf_scalper.errors import SettingsError
from mtf_scalper.market.market import Market
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.rollouts.environments import make_vec_env
from mtf_scalper.rollouts.fast_ppo import FastPPO
from mtf_scalper.rollouts.rollout_buffer import CandleRolloutBuffer
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.reference import ReferenceEnv

N_STEPS, BATCH = 160, 64
RELATIVE = 1e-5


@pytest.fixture(scope="module")
def market() -> Market:
    return classic_market(4, 500, n_features=6)


def settings(**values: Any) -> Settings:
    defaults: dict[str, Any] = {
        "n_envs": 4,
        "n_steps": N_STEPS,
        "batch_size": BATCH,
        "window_size": 3,
        "max_episode_steps": 60,
        "rules": {"entry": "classic", "max_training_drawdown": 0.05},
        "reward": "freqtrade_example",
    }
    return Settings(**{**defaults, **values})


def make(kind: type[PPO], market: Market, values: Settings, **options: Any) -> PPO:
    env = VecMonitor(make_vec_env(market, values))
    defaults: dict[str, Any] = {
        "n_steps": N_STEPS,
        "batch_size": BATCH,
        "n_epochs": 2,
        "seed": 3,
        "device": "cpu",
        "policy_kwargs": {"activation_fn": torch.nn.ReLU, "net_arch": [24, 16]},
    }
    model = kind(options.pop("policy", MaskedPolicy), env, **{**defaults, **options})
    model.set_logger(Logger(None, []))  # findings/stable-baselines3-temporary-folders.sh
    return model


class InDouble(CandleRolloutBuffer):
    """Hands samples to stable-baselines3 in double precision."""

    def get(self, batch_size: int | None = None) -> Iterator[Any]:
        for samples in super().get(batch_size):
            yield type(samples)(*(t.double() for t in samples))


class Recorder(Logger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(None, [])

    def last(self, name: str) -> float:
        return float(self.name_to_value[f"train/{name}"])


def rolled_out(
    market: Market,
    values: Settings,
    monkeypatch: pytest.MonkeyPatch,
    *,
    in_double: bool = True,
    **options: Any,
) -> tuple[FastPPO, PPO]:
    """Return both with the same weights, Adam averages and rollout.

    The weights have moved on from those that made the rollout, so that ratios differ from 1. In
    double precision what differs is the mathematics, not the rounding that Adam blows up.
    """
    fast, stock = make(FastPPO, market, values, **options), make(PPO, market, values, **options)
    assert isinstance(fast, FastPPO)
    _, callback = fast._setup_learn(10_000, None)
    fast.set_logger(Recorder())
    stock.set_logger(Recorder())
    fast.collect_rollouts(fast.env, callback, fast.rollout_buffer, N_STEPS)
    if in_double:
        monkeypatch.setattr(fast.rollout_buffer, "__class__", InDouble)
        monkeypatch.setattr(policies, "preprocess_obs", lambda obs, *_, **__: obs)
        for model in (fast, stock):
            model.policy.double()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in fast.policy.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=rng))
    stock.policy.load_state_dict(fast.policy.state_dict())
    stock.policy.optimizer.load_state_dict(copy.deepcopy(fast.policy.optimizer.state_dict()))
    stock.rollout_buffer = fast.rollout_buffer
    stock._current_progress_remaining = fast._current_progress_remaining = 0.4
    return fast, stock


def flat(model: PPO, what: Callable[[Any], torch.Tensor]) -> torch.Tensor:
    return torch.cat([what(p).detach().flatten() for p in model.policy.parameters()])


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "entropy": {"ent_coef": 0.05},
    "value clipping": {"clip_range_vf": 0.1, "vf_coef": 0.9},
    "no normalisation": {"normalize_advantage": False, "max_grad_norm": 1e9},
    "schedules": {
        "learning_rate": lambda left: 1e-2 * left,
        "clip_range": lambda left: 0.3 * left,
        "clip_range_vf": lambda left: 0.5 * left,
    },
    "truncated last minibatch": {"batch_size": 96},
    "tanh, one layer": {"policy_kwargs": {"net_arch": [20]}},
    "no hidden layer": {"policy_kwargs": {"net_arch": []}},
    "networks of their own": {
        "policy_kwargs": {"net_arch": {"pi": [16], "vf": [24, 8]}, "activation_fn": torch.nn.ReLU}
    },
    "another Adam": {
        "policy_kwargs": {
            "net_arch": [16],
            "optimizer_kwargs": {"betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.01},
        }
    },
    "no mask": {"policy": "MlpPolicy"},
}


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size of 96")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("add_state_info", [False, True])
def test_fifty_minibatches_give_the_parameters_of_stable_baselines3(
    options: dict[str, Any], add_state_info: bool, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = settings(add_state_info=add_state_info)
    fast, stock = rolled_out(market, values, monkeypatch, **options)
    before = flat(fast, lambda p: p).clone()
    fast.n_epochs = stock.n_epochs = -(-50 * fast.batch_size // (4 * N_STEPS))
    for model in (fast, stock):
        np.random.seed(5)  # noqa: NPY002 - the generator that stable-baselines3 uses
        model.train()
    ours, theirs = flat(fast, lambda p: p), flat(stock, lambda p: p)
    assert distance(ours, before) > 0.01
    assert distance(ours, theirs) < RELATIVE
    assert distance(flat(fast, lambda p: p.grad), flat(stock, lambda p: p.grad)) < RELATIVE
    for name in stock.logger.name_to_value:
        if name == "train/n_updates":
            continue
        ours_, theirs_ = fast.logger.name_to_value[name], stock.logger.name_to_value[name]
        assert ours_ == pytest.approx(theirs_, rel=RELATIVE, abs=1e-12), name
    assert set(fast.logger.name_to_value) == set(stock.logger.name_to_value)
    for name in ("exp_avg", "exp_avg_sq", "step"):
        states = (
            torch.cat([m.policy.optimizer.state[p][name].flatten() for p in m.policy.parameters()])
            for m in (fast, stock)
        )
        assert distance(*states) < RELATIVE, name


@pytest.mark.parametrize("entry", ["always", "classic", "any"])
def test_every_gradient_in_single_precision_is_that_of_stable_baselines3(
    entry: str, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty minibatches of one each, both from the same weights."""
    values = settings(rules={"entry": entry})
    fast, stock = rolled_out(market, values, monkeypatch, in_double=False, ent_coef=0.01)
    fast.n_epochs = stock.n_epochs = 1
    for seed in range(5):
        stock.policy.load_state_dict(fast.policy.state_dict())
        stock.policy.optimizer.load_state_dict(copy.deepcopy(fast.policy.optimizer.state_dict()))
        gradients = []
        for model in (fast, stock):
            seen = watched(model, monkeypatch)
            np.random.seed(seed)  # noqa: NPY002
            model.train()
            gradients.append(seen)
        assert len(gradients[0]) == len(gradients[1]) == 10
        # Later minibatches start from weights that rounding has already driven apart.
        assert distance(gradients[0][0], gradients[1][0]) < RELATIVE
        assert distance(flat(fast, lambda p: p), flat(stock, lambda p: p)) < 1e-3


def watched(model: PPO, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Return a list that gets the whole gradient at every step of Adam."""
    seen: list[torch.Tensor] = []
    is_fast = isinstance(model, FastPPO)
    optimizer = model._bound_towers().storage._adam if is_fast else model.policy.optimizer
    step = type(optimizer).step

    def note(*args: Any, **kwargs: Any) -> Any:
        seen.append(flat(model, lambda p: p.grad).clone())
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(optimizer, "step", note)
    return seen


def test_target_kl_stops_at_the_same_minibatch(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, stock = rolled_out(market, settings(), monkeypatch, target_kl=0.005, learning_rate=0.003)
    steps = []
    for model in (fast, stock):
        seen = watched(model, monkeypatch)
        model.n_epochs = 50
        np.random.seed(6)  # noqa: NPY002
        model.train()
        steps.append((len(seen), model._n_updates))
    assert steps[0] == steps[1]
    assert 0 < steps[0][0] < 500
    assert distance(flat(fast, lambda p: p), flat(stock, lambda p: p)) < RELATIVE


@pytest.mark.parametrize("add_state_info", [False, True])
def test_a_rollout_is_what_the_policy_says_of_what_was_seen(
    add_state_info: bool, market: Market
) -> None:
    fast = make(FastPPO, market, settings(add_state_info=add_state_info))
    _, callback = fast._setup_learn(10_000, None)
    fast.collect_rollouts(fast.env, callback, fast.rollout_buffer, N_STEPS)
    (samples,) = fast.rollout_buffer.get()
    actions = samples.actions.long().flatten()
    with torch.no_grad():
        values, log_probs, _ = fast.policy.evaluate_actions(samples.observations, actions)
    np.testing.assert_allclose(values.flatten(), samples.old_values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_probs, samples.old_log_prob, rtol=1e-4, atol=1e-5)
    masks = samples.observations[:, -5:]
    assert bool((masks.gather(1, actions[:, None]) == 1.0).all())
    assert len(set(actions.tolist())) == 5
    if add_state_info:
        held = samples.observations[:, -10] != 0.0
        assert 0 < int(held.sum()) < len(held)


def test_actions_are_drawn_with_the_policys_probabilities(market: Market) -> None:
    """Shares of 5,120 draws within 5 standard errors of their sum of probabilities."""
    fast = make(FastPPO, market, settings(rules={"entry": "any"}), n_steps=1280, batch_size=256)
    with torch.no_grad():
        fast.policy.action_net.bias.copy_(torch.tensor([0.0, -1.0, 1.0, 0.5, -0.5]))
    _, callback = fast._setup_learn(10_000, None)
    fast.collect_rollouts(fast.env, callback, fast.rollout_buffer, 1280)
    (samples,) = fast.rollout_buffer.get()
    with torch.no_grad():
        probs = fast.policy.get_distribution(samples.observations).distribution.probs.double()
    taken = np.bincount(samples.actions.long().flatten(), minlength=5)
    expected = probs.sum(0).numpy()
    errors = np.sqrt((probs * (1.0 - probs)).sum(0).numpy())
    assert (np.abs(taken - expected) < 5.0 * errors).all()


def test_advantages_are_those_of_stable_baselines3(market: Market) -> None:
    """With the value of what would have come after a truncated episode in its last reward."""
    fast = make(FastPPO, market, settings(), gamma=0.97, gae_lambda=0.9)
    ends: list[tuple[int, int, float]] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            dones, infos = self.locals["dones"], self.locals["infos"]
            for env in np.flatnonzero(dones):
                if infos[env]["TimeLimit.truncated"]:
                    last = torch.from_numpy(infos[env]["terminal_observation"][None])
                    with torch.no_grad():
                        value = self.model.policy.predict_values(last).item()
                    ends.append((self.n_calls - 1, int(env), value))
                    rewards.append(float(self.locals["rewards"][env]))
            return True

    rewards: list[float] = []
    _, callback = fast._setup_learn(10_000, Watch())
    fast.collect_rollouts(fast.env, callback, fast.rollout_buffer, N_STEPS)
    ours = fast.rollout_buffer
    assert isinstance(ours, CandleRolloutBuffer)
    assert len(ends) >= 4
    for (step, env, value), reward in zip(ends, rewards, strict=True):
        assert ours.rewards[step, env] == pytest.approx(reward + 0.97 * value, rel=1e-5)
    theirs = RolloutBuffer(
        N_STEPS, fast.observation_space, fast.action_space, "cpu", 0.9, 0.97, n_envs=4
    )
    for name in ("rewards", "values", "episode_starts"):  # its own sums in double precision
        setattr(theirs, name, getattr(ours, name).astype(np.float64))
    with torch.no_grad():
        last_values = fast.policy.predict_values(torch.as_tensor(fast._last_obs))
    theirs.compute_returns_and_advantage(last_values, np.asarray(fast._last_episode_starts))
    np.testing.assert_allclose(ours.advantages, theirs.advantages, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-6, atol=1e-6)
    assert 0.0 < ours.episode_starts[1:].mean() < 0.2


def test_checkpoints_go_both_ways_and_training_goes_on(market: Market, tmp_path: Path) -> None:
    values = settings()
    fast = make(FastPPO, market, values).learn(4 * N_STEPS)
    fast.save(tmp_path / "fast")
    stock = PPO.load(tmp_path / "fast", env=make_vec_env(market, values), device="cpu")
    assert type(stock) is PPO
    assert type(stock.rollout_buffer) is RolloutBuffer
    observations = np.array(make_vec_env(market, values).reset())
    expected, _ = fast.predict(observations, deterministic=True)
    np.testing.assert_array_equal(stock.predict(observations, deterministic=True)[0], expected)
    averages = [model.policy.optimizer.state_dict()["state"][3] for model in (fast, stock)]
    assert averages[0]["step"] == averages[1]["step"] > 0
    assert torch.equal(averages[0]["exp_avg_sq"], averages[1]["exp_avg_sq"])
    before = flat(stock, lambda p: p).clone()
    stock.set_logger(Logger(None, []))
    stock.learn(4 * N_STEPS)
    assert not torch.equal(flat(stock, lambda p: p), before)

    stock.save(tmp_path / "stock")
    again = FastPPO.load(tmp_path / "stock", env=make_vec_env(market, values), device="cpu")
    assert isinstance(again.rollout_buffer, CandleRolloutBuffer)
    assert torch.equal(flat(again, lambda p: p), flat(stock, lambda p: p))
    steps = stock.policy.optimizer.state_dict()["state"][0]["step"]
    again.set_logger(Logger(None, []))
    again.learn(4 * N_STEPS)
    assert again.policy.optimizer.state_dict()["state"][0]["step"] == steps + 20
    assert not torch.equal(flat(again, lambda p: p), flat(stock, lambda p: p))


def test_weights_loaded_into_the_policy_are_those_that_learn_on(market: Market) -> None:
    fast = make(FastPPO, market, settings())
    other = make(FastPPO, market, settings(), seed=9)
    fast.set_parameters(other.get_parameters())
    assert torch.equal(flat(fast, lambda p: p), flat(other, lambda p: p))
    fast.learn(4 * N_STEPS)
    moved = distance(flat(fast, lambda p: p), flat(other, lambda p: p))
    assert 0.0 < moved < 0.5


class Counting(BaseCallback):
    """Counts its calls and keeps what it is shown."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.names: set[str] = set()
        self.stop_after = stop_after

    def _on_training_start(self) -> None:
        self.calls.append("training_start")

    def _on_rollout_start(self) -> None:
        self.calls.append("rollout_start")

    def _on_step(self) -> bool:
        self.calls.append("step")
        self.names |= set(self.locals)
        return self.stop_after is None or self.n_calls < self.stop_after

    def _on_rollout_end(self) -> None:
        self.calls.append("rollout_end")

    def _on_training_end(self) -> None:
        self.calls.append("training_end")


def test_callbacks_are_called_and_shown_what_stock_ppo_shows(market: Market) -> None:
    seen = []
    for kind in (FastPPO, PPO):
        callback = Counting()
        make(kind, market, settings()).learn(2 * 4 * N_STEPS, callback)
        seen.append(callback)
    assert seen[0].calls == seen[1].calls
    assert seen[0].calls.count("step") == 2 * N_STEPS
    shown = {"env", "n_steps", "obs_tensor", "actions", "log_probs", "values"}
    shown |= {"new_obs", "rewards", "dones", "infos", "rollout_buffer", "n_rollout_steps"}
    assert shown <= seen[1].names
    assert shown <= seen[0].names


def test_a_callback_stops_the_training(market: Market) -> None:
    callback = Counting(stop_after=7)
    fast = make(FastPPO, market, settings()).learn(4 * N_STEPS, callback)
    assert fast.num_timesteps == 28
    assert callback.calls[-2:] == ["step", "training_end"]
    fast = make(FastPPO, market, settings())
    fast.learn(100_000, StopTrainingOnMaxEpisodes(max_episodes=3))
    assert fast.num_timesteps < 1000


def test_episode_statistics_are_those_of_the_monitor(market: Market) -> None:
    fast = make(FastPPO, market, settings()).learn(4 * N_STEPS)
    assert fast.ep_info_buffer is not None
    assert len(fast.ep_info_buffer) >= 8
    assert max(episode["l"] for episode in fast.ep_info_buffer) == 60


def test_the_same_seed_gives_the_same_policy(market: Market) -> None:
    first, again, other = (
        flat(make(FastPPO, market, settings(), seed=seed).learn(8 * N_STEPS), lambda p: p)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "buffer": ({"rollout_buffer_class": type("Own", (RolloutBuffer,), {})}, "rollout_buffer_class"),
    "policy": ({"policy": type("Own", (MaskedPolicy,), {})}, "policy Own is not supported"),
    "activation": (
        {"policy_kwargs": {"activation_fn": torch.nn.ELU}},
        "activations must be all ReLU or all Tanh, got ELU",
    ),
    "optimizer": (
        {"policy_kwargs": {"optimizer_class": torch.optim.SGD}},
        "the optimizer must be Adam or AdamW",
    ),
    "amsgrad": ({"policy_kwargs": {"optimizer_kwargs": {"amsgrad": True}}}, "amsgrad"),
    "extractor": ({"policy_kwargs": {"share_features_extractor": False}}, "share_features"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_supported_is_refused(
    options: dict[str, Any], message: str, market: Market
) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        make(FastPPO, market, settings(), **options)
    assert "\n" not in str(caught.value)


def test_environments_that_are_not_batched_are_refused(market: Market) -> None:
    batched = make_vec_env(market, settings())
    for env, name in (
        (DummyVecEnv([lambda: ReferenceEnv(market, settings())]), "DummyVecEnv"),
        (VecNormalize(batched), "VecNormalize"),
    ):
        with pytest.raises(SettingsError, match=f"environment {name} is not supported"):
            FastPPO(MaskedPolicy, env, n_steps=N_STEPS, batch_size=N_STEPS, device="cpu")
