"""The package where nothing can be written: compiled without a cache, and the log says so once."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mtf_scalper
from mtf_scalper import jit

SOURCES = Path(mtf_scalper.__file__).parent

SMALLEST_KERNELS = """
import logging
logging.basicConfig(format="LOG %(message)s")
import mtf_scalper, numpy as np
import mtf_scalper.rollouts.freqtrade_kernels, mtf_scalper.rollouts.ppo_kernels  # decorated
from mtf_scalper.simulator.kernels import gather_windows
windows = np.zeros((2, 4), dtype=np.float32)
features = np.arange(6, dtype=np.float32).reshape(3, 2)
gather_windows(features, np.array([1, 2]), np.zeros((2, 0), dtype=np.float32), windows)
print("RESULT", mtf_scalper.__file__, windows.tolist())
"""


@pytest.fixture
def no_cache_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_SAID", [])


def without_cache_folders(folder: Path) -> dict[str, str]:
    """Return an environment whose home is no folder, and that names no other place for caches."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA")
    }
    nowhere = folder / "nowhere"
    nowhere.write_text("a file, so that nothing can be made below it", encoding="utf-8")
    homes = dict.fromkeys(("HOME", "USERPROFILE", "LOCALAPPDATA"), str(nowhere / "home"))
    return {**inherited, **homes, "PYTHONDONTWRITEBYTECODE": "1"}


def copied_package(folder: Path) -> Path:
    """Copy the package so that nothing can be cached beside it.

    Permissions do not bind root, under whom tests may run; a file where the folder of the cache
    would be binds everybody.
    """
    package = folder / "site" / "mtf_scalper"
    shutil.copytree(SOURCES, package, ignore=shutil.ignore_patterns("__pycache__"))
    for each in (package, *(path for path in package.rglob("*") if path.is_dir())):
        (each / "__pycache__").write_text("in the way", encoding="utf-8")
    return package


def test_package_and_home_that_cannot_be_written(tmp_path: Path) -> None:
    package = copied_package(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SMALLEST_KERNELS],
        cwd=tmp_path,
        env={**without_cache_folders(tmp_path), "PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Windows of two rows of two features, oldest first.
    windows = [[0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0]]
    assert done.stdout.strip() == f"RESULT {package / '__init__.py'} {windows}"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("LOG ")]
    assert line.startswith("LOG no cache of compiled functions for neither the package's folder")
    assert "NUMBA_CACHE_DIR" in line


def compiled_in(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function of a module of its own, compiled with a cache in ``folder``."""
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(folder))
    source = folder.parent / f"{name}.py"
    source.write_text("def add(one, other):\n    return one + other\n", encoding="utf-8")
    space: dict[str, Any] = {"__name__": name}
    exec(compile(source.read_text(encoding="utf-8"), str(source), "exec"), space)
    return jit.njit(cache=True)(space["add"])


@pytest.mark.usefixtures("no_cache_said")
def test_a_cache_that_can_be_written_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    assert compiled_in(folder, "first", monkeypatch)(1, 2) == 3
    assert list(folder.rglob("*.nbc"))
    again = compiled_in(folder, "first", monkeypatch)
    assert again(1, 2) == 3
    assert sum(again.stats.cache_hits.values()) == 1
    assert not caplog.records


@pytest.mark.usefixtures("no_cache_said")
def test_a_cache_that_fails_later_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a disk that fills up, or in a folder that vanishes, after the import."""
    folder = tmp_path / "cache"
    add = compiled_in(folder, "second", monkeypatch)
    shutil.rmtree(folder)
    folder.write_text("in the way", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert add(1, 2) == 3
        assert add(1.5, 2.0) == 3.5
    (record,) = caplog.records
    assert record.getMessage().startswith("no cache of compiled functions in ")


@pytest.mark.usefixtures("no_cache_said")
def test_a_damaged_cache_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    assert compiled_in(folder, "third", monkeypatch)(1, 2) == 3
    (data,) = folder.rglob("*.nbc")
    data.write_bytes(data.read_bytes()[:20])
    with caplog.at_level(logging.WARNING):
        assert compiled_in(folder, "third", monkeypatch)(1, 2) == 3
    assert len(caplog.records) == 1


def test_every_kernel_is_compiled_through_it() -> None:
    """Else one decorator would bring the failing import back."""
    own = re.compile(r"\bfrom numba import [^\n]*\bn?jit\b|\bnumba\.n?jit\b")
    found = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if own.search(path.read_text(encoding="utf-8"))
    }
    # Rewards of the user's own are compiled from source that no cache could find again.
    assert found == {"jit.py", "simulator/reward_kernels.py"}
    assert "cache=True" not in (SOURCES / "simulator" / "reward_kernels.py").read_text("utf-8")


def test_numba_without_a_place_for_its_cache_refuses_to_decorate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the module is for; where numba changes its mind it can go."""
    import numba

    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [], raising=True)
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(lambda: np.nan)
