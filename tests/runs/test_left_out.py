"""A pair that cannot be learned is left out of an evaluation, and the others go on."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from mtf_scalper.errors import MarketError
from mtf_scalper.evaluation.left_out_pairs import left_out_note, left_out_of
from mtf_scalper.evaluation.recipe import Recipe
from mtf_scalper.records.reader import runs_in
from mtf_scalper.runs.evaluation import run_evaluation
from mtf_scalper.runs.evaluation_plan import EvaluationPlan
from mtf_scalper.settings import Settings, TradeRules, UntrainablePairs
from mtf_scalper.walk_forward.sources import RecordedPairs, load_pairs
from mtf_scalper.worlds.datadir import write_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

PAIR, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
Change = Callable[[pd.DataFrame], pd.DataFrame] | None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "binance"
    spec = SyntheticSpec(seed=3, pairs=(pair_spec(PAIR), pair_spec(OTHER)))
    write_datadir(spec, folder, "2023-12-27", "2024-01-14")
    return folder


@pytest.fixture
def make_plan(whole: Path, tmp_path: Path) -> Callable[..., EvaluationPlan]:
    """Return a maker of evaluations of two windows, in whose candles one pair is changed."""

    def make(change: Change, untrainable_pairs: str = "leave_out") -> EvaluationPlan:
        folder = tmp_path / "binance"
        shutil.copytree(whole, folder)
        for file in (folder / "futures").glob("ETH_*-futures.feather"):
            if change is None:
                file.unlink()
            else:
                change(pd.read_feather(file)).reset_index(drop=True).to_feather(file)
        settings = Settings(
            net_arch=(8,),
            train_cycles=1,
            cpu_count=1,
            device="cpu",
            rules=TradeRules(max_trade_duration_candles=24),
            untrainable_pairs=untrainable_pairs,
        )
        recipe = Recipe(settings=settings, pairs=(OTHER, PAIR))
        return EvaluationPlan(
            recipe=recipe,
            source=RecordedPairs(folder, recipe),
            timerange="20240110-20240114",
            train_days=2,
            test_days=2,
            n_draws=5,
            datadir=folder,
        )

    return make


def since(day: str) -> Change:
    return lambda frame: frame[frame["date"] >= pd.Timestamp(day, tz="UTC")]


def until(day: str) -> Change:
    return lambda frame: frame[frame["date"] < pd.Timestamp(day, tz="UTC")]


def constant(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(open=5.0, high=5.0, low=5.0, close=5.0)


def halted(frame: pd.DataFrame) -> pd.DataFrame:
    """The price does not move while the second window is tested."""
    frame.loc[frame["date"] >= "2024-01-12", ["open", "high", "low", "close"]] = 5.0
    return frame


def crossed(frame: pd.DataFrame) -> pd.DataFrame:
    frame.loc[frame["date"] == "2024-01-09 12:00", ["high", "low"]] = [2000.0, 2000.5]
    return frame


LACKS = {
    "late": (since("2024-01-05"), "the window from 2024-01-08 needs candles and features from "),
    "short": (since("2024-01-13"), "288 candles of 5m in .* are too few for the warm-up of "),
    "ended": (until("2024-01-12"), "no candles from 2024-01-12 to 2024-01-14; download later"),
    "constant": (constant, r"the price is constant \(5.0\) over all "),
    "halted": (halted, r"the price is constant \(5.0\) over all 57\d candles of the window from "),
    "missing": (None, "no candles in "),
}


@pytest.mark.parametrize("kind", LACKS)
def test_what_a_pair_lacks_is_named(kind: str, make_plan: Callable[..., EvaluationPlan]) -> None:
    change, lacks = LACKS[kind]
    plan = make_plan(change)
    recordeds, left_out = load_pairs(plan.source, plan.recipe.pairs, plan.windows(), plan.settings)
    assert list(recordeds) == [PAIR]
    assert list(left_out) == [OTHER]
    assert re.match(f"{OTHER}: {lacks}", left_out[OTHER])
    assert "\n" not in left_out[OTHER]
    strict = plan.settings.changed(untrainable_pairs="fail")
    with pytest.raises(MarketError, match=f"^{OTHER}: {lacks}"):
        load_pairs(plan.source, plan.recipe.pairs, plan.windows(), strict)
    with pytest.raises(MarketError, match=f"^{OTHER}: {lacks}"):
        load_pairs(plan.source, [OTHER], plan.windows(), plan.settings)


def test_a_pair_that_ends_before_the_others_is_marked_as_a_backtest_ends_it(
    make_plan: Callable[..., EvaluationPlan],
) -> None:
    plan = make_plan(until("2024-01-13 12:00"))
    recordeds, left_out = load_pairs(plan.source, plan.recipe.pairs, plan.windows(), plan.settings)
    assert left_out == {}
    ends = {pair: each.market.ends_early for pair, each in recordeds.items()}
    assert ends == {PAIR: False, OTHER: True}


def test_damaged_candles_are_left_out_where_the_option_says_so(
    make_plan: Callable[..., EvaluationPlan],
) -> None:
    plan = make_plan(crossed)
    lacks = f"^{OTHER}: .*is above 'high'"
    with pytest.raises(MarketError, match=lacks):
        load_pairs(plan.source, plan.recipe.pairs, plan.windows(), plan.settings)
    kind = UntrainablePairs.LEAVE_OUT_DAMAGED
    settings = plan.settings.changed(untrainable_pairs=kind)
    recordeds, left_out = load_pairs(plan.source, plan.recipe.pairs, plan.windows(), settings)
    assert list(recordeds) == [PAIR]
    assert re.match(lacks, left_out[OTHER])


def test_an_evaluation_goes_on_without_a_pair_and_counts_it(
    make_plan: Callable[..., EvaluationPlan], tmp_path: Path
) -> None:
    plan = make_plan(LACKS["late"][0])
    text = io.StringIO()
    assert run_evaluation(plan, tmp_path / "project", Console(file=text, width=200)) == 0
    (run,) = runs_in(tmp_path / "project" / "user_data" / "runs")
    note = f"; 1 of 2 pairs left out: {OTHER}"
    assert run.verdict is not None
    assert run.verdict.endswith(note)
    first, *rest = text.getvalue().splitlines()
    assert first.endswith(note)
    reasons = left_out_of(run)
    assert list(reasons) == [OTHER]
    assert f"left out: {reasons[OTHER]}" in rest
    assert run.manifest["pairs"] == [PAIR]
    assert {row["pair"] for row in run.figures()} == {PAIR}
    alone = replace(plan, recipe=replace(plan.recipe, pairs=(PAIR,)))
    run_evaluation(alone, tmp_path / "alone", Console(file=io.StringIO(), width=200))
    (other,) = runs_in(tmp_path / "alone" / "user_data" / "runs")
    assert other.figures() == run.figures()


def test_nothing_is_added_to_a_verdict_of_all_pairs() -> None:
    assert left_out_note({}, [PAIR, OTHER]) == ""
    assert left_out_note({OTHER: "why"}, [PAIR, OTHER]) == f"; 1 of 2 pairs left out: {OTHER}"
