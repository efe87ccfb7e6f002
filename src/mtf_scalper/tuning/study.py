"""The study: an Optuna study in a database that a killed search goes on from as if never ended.

Trials are asked for in generations of a fixed size and told together once all of a generation are
done, in the order of their numbers. So what a trial is depends on the generations before it alone,
however many of a generation are learned at a time. Each has a sampler of its own, seeded by the
study's seed and by how many trials there were before: one sampler for all would begin anew in a
resumed study and repeat its trials.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from mtf_scalper.errors import SettingsError
from mtf_scalper.optional import library
from mtf_scalper.records.files import plain
from mtf_scalper.records.secrets import without_secrets
from mtf_scalper.tuning.space import SearchSpace, Values

GENERATION: Final = 4
"""Trials that are asked for before any of them is told."""
STARTUP_TRIALS: Final = 10
"""Trials at random before TPE suggests any."""
_PLAN, _FINAL = "mtf_scalper_plan", "mtf_scalper_final"
_VALUES, _OUTCOME = "mtf_scalper_values", "mtf_scalper_outcome"
"""User attributes: two of a study, two of its trials."""

COMPLETE, STOPPED, UNTRADABLE = "complete", "stopped", "untradable"


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes
    ----------
    state : str
        ``COMPLETE``; ``STOPPED`` after some of the windows; ``UNTRADABLE`` where it cannot be
        learned.
    windows : tuple of float
        Held-out log return of each window that was traded.
    days : mapping of str to list of float
        Daily log returns of the agent and of each baseline by name, over all days of the search;
        0 after a trial was stopped, and nothing where it is untradable.
    reason : str
        Why it is untradable, in one line.
    """

    state: str
    windows: tuple[float, ...] = ()
    days: Mapping[str, Sequence[float]] = field(default_factory=dict)
    reason: str = ""

    @property
    def objective(self) -> float | None:
        """Mean over the windows less its standard error; None unless all were traded."""
        return lower_mean(self.windows) if self.state == COMPLETE else None


@dataclass(frozen=True)
class Told:
    """A trial that is over.

    Attributes
    ----------
    number : int
        Optuna's, from 0.
    values : dict of str to object
        Settings by name.
    outcome : Outcome
    """

    number: int
    values: Values
    outcome: Outcome


@dataclass(frozen=True)
class Asked:
    """A trial that is to be learned: its number, and its settings by name."""

    number: int
    values: Values


def lower_mean(windows: Sequence[float]) -> float:
    """Return ``mean(w) - std(w) / sqrt(n)``, of at least two windows."""
    found = np.asarray(windows, dtype=np.float64)
    return float(found.mean() - found.std(ddof=1) / np.sqrt(len(found)))


