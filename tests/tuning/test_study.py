"""A study in a real database: killed anywhere it goes on as if it never was; others are refused."""

from __future__ import annotations

import io
import json
import math
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mtf_scalper.errors import SettingsError
from mtf_scalper.settings import Settings
from mtf_scalper.tuning.space import search_space
from mtf_scalper.tuning.study import (
    COMPLETE,
    GENERATION,
    STOPPED,
    UNTRADABLE,
    Outcome,
    TuningStudy,
    lower_mean,
    opened_study,
)

optuna = pytest.importorskip("optuna", reason="the extra tune is not installed")

SPACE = search_space(Settings(learning_rate=1e-7))
PLAN = {"timerange": "20240201-20240301", "space": SPACE.facts()}


class Killed(BaseException):
    """Stands for the end of a process."""


@contextmanager
def study(folder: Path, name: str = "mine", **plan: Any) -> Iterator[TuningStudy]:
    url = f"sqlite:///{folder / 'study.db'}"
    with opened_study(url, name, {**PLAN, **plan}, SPACE, 42) as found:
        yield found


def outcome_of(values: dict[str, Any]) -> Outcome:
    """Return what a trial of these values is worth: most at a learning rate of 1e-3."""
    worth = -abs(3.0 + math.log10(values["learning_rate"]))
    windows = tuple(worth + 0.01 * number for number in range(6))
    return Outcome(COMPLETE, windows, {"agent": [worth]})


def searched(folder: Path, n_trials: int, killed_at: int = 10**6) -> None:
    """Search, and be killed at the so-manieth step."""
    steps = iter(range(killed_at))

    def step() -> None:
        if next(steps, None) is None:
            raise Killed

    with study(folder) as found, pytest.MonkeyPatch.context() as patch:
        for name in ("ask", "tell", "enqueue_trial"):
            original = getattr(optuna.study.Study, name)

            def counted(self, *args, _original=original, **kwargs):
                step()
                return _original(self, *args, **kwargs)

            patch.setattr(optuna.study.Study, name, counted)
        original_attr = optuna.trial.Trial.set_user_attr

        def attr(self, key, value):
            step()
            original_attr(self, key, value)

        patch.setattr(optuna.trial.Trial, "set_user_attr", attr)
        while asked := found.ask(n_trials):
            found.tell({each.number: outcome_of(each.values) for each in asked})


