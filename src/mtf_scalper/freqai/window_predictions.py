"""A backtest's saved predictions: found again only where they are what was written.

FreqAI looks at a file's name and number of rows (freqtrade 2026.9), so that a changed byte is a
prediction like any other.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from pandas import DataFrame

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.kept_files import (
    KeptFilesError,
    check_files,
    read_list,
    remove_list,
    write_list,
)
from mtf_scalper.paths import written_durably

logger = logging.getLogger(__name__)

PREDICTIONS: Final = "backtesting_predictions"


class PredictionsError(MtfScalperError):
    """Predictions cannot be written: says where."""


def list_of(path: Path) -> str:
    """Return the name of the list of a file of predictions, which lies beside it."""
    return f"{path.stem}.json"


def keep_predictions(dk: FreqaiDataKitchen, made_with: str, *, may_be_found: bool) -> None:
    """Let a kitchen of a backtest list what it saves, and find again only what is whole.

    Parameters
    ----------
    dk : FreqaiDataKitchen
    made_with : str
        Kept with each list.
    may_be_found : bool
        Whether saved predictions are of any use.
    """
    find_saved = dk.check_if_backtest_prediction_is_valid

    def is_valid(n_rows: int) -> bool:
        folder = Path(dk.full_path) / PREDICTIONS
        path = folder / f"{dk.model_filename}_prediction.feather"
        dk.backtesting_results_path = path  # FreqAI saves there
        if not may_be_found or not path.is_file():
            return False
        try:
            check_files(folder, list_name=list_of(path))
            metadata = f"{dk.model_filename}_metadata.json"
            if metadata not in read_list(Path(dk.data_path))["files"]:
                raise KeptFilesError(f"{Path(dk.data_path) / metadata} is missing")
            check_files(Path(dk.data_path))
        except KeptFilesError as error:
            logger.warning("%s: %s; the window is predicted anew", dk.pair, error)
            return False
        return bool(find_saved(n_rows))

    def save(predictions: DataFrame) -> None:
        path = Path(dk.backtesting_results_path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_list(path.parent, list_of(path))
            with written_durably(path) as part:
                predictions.to_feather(part)
            write_list(path.parent, [path.name], list_name=list_of(path), made_with=made_with)
        except OSError as error:
            raise PredictionsError(
                f"{dk.pair}: predictions cannot be written: {path}: {error.strerror}"
            ) from error

    dk.check_if_backtest_prediction_is_valid = is_valid
    dk.save_backtesting_prediction = save
