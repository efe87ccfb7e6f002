"""``configs/reference_recipe.json`` over the shipped configuration, as freqtrade loads the two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import SubprocVecEnv

from mtf_scalper.freqai.config import read_settings
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.records.check import Recipe
from mtf_scalper.records.events import EVENTS_FILE, read_events
from mtf_scalper.settings import Settings

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def recipe() -> dict[str, Any]:
    return dict(json.loads((CONFIGS / "reference_recipe.json").read_text(encoding="utf-8")))


def test_it_is_the_reference_recipe_to_the_letter(
    recipe: dict[str, Any], make_config: Callable[..., dict[str, Any]]
) -> None:
    settings = read_settings(make_config(recipe, small=False))
    expected = Recipe()
    for name in Recipe.__dataclass_fields__:
        assert getattr(settings, name) == getattr(expected, name), name
    assert settings.algorithm == "ppo"
    # stable-baselines3's own defaults, as its PPO has them where nothing is said.
    untold = Settings(advantage="gae")
    for name in ("gamma", "gae_lambda", "clip_range", "ent_coef", "vf_coef", "max_grad_norm"):
        assert getattr(settings, name) == getattr(untold, name), name
    assert (settings.learning_rate, settings.n_epochs) == (3e-4, 10)
    shipped = json.loads((CONFIGS / "config_rl_hybrid.json").read_text(encoding="utf-8"))
    assert recipe["freqai"]["identifier"] != shipped["freqai"]["identifier"]


class Watched(MtfScalperRLModel):
    """Remembers what its training ran on."""

    seen: list[Any]

    def _environments(self, df: Any, pair: str) -> Any:
        env = super()._environments(df, pair)
        names = [psutil.Process(process.pid).is_running() for process in env.processes]
        self.seen = [env, names]
        return env


def test_it_trains_stock_ppo_on_eight_processes(
    recipe: dict[str, Any], open_workshop: Callable[..., Any], no_child_left: None
) -> None:
    recipe["freqai"]["rl_config"] |= {
        "train_cycles": 1,
        "cpu_count": 1,
        "n_steps": 32,
        "n_epochs": 1,
        "net_arch": [16],
    }
    workshop = open_workshop(recipe, Watched)
    model = workshop.train()
    env, alive = workshop.model.seen
    assert isinstance(env, SubprocVecEnv)
    assert env.num_envs == 8
    assert alive == [True] * 8
    assert type(model) is PPO
    (started,) = read_events(workshop.kitchen.data_path / EVENTS_FILE, "training_started")
    assert (started["vec_env"], started["n_envs"]) == ("subproc", 8)
