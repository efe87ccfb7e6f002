"""Planted secrets: none of them is in a record, on its page or in the terminal."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mtf_scalper.page.render import write_page
from mtf_scalper.records.events import EventLog
from mtf_scalper.records.reader import Run
from mtf_scalper.records.secrets import command_without_secrets, without_secrets
from mtf_scalper.records.terminal import runs_lines, summary
from mtf_scalper.records.writer import RunRecord

PLANTED = {
    "key": "K3yOfTheExchange0123456789",
    "secret": "S3cretOfTheExchange0123456",
    "password": "Pa55phraseOfTheExchange",
    "jwt_secret_key": "JwtSecretOfTheServer01",
    "ws_token": "WsT0kenOfTheServer0123",
    "token": "123456789:AAHtelegramtokenAAHtelegramtokenAAH",
    "privateKey": "0xPrivateKeyOfTheWallet",
    "walletPassword": "W4lletPassword",
    "db_url": "postgresql://me:D4tabasePassword@host/trades",
}


def texts_of(secrets: dict[str, str]) -> list[str]:
    return [
        *(f"{name}={value}" for name, value in secrets.items() if name not in ("key", "db_url")),
        *(
            f"'{name}': '{value}'"
            for name, value in secrets.items()
            if name not in ("key", "db_url")
        ),
        f"cannot open {secrets['db_url']}",
        f"https://api.telegram.org/bot{secrets['token']}/sendMessage: 401",
        f"{{'name': 'binance', 'key': '{secrets['key']}'}}",
        f"https://fapi.binance.com/fapi/v2/account?timestamp=1&signature={secrets['secret']}",
        f"wss://stream?listenKey={secrets['key']}",
        "Authorization: eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyIjoibWUifQ.c2lnbmF0dXJlc2lnbmF0dXJl",
    ]


def marks(secrets: dict[str, str]) -> list[bytes]:
    database = ["D4tabasePassword", "c2lnbmF0dXJlc2lnbmF0dXJl"]
    return [text.encode() for text in (*secrets.values(), *database)]


def test_planted_secrets_are_in_no_file_of_a_record_and_on_no_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    given: dict[str, Any] = {
        "exchange": PLANTED,
        "telegram": {"token": PLANTED["token"]},
        "api_server": {"deep": [{"password": PLANTED["password"]}]},
    }
    command = ["freqtrade", "trade", "--db-url", PLANTED["db_url"]]
    command += [f"--{name}={value}" for name, value in PLANTED.items() if name != "key"]
    record = RunRecord.begin(
        tmp_path, "live", settings=given, command=command, more={"deep": [PLANTED]}
    )
    for text in texts_of(PLANTED):
        record.events().write("judged", error=text, **{"exchange": PLANTED})
        EventLog(tmp_path / "other.jsonl").write("training_failed", error=text)
        record.append_trades([{"pair": "A/B", "enter_tag": text}])
    record.write_settings(given)
    record.write_json("statistics", {"found": False, "errors": texts_of(PLANTED), **given})
    record.fail("; ".join(texts_of(PLANTED)))
    write_page(record.folder)
    run = Run.open(record.folder)
    console = Console(width=200)
    for table in summary(run):
        console.print(table)
    print("\n".join(runs_lines([run])))
    said = capsys.readouterr().out + caplog.text
    for mark in marks(PLANTED):
        assert mark not in said.encode()
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or mark not in path.read_bytes(), (path, mark)


def test_what_is_no_secret_stays() -> None:
    plain = {
        "key": "",
        "pair": "BTC/USDT:USDT",
        "keys": ["a"],
        "token": 3,
        "began": "2024-10-01T00:00:00+00:00",
        "error": "BTC/USDT:USDT: column 'low' is 0.0 at 2024-03-01 00:05 (2 such rows)",
        "command": "https://github.com/freqtrade/freqtrade",
        "digest": "0123456789abcdef",
    }
    assert without_secrets(plain) == plain
    command = ["mtf-scalper", "evaluate", "--timerange", "20241001-20241101", "--pairs", "A/B"]
    assert command_without_secrets(command) == command
    assert command_without_secrets(["x", "--password", "abc", "--other"]) == [
        *("x", "--password", "***", "--other")
    ]


@pytest.mark.parametrize("password", ["top/mark", "top@mark", "a:top@b/mark"])
def test_a_password_in_an_address_may_hold_what_ends_an_address(password: str) -> None:
    url = f"postgresql://me:{password}@host:5432/db"
    assert without_secrets(f"--storage: {url}") == "--storage: postgresql://***@host:5432/db"
    assert command_without_secrets(["--storage", url])[1] == "postgresql://***@host:5432/db"
