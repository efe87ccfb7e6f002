"""Frozen policies: weights, scaling and what they were judged with, in a folder of their own.

``mtf-scalper freeze`` writes ``user_data/policies/NAME``: for every pair the weights as safetensors
and the scaling of its features as JSON, one ``policy.json`` with all that has to be as it was, and
a list of digests. A run with ``rl_config.policy: NAME`` trades by them and trains nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from datasieve.pipeline import Pipeline

from mtf_scalper._version import __version__
from mtf_scalper.errors import SettingsError
from mtf_scalper.freqai.model_folder import KeptModel
from mtf_scalper.freqai.scaling import pipeline_of
from mtf_scalper.kept_files import LIST, KeptFilesError, check_files, file_digest
from mtf_scalper.ppo.model_files import read_model
from mtf_scalper.records.files import file_stem
from mtf_scalper.records.manifest import engine_digest
from mtf_scalper.settings import Settings

FOLDER: Final = "policies"
FACTS: Final = "policy.json"
FORMAT: Final = "mtf-scalper frozen 1"
_KEY: Final = "freqai.rl_config.policy"
_OF_WEIGHTS: Final = ("window_size", "n_actions", "add_state_info", "fills", "used_policy_inputs")
"""Settings that say what a network sees and does; the others say how it was trained."""
_OF_TRAINING: Final = (
    "weight_factor",
    "label_period_candles",
    "stratify_training_data",
    "buffer_train_data_candles",
    "noise_standard_deviation",
    "indicator_max_period_candles",
)


def compared_facts(settings: Settings, makers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run has to have in common with the one whose policies it trades.

    Parameters
    ----------
    settings : Settings
        With the rules that are used.
    makers : mapping
        From ``config.made_by``.

    Returns
    -------
    dict
        By name: what a network sees, every rule, timeframe, the strategy and all files that it
        imports, FreqAI's options of features.
    """
    facts: dict[str, Any] = {name: getattr(settings, name) for name in _OF_WEIGHTS}
    rules = settings.rules.model_dump(mode="json")
    facts |= {f"rules.{name}": value for name, value in rules.items()}
    skipped = {f"feature_parameters.{name}" for name in _OF_TRAINING}
    for name, value in makers.items():
        of_strategy = name == "strategy" or name.startswith(("strategy ", "strategy."))
        if (
            of_strategy
            or name == "timeframe"
            or (name.startswith("feature_parameters.") and name not in skipped)
        ):
            facts[name] = value
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return plain


def pair_files(pair: str) -> tuple[str, str]:
    """Return the names of a pair's two files: weights and scaling."""
    return f"{file_stem(pair)}.safetensors", f"{file_stem(pair)}.scaling.json"


@dataclass(frozen=True)
class FrozenPolicies:
    """A folder of frozen policies, whole.

    Attributes
    ----------
    folder : Path
    facts : dict
        What stands in ``policy.json``.
    digest : str
        SHA-256 of the list of files: changes with any bit of any file.
    """

    folder: Path
    facts: dict[str, Any]
    digest: str

    @classmethod
    def open(cls, user_data: Path, name: str) -> FrozenPolicies:
        """Open a folder.

        Raises
        ------
        SettingsError
            If there is none of this name, or a file of it is missing, cut or changed.
        """
        folder = user_data / FOLDER / name
        if not folder.is_dir():
            known = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())
            there = f"there are {', '.join(known)}" if known else "there are none"
            raise SettingsError(
                f"{_KEY}: there is no policy {name!r} in {folder.parent} ({there}); "
                f"make it with mtf-scalper freeze RUN --as {name}"
            )
        try:
            listed = check_files(folder)
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            wanted = {FACTS, *(file for pair in facts["pairs"] for file in pair_files(pair))}
            if facts["format"] != FORMAT or not wanted <= listed["files"].keys():
                raise KeptFilesError(f"{folder / FACTS} is damaged")
        except (KeptFilesError, OSError, KeyError, TypeError, ValueError) as error:
            raise SettingsError(f"{_KEY}: {name!r}: {error}; freeze the run again") from None
        return cls(folder, facts, file_digest(folder / LIST))

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def changed_code(self) -> str | None:
        """Say that this package's code has changed since, None if it has not."""
        if self.facts.get("engine") == engine_digest():
            return None
        return (
            f"policy {self.name!r} was frozen by version {self.facts.get('version')} with other "
            f"code than that of this {__version__}: backtest it again before it trades"
        )

    def check(self, settings: Settings, makers: Mapping[str, Any]) -> None:
        """Compare a run with the one that was frozen.

        Raises
        ------
        SettingsError
            One line that names what differs.
        """
        then, now = self.facts["compared"], compared_facts(settings, makers)
        changed = sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
        if changed:
            key = changed[0]
            raise SettingsError(
                f"{_KEY}: {self.name!r} was frozen with another {', '.join(changed)} "
                f"({key} was {then.get(key)!r}, is {now.get(key)!r}); restore it, or freeze a run "
                "made with it"
            )

    def check_pairs(self, pairs: Iterable[str]) -> None:
        """Compare the pairs of a run with those that were frozen.

        Raises
        ------
        SettingsError
            Names the first pair without a policy.
        """
        for pair in pairs:
            if pair not in self.facts["pairs"]:
                raise SettingsError(
                    f"{_KEY}: {self.name!r} holds no policy of {pair}, but of "
                    f"{', '.join(self.facts['pairs'])}; leave the pair out, or freeze a run with it"
                )

    def kept(self, pair: str, device: str = "cpu") -> KeptModel:
        """Return a pair's model with its scaling, as FreqAI predicts by it.

        Raises
        ------
        SettingsError
            If the pair has none, or its weights are not those of ``policy.json``.
        """
        self.check_pairs([pair])
        facts = self.facts["pairs"][pair]
        weights, scaling = pair_files(pair)
        model = read_model(self.folder / weights, device)
        numbers = json.loads((self.folder / scaling).read_text(encoding="utf-8"))
        coin = pair.split("/")[0]
        kept = KeptModel(
            model,
            dict(facts["metadata"]),
            pipeline_of(numbers),
            Pipeline([], {}),
            f"cb_{coin.lower()}_{facts['trained']}",
            Path(f"sub-train-{coin}_{facts['trained']}"),
            int(facts["trained"]),
        )
        if kept.digest != facts["weights"]:
            raise SettingsError(
                f"{_KEY}: {self.folder / weights} holds other weights than were frozen; "
                "freeze the run again"
            )
        return kept
