"""The hybrid strategy: a classic multi-timeframe rule proposes entries, the agent decides exits.

It only translates: signals, features, exits and masks are functions of the package, the same that
the training environment uses. Exits of the agent go through ``custom_exit``, not through exit
signals, because freqtrade ignores an exit signal on a candle that also has an entry signal, and an
entry signal on one that has an exit signal.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from freqtrade.constants import Config
from freqtrade.enums import TRADE_MODES, CandleType
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import timeframe_to_prev_date, timeframe_to_seconds
from freqtrade.persistence import Order, Trade
from freqtrade.strategy import DecimalParameter, IStrategy
from pandas import DataFrame

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.freqai import columns, opinions
from mtf_scalper.freqai.analyses import Analyses, answering, reason_of, without_opinion
from mtf_scalper.freqai.config import read_settings, trade_rules
from mtf_scalper.freqai.decision_table import DecisionTable, table_of
from mtf_scalper.freqai.exchange_guard import guard
from mtf_scalper.freqai.exchange_terms import exchange_option
from mtf_scalper.freqai.open_trade import Life, filled_at, life_of, safety_reason
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
from mtf_scalper.simulator.exits import safety_limits
from mtf_scalper.simulator.observation import age_limit, position_state
from mtf_scalper.simulator.types import Action, ExitReason, Side

logger = logging.getLogger(__name__)

_BOUNDING = ("exit", "stoploss", "emergency_exit")
"""Orders that bound a loss."""


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
    order_types = {  # noqa: RUF012 - freqtrade's own interface
        "entry": "limit",
        **dict.fromkeys((*_BOUNDING, "force_exit"), "market"),
        "stoploss_on_exchange": False,
    }
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
        self._analyses = Analyses()
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
        if not getattr(type(self), "ignore_buying_expired_candle_after", 0):
            self.ignore_buying_expired_candle_after = entry_seconds(base)

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
        if self._is_running():
            guard(self.dp._exchange)  # freqtrade offers no public way to it
        resting = [name for name in _BOUNDING if self.order_types.get(name, "market") != "market"]
        if resting and self._is_running():
            logger.warning(
                "order_types: %s wait at a limit, which a fall may never come back to; set them to "
                "'market', and exit_pricing.price_side to 'other'",
                ", ".join(resting),
            )

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

    def analyze(self, pairs: list[str]) -> None:
        """Analyse a running bot's pairs, and say which have no candles."""
        super().analyze(pairs)
        kind = self.config.get("candle_type_def", CandleType.SPOT)
        try:
            self._analyses.look(
                pairs,
                timeframe_to_prev_date(self.timeframe),
                self._step(),
                lambda pair: self.dp.ohlcv(pair, self.timeframe, copy=False, candle_type=kind),
            )
        except Exception as error:  # exits come after this, and freqtrade would not get there
            logger.warning("the candles of the pairs cannot be looked at: %s", reason_of(error))

    def analyze_ticker(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        """Analyse a running bot's candle; one that fails has no opinion, nor has the one before."""
        try:
            analysed: DataFrame = super().analyze_ticker(dataframe, metadata)
        except Exception as error:  # FreqAI, the exchange's candles, a method of the user's own
            if not self._is_running():  # a plot, the web interface
                raise
            candle = dataframe["date"].iloc[-1].to_pydatetime()
            self._analyses.failed(metadata["pair"], candle, error)
            return without_opinion(dataframe)
        return analysed

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
        entry = self._rules.entry
        assert entry is not None  # read from the configuration, which has a default
        action = opinions.entry_actions(dataframe, long, short, entry, self._rules.can_short)
        dataframe["enter_long"] = (action == Action.LONG_ENTER).astype(int)
        dataframe["enter_short"] = (action == Action.SHORT_ENTER).astype(int)
        dataframe["enter_tag"] = np.where(
            dataframe["enter_long"] + dataframe["enter_short"] > 0, str(entry), ""
        )
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        """Note the agent's exit probabilities; ``custom_exit`` acts on them."""
        for side, name in ((Side.LONG, "agent_exit_long"), (Side.SHORT, "agent_exit_short")):
            dataframe[name] = opinions.exit_chances(dataframe, side)
        dataframe["exit_long"] = 0
        dataframe["exit_short"] = 0
        atr_pct = dataframe[f"atr_pct_{self._timeframes[0]}"]
        self._tables[metadata["pair"]] = table_of(dataframe, atr_pct, opinions.predicted(dataframe))
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
        table = self._tables.get(pair)
        life = life_of(trade, current_time, self.timeframe, table, is_running=self._is_running())
        forced = safety_reason(trade, life, current_profit, self._limits)
        if table is None or not life.age_candles:
            return forced
        try:
            leaves = self._agent_leaves(pair, trade, life, table)
        except Exception as error:  # whatever it is, the safety rules have been asked
            logger.warning("%s: the agent cannot be asked: %s", pair, reason_of(error))
            leaves = False
        return str(ExitReason.AGENT) if leaves else forced

    def _agent_leaves(self, pair: str, trade: Trade, life: Life, table: DecisionTable) -> bool:
        """Return whether the agent decided at the last close to leave; without one it did not."""
        row = table.last_closed(life.candle)
        # A bot whose last candle was not analysed holds decisions of earlier ones.
        is_late = self._is_running() and not table.reaches(life.candle, life.candle - self._step())
        if row < 0 or is_late or not table.predicted[row]:
            return False
        threshold = float(self.exit_confidence.value)
        if not self._settings.add_state_info:
            leave = table.exit_short if life.side is Side.SHORT else table.exit_long
            return bool(leave[row] > threshold)
        state = position_state(
            life.side,
            trade.open_rate,
            table.close[row],
            life.best_rate,
            life.worst_rate,
            age_candles=life.age_candles,
            age_limit=age_limit(self._settings),
            fee_rate=trade.fee_open,
            leverage=trade.leverage,
        )
        chances = self.freqai.decisions.probabilities(pair, table.dates[row], state)
        return opinions.exit_chance(chances, life.side) > threshold

    def min_roi_reached(self, trade: Trade, current_profit: float, current_time: datetime) -> bool:
        """Count the minutes of the ROI ladder from the fill, where freqtrade takes the order's."""
        minutes = int((current_time - filled_at(trade)).total_seconds() // 60)
        _, ratio = self.min_roi_reached_entry(trade, minutes, current_time)
        return ratio is not None and current_profit > ratio

    def confirm_trade_exit(
        self,
        pair: str,
        trade: Trade,
        order_type: str,
        amount: float,
        rate: float,
        time_in_force: str,
        exit_reason: str,
        current_time: datetime,
        **kwargs: Any,
    ) -> bool:
        """Never refuse: where price passes stop and liquidation at once, freqtrade says stop."""
        return True

    @answering(otherwise=False)
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
        table, row = self._last_row(pair, current_time)
        return min(float(table.leverage[row]), max_leverage) if table is not None else 1.0

    @answering(otherwise=0.0)
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
        table, row = self._last_row(pair, current_time)
        if table is None or self.wallets is None:
            return 0.0
        fraction = atr_stake_fraction(float(table.atr_pct[row]), leverage)
        stake = fraction * float(self.wallets.get_total_stake_amount())
        return min(stake, max_stake) if stake >= (min_stake or 0.0) else 0.0

    def _indicators(self, dataframe: DataFrame, pair: str) -> DataFrame:
        """Return the indicators of the entry rule."""
        higher = longer_candles(self.dp, dataframe, pair, self._timeframes, self._included)
        return entry_indicators(dataframe, self._timeframes, higher=higher)

    def _last_row(self, pair: str, current_time: datetime) -> tuple[DecisionTable | None, int]:
        """Return where the last closed candle stands; no table where none has closed yet."""
        table = self._tables.get(pair)
        candle = timeframe_to_prev_date(self.timeframe, current_time)
        row = -1 if table is None else table.last_closed(candle)
        return (table, row) if row >= 0 else (None, row)

    def _is_running(self) -> bool:
        """Return whether a bot trades with this, dry or live."""
        provider = getattr(self, "dp", None)  # freqtrade gives it after the constructor
        return provider is not None and provider.runmode in TRADE_MODES

    def _step(self) -> timedelta:
        return timedelta(seconds=timeframe_to_seconds(self.timeframe))

    def _thresholds(self) -> EntryThresholds:
        return EntryThresholds(
            adx_min=float(self.adx_min.value),
            rsi_long_min=float(self.rsi_long_min.value),
            rsi_short_max=float(self.rsi_short_max.value),
            atr_pct_max=float(self.atr_pct_max.value),
        )


def entry_seconds(timeframe: str) -> int:
    """Return how long after a candle's close its entry is taken: a quarter of one, at least 30 s.

    Entries are tested at the open; what comes much later is another trade. freqtrade warns where
    an analysis takes longer than a quarter.
    """
    return max(int(timeframe_to_seconds(timeframe)) // 4, 30)
