"""Both engines keep one promise: every task ends, once, and says how; a cluster leaves nothing.

What Ray leaves running where its program was killed ends by itself, a minute later: the program is
killed by the first test and looked at by the last, with the others meanwhile.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import engine_work as work
import numpy as np
import psutil
import pytest

from mtf_scalper.engines.cluster import RayCluster
from mtf_scalper.engines.processes import LocalProcesses
from mtf_scalper.engines.tasks import ATTEMPTS
from mtf_scalper.errors import SettingsError, UntrainableError

pytestmark = pytest.mark.processes

TESTS = Path(__file__).resolve().parents[1]
PROGRAM = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
sys.path.insert(0, {str(TESTS)!r})
import engine_work
from mtf_scalper.engines.cluster import RayCluster
with RayCluster(jobs=1) as cluster:
    list(cluster.run(engine_work.sleep, [(600.0, sys.argv[1])]))
"""
OF_SIGNALS = pytest.mark.skipif(os.name == "nt", reason="signals are of another kind there")


def ended_by(how, kill, folder, temporary, patience):
    """Send a signal to a program whose cluster does a task; return all processes, and the living.

    Its temporary files lie in the second folder; so do sockets, whose paths are to be short.
    """
    pytest.importorskip("ray", reason="ray is not installed")
    marks = folder / "marks"
    marks.mkdir()
    with open(folder / "said", "wb") as said:
        return kill(
            [sys.executable, "-c", PROGRAM, str(marks)],
            lambda _: any(marks.iterdir()),
            how,
            patience=patience,
            env={**os.environ, "TMPDIR": temporary},
            stdout=said,
            stderr=said,
        )


@pytest.fixture(scope="module")
def killed(kill_once, tmp_path_factory):
    with tempfile.TemporaryDirectory(prefix="l", ignore_cleanup_errors=True) as temporary:
        yield ended_by(signal.SIGKILL, kill_once, tmp_path_factory.mktemp("killed"), temporary, 0.0)


@OF_SIGNALS
def test_a_cluster_has_many_processes_when_its_program_is_killed(killed):
    assert len(killed[0]) > 3


@pytest.fixture(params=["one process", "processes", "ray"])
def engine(request):
    if request.param == "ray":
        yield request.getfixturevalue("cluster")
        return
    with LocalProcesses(1 if request.param == "one process" else 2) as found:
        yield found


def test_results_come_back_by_number(engine):
    found = list(engine.run(work.double, ((float(n),) for n in range(9))))
    assert {each.number: each.value for each in found} == {n: 2.0 * n for n in range(9)}
    assert all(each.error is None and each.attempt == 1 and each.is_last for each in found)
    assert all(each.node and each.process and each.began <= each.ended for each in found)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exits", "SystemExit: it asked for the end of the program (engine_work.py:"),
        ("two words", "TwoWordsError: two words (engine_work.py:"),
        ("with a cause", "RuntimeError: the effect (engine_work.py:"),
    ],
)
def test_what_is_raised_is_told_and_tried_again(engine, how, said, tmp_path):
    found = list(engine.run(work.misbehave, [(how, str(tmp_path), 1)]))
    assert [(each.attempt, each.is_last) for each in found] == [(1, False), (2, True)]
    assert str(found[0].error).startswith(said)
    assert (found[1].error, found[1].value) == (None, how)


def test_what_fails_always_is_given_up(engine, tmp_path):
    calls = [("exits", str(tmp_path), 99), ("with a cause", str(tmp_path), 0)]
    found = list(engine.run(work.misbehave, calls))
    last = {each.number: each for each in found if each.is_last}
    assert last[0].attempt == ATTEMPTS
    assert last[0].error is not None
    assert last[1].value == "with a cause"


def test_an_error_of_ours_keeps_its_type_and_is_not_tried_again(engine, tmp_path):
    (found,) = engine.run(work.misbehave, [("untrainable", str(tmp_path), 99)])
    assert isinstance(found.error, UntrainableError)
    assert str(found.error) == "BTC: too few candles"
    assert found.is_last


@pytest.mark.parametrize("engine", ["processes", "ray"], indirect=True)
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_task_that_is_killed_is_tried_again_and_the_rest_goes_on(engine, tmp_path):
    calls = [("killed", str(tmp_path), 1), *(("fine", str(tmp_path), 0) for _ in range(5))]
    found = list(engine.run(work.misbehave, calls))
    last = {each.number: each for each in found if each.is_last}
    assert len(last) == 6
    assert all(each.error is None for each in last.values())
    killed = [each for each in found if each.number == 0]
    assert re.search("killed|ended from outside", str(killed[0].error))


