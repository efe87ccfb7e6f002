"""What FreqAI is about to read of an identifier's folder is looked at before it does.

Its constructor reads the history of a bot's predictions, a pickle, and three JSON files (freqtrade
2026.9), and ends in a traceback where one is cut. Damaged JSON is put aside; what it said of models
is found again from the lists in their folders. A history that this installation did not write is
replaced by its backup, or refused.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mtf_scalper.freqai.model_folder import check_model
from mtf_scalper.kept_files import KeptFilesError, read_list, write_json
from mtf_scalper.market.datafiles import DAMAGE, KINDS, DataFile, parse_file
from mtf_scalper.paths import written_durably
from mtf_scalper.trusted import TrustedFiles
from mtf_scalper.unfinished import PARTS, remove_unfinished

logger = logging.getLogger(__name__)

HISTORY: Final = "historic_predictions.pkl"
BACKUP: Final = "historic_predictions.backup.pkl"
PAIRS: Final = "pair_dictionary.json"
_OTHERS: Final = ("global_metadata.json", "metric_tracker.json")
_OF_A_PAIR: Final = {"model_filename": str, "trained_timestamp": int, "data_path": str}


def vet(folder: Path, trusted: TrustedFiles) -> None:
    """Make an identifier's folder, which is this program's alone, fit to be read.

    Raises
    ------
    NotTrustedError
        If the history was not written by this installation: says what to do.
    """
    if not folder.is_dir():
        return
    remove_unfinished(folder.rglob(PARTS))
    _vet_history(folder, trusted)
    for name in _OTHERS:
        path = folder / name
        if path.is_file() and not isinstance(_json_of(path), dict):
            logger.warning("%s is damaged and put aside as %s", path, _put_aside(path))
    path = folder / PAIRS
    if path.is_file() and not _are_pairs(_json_of(path)):
        found = newest_models(folder)
        aside = _put_aside(path)
        logger.warning(
            "%s is damaged and put aside as %s; models were found again for %s",
            path,
            aside,
            ", ".join(found) or "no pair",
        )
        write_json(path, found)


def vet_candles(config: Mapping[str, Any]) -> None:
    """Put candle files of a bot's pairs aside that its start would stumble over.

    freqtrade 2026.9 writes them in place as it starts. One that was cut then it reads as empty,
    with a traceback; one that is not there it downloads without.

    Parameters
    ----------
    config : mapping
        freqtrade's.
    """
    datadir, features = Path(config["datadir"]), config["freqai"].get("feature_parameters", {})
    others = features.get("include_corr_pairlist", ())
    pairs = dict.fromkeys([*config["exchange"].get("pair_whitelist", ()), *others])
    for pair, kind in itertools.product(pairs, KINDS):
        file = DataFile(datadir, pair, "5m", kind)
        for path in map(file.path.with_name, file.relatives()):
            try:
                parse_file(path, kind)
            except DAMAGE as error:
                if getattr(error, "errno", None) is not None:
                    continue  # the disk's or its rights' fault, and not the file's
                logger.warning(
                    "%s: %s cannot be read (%s): put aside as %s, and downloaded anew",
                    pair,
                    path,
                    " ".join(str(error).split())[:200] or type(error).__name__,
                    _put_aside(path),
                )


def newest_models(folder: Path, pair: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the newest model whose files are whole by pair, as FreqAI notes it."""
    found: dict[str, dict[str, Any]] = {}
    for path in folder.glob("sub-train-*"):
        try:
            listed = read_list(path)
            if "pair" not in listed or (pair is not None and listed["pair"] != pair):
                continue
            before = found.get(listed["pair"], {"trained_timestamp": -1})
            if int(listed["trained"]) > before["trained_timestamp"]:
                check_model(path, listed["model"])
                found[listed["pair"]] = {
                    "model_filename": listed["model"],
                    "trained_timestamp": int(listed["trained"]),
                    "data_path": str(path),
                    "extras": {},
                }
        except (KeptFilesError, KeyError, TypeError, ValueError):
            continue  # half-written, or damaged: there may be an older one
    return found


def _vet_history(folder: Path, trusted: TrustedFiles) -> None:
    trusted.forget_lost()
    path, backup = folder / HISTORY, folder / BACKUP
    if not path.is_file() or trusted.knows(path.read_bytes()):
        return
    if backup.is_file() and trusted.knows(backup.read_bytes()):
        logger.warning("%s is damaged; its backup %s is used", path, backup.name)
        with written_durably(path) as part:
            shutil.copyfile(backup, part)
        return
    if not trusted.wrote(path.absolute()):
        trusted.read(path)
        return
    # Nobody's but ours, and damaged: an open trade needs the bot more than the bot its history.
    logger.warning("%s is damaged, and so is its backup: put aside as %s", path, _put_aside(path))


def _json_of(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _are_pairs(found: Any) -> bool:
    return isinstance(found, dict) and all(
        isinstance(each, Mapping)
        and all(isinstance(each.get(name), kind) for name, kind in _OF_A_PAIR.items())
        for each in found.values()
    )


def _put_aside(path: Path) -> str:
    aside = path.with_name(f"{path.name}.damaged")
    os.replace(path, aside)
    return aside.name
