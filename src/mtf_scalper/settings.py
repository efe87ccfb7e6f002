"""One frozen, validated object that carries every setting of a training run.

``Settings`` holds the recipe (environments, network, PPO) and ``TradeRules`` the rules of a
trade's life. Both refuse unknown keys and name the nearest known one. They are read once, at the
boundary, and trusted inside.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mtf_scalper.errors import SettingsError
from mtf_scalper.related_keys import harmless, nearest, unknown_key

if TYPE_CHECKING:
    from mtf_scalper.market.market import Market

logger = logging.getLogger(__name__)

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
# Upper limits are far beyond what is of use, and below what a machine or a float32 can hold.
Processors = Annotated[int, Field(ge=1, le=1024)]
# Adam moves every weight by up to the rate: a start of weights about 0.1 is gone after one update.
Rate = Annotated[float, Field(gt=0.0, le=0.1)]
Rows = Annotated[int, Field(ge=1, le=1_000_000)]
Passes = Annotated[int, Field(ge=1, le=1_000_000)]
Width = Annotated[int, Field(ge=1, le=8192)]
Coefficient = Annotated[float, Field(ge=-1000.0, le=1000.0)]
Bound = Annotated[float, Field(gt=0.0, le=1e6)]
# Shares of a stake: a hundred times of it is more than any leverage loses, or a trade earns.
Share = Annotated[float, Field(gt=0.0, le=100.0)]
Loss = Annotated[float, Field(lt=0.0, ge=-100.0)]
Level = Annotated[float, Field(ge=-100.0, le=100.0)]
# freqtrade's users switch a rung off by a profit that is never reached: 100 times, or 10,000.
Profit = Annotated[float, Field(ge=-1e6, le=1e6)]
Minutes = Annotated[int, Field(ge=0, le=10**8)]

MAX_WEIGHTS = 100_000_000
"""Of all policies of a training, their first layer counted with one feature."""
MAX_BATCH = 10_000_000
MAX_ROLLOUT = 100_000_000
"""Rows of features, each of about 60 single-precision numbers as shipped: 2.4 and 24 GB."""
MAX_PROCESSES = 128

_ONLY_OFFSET = "trailing_only_offset_is_reached"

N_ACTIONS = 5
"""Actions of the simulator; freqtrade's."""


class EntryMode(StrEnum):
    """Where the agent may enter a trade.

    ``always``: every classic entry is taken, the agent decides the exit only. ``classic``: the
    agent may decline a classic entry. ``any``: the agent may enter at every candle.
    """

    ALWAYS = "always"
    CLASSIC = "classic"
    ANY = "any"


class VecEnvKind(StrEnum):
    """How several environments run.

    ``subproc``: one process each. ``dummy``: one after the other in this process. ``batched``: all
    in one compiled call per step, in this process.
    """

    SUBPROC = "subproc"
    DUMMY = "dummy"
    BATCHED = "batched"


class UntrainablePairs(StrEnum):
    """What becomes of a run in which a pair cannot be trained.

    ``leave_out``: pairs with too few candles, or a price that never moves, are left out and named,
    the others go on. ``leave_out_damaged``: so are pairs with candles or features that cannot be.
    ``fail``: the run ends with the first of them.
    """

    LEAVE_OUT = "leave_out"
    LEAVE_OUT_DAMAGED = "leave_out_damaged"
    FAIL = "fail"


class Advantage(StrEnum):
    """Where the worth of an action comes from.

    ``exact``: computed for every action at every candle, see ``mtf_scalper.simulator.advantages``.
    ``gae``: estimated from rollouts in environments (generalized advantage estimation), as
    stable-baselines3's PPO does.
    """

    EXACT = "exact"
    GAE = "gae"


class PolicyInputs(StrEnum):
    """What a policy's network sees of the market.

    ``forecasts``: of the next returns, see ``mtf_scalper.ppo.forecasts``; with exact advantages.
    ``features``: all features of the window.
    """

    FORECASTS = "forecasts"
    FEATURES = "features"


class Algorithm(StrEnum):
    """What learns: this package's ``FastPPO``, or stable-baselines3's ``PPO`` with the same result.

    ``fast_ppo`` works on batched environments on a CPU; elsewhere ``ppo`` takes its place.
    """

    FAST_PPO = "fast_ppo"
    PPO = "ppo"


