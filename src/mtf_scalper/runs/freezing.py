"""``mtf-scalper freeze``: the policies of a run, put where a backtest or a bot can trade by them.

What is taken are the weights that the run was judged by: the record names their digests, and a
model that has others by now is refused.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd

from mtf_scalper._version import __version__
from mtf_scalper.checks.facts import read_used_settings
from mtf_scalper.errors import MtfScalperError
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.frozen import FACTS, FOLDER, FORMAT, compared_facts, pair_files
from mtf_scalper.freqai.model_folder import read_kept
from mtf_scalper.freqai.scaling import plain_scaling
from mtf_scalper.kept_files import KeptFilesError, read_list, write_json, write_list
from mtf_scalper.ppo.model_files import read_model, write_tensors
from mtf_scalper.ppo.rebuilt import weights_digest
from mtf_scalper.records.events import SETTINGS_FILE, WEIGHTS
from mtf_scalper.records.manifest import engine_digest
from mtf_scalper.records.reader import Run, Status
from mtf_scalper.trusted import TrustedFiles
from mtf_scalper.unfinished import PARTS, remove_unfinished
from mtf_scalper.walk_forward.kept_policies import KEPT, PolicyFacts, kept_policies

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KINDS: Final = ("backtest", "demo", "evaluate", "dry-run", "live")
_METADATA: Final = (
    "training_features_list",
    "label_list",
    "labels_mean",
    "labels_std",
    "extra_returns_per_train",
)
"""What FreqAI has to know of a model to predict by it."""


class FreezeError(MtfScalperError):
    """A run's policies cannot be frozen: says why, and what to do."""


@dataclass(frozen=True)
class _Source:
    """One pair's policy: its file, and what goes into ``policy.json``."""

    file: Path
    scaling: Mapping[str, Any]
    facts: dict[str, Any]


