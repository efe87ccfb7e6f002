"""Batched prediction against freqtrade's own rolling loop: same rows, same network, same actions.

Run: ``python benchmarks/inference.py``. Exits with 1 if an action differs or the ratio is below 50.
"""

from __future__ import annotations

import argparse
import sys
import time
from types import SimpleNamespace

import numpy as np
import torch
from freqtrade.freqai.RL.BaseReinforcementLearningModel import BaseReinforcementLearningModel
from pandas import DataFrame
from report import N_FEATURES, WINDOW, benchmark_market, spread, write_results
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from mtf_scalper.inference import Policy
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.process_env import EnvFactory

N_ROWS = 2016
"""Seven days of 5m candles: one FreqAI backtest window."""
REQUIRED_RATIO = 50.0


def freqtrade_actions(frame: DataFrame, model: PPO) -> np.ndarray:
    """Return what freqtrade's unmodified ``rl_model_predict`` says of every row."""
    stub = SimpleNamespace(CONV_WIDTH=WINDOW, live=False, rl_config={})
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


def main() -> int:
    """Measure, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(2)
    settings = Settings(window_size=WINDOW)
    market = benchmark_market(n_candles=N_ROWS)
    model = PPO(
        "MlpPolicy",
        DummyVecEnv([EnvFactory(market, settings, WINDOW - 1)]),
        policy_kwargs={"activation_fn": torch.nn.ReLU, "net_arch": list(settings.net_arch)},
        seed=1,
        device="cpu",
    )
    frame = DataFrame(market.features, columns=[f"f{i}" for i in range(N_FEATURES)])
    policy = Policy(model, settings)
    seconds: dict[str, list[float]] = {"freqtrade": [], "batched": []}
    ratios = []
    same = True
    for _ in range(repeats):
        started = time.perf_counter()
        expected = freqtrade_actions(frame, model)
        middle = time.perf_counter()
        actual = batched_actions(frame, policy)
        seconds["freqtrade"].append(middle - started)
        seconds["batched"].append(time.perf_counter() - middle)
        ratios.append(seconds["freqtrade"][-1] / seconds["batched"][-1])
        same &= bool(np.array_equal(expected, actual, equal_nan=True))
    results = {
        "rows": N_ROWS,
        "repeats": repeats,
        "torch_threads": torch.get_num_threads(),
        "distinct_actions": len(np.unique(actual[WINDOW - 1 :])),
        "same_actions": same,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratio": spread(ratios),
    }
    path = write_results("inference", results)
    for name, values in seconds.items():
        middle_value = spread(values)["median"]
        print(f"{name:<10} {middle_value * 1e3:9.1f} ms {N_ROWS / middle_value:12,.0f} rows/s")
    print(f"ratio      {results['ratio']['median']:.0f} (median of {repeats})")
    print(f"same actions on all {N_ROWS} rows: {same}; written to {path.name}")
    return 0 if same and results["ratio"]["median"] >= REQUIRED_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
