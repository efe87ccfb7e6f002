"""Models that tasks train are those that freqtrade would train, and it finds them."""

import io
import json
import os
import shutil
from dataclasses import replace

import pytest
from rich.console import Console

from mtf_scalper.errors import MtfScalperError, SettingsError
from mtf_scalper.kept_files import read_list
from mtf_scalper.records.reader import Status, runs_in
from mtf_scalper.runs import model_training
from mtf_scalper.runs.model_training import ModelOrder, plan_training, run_training
from mtf_scalper.runs.program import run_backtest

pytestmark = pytest.mark.program

EXACT = {"advantage": "exact", "vec_env": "batched"}


@pytest.fixture
def plan_of(make_request, tmp_path, project):
    """Return a maker of a project with its plan, for a backtest of two windows."""

    def make(name, rl_config=None, **options):
        request = make_request(name, **{**EXACT, **(rl_config or {})})
        home = tmp_path / name
        shutil.copytree(project, home, ignore=shutil.ignore_patterns("models", "runs"))
        overlay = tmp_path / f"{name}.json"
        overlay.write_text(
            json.dumps({**request.overrides, "freqai": {**request.overrides["freqai"]}})
        )
        plan = plan_training(
            home,
            timerange=request.timerange,
            datadir=request.datadir,
            configs=[overlay],
            jobs=1,
            **options,
        )
        request = replace(
            request,
            project=home,
            folder=home / "user_data" / "runs" / name,
            name=plan.identifier,
        )
        return plan, request

    return make


def weights_in(models):
    return {path.name: read_list(path)["weights"] for path in models.glob("sub-train-*")}


def trained(plan):
    text = io.StringIO()
    code = run_training(plan, Console(file=text, width=80))
    return code, text.getvalue(), runs_in(plan.project / "user_data" / "runs")[0]


def test_a_backtest_trains_nothing_after_it_and_would_have_trained_the_same(plan_of):
    alone, request = plan_of("alone")
    run_backtest(request)
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    plan, request = plan_of("tasks", on_ray=True)
    code, text, run = trained(plan)
    assert code == 0
    assert text.splitlines()[0] == run.verdict == "2 models trained, 0 there before"
    assert run.status is Status.FINISHED
    assert len(run.events("task")) == len(run.events("training_finished")) == 2
    wanted = weights_in(alone.models)
    assert len(wanted) == 2
    assert weights_in(plan.models) == wanted
    named = json.loads((plan.models / "pair_dictionary.json").read_text(encoding="utf-8"))
    assert [each["data_path"] for each in named.values()] == [str(plan.models / max(wanted))]
    (metadata,) = (plan.models / max(wanted)).glob("*_metadata.json")
    assert json.loads(metadata.read_text())["data_path"] == str(plan.models / max(wanted))

    before = {path: path.stat().st_mtime_ns for path in plan.models.glob("sub-train-*/*_policy*")}
    outcome = run_backtest(request)
    assert len([e for e in outcome.events if e["event"] == "training_finished"]) == 2
    assert before == {
        path: path.stat().st_mtime_ns for path in plan.models.glob("sub-train-*/*_policy*")
    }
    shutil.rmtree(plan.models / max(wanted))
    monkey = []
    with pytest.MonkeyPatch.context() as patch:
        real = model_training.train_model
        patch.setattr(
            model_training, "train_model", lambda *given: monkey.append(given[1]) or real(*given)
        )
        _, text, _ = trained(replace(plan, on_ray=False))
    assert text.splitlines()[0] == "1 models trained, 1 there before"
    assert [each.folder for each in monkey] == [max(wanted)]
    assert weights_in(plan.models) == wanted


def test_what_cannot_be_trained_is_named_and_the_rest_goes_on(plan_of, monkeypatch):
    plan, _ = plan_of("failing")

    def fail(files, order: ModelOrder):
        assert "configs/config_rl_hybrid.json" in files
        assert sum(name.startswith("data/futures/BTC_USDT_USDT-") for name in files) >= 3
        raise RuntimeError(f"no {order.folder}")

    monkeypatch.setattr(model_training, "train_model", fail)
    code, text, run = trained(plan)
    assert code == 1
    assert run.verdict == "0 models trained, 0 there before, 2 failed"
    assert "failed: BTC/USDT:USDT, window from 20240111: RuntimeError: no sub-train-BTC_" in text
    assert [each["state"] for each in run.events("task")] == ["retried", "retried", "failed"] * 2