def freeze_run(
    run: Run,
    name: str,
    user_data: Path,
    *,
    window: str | None = None,
    seed: int | None = None,
) -> list[str]:
    """Write ``user_data/policies/NAME``, and return lines that say what is in it.

    Parameters
    ----------
    run : Run
        A finished backtest, demo or evaluation.
    name : str
    user_data : Path
        freqtrade's user directory.
    window : str, optional
        ``YYYYMMDD``: the window of each pair that trades this day; by default the newest.
    seed : int, optional
        Of an evaluation with several; by default the first.

    Raises
    ------
    FreezeError
    """
    folder = user_data / FOLDER / name
    if not NAME.fullmatch(name):
        raise FreezeError(f"--as: {name!r} is no name; use letters, digits, '.', '_' and '-'")
    if folder.exists():
        raise FreezeError(f"--as: {folder} is there already; choose another name, or delete it")
    if run.kind not in _KINDS:
        raise FreezeError(f"{run.run_id} is no backtest, demo or evaluation; freeze one of these")
    if run.status is not Status.FINISHED:
        raise FreezeError(
            f"{run.run_id} has not finished, but is {run.status}; freeze one that has"
        )
    of_evaluation = (run.folder / KEPT).is_dir()
    if seed is not None and not of_evaluation:
        raise FreezeError(f"--seed: {run.run_id} is no evaluation that keeps policies by seed")
    try:
        if of_evaluation:
            compared, sources = _of_evaluation(run, window, seed)
        else:
            compared, sources = _of_program(run, window, user_data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FreezeError(f"{run.folder}: the record is damaged ({error!r})") from None
    outcome = run.outcome or {}
    facts = {
        "format": FORMAT,
        "run": run.run_id,
        "verdict": outcome.get("verdict"),
        "frozen": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "engine": engine_digest(),
        "run_engine": run.manifest.get("engine"),
        "settings": run.settings,
        "compared": compared,
        "pairs": {pair: source.facts for pair, source in sources.items()},
    }
    _write(folder, facts, sources)
    lines = [f"policy {name!r} in {folder}, of {run.run_id}: {facts['verdict']}"]
    for pair, source in sources.items():
        trained = pd.Timestamp(source.facts["trained"], unit="s")
        digest = source.facts["weights"][:16]
        lines.append(f"{pair}: trained to {trained:%Y-%m-%d %H:%M}, weights {digest}")
    lines.append(f'trade by it with "policy": "{name}" in freqai.rl_config, and a new identifier')
    return lines


def _write(folder: Path, facts: Mapping[str, Any], sources: Mapping[str, _Source]) -> None:
    remove_unfinished(folder.parent.glob(PARTS))
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        names = [FACTS]
        write_json(part / FACTS, facts)
        for pair, source in sources.items():
            weights, scaling = pair_files(pair)
            model = read_model(source.file)
            if weights_digest(model.policy) != source.facts["weights"]:
                raise FreezeError(
                    f"{pair}: {source.file} holds other weights than the run was judged by; "
                    "run it again"
                )
            model.policy.optimizer.state.clear()  # nothing learns on
            write_tensors(part / weights, model)
            write_json(part / scaling, source.scaling)
            names += [weights, scaling]
        write_list(part, names)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


# Backtests and demos


def _of_program(
    run: Run, window: str | None, user_data: Path
) -> tuple[dict[str, Any], dict[str, _Source]]:
    said = run.events(WEIGHTS)
    frozen = next((each["policy"] for each in said if each.get("policy")), None)
    if frozen is not None:
        raise FreezeError(f"{run.run_id} has traded by policy {frozen!r}, which is frozen already")
    if not said:
        raise FreezeError(
            f"{run.run_id} names no weights; freeze a backtest, demo or evaluation of this version"
        )
    models = user_data / "models" / str(run.manifest.get("identifier") or run.run_id)
    listed = {(each["pair"], each["window"]): str(each["digest"]) for each in said}
    trades = {(each["pair"], each["window"]): each for each in run.events("window")}
    chosen: dict[str, str] = {}
    for pair, name in listed:
        of_pair = trades.get((pair, name))
        if window is not None and (of_pair is None or not _trades(of_pair, window)):
            continue
        if pair not in chosen or _trained(name) > _trained(chosen[pair]):
            chosen[pair] = name
    missing = {pair for pair, _ in listed} - chosen.keys()
    if missing:
        raise FreezeError(f"--window: no window of {', '.join(sorted(missing))} trades {window}")
    sources = {
        pair: _of_model(pair, models / name, listed[pair, name], user_data)
        for pair, name in chosen.items()
    }
    path = models / SETTINGS_FILE
    try:
        made_by = json.loads(path.read_text(encoding="utf-8"))["made_by"]
    except (OSError, ValueError, KeyError, TypeError):
        raise FreezeError(f"{path} is missing or damaged; run it again") from None
    return compared_facts(read_used_settings(models), made_by), sources


def _of_model(pair: str, folder: Path, digest: str, user_data: Path) -> _Source:
    try:
        name = str(read_list(folder).get("model"))
        kept = read_kept(folder, name, TrustedFiles(user_data))
    except KeptFilesError as error:
        raise FreezeError(f"{pair}: {error}; run it again, with its models saved") from None
    if kept.digest != digest:
        raise FreezeError(
            f"{pair}: {folder} holds other weights than the run was judged by; run it again"
        )
    scaling = plain_scaling(kept.features)
    if scaling is None:
        raise FreezeError(
            f"{pair}: FreqAI's pipeline has steps that are no plain numbers "
            "(principal_component_analysis, noise_standard_deviation); switch them off"
        )
    facts = {
        "window": folder.name,
        "trained": kept.trained,
        "weights": digest,
        "metadata": {key: kept.data[key] for key in _METADATA if key in kept.data},
    }
    return _Source(folder / f"{name}_policy.safetensors", scaling, facts)


def _trained(window: str) -> int:
    return int(window.rpartition("_")[2])


def _trades(window: Mapping[str, Any], day: str) -> bool:
    moment = _moment(day)
    first = pd.Timestamp(window.get("test_from") or window["train_to"])
    return bool(first <= moment < pd.Timestamp(window["test_to"]))


def _moment(day: str) -> pd.Timestamp:
    try:
        return pd.Timestamp(datetime.strptime(day, "%Y%m%d"), tz="UTC")
    except ValueError:
        raise FreezeError(f"--window: {day!r} is no day like 20241015") from None


# Evaluations


def _of_evaluation(
    run: Run, window: str | None, seed: int | None
) -> tuple[dict[str, Any], dict[str, _Source]]:
    compared, kept = kept_policies(run.folder)
    judged = {
        (each["pair"], each["window"], each["seed"]): each["digest"] for each in run.events(WEIGHTS)
    }
    chosen: dict[str, PolicyFacts] = {}
    for facts in kept:
        is_window = window is None or _trades(facts.period, window)
        if is_window and (seed is None or facts.seed == seed):
            chosen.setdefault(facts.pair, facts)
    missing = [pair for pair in run.manifest["pairs"] if pair not in chosen]
    if missing:
        raise FreezeError(
            f"{run.run_id} keeps no such policy of {', '.join(missing)}: an evaluation keeps those "
            "of its last window, by seed; evaluate up to the day that is wanted"
        )
    sources: dict[str, _Source] = {}
    zero = dict.fromkeys(columns.PREDICTIONS, 0.0)
    for pair, facts in chosen.items():
        digest = judged.get((pair, facts.window, facts.seed))
        if digest != facts.weights:
            raise FreezeError(f"{pair}: {facts.file} is not what was judged; evaluate again")
        about = {
            "window": facts.window,
            "seed": facts.seed,
            "trained": facts.trained,
            "weights": digest,
            "metadata": {
                "training_features_list": facts.features,
                # As FreqAI finds them in the strategy's frame, where all of them are 0.
                "label_list": list(columns.PREDICTIONS),
                "labels_mean": zero,
                "labels_std": zero,
                "extra_returns_per_train": {},
            },
        }
        sources[pair] = _Source(facts.file, facts.scaling, about)
    return compared, sources