class TuningStudy:
    """Trials of one search, kept in a database; see ``opened_study``."""

    def __init__(self, study: Any, space: SearchSpace, seed: int) -> None:
        self._study = study
        self._space = space
        self._seed = seed
        self._optuna = library("optuna", "tune")

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self._study.study_name)

    def told(self) -> list[Told]:
        """Return the trials that are over, by number."""
        states = self._optuna.trial.TrialState
        return [
            Told(trial.number, trial.user_attrs[_VALUES], _outcome_of(trial))
            for trial in self._trials(states.COMPLETE, states.PRUNED)
            if _OUTCOME in trial.user_attrs
        ]

    def best(self) -> Told | None:
        """Return the trial with the highest objective, the first of several; None without one."""
        complete = [each for each in self.told() if each.outcome.objective is not None]
        return max(complete, key=lambda each: each.outcome.objective or 0.0, default=None)

    def ask(self, n_trials: int) -> list[Asked]:
        """Return the trials of the next generation that are to be learned.

        Those of a search that was killed come first; what it had of them is told.

        Parameters
        ----------
        n_trials : int
            How many the study is to have.

        Returns
        -------
        list of Asked
            Empty once it has them.
        """
        running = self._running()
        is_learned = any(_OUTCOME in trial.user_attrs for trial in running)
        if is_learned and all(_OUTCOME in trial.user_attrs for trial in running):
            self._tell(running)
            running, is_learned = [], False
        n_told = len(self.told())
        n_wanted = 0 if is_learned else min(GENERATION, n_trials - n_told)
        for index in range(n_told + len(running), n_told + n_wanted):
            self._suggest(index)
        return [
            Asked(trial.number, trial.user_attrs[_VALUES])
            for trial in self._running()
            if _OUTCOME not in trial.user_attrs
        ]

    def tell(self, outcomes: Mapping[int, Outcome]) -> list[Told]:
        """Keep the outcomes of a generation by number, then end its trials; return them."""
        for frozen in self._running():
            if frozen.number in outcomes:
                kept = plain(asdict(outcomes[frozen.number]))
                self._opened(frozen).set_user_attr(_OUTCOME, kept)
        running = {trial.number for trial in self._running()}
        self._tell(self._running())
        return [each for each in self.told() if each.number in running]

    def is_poor(self, windows: Sequence[float]) -> bool:
        """Whether a trial is worse than the best one so far, by the windows that both traded.

        Wilcoxon's signed-rank test at 10%, which fewer than four windows never reach. In the first
        generation there is nothing to be worse than.
        """
        trial = self._optuna.trial.create_trial(
            state=self._optuna.trial.TrialState.PRUNED,
            intermediate_values=dict(enumerate(windows)),
        )
        return bool(self._study.pruner.prune(self._study, trial))

    @property
    def final(self) -> dict[str, Any] | None:
        """What was found when the locked part was looked at, None before."""
        found: dict[str, Any] | None = self._study.user_attrs.get(_FINAL)
        return found

    def lock_away(self, final: Mapping[str, Any]) -> None:
        """Keep what the locked part has said: nothing is tried any more."""
        self._study.set_user_attr(_FINAL, plain(final))

    def importance(self) -> dict[str, float]:
        """Return each setting's share of what trials differ by; empty where that is not known."""
        complete = [each for each in self.told() if each.outcome.objective is not None]
        objectives = {each.outcome.objective for each in complete}
        names = [
            each.name
            for each in self._space.dimensions
            if all(each.name in told.values for told in complete)
        ]
        if len(complete) < STARTUP_TRIALS or len(objectives) < 2 or not names:
            return {}
        importance = self._optuna.importance
        # Of 12 trials fANOVA, the default, made a setting without effect the first.
        found = importance.get_param_importances(
            self._study, params=names, evaluator=importance.PedAnovaImportanceEvaluator()
        )
        return {str(name): float(value) for name, value in found.items()}

    def _trials(self, *states: Any) -> list[Any]:
        with _undamaged(self.name):
            trials = list(self._study.get_trials(deepcopy=False, states=states))
            for trial in trials:
                if not isinstance(trial.user_attrs.get(_VALUES, {}), dict):
                    raise TypeError(f"the values of trial {trial.number} are no table")
                if _OUTCOME in trial.user_attrs:
                    _outcome_of(trial)
            return trials

    def _running(self) -> list[Any]:
        """Return the open trials by number; those that were cut off while asked for are ended."""
        states = self._optuna.trial.TrialState
        found = []
        for trial in self._trials(states.RUNNING):
            if _VALUES in trial.user_attrs:
                found.append(trial)
            else:
                self._study.tell(trial.number, state=states.FAIL)
        return found

    def _suggest(self, index: int) -> None:
        """Ask for the trial before which there were ``index`` others; the first is the base."""
        sequence = np.random.SeedSequence([self._seed, index])
        self._study.sampler = self._optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS, seed=int(sequence.generate_state(1)[0])
        )
        if index == 0 and not self._trials(self._optuna.trial.TrialState.WAITING):
            self._study.enqueue_trial(self._space.base_parameters())
        trial = self._study.ask()
        trial.set_user_attr(_VALUES, self._space.suggested(trial, as_base=index == 0))

    def _tell(self, trials: Sequence[Any]) -> None:
        for frozen in trials:
            outcome, trial = _outcome_of(frozen), self._opened(frozen)
            for step, value in enumerate(outcome.windows):
                if step not in frozen.intermediate_values:
                    trial.report(value, step)
            if outcome.objective is not None:
                self._study.tell(trial, outcome.objective)
            else:
                self._study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)

    def _opened(self, frozen: Any) -> Any:
        """Return a trial that can be written to, whichever process asked for it."""
        return self._optuna.trial.Trial(self._study, frozen._trial_id)


