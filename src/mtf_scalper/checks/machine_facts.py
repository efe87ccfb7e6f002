"""What this machine is and how fast torch multiplies on it: facts, without any judgement."""

from __future__ import annotations

import multiprocessing as mp
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from mtf_scalper.lifetimes import scheduled_cpus
from mtf_scalper.ppo.compute import available_cpus

_MATRIX_ROWS = 1024
_BYTES_PER_GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Facts about the machine, the interpreter and torch.

    Attributes
    ----------
    python, system : str
        Version of the interpreter; operating system and processor architecture.
    cpus_installed : int
        Logical CPUs of the machine.
    cpus_affinity : int
        Logical CPUs that this process may be scheduled on.
    cpus_available : int
        What is left of them under a cgroup's quota.
    cpu_busy_share : float
        Share of all CPUs that was in use while nothing was measured, 0 to 1.
    memory_total_gb, memory_available_gb : float
        In 1e9 bytes.
    start_methods : tuple of str
        How this platform can start processes.
    torch_version, torch_build : str
        The build is ``"CPU"``, ``"CUDA 12.8"`` and the like.
    torch_devices : tuple of str
        Devices that torch can use here, ``"cpu"`` among them.
    torch_threads, torch_interop_threads : int
        As torch has set them up itself.
    vector_instructions : str
        The widest instruction set that torch uses, ``"DEFAULT"`` where it uses none.
    gflops_one_thread, gflops_all_threads : float
        Speed of float32 matrix products with 1 thread and with ``cpus_available`` threads.
    """

    python: str
    system: str
    cpus_installed: int
    cpus_affinity: int
    cpus_available: int
    cpu_busy_share: float
    memory_total_gb: float
    memory_available_gb: float
    start_methods: tuple[str, ...]
    torch_version: str
    torch_build: str
    torch_devices: tuple[str, ...]
    torch_threads: int
    torch_interop_threads: int
    vector_instructions: str
    gflops_one_thread: float
    gflops_all_threads: float


def inspect_machine(measure_seconds: float = 0.3) -> Machine:
    """Look at the machine; takes about three times ``measure_seconds``.

    Parameters
    ----------
    measure_seconds : float
        Length of each of the three measurements: load, one thread, all threads.
    """
    busy_share = psutil.cpu_percent(interval=measure_seconds) / 100.0
    cpus = available_cpus()
    memory = psutil.virtual_memory()
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} on {platform.machine()}",
        cpus_installed=os.cpu_count() or 1,
        cpus_affinity=scheduled_cpus(),
        cpus_available=cpus,
        cpu_busy_share=busy_share,
        memory_total_gb=memory.total / _BYTES_PER_GB,
        memory_available_gb=memory.available / _BYTES_PER_GB,
        start_methods=tuple(mp.get_all_start_methods()),
        torch_version=torch.__version__,
        torch_build=torch_build(),
        torch_devices=_torch_devices(),
        torch_threads=torch.get_num_threads(),
        torch_interop_threads=torch.get_num_interop_threads(),
        vector_instructions=torch.backends.cpu.get_cpu_capability(),
        gflops_one_thread=matmul_gflops(1, measure_seconds),
        gflops_all_threads=matmul_gflops(cpus, measure_seconds),
    )


def matmul_gflops(threads: int, seconds: float) -> float:
    """Return the speed of float32 matrix products on the CPU, in 1e9 operations per second.

    A product of two ``(n, n)`` matrices counts as ``2 n^3`` operations. The best of the repeats
    within ``seconds`` counts, so that another program's short burst does not. The number of
    torch's threads is as before afterwards.

    Parameters
    ----------
    threads : int
        Torch threads to measure with.
    seconds : float
        How long to repeat; at least one product is timed.
    """
    left = torch.full((_MATRIX_ROWS, _MATRIX_ROWS), 0.5)
    right = torch.full((_MATRIX_ROWS, _MATRIX_ROWS), 2.0)
    best = float("inf")
    with _torch_threads(threads):
        torch.mm(left, right)
        end = time.perf_counter() + seconds
        while True:
            started = time.perf_counter()
            torch.mm(left, right)
            finished = time.perf_counter()
            best = min(best, finished - started)
            if finished >= end:
                return 2.0 * _MATRIX_ROWS**3 / best / 1e9


def torch_build() -> str:
    """Return what torch was built for: ``"CPU"``, ``"CUDA <version>"`` or ``"ROCm <version>"``."""
    for name, version in (("CUDA", torch.version.cuda), ("ROCm", torch.version.hip)):
        if version is not None:
            return f"{name} {version}"
    return "CPU"


def _torch_devices() -> tuple[str, ...]:
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    return tuple(device for device, is_present in present.items() if is_present)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
