"""The FreqAI model: hands FreqAI's windows to ``train`` and its features to ``Policy``."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from freqtrade.configuration import TimeRange
from freqtrade.enums import TRADE_MODES
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.freqai.RL.BaseReinforcementLearningModel import BaseReinforcementLearningModel
from freqtrade.loggers import error_console
from freqtrade.strategy import IStrategy
from numpy.typing import NDArray
from pandas import DataFrame, Index
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from mtf_scalper.errors import (
    MarketError,
    MemoryLackError,
    MtfScalperError,
    UntrainableError,
)
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.actions import SIDES, prediction_frame, signals_of
from mtf_scalper.freqai.bad_candles import BadCandles, flatten_others
from mtf_scalper.freqai.config import (
    check_identifier,
    made_by,
    name_models_by_strategy,
    read_settings,
    trade_rules,
)
from mtf_scalper.freqai.decisions import Decisions
from mtf_scalper.freqai.drawer import Drawer
from mtf_scalper.freqai.frozen import FrozenPolicies
from mtf_scalper.freqai.giving_way import give_way
from mtf_scalper.freqai.left_out import (
    LeftOut,
    check_trainable,
    check_warm,
    pair_without_candles,
    without_predictions,
)
from mtf_scalper.freqai.markets import build_market, check_raw_prices, check_window, log_gaps
from mtf_scalper.freqai.model_folder import check_model
from mtf_scalper.freqai.one_program import hold
from mtf_scalper.freqai.reads import column_warnings
from mtf_scalper.freqai.recording import ProgramRecord
from mtf_scalper.freqai.reuse import (
    check_features,
    check_same_candles,
    note_candles,
    note_predicted,
    source_frames,
)
from mtf_scalper.freqai.sections import check_sections
from mtf_scalper.freqai.traded import market_of_program
from mtf_scalper.freqai.vetting import vet, vet_candles
from mtf_scalper.freqai.waiting import Turns, WaitingPairs
from mtf_scalper.freqai.window_predictions import keep_predictions
from mtf_scalper.kept_files import KeptFilesError
from mtf_scalper.market.candles import check_candles
from mtf_scalper.market.market import Market
from mtf_scalper.market.pairs import check_linear
from mtf_scalper.ppo.compute import configure_torch
from mtf_scalper.ppo.policy import Policy, observed_batch_sizes
from mtf_scalper.progress import LoggedProgress, WindowBar
from mtf_scalper.records.events import EVENTS_FILE, EventLog, ProgressCallback
from mtf_scalper.rollouts.environments import make_vec_env
from mtf_scalper.settings import Advantage, Settings
from mtf_scalper.training import train
from mtf_scalper.trusted import TrustedFiles

logger = logging.getLogger(__name__)

ONLY_WINDOW = "MTF_SCALPER_ONLY_WINDOW"
"""Environment variable that names the one window to train of a backtest: when its training ends,
seconds since 1970. All others get no prediction; see ``runs.model_training``."""
_FEATURES = ("train_features", "test_features")
_SAVE_SECONDS = 3600.0


class MtfScalperRLModel(BaseReinforcementLearningModel):
    """PPO on an environment that trades as the backtester does, for ``--freqaimodel``.

    Reads its settings once from ``freqai.rl_config`` and ``freqai.model_training_parameters``
    (see ``Settings.from_freqai``), trains one policy per pair and window, and predicts
    what ``columns.PREDICTIONS`` names: an action for every position, one for strategies that know
    of none, its confidence, and the probability of every action.
    """

    train_queue: deque[str]

    def __init__(self, **kwargs: Any) -> None:
        config = kwargs["config"]
        try:
            check_sections(config.get("original_config", config))
            self.settings: Settings = read_settings(config)
        except MtfScalperError as error:
            raise OperationalException(str(error)) from None
        # Where the user is silent freqtrade would fail, or feed prices to the network.
        loaded = config["freqai"].setdefault("rl_config", {})
        loaded.setdefault("model_reward_parameters", {})
        name_models_by_strategy(config)
        loaded.setdefault("policy_type", "MlpPolicy")
        loaded["drop_ohlc_from_features"] = True
        # Checkpoints load as stable-baselines3's PPO, which masks here as MaskablePPO does.
        loaded["model_type"] = "PPO"
        folder = Path(config["user_data_dir"], "models", config["freqai"]["identifier"])
        trusted = TrustedFiles(Path(config["user_data_dir"]))
        try:
            hold(folder, self)
            vet(folder, trusted)
            if config.get("runmode") in TRADE_MODES:
                vet_candles(config)
        except MtfScalperError as error:
            raise OperationalException(str(error)) from None
        super().__init__(**kwargs)
        self.dd: Drawer = Drawer.taking_over(self.dd, trusted)
        # FreqAI's constructor has just set torch's threads from its own estimate.
        configure_torch(self.settings)
        self.decisions = Decisions()
        self.record = ProgramRecord()
        self._has_rules = False
        self._strategy: IStrategy | None = None
        self._left_out = LeftOut()
        self._begins: datetime | None = None
        self._warm_up = timedelta()
        self._failure: Exception | None = None
        self._window = DataFrame()
        self._signals = signals_of(self._window)
        self._rows: dict[str, Index] = {}
        self.train_queue = Turns(self.train_queue)
        self._waiting = WaitingPairs(self.train_queue)
        self._history_saved = time.monotonic()
        self.is_training = False
        self._bad_candles = BadCandles()

    def start(
        self, dataframe: DataFrame, metadata: dict[str, Any], strategy: IStrategy
    ) -> DataFrame:
        """Learn the strategy's trade rules once, then do what FreqAI does."""
        pair = metadata["pair"]
        try:
            check_linear(pair)
            if not self._has_rules:
                self._begin(strategy)
            if pair in self._left_out.reasons:
                return without_predictions(dataframe)
            if strategy.dp.runmode in TRADE_MODES:
                dataframe = self._bad_candles.flatten(dataframe, pair)
                flatten_others(strategy.dp, self._other_candles(pair))
            check_candles(dataframe, pair)
            if strategy.dp.runmode not in TRADE_MODES:
                frames = source_frames(self.config, strategy.dp, pair, dataframe)
                check_same_candles(Path(self.full_path), pair, frames)
                self.record.phase("features", pair)
            result: DataFrame = super().start(dataframe, metadata, strategy)
        except (MtfScalperError, OperationalException) as error:
            cause = error if isinstance(error, MtfScalperError) else error.__cause__
            if self._goes_on_without(pair, cause, strategy):
                return without_predictions(dataframe)
            self.record.failed(str(error))
            raise OperationalException(str(error)) from None
        if not self.live:
            self.record.phase(None)
        return result

    def _begin(self, strategy: IStrategy) -> None:
        """Do what can be done only once the strategy is known."""
        self.settings = read_settings(self.config, trade_rules(self.config, strategy))
        self._strategy = strategy
        self.record = ProgramRecord.begin(self.config, self.settings, strategy.dp)
        makers = made_by(self.config, strategy, type(self))
        if self.settings.policy is not None:
            self._take_frozen(self.settings.policy, makers, strategy)
        self.dd.made_with = check_identifier(Path(self.full_path), self.settings, makers=makers)
        for warning in column_warnings(strategy, self.settings):
            logger.warning(warning)
        self._has_rules = True
        if strategy.dp.runmode not in TRADE_MODES:
            for pair in self._pairs(strategy):
                reason = pair_without_candles(self.config, pair)
                if reason is None:
                    continue
                error = UntrainableError(reason)
                if not self._goes_on_without(pair, error, strategy):
                    raise error

    def _take_frozen(self, name: str, makers: dict[str, Any], strategy: IStrategy) -> None:
        """Trade by frozen policies; nothing is trained."""
        frozen = FrozenPolicies.open(Path(self.config["user_data_dir"]), name)
        frozen.check(self.settings, makers)
        frozen.check_pairs(self._pairs(strategy))
        makers["policy files"] = frozen.digest
        self.dd.frozen = frozen
        if frozen.changed_code is not None:
            logger.warning(frozen.changed_code)
        logger.info("policy %r of run %s trades; nothing is trained", name, frozen.facts["run"])

    def start_scanning(self, *args: Any, **kwargs: Any) -> None:
        """Look for pairs to train, unless a frozen policy trades."""
        if self.dd.frozen is None:
            super().start_scanning(*args, **kwargs)

    def _goes_on_without(self, pair: str, error: BaseException | None, strategy: IStrategy) -> bool:
        """Leave a pair out of a backtest; False where that ends the run instead."""
        if strategy.dp.runmode in TRADE_MODES or not self._left_out.may(error, self.settings):
            return False
        reason = str(error)
        self.clean_up()
        self.record.left_out(pair, reason)
        try:
            self._left_out.add(pair, reason, self._pairs(strategy))
        except UntrainableError as nothing_left:
            self.record.failed(str(nothing_left))
            raise OperationalException(str(nothing_left)) from None
        return True

    def _pairs(self, strategy: IStrategy) -> list[str]:
        """Return all pairs of the run."""
        try:
            return list(strategy.dp.current_whitelist())
        except OperationalException:  # no pair lists, as in a call from Python
            return list(self.config["exchange"]["pair_whitelist"])

    def _other_candles(self, pair: str) -> list[tuple[str, str]]:
        """Return pair and timeframe of all that features are made of beside the pair's own base."""
        wanted = self.config["freqai"]["feature_parameters"]
        pairs = (pair, *wanted.get("include_corr_pairlist", []))
        every = [(each, timeframe) for each in pairs for timeframe in wanted["include_timeframes"]]
        return [each for each in every if each != (pair, self.config["timeframe"])]

    def train(
        self, unfiltered_df: DataFrame, pair: str, dk: FreqaiDataKitchen, **kwargs: Any
    ) -> PPO:
        """Check the window, then train on it as FreqAI does."""
        self._failure = None
        self._window = unfiltered_df
        try:
            self._check_window(unfiltered_df, pair, dk)
            log_gaps(unfiltered_df, pair, str(self.config["timeframe"]))
            if not self.live:
                self.record.phase(None)
            note_candles(self._events(dk), self._sources(pair, unfiltered_df))
            with MemoryLackError.named(pair, "choose a smaller net_arch or a shorter training"):
                model: PPO = super().train(unfiltered_df, pair, dk, **kwargs)
            # What FreqAI notes beside a saved model; predictions are compared with it.
            dk.data["training_features_list"] = dk.training_features_list
        except Exception as error:
            self._failure = error
            raise
        finally:
            self._window = DataFrame()
        return model

    def start_live(
        self,
        dataframe: DataFrame,
        metadata: dict[str, Any],
        strategy: IStrategy,
        dk: FreqaiDataKitchen,
    ) -> FreqaiDataKitchen:
        """Let a pair whose training failed, or that came back into the list, be trained."""
        if self.dd.frozen is None:
            self._waiting.has_new_candle(metadata["pair"])
        else:  # it was judged on later candles than it has seen, and does not expire
            dk.check_if_model_expired = lambda trained_timestamp: False
            if time.monotonic() - self._history_saved > _SAVE_SECONDS:  # else after each training
                self._history_saved = time.monotonic()
                self.dd.save_historic_predictions_to_disk()
        return super().start_live(dataframe, metadata, strategy, dk)

    def extract_data_and_train_model(
        self,
        new_trained_timerange: TimeRange,
        pair: str,
        strategy: IStrategy,
        dk: FreqaiDataKitchen,
        data_load_timerange: TimeRange,
    ) -> None:
        """Train in a running bot; what fails is told once and tried again at the next candle."""
        give_way()
        before = dict(self.dd.pair_dict[pair])
        self.is_training = True
        with self._waiting.trying(pair):
            try:
                super().extract_data_and_train_model(
                    new_trained_timerange, pair, strategy, dk, data_load_timerange
                )
            except BaseException:
                # FreqAI has noted a model that may be nowhere on the disk.
                self.dd.pair_dict[pair] = before
                raise
            finally:
                self.is_training = False

    def _check_window(self, window: DataFrame, pair: str, dk: FreqaiDataKitchen) -> None:
        """Check candles and features; of those that are not warm yet say that."""
        try:
            check_window(window, dk.training_features_list, pair, self.settings)
        except MarketError as error:
            is_warm = window[dk.training_features_list].notna().all(axis=1).any()
            if is_warm or self.live or self._begins is None:
                raise
            train, first = self.training_timerange, self._begins
            raise check_warm(error, pair, first, train, self._warm_up) from None

    def build_ohlc_price_dataframes(
        self, data_dictionary: dict[str, DataFrame], pair: str, dk: FreqaiDataKitchen
    ) -> tuple[DataFrame, DataFrame]:
        """Note which rows of the window train and test, before the feature pipeline forgets it."""
        self._rows = {name: data_dictionary[name].index for name in _FEATURES}
        prices: tuple[DataFrame, DataFrame] = super().build_ohlc_price_dataframes(
            data_dictionary, pair, dk
        )
        return prices

    def set_train_and_eval_environments(
        self,
        data_dictionary: dict[str, DataFrame],
        prices_train: DataFrame,
        prices_test: DataFrame,
        dk: FreqaiDataKitchen,
    ) -> None:
        """Give the features their rows of the window back; ``fit`` opens the environments."""
        for name, rows in self._rows.items():
            data_dictionary[name].index = rows

    def fit(self, data_dictionary: dict[str, Any], dk: FreqaiDataKitchen, **kwargs: Any) -> PPO:
        """Train one policy on a window; the last part of it, FreqAI's test set, selects the best.

        Returns
        -------
        PPO
            A stock stable-baselines3 model.
        """
        pair = dk.pair
        market = self._market(data_dictionary["train_features"], pair)
        test = data_dictionary["test_features"]
        enough = len(test) >= self.settings.window_size + 2
        validation = self._market(test, pair) if enough else None
        for label in columns.PREDICTIONS:
            # Live FreqAI looks these up for every predicted column.
            dk.data["labels_mean"].setdefault(label, 0.0)
            dk.data["labels_std"].setdefault(label, 0.0)
        title = f"{pair} to {dk.train_dates.iloc[-1]:%Y-%m-%d}" if len(dk.train_dates) else pair
        with ExitStack() as stack:
            report: ProgressCallback = LoggedProgress(title)
            if self.settings.progress_bar and error_console.is_terminal:
                # freqtrade's own bars are live on this console; bars on one console nest.
                report = stack.enter_context(WindowBar(title, error_console))
            result = train(
                market,
                self.settings,
                validation,
                initial=self.get_init_model(pair),
                env=self._environments(data_dictionary["train_features"], pair),
                on_progress=report,
                events=self._events(dk),
                tensorboard_log=self._tensorboard_folder(dk) if self.activate_tensorboard else None,
            )
        logger.info(
            "%s: %d steps in %.1f s, %.0f steps/s",
            title,
            result.steps,
            result.seconds,
            result.steps_per_second,
        )
        return result.policy.model

    def _environments(self, df: DataFrame, pair: str) -> VecEnv | None:
        """Return the environments of a training, None where exact advantages need none."""
        if self.settings.advantage is Advantage.EXACT:
            return None
        return self._create_vec_env(df, pair, self.settings.n_envs)

    def _create_vec_env(
        self, df: DataFrame, pair: str, n_envs: int = 8, is_train: bool = True
    ) -> VecEnv:
        """Return environments over the rows of ``df``, of the kind that ``rl_config.vec_env`` says.

        Parameters
        ----------
        df : DataFrame, shape (T, F)
            Features; the index selects the rows of the window that is being trained.
        pair : str
        n_envs : int
            How many run in parallel.
        is_train : bool
            Training environments start on stretches of their own and, if the settings say so, at
            random candles; others start on the first row.
        """
        settings = self.settings
        if not is_train:
            settings = settings.changed(randomize_starting_position=False)
        return make_vec_env(self._market(df, pair), settings, n_envs=n_envs, staggered=is_train)

    def predict(
        self, unfiltered_df: DataFrame, dk: FreqaiDataKitchen, **kwargs: Any
    ) -> tuple[DataFrame, NDArray[np.int_]]:
        """Compare the features with those of the training, then predict as FreqAI does."""
        try:
            check_raw_prices(unfiltered_df, dk.pair)
        except MtfScalperError as error:
            raise OperationalException(str(error)) from None
        dk.find_features(unfiltered_df)
        self.check_if_feature_list_matches_strategy(dk)
        self._dates = unfiltered_df["date"].dt.tz_localize(None).to_numpy(dtype="datetime64[ns]")
        self._signals = signals_of(unfiltered_df)
        if not self.live:
            self.record.phase(None)
            note_predicted(self._events(dk), self._sources(dk.pair, unfiltered_df))
        predicted: tuple[DataFrame, NDArray[np.int_]] = super().predict(unfiltered_df, dk, **kwargs)
        window = Path(dk.data_path).name
        self.record.predictions(dk.pair, window, unfiltered_df, predicted[0], is_live=self.live)
        return predicted

    def _sources(self, pair: str, candles: DataFrame) -> dict[str, DataFrame]:
        if self.live or self.data_provider is None:
            return {str(self.config["timeframe"]): candles}
        return source_frames(self.config, self.data_provider, pair, candles)

    def start_backtesting(
        self,
        dataframe: DataFrame,
        metadata: dict[str, Any],
        dk: FreqaiDataKitchen,
        strategy: IStrategy,
    ) -> FreqaiDataKitchen:
        """Predict anew where exits need the network; saved predictions know of no position."""
        trained, tested = dk.training_timeranges, dk.backtesting_timeranges
        if self.dd.frozen is None:
            check_trainable(dataframe, trained, tested, dk.pair, self.settings)
        self._begins = dataframe["date"].iloc[0]
        self._warm_up = strategy.startup_candle_count * timedelta(seconds=self.base_tf_seconds)
        names = [_window_name(dk.pair, train.stopts) for train in trained]
        self.record.windows(dk.pair, names, trained, tested)
        self.record.candles(dk.pair, dataframe, tested[0].startdt)
        is_table = not self.settings.add_state_info and self.dd.frozen is None
        keep_predictions(dk, self.dd.made_with, may_be_found=is_table)
        done = super().start_backtesting(dataframe, metadata, dk, strategy)
        self._record_reused(names, done)
        self.record.traded(
            dk.pair,
            lambda: market_of_program(strategy, dataframe, dk.pair, self.settings, self.config),
        )
        return done

    def ensure_data_exists(
        self, len_dataframe_backtest: int, tr_backtest: TimeRange, pair: str
    ) -> bool:
        """Whether a window is to be trained and predicted: that which another one asks for."""
        wanted = os.environ.get(ONLY_WINDOW)
        if wanted is not None and str(self.training_timerange.stopts) != wanted:
            return False
        has_data: bool = super().ensure_data_exists(len_dataframe_backtest, tr_backtest, pair)
        return has_data

    def model_exists(self, dk: FreqaiDataKitchen) -> bool:
        """Whether a window's model is on the disk, with all of its files whole."""
        if self.dd.frozen is not None:
            return True
        if not super().model_exists(dk):
            return False
        try:
            check_model(Path(dk.data_path), str(dk.model_filename))
        except KeptFilesError as error:
            logger.warning("%s: %s; the window is trained anew", dk.pair, error)
            return False
        return True

    def _record_reused(self, names: Sequence[str], dk: FreqaiDataKitchen) -> None:
        """Write the predictions that FreqAI has found on disk into the record as well."""
        whole = dk.return_dataframe
        for name, tested in zip(names, dk.backtesting_timeranges, strict=False):
            rows = whole[(whole["date"] >= tested.startdt) & (whole["date"] < tested.stopdt)]
            if len(rows):
                self.record.predictions(dk.pair, name, rows, rows, is_live=False)
                self.record.reused(dk.pair, Path(self.full_path) / name)

    def rl_model_predict(
        self, dataframe: DataFrame, dk: FreqaiDataKitchen, model: PPO
    ) -> DataFrame:
        """Predict all rows, up to ``inference_batch_size`` windows at a time.

        Returns
        -------
        DataFrame, shape (T, 10)
            ``columns.PREDICTIONS``, and ``&-action`` again under every other label of the
            strategy; 0 in the rows before the first full window.
        """
        started = time.perf_counter()
        try:
            policy = Policy(model, self.settings)
            with observed_batch_sizes(model) as batch_sizes:
                features = dataframe.to_numpy(dtype=np.float32)
                members = [policy.member_probabilities(features)] * len(SIDES)
            if self.settings.add_state_info:
                members[1:] = [policy.member_probabilities(features, side) for side in SIDES[1:]]
        except MtfScalperError as error:
            checkpoint = f"checkpoint {Path(dk.data_path).name}/{dk.model_filename}_model.zip"
            raise OperationalException(f"{dk.pair}, {checkpoint}: {error}") from None
        seconds = time.perf_counter() - started
        self.record.weights(
            dk.pair, Path(dk.data_path).name, lambda: policy.digest, model, self.settings.policy
        )
        if self.settings.add_state_info:
            self.decisions.note(dk.pair, self._dates, features, policy, only_latest=self.live)
        signals = self._signals
        if len(signals[0]) != len(dataframe):
            signals = signals_of(dataframe)  # asked for features alone
        output = prediction_frame(members, signals, self.settings)
        for label in dk.label_list:
            if label not in output.columns:
                # What freqtrade's own learner writes to every column that the strategy names.
                output[label] = output[columns.ACTION]
        self._events(dk).write(
            "prediction", rows=len(dataframe), batch_sizes=batch_sizes, seconds=seconds
        )
        return output

    def check_if_feature_list_matches_strategy(self, dk: FreqaiDataKitchen) -> None:
        """Compare what the network sees, by name and order: models know nothing of raw prices."""
        seen = [name for name in dk.training_features_list if name not in columns.RAW_PRICES]
        try:
            check_features(dk.data.get("training_features_list"), seen, dk.pair)
        except MtfScalperError as error:
            raise OperationalException(str(error)) from None

    def _append_null_backtesting_predictions(
        self, dk: FreqaiDataKitchen, dataframe_backtest: DataFrame
    ) -> None:
        """End the backtest with the reason, where FreqAI would go on with neutral predictions."""
        error = self._failure or MtfScalperError(f"{dk.pair}: the training failed")
        expected = isinstance(error, MtfScalperError)
        text = str(error) if expected else f"{dk.pair}: {error!r}".splitlines()[0][:300]
        raise OperationalException(text) from error

    def _market(self, features: DataFrame, pair: str) -> Market:
        if self.data_provider is None:
            raise OperationalException(f"{pair}: no data provider; FreqAI is shutting down")
        return build_market(
            features,
            self._window,
            pair,
            self.settings,
            config=self.config,
            provider=self.data_provider,
            strategy=self._strategy,
        )

    def _events(self, dk: FreqaiDataKitchen) -> EventLog:
        folder = Path(dk.data_path)
        return EventLog(
            folder / EVENTS_FILE,
            *self.record.event_files,
            pair=dk.pair,
            window=folder.name,
            seed=self.settings.random_state,
        )

    @staticmethod
    def _tensorboard_folder(dk: FreqaiDataKitchen) -> Path:
        return Path(dk.full_path) / "tensorboard" / str(dk.pair).split("/")[0]

    def _on_stop(self) -> None:
        """Keep the predictions made so far; no environment lives outside ``fit``."""
        self.dd.save_historic_predictions_to_disk()
        self.record.end()


def _window_name(pair: str, until: int) -> str:
    """Return the name of a window's folder, as FreqAI makes it of the training's last second."""
    return f"sub-train-{pair.split('/')[0]}_{until}"