class Fills(StrEnum):
    """When and at which price orders fill in training.

    ``backtest``: as in freqtrade's backtester. ``freqtrade_env``: as in freqtrade's own training
    environment (``Base5ActionRLEnv`` and its 4- and 3-action variants), reward and end of
    episodes included.
    """

    BACKTEST = "backtest"
    FREQTRADE_ENV = "freqtrade_env"


class Device(StrEnum):
    """Where the network runs; ``auto`` takes the best that this machine has."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class MatmulPrecision(StrEnum):
    """Precision of the products of float32 matrices, in torch's own words.

    ``medium``: factors and hidden layers are rounded to bfloat16 where the processor has units for
    it, sums are float32. ``highest``: float32 throughout. Other processors do the same with both.
    """

    HIGHEST = "highest"
    MEDIUM = "medium"


class RewardName(StrEnum):
    """Names of the step rewards in ``mtf_scalper.simulator.rewards``."""

    LOG_RETURN = "log_return"
    EXIT_QUALITY = "exit_quality"
    FREQTRADE_EXAMPLE = "freqtrade_example"


class _Frozen(BaseModel):
    """A frozen model that refuses unknown keys and explains every error in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(_one_line(type(self), error)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would make a number or a switch of: true for 1, "8" for 8."""
        kinds = _kinds(cls, str(info.field_name))
        if bool in kinds:
            if not isinstance(value, bool):
                raise PydanticCustomError("switch", "Input should be true or false")
            return value
        if str in kinds or not {int, float} & kinds:
            return value
        for each in _leaves(value):
            if isinstance(each, bool | str | bytes):
                raise PydanticCustomError("number", "Input should be a number")
        return value

    def changed(self, **values: Any) -> Self:
        """Return a validated copy with ``values`` replaced."""
        return type(self)(**{**dict(self), **values})


class RewardParameters(_Frozen):
    """Parameters of the rewards (freqtrade's ``rl_config.model_reward_parameters``).

    Attributes
    ----------
    rr : float
        Risk/reward ratio aimed at.
    profit_aim : float
        Profit ratio aimed at per trade (0.025 is 2.5% of the stake).
    win_reward_factor : float
        Factor on exits above ``profit_aim * rr`` in the ``freqtrade_example`` reward.
    """

    rr: Bound = 1.0
    profit_aim: Bound = 0.025
    win_reward_factor: Annotated[float, Field(ge=-1e6, le=1e6)] = 2.0


class TradeRules(_Frozen):
    """Rules of a trade's life, in freqtrade's own units; ``None`` switches a rule off.

    Attributes
    ----------
    entry : EntryMode, optional
        Where the agent may enter. By default ``classic`` on a market with classic entries, and
        ``any`` on one that has none.
    can_short : bool
        Whether short trades exist.
    stoploss : float or None
        Loss of the stake at which the trade is stopped inside the candle, negative (-0.10).
    trailing_stop : bool
        Whether the stop follows the best price inside each candle, ``stoploss`` away from it; this
        and the next three are freqtrade's and mean what they mean in its backtester.
    trailing_stop_positive : float or None
        Distance of the stop in its place, a share of the stake above zero, once the profit at the
        best price is above ``trailing_stop_positive_offset``.
    trailing_stop_positive_offset : float
    trailing_only_offset_is_reached : bool
        Whether the stop stays where it is while the profit is below the offset.
    minimal_roi : dict of int to float
        Minutes since entry -> profit ratio from which the trade is closed inside the candle.
    max_trade_duration_candles : int or None
        The trade is closed at the open that is this many candles after its entry.
    emergency_loss : float or None
        Profit ratio at the open, negative, below which the trade is closed at that open.
    break_even_trigger : float or None
        Once the best profit ratio inside closed candles has reached this, the trade is closed at
        the first open whose profit ratio is at or below ``break_even_floor``.
    break_even_floor : float
        See ``break_even_trigger``.
    maintenance_margin_rate : float
        Maintenance margin of the exchange's lowest tier; sets the liquidation price.
    is_liquidated : bool
        Whether trades are liquidated at all; a backtest with cross margin is taken for one in which
        none is.
    liquidation_buffer : float
        Share of the distance between entry and liquidation that freqtrade keeps clear.
    exit_timeout_minutes : float or None
        After so many minutes an exit order that no candle has reached is withdrawn (freqtrade's
        ``unfilledtimeout.exit``); see ``simulator.reference``.
    slippage_bps : float
        What every exit loses to the order book, in hundredths of a percent of its price, because
        it goes to market. Charged where an account is marked or a trade closed; rules that look at
        profits see none of it, as in freqtrade.
    exit_confidence : float
        The agent leaves a trade where its probability of that, among valid actions, is above this;
        at 0.5 it takes the more probable one. Wherever a policy trades: where weights are chosen,
        in a report and in a backtest.
    max_training_drawdown : float or None
        An episode ends once equity has fallen below ``1 - max_training_drawdown`` of its start.
    """

    entry: EntryMode | None = None
    can_short: bool = True
    stoploss: Loss | None = None
    trailing_stop: bool = False
    trailing_stop_positive: Share | None = None
    trailing_stop_positive_offset: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    trailing_only_offset_is_reached: bool = False
    minimal_roi: dict[Minutes, Profit] = Field(default_factory=dict)
    max_trade_duration_candles: Count | None = None
    emergency_loss: Loss | None = None
    break_even_trigger: Share | None = None
    break_even_floor: Level = 0.0
    maintenance_margin_rate: Ratio = 0.004
    is_liquidated: bool = True
    liquidation_buffer: Annotated[float, Field(ge=0.0, le=0.99)] = 0.05
    exit_timeout_minutes: Annotated[float, Field(gt=0.0, le=1e8)] | None = None
    slippage_bps: Annotated[float, Field(ge=0.0, le=1000.0)] = 0.0
    exit_confidence: Ratio = 0.5
    max_training_drawdown: Annotated[float, Field(gt=0.0, le=1.0)] | None = None

    def for_market(self, market: Market) -> Self:
        """Return the rules with the entry mode that holds on a market; see ``entry``."""
        if self.entry is not None:
            return self
        has_entries = bool(market.entry_long.any() or market.entry_short.any())
        return self.changed(entry=EntryMode.CLASSIC if has_entries else EntryMode.ANY)

    @model_validator(mode="after")
    def _check_trailing_stop(self) -> Self:
        if self.trailing_stop and self.stoploss is None:
            raise ValueError(
                "trailing_stop: true needs a stoploss, the distance at which it trails"
            )
        if not self.trailing_stop and (
            self.trailing_stop_positive is not None or self.trailing_only_offset_is_reached
        ):
            key = "trailing_stop_positive" if self.trailing_stop_positive else _ONLY_OFFSET
            raise ValueError(f"{key} has no effect without trailing_stop: true")
        return self


class Settings(_Frozen):
    """Everything that a training run depends on, the market aside.

    The defaults are the reference recipe: 8 environments, batch 256, 4,096 steps each per
    rollout, a [512, 512, 256] network and 30 passes over the data.

    Attributes
    ----------
    train_cycles : int
        Passes over the training candles; total steps are ``train_cycles * len(market)``.
    advantage : Advantage
        By default ``exact`` on the CPU, and ``gae`` where something is set that needs rollouts:
        ``algorithm="ppo"``, ``fills="freqtrade_env"``, a limit of training episodes, another
        device than the CPU.
    algorithm : Algorithm
        What learns from rollouts.
    n_envs, vec_env, start_method
        Number and kind of the environments, and how their processes start (``"forkserver"``,
        ``"spawn"`` or ``None`` for the safest that the platform has).
    cpu_count : int
        Torch threads wanted on CPU; lowered to what the machine or its cgroup has.
    interop_threads : int
        Torch threads for independent operators, on CPU.
    window_size : int
        Candles that the network sees (``conv_width`` in FreqAI).
    inference_batch_size : int
        Windows sent through the network at once in prediction.
    random_state : int
        Seed of everything; environment ``rank`` is seeded with ``random_state + rank``.
    randomize_starting_position : bool
        Start every episode at a random candle of the first quarter of the data.
    max_episode_steps : int or None
        An episode is truncated after so many steps; by default it lasts as long as the data.
    add_state_info : bool
        The network also sees the state of its own position, see ``simulator.observation``.
    fills, n_actions
        When orders fill in training; 4 and 3 actions exist with ``fills="freqtrade_env"`` only.
    policy : str or None
        Name of a frozen policy that FreqAI's model trades by instead of training; see
        ``docs/frozen.md``. ``train`` takes no notice of it.
    reward : RewardName or str
        Step reward: a name, or a function of yours as ``"file.py:function"`` or
        ``"package.module:function"``; a function under ``@reward`` becomes such a string.
    allow_uncompiled_reward : bool
        Run the slow reference environments where a function of yours cannot be compiled.
    reward_parameters, rules
        Parameters of the step reward, and the rules of a trade.
    learning_rate ... target_kl
        PPO's own settings, named as in stable-baselines3. Where ``learning_rate`` and
        ``n_epochs`` are not given they go by ``advantage``.
    policy_inputs : PolicyInputs
        Where it is not given it goes by ``advantage``, see ``used_policy_inputs``.
    weight_decay : float
        Decoupled weight decay of Adam. This one and those below: with exact advantages only.
    dropout : float
        Share of the hidden units left out at random while learning.
    weight_average : float
        Decay per step of the average of the weights; the average is judged and kept.
    keep_bias : float
        What the logit of keeping the present position is raised by before the training; where
        forecasts are seen, only where no thresholds decide.
    fee_warmup : float
        Share of the training during which fees rise from zero to what they are. Where it is not
        given it goes by what the policy sees, see ``used_fee_warmup``.
    validation_share : float
        Share of the candles held back to choose weights on, where no validation market is given.
    evidence : float
        Standard errors by which the validation return of weights has to exceed that of the policy
        before the training; where none do, that policy is kept.
    patience : int
        Passes at full fees without a better validation return after which the training ends.
    n_seeds : int
        Policies of different seeds whose probabilities are averaged.
    float32_matmul_precision : MatmulPrecision
        While learning; weights are float32, and so is all arithmetic of predictions.
    """

    train_cycles: Passes = 30
    advantage: Advantage = Advantage.EXACT
    algorithm: Algorithm = Algorithm.FAST_PPO
    cpu_count: Processors = 8
    interop_threads: Processors = 2
    n_envs: Processors = 8
    vec_env: VecEnvKind = VecEnvKind.BATCHED
    start_method: Annotated[str, Field(pattern="^(forkserver|spawn|fork)$")] | None = None
    n_steps: Annotated[int, Field(ge=2, le=1_000_000)] = 4096
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 256
    net_arch: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)] = (512, 512, 256)
    device: Device = Device.AUTO
    window_size: Annotated[int, Field(ge=1, le=10_000)] = 10
    inference_batch_size: Rows = 256
    random_state: Annotated[int, Field(ge=0, lt=2**31)] = 42
    randomize_starting_position: bool = False
    max_episode_steps: Annotated[int, Field(ge=1, le=10**9)] | None = None
    add_state_info: bool = False
    fills: Fills = Fills.BACKTEST
    n_actions: Annotated[int, Field(ge=3, le=5)] = 5
    progress_bar: bool = False
    untrainable_pairs: UntrainablePairs = UntrainablePairs.LEAVE_OUT
    policy: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    reward: RewardName | str = RewardName.LOG_RETURN
    allow_uncompiled_reward: bool = False
    reward_parameters: RewardParameters = RewardParameters()
    rules: TradeRules = TradeRules()

    learning_rate: Rate | None = None
    n_epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    gamma: Ratio = 0.99
    gae_lambda: Ratio = 0.95
    clip_range: Annotated[float, Field(gt=0.0, le=10.0)] = 0.2
    clip_range_vf: Bound | None = None
    normalize_advantage: bool = True
    ent_coef: Coefficient = 0.0
    vf_coef: Annotated[float, Field(ge=0.0, le=1000.0)] = 0.5
    max_grad_norm: Bound = 0.5
    target_kl: Bound | None = None

    policy_inputs: PolicyInputs | None = None
    weight_decay: Annotated[float, Field(ge=0.0, le=1000.0)] = 0.1
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    weight_average: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    keep_bias: Annotated[float, Field(ge=-50.0, le=50.0)] = 2.0
    fee_warmup: Ratio | None = None
    validation_share: Annotated[float, Field(ge=0.0, le=0.5)] = 0.15
    evidence: Annotated[float, Field(ge=0.0, le=1e6)] = 2.0
    patience: Passes = 5
    n_seeds: Annotated[int, Field(ge=1, le=32)] = 1
    float32_matmul_precision: MatmulPrecision = MatmulPrecision.MEDIUM

    @model_validator(mode="before")
    @classmethod
    def _rollouts_where_they_are_needed(cls, values: Any) -> Any:
        needed = _needs_rollouts(values)
        if needed is None:
            return values
        if "advantage" not in values:
            return {**values, "advantage": Advantage.GAE}
        if values["advantage"] == Advantage.EXACT:
            raise ValueError(f"advantage 'exact' does not go with {needed}; use 'gae'")
        return values

    @field_validator("reward", mode="before")
    @classmethod
    def _reward_by_name(cls, value: Any) -> RewardName | str:
        return _reward_name(value)

    @model_validator(mode="after")
    def _minibatches_divide_the_rollout(self) -> Self:
        rollout = self.n_envs * self.n_steps
        if self.batch_size > rollout:
            raise ValueError(f"batch_size {self.batch_size} is larger than a rollout of {rollout}")
        if rollout % self.batch_size:
            raise ValueError(
                f"n_envs * n_steps = {rollout} is not a multiple of batch_size {self.batch_size}; "
                f"the nearest batch_size that divides it is "
                f"{_nearest_divisor(rollout, self.batch_size)}"
            )
        return self

    @model_validator(mode="after")
    def _fits_into_memory(self) -> Self:
        """Refuse what no machine holds, which the single bounds allow together."""
        widths = (self.window_size, *self.net_arch)  # of one feature; there are more
        weights = self.n_seeds * sum(one * next_ for one, next_ in pairwise(widths))
        if weights > MAX_WEIGHTS:
            raise ValueError(
                f"net_arch {list(self.net_arch)} has {weights / 1e6:,.0f} million weights with "
                f"window_size {self.window_size} and n_seeds {self.n_seeds}; at most "
                f"{MAX_WEIGHTS / 1e6:,.0f} million, which take gigabytes with Adam's moments"
            )
        for name in ("batch_size", "inference_batch_size"):
            rows = getattr(self, name)
            if rows * self.window_size > MAX_BATCH:
                raise ValueError(
                    f"{name} {rows:,} with window_size {self.window_size:,} is a batch of "
                    f"{rows * self.window_size:,} rows of features; at most {MAX_BATCH:,}"
                )
        rows = self.rollout_steps * self.window_size
        if self.advantage is Advantage.GAE and rows > MAX_ROLLOUT:
            raise ValueError(
                f"n_steps {self.n_steps:,} with n_envs {self.n_envs} and window_size "
                f"{self.window_size:,} keeps {rows:,} rows of features; at most {MAX_ROLLOUT:,}"
            )
        if self.vec_env is VecEnvKind.SUBPROC and self.n_envs > MAX_PROCESSES:
            raise ValueError(
                f"n_envs {self.n_envs} with vec_env 'subproc' are as many processes of a quarter "
                f"of a gigabyte; at most {MAX_PROCESSES}, or vec_env 'batched'"
            )
        return self

    @model_validator(mode="after")
    def _forecasts_are_for_exact_advantages(self) -> Self:
        if self.policy_inputs is PolicyInputs.FORECASTS and self.advantage is not Advantage.EXACT:
            raise ValueError("policy_inputs 'forecasts' needs advantage 'exact'")
        return self

    @model_validator(mode="after")
    def _fills_and_environment_agree(self) -> Self:
        if self.fills is Fills.BACKTEST:
            if self.n_actions != N_ACTIONS:
                raise ValueError(
                    f"n_actions {self.n_actions} exists with fills 'freqtrade_env' only; "
                    f"fills 'backtest' has {N_ACTIONS}"
                )
            return self
        if self.vec_env is not VecEnvKind.BATCHED:
            raise ValueError("fills 'freqtrade_env' needs vec_env 'batched'")
        if self.reward != RewardName.FREQTRADE_EXAMPLE:
            raise ValueError("fills 'freqtrade_env' needs reward 'freqtrade_example', its own")
        if self.add_state_info:
            raise ValueError("fills 'freqtrade_env' does not go with add_state_info")
        if self.rules.slippage_bps:
            raise ValueError("fills 'freqtrade_env' does not go with slippage_bps")
        return self

    @property
    def used_learning_rate(self) -> float:
        """``learning_rate``, or 1e-3 of features with exact advantages, and 3e-4 else."""
        if self.learning_rate is not None:
            return self.learning_rate
        is_exact = self.advantage is Advantage.EXACT
        return 1e-3 if is_exact and self.used_policy_inputs is PolicyInputs.FEATURES else 3e-4

    @property
    def used_fee_warmup(self) -> float:
        """``fee_warmup``, or 0.4 of features, 0 of forecasts."""
        if self.fee_warmup is not None:
            return self.fee_warmup
        return 0.4 if self.used_policy_inputs is PolicyInputs.FEATURES else 0.0

    @property
    def used_n_epochs(self) -> int:
        """``n_epochs``, or 10 after a rollout, 2 of features, 1 of forecasts."""
        if self.n_epochs is not None:
            return self.n_epochs
        if self.used_policy_inputs is PolicyInputs.FORECASTS:
            return 1
        return 2 if self.advantage is Advantage.EXACT else 10

    @property
    def used_policy_inputs(self) -> PolicyInputs:
        """``policy_inputs``, or features after rollouts and forecasts with exact advantages."""
        if self.policy_inputs is not None:
            return self.policy_inputs
        is_exact = self.advantage is Advantage.EXACT
        return PolicyInputs.FORECASTS if is_exact else PolicyInputs.FEATURES

    @property
    def rollout_steps(self) -> int:
        """Steps of all environments together between two updates."""
        return self.n_envs * self.n_steps

    def for_market(self, market: Market) -> Self:
        """Return the settings with the rules that hold on a market: a part of it need not show."""
        return self.changed(rules=self.rules.for_market(market))

    @classmethod
    def from_freqai(
        cls,
        rl_config: Mapping[str, Any],
        model_training_parameters: Mapping[str, Any],
        *,
        window_size: int,
        rules: TradeRules,
    ) -> Self:
        """Read the settings of a FreqAI configuration.

        A key may stand in ``rl_config`` or in ``model_training_parameters``; where it stands in
        both, ``rl_config`` wins, and where it stands in neither, the default of this class holds.

        Parameters
        ----------
        rl_config, model_training_parameters : mapping
            The two sections as the user wrote them.
        window_size : int
            FreqAI's ``conv_width``.
        rules : TradeRules
            The strategy's rules of a trade.

        Raises
        ------
        SettingsError
            Names the section, the key and the nearest known key.
        """
        written, unknown = _sorted_keys(
            {"model_training_parameters": model_training_parameters, "rl_config": rl_config}
        )
        if unknown:
            raise SettingsError(_told(unknown))
        for key, value in model_training_parameters.items():
            name = _ALIASES.get(key, key)
            # What rl_config overrides has no effect, and is no excuse for nonsense.
            if name in written and not written[name][0].endswith(f"parameters.{key}"):
                _check_alone(cls, name, value, f"freqai.model_training_parameters.{key}")
        _refuse_unsupported(rl_config)
        values = {name: value for name, (_, value) in written.items()}
        places = {name: place for name, (place, _) in written.items()}
        try:
            parameters = values.pop("reward_parameters", None)
            if parameters is not None:
                values["reward_parameters"] = _reward_parameters(parameters, places)
            if "max_training_drawdown" in values:
                rules = rules.changed(max_training_drawdown=values.pop("max_training_drawdown"))
            return cls(**values, window_size=window_size, rules=rules)
        except SettingsError as error:
            raise SettingsError(_with_places(str(error), places)) from None


def _needs_rollouts(values: Mapping[str, Any]) -> str | None:
    """Return the first setting that only trainings from rollouts can follow, None without one."""
    for key, value in (
        ("algorithm", Algorithm.PPO),
        ("fills", Fills.FREQTRADE_ENV),
        ("randomize_starting_position", True),
        ("device", Device.CUDA),
        ("device", Device.MPS),
    ):
        if values.get(key) == value:
            return f"{key} {str(value)!r}"
    if values.get("max_episode_steps") is not None:
        return "max_episode_steps"
    rules = values.get("rules") or {}
    drawdown = rules.get("max_training_drawdown") if isinstance(rules, Mapping) else None
    if isinstance(rules, TradeRules):
        drawdown = rules.max_training_drawdown
    return None if drawdown is None else "max_training_drawdown"


_ALIASES = {
    "model_reward_parameters": "reward_parameters",
    "max_training_drawdown_pct": "max_training_drawdown",
    "seed": "random_state",
}
# What freqtrade itself reads from these sections, or what the strategy turns into trade rules.
_IGNORED = {
    "rl_config": frozenset(
        {
            "model_type",
            "policy_type",
            "drop_ohlc_from_features",
            "max_trade_duration_candles",
            "entry",
            "slippage_bps",
        }
    ),
    "model_training_parameters": frozenset({"verbose"}),
}
_SECTIONS = ("model_training_parameters", "rl_config")
"""Of FreqAI's; what stands in a later one wins."""
_PPO_KEYS = frozenset(
    {
        "learning_rate",
        "n_epochs",
        "gamma",
        "gae_lambda",
        "clip_range",
        "clip_range_vf",
        "normalize_advantage",
        "ent_coef",
        "vf_coef",
        "max_grad_norm",
        "target_kl",
        "n_steps",
        "batch_size",
        "device",
        "random_state",
    }
)
_ACCEPTED = {
    "rl_config": (frozenset(Settings.model_fields) - {"window_size", "rules"})
    | {"max_training_drawdown"},
    "model_training_parameters": _PPO_KEYS,
}


Unknown = tuple[str, str, Any]
"""Section, key and value."""


def _sorted_keys(
    sections: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, tuple[str, Any]], list[Unknown]]:
    """Return what is written, as place and value by a setting's name, and what is not known."""
    written: dict[str, tuple[str, Any]] = {}
    unknown: list[Unknown] = []
    left: dict[str, str] = {}
    for section in _SECTIONS:
        for key, value in sections[section].items():
            place = f"freqai.{section}.{key}"
            name = _ALIASES.get(key, key)
            if name in _ACCEPTED[section]:
                written[name] = (place, value)
            elif key not in _IGNORED[section]:
                reason = harmless(str(key), value)
                if reason is None:
                    unknown.append((section, str(key), value))
                else:
                    left[place] = reason
    if left and not unknown:
        logger.warning(
            "not read: %s", "; ".join(f"{place} ({reason})" for place, reason in left.items())
        )
    return written, unknown


def _told(unknown: list[Unknown]) -> str:
    """Return all unknown keys in one line, each with what may have been meant."""
    known = {section: _known(section) for section in _SECTIONS}
    if len(unknown) == 1:
        ((section, key, _),) = unknown
        return f"freqai.{section}.{key}: {unknown_key(key, section, known[section])}"
    lines: list[str] = []
    far: set[str] = set()
    for section, key, _ in unknown:
        words = unknown_key(key, section, known[section])
        if words.startswith("unknown key; known keys"):
            words, far = "unknown key", {*far, section}
        lines.append(f"freqai.{section}.{key}: {words}")
    ends = [f"known keys of {each} are {', '.join(sorted(known[each]))}" for each in sorted(far)]
    return " | ".join([f"{len(unknown)} keys are not settings here", *lines, *ends])


def _known(section: str) -> set[str]:
    aliases = {alias for alias, name in _ALIASES.items() if name in _ACCEPTED[section]}
    return {*_ACCEPTED[section], *_IGNORED[section], *aliases}


def _reward_parameters(parameters: Any, places: Mapping[str, str]) -> RewardParameters:
    where = places["reward_parameters"]
    if isinstance(parameters, RewardParameters):
        return parameters
    if not isinstance(parameters, Mapping):
        raise SettingsError(f"{where}: {parameters!r} is not a section; write {{...}}")
    known = set(RewardParameters.model_fields)
    wrong = [str(key) for key in parameters if key not in known]
    if wrong:
        section = "model_reward_parameters"
        lines = [f"{where}.{key}: {unknown_key(key, section, known)}" for key in wrong]
        raise SettingsError(" | ".join(lines))
    try:
        return RewardParameters(**parameters)
    except SettingsError as error:
        raise SettingsError(f"{where}.{error}") from None


def _check_alone(model: type[BaseModel], name: str, value: Any, place: str) -> None:
    try:
        model(**{name: value})
    except SettingsError as error:
        # At odds with the other settings' defaults is not wrong in itself.
        if str(error).startswith((f"{name}:", f"{name}.")):
            raise SettingsError(_with_places(str(error), {name: place})) from None


def _with_places(message: str, places: Mapping[str, str]) -> str:
    """Return a message with the keys that it names as the user wrote them, and their section."""
    if message.startswith("freqai."):
        return message
    places = {**places, "window_size": "freqai.conv_width"}
    named = [word for word in re.findall(r"[a-z_0-9]+", message) if word in places]
    if not named:
        return message
    for name in dict.fromkeys(named):
        as_written = places[name].rpartition(".")[2]
        message = re.sub(rf"(?<![\w.]){name}(?![\w])", as_written, message)
    where = places[named[0]]
    first = where.rpartition(".")[2]
    if re.match(rf"{re.escape(first)}[.:]", message):
        return f"{where.removesuffix(first)}{message}"
    return f"{where}: {message}"


_MODEL_TYPES = ("PPO", "MaskablePPO")
"""Invalid actions are masked under either name; the second is sb3-contrib's."""


def _refuse_unsupported(rl_config: Mapping[str, Any]) -> None:
    required = {
        "model_type": (_MODEL_TYPES, "PPO"),
        "policy_type": (("MlpPolicy",), "MlpPolicy"),
        "drop_ohlc_from_features": ((True,), "true"),
    }
    for key, (values, shown) in required.items():
        if key in rl_config and rl_config[key] not in values:
            raise SettingsError(
                f"freqai.rl_config.{key}: {rl_config[key]!r} is not supported; set it to {shown}"
            )


def _reward_name(value: Any) -> RewardName | str:
    """Return the name of a reward: a known one, or the place and name of a user's function."""
    if callable(value):
        # Set by ``mtf_scalper.reward``; a name can cross to other processes, a function cannot.
        if not hasattr(value, "reward_name"):
            raise ValueError(
                f"reward: {getattr(value, '__name__', value)!r} is not decorated; write @reward "
                "(from mtf_scalper import reward) above it"
            )
        value = value.reward_name()
    if value in list(RewardName):
        return RewardName(value)
    place, _, function = str(value).rpartition(":")
    is_module = all(part.isidentifier() for part in place.split("."))
    if function.isidentifier() and (is_module or place.endswith(".py")):
        return str(value)
    if function.endswith(".py"):
        raise ValueError(f"reward: {value!r} names no function; write '{value}:function'")
    close = difflib.get_close_matches(str(value), [*map(str, RewardName)], n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(RewardName)}."
    raise ValueError(
        f"reward: {value!r} is not known; {hint} "
        "A function of yours is named 'file.py:function' or 'package.module:function'"
    )


def _nearest_divisor(number: int, near: int) -> int:
    divisors = (d for d in range(2, number + 1) if number % d == 0)
    return min(divisors, key=lambda d: (abs(d - near), d))


def _one_line(model: type[BaseModel], error: ValidationError) -> str:
    """Say the first thing that is wrong: key, value, and what is right."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or model.__name__
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key{nearest(str(first['loc'][-1]), list(model.model_fields))}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    return f"{where}: {first['msg']} (got {first['input']!r})"


@cache
def _kinds(model: type[BaseModel], name: str) -> frozenset[type]:
    """Return the types that a field's annotation is made of."""
    found: set[type] = set()
    pending: list[Any] = [model.model_fields[name].annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and not get_args(annotation):
            # An enumeration of words is no number, whatever else it may be.
            found.add(str if issubclass(annotation, str) else annotation)
        pending.extend(part for part in get_args(annotation))
    return frozenset(found)


def _leaves(value: Any) -> list[Any]:
    """Return the values inside of sequences and mappings, or the value itself."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]
