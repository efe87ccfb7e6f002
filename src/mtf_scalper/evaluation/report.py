"""What a run was worth, beside what others made of the same candles under the same rules."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mtf_scalper.errors import MarketError
from mtf_scalper.evaluation.accounts import (
    BUY_AND_HOLD,
    CLASSIC_EXITS,
    FLAT,
    oracle_share,
    random_figures,
    traded_baselines,
)
from mtf_scalper.evaluation.baselines import random_exits
from mtf_scalper.evaluation.degenerate import degeneracy, exposure
from mtf_scalper.market.market import Market
from mtf_scalper.market.names import check_names
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.playback import Simulation

MISSING = "not measured"


@dataclass(frozen=True)
class Report:
    """Figures of one run; all returns are log returns of the account, after fees and funding.

    Attributes
    ----------
    pair : str
    period : str
        From the first candle that decided to the last candle; rows where there are no dates.
    n_candles, timeframe_minutes : int
        Candles of the period, and their length.
    fee_rate : float
        Fee per side.
    slippage_bps : float
        What every exit loses to the order book; see ``TradeRules``.
    max_leverage : float
        Largest leverage of the market; buy and hold has leverage 1.
    entry : str
        Where the agent may enter.
    log_return : float
    n_trades : int
    win_rate, profit_factor, mean_profit_ratio, mean_holding_candles : float
        See ``Simulation``; NaN without trades.
    max_drawdown : float
        Share of the peak.
    exposure : float
        Share of the tradable candles in which a position was held.
    flat, buy_and_hold : float
        Log returns of these baselines.
    classic_exits : float or None
        Log return of taking every classic entry and leaving all exits to the rules; None on a
        market without classic entries.
    n_draws, seed : int
        Random exits drawn (0 without trades), and their seed.
    knows_entry_rule : bool
        Whether the draws follow the run's entry rule everywhere, or only the entries that the run
        executed; see ``baselines.random_exits``.
    random_median, random_low, random_high : float or None
        Median, 5% and 95% quantile of the log returns with random exits; None without draws.
    random_rank : float or None
        Share of the draws that the run beats, ties counted half.
    oracle : float or None
        Log return of the hindsight optimum, None where it was not computed.
    oracle_share : float or None
        ``log_return / oracle``; None without an oracle, or where it earns nothing either.
    degenerate : str or None
        Why this is no trading policy, in plain words; None where it is one.
    """

    pair: str
    period: str
    n_candles: int
    timeframe_minutes: int
    fee_rate: float
    slippage_bps: float
    max_leverage: float
    entry: str
    log_return: float
    n_trades: int
    win_rate: float
    profit_factor: float
    mean_profit_ratio: float
    mean_holding_candles: float
    max_drawdown: float
    exposure: float
    flat: float
    buy_and_hold: float
    classic_exits: float | None
    n_draws: int
    seed: int
    knows_entry_rule: bool
    random_median: float | None
    random_low: float | None
    random_high: float | None
    random_rank: float | None
    oracle: float | None
    oracle_share: float | None
    degenerate: str | None

    @property
    def summary(self) -> str:
        """One line that says first, in plain words, whether the policy is degenerate."""
        verdict = f"DEGENERATE, {self.degenerate}: " if self.degenerate else ""
        fees = f"fee {self.fee_rate:.3%} per side{_slippage(self.slippage_bps)}"
        parts = [
            f"{self.pair}: {verdict}log return {self.log_return:+.4f} in {self.n_trades} trades",
            "share of the oracle " + self._share_text(),
            "random exits beaten " + _text(self.random_rank, ".0%"),
            f"buy and hold {self.buy_and_hold:+.4f}",
            f"classic exits {self._classic_text()}",
        ]
        return f"{', '.join(parts)} ({self.period}, {fees})"

    def as_table(self) -> list[tuple[str, str]]:
        """Return name and value of every figure as text, in the order of reading."""
        spread = f"{_text(self.random_low, '+.4f')} .. {_text(self.random_high, '+.4f')}"
        entries = "" if self.knows_entry_rule else ", entries as executed"
        return [
            ("policy", f"DEGENERATE: {self.degenerate}" if self.degenerate else "not degenerate"),
            ("pair", self.pair),
            ("period", f"{self.period}, {self.n_candles} candles of {self.timeframe_minutes}m"),
            ("fee per side", f"{self.fee_rate:.3%}"),
            ("slippage per exit", f"{self.slippage_bps / 100:.3f}%"),
            ("largest leverage", f"{self.max_leverage:g}"),
            ("entries", self.entry),
            ("log return", f"{self.log_return:+.4f}"),
            ("trades", f"{self.n_trades}"),
            ("win rate", _text(self.win_rate, ".1%")),
            ("profit factor", _text(self.profit_factor, ".2f")),
            ("average trade after fees", _text(self.mean_profit_ratio, "+.3%")),
            ("average holding time", _text(self.mean_holding_candles, ".1f", " candles")),
            ("maximum drawdown", f"{self.max_drawdown:.2%}"),
            ("time in the market", f"{self.exposure:.1%}"),
            ("flat", f"{self.flat:+.4f}"),
            ("buy and hold, leverage 1", f"{self.buy_and_hold:+.4f}"),
            ("classic exits", self._classic_text()),
            (f"random exits, median of {self.n_draws}", _text(self.random_median, "+.4f")),
            ("random exits, 5% .. 95%", MISSING if self.random_low is None else spread),
            (f"random exits beaten{entries}", _text(self.random_rank, ".0%")),
            ("oracle", _text(self.oracle, "+.4f")),
            ("share of the oracle", self._share_text()),
        ]

    def lines(self) -> list[str]:
        """Return the table as aligned lines for a log."""
        table = self.as_table()
        width = max(len(name) for name, _ in table)
        return [f"{name:<{width}}  {value}" for name, value in table]

    def as_dict(self) -> dict[str, Any]:
        """Return all figures for JSON: what is missing is None, an infinite one the text "inf"."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def _classic_text(self) -> str:
        if self.classic_exits is None:
            return "none: no classic entries"
        return f"{self.classic_exits:+.4f}"

    def _share_text(self) -> str:
        if self.oracle is not None and self.oracle_share is None:
            return "none: it earns nothing"
        return _text(self.oracle_share, ".1%")


