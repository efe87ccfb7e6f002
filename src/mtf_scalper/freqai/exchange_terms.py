"""An exchange's terms as freqtrade's backtester applies them: fee, leverage, liquidation, steps.

Everything is asked of freqtrade's own exchange classes. ``offline`` is about what they know where
no exchange can be reached.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from freqtrade.enums import TRADE_MODES, CandleType, MarginMode, TradingMode
from freqtrade.exceptions import FreqtradeException
from freqtrade.exchange import Exchange
from freqtrade.exchange.exchange_utils import DECIMAL_PLACES, TICK_SIZE
from freqtrade.plugins.pairlist.pairlist_helpers import expand_pairlist
from freqtrade.strategy import IStrategy
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError
from mtf_scalper.market.terms import PairTerms

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

_MOST_MULTIPLE = 10.0
"""Short trades whose liquidation lies farther are never liquidated."""


def is_spot(config: Mapping[str, Any], exchange: Exchange | None) -> bool:
    """Say whether trades are spot trades: no leverage, no funding, no liquidation."""
    mode = getattr(exchange, "trading_mode", None) or config.get("trading_mode")
    return bool(mode == TradingMode.SPOT)


def first_pair(config: Mapping[str, Any], exchange: Exchange | None, pair: str) -> str:
    """Return the first pair of the whitelist, whose fee a backtest charges for all pairs.

    Parameters
    ----------
    config : mapping
    exchange : Exchange or None
    pair : str
        Where the configuration lists none.
    """
    section = config.get("exchange", {})
    listed = section.get("pair_whitelist") or [pair]
    markets = list(getattr(exchange, "markets", None) or {})
    blocked = set(expanded_pairs(section.get("pair_blacklist", []), markets))
    known = set(markets)
    found = [
        each
        for each in expanded_pairs(listed, markets)
        if each not in blocked and (not known or each in known)
    ]
    return found[0] if found else pair


def exchange_option(exchange: Exchange | None, name: str, default: str) -> str:
    """Return an option of freqtrade's exchange class."""
    option = getattr(exchange, "get_option", None)
    with contextlib.suppress(KeyError):
        return default if option is None else str(option(name) or default)
    return default


def fee_rate(
    config: Mapping[str, Any], exchange: Exchange | None, pair: str, *, first: str | None = None
) -> float:
    """Return the fee that freqtrade charges on a pair.

    The configured one; else the exchange's worst, in a backtest that of the whitelist's first pair
    for all of them, and where trades are made one by one the pair's own.

    Parameters
    ----------
    config : mapping
    exchange : Exchange or None
    pair : str
    first : str, optional
        First pair of the whitelist; by default the configuration's.

    Raises
    ------
    MarketError
        If there is neither.
    """
    if config.get("fee") is not None:
        return float(config["fee"])
    if exchange is None:
        raise MarketError(f"{pair}: no exchange to ask for its fee; set 'fee' in the configuration")
    trades = config.get("runmode") in TRADE_MODES
    asked = pair if trades else first or first_pair(config, exchange, pair)
    fees = [exchange.get_fee(symbol=asked, taker_or_maker=kind) for kind in ("taker", "maker")]
    return float(max(fee for fee in fees if fee is not None))


def stake_equity(config: Mapping[str, Any]) -> float:
    """Return what the wallet holds for trading at the start, in stake currency."""
    if config.get("available_capital") is not None:
        return float(config["available_capital"])
    wallet = config.get("dry_run_wallet", 1000.0)
    if isinstance(wallet, Mapping):
        wallet = wallet.get(config.get("stake_currency"), 0.0)
    return float(wallet) * float(config.get("tradable_balance_ratio", 0.99))


def starting_stake(config: Mapping[str, Any], strategy: IStrategy | None = None) -> float:
    """Return the stake that freqtrade proposes for a trade while no other is open.

    As ``Wallets.get_trade_stake_amount`` of freqtrade 2026.9, at the start; what a trade has earned
    by then moves an unlimited stake.

    Parameters
    ----------
    config : mapping
    strategy : IStrategy, optional
        Its ``max_open_trades`` wins over the configuration's.
    """
    stake = config.get("stake_amount", "unlimited")
    if stake != "unlimited":
        return float(stake)
    slots = float(getattr(strategy, "max_open_trades", config.get("max_open_trades", 1)))
    if slots in (0.0, -1.0, math.inf):
        return 0.0
    equity = stake_equity(config)
    return min(equity / slots, equity)


def most_leverage(
    config: Mapping[str, Any],
    exchange: Exchange | None,
    pair: str,
    strategy: IStrategy | None = None,
) -> float:
    """Return the leverage that freqtrade allows a trade of the starting stake.

    Raises
    ------
    MarketError
        If the exchange takes no stake as large.
    """
    if is_spot(config, exchange):
        return 1.0
    if exchange is None or not hasattr(exchange, "get_max_leverage"):
        return math.inf
    try:
        return float(exchange.get_max_leverage(pair, starting_stake(config, strategy)))
    except FreqtradeException as error:
        raise MarketError(f"{pair}: stake_amount: {' '.join(str(error).split())}") from None


