"""``examine`` finds what a run would miss on this machine and what would make it slow.

Facts are collected first; what they mean is decided by pure functions over them, so that every
finding can be tested without owning the machine that it is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from mtf_scalper.checks.inventory import CandleFile, Package, find_candles, find_packages
from mtf_scalper.checks.machine_facts import Machine, inspect_machine
from mtf_scalper.paths import user_data
from mtf_scalper.settings import Advantage, Settings, VecEnvKind

REQUIRED_FILES = ("5m-futures", "15m-futures", "1h-futures", "1h-mark", "1h-funding_rate")
"""What the main command reads of every pair: timeframe and kind, as in the files' names."""

# What a training process takes in all, and an environment process that imports everything itself.
_TRAINING_GB = 2.0
_SPAWNED_ENV_GB = 0.2
_BUSY_SHARE = 0.5
_LEAST_GFLOPS_PER_THREAD = 15.0
_LEAST_THREAD_GAIN = 1.3
_WITHOUT_PROCESSES = (
    'set "advantage": "exact" in rl_config, which needs no environments, or "vec_env": "batched", '
    "which uses no processes"
)


class Level(StrEnum):
    """How much a finding matters."""

    PROBLEM = "problem"
    SLOW = "slow"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing: what is so and why it matters, and what to do about it."""

    level: Level
    what: str
    advice: str


@dataclass(frozen=True)
class Report:
    """All that ``examine`` saw and what it makes of it."""

    machine: Machine
    packages: tuple[Package, ...]
    datadir: str
    candles: tuple[CandleFile, ...]
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """1 if something would make a run fail, else 0."""
        return int(any(finding.level is Level.PROBLEM for finding in self.findings))

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values that JSON can hold."""
        return {**asdict(self), "exit_code": self.exit_code}


def examine(
    datadir: Path | None = None,
    settings: Settings | None = None,
    *,
    measure_seconds: float = 0.3,
) -> Report:
    """Look at packages, machine and candles.

    Parameters
    ----------
    datadir : Path, optional
        A freqtrade data directory that has to hold candles. Without it, ``own_candles`` are
        looked at, where having no candles yet is only worth a note.
    settings : Settings, optional
        The recipe that is to run here; the default one if not given.
    measure_seconds : float
        Length of each of three short measurements.
    """
    folder = own_candles() if datadir is None else datadir
    machine = inspect_machine(measure_seconds)
    packages = find_packages()
    candles, unreadable = find_candles(folder)
    return Report(
        machine=machine,
        packages=packages,
        datadir=folder.as_posix(),
        candles=candles,
        findings=(
            *package_findings(packages),
            *data_findings(candles, unreadable, folder, is_required=datadir is not None),
            *machine_findings(machine, settings or Settings()),
        ),
    )


def own_candles(project: Path = Path()) -> Path:
    """Return the folder in which freqtrade keeps Binance's candles."""
    return user_data(project) / "data" / "binance"


def package_findings(packages: Sequence[Package]) -> Iterator[Finding]:
    """Yield a problem for every package that is missing or of an unsuitable version."""
    for package in packages:
        if package.is_valid:
            continue
        found = "is not installed" if package.version is None else f"is {package.version}"
        yield Finding(
            Level.PROBLEM,
            f"{package.name} {found}; {package.required or 'any version'} is required",
            "install with: python -m pip install -c constraints.txt -e .[freqtrade]",
        )


def data_findings(
    candles: Sequence[CandleFile],
    unreadable: Mapping[str, str],
    datadir: Path,
    *,
    is_required: bool,
) -> Iterator[Finding]:
    """Yield what is missing among the candles, or cannot be read."""
    for name, reason in unreadable.items():
        yield Finding(
            Level.PROBLEM,
            f"{name} cannot be read as candles ({reason})",
            "delete the file and download or write it again",
        )
    if not candles:
        yield Finding(
            Level.PROBLEM if is_required else Level.NOTE,
            f"{datadir.as_posix()} holds no futures candles",
            "write a synthetic market with: mtf-scalper synth, or get Binance's candles with: "
            "freqtrade download-data",
        )
    for pair in dict.fromkeys(file.pair for file in candles):
        have = {f"{file.timeframe}-{file.kind}" for file in candles if file.pair == pair}
        absent = [name for name in REQUIRED_FILES if name not in have]
        if absent:
            yield Finding(
                Level.PROBLEM,
                f"{pair} has no {', '.join(absent)}, which a backtest of futures reads",
                "run freqtrade download-data with --trading-mode futures --timeframes 5m 15m 1h",
            )
    for file in candles:
        if file.missing:
            yield Finding(
                Level.NOTE,
                f"{file.pair} {file.timeframe} {file.kind}: {file.missing} rows are missing "
                f"between {file.first} and {file.last}",
                "download the period again if the exchange was not halted then",
            )


def machine_findings(machine: Machine, settings: Settings) -> Iterator[Finding]:
    """Yield what would be slow on this machine under these settings, and why."""
    yield from _cpu_findings(machine, settings)
    yield from _torch_findings(machine)
    yield from _learning_findings(settings)
    spawns_only = machine.start_methods == ("spawn",)
    processes = _processes(settings)
    if spawns_only and processes:
        yield Finding(
            Level.SLOW,
            f"this platform starts each of the {processes} environment processes from nothing, "
            "and every one imports the package again: seconds at the start of every training",
            _WITHOUT_PROCESSES,
        )
    needed_gb = _TRAINING_GB + (processes * _SPAWNED_ENV_GB if spawns_only else 0.0)
    if machine.memory_available_gb < needed_gb:
        yield Finding(
            Level.SLOW,
            f"{machine.memory_available_gb:.1f} GB of memory are available and a training takes "
            f"about {needed_gb:.1f} GB: the rest would be swapped to disk",
            "end other programs, or lower n_envs in rl_config",
        )


