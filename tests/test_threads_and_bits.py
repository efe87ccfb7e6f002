"""The same policy and the same predictions whatever the number of threads, to the last bit."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markets import walking_market
from torch import nn

from mtf_scalper.ppo.policy import Policy
from mtf_scalper.ppo.products import SteadyLinear, make_steady
from mtf_scalper.ppo.team import Team, team
from mtf_scalper.settings import Settings
from mtf_scalper.training import train

KINDS: dict[str, dict[str, Any]] = {
    "exact": {"train_cycles": 2, "n_seeds": 2},
    "exact, position": {
        "train_cycles": 2,
        "add_state_info": True,
        "rules": {"entry": "any", "max_trade_duration_candles": 8},
    },
    "gae": {"advantage": "gae", "train_cycles": 1, "n_envs": 2, "n_steps": 256, "n_epochs": 2},
    "ppo": {
        "advantage": "gae",
        "algorithm": "ppo",
        "train_cycles": 1,
        "n_envs": 2,
        "n_steps": 256,
        "n_epochs": 1,
    },
}
# Wide enough for products that are shared out, and for those whose sums a library would split.
WIDE = {"net_arch": (256, 128), "window_size": 8, "batch_size": 128, "evidence": 0.0}

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from test_threads_and_bits import digest, trained
import torch
from mtf_scalper.ppo import compute
compute.available_cpus = lambda: 8  # else a machine with one core would train with one thread
for kind in sys.argv[3:]:
    print(kind, digest(trained(kind, int(sys.argv[2]))))
    assert torch.get_num_threads() == int(sys.argv[2])
"""


def trained(kind: str, n_threads: int) -> tuple[Policy, np.ndarray, list[Any]]:
    """Return a policy, its predictions, and what was written down while it learned."""
    market = walking_market(n_candles=500, n_features=40, seed=3)
    settings = Settings(**{**WIDE, **KINDS[kind], "cpu_count": n_threads, "device": "cpu"})
    result = train(market.slice(0, 400), settings, market.slice(400, 500))
    history = [
        (row.steps, row.mean_episode_return, row.validation_log_return) for row in result.history
    ]
    return result.policy, result.policy.probabilities(market.features), history


@functools.cache
def in_one_thread(kind: str) -> tuple[Policy, np.ndarray, list[Any]]:
    """Return the same for tests that do not change it."""
    return trained(kind, 1)


def digest(found: tuple[Policy, np.ndarray, list[Any]]) -> str:
    policy, predictions, history = found
    bits = hashlib.sha256(predictions.tobytes() + repr(history).encode())
    for value in policy.model.policy.state_dict().values():
        bits.update(value.numpy().tobytes())
    return bits.hexdigest()


def test_two_threads_in_a_process_of_their_own_give_the_bits_of_one_thread_here() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), "2", *KINDS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"{kind} {digest(in_one_thread(kind))}" for kind in KINDS]
    assert len({line.split()[-1] for line in done.stdout.splitlines()}) == len(KINDS)


def test_trainings_at_once_learn_what_each_learns_alone() -> None:
    """Torch's and NumPy's generators belong to the process, and each training seeds them."""
    kinds = ["exact", "exact, position", "gae", "ppo"]
    alone = {kind: digest(in_one_thread(kind)) for kind in kinds}
    together: dict[str, str] = {}

    def learn(kind: str) -> None:
        together[kind] = digest(trained(kind, 1))

    threads = [threading.Thread(target=learn, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


@pytest.mark.parametrize("units", [2, 5, 10, 96, 512])
@pytest.mark.parametrize("width", [5, 50, 64, 601])
def test_a_row_has_the_same_bits_in_every_batch(width: int, units: int) -> None:
    """Libraries take other sums for one row than for many; alone, first or last it is the same.

    Torch's own results go by the row's place as well, where units are few and the width is odd.
    """
    torch.manual_seed(0)
    layer = nn.Linear(width, units)
    make_steady(layer)
    assert type(layer) is SteadyLinear
    rows = torch.randn(77, width)
    with torch.no_grad():
        whole = layer(rows)
        assert layer(rows[:0]).shape == (0, units)
        for first, n_rows in ((0, 1), (5, 1), (76, 1), (3, 2), (11, 40), (1, 76)):
            assert torch.equal(layer(rows[first : first + n_rows]), whole[first : first + n_rows])
        torch.testing.assert_close(whole, rows @ layer.weight.t() + layer.bias)


@pytest.mark.parametrize("kind", ["exact", "ppo"])
def test_a_copied_policy_says_the_same(kind: str) -> None:
    policy, _, _ = in_one_thread(kind)
    features = np.random.default_rng(8).standard_normal((60, 40)).astype(np.float32)
    whole = policy.probabilities(features)
    for copied in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        np.testing.assert_array_equal(copied.probabilities(features), whole)


@pytest.mark.parametrize("kind", ["exact", "exact, position"])
def test_predictions_depend_neither_on_the_batch_nor_on_what_else_is_asked(kind: str) -> None:
    policy, predictions, _ = in_one_thread(kind)
    rng = np.random.default_rng(8)
    features = rng.standard_normal((120, 40)).astype(np.float32)
    whole = policy.probabilities(features)
    for size in (1, 7, 120):
        other = Policy(policy.model, policy.settings.changed(inference_batch_size=size))
        np.testing.assert_array_equal(other.probabilities(features), whole)
    state = np.zeros(5, dtype=np.float32)
    for row in (7, 60, 119):
        np.testing.assert_array_equal(policy.probabilities_in(features, row, state), whole[row])
    assert predictions.shape == (500, 5)


def test_gradients_of_a_steady_layer_are_those_of_torch() -> None:
    torch.manual_seed(0)
    steady, plain = nn.Linear(300, 400), nn.Linear(300, 400)
    plain.load_state_dict(steady.state_dict())
    make_steady(steady)
    ours = torch.randn(64, 300, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    (steady(ours) ** 2).sum().backward()
    (plain(theirs) ** 2).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(steady.weight.grad, plain.weight.grad)
    torch.testing.assert_close(steady.bias.grad, plain.bias.grad)


def test_a_team_does_every_job_once_and_leaves_torch_and_no_thread_behind() -> None:
    before, n_alive = torch.get_num_threads(), threading.active_count()
    torch.set_num_threads(3)
    try:
        places = np.zeros(50, dtype=np.int64)
        with team() as outer, team() as inner:
            assert inner is outer
            assert (outer.n_threads, torch.get_num_threads()) == (3, 1)
            for _ in range(20):
                outer.run([lambda i=i: places.__setitem__(i, places[i] + 1) for i in range(50)])
        assert (places == 20).all()
        assert torch.get_num_threads() == 3
        assert threading.active_count() == n_alive
    finally:
        torch.set_num_threads(before)


def test_what_fails_in_another_thread_is_raised_here() -> None:
    here = Team(2)

    def fail() -> None:
        raise ValueError("job 1")

    with pytest.raises(ValueError, match="job 1"):
        here.run([lambda: None, fail])
    here.run([lambda: None, lambda: None])
    here.close()
