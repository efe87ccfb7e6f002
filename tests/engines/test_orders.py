"""The same bits whoever learned a window; and a run that was cut off does nothing twice."""

import io
import json
from dataclasses import fields, replace

import engine_work
import numpy as np
import pytest

from mtf_scalper.engines.processes import LocalProcesses
from mtf_scalper.errors import MtfScalperError, SettingsError, UntrainableError
from mtf_scalper.evaluation.importance import Importance
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.walk_forward.learned_window import LearnedWindow, learn_window, window_task
from mtf_scalper.walk_forward.orders import (
    Result,
    Results,
    WindowLearner,
    WindowOrder,
    learn_orders,
    packed,
    unpacked,
)
from mtf_scalper.walk_forward.sources import PlantedPairs, goes_on_without
from mtf_scalper.walk_forward.windows import parse_timerange, rolling_windows

PAIR = "planted-linear"
SETTINGS = Settings(
    net_arch=(16,),
    train_cycles=2,
    window_size=5,
    cpu_count=1,
    device="cpu",
    evidence=0.0,
    add_state_info=True,  # checkpoints travel as well
    rules=TradeRules(entry=EntryMode.ANY, max_trade_duration_candles=48),
)


@pytest.fixture(scope="module")
def windows():
    days = parse_timerange("20240201-20240203")
    return rolling_windows(*days, train_days=3, test_days=1, embargo_candles=50)


@pytest.fixture(scope="module")
def recorded(windows):
    return PlantedPairs("linear", 1).load(PAIR, windows)


@pytest.fixture(scope="module")
def orders(windows):
    return [
        WindowOrder(PAIR, window, seed, SETTINGS, keeps_policy=True)
        for seed in (1, 2)
        for window in windows
    ]


class Told:
    """Hears what ``learn_orders`` tells."""

    def __init__(self):
        self.results, self.attempts, self.failures = {}, [], []

    def done(self, order, result, ended):
        assert order.name not in self.results
        self.results[order.name] = result
        if ended is not None:
            self.attempts.append(order.name)

    def failed(self, order, ended):
        self.failures.append((order.name, str(ended.error), ended.is_last))


def learned_by(engine, recordeds, orders, folder):
    told = Told()
    with Results(folder) as results:
        failed = learn_orders(
            WindowLearner(engine, recordeds),
            orders,
            results,
            on_done=told.done,
            on_failed=told.failed,
        )
    return told, failed


@pytest.fixture(scope="module")
def alone(recorded, orders, tmp_path_factory):
    with LocalProcesses(1) as engine:
        return learned_by(engine, {PAIR: recorded}, orders, tmp_path_factory.mktemp("alone"))[0]


def same(left, right):
    """Compare two learned windows, all but how long it took."""
    for field in fields(left):
        ours, theirs = getattr(left, field.name), getattr(right, field.name)
        if field.name == "seconds":
            continue
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        elif field.name == "policy":
            assert len(ours) == len(theirs)
        else:
            assert ours == theirs


def policies_of(result):
    """Return what stands beside the weights: their digest, the scaling, the window."""
    found = {name: each for name, each in result.files.items() if name.endswith(".json")}
    assert len(found) == len(result.files) - 1 == 1
    return found


@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_results_are_the_same_bits_whoever_made_them(
    kind, recorded, orders, alone, tmp_path, request
):
    if kind == "ray":
        told, failed = learned_by(
            request.getfixturevalue("cluster"), {PAIR: recorded}, orders, tmp_path
        )
    else:
        with LocalProcesses(2) as engine:
            told, failed = learned_by(engine, {PAIR: recorded}, orders, tmp_path)
    assert failed == told.failures == []
    for order in orders:
        same(told.results[order.name].learned, alone.results[order.name].learned)
        assert policies_of(told.results[order.name]) == policies_of(alone.results[order.name])


@pytest.mark.usefixtures("alone")  # it has compiled what a training needs
@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_arrays_of_a_store_are_neither_copied_nor_compiled_for_again(
    kind, recorded, orders, request
):
    """They are read-only, which is another type to numba, and one that Market has everywhere."""
    with LocalProcesses(2) as processes:
        engine = processes if kind == "processes" else request.getfixturevalue("cluster")
        calls = [(engine.share(recorded), orders[0])]
        found = [each.value for each in engine.run(engine_work.learned_from, calls)]
    assert found == [([], False)]


