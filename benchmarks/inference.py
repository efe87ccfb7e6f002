"""Batched prediction against freqtrade's own rolling loop: same rows, same network, same actions.

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

from mtf_scalper.compute import available_cpus
from mtf_scalper.inference import Policy
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.settings import EntryMode
from mtf_scalper.simulator.environments import make_vec_env

N_ROWS = 2016
"""Seven days of 5m candles: one FreqAI backtest window."""
REQUIRED_RATIO = 50.0


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
    results = {
        "rows": n_rows,
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
        tables=[table([f"{n_rows:,} rows, the same actions", "rows/s", "ratio"], rows)],
        requirements=[Requirement(what, results["ratio"]["median"], at_least=REQUIRED_RATIO)],
    )


if __name__ == "__main__":
    sys.exit(run("inference", __doc__, measure))
