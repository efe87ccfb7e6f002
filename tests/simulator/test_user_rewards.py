from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from mtf_scalper import reward
from mtf_scalper.errors import SettingsError
from mtf_scalper.market.market import Market
from mtf_scalper.rollouts.environments import make_vec_env, open_vec_env
from mtf_scalper.rollouts.vec_env import BatchedVecEnv
from mtf_scalper.settings import Algorithm, RewardName, Settings, VecEnvKind
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.reward_kernels import RewardNotCompiledError
from mtf_scalper.simulator.rewards import Parameters, RewardState
from mtf_scalper.simulator.user_rewards import (
    load_reward,
    reward_digest,
    with_absolute_path,
)
from mtf_scalper.training import train

HEAD = "import math\nimport numpy as np\nfrom mtf_scalper import reward\n"

EVERY_FIELD = (
    HEAD
    + """
from mtf_scalper.simulator.rewards import exit_quality
from mtf_scalper.simulator.types import Action, Side

SCALE = 0.25

def share(part, whole):
    return part / whole

def age(state):
    return share(state.age_candles, state.max_age_candles)

@reward
def mine(state, parameters):
    if not state.is_valid:
        return -2
    if state.action in (Action.LONG_ENTER, Action.SHORT_ENTER):
        return 1.0 + 0.1 * state.action
    if state.side_before == Side.SHORT and state.side_after != Side.SHORT:
        return math.exp(-age(state)) + state.worst_profit
    if state.closed:
        return exit_quality(state, parameters)
    best = np.sqrt(max(0.0, state.best_profit)) / parameters.profit_aim
    return SCALE * math.tanh(best) + state.log_return + parameters.rr * state.profit
"""
)

STATE = RewardState(
    action=0,
    is_valid=True,
    side_before=1,
    side_after=1,
    log_return=0.25,
    closed=False,
    profit=0.0,
    best_profit=0.0,
    worst_profit=0.0,
    age_candles=3,
    max_age_candles=300,
)
PARAMETERS = Parameters(1.0, 0.025, 2.0)

WriteReward = Callable[..., str]


@reward
def of_this_file(state: RewardState, parameters: Parameters) -> float:
    return state.log_return * parameters.rr


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteReward:
    """Return a writer of ``my_rewards.py`` in the working directory; it returns the name."""
    monkeypatch.chdir(tmp_path)

    def write(body: str, *, head: str = HEAD + "@reward\ndef mine(state, parameters):\n") -> str:
        Path("my_rewards.py").write_text(head + body, encoding="utf-8")
        return "my_rewards.py:mine"

    return write


@pytest.fixture
def market(make_market) -> Market:
    return make_market(n_candles=300, volatility=0.02, leverage=5.0)


def error_of(build: Callable[[], object]) -> str:
    with pytest.raises(SettingsError) as caught:
        build()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("reward: ")
    return message


def test_batched_rewards_equal_reference_rewards(written, market, tiny_settings) -> None:
    assert all(f"state.{name}" in EVERY_FIELD for name in RewardState._fields)
    rules = {"entry": "any", "stoploss": -0.3, "max_trade_duration_candles": 9}
    aims = {"rr": 3.0, "profit_aim": 0.1}
    settings = tiny_settings(
        reward=written(EVERY_FIELD, head=""), rules=rules, reward_parameters=aims
    )
    rows = [3, 50, 120, 200]
    batched = BatchedVecEnv(market, settings, rows)
    references = [ReferenceEnv(market, settings, first_row=row) for row in rows]
    batched.reset()
    for reference in references:
        reference.reset()
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(400):
        actions = np.where(rng.random(4) < 0.4, rng.integers(0, 5, 4), 0)
        _, rewards, dones, _ = batched.step(actions)
        for env, reference in enumerate(references):
            _, expected, terminated, _, _ = reference.step(int(actions[env]))
            assert batched.outcome["reward"][env] == pytest.approx(expected, rel=1e-12, abs=1e-12)
            assert rewards[env] == np.float32(batched.outcome["reward"][env])
            assert dones[env] == terminated
            seen.add(round(expected, 9))
            if terminated:
                reference.reset()
    assert {-2.0, 1.1, 1.3} < seen
    assert len(seen) > 100


def test_it_is_compiled_once_and_says_so(written, market, tiny_settings, caplog) -> None:
    settings = tiny_settings(reward=written("    return 1\n"))
    with caplog.at_level(logging.INFO, logger="mtf_scalper"):
        for _ in range(2):
            make_vec_env(market, settings)
    compiling, compiled = [record.getMessage() for record in caplog.records]
    assert compiling == "compiling reward 'mine' (my_rewards.py, line 4)"
    assert re.fullmatch(r"compiled in \d+\.\d s", compiled)


