"""The sampler against real processes."""

from __future__ import annotations

import csv
import multiprocessing as mp
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from mtf_scalper.records import sampler as module
from mtf_scalper.records.sampler import (
    ProcessSampler,
    Sample,
    count_workers,
    write_csv,
)

INTERVAL = 0.05

BURN = """
import subprocess, sys
child = '''
import time
input()
while time.process_time() < {seconds}:
    pass
print('done', flush=True)
input()
'''
subprocess.run([sys.executable, "-c", child])
"""

WORKERS = """
import multiprocessing as mp, time
context = mp.get_context({method!r})
workers = [context.Process(target=time.sleep, args=(600.0,)) for _ in range(3)]
for worker in workers:
    worker.start()
print("ready", flush=True)
input()
for worker in workers:
    worker.kill()
    worker.join()
"""

SHORT_LIVED = """
import subprocess, sys
for _ in range(25):
    subprocess.run([sys.executable, "-S", "-c", "pass"])
"""

SHORT_AND_LONG = """
import os, subprocess, sys
burn = "import time\\nwhile time.process_time() < {}: pass"
nested = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', sys.argv[1]])"
input()
for seconds in (0.8, *[0.08] * 10):
    subprocess.run([sys.executable, "-S", "-c", burn.format(seconds)])
subprocess.run([sys.executable, "-S", "-c", nested, burn.format(0.5)])
print(sum(os.times()[2:4]), flush=True)
input()
"""

ORPHAN = """
import subprocess, sys
command = [sys.executable, "-c", "import time; time.sleep(600.0)"]
child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
input()
"""


