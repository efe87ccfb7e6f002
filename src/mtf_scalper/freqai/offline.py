"""What is known of an exchange that cannot be reached: what freqtrade and ccxt bring along.

An evaluation reads candles from files and asks no exchange. freqtrade's class of the exchange knows
its files, ccxt its ordinary fees, and freqtrade carries Binance's leverage tiers or has kept those
of another exchange beside the candles. What nobody knows is said in one line.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from freqtrade.enums import RunMode, TradingMode
from freqtrade.exceptions import FreqtradeException
from freqtrade.exchange import Exchange
from freqtrade.resolvers import ExchangeResolver

from mtf_scalper.errors import SettingsError
from mtf_scalper.freqai.terms import pair_terms
from mtf_scalper.market.terms import PairTerms

__all__ = ["OfflineExchange"]

logger = logging.getLogger(__name__)

_ANY_AGE = timedelta(days=36_500)
_OF_FUTURES = (("linear", "trading"), ("swap",), ("contract",), ("future",))
_OF_SPOT = (("spot",), ("trading",))


class OfflineExchange:
    """freqtrade's class of the configured exchange, without a connection.

    Parameters
    ----------
    config : dict
        freqtrade's.

    Raises
    ------
    SettingsError
        If freqtrade does not know the exchange, or its fee is neither configured nor known.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = _config_of_a_backtest(config)
        try:
            self._exchange = ExchangeResolver.load_exchange(self._config, validate=False)
        except FreqtradeException as error:
            raise SettingsError(f"freqtrade: {' '.join(str(error).split())}") from None
        try:
            self.fee_rate = self._fee()
            self._has_tiers = self._load_tiers()
        finally:
            self._exchange.close()

    def pair_terms(self, pair: str) -> PairTerms:
        """Return a pair's terms; the log names what is not known."""
        exchange = self._exchange
        # freqtrade's formulas look these up where an exchange has told its markets.
        exchange._markets = {
            pair: {
                "symbol": pair,
                "taker": self.fee_rate,
                "inverse": pair.split(":")[-1] == pair.split("/")[0],
                "limits": {"leverage": {"max": None}},
                "precision": {"price": None, "amount": None},
            }
        }
        if self._knows(pair):
            return pair_terms(self._config, exchange, pair)
        logger.warning(
            "%s: the leverage tiers of %s are not known without the exchange; leverage is not "
            "capped, and liquidation is that of TradeRules.maintenance_margin_rate",
            pair,
            exchange.name,
        )
        return pair_terms(self._config, _WithoutTiers(exchange), pair)

    def _knows(self, pair: str) -> bool:
        spot = self._exchange.trading_mode == TradingMode.SPOT
        return spot or (self._has_tiers and pair in self._exchange._leverage_tiers)

    def _fee(self) -> float:
        if self._config.get("fee") is not None:
            return float(self._config["fee"])
        api = self._exchange._api
        is_spot = self._exchange.trading_mode == TradingMode.SPOT
        places = _OF_SPOT if is_spot or not api.has.get("spot") else _OF_FUTURES
        for place in places:
            section: Any = api.fees
            for name in place:
                section = section.get(name) or {}
            if section.get("taker") is not None:
                return float(section["taker"])
        raise SettingsError(
            f"fee: the taker fee of {self._exchange.name} is not known without the exchange; set "
            "it in the configuration, to 0.0006 for 0.06% say"
        )

    def _load_tiers(self) -> bool:
        exchange = self._exchange
        if exchange.trading_mode == TradingMode.SPOT:
            return False
        if exchange.id == "binance":
            exchange.fill_leverage_tiers()  # from freqtrade's own file
            return True
        if not exchange.get_option("uses_leverage_tiers", True):
            return False
        kept = exchange.load_cached_leverage_tiers(self._config["stake_currency"], _ANY_AGE)
        for pair, tiers in (kept or {}).items():
            exchange._leverage_tiers[pair] = [exchange.parse_leverage_tier(tier) for tier in tiers]
        return bool(kept)


class _WithoutTiers:
    """An exchange of which only the class's options are known."""

    def __init__(self, exchange: Exchange) -> None:
        self.trading_mode = exchange.trading_mode
        self.margin_mode = exchange.margin_mode
        self.get_option = exchange.get_option


def _config_of_a_backtest(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with which freqtrade's exchange class answers as it does in a backtest."""
    section = copy.deepcopy(dict(config["exchange"]))
    return {**config, "exchange": section, "dry_run": True, "runmode": RunMode.BACKTEST}
