"""FreqAI's memory of a running bot, with files that a kill cannot leave in halves.

All dates are in one form.

freqtrade 2026.9 reads candles from feather and parquet files with dates in milliseconds and the
time zone ``ZoneInfo("UTC")``; those that it fetches are in microseconds, in ``timezone.utc``.
pandas 3.1 joins two time zone objects to a column of Python objects, however equal they are, and
merges it with no other. FreqAI joins the two at the first new candle, so that no training after it
would succeed.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import threading
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import pandas as pd
import rapidjson
from freqtrade.configuration import TimeRange
from freqtrade.freqai.data_drawer import FreqaiDataDrawer
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.strategy import IStrategy
from stable_baselines3 import PPO

from mtf_scalper.freqai import model_folder
from mtf_scalper.freqai.frozen import FrozenPolicies
from mtf_scalper.freqai.histories import complete, include_own_pair, without_duplicates
from mtf_scalper.freqai.model_folder import KeptModel
from mtf_scalper.freqai.vetting import newest_models
from mtf_scalper.kept_files import KeptFilesError
from mtf_scalper.market.candles import flatten_bad_candles
from mtf_scalper.paths import PathError, written_durably
from mtf_scalper.trusted import TrustedFiles

logger = logging.getLogger(__name__)

_DATES = pd.DatetimeTZDtype("us", UTC)  # what freqtrade makes of fetched candles


def in_one_form(frame: pd.DataFrame, column: str = "date") -> pd.DataFrame:
    """Return a frame whose dates are microseconds in ``datetime.timezone.utc``.

    Parameters
    ----------
    frame : DataFrame
        Its dates are datetimes of any unit and time zone (UTC where there is none), or such as
        Python objects; not changed.
    column : str
        Where the dates are.

    Returns
    -------
    DataFrame
        ``frame`` itself where there is nothing to do.
    """
    if column not in frame.columns:
        return frame
    dates = frame[column]
    # Two time zone objects of one name count as equal to pandas' types, not to its joins.
    if dates.dtype == _DATES and dates.dt.tz is UTC:
        return frame
    return frame.assign(
        **{column: pd.to_datetime(dates, utc=True).dt.tz_convert(UTC).astype(_DATES)}
    )


class Drawer(FreqaiDataDrawer):
    """FreqAI's own, whose candles and predictions can be joined with those that come.

    What it writes is there whole or not, and what it reads is whole and runs no code; see
    ``model_folder``.
    """

    _trusted: TrustedFiles
    _in_use: dict[str, KeptModel]
    _saving: threading.Lock
    made_with: str
    frozen: FrozenPolicies | None

    _known: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def taking_over(cls, plain: FreqaiDataDrawer, trusted: TrustedFiles) -> Drawer:
        """Return one that goes on with what FreqAI's constructor has just read from disk."""
        drawer = cls.__new__(cls)
        drawer.__dict__.update(plain.__dict__)
        drawer._trusted, drawer._in_use, drawer.made_with = trusted, {}, ""
        drawer._saving, drawer.frozen = threading.Lock(), None
        # The predictions of the bot's last life, which another version may have written.
        for pair, predictions in drawer.historic_predictions.items():
            drawer.historic_predictions[pair] = in_one_form(predictions, "date_pred")
        return drawer

    def save_data(self, model: PPO, coin: str, dk: FreqaiDataKitchen) -> None:
        """Write a model; it is used, and read again, once all of its files are on the disk."""
        with self._saving:
            kept = self._saved(model, coin, dk)
            if dk.live:
                self._in_use[coin] = kept

    def _saved(self, model: PPO, coin: str, dk: FreqaiDataKitchen) -> KeptModel:
        folder = Path(dk.data_path)
        try:
            model_folder.begin(folder)
            super().save_data(model, coin, dk)
            kept = KeptModel(
                model,
                dk.data,
                dk.feature_pipeline,
                dk.label_pipeline,
                str(dk.model_filename),
                folder,
                int(self.pair_dict[coin]["trained_timestamp"]),
            )
            model_folder.finish(kept, self._trusted, pair=coin, made_with=self.made_with)
        except OSError as error:
            where = error.filename or folder
            raise PathError(
                f"{coin}: the model cannot be written: {where}: {error.strerror}; "
                "free the disk or correct its rights, the model before stays in use"
            ) from error
        return kept

    def save_metadata(self, dk: FreqaiDataKitchen) -> None:
        """Write what a backtest without saved models keeps of one."""
        folder = Path(dk.data_path)
        model_folder.begin(folder)
        super().save_metadata(dk)
        model_folder.finish_files(folder, str(dk.model_filename), made_with=self.made_with)

    def load_data(self, coin: str, dk: FreqaiDataKitchen) -> PPO | None:
        """Let a kitchen predict with a pair's model; None where there is none yet.

        In a backtest FreqAI itself would take the pipeline of the window that was trained last for
        that of a window whose model it finds (freqtrade 2026.9).
        """
        if self.frozen is not None:
            return self._frozen_model(coin, dk)
        if not dk.live:
            kept = model_folder.read_kept(
                Path(dk.data_path), str(dk.model_filename), self._trusted, device="auto"
            )
        elif coin in self._in_use:
            kept = self._in_use[coin]
        else:
            with self._saving:  # the first one may be about to be there
                found = self._in_use.get(coin) or self._found_again(coin)
            if found is None:
                return None
            kept = self._in_use.setdefault(coin, found)
        self.model_dictionary.setdefault(coin, kept.model)
        return kept.give_to(dk)

    def _frozen_model(self, coin: str, dk: FreqaiDataKitchen) -> PPO:
        assert self.frozen is not None
        if coin not in self._in_use:
            kept = self.frozen.kept(coin, device="auto")
            kept.folder = Path(self.full_path) / kept.folder
            self._in_use[coin] = kept
        # A backtest's windows keep their names.
        name, folder = dk.model_filename, dk.data_path
        model = self._in_use[coin].give_to(dk)
        if not dk.live:
            dk.model_filename, dk.data_path = name, folder
        return model

    def _found_again(self, coin: str) -> KeptModel | None:
        """Return the model of the bot's last life, an older one where that is damaged."""
        noted = self.pair_dict[coin]
        if not noted["model_filename"]:
            return None
        folder, name = Path(noted["data_path"]), noted["model_filename"]
        try:
            return model_folder.read_kept(folder, name, self._trusted, device="auto")
        except (KeptFilesError, OSError) as error:
            older = newest_models(Path(self.full_path), coin).get(coin)
            told = "the model before it is used" if older else "the pair is trained anew"
            logger.warning("%s: %s; %s", coin, error, told)
        if older is None:
            self.pair_dict[coin] = self.empty_pair_dict.copy()
            return None
        self.pair_dict[coin] = older
        folder, name = Path(older["data_path"]), older["model_filename"]
        return model_folder.read_kept(folder, name, self._trusted, device="auto")

    def save_historic_predictions_to_disk(self) -> None:
        """Write the history of predictions and its backup, each whole, or tell why not.

        FreqAI calls it outside of any guard in the thread that trains, which an error would end.
        """
        try:
            self._save_history()
        except OSError as error:
            logger.warning(
                "%s: cannot be written: %s; the one before it stays",
                error.filename or self.historic_predictions_path,
                error.strerror,
            )

    def _save_history(self) -> None:
        with self.save_lock:
            content = pickle.dumps(dict(self.historic_predictions))
            digest = hashlib.sha256(content).hexdigest()
            file = Path(self.historic_predictions_path).absolute()
            # Before it has its name: a kill between the two leaves one that is known.
            self._trusted.add(digest, file, "the history of a bot")
            for path in (file, Path(self.historic_predictions_bkp_path)):
                with written_durably(path) as part:
                    part.write_bytes(content)
            self._trusted.forget(file, but=[digest])

    def save_drawer_to_disk(self) -> None:
        """Write which models are used."""
        self._write_json(Path(self.pair_dictionary_path), self.pair_dict)

    def save_global_metadata_to_disk(self, metadata: dict[str, Any]) -> None:
        """Write since when the bot has been running."""
        self._write_json(Path(self.global_metadata_path), metadata)

    def save_metric_tracker_to_disk(self) -> None:
        """Write how long trainings took."""
        self._write_json(Path(self.metric_tracker_path), self.metric_tracker)

    def _write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        with self.save_lock, written_durably(path) as part:
            mode = rapidjson.NM_NATIVE
            text = rapidjson.dumps(content, default=self.np_encoder, number_mode=mode)
            part.write_text(text, encoding="utf-8")

    def load_all_pair_histories(self, timerange: TimeRange, dk: FreqaiDataKitchen) -> None:
        """Read the candles of all pairs from disk."""
        include_own_pair(dk)
        super().load_all_pair_histories(timerange, dk)
        self._unify()

    def update_historic_data(self, strategy: IStrategy, dk: FreqaiDataKitchen) -> None:
        """Append the candles that have closed since."""
        with self.history_lock:
            timeframes = self.freqai_info["feature_parameters"]["include_timeframes"]
            self._known = complete(self.historic_data, self._known, strategy, dk, timeframes)
        self._unify()
        super().update_historic_data(strategy, dk)
        self._unify()

    def get_base_and_corr_dataframes(
        self, timerange: TimeRange, pair: str, dk: FreqaiDataKitchen
    ) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Return what a training is made of; it runs while another thread appends candles."""
        self._unify()
        corr, base = super().get_base_and_corr_dataframes(timerange, pair, dk)
        return corr, base

    def attach_return_values_to_return_dataframe(
        self, pair: str, dataframe: pd.DataFrame
    ) -> pd.DataFrame:
        """Join a strategy's frame with what was predicted; FreqAI refuses a candle that has two."""
        self.model_return_values[pair] = without_duplicates(self.model_return_values[pair], pair)
        joined: pd.DataFrame = super().attach_return_values_to_return_dataframe(pair, dataframe)
        return joined

    def _unify(self) -> None:
        with self.history_lock:
            for frames in self.historic_data.values():
                for timeframe, candles in frames.items():
                    frames[timeframe] = in_one_form(candles)
                    flatten_bad_candles(frames[timeframe])
