"""Batched prediction against freqtrade's own rolling loop: same rows, same network, same actions.

And what one decision at the state of a real trade takes on one thread, as ``custom_exit`` asks for
it where the agent sees its position: 60 features, those of the shipped strategy.

Run: ``python benchmarks/inference.py``.
"""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import numpy as np
import torch
from freqtrade.freqai.RL.BaseReinforcementLearningModel import BaseReinforcementLearningModel
from opponents import freqtrade_environment
from pandas import DataFrame
from report import (
    Measured,
    ParityError,
    Requirement,
    Workload,
    benchmark_market,
    run,
    spread,
    table,
    with_spread,
)
from stable_baselines3 import PPO

from mtf_scalper.freqai.decisions import Decisions
from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.ppo.policy import Policy
from mtf_scalper.ppo.position_policy import PositionPolicy
from mtf_scalper.rollouts.environments import make_vec_env
from mtf_scalper.settings import EntryMode
from mtf_scalper.simulator.observation import position_state
from mtf_scalper.simulator.types import N_ACTIONS

N_ROWS = 2016
"""Seven days of 5m candles: one FreqAI backtest window."""
REQUIRED_RATIO = 50.0
TRADE_FEATURES = 60
MOST_MILLISECONDS = 1.0


def freqtrade_actions(frame: DataFrame, model: PPO, window: int) -> np.ndarray:
    """Return what freqtrade's unmodified ``rl_model_predict`` says of every row."""
    stub = SimpleNamespace(CONV_WIDTH=window, live=False, rl_config={})
    kitchen = SimpleNamespace(label_list=["&-action"], pair="benchmark")
    predict = BaseReinforcementLearningModel.rl_model_predict
    return predict(stub, frame, kitchen, model)["&-action"].to_numpy()


def batched_actions(frame: DataFrame, policy: Policy) -> np.ndarray:
    """Return the same from one call of ``Policy.probabilities``."""
    probabilities = policy.probabilities(frame.to_numpy(dtype=np.float32))
    actions = np.full(len(frame), np.nan)
    known = ~np.isnan(probabilities[:, 0])
    actions[known] = probabilities[known].argmax(axis=1)
    return actions


def pair_of_models(workload: Workload, n_rows: int) -> tuple[PPO, Policy, DataFrame]:
    """Return freqtrade's model, ours with the same weights, and the rows that both see."""
    market = benchmark_market(n_candles=n_rows, n_features=workload.n_features)
    settings = workload.settings(EntryMode.ALWAYS, n_envs=1, batch_size=workload.n_steps)
    policy_kwargs = {"activation_fn": torch.nn.ReLU, "net_arch": list(workload.net_arch)}
    stock = PPO(
        "MlpPolicy",
        freqtrade_environment(market, workload.window),
        policy_kwargs=policy_kwargs,
        seed=1,
        device="cpu",
    )
    env = make_vec_env(market, settings)
    ours = PPO(MaskedPolicy, env, policy_kwargs=policy_kwargs, seed=1, device="cpu")
    ours.policy.load_state_dict(stock.policy.state_dict())
    frame = DataFrame(market.features, columns=list(market.feature_names))
    return stock, Policy(ours, settings), frame


def decision_milliseconds(workload: Workload, n_calls: int) -> list[float]:
    """Ask ``Decisions`` at another candle each time, on one thread; answers are stock PPO's."""
    market = benchmark_market(n_candles=workload.window + n_calls, n_features=TRADE_FEATURES)
    settings = workload.settings(EntryMode.ALWAYS, n_envs=1, batch_size=workload.n_steps)
    settings = settings.changed(add_state_info=True)
    env = make_vec_env(market, settings)
    policy_kwargs = {"activation_fn": torch.nn.ReLU, "net_arch": list(workload.net_arch)}
    model = PPO(PositionPolicy, env, policy_kwargs=policy_kwargs, seed=1, device="cpu")
    env.close()
    policy, decisions = Policy(model, settings), Decisions()
    minutes = np.arange(len(market)) * np.timedelta64(5, "m")
    dates = np.datetime64("2024-10-01", "ns") + minutes
    decisions.note("benchmark", dates, market.features, policy, only_latest=True)
    state = position_state(
        1, 100.0, 101.0, 102.0, 99.0, age_candles=7, age_limit=48, fee_rate=0.0005, leverage=1.0
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    milliseconds = []
    for row in range(workload.window - 1, workload.window - 1 + n_calls):
        started = time.perf_counter()
        answer = decisions.probabilities("benchmark", dates[row], state)
        milliseconds.append(1e3 * (time.perf_counter() - started))
    torch.set_num_threads(threads)
    window = market.features[row + 1 - workload.window : row + 1].ravel()
    seen = np.concatenate([window, state, np.ones(N_ACTIONS, dtype=np.float32)])
    stock = model.policy.get_distribution(torch.from_numpy(seen[None])).distribution.probs
    if not np.allclose(answer, stock.detach().numpy()[0], atol=1e-6):
        raise ParityError("the decision in a trade is not that of the network")
    return milliseconds


def measure(workload: Workload, repeats: int, n_rows: int = N_ROWS) -> Measured:
    """Predict all rows both ways in turn; every action has to be the same."""
    torch.set_num_threads(min(workload.threads, available_cpus()))
    stock, policy, frame = pair_of_models(workload, n_rows)
    seconds: dict[str, list[float]] = {"freqtrade": [], "batched": []}
    for _ in range(repeats):
        started = time.perf_counter()
        expected = freqtrade_actions(frame, stock, workload.window)
        middle = time.perf_counter()
        actual = batched_actions(frame, policy)
        seconds["freqtrade"].append(middle - started)
        seconds["batched"].append(time.perf_counter() - middle)
        if not np.array_equal(expected, actual, equal_nan=True):
            different = int((expected != actual).sum()) - (workload.window - 1)
            raise ParityError(f"{different} of {n_rows} actions differ")
    ratios = [
        theirs / ours for theirs, ours in zip(seconds["freqtrade"], seconds["batched"], strict=True)
    ]
    calls = decision_milliseconds(workload, 200 * repeats)
    low, middle, high = np.quantile(calls[len(calls) // 10 :], (0.05, 0.5, 0.99)).tolist()
    results = {
        "rows": n_rows,
        "decision_milliseconds": {"p5": low, "median": middle, "p99": high},
        "torch_threads": torch.get_num_threads(),
        "distinct_actions": len(np.unique(actual[workload.window - 1 :])),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratio": spread(ratios),
    }
    speeds = {name: [n_rows / value for value in values] for name, values in seconds.items()}
    rows = [
        ["freqtrade's rolling loop", with_spread(speeds["freqtrade"]), "1"],
        ["`Policy.probabilities`", with_spread(speeds["batched"]), with_spread(ratios)],
    ]
    what = "batched prediction over freqtrade's loop"
    return Measured(
        results=results,
        tables=[
            table([f"{n_rows:,} rows, the same actions", "rows/s", "ratio"], rows),
            table(
                ["one decision in a trade, 1 thread", "median", "99 of 100 below"],
                [[f"{TRADE_FEATURES} features x {workload.window}", *_ms(middle, high)]],
            ),
        ],
        requirements=[
            Requirement(what, results["ratio"]["median"], at_least=REQUIRED_RATIO),
            Requirement("one decision in a trade", high, at_most=MOST_MILLISECONDS, unit="ms"),
        ],
    )


def _ms(*values: float) -> list[str]:
    return [f"{value:.2f} ms" for value in values]


if __name__ == "__main__":
    sys.exit(run("inference", __doc__, measure))
