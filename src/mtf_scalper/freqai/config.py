"""From a freqtrade configuration and a strategy to ``Settings`` and ``TradeRules``."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtf_scalper._version import __version__
from mtf_scalper.errors import SettingsError
from mtf_scalper.freqai.reads import sets_classic_entries
from mtf_scalper.freqai.sections import check_sections, section
from mtf_scalper.freqai.trading_options import Use, check_trading_options
from mtf_scalper.freqai.window_predictions import PREDICTIONS, list_of
from mtf_scalper.kept_files import KeptFilesError, read_list, write_json
from mtf_scalper.own_code import file_digest, own_code
from mtf_scalper.records.events import SETTINGS_FILE
from mtf_scalper.records.files import plain
from mtf_scalper.records.manifest import engine_digest
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator.user_rewards import reward_code, reward_digest

logger = logging.getLogger(__name__)

_MAKING = (
    "train_period_days",
    "feature_parameters",
    "data_split_parameters",
    "continual_learning",
    "fit_live_predictions_candles",
)
"""What FreqAI's own section says about how models and predictions are made."""
_TELLING = ("plot_feature_importances",)


def rl_section(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``freqai.rl_config`` as the user wrote it.

    freqtrade writes its own defaults (``net_arch`` [128, 128], ``cpu_count`` 1 ...) into the
    loaded configuration; they would hide that the user was silent.
    """
    return section(config.get("original_config", config), "freqai", "rl_config")


def trade_rules(config: Mapping[str, Any], strategy: Any, use: Use = Use.TRAINING) -> TradeRules:
    """Return the rules of a trade as freqtrade will apply them to ``strategy``.

    Options that the simulator does not follow are told of, or refused, by what the rules are for;
    see ``trading_options``. Stoploss, trailing stop and ROI are the strategy's as loaded (the
    configuration's where it overrides them);
    ``emergency_loss``, ``break_even_trigger``, ``break_even_floor`` and ``exit_confidence`` are
    attributes of the strategy; ``rl_config`` may set ``entry``, ``slippage_bps`` and
    ``max_trade_duration_candles``.

    Raises
    ------
    SettingsError
    """
    if not getattr(strategy, "use_exit_signal", True):
        raise SettingsError(
            "use_exit_signal: false keeps freqtrade from asking for the agent's exits and the "
            "safety exits; set it to true"
        )
    check_trading_options(config, strategy, use)
    rl_config = rl_section(config)
    duration = rl_config.get(
        "max_trade_duration_candles", getattr(strategy, "max_trade_duration_candles", None)
    )
    return TradeRules(
        slippage_bps=rl_config.get("slippage_bps", 0.0),
        entry=_entry_mode(rl_config, strategy),
        can_short=bool(strategy.can_short),
        stoploss=strategy.stoploss,
        **_trailing_stop(strategy),
        minimal_roi={int(minutes): ratio for minutes, ratio in strategy.minimal_roi.items()},
        max_trade_duration_candles=duration,
        emergency_loss=getattr(strategy, "emergency_loss", None),
        break_even_trigger=getattr(strategy, "break_even_trigger", None),
        break_even_floor=getattr(strategy, "break_even_floor", 0.0),
        is_liquidated=config.get("margin_mode") != "cross",
        liquidation_buffer=config.get("liquidation_buffer", 0.05),
        exit_timeout_minutes=_exit_timeout(config, strategy),
        exit_confidence=_exit_confidence(strategy),
    )


def _exit_confidence(strategy: Any) -> float:
    """Return above which probability the strategy takes the agent's exits."""
    given = getattr(strategy, "exit_confidence", 0.5)
    return float(getattr(given, "value", given))


def _trailing_stop(strategy: Any) -> dict[str, Any]:
    if not getattr(strategy, "trailing_stop", False):
        return {}
    return {
        "trailing_stop": True,
        "trailing_stop_positive": getattr(strategy, "trailing_stop_positive", None),
        "trailing_stop_positive_offset": getattr(strategy, "trailing_stop_positive_offset", 0.0),
        "trailing_only_offset_is_reached": bool(
            getattr(strategy, "trailing_only_offset_is_reached", False)
        ),
    }


def _exit_timeout(config: Mapping[str, Any], strategy: Any) -> float | None:
    """Return after how many minutes freqtrade withdraws an exit order that waits."""
    given = config.get("unfilledtimeout") or getattr(strategy, "unfilledtimeout", None) or {}
    timeout = given.get("exit")
    if timeout is None:
        return None
    return float(timeout) / (60.0 if given.get("unit", "minutes") == "seconds" else 1.0)


def read_settings(config: Mapping[str, Any], rules: TradeRules | None = None) -> Settings:
    """Return the settings of a FreqAI configuration; see ``Settings.from_freqai``.

    Raises
    ------
    SettingsError
        Names the key as the user wrote it, with its section.
    """
    written = config.get("original_config", config)
    check_sections(written, is_whole=False)
    freqai = section(written, "freqai")
    _refuse_unsupported(freqai)
    training_parameters = section(freqai, "model_training_parameters")
    random_state = section(freqai, "data_split_parameters").get("random_state")
    if random_state is not None and "seed" not in training_parameters:
        training_parameters.setdefault("random_state", random_state)
    settings = Settings.from_freqai(
        rl_section(config),
        training_parameters,
        window_size=freqai.get("conv_width", 1),
        rules=rules
        or TradeRules(
            entry=_entry_mode(rl_section(config)),
            slippage_bps=rl_section(config).get("slippage_bps", 0.0),
        ),
    )
    _check_finite(freqai, "freqai")
    return settings


def _check_finite(value: Any, name: str) -> None:
    """Refuse numbers that are none, in keys that FreqAI alone reads as well."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            _check_finite(each, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for each in value:
            _check_finite(each, name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{name}: {value} is no finite number")


def _entry_mode(rl_config: Mapping[str, Any], strategy: Any = None) -> EntryMode:
    """Return the mode that the user asked for, by default "classic" where there is such a rule.

    A strategy whose source never names the columns of such a rule has none.
    """
    entry = rl_config.get("entry")
    if "entry" not in rl_config:
        has_rule = strategy is None or sets_classic_entries(strategy)
        return EntryMode.CLASSIC if has_rule else EntryMode.ANY
    if entry not in list(EntryMode):
        raise SettingsError(
            f"freqai.rl_config.entry: {entry!r} is not one of {', '.join(EntryMode)}"
        )
    return EntryMode(entry)


def _refuse_unsupported(freqai: Mapping[str, Any]) -> None:
    if freqai.get("feature_parameters", {}).get("shuffle_after_split"):
        raise SettingsError(
            "freqai.feature_parameters.shuffle_after_split: true is not supported, the "
            "environments need candles in their order; set it to false"
        )
    if freqai.get("data_split_parameters", {}).get("test_size") == 0:
        raise SettingsError(
            "freqai.data_split_parameters.test_size: 0 is not supported, the last part of a "
            "window selects the best weights; set it above 0, to 0.15 say"
        )


def made_by(config: Mapping[str, Any], strategy: Any, model: type) -> dict[str, Any]:
    """Return what models and predictions depend on besides ``Settings``: FreqAI's own, and files.

    Parameters
    ----------
    config : mapping
        freqtrade's.
    strategy : IStrategy
        Its file, all files of the user's own that it imports or inherits from, and its entry
        parameters count; see ``own_code``.
    model : type
        The FreqAI model's class; the same files count.
    """
    freqai = section(config.get("original_config", config), "freqai")
    facts: dict[str, Any] = {}
    for name in _MAKING:
        value = freqai.get(name)
        if isinstance(value, Mapping):
            facts |= {f"{name}.{key}": each for key, each in value.items() if key not in _TELLING}
        elif value is not None:
            facts[name] = value
    facts["timeframe"] = str(config.get("timeframe"))
    for name, cls in (("strategy", type(strategy)), ("freqaimodel", model)):
        path = _source(cls, strategy if name == "strategy" else None)
        source = getattr(strategy, "__source__", None) if name == "strategy" else None
        facts[name] = f"{cls.__name__} {_file_digest(path, source)}"
        found = own_code(path, objects=(cls,))
        facts |= {f"{name} imports {file}": digest for file, digest in found.digests.items()}
        if found.unseen:
            logger.warning(
                "changes of what the %s loads here are not noticed under an identifier: %s",
                name,
                "; ".join(found.unseen),
            )
    if hasattr(strategy, "enumerate_parameters"):
        entry = strategy.enumerate_parameters("buy")
        facts |= {f"strategy.{name}": parameter.value for name, parameter in entry}
    return facts


def name_models_by_strategy(config: dict[str, Any]) -> None:
    """Give each strategy of ``--strategy-list`` models of its own.

    They depend on the strategy's rules and entries; freqtrade hands each strategy a copy of the
    configuration, in which all have one identifier.

    Parameters
    ----------
    config : dict
        The strategy's copy; its ``freqai.identifier`` is changed.
    """
    if len(config.get("strategy_list") or []) > 1:
        config["freqai"]["identifier"] += f"-{config['strategy']}"


_NOT_COMPARED: dict[str, Any] = {
    "progress_bar": True,
    "untrainable_pairs": True,
    "rules": {"exit_confidence"},
}
"""A model may be traded at another confidence than its weights were chosen at: hyperopt does."""


def check_identifier(
    models_folder: Path, settings: Settings, makers: Mapping[str, Any] | None = None
) -> str:
    """Refuse to reuse models and predictions that other settings or another version made.

    FreqAI itself reuses whatever lies under the identifier. The first run writes its settings
    there, and digests of the code that learns and trades; a later one with others fails and names
    what changed.

    Parameters
    ----------
    models_folder : Path
        The identifier's folder.
    settings : Settings
    makers : mapping, optional
        See ``made_by``.

    Returns
    -------
    str
        A digest of all that is compared, which models and predictions are listed with.

    Raises
    ------
    SettingsError
    """
    now = {
        "version": __version__,
        "engine": engine_digest(),
        **settings.model_dump(mode="json", exclude=_NOT_COMPARED),
        "made_by": plain(makers or {}),
    }
    digest = reward_digest(settings)
    if digest is not None:
        now["reward_digest"] = digest
        imported = reward_code(settings)
        now |= {f"reward imports {file}": each for file, each in imported.items()}
    made_with = hashlib.sha256(json.dumps(now, sort_keys=True).encode()).hexdigest()
    path = models_folder / SETTINGS_FILE
    then = _read_settings_file(path)
    if then is not None:
        then, now = _spread(then), _spread(now)
        changed = sorted(key for key in {*now, *then} if now.get(key) != then.get(key))
        if changed:
            key = changed[0]
            raise SettingsError(
                f"freqai.identifier: {models_folder.name!r} holds models made with other settings "
                f"({', '.join(changed)}; {key} was {then.get(key)!r}, is {now.get(key)!r}); "
                "choose a new identifier or delete its folder under user_data/models"
            )
        return made_with
    if _made_with(models_folder) - {made_with}:
        raise SettingsError(
            f"freqai.identifier: {models_folder.name!r} holds models of unknown settings; "
            "choose a new identifier or delete its folder under user_data/models"
        )
    if path.exists():
        logger.warning("%s is damaged and written anew: nothing here was made with others", path)
    try:
        models_folder.mkdir(parents=True, exist_ok=True)
        write_json(path, now)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written: {error.strerror}") from None
    return made_with


def _read_settings_file(path: Path) -> dict[str, Any] | None:
    """Return what stands in the file, None where it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("made_by"), dict) else None


