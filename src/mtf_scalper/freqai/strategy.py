"""The hybrid strategy: a classic multi-timeframe rule proposes entries, the agent decides exits.

It only translates: signals, features, exits and masks are functions of the package, the same that
the training environment uses. Exits of the agent go through ``custom_exit``, not through exit
signals, because freqtrade ignores an exit signal on a candle that also has an entry signal, and an
entry signal on one that has an exit signal.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from freqtrade.constants import Config
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import timeframe_to_minutes, timeframe_to_prev_date
from freqtrade.persistence import Order, Trade
from freqtrade.strategy import DecimalParameter, IStrategy
from numpy.typing import NDArray
from pandas import DataFrame

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.config import read_settings, trade_rules
from mtf_scalper.freqai.exchange_terms import exchange_option
from mtf_scalper.freqai.rule_frames import included_timeframes, log_added, longer_candles, plots
from mtf_scalper.market import features
from mtf_scalper.market.signals import (
    ENTRY_TIMEFRAMES,
    EntryThresholds,
    atr_stake_fraction,
    classic_entries,
    entry_indicators,
    leverage_for,
)
from mtf_scalper.market.timeframes import entry_timeframes, warmup_candles
from mtf_scalper.simulator.exits import EXIT_CODES, profit_ratio, safety_exit, safety_limits
from mtf_scalper.simulator.masks import action_mask, masked_probabilities
from mtf_scalper.simulator.observation import age_limit, position_state
from mtf_scalper.simulator.types import Action, ExitReason, Side

_LONG_MASK, _SHORT_MASK = (
    np.array([action in (Action.NEUTRAL, exit_) for action in Action])
    for exit_ in (Action.LONG_EXIT, Action.SHORT_EXIT)
)


@dataclass(frozen=True)
class DecisionTable:
    """What the callbacks look up about one pair, by the time of the last closed candle.

    Attributes
    ----------
    dates : ndarray of datetime64[ns], shape (T,)
        Open times of the candles, increasing.
    close, high, low, atr_pct, leverage : ndarray of float64, shape (T,)
    predicted : ndarray of bool, shape (T,)
        Whether the model made a prediction.
    exit_long, exit_short : ndarray of float64, shape (T,)
        Probability of leaving, given that the agent can only leave or stay; 0 where the model
        made no prediction.
    """

    dates: NDArray[np.datetime64]
    close: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    atr_pct: NDArray[np.float64]
    leverage: NDArray[np.float64]
    predicted: NDArray[np.bool_]
    exit_long: NDArray[np.float64]
    exit_short: NDArray[np.float64]

    def last_closed(self, candle: datetime) -> int:
        """Return the row of the last candle that opened before ``candle``, -1 if there is none."""
        return int(np.searchsorted(self.dates, _utc(candle), side="left")) - 1

    def extremes(
        self, opened: datetime, candle: datetime, side: Side, open_rate: float
    ) -> tuple[float, float]:
        """Return best and worst price of a trade, entry and candles before ``candle`` included."""
        rows = slice(int(np.searchsorted(self.dates, _utc(opened))), self.last_closed(candle) + 1)
        highest = float(self.high[rows].max(initial=open_rate))
        lowest = float(self.low[rows].min(initial=open_rate))
        return (highest, lowest) if side is Side.LONG else (lowest, highest)


class HybridStrategy(IStrategy):
    """Classic entries on three timeframes, learned exits, and safety exits that bound the loss.

    The base is the configuration's ``timeframe``, 5m where it has none, the two longer timeframes
    are those of ``entry_timeframes``. ``startup_candle_count`` and ``plot_config`` follow them; a
    subclass or, for the count, the configuration may say otherwise.
    """

    INTERFACE_VERSION = 3

    timeframe = "5m"
    can_short = True
    process_only_new_candles = True
    use_exit_signal = True
    startup_candle_count = features.WARMUP_CANDLES_5M

    minimal_roi = {"0": 0.04, "30": 0.02, "60": 0.01}  # noqa: RUF012 - freqtrade's own interface
    stoploss = -0.10
    max_trade_duration_candles = 48
    emergency_loss = -0.03
    break_even_trigger = 0.015
    break_even_floor = 0.001
    max_leverage = 3.0

    adx_min = DecimalParameter(15.0, 40.0, default=25.0, decimals=1, space="buy")
    rsi_long_min = DecimalParameter(45.0, 70.0, default=55.0, decimals=1, space="buy")
    rsi_short_max = DecimalParameter(30.0, 60.0, default=55.0, decimals=1, space="buy")
    atr_pct_max = DecimalParameter(0.01, 0.10, default=0.05, decimals=3, space="buy")
    exit_confidence = DecimalParameter(0.30, 0.90, default=0.50, decimals=2, space="sell")

    plot_config = plots(ENTRY_TIMEFRAMES)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._tables: dict[str, DecisionTable] = {}
        self._included = included_timeframes(config)
        base = str(config.get("timeframe") or self.timeframe)
        try:
            self._timeframes = entry_timeframes(base, self._included)
        except MtfScalperError as error:
            raise OperationalException(str(error)) from None
        if type(self).startup_candle_count == HybridStrategy.startup_candle_count:
            self.startup_candle_count = warmup_candles(self._timeframes)
        if type(self).plot_config is HybridStrategy.plot_config:
            self.plot_config = plots(self._timeframes)

    @property
    def protections(self) -> list[dict[str, Any]]:
        """Return freqtrade protections, active with ``--enable-protections``, live and dry."""
        return [
            {"method": "CooldownPeriod", "stop_duration_candles": 2},
            {
                "method": "StoplossGuard",
                "lookback_period_candles": 48,
                "trade_limit": 3,
                "stop_duration_candles": 24,
                "only_per_pair": False,
            },
            {
                "method": "MaxDrawdown",
                "lookback_period_candles": 288,
                "trade_limit": 10,
                "stop_duration_candles": 48,
                "max_allowed_drawdown": 0.10,
            },
        ]

    def bot_start(self, **kwargs: Any) -> None:
        """Read the rules of a trade once."""
        try:
            self._rules = trade_rules(self.config, self)
            self._limits = safety_limits(self._rules)
            self._settings = read_settings(self.config, self._rules)
        except MtfScalperError as error:
            raise OperationalException(str(error)) from None
        log_added(self._timeframes, self._included)

    def bot_loop_start(self, current_time: datetime, **kwargs: Any) -> None:
        """Tell the run's record; a strategy that overrides this calls it."""
        record = getattr(self.freqai, "record", None)
        if record is not None:
            record.loop_started()

    def order_filled(
        self, pair: str, trade: Trade, order: Order, current_time: datetime, **kwargs: Any
    ) -> None:
        """Tell the run's record; a strategy that overrides this calls it."""
        record = getattr(self.freqai, "record", None)
        if record is not None:
            record.order_filled()

    def informative_pairs(self) -> list[tuple[str, str, str]]:
        """Ask for funding rates and mark prices, which training charges."""
        if self.dp is None or self.config.get("trading_mode") != "futures":
            return []
        exchange = self.dp._exchange  # freqtrade offers no public way to it
        marks = exchange_option(exchange, "mark_ohlcv_price", "mark")
        sources = (
            (exchange_option(exchange, "mark_ohlcv_timeframe", "1h"), marks),
            (exchange_option(exchange, "funding_fee_timeframe", "1h"), "funding_rate"),
        )
        return [(pair, *source) for pair in self.dp.current_whitelist() for source in sources]

    def feature_engineering_expand_all(
        self, dataframe: DataFrame, period: int, metadata: dict[str, Any], **kwargs: Any
    ) -> DataFrame:
        """Add the features of every timeframe and period."""
        return features.expand_all(dataframe, period)

    def feature_engineering_expand_basic(
        self, dataframe: DataFrame, metadata: dict[str, Any], **kwargs: Any
    ) -> DataFrame:
        """Add the features of every timeframe."""
        return features.expand_basic(dataframe)

    def feature_engineering_standard(
        self, dataframe: DataFrame, metadata: dict[str, Any], **kwargs: Any
    ) -> DataFrame:
        """Add features of the base, raw prices, and the entries and leverage for training."""
        indicators = self._indicators(dataframe, metadata["pair"])
        long, short = classic_entries(indicators, self._thresholds(), self._timeframes)
        extra = {name: dataframe[name.removeprefix("%-raw_")] for name in columns.RAW_PRICES}
        extra[columns.ENTRY_LONG] = pd.Series(long, index=dataframe.index)
        extra[columns.ENTRY_SHORT] = pd.Series(short, index=dataframe.index)
        extra[columns.LEVERAGE] = pd.Series(
            leverage_for(indicators, self.max_leverage), index=dataframe.index
        )
        extra[columns.ATR_PCT] = indicators[f"atr_pct_{self._timeframes[0]}"]
        frame = features.standard(dataframe)
        return pd.concat([frame, DataFrame(extra)], axis=1)

    def set_freqai_targets(
        self, dataframe: DataFrame, metadata: dict[str, Any], **kwargs: Any
    ) -> DataFrame:
        """Name the columns that the model predicts; an agent has no targets."""
        targets = DataFrame(0.0, index=dataframe.index, columns=list(columns.PREDICTIONS))
        return pd.concat([dataframe, targets], axis=1)

    def populate_indicators(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        """Let FreqAI train and predict, then add the indicators of the entry rule."""
        dataframe = self.freqai.start(dataframe, metadata, self)
        training_only = [
            *(columns.ENTRY_LONG, columns.ENTRY_SHORT),
            *(columns.LEVERAGE, columns.ATR_PCT),
        ]
        dataframe = dataframe.drop(columns=training_only, errors="ignore")
        indicators = self._indicators(dataframe, metadata["pair"])
        leverage = pd.Series(leverage_for(indicators, self.max_leverage), index=dataframe.index)
        return pd.concat([dataframe, indicators, leverage.rename(columns.LEVERAGE)], axis=1)

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        """Enter where the classic rule fires and the agent, where it is asked, agrees."""
        long, short = classic_entries(dataframe, self._thresholds(), self._timeframes)
        probabilities = _probabilities(dataframe)
        predicted = probabilities.sum(axis=1) > 0.0
        entry = self._rules.entry
        assert entry is not None  # read from the configuration, which has a default
        by_signal = np.stack(
            [
                action_mask(
                    Side.FLAT,
                    entry=entry,
                    can_short=self._rules.can_short,
                    signal_long=bool(code & 1),
                    signal_short=bool(code & 2),
                )
                for code in range(4)
            ]
        )
        masks = by_signal[long.astype(int) + 2 * short.astype(int)]
        action = masked_probabilities(probabilities, masks).argmax(axis=1)
        dataframe["enter_long"] = (predicted & (action == Action.LONG_ENTER)).astype(int)
        dataframe["enter_short"] = (predicted & (action == Action.SHORT_ENTER)).astype(int)
        dataframe["enter_tag"] = np.where(
            dataframe["enter_long"] + dataframe["enter_short"] > 0, str(entry), ""
        )
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        """Note the agent's exit probabilities; ``custom_exit`` acts on them."""
        probabilities = _probabilities(dataframe)
        predicted = probabilities.sum(axis=1) > 0.0
        for name, mask, action in (
            ("agent_exit_long", _LONG_MASK, Action.LONG_EXIT),
            ("agent_exit_short", _SHORT_MASK, Action.SHORT_EXIT),
        ):
            masks = np.broadcast_to(mask, probabilities.shape)
            leave = masked_probabilities(probabilities, masks)[:, action]
            dataframe[name] = np.where(predicted, leave, 0.0)
        dataframe["exit_long"] = 0
        dataframe["exit_short"] = 0
        self._tables[metadata["pair"]] = DecisionTable(
            dates=dataframe["date"].dt.tz_localize(None).to_numpy(dtype="datetime64[ns]"),
            close=dataframe["close"].to_numpy(dtype=np.float64),
            high=dataframe["high"].to_numpy(dtype=np.float64),
            low=dataframe["low"].to_numpy(dtype=np.float64),
            atr_pct=dataframe[f"atr_pct_{self._timeframes[0]}"].to_numpy(dtype=np.float64),
            leverage=dataframe[columns.LEVERAGE].to_numpy(dtype=np.float64),
            predicted=predicted,
            exit_long=dataframe["agent_exit_long"].to_numpy(dtype=np.float64),
            exit_short=dataframe["agent_exit_short"].to_numpy(dtype=np.float64),
        )
        return dataframe

    def custom_exit(
        self,
        pair: str,
        trade: Trade,
        current_time: datetime,
        current_rate: float,
        current_profit: float,
        **kwargs: Any,
    ) -> str | None:
        """Leave where the agent decided so at the last close, or where a safety rule demands it."""
        table = self._tables[pair]
        candle = timeframe_to_prev_date(self.timeframe, current_time)
        opened = timeframe_to_prev_date(self.timeframe, trade.open_date_utc)
        side = Side.SHORT if trade.is_short else Side.LONG
        age_candles = int(
            (candle - opened) / timedelta(minutes=timeframe_to_minutes(self.timeframe))
        )
        row = table.last_closed(candle)
        best_rate, worst_rate = table.extremes(opened, candle, side, trade.open_rate)
        if age_candles > 0 and row >= 0:
            state = position_state(
                side,
                trade.open_rate,
                table.close[row],
                best_rate,
                worst_rate,
                age_candles=age_candles,
                age_limit=age_limit(self._settings),
                fee_rate=trade.fee_open,
                leverage=trade.leverage,
            )
            if self._leave(pair, row, side, state) > float(self.exit_confidence.value):
                return str(ExitReason.AGENT)
        best = profit_ratio(
            int(side), trade.open_rate, best_rate, trade.fee_open, float(trade.leverage)
        )
        code = safety_exit(age_candles, current_profit, best, *self._limits)
        return EXIT_CODES.get(code)

    def _leave(self, pair: str, row: int, side: Side, state: NDArray[np.float32]) -> float:
        """Return the agent's probability of leaving at the close of a row."""
        table = self._tables[pair]
        if not self._settings.add_state_info:
            return float((table.exit_short if side is Side.SHORT else table.exit_long)[row])
        if not table.predicted[row]:
            return 0.0
        try:
            chances = self.freqai.decisions.probabilities(pair, table.dates[row], state)
        except MtfScalperError as error:
            raise OperationalException(str(error)) from None
        mask, action = (
            (_SHORT_MASK, Action.SHORT_EXIT)
            if side is Side.SHORT
            else (_LONG_MASK, Action.LONG_EXIT)
        )
        return float(masked_probabilities(chances, mask)[action])

    def confirm_trade_entry(
        self,
        pair: str,
        order_type: str,
        amount: float,
        rate: float,
        time_in_force: str,
        current_time: datetime,
        entry_tag: str | None,
        side: str,
        **kwargs: Any,
    ) -> bool:
        """Refuse an entry on the candle on which the pair's last trade closed.

        freqtrade's backtester would reverse a position inside one candle, at a price from before
        the close; the decision to do so was made while the other trade was open.
        """
        candle = timeframe_to_prev_date(self.timeframe, current_time)
        just_before = candle - timedelta(seconds=1)
        return not Trade.get_trades_proxy(pair=pair, is_open=False, close_date=just_before)

    def leverage(
        self,
        pair: str,
        current_time: datetime,
        current_rate: float,
        proposed_leverage: float,
        max_leverage: float,
        entry_tag: str | None,
        side: str,
        **kwargs: Any,
    ) -> float:
        """Return the leverage of the last closed candle, lower the wilder the market."""
        table, row = self._tables[pair], self._last_row(pair, current_time)
        return min(float(table.leverage[row]), max_leverage) if row >= 0 else 1.0

    def custom_stake_amount(
        self,
        pair: str,
        current_time: datetime,
        current_rate: float,
        proposed_stake: float,
        min_stake: float | None,
        max_stake: float,
        leverage: float,
        entry_tag: str | None,
        side: str,
        **kwargs: Any,
    ) -> float:
        """Risk 2% of equity on a move of three ATRs, with at most 5% of equity in the trade."""
        row = self._last_row(pair, current_time)
        if row < 0 or self.wallets is None:
            return 0.0
        fraction = atr_stake_fraction(float(self._tables[pair].atr_pct[row]), leverage)
        stake = fraction * float(self.wallets.get_total_stake_amount())
        return min(stake, max_stake) if stake >= (min_stake or 0.0) else 0.0

    def _indicators(self, dataframe: DataFrame, pair: str) -> DataFrame:
        """Return the indicators of the entry rule."""
        higher = longer_candles(self.dp, dataframe, pair, self._timeframes, self._included)
        return entry_indicators(dataframe, self._timeframes, higher=higher)

    def _last_row(self, pair: str, current_time: datetime) -> int:
        candle = timeframe_to_prev_date(self.timeframe, current_time)
        return self._tables[pair].last_closed(candle)

    def _thresholds(self) -> EntryThresholds:
        return EntryThresholds(
            adx_min=float(self.adx_min.value),
            rsi_long_min=float(self.rsi_long_min.value),
            rsi_short_max=float(self.rsi_short_max.value),
            atr_pct_max=float(self.atr_pct_max.value),
        )


def _probabilities(dataframe: DataFrame) -> NDArray[np.float64]:
    """Return the model's probabilities, shape (T, 5); zeros where it made no prediction."""
    names = list(columns.PROBABILITIES)
    if not set(names) <= set(dataframe.columns):
        return np.zeros((len(dataframe), len(names)))
    valid = dataframe["do_predict"].to_numpy() == 1
    return np.where(valid[:, None], dataframe[names].to_numpy(dtype=np.float64), 0.0)


def _utc(moment: datetime) -> np.datetime64:
    return np.datetime64(moment.replace(tzinfo=None), "ns")