def test_an_edited_file_gives_the_edited_reward(written, market, tiny_settings) -> None:
    digests = set()
    for value in (1.0, 2.0):  # written within a moment, with the same size
        settings = tiny_settings(reward=written(f"    return {value}\n"))
        digests.add(reward_digest(settings))
        with open_vec_env(market, settings) as env:
            env.reset()
            assert env.step(np.zeros(2))[1].tolist() == [value, value]
        assert ReferenceEnv(market, settings)._reward(STATE, PARAMETERS) == value
    assert len(digests) == 2
    assert reward_digest(Settings()) is None


def test_a_module_of_a_package_may_import_its_neighbours(tmp_path, monkeypatch) -> None:
    package = tmp_path / "package_of_rewards"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "aims.py").write_text("AIM = 0.5\n", encoding="utf-8")
    lines = "from .aims import AIM\n@reward\ndef mine(state, parameters):\n    return AIM\n"
    (package / "growth.py").write_text(HEAD + lines, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    name = "package_of_rewards.growth:mine"
    assert load_reward(name)(STATE, PARAMETERS) == 0.5
    assert with_absolute_path(name) == name
    for missing in ("package_of_rewards.groth", "no_such_package.growth"):
        message = error_of(lambda place=missing: load_reward(f"{place}:mine"))
        assert message.startswith(f"reward: no module '{missing}', of '{missing}:mine'")


def test_a_file_may_hold_a_dataclass(written) -> None:
    head = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        + HEAD
        + "@dataclass\nclass Aim:\n    value: float\n"
        + "AIM = Aim(2.0).value\n@reward\ndef mine(state, parameters):\n"
    )
    assert load_reward(written("    return AIM\n", head=head))(STATE, PARAMETERS) == 2.0


def test_a_decorated_function_becomes_its_name() -> None:
    settings = Settings(reward=of_this_file)
    assert isinstance(settings.reward, str)
    assert settings.reward.endswith(":of_this_file")
    assert load_reward(settings.reward)(STATE, PARAMETERS) == 0.25
    assert of_this_file(STATE, PARAMETERS) == 0.25


def test_a_reward_in_the_running_program_is_taken_from_there(written, monkeypatch) -> None:
    name = written("    return 1.5\n")
    main = ModuleType("__main__")
    main.__file__ = str(Path("my_rewards.py").resolve())
    source = Path("my_rewards.py").read_text(encoding="utf-8")
    exec(compile(source, main.__file__, "exec"), main.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert Settings(reward=main.mine).reward == f"{main.__file__}:mine"
    assert load_reward(name).function is main.mine


def test_a_program_that_would_run_again_is_refused(written, market, tiny_settings) -> None:
    runs = (
        "from mtf_scalper.simulator.user_rewards import load_reward\n"
        "load_reward('my_rewards.py:mine')\n"
    )
    settings = tiny_settings(reward=written("    return 1.0\n" + runs), vec_env="subproc")
    message = error_of(lambda: make_vec_env(market, settings))
    assert message.startswith("reward: my_rewards.py runs when it is loaded for its reward; put ")


@pytest.mark.usefixtures("no_child_left")
def test_processes_load_it_from_the_file(written, market, tiny_settings) -> None:
    """They start in the folder that this program started in, which is another one."""
    name = written("    return state.log_return - 1.0\n")
    assert with_absolute_path(name) == f"{Path('my_rewards.py').resolve()}:mine"
    settings = tiny_settings(reward=name, n_envs=1, start_method="spawn")
    rewards = []
    for kind in (VecEnvKind.SUBPROC, VecEnvKind.DUMMY):
        with open_vec_env(market, settings.changed(vec_env=kind)) as env:
            env.reset()
            steps = [env.step(np.array([action]))[1] for action in (1, 0)]
            rewards.append(np.concatenate(steps).astype(np.float32).tolist())
    assert rewards[0] == rewards[1]
    assert all(-1.5 < value < -0.5 for value in rewards[0])


def nested() -> Callable[[RewardState, Parameters], float]:
    @reward
    def inner(state: RewardState, parameters: Parameters) -> float:
        return 1.0

    return inner


def typed_in() -> Callable[[RewardState, Parameters], float]:
    scope: dict[str, Callable[[RewardState, Parameters], float]] = {}
    exec(compile("def typed(state, parameters): return 1.0", "<stdin>", "exec"), scope)
    return reward(scope["typed"])


def with_one_argument(state: RewardState) -> float:
    return state.profit


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: reward(abs), "@reward goes above a plain function, not builtin_function_or_"),
        (lambda: reward(with_one_argument), r"\) needs two arguments: (state, parameters)"),
        (lambda: Settings(reward=with_one_argument), "'with_one_argument' is not decorated; "),
        (lambda: Settings(reward=nested()), "is defined inside another function or class"),
        (lambda: Settings(reward=typed_in()), "'typed' was not defined in a file"),
    ],
)
def test_what_cannot_be_a_reward_is_refused(build, message) -> None:
    assert message.removeprefix("\\") in error_of(build)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ny = = 2\n", "my_rewards.py, line 2: SyntaxError: invalid syntax"),
        ("x = 1\n\ny = 1 / 0\n", "my_rewards.py, line 3: ZeroDivisionError: division by zero"),
        ("import nothing_of_this_name\n", "my_rewards.py, line 1: ModuleNotFoundError: No module"),
        ("import sys\nsys.exit(3)\n", "my_rewards.py, line 2: SystemExit: 3"),
        ("x = 1\n", "my_rewards.py has no function 'mine'; nor any under @reward"),
        (
            HEAD + "@reward\ndef first(state, parameters):\n    return 1.0\n",
            "my_rewards.py has no function 'mine'; under @reward it has: first",
        ),
        (
            "def mine(state, parameters):\n    return 1.0\n",
            "'mine' in my_rewards.py is not decorated; write @reward (from mtf_scalper import",
        ),
    ],
)
@pytest.mark.parametrize("vec_env", ["batched", "dummy"])
def test_a_file_without_the_reward_is_told_by_line(
    source, message, vec_env, written, market, tiny_settings
) -> None:
    settings = tiny_settings(reward=written(source, head=""), vec_env=vec_env)
    told = error_of(lambda: make_vec_env(market, settings))
    assert told.startswith(f"reward: {message}")


