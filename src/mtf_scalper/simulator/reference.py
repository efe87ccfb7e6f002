"""The reference environment: a trade's life in plain Python, the specification of the simulator.

Time. Row ``t`` is the candle that opens at time ``t``. A decision is made at its close and sees
rows ``t - window + 1 .. t``; its order fills at ``open[t + 1]``, as in freqtrade's backtester. One
step decides at row ``t`` and lives through candle ``t + 1``:

1. an entry fills at its open;
2. an exit of the agent, or one that the safety rules demand at that open, fills at its open;
3. otherwise stoploss or liquidation, then ROI, then a stop that has trailed, are looked for inside
   the candle;
4. on the last candle a trade still open is closed at its open, and none is opened (but for a market
   that ends before others do, where freqtrade opens one there too).

Exits are orders. One whose price, rounded to the step of the entry's candle, lies outside the
candle does not fill: the trade stays open, the order waits for a candle that reaches it, and a
later exit takes its place. So it is with freqtrade, where the step of a trade is coarser than that
of its exit's month, or a trailing stop is hit in the candle of the entry.

The account is marked at the next open as if the trade closed there, both fees included, so that
the log returns of an episode sum to the log of its final equity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError
from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, Settings
from mtf_scalper.simulator import exits
from mtf_scalper.simulator.masks import action_mask
from mtf_scalper.simulator.observation import age_limit, flat_state, n_extras, position_state
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.rewards import RewardState, parameters_of
from mtf_scalper.simulator.types import N_ACTIONS, Action, ExitReason, Side, Trade
from mtf_scalper.simulator.user_rewards import reward_of


class _Candle(NamedTuple):
    """Its prices as ``exits`` takes them."""

    open: float
    high: float
    low: float


@dataclass(frozen=True)
class _ExitOrder:
    """An exit that no candle has reached yet."""

    row: int
    rate: float
    reason: ExitReason


@dataclass
class _Position:
    """The open trade."""

    side: int
    open_row: int
    open_rate: float
    leverage: float
    best_rate: float
    worst_rate: float
    tick_size: float
    liquidation: float
    stop: float | None
    has_trailed: bool = False
    order: _ExitOrder | None = None
    funding_paid: float = 0.0


class ReferenceEnv(gym.Env[NDArray[np.float32], Any]):
    """Trade one market, one candle per step.

    Parameters
    ----------
    market : Market
        With at least ``settings.window_size + 2`` candles.
    settings : Settings
        Uses ``window_size``, ``add_state_info``, ``reward``, ``reward_parameters``, ``rules``,
        ``max_episode_steps`` and ``randomize_starting_position``.
    first_row : int, optional
        Decision row of the first episode; later ones start at the first row that has a window.
        Several environments start on their own stretches of the data by this.

    Notes
    -----
    Observation: ``market.features[t - window + 1 : t + 1]`` as one float32 vector, followed by the
    position's state and the action mask, see ``observation``.
    Actions: freqtrade's five. An invalid action is executed as the first valid one.
    An episode terminates with the data, or once equity has fallen by the maximum drawdown; it is
    truncated after ``max_episode_steps``.
    """

    def __init__(self, market: Market, settings: Settings, *, first_row: int | None = None) -> None:
        prepared, window = prepare(market, settings), settings.window_size
        self.market = market
        self.settings = prepared.settings
        self.rules = prepared.rules
        length = window * market.n_features + n_extras(settings)
        self.observation_space = spaces.Box(-np.inf, np.inf, (length,))
        self.action_space = spaces.Discrete(N_ACTIONS)
        self.trades: list[Trade] = []
        # Nothing compiled is asked for here: it takes 40 MB in each environment's process.
        self._roi = exits.roi_ladder_of(prepared.rules)
        self._numbers = exits.numbers_of(prepared.rules).view(np.recarray)[0]
        self._limits = exits.safety_limits(settings.rules)
        self._reward = reward_of(settings.reward)
        self._reward_parameters = parameters_of(settings)
        self._last_row = len(market) - 1
        self._first_row = first_row
        self.equity = 1.0
        self._start(window - 1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; ``options={"row": t}`` chooses its first decision row."""
        super().reset(seed=seed)
        lowest = self.settings.window_size - 1
        row = lowest
        if options and "row" in options:
            row = int(options["row"])
        elif self._first_row is not None:
            row = self._first_row
        elif self.settings.randomize_starting_position:
            row = int(self.np_random.integers(lowest, max(lowest + 1, len(self.market) // 4)))
        self._first_row = None
        if not lowest <= row < self._last_row:
            raise MarketError(
                f"{self.market.pair}: an episode cannot start at row {row}; "
                f"rows {lowest} to {self._last_row - 1} are possible"
            )
        self._start(row)
        return self._observation(), self._info()

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are valid now: bool, shape (5,)."""
        return action_mask(
            self.side,
            entry=EntryMode(str(self.rules.entry)),
            can_short=self.rules.can_short,
            signal_long=bool(self.market.entry_long[self.row]),
            signal_short=bool(self.market.entry_short[self.row]),
            can_enter=self.row + 1 < self._last_row + self.market.ends_early,
        )

    def position_state(self) -> NDArray[np.float32]:
        """Return the state of the position at this row's close: float32, shape (5,)."""
        position = self._position
        if position is None:
            return flat_state()
        return position_state(
            position.side,
            position.open_rate,
            float(self.market.ohlc[self.row, 3]),
            position.best_rate,
            position.worst_rate,
            age_candles=self.row + 1 - position.open_row,
            age_limit=age_limit(self.settings),
            fee_rate=self.market.fee_rate,
            leverage=position.leverage,
        )

    @property
    def side(self) -> Side:
        """Position held now."""
        return Side(self._position.side) if self._position else Side.FLAT

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Decide at this row's close and live through the next candle."""
        mask = self.action_masks()
        side_before = self.side
        is_valid = bool(mask[action])
        executed = Action(action) if is_valid else Action(int(np.argmax(mask)))
        self.row += 1
        if executed in (Action.LONG_ENTER, Action.SHORT_ENTER):
            self._enter(Side.LONG if executed is Action.LONG_ENTER else Side.SHORT)
        position, trade = self._position, None
        if position is not None:
            trade = self._live_through(position, executed in (Action.LONG_EXIT, Action.SHORT_EXIT))
        equity_before, self.equity = self.equity, self._marked_equity()
        state = RewardState(
            action=int(action),
            is_valid=is_valid,
            side_before=side_before,
            side_after=self.side,
            log_return=math.log(self.equity / equity_before),
            **self._trade_state(position, trade),
        )
        reward = self._reward(state, self._reward_parameters)
        info = self._info(executed=executed, log_return=state.log_return, trade=trade)
        terminated = self.row == self._last_row or self._is_ruined()
        longest = self.settings.max_episode_steps
        truncated = (
            not terminated and longest is not None and self.row - self._started_row >= longest
        )
        return self._observation(), reward, terminated, truncated, info

    def _start(self, row: int) -> None:
        self.row = self._started_row = row
        self.trades = []
        self.equity = 1.0
        self._closed_equity = 1.0
        self._position: _Position | None = None

    def _enter(self, side: Side) -> None:
        rate = float(self.market.ohlc[self.row, 0])
        market, decided = self.market, self.row - 1
        leverage = float(market.leverage[decided])
        multiples = market.liquidation_long if side > 0 else market.liquidation_short
        # freqtrade keeps the step of the month of the entry for all prices of a trade.
        tick = float(market.tick_size[self.row])
        stoploss = self.rules.stoploss
        self._position = _Position(
            side=int(side),
            open_row=self.row,
            open_rate=rate,
            leverage=leverage,
            best_rate=rate,
            worst_rate=rate,
            tick_size=tick,
            liquidation=exits.liquidation_price(
                self._numbers, int(side), rate, leverage, float(multiples[decided]), tick
            ),
            stop=(
                None
                if stoploss is None
                else exits.stop_price(int(side), rate, leverage, stoploss, tick)
            ),
        )

    def _live_through(self, position: _Position, agent_exits: bool) -> Trade | None:
        """Charge funding, look for the exit that comes first, and close the trade at it."""
        position.funding_paid += position.side * float(self.market.funding[self.row])
        if self.row > position.open_row:
            position.funding_paid += position.side * float(self.market.funding_between[self.row])
        self._trail(position)
        exit_ = self._filled(position, self._find_exit(position, agent_exits))
        if exit_ is None:
            _, high, low = self._prices()
            best, worst = exits.best_and_worst(position.side, high, low)
            keep = max if position.side > 0 else min
            drop = min if position.side > 0 else max
            position.best_rate = keep(position.best_rate, best)
            position.worst_rate = drop(position.worst_rate, worst)
            return None
        return self._close(position, *exit_)

    def _trail(self, position: _Position) -> None:
        """Let a trailing stop follow the price; only then may this candle have reached it."""
        if not self.rules.trailing_stop or position.stop is None:
            return
        stop = exits.trailed_stop(
            self._prices(),
            self._numbers,
            position.side,
            position.stop,
            self._best_profit(position),
            position.leverage,
            position.tick_size,
        )
        position.has_trailed |= stop != position.stop
        position.stop = stop

    def _filled(
        self, position: _Position, exit_: tuple[float, ExitReason] | None
    ) -> tuple[float, ExitReason] | None:
        """Place the exit's order, and return price and reason of the one that this candle fills."""
        opened, high, low = self._prices()
        order, timeout = position.order, self.rules.exit_timeout_minutes
        if order is not None and timeout is not None:
            age_minutes = (self.row - order.row) * self.market.timeframe_minutes
            order = None if age_minutes >= timeout else order
        if exit_ is not None and exit_[1] is not ExitReason.END_OF_DATA:
            rate, reason = exits.round_to_tick(exit_[0], position.tick_size), exit_[1]
            is_same = order is not None and order.rate == rate
            order = _ExitOrder(order.row if is_same and order else self.row, rate, reason)
        position.order = order
        if order is not None and low <= order.rate <= high:
            return order.rate, order.reason
        if self.row < self._last_row:
            return None
        return exits.round_to_tick(opened, position.tick_size), ExitReason.END_OF_DATA

    def _prices(self) -> _Candle:
        """Return the candle that is lived through."""
        opened, high, low, _ = self.market.ohlc[self.row].tolist()
        return _Candle(opened, high, low)

    def _best_profit(self, position: _Position) -> float:
        _, high, low = self._prices()
        best, _ = exits.best_and_worst(position.side, high, low)
        return self._profit_at(position, best)

    def _find_exit(self, position: _Position, agent_exits: bool) -> tuple[float, ExitReason] | None:
        opened, _, _ = self._prices()
        if agent_exits:
            return opened, ExitReason.AGENT
        code = exits.safety_exit(
            self.row - position.open_row,
            self._profit_at(position, opened),
            self._profit_at(position, position.best_rate, with_funding=False),
            *self._limits,
        )
        if code != exits.STAY:
            return opened, ExitReason(exits.EXIT_CODES[code])
        inside = (
            self._stop(position) or self._take_profit(position) or self._trailing_stop(position)
        )
        if inside is not None:
            return inside
        return (opened, ExitReason.END_OF_DATA) if self.row == self._last_row else None

    def _stop(self, position: _Position) -> tuple[float, ExitReason] | None:
        side, levels = position.side, []
        opened, high, low = self._prices()
        if position.stop is not None:
            levels.append((position.stop, ExitReason.STOP_LOSS))
            # A stop that has trailed comes after ROI, and before liquidation is asked for.
            if position.has_trailed and exits.is_reached(side, position.stop, high, low):
                return None
        if position.liquidation > 0.0:
            levels.append((position.liquidation, ExitReason.LIQUIDATION))
        for price, reason in levels:
            if exits.is_reached(side, price, high, low):
                return exits.stop_fill(side, price, opened, high, low), reason
        return None

    def _trailing_stop(self, position: _Position) -> tuple[float, ExitReason] | None:
        side, stop = position.side, position.stop
        _, high, low = self._prices()
        if stop is None or not position.has_trailed or not exits.is_reached(side, stop, high, low):
            return None
        rate = exits.trailing_fill(
            self._prices(),
            self._numbers,
            side,
            stop,
            self.row == position.open_row,
            self._best_profit(position),
            position.leverage,
        )
        return rate, ExitReason.TRAILING_STOP

    def _take_profit(self, position: _Position) -> tuple[float, ExitReason] | None:
        minutes = self.market.timeframe_minutes
        age_minutes = (self.row - position.open_row) * minutes
        rung = exits.rung_after(self._roi, age_minutes)
        if rung < 0:
            return None
        rung_minutes, ratio = self._roi[rung].tolist()
        if self._best_profit(position) <= ratio:
            return None
        rate = exits.roi_rate(
            position.side,
            position.open_rate,
            ratio,
            self.market.fee_rate,
            position.leverage,
            position.funding_paid,
        )
        filled = exits.roi_fill(
            self._prices(), position.side, rate, rung_minutes, ratio, age_minutes, minutes
        )
        return filled, ExitReason.ROI

    def _close(self, position: _Position, rate: float, reason: ExitReason) -> Trade:
        rate = exits.slipped(position.side, rate, self.rules.slippage_bps)
        profit = self._profit_at(position, rate)
        trade = Trade(
            pair=self.market.pair,
            side=Side(position.side),
            open_row=position.open_row,
            close_row=self.row,
            open_rate=position.open_rate,
            close_rate=rate,
            leverage=position.leverage,
            profit_ratio=profit,
            exit_reason=reason,
        )
        self.trades.append(trade)
        self._closed_equity *= max(1.0 + profit, exits.EQUITY_FLOOR)
        self._position = None
        return trade

    def _profit_at(self, position: _Position, rate: float, *, with_funding: bool = True) -> float:
        profit: float = exits.profit_ratio(
            position.side,
            position.open_rate,
            rate,
            self.market.fee_rate,
            position.leverage,
            position.funding_paid if with_funding else 0.0,
        )
        return profit

    def _profit_if_closed(self, position: _Position) -> float:
        """Return the profit of a trade that would be left at the next open."""
        rate = float(self.market.ohlc[self.row + 1, 0])
        return self._profit_at(
            position, exits.slipped(position.side, rate, self.rules.slippage_bps)
        )

    def _marked_equity(self) -> float:
        if self._position is None:
            return self._closed_equity
        profit = self._profit_if_closed(self._position)
        return self._closed_equity * max(1.0 + profit, exits.EQUITY_FLOOR)

    def _trade_state(self, position: _Position | None, trade: Trade | None) -> dict[str, Any]:
        limit = age_limit(self.settings)
        flat: dict[str, Any] = {"profit": 0.0, "best_profit": 0.0, "worst_profit": 0.0}
        common = {"closed": trade is not None, "max_age_candles": limit, "age_candles": 0}
        if position is None:
            return {**flat, **common}
        profit = trade.profit_ratio if trade is not None else self._profit_if_closed(position)
        best = self._profit_at(position, position.best_rate, with_funding=False)
        worst = self._profit_at(position, position.worst_rate, with_funding=False)
        return {
            **common,
            "profit": profit,
            "best_profit": max(best, profit),
            "worst_profit": min(worst, profit),
            "age_candles": self.row - position.open_row,
        }

    def _is_ruined(self) -> bool:
        drawdown = self.rules.max_training_drawdown
        if drawdown is not None and self.equity <= 1.0 - drawdown:
            return True
        # A trade that is lost at the next open is closed there first, as the backtester does.
        return self._position is None and self.equity <= exits.EQUITY_FLOOR

    def _observation(self) -> NDArray[np.float32]:
        start = self.row - self.settings.window_size + 1
        window = self.market.features[start : self.row + 1].ravel()
        state = self.position_state() if self.settings.add_state_info else window[:0]
        return np.concatenate([window, state, self.action_masks().astype(np.float32)])

    def _info(
        self,
        executed: Action = Action.NEUTRAL,
        log_return: float = 0.0,
        trade: Trade | None = None,
    ) -> dict[str, Any]:
        info: dict[str, Any] = {
            "row": self.row,
            "side": int(self.side),
            "equity": self.equity,
            "executed": int(executed),
            "log_return": log_return,
        }
        if trade is not None:
            info["trade"] = trade
        return info
