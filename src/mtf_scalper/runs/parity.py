"""The simulator's trades beside those of freqtrade's own backtester, on the same predictions.

The unmodified ``Backtesting`` runs the real strategy in this process. The predictions that the
strategy had at every candle then trade the same candles, funding, price steps and leverage in the
simulator, and the two lists of trades are compared. An agent that sees its position is asked again,
at the states that its trades have in the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from freqtrade.configuration import setup_utils_configuration
from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import RunMode
from freqtrade.exceptions import FreqtradeException
from freqtrade.exchange import Exchange
from freqtrade.loggers import error_console
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.strategy import IStrategy
from numpy.typing import NDArray

from mtf_scalper.evaluation.trades import ClosedTrade, Match, from_freqtrade, matched, simulated
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.config import rl_section, trade_rules
from mtf_scalper.freqai.loading import check_files
from mtf_scalper.freqai.traded import (
    ParityError,
    bounded_timerange,
    check_pairs,
    traded_market,
    traded_rows,
)
from mtf_scalper.freqai.trading_options import Use, check_trading_options
from mtf_scalper.market.market import Market, with_early_ends
from mtf_scalper.ppo.policy import Policy, simulate
from mtf_scalper.runs.given_predictions import Given, GivenPredictions
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.exits import EQUITY_FLOOR, profit_ratio, slipped
from mtf_scalper.simulator.types import N_ACTIONS, Action

LEAST_WALLET = 10_000.0
"""Smallest dry-run wallet, in stake currency, with which no stake is too small for the exchange."""

Decide = Callable[[np.datetime64, NDArray[np.float32]], NDArray[np.float64]]
"""The agent's probabilities, shape (5,), at the close of a candle in the given position state."""

_NEUTRAL = np.eye(N_ACTIONS)[Action.NEUTRAL]


@dataclass(frozen=True)
class PairBacktest:
    """What the backtester did on one pair, and what it had to decide on.

    Attributes
    ----------
    market : Market
        The candles of the backtest. Entry signals are off where there is no prediction: the
        strategy does not enter there, whatever the entry mode.
    probabilities : ndarray of float64, shape (T, 5)
        The strategy's predictions; certainly neutral where there is none. Where the agent sees its
        position they are those without one.
    is_predicted : ndarray of bool, shape (T,)
    trades : list of ClosedTrade
        freqtrade's.
    decide : callable, optional
        What the strategy asks in a trade, where the agent sees its position.
    """

    market: Market
    probabilities: NDArray[np.float64]
    is_predicted: NDArray[np.bool_]
    trades: list[ClosedTrade]
    decide: Decide | None = None


@dataclass(frozen=True)
class Backtested:
    """A finished backtest.

    Attributes
    ----------
    settings : Settings
        With the trade rules that were used.
    pairs : dict of str to PairBacktest
    conditions : tuple of str
        Under which conditions it ran, as words.
    refused_stakes : int
        Entries that did not happen because the strategy put no stake on them.
    slippage_bps : float
        What training and evaluation charge at every exit. freqtrade's backtester charges nothing,
        so that neither side of the comparison does.
    """

    settings: Settings
    pairs: dict[str, PairBacktest]
    conditions: tuple[str, ...]
    refused_stakes: int
    slippage_bps: float = 0.0


def load_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return freqtrade's configuration for these arguments of its command line.

    Protections are switched off, and the wallet is at least ``LEAST_WALLET``.

    Raises
    ------
    ParityError
        If freqtrade refuses it, or the timerange is open.
    SettingsError
        If a section is missing or not one, or a setting is wrong.
    """
    check_files(arguments)
    try:
        config: dict[str, Any] = setup_utils_configuration(dict(arguments), RunMode.BACKTEST)
        bounded_timerange(config)
    except FreqtradeException as error:
        raise _one_line(error) from None
    config["enable_protections"] = False
    wallet = config.get("dry_run_wallet", 0.0)
    if not isinstance(wallet, Mapping):
        config["dry_run_wallet"] = max(float(wallet), LEAST_WALLET)
    return config


def backtest(
    config: dict[str, Any],
    given: Given | None = None,
    *,
    exchange: Exchange | None = None,
    prepare: Callable[[IStrategy], None] | None = None,
) -> Backtested:
    """Run freqtrade's backtester and keep what its strategy decided on.

    Parameters
    ----------
    config : dict
        As freqtrade loads it.
    given : callable, optional
        Probabilities to trade on; by default FreqAI trains and predicts.
    exchange : Exchange, optional
        An exchange that is connected already, and stays so.
    prepare : callable, optional
        Gets the strategy before it starts.

    Raises
    ------
    ParityError
        If freqtrade fails, or a pair has no candles.
    SettingsError
        If an option is set that the simulator does not follow.
    """
    with _opened(config, exchange) as backtesting:
        strategy = backtesting.strategylist[0]
        if prepare is not None:
            prepare(strategy)
        # Before the backtester's work, which takes minutes where FreqAI trains.
        check_trading_options(config, strategy, Use.PARITY)
        return _run(backtesting, strategy, given)


@contextmanager
def _opened(config: dict[str, Any], exchange: Exchange | None) -> Iterator[Backtesting]:
    """Open freqtrade's backtester; what goes wrong in it is one line."""
    backtesting = None
    try:
        backtesting = Backtesting(config, exchange=exchange)
        yield backtesting
    except ModuleNotFoundError:
        raise
    except (FreqtradeException, ImportError) as error:  # it refuses strategies as an ImportError
        raise _one_line(error) from None
    finally:
        if backtesting is not None and exchange is None:
            backtesting.exchange.close()
        Backtesting.cleanup()