def test_a_missing_file_is_named(written) -> None:
    message = error_of(lambda: load_reward("my_reward.py:mine"))
    assert message.startswith("reward: no file 'my_reward.py', of 'my_reward.py:mine'; relative to")


NOT_COMPILED = [
    ("    x = 1\n    return state.proft\n", 7, "Unknown attribute 'proft' of type RewardState"),
    ("    return state.profit + 'a'\n", 6, "No implementation of function Function(<built-in"),
    ("    return LISTS['a']\nLISTS = {'a': 1}\n", 6, "Untyped global name 'LISTS'"),
    ("    return nowhere(state)\n", 6, "NameError: name 'nowhere' is not defined"),
    ("\n    import os\n    return os.getpid()\n", 7, "Use of unsupported opcode (IMPORT_NAME)"),
    ("    return helper(state)\ndef helper(s):\n    return s.proft\n", 8, "Unknown attribute"),
    ("    if state.closed:\n        return 1.0\n", 4, "it has to return a number in every case"),
]


@pytest.mark.parametrize(("body", "line", "reason"), NOT_COMPILED)
def test_what_cannot_be_compiled_is_told_by_line(
    body, line, reason, written, market, tiny_settings
) -> None:
    settings = tiny_settings(reward=written(body))
    with pytest.raises(RewardNotCompiledError):
        make_vec_env(market, settings)
    message = error_of(lambda: make_vec_env(market, settings))
    place = f"reward: 'mine' (my_rewards.py, line {line}) cannot be compiled: {reason}"
    assert message.startswith(place)
    assert message.endswith(
        "; change it, or set allow_uncompiled_reward: true to run the slow reference environments"
    )


def test_a_helper_in_another_file_is_told_by_its_own(written, market, tiny_settings) -> None:
    Path("helpers_of_rewards.py").write_text("def helper(x):\n    return x + 'a'\n", "utf-8")
    head = "import sys\nsys.path.insert(0, '.')\nfrom helpers_of_rewards import helper\n"
    ends = "sys.path.remove('.')\nfrom mtf_scalper import reward\n@reward\n"
    name = written("def mine(state, parameters): return helper(state.profit)\n", head=head + ends)
    message = error_of(lambda: make_vec_env(market, tiny_settings(reward=name)))
    assert message.startswith("reward: 'mine' (helpers_of_rewards.py, line 2) cannot be compiled:")


UNCOMPILED = "    return {'a': state.log_return}.get('a', [])\n"


