"""freqtrade's own resolvers find the two classes in ``user_data``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from freqtrade.resolvers import StrategyResolver
from freqtrade.resolvers.freqaimodel_resolver import FreqaiModelResolver

from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.freqai.strategy import HybridStrategy

MakeConfig = Callable[..., dict[str, Any]]


def test_the_model_resolver_finds_the_model(make_config: MakeConfig) -> None:
    model = FreqaiModelResolver.load_freqaimodel(make_config())
    assert type(model).__name__ == "MtfScalperRLModel"
    assert isinstance(model, MtfScalperRLModel)
    assert type(model).__bases__ == (MtfScalperRLModel,)


def test_the_strategy_resolver_finds_the_strategy(make_config: MakeConfig) -> None:
    strategy = StrategyResolver.load_strategy(make_config())
    assert strategy.get_strategy_name() == "MtfScalper_RL_Hybrid"
    assert isinstance(strategy, HybridStrategy)
    assert type(strategy).__bases__ == (HybridStrategy,)


IMPORTS = """
import importlib, os, sys
import freqtrade.optimize.backtesting
import mtf_scalper.freqai.strategy

print("torch" in sys.modules, os.environ.pop("GOMP_SPINCOUNT"))
for name, value in (("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "ACTIVE")):
    os.environ[name] = value
    importlib.reload(mtf_scalper)
    print(os.environ.pop("GOMP_SPINCOUNT", None))
"""


def test_idle_threads_stop_spinning_before_torch_is_loaded() -> None:
    """A program that spins takes the cores from another one; what the user has set holds."""
    waiting = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        env={key: value for key, value in os.environ.items() if key not in waiting},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "5000", "7", "None"]


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("freqaimodels", "MtfScalperRLModel.py"),
        ("strategies", "MtfScalper_RL_Hybrid.py"),
    ],
)
def test_the_folders_hold_one_file_of_a_few_lines(project: Path, folder: str, file: str) -> None:
    """freqtrade may execute every file of the folder while it searches for a class."""
    files = [path for path in (project / "user_data" / folder).iterdir() if path.is_file()]
    assert [path.name for path in files] == [file]
    assert len(files[0].read_text(encoding="utf-8").splitlines()) < 12
