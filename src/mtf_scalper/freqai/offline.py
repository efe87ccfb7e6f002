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
from freqtrade.exchange import Binance, Exchange
from freqtrade.resolvers import ExchangeResolver

from mtf_scalper.errors import SettingsError, UntrainableError
from mtf_scalper.freqai.exchange_terms import expanded_pairs, pair_terms
from mtf_scalper.market.terms import PairTerms

logger = logging.getLogger(__name__)

_ANY_AGE = timedelta(days=36_500)
_OF_FUTURES = (("linear", "trading"), ("swap",), ("contract",), ("future",))
_OF_ALL = ("trading",)
_OF_SPOT = (("spot",), _OF_ALL)


class OfflineExchange:
    """freqtrade's class of the configured exchange, without a connection.

    Parameters
    ----------
    config : dict
        freqtrade's.

    Raises
    ------
    SettingsError
        If freqtrade does not know the exchange, or does not trade there in this mode; or if the
        fee is neither configured nor known.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = _config_of_a_backtest(config)
        try:
            self._exchange = ExchangeResolver.load_exchange(self._config, validate=False)
        except FreqtradeException as error:
            raise SettingsError(f"freqtrade: {' '.join(str(error).split())}") from None
        try:
            self._check_mode()
            self.fee_rate = self._fee()
            self._has_tiers = self._load_tiers()
        finally:
            self._exchange.close()

    def pair_terms(self, pair: str) -> PairTerms:
        """Return a pair's terms; the log names what is not known.

        Raises
        ------
        UntrainableError
            As ``check_pair`` does.
        """
        self.check_pair(pair)
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

    def check_pair(self, pair: str) -> None:
        """Refuse a pair that freqtrade would take out of its list.

        Raises
        ------
        UntrainableError
            If it is one of another trading mode or of another quote currency than the stake's, or
            one that the blacklist names.
        """
        mode, stake = self._exchange.trading_mode, self._config["stake_currency"]
        if (":" in pair) == (mode == TradingMode.SPOT):
            raise UntrainableError(f"{pair}: is no {mode} pair, and trading_mode is {mode}")
        quote = pair.partition("/")[2].partition(":")[0]
        if quote != stake:
            raise UntrainableError(f"{pair}: is traded in {quote}, and stake_currency is {stake}")
        blocked = self._config["exchange"].get("pair_blacklist") or []
        if pair in expanded_pairs(list(blocked), [pair]):
            raise UntrainableError(f"{pair}: is in exchange.pair_blacklist")

    def _knows(self, pair: str) -> bool:
        spot = self._exchange.trading_mode == TradingMode.SPOT
        return spot or (self._has_tiers and pair in self._exchange._leverage_tiers)

    def _check_mode(self) -> None:
        exchange = self._exchange
        try:
            exchange.validate_trading_mode_and_margin_mode(
                exchange.trading_mode, exchange.margin_mode
            )
        except FreqtradeException as error:
            raise SettingsError(f"trading_mode, margin_mode: {error}") from None
        if exchange.trading_mode == TradingMode.SPOT and exchange._api.has.get("spot") is False:
            raise SettingsError(f"trading_mode: there is no spot trading on {exchange.name}")

    def _fee(self) -> float:
        if self._config.get("fee") is not None:
            return float(self._config["fee"])
        api = self._exchange._api
        is_spot = self._exchange.trading_mode == TradingMode.SPOT
        has_both = api.has.get("spot")
        places = _OF_SPOT if is_spot else _OF_FUTURES if has_both else (*_OF_FUTURES, *_OF_SPOT)
        for place in places:
            section: Any = api.fees
            for name in place:
                section = section.get(name) or {}
            if section.get("taker") is None:
                continue
            if place == _OF_ALL:
                logger.warning(
                    "fee: %g is taken, which ccxt has for all markets of %s; set it to yours",
                    section["taker"],
                    self._exchange.name,
                )
            return float(section["taker"])
        raise SettingsError(
            f"fee: the taker fee of {self._exchange.name} is not known without the exchange; set "
            "it in the configuration, to 0.0006 for 0.06% say"
        )

    def _load_tiers(self) -> bool:
        exchange = self._exchange
        if exchange.trading_mode == TradingMode.SPOT:
            return False
        if isinstance(exchange, Binance):
            exchange.fill_leverage_tiers()  # from freqtrade's own file
            return True
        if not exchange.get_option("uses_leverage_tiers", True):
            return False
        stake = self._config["stake_currency"]
        kept = exchange.load_cached_leverage_tiers(stake, _ANY_AGE)
        try:
            for pair, tiers in (kept or {}).items():
                parsed = [exchange.parse_leverage_tier(tier) for tier in tiers]
                exchange._leverage_tiers[pair] = parsed
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SettingsError(
                f"leverage_tiers_{stake}.json in {self._config['datadir'] / 'futures'} is none "
                f"of freqtrade's ({type(error).__name__}: {error}); remove it"
            ) from None
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