def _run(backtesting: Backtesting, strategy: IStrategy, given: Given | None) -> Backtested:
    config = backtesting.config
    whitelist = backtesting.pairlists.whitelist
    strategy.max_open_trades = max(strategy.max_open_trades, len(whitelist))
    if given is not None:
        _predict_given(strategy, GivenPredictions(config, given))
    predictions, refused = _watched(strategy)
    with backtesting.progress if error_console.is_terminal else nullcontext():
        data, timerange = backtesting.load_bt_data()
        check_pairs(config, data)
        backtesting.backtest_one_strategy(strategy, data, timerange)
    results = backtesting.all_bt_content[strategy.get_strategy_name()]["results"]
    rules = trade_rules(config, strategy)
    settings = Settings(
        window_size=1,
        add_state_info=bool(rl_section(config).get("add_state_info", False)),
        rules=rules.changed(slippage_bps=0.0),
    )
    # The backtester's own provider knows nothing after the last candle any more, funding included.
    provider = DataProvider(config, backtesting.exchange, backtesting.pairlists)
    trades = [from_freqtrade(row) for row in results.to_dict("records")]
    pairs = {}
    for pair, candles in data.items():
        frame = strategy.feature_engineering_standard(candles.copy(), {"pair": pair})
        pairs[pair] = _pair_backtest(
            strategy,
            provider,
            settings,
            pair,
            frame,
            traded_rows(frame, pair, backtesting, timerange),
            predictions[pair].set_index("date").reindex(frame["date"]),
            [trade for trade in trades if trade.pair == pair],
        )
    markets = with_early_ends({pair: each.market for pair, each in pairs.items()})
    pairs = {pair: replace(each, market=markets[pair]) for pair, each in pairs.items()}
    return Backtested(
        settings=settings,
        pairs=pairs,
        conditions=_conditions(backtesting, strategy, settings),
        refused_stakes=len(refused),
        slippage_bps=rules.slippage_bps,
    )


def _pair_backtest(
    strategy: IStrategy,
    provider: DataProvider,
    settings: Settings,
    pair: str,
    frame: pd.DataFrame,
    traded: slice,
    predicted: pd.DataFrame,
    trades: list[ClosedTrade],
) -> PairBacktest:
    known = predicted[list(columns.PROBABILITIES)].to_numpy(dtype=np.float64, na_value=0.0)
    is_predicted = (predicted["do_predict"].to_numpy() == 1) & (known.sum(axis=1) > 0.0)
    settled = {"config": strategy.config, "provider": provider, "strategy": strategy}
    sees = settings.add_state_info
    return PairBacktest(
        market=traded_market(frame, traded, is_predicted, pair, settings, **settled),
        probabilities=np.where(is_predicted[:, None], known, _NEUTRAL)[traded],
        is_predicted=is_predicted[traded],
        trades=trades,
        decide=partial(strategy.freqai.decisions.probabilities, pair) if sees else None,
    )


def _predict_given(strategy: IStrategy, predictions: GivenPredictions) -> None:
    def load() -> None:
        strategy.freqai = predictions
        strategy.freqai_info = strategy.config["freqai"]

    strategy.load_freqAI_model = load


