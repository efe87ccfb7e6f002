"""A training beside a bot that trades."""

import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from freqtrade.freqai.freqai_interface import IFreqaiModel

from mtf_scalper.freqai.giving_way import give_way
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.freqai.waiting import WaitingPairs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority here")


@pytest.fixture(autouse=True)
def _switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def in_thread(work: list[int]) -> None:
    thread = threading.Thread(target=lambda: work.append(niceness()))
    thread.start()
    thread.join()


def test_a_training_and_the_threads_it_starts_have_a_lower_priority_than_trading() -> None:
    before = niceness()
    found: list[int] = []

    def train() -> None:
        give_way()
        found.append(niceness())
        in_thread(found)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [max(before, 10)] * 2
    assert niceness() == before
    assert sys.getswitchinterval() == pytest.approx(0.0005)


def test_a_running_bots_training_gives_way_and_says_that_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Any] = []
    model: Any = object.__new__(MtfScalperRLModel)
    model.dd = SimpleNamespace(pair_dict={"BTC/USDT:USDT": {}})
    model._waiting = WaitingPairs(deque())
    model.is_training = False

    def train(self: IFreqaiModel, *_: Any) -> None:
        found.extend([niceness(), model.is_training])
        raise ValueError("told, and tried again")

    monkeypatch.setattr(IFreqaiModel, "extract_data_and_train_model", train)
    arguments: list[Any] = [None, "BTC/USDT:USDT", None, None, None]
    thread = threading.Thread(target=lambda: model.extract_data_and_train_model(*arguments))
    thread.start()
    thread.join()
    assert found == [max(niceness(), 10), True]
    assert model.is_training is False
