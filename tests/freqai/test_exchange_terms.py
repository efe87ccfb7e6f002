"""Fee, leverage and liquidation are what freqtrade's own exchange classes say, unconnected."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from freqtrade.enums import RunMode

from mtf_scalper.errors import MarketError, SettingsError, UntrainableError
from mtf_scalper.freqai import columns
from mtf_scalper.freqai import exchange_terms as terms
from mtf_scalper.freqai.leverage import has_own_leverage, leverage_of
from mtf_scalper.freqai.offline import OfflineExchange
from mtf_scalper.freqai.strategy import HybridStrategy
from mtf_scalper.settings import TradeRules

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
RULES = TradeRules(entry="any")


@pytest.fixture
def config(make_config: Any) -> dict[str, Any]:
    return make_config()


@pytest.fixture
def offline(config: dict[str, Any]) -> OfflineExchange:
    config.pop("fee", None)
    return OfflineExchange(config)


def pairs_by_ratio(offline: OfflineExchange) -> dict[float, str]:
    """Return one pair for each maintenance ratio that a stake of 100 meets."""
    exchange = offline._exchange
    tiers = exchange._leverage_tiers
    return {exchange.get_maintenance_ratio_and_amt(pair, 100.0)[0]: pair for pair in tiers}


@pytest.mark.parametrize("leverage", [1.0, 3.0, 20.0])
@pytest.mark.parametrize("stake", [100.0, 70_000.0])
def test_liquidation_is_that_of_the_stakes_tier(
    offline: OfflineExchange, leverage: float, stake: float
) -> None:
    """Binance's formula for one isolated position, by hand, and freqtrade's buffer of 5%."""
    chosen = pairs_by_ratio(offline)
    assert len(chosen) >= 4
    for pair in [BTC, *chosen.values()]:
        found = offline.pair_terms(pair)
        assert found.liquidations is not None
        long, short = found.liquidations(np.array([leverage]), np.array([stake]))
        ratio, amount = offline._exchange.get_maintenance_ratio_and_amt(pair, stake)
        size = stake * leverage  # at an open rate of 1
        for side, multiple in ((1, long[0]), (-1, short[0])):
            bare = (stake + amount - side * size) / (size * ratio - side * size)
            expected = max(bare + side * abs(1.0 - bare) * 0.05, 0.0)
            assert multiple == pytest.approx(expected if expected <= 10.0 else 0.0, rel=1e-12)


def test_most_pairs_have_another_margin_than_the_default_of_trade_rules(
    offline: OfflineExchange,
) -> None:
    tiers = offline._exchange._leverage_tiers
    ratios = [offline._exchange.get_maintenance_ratio_and_amt(pair, 100.0)[0] for pair in tiers]
    assert sum(ratio == TradeRules().maintenance_margin_rate for ratio in ratios) < len(ratios) / 50


def test_leverage_is_capped_for_the_stake_that_is_proposed(
    config: dict[str, Any], offline: OfflineExchange
) -> None:
    exchange = offline._exchange
    config |= {"stake_amount": 100_000.0, "trading_mode": "futures"}
    capped = 0
    for pair in exchange._leverage_tiers:
        try:
            expected = exchange.get_max_leverage(pair, 100_000.0)
        except Exception:  # the exchange takes no stake as large
            with pytest.raises(MarketError, match=f"^{pair}: stake_amount: "):
                terms.most_leverage(config, exchange, pair)
            continue
        assert terms.most_leverage(config, exchange, pair) == expected
        capped += expected < 3.0
    assert capped >= 100
    config["stake_amount"] = 100.0
    frame = pd.DataFrame({columns.LEVERAGE: [3.0, 300.0]})
    most = exchange.get_max_leverage(BTC, 100.0)
    found = leverage_of(None, frame, frame, BTC, RULES, config, exchange)
    assert found.tolist() == [3.0, most]


def test_the_first_pairs_fee_holds_for_all_in_a_backtest(config: dict[str, Any]) -> None:
    """freqtrade 2026.9, ``Backtesting.__init__``; a bot asks for each pair."""
    fees = {BTC: 0.0004, ETH: 0.001}
    exchange = SimpleNamespace(
        get_fee=lambda symbol, taker_or_maker: (
            fees[symbol] / (2 if taker_or_maker == "maker" else 1)
        ),
        markets={pair: {} for pair in fees},
    )
    config.pop("fee", None)
    config["exchange"]["pair_whitelist"] = [ETH, BTC]
    config["runmode"] = RunMode.BACKTEST
    assert [terms.fee_rate(config, exchange, pair) for pair in (BTC, ETH)] == [0.001, 0.001]
    config["runmode"] = RunMode.DRY_RUN
    assert [terms.fee_rate(config, exchange, pair) for pair in (BTC, ETH)] == [0.0004, 0.001]
    config["fee"] = 0.002
    assert terms.fee_rate(config, exchange, BTC) == 0.002


@pytest.mark.parametrize(
    ("name", "mode", "fee"),
    [
        ("hyperliquid", "futures", 0.00045),
        ("binanceusdm", "futures", 0.0005),
        ("okx", "futures", 0.0005),
        ("kraken", "spot", 0.0026),
    ],
)
def test_an_evaluation_takes_the_exchanges_ordinary_fee(
    config: dict[str, Any],
    name: str,
    mode: str,
    fee: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As ccxt's descriptions of the exchanges have them; one for all its markets is a guess."""
    config.pop("fee", None)
    config |= {"trading_mode": mode}
    config["exchange"] |= {"name": name}
    assert OfflineExchange(config).fee_rate == fee
    guess = f"fee: {fee:g} is taken, which ccxt has for all markets of "
    assert any(guess in each for each in caplog.messages) == (name == "kraken")


