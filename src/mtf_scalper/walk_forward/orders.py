"""Windows to learn as tasks of an engine, whose results lie in the record as soon as they exist.

A task is a pair, a window and a seed. It cuts its window out of the pair's candles where it runs,
and returns one block of bytes: arrays and JSON, and nothing that could run. A block is written
whole, under the task's name; a run that is cut off goes on from those that it finds.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from mtf_scalper.engines.tasks import Ended, Engine, TaskError
from mtf_scalper.errors import MtfScalperError, SettingsError
from mtf_scalper.evaluation.importance import Importance
from mtf_scalper.market.stored import RecordedPair
from mtf_scalper.paths import written_whole
from mtf_scalper.records.files import file_stem
from mtf_scalper.settings import Settings
from mtf_scalper.walk_forward.learned_window import LearnedWindow, learn_window, window_task
from mtf_scalper.walk_forward.windows import Window

TASKS: Final = "tasks"
"""Folder of a record with the results of a run that has not ended yet."""
_PEER: Final = "peer "
_FILE: Final = "file "
_WARM_DAYS: Final = 2


@dataclass(frozen=True)
class WindowOrder:
    """A window of a pair to be learned with a seed; plain values only.

    Attributes
    ----------
    pair : str
    window : Window
    seed : int
    settings : Settings
        With the threads of this training.
    with_history, n_shuffles, with_peers, timeframes
        As ``window_task`` and ``WindowTask`` have them.
    keeps_policy : bool
        Whether the policy comes back as files too.
    """

    pair: str
    window: Window
    seed: int
    settings: Settings
    with_history: bool = True
    n_shuffles: int = 0
    with_peers: bool = False
    keeps_policy: bool = False
    timeframes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the task is called, in a record and in messages."""
        return f"{file_stem(self.pair)}-{self.window.name}-{self.seed}"

    def named(self, error: MtfScalperError) -> MtfScalperError:
        """Return why it failed, with its name where the error has none: a killed task's."""
        if not isinstance(error, TaskError):
            return error
        return TaskError(f"{self.pair}, window {self.window.name}, seed {self.seed}: {error}")


@dataclass(frozen=True, eq=False)
class Result:
    """What came of an order.

    Attributes
    ----------
    learned : LearnedWindow
    events : str
        What the training told, a line of JSON each.
    files : mapping of str to bytes
        The kept policy's, by name.
    """

    learned: LearnedWindow
    events: str
    files: Mapping[str, bytes]


def learn_order(recorded: RecordedPair, order: WindowOrder) -> bytes:
    """Cut a window out of a pair, learn it, and return the result as a block of bytes."""
    with tempfile.TemporaryDirectory(prefix="mtf-scalper-") as folder:
        events, kept = Path(folder) / "events", Path(folder) / "kept"
        task = window_task(
            recorded,
            order.window,
            order.settings,
            seed=order.seed,
            with_history=order.with_history,
            events=events,
        )
        task = replace(
            task,
            n_shuffles=order.n_shuffles,
            with_peers=order.with_peers,
            keep_in=kept if order.keeps_policy else None,
            timeframes=order.timeframes,
        )
        learned = learn_window(task)
        files = {path.name: path.read_bytes() for path in kept.glob("*")}
        return packed(Result(learned, events.read_text(encoding="utf-8"), files))


def packed(result: Result) -> bytes:
    """Return a result as the bytes of a zip of arrays."""
    learned = result.learned
    arrays: dict[str, Any] = {
        "probabilities": learned.probabilities,
        **{_PEER + name: each for name, each in learned.peers.items()},
        **{_FILE + name: _bytes(each) for name, each in result.files.items()},
        "events": _bytes(result.events.encode()),
    }
    if learned.tested is not None:
        arrays["tested"] = learned.tested
    if learned.policy is not None:
        arrays["policy"] = _bytes(learned.policy)
    facts = {
        name: getattr(learned, name)
        for name in ("pair", "seed", "first_row", "seconds", "degenerate", "window_size")
    }
    facts["window"] = {name: moment.isoformat() for name, moment in vars(learned.window).items()}
    facts["importance"] = [asdict(each) for each in learned.importance]
    arrays["facts"] = _bytes(json.dumps(facts).encode())
    block = io.BytesIO()
    np.savez(block, **arrays)
    return block.getvalue()


