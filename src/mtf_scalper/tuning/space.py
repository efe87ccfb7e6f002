"""The search space: which settings are tried, in which ranges, and what depends on what.

Names are those of ``Settings``; a dot leads into ``rules`` and ``reward_parameters``. Every range
holds the value that the configuration has: the first trial is the configuration as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from mtf_scalper.errors import SettingsError
from mtf_scalper.related_keys import nearest
from mtf_scalper.settings import RewardParameters, Settings, TradeRules

Values = dict[str, Any]
"""Settings by name, in their plain form."""

_MOST: Final = 2**63
_MOST_STEPS: Final = 2**53
_KEYS: Final = ("low", "high", "log", "step", "choices", "when")

_DEFAULT: Final[Mapping[str, Mapping[str, Any]]] = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "n_epochs": {"low": 1, "high": 8, "log": True},
    "clip_range": {"low": 0.1, "high": 0.4},
    "net_arch": {"choices": [[64, 64], [256, 256], [512, 512, 256]]},
    "weight_decay": {"low": 1e-3, "high": 1.0, "log": True, "when": {"advantage": "exact"}},
    "dropout": {"low": 0.0, "high": 0.7, "when": {"advantage": "exact"}},
    "keep_bias": {
        "low": 0.0,
        "high": 4.0,
        "when": {"advantage": "exact", "policy_inputs": "features"},
    },
    "fee_warmup": {
        "low": 0.0,
        "high": 0.6,
        "when": {"advantage": "exact", "policy_inputs": "features"},
    },
    "gamma": {"low": 0.9, "high": 0.999, "when": {"advantage": "gae"}},
    "gae_lambda": {"low": 0.8, "high": 1.0, "when": {"advantage": "gae"}},
    "ent_coef": {"low": 0.0, "high": 0.02, "when": {"advantage": "gae"}},
}

_IN_RULES: Final[Mapping[str, tuple[str, ...]]] = {
    "entry": ("freqai", "rl_config", "entry"),
    "max_trade_duration_candles": ("freqai", "rl_config", "max_trade_duration_candles"),
    "max_training_drawdown": ("freqai", "rl_config", "max_training_drawdown_pct"),
    "stoploss": ("stoploss",),
    "trailing_stop": ("trailing_stop",),
    "trailing_stop_positive": ("trailing_stop_positive",),
    "trailing_stop_positive_offset": ("trailing_stop_positive_offset",),
}
"""Rules that a configuration can set, and where they stand in it."""
_ELSEWHERE: Final[Mapping[str, tuple[str, ...]]] = {
    "window_size": ("freqai", "conv_width"),
    "validation_share": ("freqai", "data_split_parameters", "test_size"),
}
_OF_THE_MACHINE: Final = frozenset(
    {
        *("allow_uncompiled_reward", "cpu_count", "device", "inference_batch_size"),
        *("interop_threads", "policy", "progress_bar", "random_state", "start_method"),
        *("untrainable_pairs", "vec_env"),
    }
)
"""Settings that luck or the machine decides, or that are no part of a training."""
_USED: Final = ("fee_warmup", "learning_rate", "n_epochs", "policy_inputs")
"""Settings that go by others where they are not given: ``used_...`` says what they are."""


@dataclass(frozen=True)
class Dimension:
    """What is tried of one setting.

    Attributes
    ----------
    name : str
    low, high : float or int or None
        Both ends belong to the range; None with ``choices``.
    log : bool
        Whether the logarithm is uniform.
    step : float or int or None
        Distance between values of a range.
    choices : tuple
        Plain values; empty with a range.
    when : mapping of str to tuple
        Names of other settings and the values of theirs with which this one is tried.
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def suggested(self, trial: Any) -> Any:
        """Return what an Optuna trial takes of it."""
        if self.choices:
            # Databases hold scalars alone: lists are told apart by their text.
            words = [_word(each) for each in self.choices]
            return self.choices[words.index(trial.suggest_categorical(self.name, words))]
        suggest = trial.suggest_int if isinstance(self.low, int) else trial.suggest_float
        step = {} if self.step is None else {"step": self.step}
        return suggest(self.name, self.low, self.high, log=self.log, **step)

    def __contains__(self, value: Any) -> bool:
        """Whether a plain value may be tried; of a range, whether it lies within."""
        if self.choices:
            return value in self.choices
        return bool((self.low or 0) <= value <= (self.high or 0))

    def parameter(self, value: Any) -> Any:
        """Return a value as Optuna keeps it."""
        return _word(value) if self.choices else value

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        found: dict[str, Any] = {"choices": list(self.choices)} if self.choices else {}
        if not self.choices:
            found = {"low": self.low, "high": self.high, "log": self.log, "step": self.step}
        return {**found, "when": {name: list(each) for name, each in self.when.items()}}


