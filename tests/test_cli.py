"""The command line as scripts see it: what it calls, what it prints and how it ends."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from mtf_scalper import __version__
from mtf_scalper.cli import app, with_address
from mtf_scalper.exchange.offline_config import DEFAULT_PORT
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.shipped import write_missing

COMMANDS = ("demo", "validate", "parity", "evaluate", "tune", "synth", "exchange", "doctor")
CLI = (sys.executable, "-c", "from mtf_scalper.cli import main; main()")

Invoke = Callable[..., Result]


@pytest.fixture
def invoke() -> Invoke:
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    return lambda *arguments: runner.invoke(app, [str(each) for each in arguments])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Record the calls of the two long commands and let them end with exit code 3."""
    recorded: list[tuple[Any, ...]] = []

    def record(*arguments: Any) -> int:
        recorded.append(arguments)
        return 3

    for name, function in (("demo", "run_demo"), ("validation", "run_validation")):
        module = ModuleType(f"mtf_scalper.runs.{name}")
        setattr(module, function, record)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return recorded


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_options_and_exit_codes(invoke: Invoke, command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "Options" in result.stdout
    for code in ("0 success", "1 the run", "2 the command line", "130 interrupted"):
        assert code in result.stdout


def test_help_lists_every_command(invoke: Invoke) -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", result.stdout)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['mtf-scalper', 'demo', '--help']\n"
        "from mtf_scalper.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'stable_baselines3', 'fastapi', 'freqtrade'}\n"
        "print('imported:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_version(invoke: Invoke) -> None:
    assert invoke("--version").stdout.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("no-such-command",), "no-such-command"),
        (("demo", "--no-such-option"), "--no-such-option"),
        (("parity",), "--timerange"),
        (("parity", "--timerange", "20241001-20241008", "--policy", "clever"), "clever"),
        (("parity", "--timerange", "20241001-20241008", "--train-cycles", "0"), "--train-cycles"),
        (("synth", "--start", "yesterday"), "yesterday"),
        (("synth", "--seed", "-1"), "--seed"),
        (("synth", "--signal-strength", "2"), "--signal-strength"),
        (("exchange", "--port", "70000"), "--port"),
    ],
)
def test_a_command_line_that_is_not_understood_exits_with_2(
    invoke: Invoke, arguments: tuple[str, ...], named: str
) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert named in result.stderr


