"""A freqtrade program that fails, is interrupted or loses an environment."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mtf_scalper.runs.program import (
    BacktestOutcome,
    BacktestRequest,
    BacktestRun,
    RunError,
    merged,
    run_backtest,
)
from mtf_scalper.runs.watched import watched_command

MakeRequest = Callable[..., BacktestRequest]

FAILS = """
print("2024-01-01 00:00:00,000 - freqtrade - ERROR - rl_config: n_enws is none of its options")
print("2024-01-01 00:00:00,000 - freqtrade - INFO - the end")
raise SystemExit(2)
"""


@pytest.mark.usefixtures("no_child_left")
def test_the_last_error_of_a_program_that_fails_is_that_of_the_run(
    make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What freqtrade says of a refused setting: tests/freqai/test_errors_in_program.py."""
    command = [sys.executable, "-S", "-c", FAILS]
    monkeypatch.setattr("mtf_scalper.runs.program.watched_command", lambda _: command)
    said = r"^freqtrade ended with exit code 2: rl_config: n_enws is none .*freqtrade\.log\)$"
    with pytest.raises(RunError, match=said):
        run_backtest(make_request("refused"))


def training(run: BacktestRun) -> bool:
    """Say whether environments are open right now."""
    names = [event["event"] for event in run.events()]
    return "progress" in names and "training_finished" not in names


@pytest.mark.usefixtures("no_child_left")
def test_an_interrupted_run_leaves_no_process(make_request: MakeRequest) -> None:
    tree: list[psutil.Process] = []

    def interrupt(run: BacktestRun) -> None:
        if training(run):
            root = psutil.Process(run.process.pid)
            tree.extend([root, *root.children(recursive=True)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_backtest(make_request("interrupted", train_cycles=1000), interrupt)
    assert len(tree) >= 3
    _, alive = psutil.wait_procs(tree, timeout=10.0)
    assert alive == []


@pytest.mark.usefixtures("no_child_left")
def test_a_killed_environment_ends_the_run_with_its_reason(make_request: MakeRequest) -> None:
    tree: list[psutil.Process] = []

    def kill_one(run: BacktestRun) -> None:
        if training(run) and not tree:
            root = psutil.Process(run.process.pid)
            children = root.children(recursive=True)
            tree.extend([root, *children])
            # Started last, and so an environment and no helper of Python's.
            max(children, key=lambda child: child.create_time()).kill()

    with pytest.raises(RunError, match=r"BTC/USDT:USDT: .*environment process"):
        run_backtest(make_request("killed", train_cycles=1000), kill_one)
    _, alive = psutil.wait_procs(tree, timeout=10.0)
    assert alive == []


SECRETS = ("K3yOfTheExchange", "Pa55phrase", "S1gnature0123456789", "T0kenOfABot", "D4tabase")
SAYS = """
import logging
logging.basicConfig(format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
log = logging.getLogger("freqtrade.exchange")
config = {"apiKey": "K3yOfTheExchange", "password": "Pa55phrase"}
log.warning("Applying additional ccxt config: %s", config)
log.warning("%s", {"key": "K3yOfTheExchange"})
try:
    raise OSError("GET https://api/v3/account?timestamp=1&signature=S1gnature0123456789")
except OSError as error:
    log.exception("binance %s", error)
log.error("cannot open postgresql://me:D4tabase@host/x")
raise SystemExit(2)
"""


def test_no_secret_is_in_what_a_program_leaves_in_a_record(
    make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What freqtrade logs of ``ccxt_config`` in the real program: the last test."""
    (tmp_path / "says.py").write_text(SAYS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr(
        "mtf_scalper.runs.program.watched_command",
        lambda _: watched_command([sys.executable, "-m", "says"]),
    )
    request = make_request("secretive")
    over = {"exchange": {"key": SECRETS[0]}, "telegram": {"token": SECRETS[3]}}
    request = replace(request, overrides=merged(request.overrides, over))
    with pytest.raises(RunError) as caught:
        run_backtest(request)
    log = request.log.read_text(encoding="utf-8")
    assert len(re.findall(r"\*\*\*", log)) >= 6
    assert "Traceback (most recent call last)" in log
    told = [path.read_text(encoding="utf-8") for path in request.folder.iterdir()]
    for secret in SECRETS:
        assert not [text for text in (*told, str(caught.value)) if secret in text]


def test_freqtrades_own_log_of_an_exchange_has_no_secret(
    make_request: MakeRequest,
    run_ready_backtest: Callable[[BacktestRequest], BacktestOutcome],
) -> None:
    request = make_request(
        "exchange-told", train_period_dayz=1
    )  # ends it once the exchange is there
    config = request.project / "configs" / "config_rl_hybrid.json"
    whole = config.read_text(encoding="utf-8")
    told = json.loads(whole)
    told["exchange"] |= {"ccxt_config": {"password": SECRETS[1]}, "key": SECRETS[0]}
    config.write_text(json.dumps(told), encoding="utf-8")
    try:
        with pytest.raises(RunError, match="train_period_dayz"):
            run_ready_backtest(request)
    finally:
        config.write_text(whole, encoding="utf-8")
    log = request.log.read_text(encoding="utf-8")
    assert "Applying additional ccxt config" in log
    assert not [secret for secret in SECRETS if secret in log]