def test_they_are_those_of_the_window_learned_here(recorded, orders, alone):
    order = orders[0]
    task = window_task(recorded, order.window, order.settings, seed=order.seed)
    same(alone.results[order.name].learned, learn_window(task))
    assert '"event": "training_finished"' in alone.results[order.name].events


def test_what_is_there_is_not_learned_again(recorded, orders, alone, tmp_path):
    with Results(tmp_path) as results:
        for name, result in list(alone.results.items())[:2]:
            results.write(name, packed(result))
        # As a disk that was full may leave it.
        third = orders[2].name
        results.write(third, packed(alone.results[third])[:-100])
    with LocalProcesses(1) as engine:
        told, _ = learned_by(engine, {PAIR: recorded}, orders, tmp_path)
    assert told.attempts == [each.name for each in orders[2:]]
    for name, result in told.results.items():
        same(result.learned, alone.results[name].learned)


def test_a_task_that_fails_is_named_and_the_rest_goes_on(recorded, orders, tmp_path):
    late = replace(orders[0].window, test_to=orders[0].window.test_from)
    broken = replace(orders[0], window=late, seed=9)
    with LocalProcesses(1) as engine:
        told, failed = learned_by(engine, {PAIR: recorded}, [broken, orders[0]], tmp_path)
    ((order, error),) = failed
    assert order is broken
    assert isinstance(error, UntrainableError)
    assert told.attempts == [orders[0].name]
    assert told.failures == [(broken.name, str(error), True)]


def test_a_second_program_on_the_same_record_is_refused(tmp_path):
    with (
        Results(tmp_path),
        pytest.raises(SettingsError, match="another program goes on with it"),
        Results(tmp_path),
    ):
        pass
    with Results(tmp_path) as results:
        pass
    results.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_block_brings_back_all_that_it_was_made_of(alone, orders):
    learned = replace(
        alone.results[orders[0].name].learned,
        importance=(Importance("%-body", 0.1, -0.2, 1 / 3, (0.1, 0.7)),),
        peers={"ridge": np.ones((3, 3), dtype=np.int8)},
        degenerate="never trades",
    )
    found = unpacked(packed(Result(learned, "{}\n", {"a": b"\0b"})))
    assert (found.events, found.files) == ("{}\n", {"a": b"\0b"})
    np.testing.assert_array_equal(found.learned.peers["ridge"], learned.peers["ridge"])
    assert found.learned.policy == learned.policy
    same(replace(found.learned, peers={}), replace(learned, peers={}))


@pytest.mark.parametrize("name", ["../a", "/a", "b/a", "..\\\\a", "C:a", ".."])
def test_a_result_whose_file_would_leave_its_folder_is_none(windows, name):
    learned = LearnedWindow(
        pair=PAIR,
        window=windows[0],
        seed=1,
        first_row=0,
        probabilities=np.ones((3, 3, 5), dtype=np.float32),
        seconds=1.0,
        degenerate=None,
        window_size=5,
    )
    assert unpacked(packed(Result(learned, "", {"a.zip": b""}))).files == {"a.zip": b""}
    with pytest.raises(ValueError, match="lies in its own folder"):
        unpacked(packed(Result(learned, "", {name: b""})))


@pytest.mark.parametrize("facts", [3, "a", [], {"window": []}, {"window": {}, "importance": 3}])
def test_a_result_of_another_form_is_learned_again(tmp_path, facts):
    block = io.BytesIO()
    np.savez(block, facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8))
    with Results(tmp_path) as results:
        results.write("odd", block.getvalue())
        assert results.read("odd") is None


def test_a_compressed_result_is_not_unpacked(tmp_path):
    block = io.BytesIO()
    np.savez_compressed(block, facts=np.zeros(1_000_000, dtype=np.uint8))
    with pytest.raises(ValueError, match="is not compressed"):
        unpacked(block.getvalue())
    with Results(tmp_path) as results:
        results.write("bomb", block.getvalue())
        assert results.read("bomb") is None


@pytest.mark.parametrize(
    ("error", "mode", "goes_on"),
    [
        (UntrainableError("short"), "leave_out", True),
        (MtfScalperError("killed"), "leave_out", True),
        (MtfScalperError("killed"), "fail", False),
    ],
)
def test_whether_a_run_goes_on_is_said_by_the_setting(error, mode, goes_on):
    assert goes_on_without(error, SETTINGS.changed(untrainable_pairs=mode)) is goes_on