def unpacked(block: bytes) -> Result:
    """Return a result from its bytes.

    Raises
    ------
    ValueError
        If they are cut or damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(block)) as packing:
            # ``packed`` compresses nothing: a small block of gigabytes is none of ours.
            if any(each.compress_type != zipfile.ZIP_STORED for each in packing.infolist()):
                raise ValueError("a result of a task is not compressed")
        with np.load(io.BytesIO(block), allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        facts = json.loads(arrays["facts"].tobytes())
        window = Window(**{name: pd.Timestamp(each) for name, each in facts.pop("window").items()})
        importance = tuple(
            Importance(**{**each, "drops": tuple(each["drops"])})
            for each in facts.pop("importance")
        )
        learned = LearnedWindow(
            **facts,
            window=window,
            importance=importance,
            probabilities=arrays["probabilities"],
            tested=arrays.get("tested"),
            policy=arrays["policy"].tobytes() if "policy" in arrays else None,
            peers=_of_kind(arrays, _PEER),
        )
        files = {name: each.tobytes() for name, each in _of_kind(arrays, _FILE).items()}
        if any(name == ".." or PureWindowsPath(name).name != name for name in files):
            raise ValueError("a file of a result lies in its own folder")
        return Result(learned, arrays["events"].tobytes().decode(), files)
    except (
        *(AttributeError, KeyError, TypeError),  # facts of another form
        *(zipfile.BadZipFile, OSError, EOFError),
        *(RuntimeError, MemoryError),  # too deep, encrypted, or of a shape that no memory holds
    ) as error:
        raise ValueError(str(error)) from error


def _bytes(content: bytes) -> Any:
    return np.frombuffer(content, dtype=np.uint8)


def _of_kind(arrays: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {name.removeprefix(kind): each for name, each in arrays.items() if name.startswith(kind)}


class Results:
    """The results of a run's tasks, a file each; whole or not there.

    A context manager: meanwhile no other program writes into the same record.

    Parameters
    ----------
    record : Path
        The run's folder.

    Raises
    ------
    SettingsError
        On entering, if another program has it.
    """

    def __init__(self, record: Path) -> None:
        self._record = record
        self._folder = record / TASKS
        self._lock = FileLock(self._folder / ".lock", thread_local=False)

    def __enter__(self) -> Self:
        """Keep other programs away."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise SettingsError(
                f"run {self._record.name}: another program goes on with it; end that one first"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        """Let others have it."""
        self._lock.release()

    def write(self, name: str, block: bytes) -> None:
        """Keep a result."""
        with written_whole(self._folder / f"{name}.npz") as part:
            part.write_bytes(block)

    def read(self, name: str) -> Result | None:
        """Return a result, None where there is none, or none that is whole."""
        try:
            return unpacked((self._folder / f"{name}.npz").read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def clear(self) -> None:
        """Remove all: the run has ended, and what they held is in its record."""
        shutil.rmtree(self._folder, ignore_errors=True)


class WindowLearner:
    """Learns orders with an engine, which gets a pair's candles when its first order is due.

    Parameters
    ----------
    engine : Engine
        Has been started.
    recordeds : mapping of str to RecordedPair
        By pair.
    """

    def __init__(self, engine: Engine, recordeds: Mapping[str, RecordedPair]) -> None:
        self._engine = engine
        self._recordeds = recordeds
        self._shared: dict[str, Any] = {}
        self._is_prepared = False

    def run(self, orders: Sequence[WindowOrder]) -> Iterator[Ended]:
        """Yield the end of every attempt; a value is that of ``learn_order``."""
        if orders and not self._is_prepared:
            first = orders[0]
            self._engine.prepare(learn_order, self._share(first.pair), _small(first))
            self._is_prepared = True
        yield from self._engine.run(
            learn_order, ((self._share(each.pair), each) for each in orders)
        )

    def drop(self, pair: str) -> None:
        """Let the engine forget a pair's candles."""
        self._shared.pop(pair, None)

    def _share(self, pair: str) -> Any:
        if pair not in self._shared:
            # No training looks at the candles themselves.
            recorded = replace(
                self._recordeds[pair], candles=self._recordeds[pair].candles.iloc[:0]
            )
            self._shared[pair] = self._engine.share(recorded)
        return self._shared[pair]


def learn_orders(
    learner: WindowLearner,
    orders: Sequence[WindowOrder],
    results: Results,
    *,
    on_done: Callable[[WindowOrder, Result, Ended | None], None],
    on_failed: Callable[[WindowOrder, Ended], None],
) -> list[tuple[WindowOrder, MtfScalperError]]:
    """Learn all windows that have no result yet.

    Parameters
    ----------
    learner : WindowLearner
        Forgets a pair with its last order.
    orders : sequence of WindowOrder
    results : Results
        Has those of before, and gets the new ones.
    on_done : callable
        Called once for every result, those of before first, which have no attempt.
    on_failed : callable
        Called at the end of every attempt that failed.

    Returns
    -------
    list of tuple
        Those that failed for good, and why.
    """
    due: list[WindowOrder] = []
    for order in orders:
        found = results.read(order.name)
        if found is None:
            due.append(order)
        else:
            on_done(order, found, None)
    failed: list[tuple[WindowOrder, MtfScalperError]] = []
    left = Counter(each.pair for each in due)
    for ended in learner.run(due):
        order = due[ended.number]
        if ended.error is None:
            results.write(order.name, ended.value)
            on_done(order, unpacked(ended.value), replace(ended, value=None))
        else:
            on_failed(order, ended)
        if ended.is_last:
            if ended.error is not None:
                failed.append((order, order.named(ended.error)))
            left[order.pair] -= 1
            if not left[order.pair]:
                learner.drop(order.pair)
    return failed


def _small(order: WindowOrder) -> WindowOrder:
    """Return an order that compiles what this one needs, and is learned in no time."""
    begin, days = order.window.train_from, pd.Timedelta(days=_WARM_DAYS)
    window = Window(begin, begin + days, begin + days, begin + days + days)
    settings = order.settings.changed(train_cycles=1)
    return replace(order, window=window, settings=settings, with_peers=False, keeps_policy=False)
