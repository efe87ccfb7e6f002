"""Files of an identifier: what is read is whole, and nothing that stands in it is run."""

from __future__ import annotations

import errno
import json
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pandas as pd
import pytest
from freqtrade.exceptions import OperationalException
from freqtrade.strategy import IStrategy
from typer.testing import CliRunner

from mtf_scalper.cli import app
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.drawer import Drawer
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.freqai.scaling import pipeline_of, plain_scaling
from mtf_scalper.freqai.vetting import BACKUP, HISTORY, PAIRS, vet
from mtf_scalper.freqai.window_predictions import PREDICTIONS
from mtf_scalper.kept_files import LIST, check_files
from mtf_scalper.paths import PathError
from mtf_scalper.records.events import SETTINGS_FILE
from mtf_scalper.trusted import NotTrustedError, TrustedFiles

from .conftest import BACKTEST

PAIR = "BTC/USDT:USDT"
PICKLES = ("feature_pipeline.pkl", "label_pipeline.pkl", "trained_df.pkl", "trained_dates_df.pkl")
OpenWorkshop = Callable[..., Any]


class Marker:
    """Harmless: its unpickling makes a file, so that a test sees whether it was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = (cut, emptied, zeroed, flipped, Path.unlink)


@pytest.fixture
def strategy(make_config: Any, make_strategy: Any, without_database: None) -> Iterator[IStrategy]:
    return make_strategy(make_config())


@pytest.fixture
def done(make_config: Any, strategy: IStrategy, candles: pd.DataFrame) -> Any:
    """Return a configuration, a function that backtests under it anew, and what it predicted."""
    config = make_config()

    def again() -> pd.DataFrame:
        model = MtfScalperRLModel(config=config)
        frame = model.start(candles.copy(), {"pair": PAIR}, strategy)
        return frame[list(columns.PREDICTIONS)]

    return config, again, again()


def folder_of(config: Any) -> Path:
    return Path(config["user_data_dir"], "models", config["freqai"]["identifier"])


# Scaling


def test_a_pipeline_made_of_plain_numbers_has_the_same_bits(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop()
    workshop.train()
    pipeline = workshop.kitchen.feature_pipeline
    text = json.dumps(plain_scaling(pipeline))
    other = pipeline_of(json.loads(text))
    names = list(pipeline.features_in)
    given = workshop.later[names]
    for one, two in zip(
        pipeline.transform(given.copy(), outlier_check=True),
        other.transform(given.copy(), outlier_check=True),
        strict=True,
    ):
        if one is None:
            assert two is None
        else:
            pd.testing.assert_frame_equal(pd.DataFrame(one), pd.DataFrame(two), check_exact=True)
    assert json.dumps(plain_scaling(other)) == text
    with pytest.raises(Exception, match="Pipeline expected"):
        other.transform(given[names[::-1]].copy())


def test_other_steps_are_no_plain_numbers(open_workshop: OpenWorkshop) -> None:
    with_pca = {"freqai": {"feature_parameters": {"principal_component_analysis": True}}}
    workshop = open_workshop(with_pca)
    workshop.train()
    assert plain_scaling(workshop.kitchen.feature_pipeline) is None


# Pickles


def test_pickles_of_a_model_folder_are_not_read(done: Any, tmp_path: Path) -> None:
    """They are FreqAI's and lie there for its users; even with true digests none is opened."""
    config, again, predicted = done
    for path in (folder_of(config) / PREDICTIONS).iterdir():
        path.unlink()
    for folder in folder_of(config).glob("sub-train-*"):
        listed = json.loads((folder / LIST).read_text())
        for name in listed["files"]:
            if name.endswith(PICKLES):
                content = pickle.dumps(Marker(tmp_path / "made"))
                (folder / name).write_bytes(content)
                entry = listed["files"][name]
                entry["bytes"], entry["sha256"] = len(content), _sha256(content)
        (folder / LIST).write_text(json.dumps(listed))
    MtfScalperRLModel.train, really = None, MtfScalperRLModel.train  # type: ignore[assignment, method-assign]
    try:
        pd.testing.assert_frame_equal(again(), predicted, check_exact=True)
    finally:
        MtfScalperRLModel.train = really  # type: ignore[method-assign]
    assert not (tmp_path / "made").exists()


