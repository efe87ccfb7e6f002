"""Reinforcement learning for freqtrade: train on arrays, trade as the backtester does.

The names below are the API; they are imported on first use, so that importing the package costs
nothing and environment processes load only what they need.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from mtf_scalper._version import __version__

# Torch's threads wait for each other many times per minibatch. GNU's OpenMP lets them spin for a
# millisecond meanwhile, so that one thread that another program keeps from its core holds all up:
# trainings take ten times longer as soon as anything else runs. It is read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

if TYPE_CHECKING:
    from mtf_scalper.evaluation.report import Report, evaluate
    from mtf_scalper.market.market import Market
    from mtf_scalper.ppo.policy import Policy, simulate
    from mtf_scalper.settings import Settings, TradeRules
    from mtf_scalper.simulator.oracle import oracle
    from mtf_scalper.simulator.playback import Simulation
    from mtf_scalper.simulator.rewards import RewardState
    from mtf_scalper.simulator.user_rewards import reward
    from mtf_scalper.training import TrainResult, train

__all__ = [
    "Market",
    "Policy",
    "Report",
    "RewardState",
    "Settings",
    "Simulation",
    "TradeRules",
    "TrainResult",
    "__version__",
    "evaluate",
    "oracle",
    "reward",
    "simulate",
    "train",
]

_HOMES = {
    "Market": "mtf_scalper.market.market",
    "Policy": "mtf_scalper.ppo.policy",
    "Report": "mtf_scalper.evaluation.report",
    "RewardState": "mtf_scalper.simulator.rewards",
    "Settings": "mtf_scalper.settings",
    "Simulation": "mtf_scalper.simulator.playback",
    "TradeRules": "mtf_scalper.settings",
    "TrainResult": "mtf_scalper.training",
    "evaluate": "mtf_scalper.evaluation.report",
    "oracle": "mtf_scalper.simulator.oracle",
    "reward": "mtf_scalper.simulator.user_rewards",
    "simulate": "mtf_scalper.ppo.policy",
    "train": "mtf_scalper.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mtf_scalper' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
