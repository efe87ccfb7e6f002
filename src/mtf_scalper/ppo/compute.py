"""How much of the machine torch may use: device, threads, and the machine's real limits."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from mtf_scalper.lifetimes import scheduled_cpus
from mtf_scalper.settings import Device, Settings

logger = logging.getLogger(__name__)

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = (
    Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
    Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


@dataclass(frozen=True)
class ComputeSetup:
    """What torch was given: device name, and threads within and between operators."""

    device: str
    threads: int
    interop_threads: int


def available_cpus() -> int:
    """Return the CPUs that this process may use: affinity mask and cgroup quota included."""
    cpus, quota = scheduled_cpus(), _cgroup_quota()
    return max(1, min(cpus, math.ceil(quota)) if quota else cpus)


def configure_torch(settings: Settings) -> ComputeSetup:
    """Choose the device and, on CPU, set torch's threads; safe to call again.

    More threads than the machine has are lowered to what it has. Threads between operators can
    be set only before torch has run anything in parallel, and only once: where that moment has
    passed, what torch has stays, and the log says so.
    """
    device = _resolve_device(settings.device)
    if device == "cpu":
        threads = min(settings.cpu_count, available_cpus())
        if threads < settings.cpu_count:
            logger.info(
                "cpu_count %d lowered to the %d CPUs that this machine gives",
                settings.cpu_count,
                threads,
            )
        torch.set_num_threads(threads)
        _set_interop_threads(settings.interop_threads)
    setup = ComputeSetup(device, torch.get_num_threads(), torch.get_num_interop_threads())
    logger.info(
        "torch on %s with %d threads and %d interop threads",
        setup.device,
        setup.threads,
        setup.interop_threads,
    )
    return setup


def _set_interop_threads(wanted: int) -> None:
    if torch.get_num_interop_threads() == wanted:
        return
    try:
        torch.set_num_interop_threads(wanted)
    except RuntimeError:
        logger.warning(
            "torch keeps %d interop threads, not %d: parallel work had already begun",
            torch.get_num_interop_threads(),
            wanted,
        )


def _resolve_device(wanted: Device) -> str:
    has = {
        Device.CUDA: torch.cuda.is_available(),
        Device.MPS: torch.backends.mps.is_available(),
        Device.CPU: True,
    }
    if wanted is Device.AUTO:
        return next(str(device) for device, present in has.items() if present)
    if not has[wanted]:
        logger.warning("device %s is not available here; falling back to cpu", wanted)
        return str(Device.CPU)
    return str(wanted)


def _cgroup_quota() -> float | None:
    """Return the CPU quota of this process's cgroup in cores, None where there is no limit."""
    try:
        quota, period = _CGROUP_V2.read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = (path.read_text().strip() for path in _CGROUP_V1)
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)
