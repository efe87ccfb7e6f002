from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from mtf_scalper.errors import MarketError, SettingsError, WorkerDiedError
from mtf_scalper.rollouts.environments import first_rows, make_vec_env, open_vec_env
from mtf_scalper.rollouts.process_env import EnvFactory, ProcessVecEnv

PAIR = "SOL/USDT:USDT"
START_METHODS = [None, "spawn"]


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.fixture
def market(make_market):
    return make_market(n_candles=200, volatility=0.01, pair=PAIR)


@pytest.fixture
def in_processes(tiny_settings):
    return tiny_settings(vec_env="subproc")


@pytest.mark.parametrize(
    ("n_candles", "window", "n_envs", "expected"),
    [
        (101, 1, 4, [0, 25, 50, 75]),
        (8641, 10, 8, [9, 1087, 2166, 3245, 4324, 5403, 6482, 7561]),
        (12, 10, 1, [9]),
        # Fewer rows than environments: they share.
        (12, 10, 4, [9, 9, 10, 10]),
    ],
)
def test_first_rows_are_spread_evenly(n_candles, window, n_envs, expected) -> None:
    rows = first_rows(n_candles, window, n_envs)
    assert rows == expected
    assert all(window - 1 <= row < n_candles - 1 for row in rows)


def test_environments_see_different_stretches(market, tiny_settings) -> None:
    with open_vec_env(market, tiny_settings(vec_env="dummy", n_envs=4)) as env:
        observations = env.reset()
    rows = first_rows(200, 4, 4)
    assert len(set(rows)) == 4
    for observation, row in zip(observations, rows, strict=True):
        window = market.features[row - 3 : row + 1]
        np.testing.assert_array_equal(observation[:-5], window.ravel())


def test_unstaggered_environments_start_on_the_first_row(market, tiny_settings) -> None:
    env = make_vec_env(market, tiny_settings(vec_env="dummy"), n_envs=3, staggered=False)
    observations = env.reset()
    env.close()
    assert len(observations) == 3
    for observation in observations:
        np.testing.assert_array_equal(observation[:-5], market.features[:4].ravel())


def test_random_starts_are_seeded_by_rank(market, tiny_settings) -> None:
    """First episodes are staggered; later ones start at random, each environment its own way."""

    def starts(seed: int) -> list[list[int]]:
        settings = tiny_settings(
            vec_env="dummy", n_envs=2, random_state=seed, randomize_starting_position=True
        )
        env = make_vec_env(market, settings)
        assert isinstance(env, DummyVecEnv)
        env.reset()
        rows = []
        for _ in range(8):
            env.envs[0].reset(), env.envs[1].reset()
            rows.append([inner.unwrapped.row for inner in env.envs])
        env.close()
        return rows

    assert starts(5) == starts(5)
    assert starts(5) != starts(6)
    first, second = zip(*starts(5), strict=True)
    assert first != second
    # Environment 1 of seed 5 has the seed of environment 0 of seed 6.
    assert second == next(zip(*starts(6), strict=True))


def test_dummy_environments_run_in_this_process(market, tiny_settings) -> None:
    before = children()
    with open_vec_env(market, tiny_settings(vec_env="dummy", n_envs=3, batch_size=64)) as env:
        assert type(env) is DummyVecEnv
        assert env.num_envs == 3
        assert children() == before