def liquidation_multiples(
    config: Mapping[str, Any],
    exchange: Exchange | None,
    pair: str,
    leverage: Floats,
    stakes: Floats,
) -> tuple[Floats, Floats]:
    """Return where long and short trades are liquidated, as multiples of their open rate.

    The exchange's own formula, with the maintenance margin of the tier that freqtrade finds for
    the stake, and freqtrade's ``liquidation_buffer``. With cross margin nothing is liquidated.

    Parameters
    ----------
    leverage, stakes : ndarray of float64, shape (T,)

    Returns
    -------
    long, short : ndarray of float64, shape (T,)
        0 where there is no liquidation; NaN where the exchange says nothing.
    """
    never = np.zeros(len(leverage))
    if is_spot(config, exchange):
        return never, never
    if _is_cross(config, exchange):
        logger.info("%s: margin_mode cross: no trade is liquidated in the simulation", pair)
        return never, never
    unknown = np.full(len(leverage), np.nan)
    if exchange is None or not hasattr(exchange, "dry_run_liquidation_price"):
        return unknown, unknown
    known: dict[tuple[Any, ...], tuple[float, float]] = {}
    found = np.empty((len(leverage), 2))
    try:
        for row, (lever, stake) in enumerate(zip(leverage.tolist(), stakes.tolist(), strict=True)):
            margin = _margin(exchange, pair, stake)
            # What a tier deducts counts relative to the stake; without it the stake is no matter.
            key = (lever, margin, stake if margin is None or margin[1] else 0.0)
            if key not in known:
                known[key] = _multiples(exchange, pair, lever, max(stake, 1e-8))
            found[row] = known[key]
    except (FreqtradeException, KeyError, TypeError) as error:
        logger.warning(
            "%s: %s; liquidation is that of TradeRules.maintenance_margin_rate",
            pair,
            " ".join(str(error).split()) or type(error).__name__,
        )
        return unknown, unknown
    return found[:, 0], found[:, 1]


def price_step(exchange: Exchange | None, pair: str) -> float:
    """Return the exchange's own price step, 0 where it has none."""
    if exchange is None or not hasattr(exchange, "get_precision_price"):
        return 0.0
    precision = exchange.get_precision_price(pair)
    if precision is None:
        return 0.0
    mode = exchange.precision_mode_price
    if mode == TICK_SIZE:
        return float(precision)
    if mode == DECIMAL_PLACES:
        return float(10.0 ** -int(precision))
    logger.warning("%s: the exchange rounds prices to digits, which is not simulated", pair)
    return 0.0


def pair_terms(config: Mapping[str, Any], exchange: Exchange | None, pair: str) -> PairTerms:
    """Return a pair's terms for whoever reads its candles from files."""
    step = price_step(exchange, pair)
    return PairTerms(
        most_leverage=most_leverage(config, exchange, pair),
        price_step=step or None,
        equity=stake_equity(config),
        liquidations=lambda leverage, stakes: liquidation_multiples(
            config, exchange, pair, leverage, stakes
        ),
        rate_timeframe=exchange_option(exchange, "funding_fee_timeframe", "1h"),
        mark_timeframe=exchange_option(exchange, "mark_ohlcv_timeframe", "1h"),
        mark_kind=exchange_option(exchange, "mark_ohlcv_price", CandleType.MARK),
        funding_fallback=config.get("futures_funding_rate"),
    )


def expanded_pairs(pairs: list[str], markets: list[str]) -> list[str]:
    """Return a list of pairs with each of its regular expressions replaced by what it matches."""
    if not markets:
        return list(pairs)
    try:
        return list(expand_pairlist(list(pairs), markets, keep_invalid=True))
    except ValueError:
        return list(pairs)


def _is_cross(config: Mapping[str, Any], exchange: Exchange | None) -> bool:
    mode = getattr(exchange, "margin_mode", None) or config.get("margin_mode")
    return bool(mode == MarginMode.CROSS)


def _margin(exchange: Exchange, pair: str, stake: float) -> tuple[float, float | None] | None:
    """Return maintenance ratio and amount of the stake's tier, None where there are no tiers."""
    if not exchange.get_option("uses_leverage_tiers", True):
        return None
    ratio, amount = exchange.get_maintenance_ratio_and_amt(pair, stake)
    return ratio, amount


def _multiples(exchange: Exchange, pair: str, leverage: float, stake: float) -> tuple[float, float]:
    """Return the multiples of one trade, opened at a rate of 1."""
    found = []
    for is_short in (False, True):
        price = exchange.dry_run_liquidation_price(
            pair=pair,
            open_rate=1.0,
            is_short=is_short,
            amount=stake * leverage,
            stake_amount=stake,
            leverage=leverage,
            wallet_balance=stake,
            open_trades=[],
        )
        if price is None:
            found.append(0.0)
            continue
        # As Exchange.get_liquidation_price, which asks a live account for its positions.
        buffer = abs(1.0 - price) * exchange.liquidation_buffer
        level = max(price - buffer if is_short else price + buffer, 0.0)
        found.append(level if level <= _MOST_MULTIPLE else 0.0)
    return found[0], found[1]
