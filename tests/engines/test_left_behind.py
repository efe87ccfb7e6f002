"""A cluster of this machine leaves nothing, however the program ends: no process, no file."""

import os
import signal
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

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
pytest.importorskip("ray", reason="ray is not installed")


@pytest.mark.skipif(os.name == "nt", reason="signals are of another kind there")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_nothing_is_left_behind(how, kill_when, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()

    def is_ready(_):
        return any(marks.iterdir())

    with (
        # Sockets lie in it, whose paths are to be short.
        tempfile.TemporaryDirectory(prefix="l", ignore_cleanup_errors=True) as temporary,
        open(tmp_path / "said", "wb") as said,
    ):
        seen, living = kill_when(
            [sys.executable, "-c", PROGRAM, str(marks)],
            is_ready,
            how,
            env={**os.environ, "TMPDIR": temporary},
            stdout=said,
            stderr=said,
        )
        left = os.listdir(temporary)
    assert len(seen) > 3
    # Two agents of Ray 2.60 end a minute later: findings/ray-agents-outlive-a-killed-driver.sh.
    assert psutil.wait_procs(living, timeout=300.0)[1] == []
    if how == signal.SIGINT:
        assert left == []
