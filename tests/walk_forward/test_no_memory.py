"""Workers that get no memory, or are ended from outside: one line says so, and the rest goes on."""

import os
import pickle
import re
import signal
import sys

import numpy as np
import psutil
import pytest

from mtf_scalper.engines.processes import LocalProcesses
from mtf_scalper.engines.tasks import TaskError
from mtf_scalper.errors import MemoryLackError
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.walk_forward.learned_window import (
    LearnedWindow,
    WindowTask,
    learn_window,
    window_task,
)
from mtf_scalper.walk_forward.sources import PlantedPairs
from mtf_scalper.walk_forward.windows import parse_timerange, rolling_windows

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")


def starve(spare_bytes: int) -> None:
    """Let this process have no more than some memory beside what it has."""
    import resource

    most = psutil.Process().memory_info().vms + spare_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def starved(task: WindowTask, is_second: bool) -> LearnedWindow:
    """Learn; the second gets no memory at all once it begins."""
    if is_second:
        starve(0)
    return learn_window(task)


def greedy(task: WindowTask, is_second: bool) -> LearnedWindow:
    """Learn; the second asks for more memory than its process may have."""
    if is_second:
        starve(2**28)
        np.ones(2**30, dtype=np.uint8)
    return learn_window(task)


def killed(task: WindowTask, is_second: bool) -> LearnedWindow:
    """Learn; the second's process is ended by the system, as where no memory is left."""
    if is_second:
        os.kill(os.getpid(), signal.SIGKILL)
    return learn_window(task)


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


@pytest.mark.usefixtures("no_child_left")
@pytest.mark.parametrize(
    ("work", "message"),
    [
        (starved, ".*"),
        (greedy, r"\w*MemoryError: Unable to allocate .*"),
        (killed, r"its process was ended from outside, .* choose fewer --jobs, .*"),
    ],
)
def test_a_worker_without_memory_is_told_and_nothing_is_left(tasks, work, message) -> None:
    calls = [(task, number == 1) for number, task in enumerate(tasks)]
    with LocalProcesses(2) as engine:
        last = {each.number: each for each in engine.run(work, calls) if each.is_last}
    assert last[0].error is None
    assert isinstance(last[0].value, LearnedWindow)
    assert isinstance(last[1].error, TaskError)
    assert re.fullmatch(message, str(last[1].error))


def test_the_error_names_what_for_and_survives_a_process() -> None:
    for error in (MemoryError(), RuntimeError("x: you tried to\nallocate memory")):
        with pytest.raises(MemoryLackError) as caught, MemoryLackError.named("here", "do that"):
            raise error
        told = str(pickle.loads(pickle.dumps(caught.value)))
        assert re.fullmatch(r"here: there is not enough memory( \(.*\))?; do that", told)
    with pytest.raises(RuntimeError, match="else"), MemoryLackError.named("here", "do that"):
        raise RuntimeError("something else")