def _made_with(models_folder: Path) -> set[str]:
    """Return what models and predictions that would be read say that they were made with."""
    found: set[str] = set()
    for folder in models_folder.glob("sub-train-*"):
        if not any(path.name.startswith("cb_") for path in folder.iterdir()):
            continue  # a training that came to nothing
        try:
            found.add(str(read_list(folder).get("made_with")))
        except KeptFilesError:
            # Whole or not: without a list nothing of it is read. Builds before had none.
            if not (models_folder / SETTINGS_FILE).exists():
                found.add("unknown")
    for path in models_folder.glob(f"{PREDICTIONS}/*.feather"):
        with contextlib.suppress(KeptFilesError):
            found.add(str(read_list(path.parent, list_of(path)).get("made_with")))
    return found


def _spread(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is compared, with what made the models on the same level as the settings."""
    made = values.get("made_by", {})
    return {**{key: value for key, value in values.items() if key != "made_by"}, **made}


def _source(cls: type, strategy: Any = None) -> Path | None:
    """Return the file that a class stands in; freqtrade notes it at those that it has loaded."""
    noted = getattr(strategy, "__file__", None) or cls.__dict__.get("__file__")
    try:
        found = noted or inspect.getsourcefile(cls)
    except (OSError, TypeError):  # of a class that stands in no file
        return None
    return None if found is None else Path(found)


def _file_digest(path: Path | None, source: str | None) -> str:
    if path is not None and path.is_file():
        return file_digest(path)
    if source is not None:  # a strategy that was given as text
        return hashlib.sha256(source.replace("\r\n", "\n").encode()).hexdigest()[:16]
    return "without a file"
