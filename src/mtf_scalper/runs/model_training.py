"""``mtf-scalper train``: FreqAI's models of a period, trained as tasks and put where it looks.

Every task lets the unmodified ``freqtrade backtesting`` run over the whole period, for one pair,
and train one window of it alone: features depend on the first candle that the program has, and
what it trains on is what it would train on by itself. A task brings its own copy of all that the
program reads, so that it can run on any machine.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from mtf_scalper.engines.cluster import RayCluster
from mtf_scalper.engines.processes import LocalProcesses
from mtf_scalper.engines.tasks import Ended, Engine
from mtf_scalper.errors import MtfScalperError, SettingsError
from mtf_scalper.freqai.config import check_identifier, made_by, read_settings, trade_rules
from mtf_scalper.freqai.model import ONLY_WINDOW
from mtf_scalper.freqai.model_folder import check_model, moved_to
from mtf_scalper.freqai.offline import OfflineExchange
from mtf_scalper.freqai.one_program import hold
from mtf_scalper.freqai.vetting import PAIRS, newest_models
from mtf_scalper.kept_files import KeptFilesError, read_list, write_json
from mtf_scalper.lifetimes import CPUS_VARIABLE
from mtf_scalper.market.pairs import check_linear
from mtf_scalper.market.stored import read_candles
from mtf_scalper.paths import check_folder, user_data, written_whole
from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.progress import TaskBar
from mtf_scalper.records.events import EVENTS_FILE, SETTINGS_FILE
from mtf_scalper.records.files import file_stem
from mtf_scalper.records.manifest import datadir_digests
from mtf_scalper.records.secrets import without_secrets
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.program import (
    MODEL,
    STRATEGY,
    BacktestRequest,
    RunError,
    merged,
    run_backtest,
)
from mtf_scalper.runs.project import page_or_reason, shown
from mtf_scalper.runs.recipe_reader import load_model_class, load_strategy
from mtf_scalper.settings import Settings
from mtf_scalper.walk_forward.task_log import TaskLog
from mtf_scalper.walk_forward.windows import Window, parse_timerange, rolling_windows

KIND: Final = "train"
_FACES: Final = ("strategies", "freqaimodels")
_FILES: Final = ("config_files", "add_config_files")
"""Names of files in a loaded configuration, which holds their content."""
_ENVIRONMENT: Final = "FREQTRADE__"
"""How the variables begin that freqtrade lays over its configuration."""
Files = Mapping[str, bytes]
"""Content by path, relative to a folder, with slashes."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Which models are trained.

    Attributes
    ----------
    project : Path
    datadir : Path
    timerange : str
        Of the backtest that is to find them, ``YYYYMMDD-YYYYMMDD``.
    config : mapping
        The whole configuration as the user wrote it: the shipped one with others and freqtrade's
        environment variables laid over it, without secrets.
    settings : Settings
    makers : mapping
        What the models depend on besides; see ``made_by``.
    jobs : int
        Trainings at a time.
    on_ray : bool
    ray_address : str or None
        As ``EvaluationPlan`` has them.
    """

    project: Path
    datadir: Path
    timerange: str
    config: Mapping[str, Any]
    settings: Settings
    makers: Mapping[str, Any]
    jobs: int = 1
    on_ray: bool = False
    ray_address: str | None = None

    @property
    def pairs(self) -> list[str]:
        """Of the configuration."""
        return list(self.config["exchange"]["pair_whitelist"])

    @property
    def identifier(self) -> str:
        """FreqAI's."""
        return str(self.config["freqai"]["identifier"])

    @property
    def models(self) -> Path:
        """Where FreqAI looks for them."""
        return user_data(self.project) / "models" / self.identifier

    @property
    def corr_pairs(self) -> list[str]:
        """Pairs whose candles go into the features of all others."""
        features = self.config["freqai"].get("feature_parameters", {})
        return list(features.get("include_corr_pairlist", []))

    def windows(self) -> list[Window]:
        """Return FreqAI's windows."""
        freqai = self.config["freqai"]
        return rolling_windows(
            *parse_timerange(self.timerange),
            train_days=int(freqai["train_period_days"]),
            test_days=int(freqai["backtest_period_days"]),
        )

    def engine(self) -> Engine:
        """Return what runs the trainings; not started yet."""
        if self.on_ray:
            return RayCluster(self.ray_address, jobs=self.jobs)
        return LocalProcesses(self.jobs)


@dataclass(frozen=True)
class ModelOrder:
    """A model to be trained; plain values only."""

    pair: str
    window: Window
    seed: int
    timerange: str
    identifier: str
    threads: int

    @property
    def trained(self) -> int:
        """When its training's candles end, seconds since 1970: FreqAI's name of the window."""
        return int(self.window.train_to.timestamp())

    @property
    def folder(self) -> str:
        """FreqAI's name of its folder."""
        return f"sub-train-{self.pair.split('/')[0]}_{self.trained}"