def test_a_pipeline_with_other_steps_is_read_if_this_installation_wrote_it(
    open_workshop: OpenWorkshop, tmp_path: Path
) -> None:
    with_pca = {"freqai": {"feature_parameters": {"principal_component_analysis": True}}}
    workshop = open_workshop(with_pca)
    workshop.save(workshop.train())
    pipeline = workshop.kitchen.feature_pipeline
    workshop.model.dd.load_data(PAIR, workshop.kitchen)
    assert workshop.kitchen.feature_pipeline is not pipeline
    name = f"{workshop.kitchen.model_filename}_feature_pipeline.pkl"
    path = Path(workshop.kitchen.data_path) / name
    content = pickle.dumps(Marker(tmp_path / "made"))
    path.write_bytes(content)
    listed = json.loads((path.parent / LIST).read_text())
    listed["files"][name] = {"bytes": len(content), "sha256": _sha256(content)}
    (path.parent / LIST).write_text(json.dumps(listed))
    with pytest.raises(NotTrustedError) as caught:
        workshop.model.dd.load_data(PAIR, workshop.kitchen)
    assert str(caught.value).startswith(f"{path}: this installation did not write it")
    assert f"mtf-scalper trust {path}" in str(caught.value)
    assert not (tmp_path / "made").exists()


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


# The history of a bot


def test_a_history_from_elsewhere_is_refused_until_it_is_trusted(
    make_config: Any, tmp_path: Path
) -> None:
    config = make_config()
    folder = folder_of(config)
    folder.mkdir(parents=True)
    (folder / HISTORY).write_bytes(pickle.dumps({PAIR: Marker(tmp_path / "made")}))
    with pytest.raises(OperationalException) as caught:
        MtfScalperRLModel(config=config)
    said = str(caught.value)
    assert said.startswith(f"{folder / HISTORY}: this installation did not write it, and reading")
    assert "\n" not in said
    assert not (tmp_path / "made").exists()

    (folder / HISTORY).write_bytes(pickle.dumps({}))
    result = CliRunner().invoke(app, ["trust", str(folder / HISTORY)])
    assert result.exit_code == 0
    assert _sha256(pickle.dumps({})) in result.stdout
    assert "a pickle that imports nothing" in result.stdout
    assert MtfScalperRLModel(config=config).dd.historic_predictions == {}


def test_what_a_pickle_imports_is_shown_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(Marker(tmp_path / "made")))
    result = CliRunner().invoke(app, ["trust", str(path), "--userdir", str(tmp_path)])
    assert "pathlib.Path" in result.stdout or "touch" in result.stdout
    assert not (tmp_path / "made").exists()
    emptied(path)
    result = CliRunner().invoke(app, ["trust", str(path), "--userdir", str(tmp_path)])
    assert "no whole pickle" in result.stdout


