"""Without a clone: the wheel, ``mtf-scalper init`` in a folder, and the commands from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
