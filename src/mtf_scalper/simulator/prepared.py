"""A market under the rules that it is traded by: what all of the simulator works on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mtf_scalper.errors import MarketError
from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings, TradeRules
from mtf_scalper.simulator import kernels


@dataclass(frozen=True, eq=False)
class PreparedMarket:
    """A market and the settings that it is traded under; see ``prepare``.

    Attributes
    ----------
    market : Market
    settings : Settings
        Their rules say where the agent may enter. Of the rest the window counts, and for who learns
        the reward and ``add_state_info``.
    """

    market: Market
    settings: Settings

    @property
    def rules(self) -> TradeRules:
        """The rules of the trades."""
        return self.settings.rules

    @property
    def first_row(self) -> int:
        """First row with a full window, at whose close the first decision falls."""
        return self.settings.window_size - 1

    @cached_property
    def terms(self) -> kernels.Terms:
        """Market and rules as the kernel reads them, without limits of a training's episodes."""
        return kernels.terms_of(self.market, self.settings)

    def __len__(self) -> int:
        """Return the number of candles T."""
        return len(self.market)


def prepare(market: Market, settings: Settings) -> PreparedMarket:
    """Return a market bound to the settings that it is traded under.

    Parameters
    ----------
    market : Market
        With at least ``settings.window_size + 2`` candles.
    settings : Settings

    Raises
    ------
    MarketError
        If the market is too short.
    """
    check_length(market, settings.window_size)
    return PreparedMarket(market, settings.for_market(market))


def check_length(market: Market, window_size: int) -> None:
    """Raise ``MarketError`` where a market is too short for a window and a trade."""
    if len(market) < window_size + 2:
        raise MarketError(
            f"{market.pair}: {len(market)} candles are too few for a window of {window_size}; "
            f"at least {window_size + 2} are needed"
        )
