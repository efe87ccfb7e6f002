"""An evaluation that was killed goes on from its record, and does nothing twice."""

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mtf_scalper.engines.cluster import TASK_PROCESS
from mtf_scalper.engines.tasks import TaskError
from mtf_scalper.errors import SettingsError, UntrainableError
from mtf_scalper.records.reader import Run, Status, runs_in
from mtf_scalper.runs.evaluation import run_evaluation
from mtf_scalper.runs.evaluation_plan import EvaluationPlan
from mtf_scalper.walk_forward.orders import TASKS
from mtf_scalper.walk_forward.sources import PlantedPairs, planted_recipe

N_TASKS = 6


def small_plan(**values):
    recipe = planted_recipe("linear")
    small = {"net_arch": (8,), "train_cycles": 2, "window_size": 3, "evidence": 0.0}
    recipe = replace(recipe, settings=recipe.settings.changed(**small))
    plan = EvaluationPlan(
        recipe=recipe,
        source=PlantedPairs("linear", 1),
        timerange="20240201-20240207",
        seeds=(1, 2),
        train_days=3,
        test_days=2,
        n_draws=5,
        jobs=2,
    )
    return replace(plan, **values)


PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from rich.console import Console
from mtf_scalper.runs.evaluation import run_evaluation
from test_resumed import small_plan
run_evaluation(small_plan(), Path(), Console())
"""


def evaluated(plan, project, resumed=None):
    text = io.StringIO()
    code = run_evaluation(plan, project, Console(file=text, width=80), resumed)
    return code, text.getvalue()


def only_run(project):
    (run,) = runs_in(project / "user_data" / "runs")
    return run


def results_of(run):
    return sorted(path.name for path in (run.folder / TASKS).glob("*.npz"))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Return the project of an evaluation that was killed when it had some results."""
    project = tmp_path_factory.mktemp("killed")
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=project) as program:
        while program.poll() is None:
            if list(project.glob(f"user_data/runs/*/{TASKS}/*.npz")):
                program.kill()
                break
            time.sleep(0.01)
        assert program.wait() != 0, "it ended by itself"
    return project


@pytest.mark.processes
def test_what_is_finished_is_not_done_again(killed, tmp_path):
    before = only_run(killed)
    assert before.status is Status.KILLED
    results = results_of(before)
    assert 0 < len(results) < N_TASKS
    recipe = small_plan().recipe
    wider = replace(recipe, settings=recipe.settings.changed(window_size=4))
    with pytest.raises(SettingsError, match=r"has settings\.window_size 3, and now it is 4; give"):
        evaluated(small_plan(recipe=wider), killed, before)
    assert results_of(before) == results

    code, text = evaluated(small_plan(jobs=1), killed, before)
    assert code == 0
    run = only_run(killed)
    assert run.status is Status.FINISHED
    assert text.splitlines()[0] == run.verdict
    for name in ("training_finished", "task"):
        told = [(each["pair"], each["window"], each["seed"]) for each in run.events(name)]
        assert len(told) == len(set(told)) == N_TASKS
    new = [each for each in run.events("task") if each["time"] > run.events("resumed")[0]["time"]]
    assert len(new) in (N_TASKS - len(results), N_TASKS - len(results) + 1)
    assert not (run.folder / TASKS).exists()
    with pytest.raises(SettingsError, match="has finished; there is nothing left to do"):
        evaluated(small_plan(), killed, run)

    whole = tmp_path / "whole"
    evaluated(small_plan(), whole)
    other = only_run(whole)
    assert other.figures() == run.figures()
    assert other.predictions().equals(run.predictions())


COMMAND = (
    *(sys.executable, "-c", "from mtf_scalper.cli import main; main()"),
    *("evaluate", "--planted", "linear", "--timerange", "20240201-20240207"),
    *("--train-days", "3", "--test-days", "2"),
)


def is_at_work(children):
    """Whether one of them is a worker of Ray that does a task."""
    return any(each.name().startswith(TASK_PROCESS) for each in children)


@pytest.mark.processes
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to be heard")
@pytest.mark.parametrize("options", [("--jobs", "2"), ("--ray",)], ids=["processes", "ray"])
def test_a_command_that_a_system_ends_leaves_nothing(project, kill_when, tmp_path, options):
    """As Ctrl-C does; a service manager, timeout(1) and a container send SIGTERM."""
    if "--ray" in options:
        pytest.importorskip("ray", reason="the extra cluster is not installed")
    temporary, said = tmp_path / "temporary", tmp_path / "said"
    temporary.mkdir()
    runs = project / "user_data" / "runs"
    before = set(runs.glob("*"))

    with said.open("wb") as output:
        _, living = kill_when(
            [*COMMAND, *options],
            is_at_work if "--ray" in options else lambda _: any(temporary.glob("mtf-scalper-*/1")),
            signal.SIGTERM,
            cwd=project,
            env={**os.environ, "TMPDIR": str(temporary)},
            stdout=output,
            stderr=output,
        )
    assert living == []
    assert list(temporary.iterdir()) == []
    assert said.read_text(encoding="utf-8") == ""
    (run,) = (Run.open(each) for each in set(runs.glob("*")) - before)
    assert run.status is Status.FAILED


@pytest.fixture
def lost_seed(monkeypatch):
    """Let every training with seed 2 end as if its process were killed each time."""
    from mtf_scalper.walk_forward import orders

    learn = orders.learn_order

    def lose(recorded, order):
        if order.seed == 2:
            raise TaskError("its process was killed")
        return learn(recorded, order)

    monkeypatch.setattr(orders, "learn_order", lose)


@pytest.mark.usefixtures("lost_seed")
def test_a_pair_that_fails_for_good_is_named_and_can_be_resumed(tmp_path, monkeypatch):
    plan = small_plan(jobs=1)
    said = r"window 20240201, seed 2: its process was killed"
    with pytest.raises(UntrainableError, match=said):
        evaluated(plan, tmp_path)
    run = only_run(tmp_path)
    assert run.status is Status.FAILED
    states = [each["state"] for each in run.events("task")]
    assert states.count("finished") == len(results_of(run)) == 3
    assert states.count("failed") == 3
    assert states.count("retried") == 6
    monkeypatch.undo()
    evaluated(plan, tmp_path, Run.open(run.folder))
    run = only_run(tmp_path)
    assert run.status is Status.FINISHED
    assert "left out" not in run.verdict
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "6 attempts lost and made again, 3 tasks failed for good" in page
    assert "its process was killed" in page
    assert "1 machine" in page


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_record_of_another_kind_is_refused(killed):
    run = only_run(killed)
    other = Run(run.folder, {**run.manifest, "kind": "demo"})
    with pytest.raises(SettingsError, match="is of kind 'demo', not 'evaluate'"):
        evaluated(small_plan(), killed, other)