def test_uncompiled_it_runs_only_where_that_is_allowed(
    written, market, tiny_settings, caplog
) -> None:
    settings = tiny_settings(reward=written(UNCOMPILED))
    with pytest.raises(RewardNotCompiledError):
        make_vec_env(market, settings)

    def warnings() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.levelno >= logging.WARNING]

    assert warnings() == []
    env = make_vec_env(market, settings.changed(allow_uncompiled_reward=True))
    assert isinstance(env, DummyVecEnv)
    (warning,) = warnings()
    assert "(my_rewards.py, line 6) cannot be compiled: " in warning.getMessage()
    assert warning.getMessage().endswith("they run: ten times slower than batched ones, or more")
    env.reset()
    plain = make_vec_env(market, settings.changed(reward="log_return", vec_env="dummy"))
    plain.reset()
    rewards = env.step(np.array([1, 3]))[1]
    assert rewards.tolist() == plain.step(np.array([1, 3]))[1].tolist() != [0.0, 0.0]


def test_reference_environments_need_no_permission(written, market, tiny_settings) -> None:
    settings = tiny_settings(reward=written(UNCOMPILED), vec_env=VecEnvKind.DUMMY)
    assert isinstance(make_vec_env(market, settings), DummyVecEnv)


def test_permission_changes_nothing_for_a_reward_that_compiles(
    written, market, tiny_settings
) -> None:
    settings = tiny_settings(reward=written("    return 1.0\n"), allow_uncompiled_reward=True)
    assert isinstance(make_vec_env(market, settings), BatchedVecEnv)


FAILING = [
    ("    return math.inf\n", "line 4): it returned inf, which is no finite 32-bit number"),
    ("    return -1e300\n", "line 4): it returned -1e+300, which is no finite 32-bit number"),
    ("    x = 1.0\n    return x / state.profit\n", "line 9): ZeroDivisionError: float division"),
    ("    return math.log(-1.0 + state.profit)\n", "line 8): ValueError: "),
]


@pytest.mark.parametrize(("body", "message"), FAILING)
def test_a_failing_reward_is_told_with_its_state(
    body, message, written, market, tiny_settings
) -> None:
    """The second environment fails, in the first step; the first one has entered a trade."""
    name = written("    if state.side_after:\n        return 0.0\n" + body)
    told = {}
    for kind in (VecEnvKind.BATCHED, VecEnvKind.DUMMY):
        env = make_vec_env(market, tiny_settings(reward=name, vec_env=kind))
        env.reset()
        told[kind] = error_of(lambda env=env: env.step(np.array([1, 2])))
    assert told["batched"].startswith(f"reward: 'mine' (my_rewards.py, {message}")
    assert "; state: RewardState(action=2, is_valid=False, side_before=" in told["batched"]
    without_enums = re.sub(r"<Side.\w+: (-?\d)>", r"\1", told["dummy"])
    assert told["batched"] == without_enums


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1.0 / CONSTANT[0]\nCONSTANT = np.zeros(1)\n", "it raised ZeroDivisionError: "),
        ("CONSTANT[0]\nCONSTANT = np.full(1, np.nan)\n", "it returned no finite 32-bit number; "),
    ],
)
def test_a_failure_of_the_compiled_function_alone_is_told(
    body, message, written, market, tiny_settings
) -> None:
    """Constants are those of the time when it was compiled."""
    body = f"    if state.action == 0:\n        return 0.0\n    return {body}"
    settings = tiny_settings(reward=written(body))
    env = make_vec_env(market, settings)
    plain = load_reward(settings.reward)
    plain.function.__globals__["CONSTANT"][0] = 1.0
    assert plain(STATE._replace(action=2), PARAMETERS) == 1.0
    env.reset()
    told = error_of(lambda: env.step(np.array([0, 2])))
    assert told.startswith(f"reward: 'mine' (my_rewards.py, line 4): compiled, {message}")
    assert "; state: RewardState(action=2, " in told


def test_training_on_batched_and_reference_environments_is_the_same(
    written, make_market, tiny_settings
) -> None:
    market = make_market(n_candles=128)
    name = written("    return 100.0 * state.log_return - 0.01 * state.closed\n")
    assert name not in list(RewardName)
    weights = []
    for kind in (VecEnvKind.BATCHED, VecEnvKind.DUMMY):
        settings = tiny_settings(reward=name, vec_env=kind, algorithm=Algorithm.PPO)
        weights.append(train(market, settings).policy.model.policy.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    plain = train(market, tiny_settings(algorithm=Algorithm.PPO)).policy.model.policy.state_dict()
    assert not all(torch.equal(weights[0][key], plain[key]) for key in plain)