def found_in(folder: Path) -> list[dict[str, Any]]:
    with study(folder) as found:
        return [each.values for each in found.told()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    searched(folder, 18)
    return found_in(folder)


def test_the_first_trial_is_the_configuration_and_the_best_is_found(whole, tmp_path):
    assert len(whole) == 18
    assert whole[0] == SPACE.base_values()
    assert len({json.dumps(each) for each in whole}) == 18
    by_worth = sorted(whole, key=lambda each: -outcome_of(each).objective)
    assert 1e-4 < by_worth[0]["learning_rate"] < 1e-2
    # TPE has learned: most of what it suggests is near the best, at random few are.
    late = [each["learning_rate"] for each in whole[12:]]
    assert sum(1e-4 < rate < 1e-2 for rate in late) >= len(late) - 1


@pytest.mark.parametrize("killed_at", [1, 2, 3, 7, 9, 12, 13, 16, 18, 19, 30])
def test_a_search_that_was_killed_goes_on_as_if_it_never_was(whole, tmp_path, killed_at):
    with pytest.raises(Killed):
        searched(tmp_path, 18, killed_at)
    searched(tmp_path, 18)
    assert found_in(tmp_path) == whole


def test_more_trials_can_be_wanted_later(whole, tmp_path):
    searched(tmp_path, 8)
    assert len(found_in(tmp_path)) == 8
    searched(tmp_path, 18)
    assert found_in(tmp_path) == whole


def test_a_generation_has_the_same_size_however_many_there_are_to_be(tmp_path):
    with study(tmp_path) as found:
        assert len(found.ask(100)) == GENERATION
        assert len(found.ask(100)) == GENERATION
    with study(tmp_path / "..", "other") as found:
        assert len(found.ask(2)) == 2


def test_the_untradable_and_the_stopped_are_no_failures_of_optunas(tmp_path):
    outcomes = [
        outcome_of({"learning_rate": 1e-2}),
        Outcome(STOPPED, (0.1, 0.2), {"agent": [0.0]}),
        Outcome(UNTRADABLE, reason="rewards are not finite"),
        Outcome(COMPLETE, (0.0,) * 6, {"agent": [0.0]}),
    ]
    with study(tmp_path) as found:
        asked = found.ask(4)
        found.tell({each.number: one for each, one in zip(asked, outcomes, strict=True)})
        assert [each.outcome for each in found.told()] == outcomes
        assert found.best().number == 3  # to stand aside is better than to lose
    with_optuna = optuna.load_study(study_name="mine", storage=f"sqlite:///{tmp_path / 'study.db'}")
    states = [trial.state.name for trial in with_optuna.trials]
    assert states == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    assert with_optuna.trials[1].intermediate_values == {0: 0.1, 1: 0.2}
    with_optuna._storage.remove_session()
    with_optuna._storage._backend.engine.dispose()


def test_poor_trials_are_known_after_four_windows(tmp_path):
    good = (0.3, 0.1, 0.2, 0.4, 0.3, 0.2)
    with study(tmp_path) as found:
        assert not found.is_poor((-1.0,) * 4)  # than what?
        asked = found.ask(4)
        found.tell({each.number: Outcome(COMPLETE, good, {"agent": [0.0]}) for each in asked})
        assert not found.is_poor((-1.0,) * 3)
        assert found.is_poor(tuple(each - 0.1 for each in good[:4]))
        assert found.is_poor((0.0,) * 4)
        assert not found.is_poor(good[:4])
        assert not found.is_poor((0.4, 0.0, 0.3, 0.3))


def test_the_objective_is_the_mean_less_its_standard_error():
    assert lower_mean((1.0, 2.0, 3.0)) == pytest.approx(2.0 - 1.0 / 3.0**0.5)
    assert Outcome(STOPPED, (1.0, 2.0)).objective is None


def test_another_plan_is_refused_by_name(tmp_path):
    with study(tmp_path):
        pass
    message = (
        "--study: 'mine' was begun with another plan (timerange; timerange was "
        "'20240201-20240301', is '20240201-20240401'); give a new name to a new study"
    )
    with pytest.raises(SettingsError) as caught, study(tmp_path, timerange="20240201-20240401"):
        pass
    assert str(caught.value) == message
    with study(tmp_path, "another", timerange="20240201-20240401"):
        pass


def test_a_study_of_another_program_is_left_alone(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = optuna.storages.RDBStorage(url)
    theirs = optuna.create_study(storage=storage, study_name="mine")
    theirs.add_trial(optuna.trial.create_trial(value=1.0))
    storage.remove_session()
    storage.engine.dispose()
    with (
        pytest.raises(SettingsError, match="'mine' is a study of another program"),
        study(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "--storage: nonsense: Could not parse"),
        ("nosuch://me:secret@host/db", r"--storage: nosuch://\*\*\*@host/db: .*nosuch"),
        ("sqlite:////no/such/folder/study.db", "--storage: .*unable to open database file"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(url, words):
    with (
        pytest.raises(SettingsError, match=words) as caught,
        opened_study(url, "mine", PLAN, SPACE, 42),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_the_locked_part_is_kept(tmp_path):
    with study(tmp_path) as found:
        assert found.final is None
        found.lock_away({"sentence": "nothing was found", "looked_at": "2026-01-01"})
    with study(tmp_path) as found:
        assert found.final["sentence"] == "nothing was found"


def test_the_importance_of_settings_is_that_of_what_matters(tmp_path):
    searched(tmp_path, 24)
    with study(tmp_path) as found:
        importance = found.importance()
    assert max(importance, key=importance.get) == "learning_rate"
    assert sum(importance.values()) == pytest.approx(1.0)


def test_optunas_dashboard_opens_the_same_database(tmp_path):
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is no part of dev")
    searched(tmp_path, 4)
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    application = dashboard.wsgi(storage)

    def get(path: str) -> Any:
        status: list[str] = []
        environment = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "wsgi.url_scheme": "http",
            "wsgi.errors": sys.stderr,
            "wsgi.input": io.BytesIO(),
        }
        body = application(environment, lambda found, *_: status.append(found))
        content = b"".join(body)
        assert status == ["200 OK"]
        return json.loads(content)

    (summary,) = get("/api/studies")["study_summaries"]
    assert summary["study_name"] == "mine"
    found = get(f"/api/studies/{summary['study_id']}")
    assert len(found["trials"]) == 4
    storage.remove_session()
    storage.engine.dispose()


@pytest.mark.parametrize(
    ("table", "key", "content"),
    [
        ("trial", "mtf_scalper_outcome", "3"),
        ("trial", "mtf_scalper_outcome", "{"),
        ("trial", "mtf_scalper_outcome", '{"state": "complete"}'),
        (
            "trial",
            "mtf_scalper_outcome",
            '{"state": "complete", "windows": [], "days": {}, "reason": ""}',
        ),
        (
            "trial",
            "mtf_scalper_outcome",
            '{"state": "complete", "windows": [NaN, 1], "days": {}, "reason": ""}',
        ),
        ("trial", "mtf_scalper_values", "[]"),
        ("study", "mtf_scalper_plan", "3"),
    ],
)
def test_a_damaged_study_is_one_line(tmp_path, table, key, content):
    searched(tmp_path, GENERATION)
    database = sqlite3.connect(tmp_path / "study.db")
    changed = database.execute(
        f"update {table}_user_attributes set value_json = ? where key = ?",
        (content, key),
    )
    assert changed.rowcount > 0
    database.commit()
    database.close()
    with (
        pytest.raises(SettingsError, match="--study: 'mine' is damaged in its database") as caught,
        study(tmp_path) as found,
    ):
        found.told()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["host:port/db", "host:1x/db"])
def test_a_port_that_is_no_number_is_one_line_without_the_password(end):
    with (
        pytest.raises(SettingsError, match=r"--storage: postgresql://\*\*\*@host") as caught,
        opened_study(f"postgresql://me:mark@{end}", "mine", PLAN, SPACE, 42),
    ):
        pass
    assert "mark" not in str(caught.value)