@pytest.mark.parametrize(
    ("name", "mode", "margin", "line"),
    [
        ("kucoin", "futures", "isolated", "Freqtrade does not support 'isolated' 'futures' on Ku"),
        ("okx", "futures", "cross", "Freqtrade does not support 'cross' 'futures' on OKX."),
        ("binance", "futures", "", "Freqtrade does not support '' 'futures' on Binance."),
        ("krakenfutures", "spot", "", "there is no spot trading on Kraken Futures"),
    ],
)
def test_a_mode_that_freqtrade_does_not_trade_there_is_refused(
    config: dict[str, Any], name: str, mode: str, margin: str, line: str
) -> None:
    config |= {"trading_mode": mode, "margin_mode": margin}
    config["exchange"] |= {"name": name}
    with pytest.raises(SettingsError, match=f"^trading_mode.*: {line}"):
        OfflineExchange(config)


def test_pairs_that_freqtrade_takes_out_of_its_list_are_left_out(config: dict[str, Any]) -> None:
    config["exchange"]["pair_blacklist"] = ["(DOGE|SHIB)/.*"]
    offline = OfflineExchange(config)
    for pair, line in {
        "BTC/USDT": "is no futures pair, and trading_mode is futures",
        "BTC/USDC:USDC": "is traded in USDC, and stake_currency is USDT",
        "DOGE/USDT:USDT": "is in exchange.pair_blacklist",
    }.items():
        with pytest.raises(UntrainableError) as caught:
            offline.pair_terms(pair)
        assert str(caught.value) == f"{pair}: {line}"
    config |= {"trading_mode": "spot", "margin_mode": ""}
    with pytest.raises(UntrainableError, match="is no spot pair, and trading_mode is spot"):
        OfflineExchange(config).pair_terms(BTC)


TIERS = [
    {"minNotional": 0, "maxNotional": 5e4, "maintenanceMarginRate": 0.004, "maxLeverage": 50},
    {"minNotional": 5e4, "maxNotional": 5e6, "maintenanceMarginRate": 0.02, "maxLeverage": 20},
]