def _watched(strategy: IStrategy) -> tuple[dict[str, pd.DataFrame], list[Any]]:
    """Note the strategy's predictions by pair, and the entries that it puts no stake on."""
    predictions: dict[str, pd.DataFrame] = {}
    refused: list[Any] = []
    advise, stake = strategy.advise_all_indicators, strategy.custom_stake_amount
    wanted = ["date", "do_predict", *columns.PROBABILITIES]

    def note_predictions(data: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        frames: dict[str, pd.DataFrame] = advise(data)
        predictions.update({pair: frame[wanted].copy() for pair, frame in frames.items()})
        return frames

    def note_refused(**arguments: Any) -> float:
        amount = float(stake(**arguments))
        if amount <= 0.0:
            refused.append((arguments["pair"], arguments["current_time"]))
        return amount

    strategy.advise_all_indicators = note_predictions
    strategy.custom_stake_amount = note_refused
    return predictions, refused


def _conditions(
    backtesting: Backtesting, strategy: IStrategy, settings: Settings
) -> tuple[str, ...]:
    config = backtesting.config
    return (
        "protections off",
        f"max_open_trades {strategy.max_open_trades:g}",
        f"wallet {_wallet(config)} {config['stake_currency']}",
        f"entry {settings.rules.entry}",
        f"fee {backtesting.fee:.3%}",
    )


def _wallet(config: Mapping[str, Any]) -> str:
    wallet = config["dry_run_wallet"]
    return str(wallet) if isinstance(wallet, Mapping) else f"{wallet:,.0f}"


class _KnownPolicy(Policy):
    """A policy whose probabilities are known row by row, or asked for as the strategy asks."""

    def __init__(self, run: PairBacktest, first_row: int, settings: Settings) -> None:
        self.settings = settings
        self._run = run
        self._first_row = first_row

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the given probabilities, shape (T, 5)."""
        known = self._run.probabilities[self._first_row :]
        assert len(features) == len(known)
        return known

    def probabilities_in(
        self, features: NDArray[np.float32], row: int, state: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Return what the agent answers in a trade, shape (5,); it stays without a prediction."""
        run, row = self._run, self._first_row + row
        assert run.decide is not None
        assert run.market.dates is not None
        return run.decide(run.market.dates[row], state) if run.is_predicted[row] else _NEUTRAL


def _simulated(run: PairBacktest, settings: Settings) -> Iterator[ClosedTrade]:
    """Yield the simulator's trades."""
    first_row = 0
    while len(run.market) - first_row >= settings.window_size + 2:
        policy = _KnownPolicy(run, first_row, settings)
        market = run.market.slice(first_row, len(run.market))
        simulation = simulate(policy, market)
        yield from simulated(simulation.trades, market)
        # The simulator stakes all it has and may be ruined; the backtester then trades on.
        if not simulation.trades or simulation.equity[-1] > EQUITY_FLOOR:
            break
        first_row += simulation.trades[-1].close_row


@dataclass(frozen=True)
class PairComparison:
    """The trades of one pair from both sides: ours are the simulator's.

    Attributes
    ----------
    run : PairBacktest
    trades : list of Match
        In the order of time.
    """

    run: PairBacktest
    trades: list[Match]

    @property
    def unequal(self) -> list[Match]:
        """Those that are not the same on both sides."""
        return [each for each in self.trades if not each.is_equal]

    def costs_of_slippage(self, slippage_bps: float) -> float:
        """Return the sum of what slippage takes from the simulator's trades, as shares of stakes.

        Of a trade it is the profit ratio at the rate that was reached less that at what an exit at
        market gets of it; ``simulator.exits.slipped``.
        """
        trades = [each.ours for each in self.trades if each.ours]
        fee_rate = self.run.market.fee_rate

        def taken(trade: ClosedTrade) -> float:
            side = 1 if trade.side == "long" else -1
            rates = (trade.close_rate, slipped(side, trade.close_rate, slippage_bps))
            reached, got = (
                profit_ratio(side, trade.open_rate, rate, fee_rate, trade.leverage)
                for rate in rates
            )
            return float(reached - got)

        return sum(taken(trade) for trade in trades)

    @property
    def largest_profit_difference(self) -> float:
        """Largest difference of profit ratio between trades that both have; 0 without any."""
        both = [(each.ours, each.theirs) for each in self.trades]
        found = [abs(a.profit_ratio - b.profit_ratio) for a, b in both if a and b]
        return max(found, default=0.0)


def compare(backtested: Backtested) -> dict[str, PairComparison]:
    """Let the simulator trade what the backtester traded, and match their trades by pair."""
    return {
        pair: PairComparison(run, matched(_simulated(run, backtested.settings), run.trades))
        for pair, run in backtested.pairs.items()
    }


def _one_line(error: Exception) -> ParityError:
    return ParityError(f"freqtrade: {' '.join(str(error).split()) or type(error).__name__}")