def plan_training(
    project: Path,
    *,
    timerange: str,
    datadir: Path | None = None,
    pairs: Sequence[str] = (),
    configs: Sequence[Path] = (),
    jobs: int | None = None,
    on_ray: bool = False,
    ray_address: str | None = None,
) -> TrainingPlan:
    """Read configuration, strategy and model as freqtrade does.

    Raises
    ------
    MtfScalperError
        If freqtrade refuses the configuration, would take a pair out of its list or has no candles
        of it, or options do not go together.
    """
    if ray_address is not None and jobs is not None:
        raise SettingsError("--jobs: the cluster at --ray ADDRESS has as many as it has CPUs")
    datadir = (datadir or user_data(project) / "data" / "binance").resolve()
    check_folder(datadir, "--datadir")
    shipped = project / "configs" / "config_rl_hybrid.json"
    loaded, strategy = load_strategy(
        (shipped, *configs), user_data(project), datadir, STRATEGY, MODEL
    )
    makers = made_by(loaded, strategy, load_model_class(user_data(project), MODEL))
    settings = read_settings(loaded, trade_rules(loaded, strategy))
    written = {k: each for k, each in loaded["original_config"].items() if k not in _FILES}
    config = without_secrets(written)
    if pairs:
        config = merged(config, {"exchange": {"pair_whitelist": list(dict.fromkeys(pairs))}})
    _check_pairs(loaded, config["exchange"]["pair_whitelist"], datadir)
    if not config["freqai"].get("save_backtest_models", False):
        raise SettingsError(
            "freqai.save_backtest_models: without it FreqAI looks for no models; set it to true"
        )
    return TrainingPlan(
        project=project,
        datadir=datadir,
        timerange=timerange,
        config=config,
        settings=settings,
        makers=makers,
        jobs=jobs or available_cpus(),
        on_ray=on_ray,
        ray_address=ray_address,
    )


def _check_pairs(config: dict[str, Any], pairs: Iterable[str], datadir: Path) -> None:
    """Refuse pairs that no program can train, before the first one is started."""
    exchange = OfflineExchange(config)
    for pair in pairs:
        check_linear(pair)
        exchange.check_pair(pair)
        read_candles(
            datadir,
            pair,
            str(config["timeframe"]),
            data_format=config.get("dataformat_ohlcv", "feather"),
        )


def run_training(plan: TrainingPlan, console: Console) -> int:
    """Train all models that are not there yet, and leave a run record.

    Returns
    -------
    int
        0, or 1 where a model could not be trained: the record and the last lines name it.

    Raises
    ------
    MtfScalperError
        If another program uses the identifier, or its folder holds models of other settings.
    """
    seed, threads = plan.settings.random_state, plan.engine().threads
    orders = [
        ModelOrder(pair, window, seed, plan.timerange, plan.identifier, threads)
        for pair in plan.pairs
        for window in plan.windows()
    ]
    holder = _Holder()
    hold(plan.models, holder)
    due = [each for each in orders if not _is_there(plan.models / each.folder)]
    if len(due) < len(orders) or (plan.models / SETTINGS_FILE).exists():
        check_identifier(plan.models, plan.settings, plan.makers)
    record = RunRecord.begin(
        user_data(plan.project) / "runs",
        KIND,
        settings=plan.settings,
        pairs=plan.pairs,
        seeds=[seed],
        timerange=plan.timerange,
        datadir=plan.datadir,
        data_digest=datadir_digests(
            plan.datadir, plan.pairs, timeframe=str(plan.config["timeframe"])
        ),
        identifier=plan.identifier,
    )
    failed: dict[ModelOrder, MtfScalperError] = {}
    with record:
        with TaskBar("training models", len(orders), console) as bar, plan.engine() as engine:
            log = TaskLog(record, engine, bar)
            bar.advance_by(before=len(orders) - len(due))
            for order, ended in _trained(plan, engine, due):
                if ended.error is not None:
                    log.failed(order, ended)
                    if ended.is_last:
                        failed[order] = ended.error
                    continue
                events = _keep(plan, order, ended.value)
                log.done(order, events, replace(ended, value=None))
        write_json(plan.models / PAIRS, newest_models(plan.models))
        verdict = f"{len(due) - len(failed)} models trained, {len(orders) - len(due)} there before"
        if failed:
            verdict += f", {len(failed)} failed"
        record.finish(verdict, {"models": plan.models})
    console.print(verdict, markup=False, highlight=False, style="bold")
    for order, error in failed.items():
        line = f"failed: {order.pair}, window from {order.window.name}: {error}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"models  {shown(plan.models, plan.project)}", soft_wrap=True)
    console.print(f"page    {page_or_reason(record.folder, plan.project)}", soft_wrap=True)
    return int(bool(failed))