def test_a_folder_of_other_settings_is_refused(plan_of, monkeypatch):
    plan, _ = plan_of("other")
    plan.models.mkdir(parents=True)
    (plan.models / "mtf_scalper_settings.json").write_text("{}")
    name = model_training.SETTINGS_FILE
    monkeypatch.setattr(model_training, "train_model", lambda *_: {name: b'{"other": 1}'})
    with pytest.raises(SettingsError, match="holds models made with other settings"):
        trained(plan)


def test_models_of_other_settings_are_not_there_before(plan_of, monkeypatch):
    plan, request = plan_of("first")
    run_backtest(request)
    monkeypatch.setattr(model_training, "train_model", None)
    code, text, _ = trained(plan)
    assert code == 0
    assert text.splitlines()[0] == "0 models trained, 2 there before"
    plan_of("second", {"learning_rate": 0.00123})
    overlay = request.project.parent / "second.json"
    other = plan_training(
        plan.project, timerange=plan.timerange, datadir=plan.datadir, configs=[overlay], jobs=1
    )
    assert other.models == plan.models
    with pytest.raises(SettingsError, match=r"made with other settings \(learning_rate; "):
        trained(other)


def test_a_configuration_is_read_as_freqtrade_reads_it(plan_of, tmp_path, monkeypatch):
    plan, _ = plan_of("read")
    (tmp_path / "more.json").write_text('{"max_open_trades": 7}')
    own = tmp_path / "own.json"
    own.write_text(
        '{"add_config_files": ["more.json"], // and a comment\n'
        ' "exchange": {"secret": "abc"}, "freqai": {"train_period_days": 5,}}'
    )
    monkeypatch.setenv("FREQTRADE__FREQAI__IDENTIFIER", "by_variable")
    given = {"timerange": plan.timerange, "datadir": plan.datadir, "pairs": plan.pairs}
    found = plan_training(plan.project, configs=[own], **given)
    assert found.config["max_open_trades"] == 7
    assert found.config["freqai"]["train_period_days"] == 5
    assert found.identifier == "by_variable"
    assert "abc" not in str(found.config)
    assert str(tmp_path) not in str(found.config)
    for text, words in (
        ("[1]", "the configuration is not a section"),
        ('{"freqai": null}', "freqai: null is not a section"),
        ('{"strategy": "Mine"}', "strategy: 'Mine' is asked for, and MtfScalper_RL_Hybrid is what"),
        ('{"freqaimodel": "Mine"}', "freqaimodel: 'Mine' is asked for, and MtfScalperRLModel is"),
    ):
        own.write_text(text)
        with pytest.raises(SettingsError, match=words):
            plan_training(plan.project, configs=[own], **given)


def test_variables_of_freqtrade_are_not_laid_over_a_task(monkeypatch):
    monkeypatch.setenv("FREQTRADE__FREQAI__IDENTIFIER", "by_variable")
    monkeypatch.setenv("FREQTRADE__EXCHANGE__PAIR_WHITELIST", '["BTC/USDT:USDT", "ETH/USDT:USDT"]')
    order = ModelOrder("BTC/USDT:USDT", None, 42, "", "", 1)
    monkeypatch.setattr(ModelOrder, "trained", 5)
    before = dict(os.environ)
    with model_training._only(order):
        assert not [name for name in os.environ if name.startswith("FREQTRADE__")]
        assert os.environ[model_training.ONLY_WINDOW] == "5"
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("NOPE/USDT:USDT", r"NOPE/USDT:USDT: no candles in .*NOPE_USDT_USDT-5m-futures.feather is"),
        ("BTC/USDC:USDC", "BTC/USDC:USDC: is traded in USDC, and stake_currency is USDT"),
        ("BTC/.*", r"BTC/\.\*: is no futures pair"),
    ],
)
def test_a_pair_that_no_program_can_train_is_refused_before_one_is_started(plan_of, pair, words):
    plan, _ = plan_of("pairs")
    with pytest.raises(MtfScalperError, match=words):
        plan_training(
            plan.project, timerange=plan.timerange, datadir=plan.datadir, pairs=[*plan.pairs, pair]
        )


def test_the_log_of_a_task_is_not_named_where_it_does_not_stay(plan_of):
    plan, _ = plan_of("late")
    order = ModelOrder(plan.pairs[0], plan.windows()[0], 42, "20300101-20300102", "late", 1)
    files = model_training._files(plan, plan.pairs[0])
    with pytest.raises(RuntimeError, match="freqtrade ended with exit code 2: ") as caught:
        model_training.train_model(files, order)
    assert "freqtrade.log" not in str(caught.value)
