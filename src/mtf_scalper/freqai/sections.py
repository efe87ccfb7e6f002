"""The sections of a configuration that training and trading read: present, and of the right type.

freqtrade's own validation says much of this, but not of every command, and it fails itself on a
section that is null. What it and FreqAI would stumble over is said here in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtf_scalper.errors import SettingsError

_REQUIRED = (
    "exchange.name",
    "freqai.train_period_days",
    "freqai.backtest_period_days",
    "freqai.identifier",
    "freqai.feature_parameters",
    "freqai.feature_parameters.include_timeframes",
    "freqai.feature_parameters.include_corr_pairlist",
    "freqai.feature_parameters.indicator_periods_candles",
    "freqai.data_split_parameters",
)
"""FreqAI 2026.9 reads them without asking whether they are there."""
_LONGEST_DAYS = 36_500
_MOST_CANDLES = 10_000


def section(config: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """Return a section as the user wrote it, empty where it is missing.

    Raises
    ------
    SettingsError
        If it, or a section around it, is null or not a section.
    """
    found: Any = config
    for depth, key in enumerate(path):
        found = found.get(key, {})
        if not isinstance(found, Mapping):
            where = ".".join(path[: depth + 1])
            raise SettingsError(f"{where}: {_shown(found)} is not a section; write {{...}}")
    return dict(found)


def check_sections(config: Mapping[str, Any], *, is_whole: bool = True) -> None:
    """Refuse what is missing, null or of another type in the sections that are read here.

    Parameters
    ----------
    config : mapping
        freqtrade's, as written.
    is_whole : bool
        Whether everything that a run needs has to be there.

    Raises
    ------
    SettingsError
        Names the key with its section.
    """
    for path in (
        ("exchange",),
        ("freqai",),
        *(("freqai", name) for name in _SECTIONS),
        ("freqai", "rl_config", "model_reward_parameters"),
    ):
        section(config, *path)
    freqai = section(config, "freqai")
    if is_whole:
        if not freqai:
            raise SettingsError("freqai: is missing; see configs/config_rl_hybrid.json")
        for place in _REQUIRED:
            *sections, key = place.split(".")
            if key not in section(config, *sections):
                raise SettingsError(f"{place}: is missing; see configs/config_rl_hybrid.json")
    for place, (is_right, wanted) in _VALUES.items():
        *sections, key = place.split(".")
        inside = section(config, *sections)
        if key in inside and not is_right(inside[key]):
            raise SettingsError(f"{place}: {_shown(inside[key])} is not {wanted}")
    _check_window(config)


def _check_window(config: Mapping[str, Any]) -> None:
    """Refuse a window that no day of a backtest can fill: nothing would ever be predicted."""
    freqai = section(config, "freqai")
    minutes = _minutes(config.get("timeframe"))
    window = freqai.get("conv_width", 1)
    for key in ("train_period_days", "backtest_period_days"):
        days = freqai.get(key)
        if not days or minutes is None:
            continue
        candles = int(days * 1440 / minutes)
        if window > candles:
            raise SettingsError(
                f"freqai.conv_width: a window of {window} candles is longer than the {candles} of "
                f"freqai.{key} {days}; lower it, or raise {key}"
            )


def _minutes(timeframe: Any) -> float | None:
    units = {"m": 1, "h": 60, "d": 1440, "w": 10_080}
    if not isinstance(timeframe, str) or timeframe[-1:] not in units:
        return None
    number = timeframe[:-1]
    return int(number) * units[timeframe[-1]] if number.isdigit() and int(number) else None


def _is_number(least: float, most: float, *, whole: bool = False) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        is_one = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        return is_one and least <= value <= most

    return check


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_list_of(check: Callable[[Any], bool], *, least: int = 0) -> Callable[[Any], bool]:
    def check_all(value: Any) -> bool:
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        return is_list and len(value) >= least and all(map(check, value))

    return check_all


def _shown(value: Any) -> str:
    names: dict[Any, str] = {None: "null"}
    if isinstance(value, bool):
        return "true" if value else "false"
    text = names[value] if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_SECTIONS = (
    "feature_parameters",
    "data_split_parameters",
    "model_training_parameters",
    "rl_config",
)
_DAYS = f"a number of days above 0, at most {_LONGEST_DAYS}"
_CANDLES = f"a whole number of candles from 0 to {_MOST_CANDLES}"
_SWITCH = (_is_switch, "true or false")

_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "timeframe": (lambda value: _minutes(value) is not None, "a timeframe such as '5m'"),
    "exchange.name": (_is_text, "the name of an exchange, in quotes"),
    "exchange.pair_whitelist": (_is_list_of(_is_text), "a list of pairs, each in quotes"),
    "exchange.pair_blacklist": (_is_list_of(_is_text), "a list of pairs, each in quotes"),
    "freqai.enabled": _SWITCH,
    "freqai.identifier": (_is_text, "a name in quotes"),
    "freqai.purge_old_models": (
        lambda value: isinstance(value, bool) or _is_number(0, 1_000_000, whole=True)(value),
        "true, false or a number of models",
    ),
    "freqai.train_period_days": (_is_number(1, _LONGEST_DAYS, whole=True), f"a whole {_DAYS[2:]}"),
    "freqai.backtest_period_days": (_is_number(1e-4, _LONGEST_DAYS), _DAYS),
    "freqai.live_retrain_hours": (
        _is_number(0, 24 * _LONGEST_DAYS),
        "a number of hours, 0 or more",
    ),
    "freqai.expiration_hours": (_is_number(0, 24 * _LONGEST_DAYS), "a number of hours, 0 or more"),
    "freqai.conv_width": (
        _is_number(1, _MOST_CANDLES, whole=True),
        f"a whole number of candles from 1 to {_MOST_CANDLES}",
    ),
    "freqai.fit_live_predictions_candles": (
        _is_number(0, 10_000_000, whole=True),
        "a whole number of candles, 0 or more",
    ),
    "freqai.save_backtest_models": _SWITCH,
    "freqai.continual_learning": _SWITCH,
    "freqai.activate_tensorboard": _SWITCH,
    "freqai.feature_parameters.include_timeframes": (
        _is_list_of(lambda value: _minutes(value) is not None, least=1),
        "a list of timeframes such as '5m'",
    ),
    "freqai.feature_parameters.include_corr_pairlist": (
        _is_list_of(_is_text),
        "a list of pairs, each in quotes",
    ),
    "freqai.feature_parameters.indicator_periods_candles": (
        _is_list_of(_is_number(1, _MOST_CANDLES, whole=True), least=1),
        f"a list of whole numbers of candles from 1 to {_MOST_CANDLES}",
    ),
    "freqai.feature_parameters.label_period_candles": (
        _is_number(0, _MOST_CANDLES, whole=True),
        _CANDLES,
    ),
    "freqai.feature_parameters.include_shifted_candles": (
        _is_number(0, 1000, whole=True),
        "a whole number of candles from 0 to 1000",
    ),
    "freqai.feature_parameters.buffer_train_data_candles": (
        _is_number(0, 1_000_000, whole=True),
        "a whole number of candles from 0 to 1000000",
    ),
    "freqai.feature_parameters.weight_factor": (_is_number(0, 1e6), "a number, 0 or more"),
    "freqai.feature_parameters.plot_feature_importances": (
        _is_number(0, 10_000, whole=True),
        "a whole number from 0 to 10000",
    ),
    "freqai.feature_parameters.principal_component_analysis": _SWITCH,
    "freqai.feature_parameters.shuffle_after_split": _SWITCH,
    "freqai.feature_parameters.use_SVM_to_remove_outliers": _SWITCH,
    "freqai.data_split_parameters.test_size": (
        lambda value: _is_number(0, 0.5)(value),
        "a share from 0 to 0.5",
    ),
    "freqai.data_split_parameters.random_state": (
        _is_number(0, 2**31 - 1, whole=True),
        "a whole number from 0 to 2147483647",
    ),
    "freqai.data_split_parameters.shuffle": _SWITCH,
    "freqai.rl_config.max_trade_duration_candles": (
        _is_number(1, 10_000_000, whole=True),
        "a whole number of candles, 1 or more",
    ),
    "freqai.rl_config.model_type": (_is_text, "a name in quotes, 'PPO'"),
    "freqai.rl_config.policy_type": (_is_text, "a name in quotes, 'MlpPolicy'"),
    "freqai.rl_config.drop_ohlc_from_features": _SWITCH,
}
"""What a value has to be, by its place; whatever else stands in a section is freqtrade's."""
