"""Without a clone: the wheel, ``mtf-scalper init`` in a folder, and the commands from there."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.paths import user_data
from mtf_scalper.shipped import SHIPPED_FILES, differences, write_missing

ROOT = Path(__file__).resolve().parents[1]

Program = Callable[..., str]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Return a caller of the program that was installed from the wheel, far from the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    install = [*pip, "install", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, timeout=300)

    def run(project: Path, *arguments: str) -> str:
        call = "import mtf_scalper.cli, sys; print(mtf_scalper.__file__); mtf_scalper.cli.main()"
        done = subprocess.run(
            [sys.executable, "-c", call, *arguments],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.splitlines()[0].startswith(str(site))
        return done.stdout

    return run


def test_an_empty_folder_becomes_a_project_that_trains_and_backtests(
    installed: Program, tmp_path: Path
) -> None:
    assert f"written  {SHIPPED_FILES[0]}" in installed(tmp_path, "init")
    for name in SHIPPED_FILES:
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()
    config = tmp_path / "configs" / "config_rl_hybrid.json"
    edited = json.loads(config.read_text(encoding="utf-8"))
    edited["freqai"]["rl_config"] |= {"train_cycles": 1, "net_arch": [16]}
    edited["exchange"]["pair_whitelist"] = ["BTC/USDT:USDT"]
    config.write_text(json.dumps(edited), encoding="utf-8")
    assert "kept     configs/config_rl_hybrid.json" in installed(tmp_path, "init")
    assert '"train_cycles": 1' in installed(tmp_path, "init", "--diff")
    demo = installed(tmp_path, "demo", "--timerange", "20241001-20241003")
    assert "verdict" in demo
    assert list((tmp_path / "user_data" / "runs").glob("demo-*/report.html"))
    shown = installed(tmp_path, "runs", "list")
    assert "demo-" in shown


def test_a_user_directory_itself_is_a_project(tmp_path: Path) -> None:
    (tmp_path / "strategies").mkdir()
    assert user_data(tmp_path) == tmp_path
    lines = list(write_missing(tmp_path))
    assert (tmp_path / "strategies" / "MtfScalper_RL_Hybrid.py").is_file()
    assert (tmp_path / "configs" / "config_rl_hybrid.json").is_file()
    assert not (tmp_path / "user_data").exists()
    assert lines[-1] == "next: mtf-scalper doctor, mtf-scalper demo"
    assert list(differences(tmp_path)) == ["all files are as shipped"]


def test_what_is_there_is_never_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "user_data" / "strategies" / "MtfScalper_RL_Hybrid.py"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"\xff not even text\n")
    (kept,) = [line for line in write_missing(tmp_path) if line.startswith("kept")]
    assert kept == f"kept     {mine.as_posix()}, which differs: mtf-scalper init --diff"
    assert mine.read_bytes() == b"\xff not even text\n"
    shown = "\n".join(differences(tmp_path))
    assert "+\N{REPLACEMENT CHARACTER} not even text" in shown
    assert "-class MtfScalper_RL_Hybrid(HybridStrategy):" in shown


def test_nothing_is_written_where_one_folder_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "configs").write_text("a file", encoding="utf-8")
    with pytest.raises(MtfScalperError, match=r"init: .*configs: is no folder"):
        list(write_missing(tmp_path))
    assert not (tmp_path / "user_data").exists()


def test_differences_write_nothing(tmp_path: Path) -> None:
    assert [line.split()[0] for line in differences(tmp_path)] == ["missing"] * len(SHIPPED_FILES)
    assert list(tmp_path.iterdir()) == []


def test_the_image_is_built_of_all_that_the_package_needs(tmp_path: Path) -> None:
    """The Dockerfile's own steps, without Docker: what it copies becomes the wheel of a clone."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (base,) = (line.rpartition(":")[2] for line in lines if line.startswith("FROM "))
    assert f"freqtrade=={base}" in pins
    home = "/freqtrade/mtf-scalper"
    for line in lines:
        if line.startswith("COPY "):
            *names, place = line.split()[2:]
            for name in names:
                source = ROOT / name
                target = tmp_path / "copied" / Path(place).relative_to(home)
                if source.is_dir():
                    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source, target)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(tmp_path / "copied")], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"mtf_scalper/shipped_files/{name}" for name in SHIPPED_FILES} <= names
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    assert modules <= names
    installs = [line.split(" && ")[-1] for line in lines if "pip install" in line]
    assert all("-c constraints.txt" in line for line in installs)


def test_the_service_starts_what_freqtrade_understands() -> None:
    from freqtrade.commands import Arguments

    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "deploy" / "mtf-scalper.service", encoding="utf-8")
    service = unit["Service"]
    home = service["WorkingDirectory"]
    program, *arguments = service["ExecStart"].split()
    assert program == f"{home}/.venv/bin/freqtrade"
    known = Arguments(arguments).get_parsed_arg()
    assert (known["command"], known["sd_notify"]) == ("trade", True)
    assert service["Type"] == "notify"  # for --sd-notify, and the watchdog's sake
    assert all((ROOT / name).is_file() for name in known["config"])
    assert (ROOT / "user_data" / "strategies" / f"{known['strategy']}.py").is_file()
    assert (ROOT / "user_data" / "freqaimodels" / f"{known['freqaimodel']}.py").is_file()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_understands_the_service(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "mtf-scalper.service").read_text(encoding="utf-8")
    program = Path(sys.executable).with_name("freqtrade")
    unit = tmp_path / "mtf-scalper.service"
    unit.write_text(
        text.replace("%h/mtf-scalper/.venv/bin/freqtrade", str(program)).replace(
            "%h/mtf-scalper", str(ROOT)
        ),
        encoding="utf-8",
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