def _outcome_of(trial: Any) -> Outcome:
    found = trial.user_attrs[_OUTCOME]
    outcome = Outcome(found["state"], tuple(found["windows"]), found["days"], found["reason"])
    is_known = outcome.state in (COMPLETE, STOPPED, UNTRADABLE) and isinstance(outcome.days, dict)
    objective = outcome.objective if len(outcome.windows) > 1 else None
    if not is_known or (outcome.state == COMPLETE) != (objective is not None):
        raise ValueError(f"the outcome of trial {trial.number} is none")
    if not np.isfinite(np.asarray(outcome.windows, dtype=np.float64)).all():
        raise ValueError(f"a window of trial {trial.number} is no finite number")
    return outcome


@contextmanager
def _undamaged(name: str) -> Iterator[None]:
    """Say in one line that a study is damaged, whatever Optuna or this module stumbles over."""
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        words = " ".join(str(error).split())
        raise SettingsError(
            f"--study: {name!r} is damaged in its database: {without_secrets(words)[:200]}"
        ) from None


@contextmanager
def opened_study(
    url: str, name: str, plan: Mapping[str, Any], space: SearchSpace, seed: int
) -> Iterator[TuningStudy]:
    """Open a study, or make it; its database is closed in the end.

    Parameters
    ----------
    url : str
        Of a database, as SQLAlchemy and Optuna have it: ``sqlite:///file.db`` and the like. It
        makes its tables itself. Only one search at a time may have a study.
    name : str
    plan : mapping
        Plain values: all that trials depend on. A study that was made with another is refused.
    space : SearchSpace
    seed : int

    Raises
    ------
    SettingsError
        Names the database, or what of the plan has changed.
    """
    optuna, sqlalchemy = library("optuna", "tune"), library("sqlalchemy", "tune")
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None
    try:
        try:
            storage = optuna.storages.RDBStorage(url)
        except ValueError as error:  # a port or an option that is no number
            raise SettingsError(without_secrets(f"--storage: {url}: {error}")) from None
        study = _made(optuna, storage, name)
        with _undamaged(name):
            kept = study.user_attrs.get(_PLAN)
            if kept is not None and not isinstance(kept, dict):
                raise TypeError("its plan is no table")
        if kept is None:
            if study.get_trials(deepcopy=False):
                raise SettingsError(f"--study: {name!r} is a study of another program")
            study.set_user_attr(_PLAN, plain(plan))
        else:
            _check_plan(name, kept, plain(plan))
        yield TuningStudy(study, space, seed)
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, ImportError) as error:
        words = " ".join(str(error).split())
        raise SettingsError(without_secrets(f"--storage: {url}: {words[:300]}")) from None
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
        optuna.logging.set_verbosity(verbosity)


def _made(optuna: Any, storage: Any, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=4)
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        pruner=pruner,
        load_if_exists=True,
    )


def _check_plan(name: str, kept: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    then, now = dict(_flat(kept)), dict(_flat(plan))
    changed = sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
    if changed:
        key = changed[0]
        raise SettingsError(
            f"--study: {name!r} was begun with another plan ({', '.join(changed[:5])}; {key} was "
            f"{then.get(key)!r}, is {now.get(key)!r}); give a new name to a new study"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
