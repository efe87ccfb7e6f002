"""The doctor's facts agree with what can be looked up, and every finding has its cause."""

import multiprocessing as mp
import platform
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest
import torch

from mtf_scalper.checks.doctor import (
    Level,
    Report,
    data_findings,
    examine,
    format_report,
    machine_findings,
    package_findings,
)
from mtf_scalper.checks.inventory import Package, find_candles, find_packages
from mtf_scalper.checks.machine_facts import Machine, inspect_machine, matmul_gflops, torch_build
from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.settings import Advantage, Settings, VecEnvKind
from mtf_scalper.worlds.datadir import write_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec

FAST_MACHINE = Machine(
    python="3.11.7",
    system="Linux on x86_64",
    cpus_installed=16,
    cpus_affinity=16,
    cpus_available=16,
    cpu_busy_share=0.02,
    memory_total_gb=64.0,
    memory_available_gb=60.0,
    start_methods=("fork", "spawn", "forkserver"),
    torch_version="2.13.0",
    torch_build="CPU",
    torch_devices=("cpu",),
    torch_threads=16,
    torch_interop_threads=16,
    vector_instructions="AVX512",
    gflops_one_thread=100.0,
    gflops_all_threads=1200.0,
)


IN_PROCESSES = Settings(advantage=Advantage.GAE, vec_env=VecEnvKind.SUBPROC)
(FROM_ROLLOUTS,) = machine_findings(FAST_MACHINE, IN_PROCESSES)


def changed(**facts: object) -> Machine:
    return Machine(**{**FAST_MACHINE.__dict__, **facts})


@pytest.fixture
def datadir(tmp_path: Path) -> Path:
    write_datadir(SyntheticSpec(), tmp_path, "2024-10-01", "2024-10-03")
    return tmp_path


def test_the_machine_is_described_as_it_is() -> None:
    threads = torch.get_num_threads()
    machine = inspect_machine(measure_seconds=0.02)
    assert machine.python == platform.python_version()
    assert machine.cpus_available == available_cpus()
    assert machine.cpus_installed >= machine.cpus_affinity >= machine.cpus_available >= 1
    assert 0.0 <= machine.cpu_busy_share <= 1.0
    assert 0.0 < machine.memory_available_gb <= machine.memory_total_gb
    assert machine.start_methods == tuple(mp.get_all_start_methods())
    assert machine.torch_version == torch.__version__
    assert machine.torch_threads == torch.get_num_threads() == threads
    assert "cpu" in machine.torch_devices
    assert min(machine.gflops_one_thread, machine.gflops_all_threads) > 0.0