@dataclass(frozen=True)
class SearchSpace:
    """Settings to start from, and what is tried of them.

    Attributes
    ----------
    base : Settings
        Those of the configuration, with its rules.
    dimensions : tuple of Dimension
        Those that others depend on come first.
    """

    base: Settings
    dimensions: tuple[Dimension, ...]

    def base_values(self) -> Values:
        """Return what the configuration has of the dimensions that are tried with it."""
        values: Values = {}
        for each in self._active(values):
            value = plain_value(self.base, each.name)
            if value is not None:  # a rule that is switched off stays off
                values[each.name] = value
        return values

    def base_parameters(self) -> Values:
        """Return the same as Optuna keeps it."""
        known = {each.name: each for each in self.dimensions}
        return {name: known[name].parameter(each) for name, each in self.base_values().items()}

    def suggested(self, trial: Any, *, as_base: bool = False) -> Values:
        """Return the values that an Optuna trial suggests.

        Parameters
        ----------
        trial : optuna.Trial
        as_base : bool
            Whether what the configuration has switched off stays off.
        """
        values: Values = {}
        for each in self._active(values):
            if not (as_base and plain_value(self.base, each.name) is None):
                values[each.name] = each.suggested(trial)
        return values

    def settings(self, values: Mapping[str, Any]) -> Settings:
        """Return the settings of a trial.

        Raises
        ------
        SettingsError
            If the values do not go together.
        """
        flat: Values = {}
        nested: dict[str, Values] = {}
        for name, value in values.items():
            section, _, inner = name.rpartition(".")
            if section:
                nested.setdefault(section, {})[inner] = value
            else:
                flat[name] = value
        for section, changes in nested.items():
            flat[section] = getattr(self.base, section).changed(**changes)
        return self.base.changed(**flat)

    def configuration(self, values: Mapping[str, Any], study: str) -> dict[str, Any]:
        """Return values as a configuration of freqtrade, to be laid over the user's own.

        Models of other settings are never reused: it has an identifier of its own.
        """
        text = json.dumps([study, dict(values)], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        found: dict[str, Any] = {"freqai": {"identifier": f"{study}_{digest}", "rl_config": {}}}
        for name, value in values.items():
            *path, key = _place(name)
            section = found
            for part in path:
                section = section.setdefault(part, {})
            section[key] = value
        return found

    def facts(self) -> dict[str, Any]:
        """Return all dimensions as plain values."""
        return {each.name: each.facts() for each in self.dimensions}

    @property
    def longest_trade(self) -> int | None:
        """The longest ``max_trade_duration_candles`` that is tried, None where it is not."""
        for each in self.dimensions:
            if each.name == "rules.max_trade_duration_candles":
                return int(max(each.choices) if each.choices else (each.high or 0))
        return None

    def _active(self, values: Values) -> Iterator[Dimension]:
        """Yield the dimensions that are tried with the values that there are by then."""
        for each in self.dimensions:
            if all(
                values.get(name, plain_value(self.base, name)) in wanted
                for name, wanted in each.when.items()
            ):
                yield each


def search_space(base: Settings, file: Path | None = None) -> SearchSpace:
    """Return the default search space of settings, with what a TOML file says instead.

    Parameters
    ----------
    base : Settings
    file : Path, optional
        A table per setting: ``low`` and ``high`` with ``log`` and ``step``, or ``choices``;
        ``when`` names the values of others that it is tried with. ``name = false`` leaves
        a setting out, ``defaults = false`` all that the file does not name.

    Raises
    ------
    SettingsError
        Names the file, the setting and the key.
    """
    tables: dict[str, Mapping[str, Any]] = dict(_DEFAULT)
    given: dict[str, Any] = {}
    if file is not None:
        given = _read(file)
        keeps = given.pop("defaults", True)
        if not isinstance(keeps, bool):
            raise SettingsError(f"{file.name}: defaults: {keeps!r} is neither true nor false")
        if not keeps:
            tables = {}
    where = "space" if file is None else file.name
    for name, table in given.items():
        tables.pop(name, None)
        if table is not False:
            tables[name] = table
    dimensions = [
        _dimension(base, name, table, where)
        for name, table in tables.items()
        if name in given or not _is_switched_off(base, name, table)
    ]
    dimensions = [each for each in _in_order(dimensions, where) if _can_be(base, each, dimensions)]
    if not dimensions:
        raise SettingsError(f"{where}: no setting is left to search over")
    return SearchSpace(base, tuple(dimensions))


def plain_value(settings: Settings, name: str) -> Any:
    """Return what a setting is, by its dotted name: a number, text, flag, list or None."""
    value: Any = settings
    for part in name.split("."):
        used = f"used_{part}" if part in _USED and isinstance(value, Settings) else part
        value = getattr(value, used)
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, str) else value