@contextmanager
def running(script: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a Python process; end it and all its children afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    root = psutil.Process(process.pid)
    children: list[psutil.Process] = []
    try:
        yield process
        if process.poll() is None:
            children = root.children(recursive=True)
    finally:
        for each in children:
            if each.is_running():
                each.kill()
        process.kill()
        process.communicate()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def wait_for(
    sampler: ProcessSampler, reached: Callable[[Sample], bool], seconds: float = 30.0
) -> Sample:
    """Return the first sample from now on that ``reached`` holds for."""
    begin, end = len(sampler.samples), time.monotonic() + seconds
    while time.monotonic() < end:
        for sample in sampler.samples[begin:]:
            if reached(sample):
                return sample
        time.sleep(0.01)
    raise AssertionError(f"not reached; the last samples: {sampler.samples[-3:]}")


def test_cpu_use_of_the_tree_adds_up_to_what_a_grandchild_has_used() -> None:
    with (
        running(BURN.format(seconds=1.0)) as process,
        ProcessSampler(process.pid, interval_seconds=INTERVAL) as sampler,
    ):
        wait_for(sampler, lambda sample: sample.processes >= 2)
        tell(process)
        assert hear(process) == "done"
        wait_for(sampler, lambda sample: True)
        wait_for(sampler, lambda sample: True)
        samples = list(sampler.samples)
    used = sum(b.tree_cores * (b.time - a.time) for a, b in pairwise(samples))
    # The child's start counts in part, and the clocks of CPU time tick every 10 ms.
    assert used == pytest.approx(1.0, abs=0.2)
    assert all(sample.resident_bytes >= sample.unique_bytes > 0 for sample in samples)
    assert all(len(sample.core_percent) == psutil.cpu_count() for sample in samples)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux adds up children waited for")
@pytest.mark.parametrize("interval", [0.02, 0.25, 2.0])
def test_children_between_two_samples_count_and_those_that_were_seen_count_once(
    interval: float,
) -> None:
    """What is right is the operating system's account of all children that were waited for."""
    with (
        running(SHORT_AND_LONG) as process,
        ProcessSampler(process.pid, interval_seconds=interval) as sampler,
    ):
        wait_for(sampler, lambda sample: sample.processes == 1)
        before = list(sampler.samples)
        tell(process)
        of_children = float(hear(process))
        wait_for(sampler, lambda sample: True)
        wait_for(sampler, lambda sample: True)
        after = sampler.samples[len(before) - 1 :]
        own = sum(psutil.Process(process.pid).cpu_times()[:2])
    used = sum(b.tree_cores * (b.time - a.time) for a, b in pairwise(after))
    assert of_children > 2.0
    # Some of the program's own start lies before; samples are timed to a few milliseconds.
    assert 0.9 * of_children < used < 1.1 * (of_children + own)


@pytest.mark.parametrize("method", mp.get_all_start_methods())
def test_counts_the_workers_of_every_start_method_and_no_helper_of_python(method: str) -> None:
    with (
        running(WORKERS.format(method=method)) as process,
        ProcessSampler(process.pid, interval_seconds=INTERVAL) as sampler,
    ):
        assert hear(process) == "ready"
        sample = wait_for(sampler, lambda sample: sample.workers == 3)
        assert sample.processes >= 4
        assert 0 < sample.worker_unique_bytes <= sample.unique_bytes
        assert wait_for(sampler, lambda sample: True).workers == 3
        tell(process)
        process.wait()
        wait_for(sampler, lambda sample: sample.processes == 0)
    assert sampler.survivors(wait_seconds=1.0) == ()


def test_survives_processes_that_vanish_in_between() -> None:
    with (
        running(SHORT_LIVED) as process,
        ProcessSampler(process.pid, interval_seconds=0.001) as sampler,
    ):
        assert process.wait() == 0
        wait_for(sampler, lambda sample: sample.processes == 0)
    assert max(sample.processes for sample in sampler.samples) >= 2


def test_an_orphan_stays_part_of_the_tree_and_is_named_as_a_survivor() -> None:
    orphan: psutil.Process | None = None
    try:
        with (
            running(ORPHAN) as process,
            ProcessSampler(process.pid, interval_seconds=INTERVAL) as sampler,
        ):
            orphan = psutil.Process(int(hear(process)))
            wait_for(sampler, lambda sample: sample.processes >= 2)
            tell(process)
            process.wait()
            assert wait_for(sampler, lambda sample: sample.processes == 1).unique_bytes > 0
        (survivor,) = sampler.survivors(wait_seconds=0.1)
        assert f"pid {orphan.pid} " in survivor
        assert "time.sleep(600.0)" in survivor
    finally:
        if orphan is not None:
            orphan.kill()
    psutil.wait_procs([orphan], timeout=5.0)
    assert sampler.survivors(wait_seconds=0.1) == ()


def test_csv_holds_every_sample(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "samples.csv"
    with ProcessSampler(psutil.Process().pid, interval_seconds=INTERVAL) as sampler:
        wait_for(sampler, lambda sample: True)
        wait_for(sampler, lambda sample: True)
    write_csv(path, sampler.samples)
    assert [each.name for each in path.parent.iterdir()] == ["samples.csv"]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "time",
        *(f"core_{core}_percent" for core in range(psutil.cpu_count() or 1)),
        *("machine_percent", "tree_percent_of_one_core", "tree_percent_of_machine"),
        *("processes", "workers", "resident_bytes", "unique_bytes", "worker_unique_bytes"),
        *("is_unique_measured", "sample_seconds"),
    ]
    for row, sample in zip(rows, sampler.samples, strict=True):
        assert float(row["time"]) == pytest.approx(sample.time, abs=1e-3)
        assert float(row["tree_percent_of_one_core"]) == pytest.approx(sample.tree_percent, abs=0.1)
        assert int(row["unique_bytes"]) == sample.unique_bytes
        assert row["is_unique_measured"] == str(int(sample.is_unique_measured))


def test_a_listener_gets_every_sample_and_none_need_be_kept() -> None:
    heard: list[Sample] = []
    me = psutil.Process().pid
    with ProcessSampler(me, interval_seconds=INTERVAL, on_sample=heard.append) as keeping:
        time.sleep(6 * INTERVAL)
    assert keeping.samples == heard != []
    heard.clear()
    with ProcessSampler(
        me, interval_seconds=INTERVAL, on_sample=heard.append, keeps=False
    ) as sampler:
        time.sleep(6 * INTERVAL)
    assert (sampler.samples, bool(heard)) == ([], True)


def open_files() -> list[tuple[str, int]]:
    """Return what is open; how far an output that others share has come is not ours."""
    return [(each.path, each.fd) for each in psutil.Process().open_files()]


def test_leaves_no_thread_and_no_open_file() -> None:
    threads, files = threading.enumerate(), open_files()
    with ProcessSampler(psutil.Process().pid, interval_seconds=INTERVAL):
        assert len(threading.enumerate()) == len(threads) + 1
    assert threading.enumerate() == threads
    assert open_files() == files


def test_resident_memory_stands_in_where_unique_memory_is_denied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def deny(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "memory_full_info", deny)
    with ProcessSampler(psutil.Process().pid, interval_seconds=INTERVAL) as sampler:
        sample = wait_for(sampler, lambda sample: True)
    assert not sample.is_unique_measured
    assert sample.unique_bytes == sample.resident_bytes > 0


def test_what_ends_the_thread_is_raised_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("no such counter")

    monkeypatch.setattr(module.psutil, "cpu_percent", fail)
    with pytest.raises(RuntimeError, match="no such counter"), ProcessSampler(psutil.Process().pid):
        pass


def test_a_root_that_is_gone_gives_empty_samples() -> None:
    with running("pass") as process:
        process.wait()
    with ProcessSampler(process.pid, interval_seconds=INTERVAL) as sampler:
        sample = wait_for(sampler, lambda sample: True)
    assert (sample.processes, sample.workers, sample.unique_bytes) == (0, 0, 0)
    assert sampler.survivors(wait_seconds=0.0) == ()


def test_a_process_is_a_worker_by_its_command_line() -> None:
    server = ["python", "-c", "from multiprocessing.forkserver import main; main(3)"]
    tracker = ["python", "-c", "from multiprocessing.resource_tracker import main; main(4)"]
    spawned = ["python", "-c", "from multiprocessing.spawn import spawn_main; spawn_main(5)"]
    program = ["python", "-m", "freqtrade", "backtesting"]
    cmdlines = {1: program, 2: server, 3: server, 4: server, 5: tracker, 6: spawned, 7: program}
    parents = {1: 0, 2: 1, 3: 2, 4: 2, 5: 1, 6: 1, 7: 1}
    assert count_workers(cmdlines, parents, root=1, has_fork=True) == [3, 4, 6, 7]


def test_a_launcher_of_a_virtual_environment_is_no_fork_on_windows() -> None:
    program = ["python", "-m", "freqtrade", "backtesting"]
    spawned = ["python", "-c", "from multiprocessing.spawn import spawn_main", "spawn_main(5)"]
    cmdlines, parents = {1: program, 2: program, 3: spawned}, {1: 0, 2: 1, 3: 2}
    assert count_workers(cmdlines, parents, root=1, has_fork=False) == [3]