@pytest.mark.parametrize("damage", DAMAGES[:4])
def test_a_damaged_history_is_replaced_by_its_backup(
    damage: Callable[[Path], None], make_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config()
    model = MtfScalperRLModel(config=config)
    dates = pd.date_range("2024-01-01", periods=3, freq="5min", tz="UTC")
    kept = pd.DataFrame({columns.ACTION: [1.0, 2.0, 3.0], "date_pred": dates})
    for rows in (2, 3):
        model.dd.historic_predictions = {PAIR: kept.head(rows)}
        model.dd.save_historic_predictions_to_disk()
    path = folder_of(config) / HISTORY
    damage(path)
    again = MtfScalperRLModel(config=config)
    assert again.dd.historic_predictions[PAIR][columns.ACTION].tolist() == [1.0, 2.0, 3.0]
    assert f"{path} is damaged; its backup {BACKUP} is used" in caplog.messages
    # Digests of what is no longer there are forgotten.
    assert len(list((Path(config["user_data_dir"]) / "trusted_files").iterdir())) == 1


@pytest.mark.parametrize("damage", DAMAGES[:4])
def test_a_bot_whose_history_and_its_backup_are_damaged_begins_a_new_one(
    damage: Callable[[Path], None], make_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An open trade needs the bot; that the files are damaged and not foreign is known."""
    config = make_config()
    model = MtfScalperRLModel(config=config)
    model.dd.historic_predictions = {PAIR: pd.DataFrame({columns.ACTION: [1.0]})}
    model.dd.save_historic_predictions_to_disk()
    path = folder_of(config) / HISTORY
    damage(path)
    damage(path.with_name(BACKUP))
    damaged = path.read_bytes()
    again = MtfScalperRLModel(config=config)
    assert again.dd.historic_predictions == {}
    told = f"{path} is damaged, and so is its backup: put aside as {HISTORY}.damaged"
    assert told in caplog.messages
    assert path.with_name(f"{HISTORY}.damaged").read_bytes() == damaged
    again.dd.save_historic_predictions_to_disk()
    caplog.clear()
    MtfScalperRLModel(config=config)
    assert "is damaged" not in caplog.text


def test_a_full_disk_leaves_the_history_as_it_was_and_the_bot_running(
    make_config: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config()
    model = MtfScalperRLModel(config=config)
    model.dd.historic_predictions = {PAIR: pd.DataFrame({columns.ACTION: [1.0]})}
    model.dd.save_historic_predictions_to_disk()
    path = folder_of(config) / HISTORY
    kept = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    model.dd.historic_predictions = {}
    model.dd.save_historic_predictions_to_disk()
    monkeypatch.undo()
    said = f"{path}: cannot be written: No space left on device; the one before it stays"
    assert said in caplog.messages
    assert path.read_bytes() == kept
    assert not list(path.parent.glob(".*.part"))
    assert len(MtfScalperRLModel(config=config).dd.historic_predictions[PAIR]) == 1


# Models and predictions of a backtest


def files_that_are_read(folder: Path) -> list[Path]:
    models = [each for each in folder.glob("sub-train-*/cb_*") if each.suffix != ".pkl"]
    return [*models, *folder.glob(f"{PREDICTIONS}/*.feather"), *folder.glob(f"sub-train-*/{LIST}")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_told_and_made_anew(
    damage: Callable[[Path], None],
    done: Any,
    candles: pd.DataFrame,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, again, predicted = done
    folder = folder_of(config)
    paths = files_that_are_read(folder)
    assert len(paths) == 6  # policy, scaling, zip, metadata; predictions; list
    for path in paths:
        damage(path)
        caplog.clear()
        pd.testing.assert_frame_equal(again(), predicted, check_exact=True)
        lines = [line for line in caplog.messages if "anew" in line]
        if path.suffix == ".feather" and damage is Path.unlink:
            continue  # nothing is missed
        is_list_changed = path.name == LIST and damage is flipped
        assert lines[0].startswith(f"{PAIR}: {path.parent if is_list_changed else path}")
        caplog.clear()
        again()
        assert not [line for line in caplog.messages if "anew" in line]


def test_a_window_keeps_its_own_scaling_when_the_one_before_it_is_trained_anew(
    make_config: Any, strategy: IStrategy, candles: pd.DataFrame
) -> None:
    """FreqAI takes that of the window which was trained last (freqtrade 2026.9)."""
    config = make_config(timerange="20240130-20240201")

    def predictions() -> pd.DataFrame:
        model = MtfScalperRLModel(config=config)
        frame = model.start(candles.copy(), {"pair": PAIR}, strategy)
        return frame[list(columns.PREDICTIONS)]

    predicted = predictions()
    first, second = sorted(folder_of(config).glob("sub-train-*"))
    for path in (folder_of(config) / PREDICTIONS).iterdir():
        path.unlink()
    (first / LIST).unlink()
    kept = (second / LIST).read_bytes()
    pd.testing.assert_frame_equal(predictions(), predicted, check_exact=True)
    assert (second / LIST).read_bytes() == kept


@pytest.mark.parametrize(
    "at", ["trained_df", "feature_pipeline", "metadata", "policy", "pairs", "list"]
)
def test_a_full_disk_leaves_no_half_model(
    at: str, open_workshop: OpenWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = open_workshop()
    model = workshop.train()
    workshop.save(model)
    folder = Path(workshop.kitchen.data_path)
    assert workshop.model.model_exists(workshop.kitchen)

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    import freqtrade.freqai.data_drawer as theirs

    from mtf_scalper.freqai import model_folder

    places = {
        "trained_df": (pd.DataFrame, "to_pickle"),
        "feature_pipeline": (cloudpickle, "dump"),
        "metadata": (theirs.rapidjson, "dump"),
        "policy": (model_folder, "write_tensors"),
        "pairs": (Drawer, "save_drawer_to_disk"),
        "list": (model_folder, "write_list"),
    }
    monkeypatch.setattr(*places[at], full)
    with pytest.raises(PathError) as caught:
        workshop.save(model)
    assert "the model cannot be written" in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert not (folder / LIST).exists()
    assert not workshop.model.model_exists(workshop.kitchen)


def test_a_program_that_is_killed_as_it_saves_can_be_run_again(
    make_program: Callable[..., Any], tmp_path: Path
) -> None:
    program = make_program(tmp_path / "killed", is_ready=False)
    words = (*BACKTEST, str(program.folder / "results"))
    models = program.folder / "user_data" / "models" / "mtf_scalper_rl"
    process = program.start(*words)
    while process.poll() is None and not list(models.glob("sub-train-*/*_model.zip")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    killed, *_ = models.glob("sub-train-*/")
    was_whole = (killed / LIST).exists()
    program.run(*words)
    log = " ".join((program.folder / "output.log").read_text().split())  # it is wrapped
    told = "is missing: the files beside it are not complete; the window is trained anew"
    assert (told in log) == (not was_whole)
    for folder in models.glob("sub-train-*/"):
        check_files(folder)


# JSON


@pytest.mark.parametrize("damage", DAMAGES[:3])
@pytest.mark.parametrize("name", [PAIRS, "global_metadata.json", SETTINGS_FILE])
def test_damaged_json_is_told_and_written_anew(
    name: str, damage: Callable[[Path], None], done: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config, again, predicted = done
    path = folder_of(config) / name
    if not path.exists():
        path.write_text('{"start_dry_live_date": 1}')
    kept = path.read_bytes()
    damage(path)
    pd.testing.assert_frame_equal(again(), predicted, check_exact=True)
    assert any(line.startswith(f"{path} is damaged and ") for line in caplog.messages)
    if name == SETTINGS_FILE:
        assert path.read_bytes() == kept
    if name == PAIRS:
        assert json.loads(path.read_text()) == json.loads(kept)


def test_models_of_other_settings_are_not_taken_over_with_a_damaged_settings_file(
    done: Any, make_config: Any, candles: pd.DataFrame, strategy: IStrategy
) -> None:
    config, _, _ = done
    emptied(folder_of(config) / SETTINGS_FILE)
    other = make_config({"freqai": {"rl_config": {"net_arch": [8]}}})
    other["user_data_dir"] = config["user_data_dir"]
    with pytest.raises(OperationalException, match="holds models of unknown settings; choose"):
        MtfScalperRLModel(config=other).start(candles.copy(), {"pair": PAIR}, strategy)


def test_a_folder_that_is_not_there_has_nothing_to_vet(tmp_path: Path) -> None:
    vet(tmp_path / "none", TrustedFiles(tmp_path))
    assert not list(tmp_path.iterdir())