@pytest.mark.parametrize("engine", ["processes", "ray"], indirect=True)
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_task_that_always_kills_its_process_is_blamed_alone(engine, tmp_path):
    calls = [("killed", str(tmp_path), 99), *(("fine", str(tmp_path), 0) for _ in range(4))]
    last = {each.number: each for each in engine.run(work.misbehave, calls) if each.is_last}
    assert re.search("killed|ended from outside", str(last.pop(0).error))
    assert [each.error for each in last.values()] == [None] * 4


@pytest.mark.parametrize("engine", ["processes", "ray"], indirect=True)
def test_what_cannot_be_sent_back_is_a_failure_of_its_own(engine):
    *_, last = engine.run(work.unsendable, [()])
    assert "generator" in str(last.error)


@pytest.mark.parametrize("engine", ["processes", "ray"], indirect=True)
def test_shared_arrays_are_read_only_and_no_copies(engine):
    shared = engine.share({"numbers": np.arange(200_000.0), "name": "some"})
    found = list(engine.run(work.about_arrays, [(shared,), (shared,)]))
    assert [each.value for each in found] == [(np.arange(200_000.0).sum(), True, True)] * 2


def test_a_task_of_ray_has_as_many_threads_as_cpus(cluster):
    (found,) = cluster.run(work.threads, [()])
    assert found.value == (1, "1")


def test_calls_are_made_as_they_are_needed(engine):
    made = []

    def calls():
        for number in range(50):
            made.append(number)
            yield (float(number),)

    running = engine.run(work.double, calls())
    next(running)
    assert len(made) < 20
    running.close()


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_worker_that_somebody_kills_loses_its_task_alone(cluster, tmp_path, capfd):
    def kill() -> None:
        while not (pids := [int(path.name) for path in tmp_path.iterdir()]):
            time.sleep(0.05)
        os.kill(pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = list(cluster.run(work.sleep, [(2.0, str(tmp_path)) for _ in range(3)]))
    killer.join()
    assert sum(each.error is None for each in found) == 3
    (lost,) = (each for each in found if each.error is not None)
    assert str(lost.error) == "its process was killed"
    assert not lost.is_last
    assert capfd.readouterr() == ("", "")


def test_a_client_from_outside_is_refused():
    with pytest.raises(SettingsError, match=r"'ray://host:1' is that of a client from outside"):
        RayCluster("ray://host:1")


@pytest.mark.parametrize("address", ["nonsense", "host", "host:port", "host:123456", "a b:1", ""])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(SettingsError, match=r"^--ray: '.*' is no address; give auto, or HOST:PORT"):
        RayCluster(address)


def test_no_cluster_at_an_address_is_one_line(tmp_path):
    engine = RayCluster("127.0.0.1:1")
    with (
        pytest.raises(SettingsError, match=r"^--ray: no cluster at 127\.0\.0\.1:1: ") as error,
        engine,
    ):
        pass
    assert "\n" not in str(error.value)


NO_CLUSTER = """
import ray
from mtf_scalper.engines.cluster import RayCluster
from mtf_scalper.errors import SettingsError

def init(**_):
    raise ConnectionError("Could not find any running Ray instance. Please specify the one to")

ray.init = init
try:
    RayCluster("auto").__enter__()
except SettingsError as error:
    print(error)
"""


def test_where_there_is_no_cluster_auto_says_how_to_start_one():
    """Ray looks for any cluster of this machine, and other tests may have one."""
    pytest.importorskip("ray", reason="ray is not installed")
    command = [sys.executable, "-c", NO_CLUSTER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = "--ray: no cluster on this machine: start one with: ray start --head\n"
    assert (done.stdout, done.stderr) == (said, "")


@OF_SIGNALS
def test_an_interrupted_program_leaves_no_process_and_no_file(kill_when, tmp_path):
    with tempfile.TemporaryDirectory(prefix="l", ignore_cleanup_errors=True) as temporary:
        seen, living = ended_by(signal.SIGINT, kill_when, tmp_path, temporary, 60.0)
        left = os.listdir(temporary)
    assert len(seen) > 3
    assert psutil.wait_procs(living, timeout=300.0)[1] == []
    assert left == []


@OF_SIGNALS
def test_a_killed_program_leaves_no_process(killed):
    """Two agents of Ray 2.60 end a minute later: findings/ray-agents-outlive-a-killed-driver.sh."""
    assert psutil.wait_procs(killed[1], timeout=300.0)[1] == []