def evaluate(
    run: Simulation,
    market: Market,
    settings: Settings,
    *,
    oracle: Simulation | None = None,
    n_draws: int = 100,
    seed: int = 0,
) -> Report:
    """Measure a run and trade the baselines on the same market.

    Parameters
    ----------
    run : Simulation
        From ``simulate`` or ``play`` over ``market``.
    market : Market
    settings : Settings
        The rules and the window that the run was traded under.
    oracle : Simulation, optional
        The hindsight optimum on the same market under the same rules.
    n_draws : int
        Runs with random exits; 0 leaves them out.
    seed : int
        Of the random exits.

    Raises
    ------
    MarketError
        If the run or the oracle was not traded on a market of this length and these features.
    """
    for name, played in (("run", run), ("oracle", oracle)):
        if played is not None and len(played.equity) != len(market):
            raise MarketError(
                f"{market.pair}: the {name} has {len(played.equity)} candles and the market "
                f"{len(market)}; evaluate it on the market that it was traded on"
            )
        if played is not None:
            cure = f"evaluate the {name} on the market that it was traded on"
            check_names(played.feature_names, market.feature_names, market.pair, cure)
    settings = settings.for_market(market)
    draws = random_exits(run, market, settings, n_draws=n_draws, seed=seed) if n_draws else ()
    returns = np.array([draw.log_return for draw in draws])
    known = {name: each.log_return for name, each in traded_baselines(market, settings).items()}
    best = None if oracle is None else oracle.log_return
    first_row = settings.window_size - 1
    return Report(
        pair=market.pair,
        period=_period(market, first_row),
        n_candles=len(market) - first_row,
        timeframe_minutes=market.timeframe_minutes,
        fee_rate=market.fee_rate,
        slippage_bps=settings.rules.slippage_bps,
        max_leverage=float(market.leverage.max()),
        entry=str(settings.rules.entry),
        log_return=run.log_return,
        n_trades=len(run.trades),
        win_rate=run.win_rate,
        profit_factor=run.profit_factor,
        mean_profit_ratio=run.mean_profit_ratio,
        mean_holding_candles=run.mean_holding_candles,
        max_drawdown=run.max_drawdown,
        exposure=exposure(run, settings),
        flat=known[FLAT],
        buy_and_hold=known[BUY_AND_HOLD],
        classic_exits=known.get(CLASSIC_EXITS),
        n_draws=len(draws),
        seed=seed,
        knows_entry_rule=run.entries is not None,
        **random_figures(run.log_return, returns),
        oracle=best,
        oracle_share=None if best is None else oracle_share(run.log_return, best),
        degenerate=degeneracy(run, market, settings),
    )


def _period(market: Market, first_row: int) -> str:
    last_row = len(market) - 1
    if market.dates is None:
        return f"rows {first_row} to {last_row}"
    first, last = (
        np.datetime_as_string(market.dates[row], unit="m").replace("T", " ")
        for row in (first_row, last_row)
    )
    return f"{first} to {last}"


def _text(value: float | None, form: str, unit: str = "") -> str:
    if value is None:
        return MISSING
    if math.isnan(value):
        return "undefined"
    return f"{value:{form}}{unit}"


def _plain(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def _slippage(slippage_bps: float) -> str:
    return f", slippage {slippage_bps:g} bps per exit" if slippage_bps else ""