def format_report(report: Report) -> str:
    """Return the report as text for a terminal."""
    sections = [
        ("Machine", _machine_rows(report.machine)),
        ("Packages", [_package_row(package) for package in report.packages]),
        (f"Candles in {report.datadir}", [_candle_row(file) for file in report.candles]),
    ]
    lines: list[str] = []
    for title, rows in sections:
        lines += [title, *(_aligned(rows) or ["  none"]), ""]
    lines.append("Findings")
    for finding in report.findings:
        lines += [f"  {finding.level}: {finding.what}", f"    {finding.advice}"]
    if not report.findings:
        lines.append("  none: everything is here, and nothing about this machine looks slow")
    return "\n".join(lines)


def _cpu_findings(machine: Machine, settings: Settings) -> Iterator[Finding]:
    cpus = machine.cpus_available
    if cpus < machine.cpus_installed:
        cause = "affinity" if cpus == machine.cpus_affinity else "a cgroup's quota"
        yield Finding(
            Level.SLOW,
            f"this process may use {cpus} of the machine's {machine.cpus_installed} CPUs ({cause})",
            "give the container or the job more CPUs",
        )
    if _processes(settings) > cpus:
        yield Finding(
            Level.SLOW,
            f"{settings.n_envs} environment processes share {cpus} CPUs with the network's "
            "update: they take turns, and sending observations can cost more than it brings",
            _WITHOUT_PROCESSES,
        )
    if machine.cpu_busy_share > _BUSY_SHARE:
        yield Finding(
            Level.SLOW,
            f"other programs keep {machine.cpu_busy_share:.0%} of the CPUs busy right now",
            "end them before measuring or training",
        )
    gain = machine.gflops_all_threads / machine.gflops_one_thread
    if cpus > 1 and gain < _LEAST_THREAD_GAIN:
        yield Finding(
            Level.SLOW,
            f"{cpus} threads multiply matrices only {gain:.1f} times as fast as one: the CPUs are "
            "busy, or two of them share one core",
            "set cpu_count in rl_config to the number of cores",
        )


def _processes(settings: Settings) -> int:
    """Return how many processes the environments take; exact advantages need no environments."""
    is_gae = settings.advantage is Advantage.GAE
    return settings.n_envs if is_gae and settings.vec_env is VecEnvKind.SUBPROC else 0


def _learning_findings(settings: Settings) -> Iterator[Finding]:
    if settings.advantage is Advantage.GAE:
        yield Finding(
            Level.SLOW,
            "what an action is worth is estimated from rollouts in environments: a training of 30 "
            "cycles takes minutes, where values that are computed take seconds",
            'set "advantage": "exact" in rl_config, unless something is wanted that needs rollouts',
        )


def _torch_findings(machine: Machine) -> Iterator[Finding]:
    if machine.torch_build != "CPU" and machine.torch_devices == ("cpu",):
        yield Finding(
            Level.SLOW,
            f"torch is built for {machine.torch_build}, which has no device here: it loads "
            "several GB of libraries to run on the CPU all the same",
            "install the CPU build of torch; docs/install.md says how",
        )
    if machine.vector_instructions in ("DEFAULT", "NO AVX"):
        yield Finding(
            Level.SLOW,
            "torch uses no vector instructions on this CPU: its own kernels run several times "
            "slower than they could",
            "run on a CPU with AVX2, or without an emulator; unset ATEN_CPU_CAPABILITY",
        )
    if machine.gflops_one_thread < _LEAST_GFLOPS_PER_THREAD:
        yield Finding(
            Level.SLOW,
            f"one thread multiplies matrices at {machine.gflops_one_thread:.0f} GFLOP/s; CPUs of "
            f"the last ten years reach {_LEAST_GFLOPS_PER_THREAD:.0f} or more: updates of a "
            "[512, 512, 256] network will take most of the time",
            'use a smaller network, such as "net_arch": [128, 128], in rl_config',
        )


def _machine_rows(machine: Machine) -> list[tuple[str, ...]]:
    gflops = f"{machine.gflops_one_thread:.0f} with 1 thread, {machine.gflops_all_threads:.0f} with"
    return [
        ("python", machine.python),
        ("system", machine.system),
        (
            "CPUs",
            f"{machine.cpus_available} available ({machine.cpus_installed} installed, "
            f"{machine.cpus_affinity} by affinity)",
        ),
        ("CPU use", f"{machine.cpu_busy_share:.0%}"),
        (
            "memory",
            f"{machine.memory_available_gb:.1f} of {machine.memory_total_gb:.1f} GB available",
        ),
        ("start methods", ", ".join(machine.start_methods)),
        ("torch", f"{machine.torch_version}, {machine.torch_build} build"),
        ("torch devices", ", ".join(machine.torch_devices)),
        (
            "torch threads",
            f"{machine.torch_threads}, and {machine.torch_interop_threads} between operators",
        ),
        ("vector instructions", machine.vector_instructions),
        ("matrix GFLOP/s", f"{gflops} {machine.cpus_available}"),
    ]


def _package_row(package: Package) -> tuple[str, ...]:
    version = package.version or "not installed"
    return (package.name, version, "" if package.is_valid else f"needs {package.required or 'any'}")


def _candle_row(file: CandleFile) -> tuple[str, ...]:
    rows = f"{file.rows} rows"
    return (file.pair, file.timeframe, file.kind, rows, f"{file.first} to {file.last}")


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return one line per row, with columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