def _read(file: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of TOML, of UTF-8, of an integer with too many digits
        raise SettingsError(f"{file.name}: {error}") from None
    except RecursionError:
        raise SettingsError(f"{file.name}: lists or tables are nested too deeply") from None
    for key, value in found.items():
        _check_plain(value, f"{file.name}: {key}")
    return {name: each for key, value in found.items() for name, each in _named(key, value)}


def _check_plain(value: Any, where: str) -> None:
    """Refuse what neither a database nor the JSON of a record can keep, wherever it stands."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            _check_plain(each, f"{where}.{key}")
    elif isinstance(value, list):
        for each in value:
            _check_plain(each, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{where}: {value} is no finite number")
    elif isinstance(value, int) and abs(value) >= _MOST:
        raise SettingsError(f"{where}: a whole number of more than 63 bits")
    elif not isinstance(value, str | int | float):
        raise SettingsError(f"{where}: {value} is a date or a time, which no setting is")


def _named(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield tables by dotted name: TOML makes a table of tables of ``[rules.stoploss]``."""
    if key in ("rules", "reward_parameters") and isinstance(value, Mapping):
        yield from ((f"{key}.{inner}", each) for inner, each in value.items())
    else:
        yield key, value


def _place(name: str) -> tuple[str, ...]:
    """Return where a setting stands in freqtrade's configuration."""
    section, _, inner = name.rpartition(".")
    if section == "rules":
        return _IN_RULES[inner]
    if section == "reward_parameters":
        return ("freqai", "rl_config", "model_reward_parameters", inner)
    return _ELSEWHERE.get(name, ("freqai", "rl_config", name))


def _dimension(base: Settings, name: str, table: Any, where: str) -> Dimension:
    _check_name(name, where)
    if not isinstance(table, Mapping):
        raise SettingsError(f"{where}: {name}: {table!r} is no table; write [{name}], or false")
    for key in table:
        if key not in _KEYS:
            raise SettingsError(f"{where}: {name}.{key}: unknown key{nearest(key, _KEYS)}")
    asked = table.get("when", {})
    if not isinstance(asked, Mapping):
        raise SettingsError(
            f'{where}: {name}.when: {asked!r} is no table; write {{ name = "value" }}'
        )
    when = {str(other): _listed(value) for other, value in asked.items()}
    for other, wanted in when.items():
        _check_name(other, where)
        for each in wanted:
            _checked(base, other, each, f"{where}: {name}.when")
    choices = table.get("choices", ())
    if not isinstance(choices, Sequence) or isinstance(choices, str):
        raise SettingsError(f"{where}: {name}.choices: {choices!r} is no list")
    if bool(choices) == ("low" in table or "high" in table):
        raise SettingsError(f"{where}: {name}: give low and high, or choices of it")
    found = Dimension(name, choices=tuple(choices), when=when)
    if not choices:
        found = _ranged(base, found, table, where)
    for each in found.choices or (found.low, found.high):
        _checked(base, name, each, where)
    return _holding(found, plain_value(base, name), where)


def _ranged(base: Settings, found: Dimension, table: Mapping[str, Any], where: str) -> Dimension:
    name = found.name
    low, high = table.get("low"), table.get("high")
    step, log = table.get("step"), table.get("log", False)
    for key, value in (("low", low), ("high", high), ("step", 1 if step is None else step)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SettingsError(f"{where}: {name}.{key}: {value!r} is no number")
    if not isinstance(log, bool):
        raise SettingsError(f"{where}: {name}.log: {log!r} is neither true nor false")
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if low >= high:
        raise SettingsError(f"{where}: {name}: low {low} is not below high {high}")
    if log and (low <= 0 or step is not None):
        raise SettingsError(f"{where}: {name}: a log scale has a low above zero, and no step")
    if step is not None and step <= 0:
        raise SettingsError(f"{where}: {name}.step: {step} is not above zero")
    if isinstance(_checked(base, name, low, where), float):
        low, high = float(low), float(high)
        step = None if step is None else float(step)
    elif not all(isinstance(each, int) for each in (low, high, step or 1)):
        raise SettingsError(f"{where}: {name}: low, high and step have to be whole numbers")
    if step is not None and not _is_stepped(high - low, step):
        raise SettingsError(f"{where}: {name}: from {low} no steps of {step} lead to {high}")
    return replace(found, low=low, high=high, log=log, step=step)


def _is_stepped(width: float, step: float) -> bool:
    """Whether a width is one or more whole steps, and not more than can be told apart."""
    steps = width / step
    return 1.0 - 1e-9 <= steps <= _MOST_STEPS and abs(steps - round(steps)) <= 1e-9


def _holding(found: Dimension, own: Any, where: str) -> Dimension:
    """Return the dimension with the configuration's own value in it."""
    if own is None:
        return found
    if found.choices:
        known = [_word(each) for each in found.choices]
        return found if _word(own) in known else replace(found, choices=(own, *found.choices))
    assert found.low is not None
    assert found.high is not None
    if found.log and own <= 0:
        raise SettingsError(
            f"{where}: {found.name}: the configuration's {own!r} has no place on a log scale"
        )
    if found.step is not None:
        steps = (own - found.low) / found.step
        if abs(steps - round(steps)) > 1e-9:
            raise SettingsError(
                f"{where}: {found.name}: the configuration's {own!r} is no whole number of steps "
                f"of {found.step} from {found.low}"
            )
    return replace(found, low=min(found.low, own), high=max(found.high, own))


def _is_switched_off(base: Settings, name: str, table: Mapping[str, Any]) -> bool:
    """Whether a setting is 0 in the configuration, which has no place on a log scale."""
    return bool(table.get("log")) and plain_value(base, name) == 0


def _check_name(name: str, where: str) -> None:
    known = {
        *(set(Settings.model_fields) - _OF_THE_MACHINE - {"rules", "reward_parameters"}),
        *(f"reward_parameters.{each}" for each in RewardParameters.model_fields),
        *(f"rules.{each}" for each in _IN_RULES),
    }
    if name in known:
        return
    section, _, inner = name.rpartition(".")
    if section == "rules" and inner in TradeRules.model_fields:
        raise SettingsError(
            f"{where}: {name}: no configuration sets it; `freqtrade hyperopt` searches what is the "
            "strategy's"
        )
    if name in _OF_THE_MACHINE:
        raise SettingsError(f"{where}: {name}: is no part of what is learned")
    raise SettingsError(f"{where}: {name}: unknown setting{nearest(name, known)}")


def _checked(base: Settings, name: str, value: Any, where: str) -> Any:
    """Return a value as the settings take it."""
    section, _, inner = name.rpartition(".")
    owner = getattr(base, section) if section else base
    try:
        return getattr(owner.changed(**{inner: value}), inner)
    except SettingsError as error:
        # At odds with what the other settings are now is not wrong in itself.
        if str(error).startswith((f"{inner}:", f"{inner}.")):
            raise SettingsError(f"{where}: {section and section + '.'}{error}") from None
        return value


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _in_order(dimensions: Sequence[Dimension], where: str) -> list[Dimension]:
    """Return the dimensions so that each comes after those that it depends on."""
    left, found = list(dimensions), list[Dimension]()
    while left:
        waiting = {each.name for each in left}
        ready = [each for each in left if not waiting & set(each.when)]
        if not ready:
            names = ", ".join(sorted(waiting))
            raise SettingsError(f"{where}: {names}: each is tried only with another of them")
        found += ready
        left = [each for each in left if each not in ready]
    return found


def _can_be(base: Settings, one: Dimension, dimensions: Sequence[Dimension]) -> bool:
    """Whether a dimension is ever tried: what is not searched stays what it is."""
    searched = {each.name: each for each in dimensions}
    return all(
        any(value in searched[name] for value in wanted)
        if name in searched
        else plain_value(base, name) in wanted
        for name, wanted in one.when.items()
    )


def _word(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value