def play(env: Any, n_steps: int) -> list[Any]:
    """Step with seeded actions; everything that came back."""
    rng = np.random.default_rng(0)
    record: list[Any] = [env.reset().tolist()]
    for _ in range(n_steps):
        observations, rewards, dones, infos = env.step(rng.integers(0, 5, env.num_envs))
        facts = [
            {
                key: value.tolist() if isinstance(value, np.ndarray) else value
                for key, value in info.items()
            }
            for info in infos
        ]
        # stable-baselines3's dummy keeps rewards as float32, its processes as float64.
        rewards = np.asarray(rewards, dtype=np.float32)
        record.append((observations.tolist(), rewards.tolist(), dones.tolist(), facts))
    return record


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.usefixtures("no_child_left")
def test_processes_give_what_one_process_gives(start_method, market, tiny_settings) -> None:
    """Step by step over the ends of episodes, later ones starting at random."""
    settings = tiny_settings(
        vec_env="dummy",
        n_envs=1 if start_method == "spawn" else 2,  # each of those loads torch for itself
        randomize_starting_position=True,
        rules={"entry": "any", "stoploss": -0.05, "minimal_roi": {0: 0.02}},
    )
    with open_vec_env(market, settings) as env:
        expected = play(env, 450)
    assert sum(any(dones) for _, _, dones, _ in expected[1:]) >= 2
    assert sum("trade" in info for *_, infos in expected[1:] for info in infos) > 10
    before = children()
    env = make_vec_env(market, settings.changed(vec_env="subproc", start_method=start_method))
    by_default = "SpawnProcess" if sys.platform == "win32" else "ForkServerProcess"
    kinds = {type(process).__name__ for process in env.processes}
    workers = [psutil.Process(process.pid) for process in env.processes]
    actual = play(env, 450)
    env.close()
    assert kinds == {"SpawnProcess" if start_method == "spawn" else by_default}
    assert actual == expected
    assert not any(worker.is_running() for worker in workers)
    assert children() == before
    env.close()


def test_a_start_method_that_does_not_exist_is_refused_with_those_that_do(
    market, in_processes
) -> None:
    before = children()
    with pytest.raises(SettingsError) as caught:
        ProcessVecEnv([EnvFactory(market, in_processes, 3)], "fork-bomb")
    assert str(caught.value).startswith("start_method: 'fork-bomb' does not exist here; valid: ")
    assert "spawn" in str(caught.value)
    assert children() == before


def test_a_market_that_cannot_be_traded_starts_no_process(make_market, in_processes) -> None:
    before = children()
    with pytest.raises(MarketError, match=r"^SOL/USDT:USDT: 5 candles are too few"):
        make_vec_env(make_market(n_candles=5, pair=PAIR), in_processes)
    assert children() == before


@pytest.mark.usefixtures("no_child_left")
def test_environments_have_processes_of_their_own_and_close_in_any_order(
    market, in_processes
) -> None:
    """All processes of a program share Python's fork server, and whoever started it."""
    first = make_vec_env(market, in_processes)
    second = make_vec_env(market, in_processes)
    assert type(first) is ProcessVecEnv
    pids = {process.pid for env in (first, second) for process in env.processes}
    assert len(pids) == 4
    assert os.getpid() not in pids
    assert pids <= {child.pid for child in children()}
    first.close()
    assert second.reset().shape == (2, 4 * 3 + 5)
    second.step(np.zeros(2, dtype=int))
    second.close()


@pytest.fixture(scope="module")
def server_runs(make_market, tiny_settings) -> Iterator[None]:
    """Keep Python's fork server, which has to load torch, for the tests that come from here on.

    It lives as long as any environment does. That it ends with the last one is tested above.
    """
    kept = make_vec_env(make_market(), tiny_settings(vec_env="subproc", n_envs=1))
    yield
    kept.close()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.usefixtures("server_runs", "no_child_left")
def test_after_an_exception_no_process_is_left(error, market, in_processes) -> None:
    def interrupted() -> None:
        with open_vec_env(market, in_processes) as env:
            env.reset()
            # Left with an answer outstanding.
            env.step_async(np.zeros(2, dtype=int))
            workers.extend(psutil.Process(process.pid) for process in env.processes)
            raise error("in the middle of it")

    workers: list[psutil.Process] = []
    with pytest.raises(error, match="in the middle"):
        interrupted()
    assert len(workers) == 2
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.usefixtures("server_runs", "no_child_left")
def test_a_worker_killed_in_mid_run_is_reported_and_the_others_end(market, in_processes) -> None:
    env = make_vec_env(market, in_processes)
    workers = [psutil.Process(process.pid) for process in env.processes]
    env.reset()
    env.step(np.zeros(2, dtype=int))
    workers[1].kill()
    env.processes[1].join(10)

    def step_on() -> None:
        for _ in range(3):
            env.step(np.zeros(2, dtype=int))

    try:
        with pytest.raises(WorkerDiedError) as caught:
            step_on()
    finally:
        env.close()
    exit_code = 15 if sys.platform == "win32" else -9
    assert str(caught.value) == (
        f"{PAIR}: environment process 1 (pid {workers[1].pid}) ended during training "
        f"with exit code {exit_code}; the training was stopped"
    )
    assert not any(worker.is_running() for worker in workers)


