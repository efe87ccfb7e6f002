"""Keys of related programs, and what they are called here or why they have no counterpart.

Known are freqtrade's ``ReinforcementLearner`` and ``ReinforcementLearner_multiproc`` (2026.9), the
algorithms of stable-baselines3 and sb3-contrib (2.7), ReforceXY, and the tree models that the same
section of a configuration serves. A key that changes neither policy nor trades is left alone with a
word in the log; one that would is refused, because a run without it is another run.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

_SB3, _XY, _TREES = "stable-baselines3", "ReforceXY", "tree models"

_WITHOUT_EFFECT: dict[str, tuple[str, str]] = {
    "multiprocessing": (_XY, "environments are batched in one process, or vec_env 'subproc'"),
    "eval_multiprocessing": (_XY, "held-back candles are evaluated exactly, without environments"),
    "n_eval_envs": (_XY, "held-back candles are evaluated exactly, without environments"),
    "n_eval_steps": (_XY, "held-back candles are evaluated exactly, after every pass"),
    "n_eval_episodes": (_XY, "held-back candles are evaluated exactly, after every pass"),
    "min_evals": (
        _XY,
        "a training never ends before fees are at their full height, see fee_warmup",
    ),
    "max_no_improvement_evals": (_XY, "patience, in passes over the data"),
    "check_envs": (_XY, "the environments are checked by the package's own tests"),
    "plot_new_best": (_XY, "every run leaves a record and a page, see docs/records.md"),
    "plot_window": (_XY, "every run leaves a record and a page, see docs/records.md"),
    "tensorboard_throttle": (_XY, "TensorBoard gets one row per pass"),
    "action_masking": (_XY, "invalid actions are always masked"),
    "inference_masking": (_XY, "invalid actions are always masked"),
    "verbose": (_SB3, "progress goes to freqtrade's log, see progress_bar"),
    "stats_window_size": (_SB3, "it smooths a curve of stable-baselines3's log"),
}
"""Key -> whose it is, and what there is here instead; neither policy nor trades depend on it."""

_OFF = (None, False, 0, 1, "", "false", "none")

_REFUSED: dict[str, tuple[str, str]] = {
    # ReforceXY
    "frame_stacking": (_XY, "freqai.conv_width, the candles that the network sees"),
    "lr_schedule": (_XY, "no counterpart: learning_rate is constant"),
    "cr_schedule": (_XY, "no counterpart: clip_range is constant"),
    "rl_config_optuna": (_XY, "`mtf-scalper tune`, before the bot; switch it off or remove it"),
    "optuna": (_XY, "`mtf-scalper tune`, before the bot; switch it off or remove it"),
    "buffer_size_schedule": (_XY, "no counterpart: nothing is replayed"),
    "max_idle_duration_candles": (_XY, "no counterpart: staying out costs nothing"),
    # stable-baselines3: PPO and its base classes
    "policy": (_SB3, "no counterpart: the policy is the package's own"),
    "env": (_SB3, "vec_env and n_envs"),
    "policy_kwargs": (_SB3, "net_arch for the widths of the hidden layers; they are ReLU"),
    "activation_fn": (_SB3, "no counterpart: hidden layers are ReLU"),
    "ortho_init": (_SB3, "no counterpart: weights begin as stable-baselines3 begins them"),
    "use_sde": (_SB3, "no counterpart: actions are discrete"),
    "sde_sample_freq": (_SB3, "no counterpart: actions are discrete"),
    "rollout_buffer_class": (_SB3, "no counterpart: the package has a buffer of its own"),
    "rollout_buffer_kwargs": (_SB3, "no counterpart: the package has a buffer of its own"),
    "tensorboard_log": (_SB3, "freqai.activate_tensorboard"),
    "_init_setup_model": (_SB3, "no counterpart"),
    "total_timesteps": (_SB3, "train_cycles, in passes over the training candles"),
    # A2C, DQN, QR-DQN, TRPO, recurrent PPO, ARS
    "rms_prop_eps": ("A2C", "no counterpart: Adam learns"),
    "use_rms_prop": ("A2C", "no counterpart: Adam learns"),
    "buffer_size": ("DQN", "no counterpart: PPO replays nothing"),
    "learning_starts": ("DQN", "no counterpart: PPO replays nothing"),
    "tau": ("DQN", "no counterpart: there is no target network"),
    "train_freq": ("DQN", "n_steps, the steps of each environment between two updates"),
    "gradient_steps": ("DQN", "n_epochs, the passes over a rollout"),
    "replay_buffer_class": ("DQN", "no counterpart: PPO replays nothing"),
    "replay_buffer_kwargs": ("DQN", "no counterpart: PPO replays nothing"),
    "optimize_memory_usage": ("DQN", "no counterpart: PPO replays nothing"),
    "target_update_interval": ("DQN", "no counterpart: there is no target network"),
    "exploration_fraction": ("DQN", "ent_coef, the weight of the policy's entropy"),
    "exploration_initial_eps": ("DQN", "ent_coef, the weight of the policy's entropy"),
    "exploration_final_eps": ("DQN", "ent_coef, the weight of the policy's entropy"),
    "n_quantiles": ("QRDQN", "no counterpart: values are expectations"),
    "cg_max_steps": ("TRPO", "no counterpart: PPO takes its steps with Adam"),
    "cg_damping": ("TRPO", "no counterpart: PPO takes its steps with Adam"),
    "line_search_shrinking_factor": ("TRPO", "no counterpart: PPO takes its steps with Adam"),
    "line_search_max_iter": ("TRPO", "no counterpart: PPO takes its steps with Adam"),
    "n_critic_updates": ("TRPO", "n_epochs, the passes over a rollout"),
    "sub_sampling_factor": ("TRPO", "batch_size"),
    "lstm_hidden_size": ("RecurrentPPO", "freqai.conv_width: the network sees a window instead"),
    "n_lstm_layers": ("RecurrentPPO", "freqai.conv_width: the network sees a window instead"),
    # What LightGBM, XGBoost and CatBoost read from model_training_parameters
    "n_estimators": (_TREES, "train_cycles, in passes over the training candles"),
    "num_iterations": (_TREES, "train_cycles, in passes over the training candles"),
    "iterations": (_TREES, "train_cycles, in passes over the training candles"),
    "max_depth": (_TREES, "net_arch, the widths of the hidden layers"),
    "num_leaves": (_TREES, "net_arch, the widths of the hidden layers"),
    "n_jobs": (_TREES, "freqai.rl_config.cpu_count"),
    "thread_count": (_TREES, "freqai.rl_config.cpu_count"),
    "verbosity": (_TREES, "progress_bar"),
    "early_stopping_rounds": (_TREES, "patience, in passes over the data"),
    "eta": (_TREES, "learning_rate"),
    "reg_lambda": (_TREES, "weight_decay"),
    "subsample": (_TREES, "batch_size"),
    "task_type": (_TREES, "freqai.rl_config.device"),
    "lr": ("PyTorch models", "learning_rate"),
    "trainer_kwargs": ("PyTorch models", "train_cycles and batch_size"),
    "model_kwargs": ("PyTorch models", "net_arch and dropout"),
}
"""Key -> whose it is, and what it is called here or why it has no counterpart."""

_REWARD_PARAMETERS = frozenset(
    {
        "base_factor",
        "check_invariants",
        "efficiency_center",
        "efficiency_weight",
        "entry_additive_enabled",
        "exit_additive_enabled",
        "exit_attenuation_mode",
        "exit_linear_slope",
        "exit_plateau",
        "exit_plateau_grace",
        "exit_potential_mode",
        "exit_potential_decay",
        "hold_penalty_power",
        "hold_penalty_scale",
        "hold_potential_enabled",
        "idle_penalty_power",
        "idle_penalty_scale",
        "invalid_action",
        "max_idle_duration_candles",
        "max_trade_duration_candles",
        "pnl_factor_beta",
        "potential_gamma",
        "risk_reward_ratio",
        "rr_goal",
        "win_factor",
    }
)
_OWN_REWARD = (
    "no counterpart: ReforceXY's reward is its own; write it as a function, docs/rewards.md"
)


def harmless(key: str, value: Any) -> str | None:
    """Return why a related program's key may be left unread, None where it may not.

    Parameters
    ----------
    key : str
    value : object
        What the user gave it: a feature that is switched off changes nothing.
    """
    if key in _WITHOUT_EFFECT:
        whose, instead = _WITHOUT_EFFECT[key]
        return f"{whose}'s; here: {instead}"
    if isinstance(value, Mapping):
        is_off = value.get("enabled") is False
    elif key == "sde_sample_freq":
        is_off = value == -1
    elif key in _OFF_AT_ONE:
        is_off = value in _OFF
    else:
        is_off = value is None or value is False
    if key in _REFUSED and is_off:
        return f"{_REFUSED[key][0]}'s; switched off, as here"
    return None


_OFF_AT_ONE = ("frame_stacking",)


def explained(key: str, section: str) -> str | None:
    """Return what a related program's key is called here, None for a key of nobody known."""
    if section == "model_reward_parameters":
        return f"ReforceXY's; {_OWN_REWARD}" if key in _REWARD_PARAMETERS else None
    if key not in _REFUSED:
        return None
    whose, instead = _REFUSED[key]
    has_counterpart = not instead.startswith("no counterpart")
    return f"{whose}'s; {'here: ' if has_counterpart else ''}{instead}"


def unknown_key(key: str, section: str, known: Collection[str]) -> str:
    """Return what is wrong with a key and what may have been meant, without the key itself."""
    told = explained(key, section)
    return told if told is not None else f"unknown key{nearest(key, known)}"


def nearest(key: str, known: Collection[str]) -> str:
    """Return the nearest known key as a question, or all of them where none is near."""
    close = difflib.get_close_matches(key.lower(), sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(sorted(known))}"
