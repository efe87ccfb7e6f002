from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mtf_scalper.ppo import compute
from mtf_scalper.ppo.compute import available_cpus, configure_torch
from mtf_scalper.settings import Settings


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="mtf_scalper.ppo.compute")
    return caplog


def on_cpu(**values: object) -> Settings:
    interop_threads = torch.get_num_interop_threads()
    return Settings(**{"device": "cpu", "interop_threads": interop_threads, **values})


def test_torch_gets_the_threads_asked_for(monkeypatch, log) -> None:
    monkeypatch.setattr(compute, "available_cpus", lambda: 64)
    for threads in (1, 2, 3):
        setup = configure_torch(on_cpu(cpu_count=threads))
        assert setup.threads == torch.get_num_threads() == threads
        assert setup.device == "cpu"
    assert "lowered" not in log.text


def test_more_threads_than_there_are_cpus_are_lowered_with_one_line(monkeypatch, log) -> None:
    monkeypatch.setattr(compute, "available_cpus", lambda: 2)
    setup = configure_torch(on_cpu(cpu_count=8))
    assert setup.threads == torch.get_num_threads() == 2
    lowered = [message for message in log.messages if "lowered" in message]
    assert lowered == ["cpu_count 8 lowered to the 2 CPUs that this machine gives"]


def test_what_is_used_is_logged(log) -> None:
    interop_threads = torch.get_num_interop_threads()
    configure_torch(on_cpu(cpu_count=1))
    assert log.messages[-1] == (
        f"torch on cpu with 1 threads and {interop_threads} interop threads"
    )


def test_it_can_be_called_again(log) -> None:
    first = configure_torch(on_cpu(cpu_count=1))
    assert configure_torch(on_cpu(cpu_count=1)) == first


IN_A_NEW_PROGRAM = """
import logging
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
import torch
from mtf_scalper.ppo.compute import configure_torch
from mtf_scalper.settings import Settings

wanted = torch.get_num_interop_threads() + 1
settings = Settings(device="cpu", cpu_count=1, interop_threads=wanted)
assert configure_torch(settings).interop_threads == torch.get_num_interop_threads() == wanted
assert configure_torch(settings).interop_threads == wanted
later = settings.changed(interop_threads=wanted + 1)
assert configure_torch(later).interop_threads == wanted
print(wanted)
"""


def test_interop_threads_are_set_once_and_a_later_wish_is_logged() -> None:
    """In a program of its own: torch lets them be set once."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_A_NEW_PROGRAM],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wanted = int(done.stdout)
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert warnings == [
        f"WARNING torch keeps {wanted} interop threads, not {wanted + 1}: "
        "parallel work had already begun"
    ]


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_falls_back_with_a_warning(device, monkeypatch, log) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert configure_torch(on_cpu(device=device, cpu_count=1)).device == "cpu"
    warnings = [record.message for record in log.records if record.levelno == logging.WARNING]
    assert warnings == [f"device {device} is not available here; falling back to cpu"]


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [
        (False, False, "cpu"),
        (False, True, "mps"),
        (True, False, "cuda"),
        (True, True, "cuda"),
    ],
)
def test_auto_takes_the_best_device(cuda, mps, expected, monkeypatch, log) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert configure_torch(on_cpu(device="auto", cpu_count=1)).device == expected


def test_threads_are_left_alone_on_other_devices(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(compute, "available_cpus", lambda: 64)
    torch.set_num_threads(2)
    assert configure_torch(on_cpu(device="cuda", cpu_count=5)).threads == 2


@pytest.fixture
def cgroup(monkeypatch, tmp_path: Path) -> Path:
    """Return a folder that stands for the machine's cgroup; 16 CPUs by affinity."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)), raising=False)
    monkeypatch.setattr(compute, "_CGROUP_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(compute, "_CGROUP_V1", (tmp_path / "quota", tmp_path / "period"))
    return tmp_path


def test_without_a_cgroup_the_affinity_counts(cgroup) -> None:
    assert available_cpus() == 16


@pytest.mark.parametrize(
    ("limit", "cpus"),
    [
        ("max 100000\n", 16),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("9900000 100000\n", 16),
    ],
)
def test_a_cgroup_of_version_2_limits_them(limit, cpus, cgroup) -> None:
    (cgroup / "cpu.max").write_text(limit, encoding="utf-8")
    assert available_cpus() == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1\n", 16), ("400000\n", 4), ("1\n", 1)])
def test_a_cgroup_of_version_1_limits_them(quota, cpus, cgroup) -> None:
    (cgroup / "quota").write_text(quota, encoding="utf-8")
    (cgroup / "period").write_text("100000\n", encoding="utf-8")
    assert available_cpus() == cpus


def test_where_there_is_no_affinity_the_count_of_cpus_holds(cgroup, monkeypatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cpus() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus() == 1