class _Fails:
    """An environment that cannot be built."""

    def __call__(self) -> Any:
        raise SystemExit(3)


@pytest.mark.usefixtures("server_runs", "no_child_left")
def test_a_worker_that_dies_before_it_is_ready_is_reported(market, in_processes) -> None:
    factories = [_Fails(), EnvFactory(market, in_processes, 3)]
    with pytest.raises(WorkerDiedError) as caught:
        ProcessVecEnv(factories, label=PAIR)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(f"{PAIR}: environment process 0 (pid ")
    assert message.endswith("ended before it was ready with exit code 3; the training was stopped")


class _HasNoMemory:
    """An environment that asks for more memory than any machine has."""

    def __call__(self) -> Any:
        return np.ones(2**58)


@pytest.mark.usefixtures("no_child_left")
def test_a_worker_without_memory_says_so_in_one_line(
    market, in_processes, capfd: pytest.CaptureFixture[str]
) -> None:
    factories = [EnvFactory(market, in_processes, 3), _HasNoMemory()]
    with pytest.raises(WorkerDiedError, match=rf"^{PAIR}: environment process 1 .* before it was"):
        ProcessVecEnv(factories, "spawn", label=PAIR)  # type: ignore[arg-type]
    (line,) = [each for each in capfd.readouterr().err.splitlines() if each]
    assert line.startswith("an environment process: there is not enough memory (Unable to allo")


SCRIPT = """
import numpy as np
import psutil
from mtf_scalper import Market, Settings
from mtf_scalper.rollouts.environments import open_vec_env

print("started")
rng = np.random.default_rng(0)
prices = 100.0 * np.exp(np.cumsum(0.002 * rng.standard_normal(100)))
market = Market(
    features=rng.standard_normal((100, 3)),
    ohlc=np.stack([prices, 1.001 * prices, 0.999 * prices, prices], 1),
)
for method in (None, "spawn"):
    settings = Settings(advantage="gae", n_envs=1, n_steps=32, batch_size=32, window_size=4,
        vec_env="subproc", start_method=method, rules={"entry": "any"})
    with open_vec_env(market, settings) as env:
        env.reset()
        env.step(np.zeros(1, dtype=int))
    print("stepped, left", psutil.Process().children(recursive=True))
"""


def test_a_script_without_a_main_guard_can_start_processes(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["started", *2 * ["stepped, left []"]]


KILLED = """
import sys, threading
import numpy as np
from mtf_scalper import Market, Settings
from mtf_scalper.rollouts.environments import make_vec_env

if __name__ == "__main__":
    rng = np.random.default_rng(0)
    prices = 100.0 * np.exp(np.cumsum(0.002 * rng.standard_normal(100)))
    market = Market(
        features=rng.standard_normal((100, 3)),
        ohlc=np.stack([prices, 1.001 * prices, 0.999 * prices, prices], 1),
    )
    method = None if sys.argv[1] == "None" else sys.argv[1]
    settings = Settings(advantage="gae", n_envs=int(sys.argv[3]), n_steps=32, batch_size=32,
        window_size=4, vec_env="subproc", start_method=method, rules={"entry": "any"})
    env = make_vec_env(market, settings)
    env.reset()
    open(sys.argv[2], "w").close()
    while True:  # the first worker steps, the other one waits
        env.remotes[0].send(("step", 0))
        env.remotes[0].recv()
"""


@pytest.mark.parametrize(("start_method", "n_envs"), [(None, 2), ("spawn", 1)])
def test_whatever_kills_a_training_its_processes_end(
    start_method, n_envs, tmp_path: Path, kill_when
) -> None:
    """Workers that step and that wait, fork server and resource tracker."""
    script, ready = tmp_path / "killed.py", tmp_path / "ready"
    script.write_text(KILLED, encoding="utf-8")
    command = [sys.executable, "-W", "ignore", str(script), str(start_method), str(ready)]
    seen, left = kill_when([*command, str(n_envs)], lambda _: ready.exists())
    assert len(seen) >= n_envs + 1
    assert left == []