class _Holder:
    """Keeps the identifier for as long as it lives."""


def _trained(
    plan: TrainingPlan, engine: Engine, due: Sequence[ModelOrder]
) -> Iterable[tuple[ModelOrder, Ended]]:
    """Yield how each attempt at a training ended; candles are shared pair by pair."""
    shared: dict[str, Any] = {}

    def files_of(pair: str) -> Any:
        if pair not in shared:
            shared.clear()  # orders come pair by pair
            shared[pair] = engine.share(_files(plan, pair))
        return shared[pair]

    for ended in engine.run(train_model, ((files_of(each.pair), each) for each in due)):
        yield due[ended.number], ended


def train_model(files: Files, order: ModelOrder) -> dict[str, bytes]:
    """Let freqtrade train one window here; return the files of its model and its settings.

    Parameters
    ----------
    files : mapping of str to bytes
        Of the project: configurations, strategies, models, and the candles below ``data``.
    order : ModelOrder

    Raises
    ------
    RuntimeError
        If the program fails, or has not trained the window.
    """
    with tempfile.TemporaryDirectory(prefix="mtf-scalper-") as folder:
        project = Path(folder)
        for name, content in files.items():
            path = project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        request = BacktestRequest(
            project=project,
            folder=project / "user_data" / "runs" / "train",
            datadir=project / "data",
            timerange=order.timerange,
            overrides={
                "exchange": {"pair_whitelist": [order.pair]},
                "freqai": {"rl_config": {"progress_bar": False}},
            },
            name=order.identifier,
        )
        with _only(order):
            try:
                run_backtest(request)
            except RunError as error:
                # It may have been killed: what becomes of it is for the engine to say.
                raise RuntimeError(error.reason) from None
        model = request.models / order.folder
        if not _is_there(model):
            raise RuntimeError(f"freqtrade has trained no {order.folder}")
        found = {f"{order.folder}/{path.name}": path.read_bytes() for path in model.iterdir()}
        return {**found, SETTINGS_FILE: (request.models / SETTINGS_FILE).read_bytes()}


def _keep(plan: TrainingPlan, order: ModelOrder, files: Files) -> str:
    """Put a model where FreqAI looks for it, whole or not at all; return its events.

    Raises
    ------
    SettingsError
        If the folder holds models of other settings.
    """
    settings = plan.models / SETTINGS_FILE
    if settings.is_file() and settings.read_bytes() != files[SETTINGS_FILE]:
        raise SettingsError(
            f"freqai.identifier: {plan.identifier!r} holds models made with other settings; choose "
            "a new identifier or delete its folder under user_data/models"
        )
    if not settings.is_file():
        with written_whole(settings) as part:
            part.write_bytes(files[SETTINGS_FILE])
    target = plan.models / order.folder
    part = plan.models / f".{order.folder}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for name, content in files.items():
        if name.startswith(f"{order.folder}/"):
            (part / name.rpartition("/")[2]).write_bytes(content)
    moved_to(target, part)
    return files[f"{order.folder}/{EVENTS_FILE}"].decode()


def _is_there(folder: Path) -> bool:
    try:
        return bool(check_model(folder, read_list(folder)["model"]))
    except (KeptFilesError, KeyError):
        return False


def _files(plan: TrainingPlan, pair: str) -> dict[str, bytes]:
    """Return all files that the program reads for a pair."""
    found = {"configs/config_rl_hybrid.json": json.dumps(dict(plan.config)).encode()}
    for face in _FACES:
        for path in sorted((user_data(plan.project) / face).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                relative = path.relative_to(user_data(plan.project)).as_posix()
                found[f"user_data/{relative}"] = path.read_bytes()
    stems = tuple(f"{file_stem(each)}-" for each in (pair, *plan.corr_pairs))
    for path in sorted(plan.datadir.rglob("*")):
        if path.is_file() and path.name.startswith(stems):
            found[f"data/{path.relative_to(plan.datadir).as_posix()}"] = path.read_bytes()
    return found


@contextmanager
def _only(order: ModelOrder) -> Iterator[None]:
    """Let the programs that this process starts train one window alone, with so many threads.

    What freqtrade's own variables say is in the configuration; they would be laid over the task's.
    """
    before = {name: each for name, each in os.environ.items() if name.startswith(_ENVIRONMENT)}
    ours = {ONLY_WINDOW: str(order.trained), CPUS_VARIABLE: str(order.threads)}
    before |= {name: os.environ[name] for name in ours if name in os.environ}
    for name in before:
        del os.environ[name]
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
        os.environ.update(before)
