"""Workers that get no memory, or are ended from outside: one line that names the window."""

import multiprocessing
import os
import pickle
import re
import signal
import sys
from dataclasses import dataclass

import numpy as np
import psutil
import pytest

from mtf_scalper.engines.tasks import TaskError
from mtf_scalper.errors import MemoryLackError
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.walk_forward.learned_window import WindowTask, window_task
from mtf_scalper.walk_forward.sources import PlantedPairs
from mtf_scalper.walk_forward.walk import learn_windows
from mtf_scalper.walk_forward.windows import parse_timerange, rolling_windows

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
SECOND = "planted-linear, 20240202, seed 0"


def starve(spare_bytes: int) -> None:
    """Let this process have no more than some memory beside what it has."""
    import resource

    most = psutil.Process().memory_info().vms + spare_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


@dataclass(frozen=True, eq=False)
class StarvedTask(WindowTask):
    """One whose process gets no memory at all, once it begins to learn."""

    @property
    def pair(self) -> str:
        if is_learning():
            starve(0)
        return super().pair


@dataclass(frozen=True, eq=False)
class GreedyTask(WindowTask):
    """One that asks for more memory than its process may have."""

    @property
    def pair(self) -> str:
        if is_learning():
            starve(2**28)
            np.ones(2**30, dtype=np.uint8)
        return super().pair


@dataclass(frozen=True, eq=False)
class KilledTask(WindowTask):
    """One whose process the system ends, as it does where no memory is left."""

    @property
    def pair(self) -> str:
        if is_learning():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pair


def is_learning() -> bool:
    """Return whether a worker's training asks: the label is asked for in both processes."""
    frame = sys._getframe(2)
    return multiprocessing.parent_process() is not None and frame.f_code.co_name == "learn_window"


@pytest.fixture(scope="module")
def tasks() -> list[WindowTask]:
    settings = Settings(
        net_arch=(16,),
        train_cycles=2,
        window_size=5,
        cpu_count=1,
        device="cpu",
        evidence=0.0,
        policy_inputs="features",
        rules=TradeRules(entry=EntryMode.ANY, max_trade_duration_candles=48),
    )
    begin, end = parse_timerange("20240201-20240203")
    windows = rolling_windows(begin, end, train_days=3, test_days=1, embargo_candles=0)
    recorded = PlantedPairs("linear", 1).load("planted-linear", windows)
    return [window_task(recorded, each, settings, seed=0) for each in windows]


def changed(task: WindowTask, kind: type[WindowTask]) -> WindowTask:
    return kind(**{name: getattr(task, name) for name in WindowTask.__dataclass_fields__})


@pytest.mark.usefixtures("no_child_left")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (StarvedTask, rf"{SECOND}: .*"),
        (GreedyTask, rf"{SECOND}: \w*MemoryError: Unable to allocate .*"),
        (KilledTask, rf"{SECOND}: its process was ended from outside, .* choose fewer --jobs, .*"),
    ],
)
def test_a_worker_without_memory_is_named_and_nothing_is_left(tasks, kind, message) -> None:
    with pytest.raises(TaskError) as caught:
        learn_windows([tasks[0], changed(tasks[1], kind)], 2, jobs=2)
    assert re.fullmatch(message, str(caught.value))


def test_the_error_names_what_for_and_survives_a_process() -> None:
    for error in (MemoryError(), RuntimeError("x: you tried to\nallocate memory")):
        with pytest.raises(MemoryLackError) as caught, MemoryLackError.named("here", "do that"):
            raise error
        told = str(pickle.loads(pickle.dumps(caught.value)))
        assert re.fullmatch(r"here: there is not enough memory( \(.*\))?; do that", told)
    with pytest.raises(RuntimeError, match="else"), MemoryLackError.named("here", "do that"):
        raise RuntimeError("something else")
