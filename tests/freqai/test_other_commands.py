"""Commands of freqtrade besides a plain backtest, with the real program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtf_scalper.freqai.config import name_models_by_strategy
from mtf_scalper.kept_files import file_digest

STRATEGIES = """
from mtf_scalper.freqai.strategy import HybridStrategy


class First(HybridStrategy):
    pass


class Second(HybridStrategy):
    stoploss = -0.05
"""
DAY = ("--timerange", "20240130-20240131")


def test_strategies_of_a_list_have_models_of_their_own(
    make_program: Callable[..., Any], tmp_path: Path
) -> None:
    """Second's stoploss is another one, so that First's models are not its own."""
    program = make_program(tmp_path / "run")
    (tmp_path / "Two.py").write_text(STRATEGIES, encoding="utf-8")
    folder = ("--strategy-path", str(tmp_path))
    words = (*folder, "--strategy-list", "First", "Second", *DAY)
    program.run("backtesting", *words, "--cache", "none", "--export", "none")
    models = sorted(path.name for path in (program.folder / "user_data" / "models").iterdir())
    assert models == ["mtf_scalper_rl-First", "mtf_scalper_rl-Second"]
    assert len(program.runs) == 2
    assert {run.manifest["identifier"] for run in program.runs} == set(models)


def test_hyperopt_tries_thresholds_on_models_that_are_in_place(
    make_program: Callable[..., Any], tmp_path: Path
) -> None:
    """Nothing is trained by it: every file of the models stays what the backtest made it."""
    program = make_program(tmp_path / "run")
    program.run("backtesting", *DAY, "--cache", "none", "--export", "none")
    made = models_in(program.folder)
    assert any(name.endswith(".safetensors") for name in made)
    # What it finds would else be written beside the strategy, and hold from then on.
    loss = ("--hyperopt-loss", "SharpeHyperOptLossDaily", "--disable-param-export")
    program.run("hyperopt", *DAY, "--epochs", "3", "--spaces", "sell", "-j", "1", *loss)
    assert models_in(program.folder) == made
    results = list((program.folder / "user_data" / "hyperopt_results").glob("*.fthypt"))
    assert len(results) == 1
    lines = results[0].read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    assert all("exit_confidence" in line for line in lines)
    assert len(program.runs) == 1


def models_in(folder: Path) -> dict[str, tuple[int, str]]:
    """Return when each file of a model was written, and its digest, by name."""
    models = folder / "user_data" / "models"
    return {
        path.relative_to(models).as_posix(): (path.stat().st_mtime_ns, file_digest(path))
        for path in sorted(models.glob("*/sub-train-*/*"))
    }


def test_one_strategy_keeps_its_identifier() -> None:
    for listed in (None, [], ["First"]):
        config = {"strategy": "First", "strategy_list": listed, "freqai": {"identifier": "mine"}}
        name_models_by_strategy(config)
        assert config["freqai"] == {"identifier": "mine"}
