"""A freqtrade configuration and its strategy, read for an evaluation through the Python API."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from freqtrade.enums import RunMode
from freqtrade.exceptions import FreqtradeException
from freqtrade.resolvers import StrategyResolver
from freqtrade.resolvers.freqaimodel_resolver import FreqaiModelResolver
from freqtrade.strategy import IStrategy

from mtf_scalper.errors import SettingsError
from mtf_scalper.evaluation.recipe import Recipe
from mtf_scalper.freqai.config import made_by, read_settings, trade_rules
from mtf_scalper.freqai.leverage import has_own_leverage
from mtf_scalper.freqai.loading import load_configuration
from mtf_scalper.freqai.offline import OfflineExchange
from mtf_scalper.freqai.strategy import HybridStrategy
from mtf_scalper.freqai.trading_options import Use
from mtf_scalper.market.datafiles import FORMATS
from mtf_scalper.market.timeframes import check_multiples

_FEATURE_HOOKS = (
    "feature_engineering_expand_all",
    "feature_engineering_expand_basic",
    "feature_engineering_standard",
)


def read_recipe(
    configs: Sequence[Path], user_data: Path, datadir: Path, strategy_name: str, model_name: str
) -> Recipe:
    """Return what a backtest with these configurations would learn and trade.

    No exchange is asked and no candles are read.

    Parameters
    ----------
    configs : sequence of Path
        Later ones are laid over earlier ones.
    user_data : Path
        freqtrade's folder, with strategies and models.
    datadir : Path
        freqtrade data directory, which is not read.
    strategy_name, model_name : str
        Classes of ``--strategy`` and ``--freqaimodel``.

    Raises
    ------
    SettingsError
        If freqtrade refuses the configuration, or the strategy has features or FreqAI feature
        options that the Python API does not make.
    """
    config, strategy = load_strategy(configs, user_data, datadir, strategy_name, model_name)
    if not isinstance(strategy, HybridStrategy) or any(
        getattr(type(strategy), hook) is not getattr(HybridStrategy, hook)
        for hook in _FEATURE_HOOKS
    ):
        raise SettingsError(
            f"{strategy_name}: has features of its own, which the Python API does not make; "
            "backtest it with freqtrade, or evaluate the shipped strategy"
        )
    if has_own_leverage(strategy):
        raise SettingsError(
            f"{strategy_name}: has a leverage() of its own, which the Python API does not ask; "
            "backtest it with freqtrade, or evaluate the shipped strategy"
        )
    return _recipe(config, strategy)


def load_strategy(
    configs: Sequence[Path], user_data: Path, datadir: Path, strategy_name: str, model_name: str
) -> tuple[dict[str, Any], IStrategy]:
    """Return freqtrade's configuration and strategy as a backtest has them; see ``read_recipe``.

    Raises
    ------
    SettingsError
        If freqtrade refuses the configuration or finds no such strategy, or another one, or
        another model, stands in the configuration.
    """
    arguments: dict[str, Any] = {
        "config": [str(path) for path in configs],
        "user_data_dir": str(user_data),
        "datadir": str(datadir),
        "strategy": strategy_name,
        "freqaimodel": model_name,
    }
    try:
        with _without_its_log():
            config = load_configuration(arguments, RunMode.UTIL_NO_EXCHANGE)
            for key in ("strategy", "freqaimodel"):
                written = config["original_config"].get(key, arguments[key])
                if written != arguments[key]:
                    raise SettingsError(
                        f"{key}: {written!r} is asked for, and {arguments[key]} is what is learned "
                        "and traded here; leave it out, or backtest it with freqtrade"
                    )
            strategy = StrategyResolver.load_strategy(config)
            strategy.ft_load_hyper_params(False)
    except (FreqtradeException, ImportError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"freqtrade: {words}") from None
    return config, strategy


def load_model_class(user_data: Path, model_name: str) -> type:
    """Return the class of ``--freqaimodel``; an object of it would open the identifier's folder.

    Raises
    ------
    SettingsError
    """
    folder = user_data / "freqaimodels"
    found = None
    if folder.is_dir():
        found, _ = FreqaiModelResolver._search_object(folder, object_name=model_name)
    if not isinstance(found, type):
        raise SettingsError(f"{folder} holds no {model_name}; mtf-scalper init writes it")
    return found


def _recipe(config: dict[str, Any], strategy: HybridStrategy) -> Recipe:
    freqai = config["freqai"]
    features = freqai["feature_parameters"]
    _refuse_other_features(features)
    base, included = str(config["timeframe"]), tuple(features["include_timeframes"])
    check_multiples(base, included)
    settings = read_settings(config, trade_rules(config, strategy, Use.EVALUATION))
    if settings.policy is not None:
        raise SettingsError(
            f"freqai.rl_config.policy: {settings.policy!r} is frozen, and an evaluation trains "
            "every window; leave it out, or backtest it with freqtrade"
        )
    exchange = OfflineExchange(config)
    test_size = freqai.get("data_split_parameters", {}).get("test_size", 0.1)
    return Recipe(
        settings=settings.changed(validation_share=test_size),
        pairs=tuple(config["exchange"]["pair_whitelist"]),
        thresholds=strategy._thresholds(),
        max_leverage=float(strategy.max_leverage),
        fee_rate=exchange.fee_rate,
        timeframes=included,
        periods=tuple(features["indicator_periods_candles"]),
        timeframe=base,
        # freqtrade loads no fewer candles than the longest period has.
        startup_candles=max(
            int(strategy.startup_candle_count), *features["indicator_periods_candles"]
        ),
        terms=exchange.pair_terms,
        data_format=_data_format(config),
        made_by=made_by(config, strategy, HybridStrategy),
    )


def _data_format(config: Mapping[str, Any]) -> str | None:
    """Return the configured format of candle files; the shipped one leaves others a chance."""
    data_format = config.get("dataformat_ohlcv", "feather")
    if data_format not in FORMATS:
        raise SettingsError(f"dataformat_ohlcv: {data_format!r} is not one of {', '.join(FORMATS)}")
    return None if data_format == "feather" else str(data_format)


def _refuse_other_features(features: Mapping[str, Any]) -> None:
    """Refuse FreqAI's options that change what the network sees and that nothing here follows."""
    for key in (
        "include_corr_pairlist",
        "include_shifted_candles",
        "principal_component_analysis",
        "use_SVM_to_remove_outliers",
        "use_DBSCAN_to_remove_outliers",
        "DI_threshold",
        "noise_standard_deviation",
        "buffer_train_data_candles",
        "reverse_train_test_order",
    ):
        if features.get(key):
            raise SettingsError(
                f"freqai.feature_parameters.{key}: {features[key]!r} is not followed by an "
                "evaluation through the Python API; leave it out"
            )


@contextmanager
def _without_its_log() -> Iterator[None]:
    """Keep freqtrade from logging what it loads, and from taking over the root logger."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