def test_torchs_threads_are_as_before_after_a_measurement() -> None:
    before = torch.get_num_threads()
    assert matmul_gflops(before + 1, seconds=0.0) > 0.0
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("cuda", "hip", "build"),
    [(None, None, "CPU"), ("12.8", None, "CUDA 12.8"), (None, "6.4", "ROCm 6.4")],
)
def test_the_build_of_torch_is_named(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, hip: str | None, build: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert torch_build() == build


def test_packages_are_those_that_a_backtest_needs_with_their_versions() -> None:
    packages = {package.name: package for package in find_packages()}
    assert {"torch", "stable-baselines3", "freqtrade", "xgboost", "fastapi"} <= set(packages)
    assert "pytest" not in packages
    assert packages["torch"].version == metadata.version("torch")
    assert all(package.is_valid for package in packages.values())


def test_a_missing_or_unsuitable_package_is_a_problem() -> None:
    packages = [
        Package("freqtrade", ">=2026.9", None, is_valid=False),
        Package("torch", "<3,>=2.0", "1.13.1", is_valid=False),
        Package("numpy", ">=1.26", "2.0.0", is_valid=True),
    ]
    findings = list(package_findings(packages))
    assert [finding.level for finding in findings] == [Level.PROBLEM, Level.PROBLEM]
    assert findings[0].what == "freqtrade is not installed; >=2026.9 is required"
    assert findings[1].what == "torch is 1.13.1; <3,>=2.0 is required"


def test_an_unsuitable_version_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def older(name: str) -> str:
        return "1.13.1" if name == "torch" else version(name)

    monkeypatch.setattr(metadata, "version", older)
    assert [each.name for each in find_packages() if not each.is_valid] == ["torch"]


def test_candles_are_found_per_pair_and_timeframe(datadir: Path) -> None:
    candles, unreadable = find_candles(datadir)
    assert not unreadable
    rows = {(file.pair, file.timeframe, file.kind): file.rows for file in candles}
    for pair in ("BTC/USDT:USDT", "ETH/USDT:USDT"):
        assert rows[pair, "5m", "futures"] == 576
        assert rows[pair, "15m", "futures"] == 192
        assert rows[pair, "1h", "futures"] == rows[pair, "1h", "mark"] == 48
        assert rows[pair, "1h", "funding_rate"] == 6
    assert {file.first for file in candles} == {"2024-10-01 00:00"}
    assert all(file.missing == 0 for file in candles)
    assert list(data_findings(candles, unreadable, datadir, is_required=True)) == []


def test_missing_candles_are_counted(datadir: Path) -> None:
    path = datadir / "futures" / "BTC_USDT_USDT-5m-futures.feather"
    frame = pd.read_feather(path)
    frame.drop(index=range(100, 107)).reset_index(drop=True).to_feather(path)
    funding = datadir / "futures" / "BTC_USDT_USDT-1h-funding_rate.feather"
    frame = pd.read_feather(funding)
    frame.drop(index=2).reset_index(drop=True).to_feather(funding)

    candles, unreadable = find_candles(datadir)
    missing = {(f.pair, f.timeframe, f.kind): f.missing for f in candles if f.missing}
    assert missing == {
        ("BTC/USDT:USDT", "5m", "futures"): 7,
        ("BTC/USDT:USDT", "1h", "funding_rate"): 1,
    }
    findings = list(data_findings(candles, unreadable, datadir, is_required=True))
    assert [finding.level for finding in findings] == [Level.NOTE, Level.NOTE]


def test_a_file_that_is_absent_or_broken_is_a_problem(datadir: Path) -> None:
    (datadir / "futures" / "ETH_USDT_USDT-1h-mark.feather").unlink()
    (datadir / "futures" / "BTC_USDT_USDT-15m-futures.feather").write_bytes(b"not feather")
    candles, unreadable = find_candles(datadir)
    findings = list(data_findings(candles, unreadable, datadir, is_required=True))
    assert all(finding.level is Level.PROBLEM for finding in findings)
    text = "\n".join(finding.what for finding in findings)
    assert "BTC_USDT_USDT-15m-futures.feather cannot be read as candles" in text
    assert "ETH/USDT:USDT has no 1h-mark" in text
    assert "\n\n" not in text


def test_having_no_candles_matters_only_where_they_were_asked_for(tmp_path: Path) -> None:
    levels = [
        [finding.level for finding in data_findings((), {}, tmp_path, is_required=required)]
        for required in (True, False)
    ]
    assert levels == [[Level.PROBLEM], [Level.NOTE]]


def test_nothing_is_found_on_a_fast_machine() -> None:
    assert list(machine_findings(FAST_MACHINE, Settings())) == []


@pytest.mark.parametrize(
    ("machine", "named"),
    [
        (changed(cpus_affinity=8, cpus_available=8), "8 of the machine's 16 CPUs (affinity)"),
        (changed(cpus_available=8), "8 of the machine's 16 CPUs (a cgroup's quota)"),
        (
            changed(cpus_installed=2, cpus_affinity=2, cpus_available=2),
            "8 environment processes share 2 CPUs",
        ),
        (changed(cpu_busy_share=0.75), "other programs keep 75%"),
        (changed(gflops_all_threads=110.0), "only 1.1 times as fast"),
        (changed(torch_build="CUDA 12.8"), "built for CUDA 12.8"),
        (changed(vector_instructions="DEFAULT"), "no vector instructions"),
        (changed(gflops_one_thread=5.0, gflops_all_threads=60.0), "at 5 GFLOP/s"),
        (changed(start_methods=("spawn",)), "imports the package again"),
        (changed(memory_available_gb=1.5), "1.5 GB of memory are available"),
    ],
)
def test_each_cause_of_slowness_is_found_alone(machine: Machine, named: str) -> None:
    findings = [
        finding for finding in machine_findings(machine, IN_PROCESSES) if finding != FROM_ROLLOUTS
    ]
    assert len(findings) == 1
    assert findings[0].level is Level.SLOW
    assert named in findings[0].what
    assert findings[0].advice


def test_without_processes_their_findings_are_gone() -> None:
    few = changed(cpus_installed=2, cpus_affinity=2, cpus_available=2, start_methods=("spawn",))
    settings = IN_PROCESSES.changed(vec_env=VecEnvKind.DUMMY)
    assert list(machine_findings(few, settings)) == [FROM_ROLLOUTS]
    exact = IN_PROCESSES.changed(advantage=Advantage.EXACT)
    assert list(machine_findings(few, exact)) == []


def test_rollouts_are_named_as_slow_and_what_is_faster() -> None:
    assert FROM_ROLLOUTS.level is Level.SLOW
    assert "rollouts" in FROM_ROLLOUTS.what
    assert '"advantage": "exact"' in FROM_ROLLOUTS.advice


def test_a_gpu_build_with_its_gpu_is_no_finding() -> None:
    machine = changed(torch_build="CUDA 12.8", torch_devices=("cpu", "cuda"))
    assert list(machine_findings(machine, Settings())) == []


def test_the_report_fails_on_problems_only(datadir: Path, tmp_path: Path) -> None:
    complete = examine(datadir, measure_seconds=0.01)
    assert complete.exit_code == 0
    missing = examine(tmp_path / "none", measure_seconds=0.01)
    assert missing.exit_code == 1
    assert missing.as_dict()["exit_code"] == 1


def test_the_text_shows_every_fact_and_finding(datadir: Path) -> None:
    report = examine(datadir, measure_seconds=0.01)
    text = format_report(report)
    for package in report.packages:
        assert package.name in text
    for finding in report.findings:
        assert f"{finding.level}: {finding.what}" in text
    assert text.count("ETH/USDT:USDT") == 5
    calm = Report(FAST_MACHINE, report.packages, "data", report.candles, ())
    assert format_report(calm).endswith("nothing about this machine looks slow")
