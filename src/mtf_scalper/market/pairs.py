"""What a pair's name says of its contract."""

from __future__ import annotations

from mtf_scalper.errors import MarketError


def check_linear(pair: str) -> None:
    """Refuse dated and coin-margined contracts; profit of these is no multiple of a price's change.

    Parameters
    ----------
    pair : str
        freqtrade's name, ``BASE/QUOTE:SETTLE``, or ``BASE/QUOTE`` in spot trading.

    Raises
    ------
    MarketError
        If it settles at a date, or in anything but its quote currency.
    """
    symbol, _, settle = pair.partition(":")
    base, _, quote = symbol.partition("/")
    settle, _, expiry = settle.partition("-")
    if expiry:
        raise MarketError(
            f"{pair}: is a future that ends on a date, which freqtrade does not trade; take "
            f"{base}/USDT:USDT, say"
        )
    if settle and settle != quote:
        raise MarketError(
            f"{pair}: settles in {settle} and not in {quote}; coin-margined contracts are not "
            f"simulated (freqtrade does not trade them either), take {base}/USDT:USDT, say"
        )