def test_demo_passes_its_options_and_the_exit_code_on(
    invoke: Invoke, calls: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    assert invoke("demo").exit_code == 3
    given = ("--datadir", tmp_path, "--timerange", "20241001-20241008")
    assert invoke("demo", *given).exit_code == 3
    assert calls == [(None, None), (tmp_path, "20241001-20241008")]


def test_validate_passes_its_options_and_the_exit_code_on(
    invoke: Invoke, calls: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    assert invoke("validate").exit_code == 3
    given = ("--full", "--output", tmp_path / "out", "--datadir", tmp_path)
    assert invoke("validate", *given).exit_code == 3
    assert calls == [(False, None, None), (True, tmp_path / "out", tmp_path)]


def test_parity_passes_its_options_and_the_exit_code_on(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepared, compared = [], []

    @contextmanager
    def offline_arguments(*arguments: Any, **options: Any) -> Iterator[dict[str, Any]]:
        prepared.append((*arguments, options))
        yield {"timerange": arguments[1]}

    def run_parity(arguments: dict[str, Any], policy: str, _console: Any) -> int:
        compared.append((arguments, policy))
        return 3

    module = ModuleType("mtf_scalper.runs.parity_run")
    module.__dict__.update(offline_arguments=offline_arguments, run_parity=run_parity)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    days, config = "20241001-20241008", tmp_path / "mine.json"
    config.write_text("{}", encoding="utf-8")
    assert invoke("parity", "--timerange", days).exit_code == 3
    given = ("--config", config, "--datadir", tmp_path, "--policy", "always-enter")
    more = ("--pairs", "BTC/USDT:USDT", "--pairs", "SOL/USDT:USDT", "--train-cycles", "5")
    assert invoke("parity", "--timerange", days, *given, *more).exit_code == 3
    default = {"datadir": None, "pairs": (), "train_cycles": 2}
    chosen = {"datadir": tmp_path, "pairs": ["BTC/USDT:USDT", "SOL/USDT:USDT"], "train_cycles": 5}
    assert prepared == [
        ([Path("configs/config_rl_hybrid.json")], days, default),
        ([config], days, chosen),
    ]
    assert compared == [({"timerange": days}, "learned"), ({"timerange": days}, "always-enter")]


def test_tune_passes_its_options_on_to_the_search_or_to_the_final_look(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mtf_scalper.runs import project, tuning, tuning_plan

    chosen: list[dict[str, Any]] = []

    def plan_tuning(folder: Path, **options: Any) -> str:
        assert folder == tmp_path
        chosen.append(options)
        return "plan"

    monkeypatch.setattr(project, "find_project", lambda: tmp_path)
    monkeypatch.setattr(tuning_plan, "plan_tuning", plan_tuning)
    monkeypatch.setattr(tuning, "run_search", lambda *given: 3 if given[3] is None else 4)
    monkeypatch.setattr(tuning, "run_final", lambda *_: 5)
    days = ("--timerange", "20241001-20241201")
    space = tmp_path / "space.toml"
    space.write_text("", encoding="utf-8")
    assert invoke("tune", *days).exit_code == 3
    given = ("--study", "mine", "--trials", "7", "--locked", "0.5", "--space", space)
    more = ("--storage", "sqlite:///mine.db", "--seeds", "2", "--jobs", "2", "--planted", "none")
    output = ("--output", tmp_path / "best.json")
    assert invoke("tune", *days, *given, *more, *output).exit_code == 4
    assert invoke("tune", *days, "--final").exit_code == 5
    assert invoke("tune", *days, "--final", *output).exit_code == 2
    first = chosen[0]
    assert (first["name"], first["n_trials"], first["locked"]) == ("tune", 30, 0.25)
    assert (first["timerange"], first["storage"], first["space"]) == (days[1], None, None)
    changed = {name: value for name, value in chosen[1].items() if value != first[name]}
    assert changed == {
        "name": "mine",
        "n_trials": 7,
        "locked": 0.5,
        "space": space,
        "storage": "sqlite:///mine.db",
        "n_seeds": 2,
        "jobs": 2,
        "planted": "none",
    }
    missing = invoke("tune", *days, "--space", tmp_path / "none.toml")
    assert missing.exit_code == 1
    assert "--space" in str(missing.exception)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("evaluate --ray", "evaluate --ray"),
        ("evaluate --ray --jobs 2", "evaluate --ray --jobs 2"),
        ("evaluate --ray auto --jobs 2", "evaluate --ray-address auto --jobs 2"),
        (
            "evaluate --jobs 2 --ray 192.0.2.1:6379",
            "evaluate --jobs 2 --ray-address 192.0.2.1:6379",
        ),
        ("evaluate --ray=auto", "evaluate --ray-address=auto"),
        ("runs show --ray", "runs show --ray"),
    ],
)
def test_ray_takes_an_address_or_none(given: str, expected: str) -> None:
    assert with_address(given.split()) == expected.split()


def test_evaluate_passes_its_options_and_the_exit_code_on(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mtf_scalper.runs import evaluation, evaluation_plan, project

    chosen: list[dict[str, Any]] = []
    taken_up: list[Any] = []

    def plan_evaluation(folder: Path, **options: Any) -> str:
        assert folder == tmp_path
        chosen.append(options)
        return "plan"

    def run_evaluation(plan: str, folder: Path, _console: Any, resumed: Any) -> int:
        assert (plan, folder) == ("plan", tmp_path)
        taken_up.append(resumed)
        return 3

    monkeypatch.setattr(project, "find_project", lambda: tmp_path)
    monkeypatch.setattr(evaluation_plan, "plan_evaluation", plan_evaluation)
    monkeypatch.setattr(evaluation, "run_evaluation", run_evaluation)
    days = ("--timerange", "20241001-20241008")
    assert invoke("evaluate", *days).exit_code == 3
    config = tmp_path / "mine.json"
    config.write_text("{}", encoding="utf-8")
    given = ("--pairs", "SOL/USDT:USDT", "--seeds", "3", "--datadir", tmp_path, "--freqtrade")
    more = ("--train-days", "10", "--test-days", "2", "--embargo-candles", "5", "--jobs", "2")
    assert invoke("evaluate", *days, *given, *more, "--config", config).exit_code == 3
    kinds = ("--planted", "none", "--signal", "0.5", "--market-seed", "4", "--peers", "--ray")
    assert invoke("evaluate", *days, *kinds).exit_code == 3
    record = RunRecord.begin(tmp_path / "user_data" / "runs", "evaluate")
    assert invoke("evaluate", *days, "--ray", "--resume", "latest").exit_code == 3
    assert invoke("evaluate", *days, "--ray-address", "auto").exit_code == 3
    assert [run and run.folder for run in taken_up] == [None, None, None, record.folder, None]
    default = {
        "timerange": days[1],
        "pairs": (),
        "n_seeds": 1,
        "datadir": None,
        "configs": [],
        "with_program": False,
        "planted": None,
        "signal": None,
        "market_seed": 0,
        "train_days": 30,
        "test_days": 7,
        "embargo_candles": None,
        "jobs": None,
        "with_peers": False,
        "on_ray": False,
        "ray_address": None,
    }
    changed = {
        "pairs": ["SOL/USDT:USDT"],
        "n_seeds": 3,
        "datadir": tmp_path,
        "configs": [config],
        "with_program": True,
        "train_days": 10,
        "test_days": 2,
        "embargo_candles": 5,
        "jobs": 2,
    }
    kind = {"planted": "none", "signal": 0.5, "market_seed": 4, "with_peers": True}
    kind["on_ray"] = True
    ray = {"on_ray": True}
    there = {"on_ray": True, "ray_address": "auto"}
    assert chosen == [default, *(default | each for each in (changed, kind, ray, there))]


def test_an_interrupted_command_exits_with_130(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: Any) -> int:
        raise KeyboardInterrupt

    module = ModuleType("mtf_scalper.runs.demo")
    module.__dict__["run_demo"] = interrupted
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert invoke("demo").exit_code == 130


def test_synth_writes_a_market_once(invoke: Invoke, tmp_path: Path) -> None:
    days = ("--start", "2024-10-01", "--end", "2024-10-03", "--pair", "BTC/USDT:USDT")
    first = invoke("synth", "--datadir", tmp_path, *days)
    assert first.exit_code == 0
    assert first.stdout.startswith("wrote BTC/USDT:USDT, 2024-10-01 to 2024-10-03, in ")
    path = tmp_path / "futures" / "BTC_USDT_USDT-5m-futures.feather"
    candles = pd.read_feather(path)
    assert len(candles) == 2 * 288
    written = path.stat().st_mtime_ns

    assert invoke("synth", "--datadir", tmp_path, *days).stdout.startswith("already there: BTC")
    assert path.stat().st_mtime_ns == written

    other = invoke("synth", "--datadir", tmp_path, *days, "--seed", "7", "--signal-strength", "0")
    assert other.stdout.startswith("wrote BTC")
    assert not pd.read_feather(path)["close"].equals(candles["close"])
    assert invoke("synth", "--datadir", tmp_path, *days, "--rewrite").stdout.startswith("wrote")
    pd.testing.assert_frame_equal(pd.read_feather(path), candles)


def test_an_error_is_one_line_that_says_what_is_wrong(tmp_path: Path) -> None:
    done = run("synth", "--datadir", tmp_path, "--pair", "BTCUSDT")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "mtf-scalper: error: pair: 'BTCUSDT' is not a future like 'BTC/USDT:USDT'\n"
    )


def test_a_missing_package_is_one_line_that_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv = ['mtf-scalper', 'exchange']\n"
        "from mtf_scalper.cli import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("mtf-scalper: error: uvicorn is not installed; install it with")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_a_command_without_memory_ends_in_one_line() -> None:
    code = (
        "import resource, numpy, mtf_scalper.cli.program as cli\n"
        "cli.app = lambda _: numpy.ones(2**40)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))\n"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("mtf-scalper: error: there is not enough memory: Unable to allo")
    assert len(done.stderr.splitlines()) == 1


def test_exchange_listens_where_the_offline_configuration_looks(invoke: Invoke) -> None:
    text = invoke("exchange", "--help").stdout
    assert f"[default: {DEFAULT_PORT}]" in text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send Ctrl-C to one process")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_exchange_serves_until_interrupted(tmp_path: Path, how: signal.Signals) -> None:
    days = ("--start", "2024-10-01", "--end", "2024-10-02")
    assert run("synth", "--datadir", tmp_path, *days).returncode == 0
    command = [*CLI, "exchange", "--datadir", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            match = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
            assert match is not None
            url = match.group()
            assert httpx.get(f"{url}/fapi/v1/ping", timeout=30).json() == {}
            server.send_signal(how)
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/fapi/v1/ping", timeout=30)


def test_exchange_without_candles_says_which_folder_is_wanted(tmp_path: Path) -> None:
    done = run("exchange", "--datadir", tmp_path, "--port", "0")
    assert done.returncode == 1
    assert done.stderr.startswith(f"mtf-scalper: error: {tmp_path / 'futures'}: no file like")
    assert len(done.stderr.splitlines()) == 1


def test_doctor_prints_text_or_json_and_fails_without_the_data_asked_for(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = invoke("doctor", "--datadir", tmp_path / "none")
    assert text.stdout.endswith("next: mtf-scalper init\n")
    list(write_missing(tmp_path))
    text = invoke("doctor", "--datadir", tmp_path / "none")
    assert text.stdout.endswith("next: mtf-scalper demo\n")
    assert text.exit_code == 1
    assert "Machine" in text.stdout
    assert "holds no futures candles" in text.stdout

    days = ("--start", "2024-10-01", "--end", "2024-10-02")
    assert invoke("synth", "--datadir", tmp_path, *days).exit_code == 0
    result = invoke("doctor", "--datadir", tmp_path, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == report["exit_code"] == 0
    assert len(report["candles"]) == 10
    assert {finding["level"] for finding in report["findings"]} <= {"slow", "note"}
