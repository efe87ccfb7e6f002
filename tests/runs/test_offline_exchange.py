"""What the replay exchange cannot stand for is refused in one line that names the key or pair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.market.pairs import check_linear
from mtf_scalper.runs.parity_run import offline_arguments

INVERSE = (
    "BTC/USD:BTC: settles in BTC and not in USD; coin-margined contracts are not simulated "
    "(freqtrade does not trade them either), take BTC/USDT:USDT, say"
)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"exchange": {"name": "bybit"}}, "exchange.name: the replay exchange is binance's and "),
        ({"exchange": {"name": "okx"}}, "exchange.name: .*; run freqtrade itself, which asks okx"),
        ({"trading_mode": "spot"}, "trading_mode: the replay exchange has futures and no spot "),
        ({"exchange": {"pair_whitelist": ["BTC/USD:BTC"]}}, "BTC/USD:BTC: settles in BTC "),
    ],
)
def test_what_the_replay_exchange_does_not_have_is_named(
    config: dict[str, object],
    line: str,
    project: Path,
    tiny_datadir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project)
    path = tmp_path / "user.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    shipped = project / "configs" / "config_rl_hybrid.json"
    given = offline_arguments((shipped, path), "20240111-20240113", datadir=tiny_datadir)
    runs = set((project / "user_data" / "runs").glob("parity-*"))
    with pytest.raises(MtfScalperError, match=f"^{line}") as caught, given:
        pass
    assert "\n" not in str(caught.value)
    assert set((project / "user_data" / "runs").glob("parity-*")) == runs


@pytest.mark.parametrize("pair", ["BTC/USDT:USDT", "BTC/USDC:USDC", "BTC/USDT", "1000PEPE/USDT"])
def test_linear_and_spot_pairs_pass(pair: str) -> None:
    check_linear(pair)


def test_a_coin_margined_pair_is_refused() -> None:
    with pytest.raises(MtfScalperError) as caught:
        check_linear("BTC/USD:BTC")
    assert str(caught.value) == INVERSE


def test_a_dated_future_is_refused() -> None:
    with pytest.raises(MtfScalperError, match=r"^BTC/USDT:USDT-240329: is a future that ends "):
        check_linear("BTC/USDT:USDT-240329")