@pytest.mark.parametrize("name", ["binance", "binanceusdm", "bybit", "okx", "gate", "bitget"])
def test_liquidation_is_the_exchanges_own_for_any_position(
    config: dict[str, Any], name: str, tmp_path: Path
) -> None:
    """Against ``get_liquidation_price`` of freqtrade's class at random rates, stakes, leverages.

    Tiers are those that freqtrade has kept beside the candles.
    """
    (tmp_path / "futures").mkdir()
    kept = {"updated": "2020-01-01T00:00:00+00:00", "data": {BTC: TIERS}}
    (tmp_path / "futures" / "leverage_tiers_USDT.json").write_text(json.dumps(kept))
    config |= {"datadir": tmp_path, "fee": 0.0006, "liquidation_buffer": 0.07}
    config["exchange"] |= {"name": name}
    offline = OfflineExchange(config)
    found = offline.pair_terms(BTC)
    assert found.liquidations is not None
    stake = terms.starting_stake(config)
    assert found.most_leverage == offline._exchange.get_max_leverage(BTC, stake)
    rng = np.random.default_rng(3)
    leverage, stakes = 1.0 + 19.0 * rng.random(40), 10.0 ** rng.uniform(0.5, 5.0, 40)
    rates = 10.0 ** rng.uniform(-6.0, 5.0, 40)
    multiples = found.liquidations(leverage, stakes)
    for row in range(40):
        for is_short in (False, True):
            price = offline._exchange.get_liquidation_price(
                pair=BTC,
                open_rate=rates[row],
                is_short=is_short,
                amount=stakes[row] * leverage[row] / rates[row],
                stake_amount=stakes[row],
                leverage=leverage[row],
                wallet_balance=stakes[row],
                open_trades=[],
            )
            assert multiples[is_short][row] * rates[row] == pytest.approx(price, rel=1e-9)


def test_kept_tiers_that_are_damaged_are_named(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "futures").mkdir()
    path = tmp_path / "futures" / "leverage_tiers_USDT.json"
    config |= {"datadir": tmp_path}
    config["exchange"] |= {"name": "okx"}
    for data in ([1, 2], {BTC: [{}]}, {BTC: 5}):
        path.write_text(json.dumps({"updated": "2026-01-01T00:00:00+00:00", "data": data}))
        with pytest.raises(SettingsError, match=f"^{path.name} in .* is none of freqtrade's"):
            OfflineExchange(config)


def test_spot_is_traded_at_leverage_one(config: dict[str, Any]) -> None:
    frame = pd.DataFrame({columns.LEVERAGE: [3.0, 2.0]})
    spot = {**config, "trading_mode": "spot"}
    assert leverage_of(None, frame, frame, "BTC/USDT", RULES, spot, None).tolist() == [1.0, 1.0]


def test_leverage_of_a_smaller_frame_is_the_number_that_was_meant(config: dict[str, Any]) -> None:
    """FreqAI's reduce_df_footprint keeps float32; the bot trades at the float64."""
    meant = np.array([2.1, 1.3, 3.0])
    frame = pd.DataFrame({columns.LEVERAGE: meant.astype(np.float32)})
    found = leverage_of(None, frame, frame, BTC, RULES, config, None)
    assert found.dtype == np.float64
    assert found.tolist() == meant.tolist()


def own(leverage: Any) -> HybridStrategy:
    strategy = type("Own", (HybridStrategy,), {"leverage": leverage})
    return strategy.__new__(strategy)


def candles(n_rows: int = 4) -> pd.DataFrame:
    dates = pd.date_range("2024-01-01", periods=n_rows, freq="5min", tz="UTC")
    prices = {name: np.arange(100.0, 100.0 + n_rows) for name in ("open", "high", "low", "close")}
    return pd.DataFrame({"date": dates, **prices, columns.LEVERAGE: 1.5})


def test_a_strategys_own_leverage_is_asked_at_every_entry(config: dict[str, Any]) -> None:
    """At the open after the decision: 101, 102, 103, and the last close where there is none."""
    strategy = own(lambda self, current_rate, **kwargs: current_rate - 100.0)
    assert has_own_leverage(strategy)
    frame = candles()
    found = leverage_of(strategy, frame, frame, BTC, RULES, config, None)
    assert found.tolist() == [1.0, 2.0, 3.0, 3.0]


def test_a_leverage_that_training_cannot_know_ends_the_run(config: dict[str, Any]) -> None:
    frame = candles()
    strategy = own(lambda self, **kwargs: self.wallets.get_total("USDT"))
    line = (
        r"leverage\(\) of Own cannot be asked in training \(self\.wallets\.get_total is not known"
    )
    with pytest.raises(MarketError, match=line):
        leverage_of(strategy, frame, frame, BTC, RULES, config, None)
    strategy = own(lambda self, side, **kwargs: 2.0 if side == "long" else 1.0)
    with pytest.raises(MarketError, match="differs between long and short at 2024-01-01 00:05"):
        leverage_of(strategy, frame, frame, BTC, RULES, config, None)
