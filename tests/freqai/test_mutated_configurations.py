"""Mutations of the two shipped configurations: refused in one line that names the key, or sane.

What is accepted must be of the kind that stood there, of a size that a machine holds, and must have
arrived in the settings: nothing may be taken silently for something else, or for nothing.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtf_scalper import TradeRules, simulate, train
from mtf_scalper.errors import MtfScalperError, SettingsError
from mtf_scalper.freqai.config import read_settings
from mtf_scalper.runs.program import merged
from mtf_scalper.settings import Settings
from mtf_scalper.worlds.planted import planted_market

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MUTATIONS = 1200
TRAINED = 12
N_FEATURES = 60
"""As the strategy makes them."""
GIGABYTES = 24.0


def configuration(name: str) -> dict[str, Any]:
    shipped = json.loads((CONFIGS / "config_rl_hybrid.json").read_text(encoding="utf-8"))
    over = json.loads((CONFIGS / name).read_text(encoding="utf-8"))
    return merged(shipped, over)


BOTH = {name: configuration(name) for name in ("config_rl_hybrid.json", "reference_recipe.json")}
Place = tuple[str, ...]


def places(section: dict[str, Any], above: Place = ()) -> Iterator[Place]:
    for key, value in section.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places(value, (*above, key))


READ = {name: list(places(config["freqai"], ("freqai",))) for name, config in BOTH.items()}
for _found in READ.values():
    _found += [("timeframe",), ("exchange", "name"), ("exchange", "pair_whitelist")]
UNSET = sorted(
    {
        "learning_rate",
        "n_epochs",
        "target_kl",
        "clip_range_vf",
        "n_seeds",
        "patience",
        "evidence",
        "dropout",
        "start_method",
    }
)
"""Keys that neither configuration sets."""
for _found in READ.values():
    _found += [
        ("freqai", "rl_config", key) for key in (*UNSET, "evidence", "dropout", "start_method")
    ]

NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2, 10**6, 10**9, 10**30, 1e9, 1e300, -1e9, 0.5, 1.5, 1e-300, -0.0]),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.integers(-(10**9), 10**9),
    st.floats(-1e6, 1e6),
)
TEXTS = st.sampled_from(
    ["", " ", "x", "8", "1e9", "true", "gae", "\x00", "../..", "a" * 5000, "5m"]
)
LISTS = st.lists(st.one_of(NUMBERS, TEXTS, st.none(), st.booleans()), max_size=4)
WIDE = st.sampled_from([[8192] * 16, [1] * 17, [10**9], [0], [-5], [1.5], [True], ["8"], [8192]])
VALUES = st.one_of(
    *(NUMBERS, TEXTS, LISTS, WIDE, st.none(), st.booleans(), st.just({})),
    st.dictionaries(st.sampled_from(["a", "rr", "seed"]), NUMBERS, max_size=2),
)


def put(config: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    inside = config
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return config


def kind(value: Any) -> str:
    if isinstance(value, bool):
        return "switch"
    return "number" if isinstance(value, int | float) else type(value).__name__


def gigabytes(found: Settings) -> float:
    """Return what a training holds at least, as written here and not where it is refused."""
    width, rows = found.window_size * N_FEATURES, found.n_envs * found.n_steps
    layers = (found.window_size, *found.net_arch)  # of one feature
    weights = found.n_seeds * sum(a * b for a, b in pairwise(layers))
    batch = max(found.batch_size, found.inference_batch_size) * width
    rollout = rows * width if found.advantage == "gae" else 0
    return 4.0 * (3 * weights + batch + rollout) / 1e9


SEEN: Counter[str] = Counter()


@settings(
    max_examples=MUTATIONS,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.data())
def check_mutation(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(BOTH)))
    place = data.draw(st.sampled_from(READ[name]))
    value = data.draw(VALUES)
    config = BOTH[name]
    try:
        found = read_settings(put(config, place, value))
    except SettingsError as error:
        SEEN["refused"] += 1
        message = str(error)
        assert "\n" not in message
        assert len(message) < 1500
        # Its own key, or that of a section around or inside it.
        names = {place[-1], *(value if isinstance(value, dict) else ())}
        names |= {"seed", "train_cycles"} if place[-1] == "random_state" else set()
        assert any(re.search(rf"\b{re.escape(str(each))}\b", message) for each in names), message
        return
    SEEN["accepted"] += 1
    before = config
    for key in place:
        before = before.get(key, ...) if isinstance(before, dict) else ...
    field = Settings.model_fields.get(place[-1])
    is_default = value is None and field is not None and field.default is None
    if before is not ... and place[-1] not in MAY_CHANGE_KIND and not is_default:
        assert kind(value) == kind(before), f"{place}: {value!r} in place of {before!r}"
    assert all(math.isfinite(each) for each in numbers(value)), f"{place}: {value!r}"
    assert gigabytes(found) < GIGABYTES, f"{place}: {value!r}"
    if place[:2] == ("freqai", "rl_config") and field is not None:
        assert getattr(found, place[-1]) == (tuple(value) if isinstance(value, list) else value)


MAY_CHANGE_KIND = {
    "purge_old_models",  # a switch or a number
    *("model_training_parameters", "model_reward_parameters"),
}


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, float):
        yield value


def test_mutations_of_both_configurations_are_refused_by_name_or_sane() -> None:
    SEEN.clear()
    check_mutation()
    assert SEEN["refused"] > 500
    assert SEEN["accepted"] > 50


REFUSED_TOGETHER: list[dict[str, Any]] = [
    {"net_arch": [8192] * 16},
    {"net_arch": [8192], "n_seeds": 32, "window_size": 10_000},
    {"inference_batch_size": 1_000_000, "window_size": 11},
    {"advantage": "gae", "n_steps": 1_000_000, "n_envs": 1024},
    {"advantage": "gae", "vec_env": "subproc", "n_envs": 1024},
    {"learning_rate": 0.5},
    {"learning_rate": 1e9},
    {"net_arch": []},
]


@pytest.mark.parametrize("values", REFUSED_TOGETHER)
def test_what_no_machine_holds_is_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**values)
    message = str(caught.value)
    assert "\n" not in message
    assert any(name in message for name in values)


@pytest.mark.parametrize("name", TradeRules.model_fields)
@pytest.mark.parametrize(
    "value", [1e300, -1e300, math.nan, math.inf, "1", [], 10**30, {0: 1e300}, {10**30: 0.1}]
)
def test_rules_of_a_trade_beyond_all_bounds_are_refused(name: str, value: Any) -> None:
    more = {} if name in ("trailing_stop", "stoploss") else {"stoploss": -0.1}
    more |= {"trailing_stop": True} if name.startswith("trailing") else {}
    if name == "minimal_roi" and value == []:
        return  # no rungs
    with pytest.raises(SettingsError) as caught:
        TradeRules(**{**more, name: value})
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_some_accepted_mutations_are_trained() -> None:
    """At the edges of what is accepted a training ends, or says in one line why it cannot."""
    market = planted_market("linear", seed=1, n_candles=600, n_features=8).market
    tiny = Settings(train_cycles=1, net_arch=(8,), window_size=2, cpu_count=1, batch_size=64)
    edges: list[dict[str, Any]] = [
        *({"learning_rate": 0.1}, {"learning_rate": 1e-300}, {"gamma": 0.0}, {"gamma": 1.0}),
        *({"ent_coef": 1000.0}, {"ent_coef": -1000.0}, {"max_grad_norm": 1e-300}),
        *(
            {"window_size": 100},
            {"window_size": 599},
            {"window_size": 10_000},
            {"validation_share": 0.5},
        ),
        *({"net_arch": (1,) * 16}, {"keep_bias": 50.0}, {"dropout": 0.99}),
    ]
    assert len(edges) >= TRAINED
    said: list[str] = []
    for edge in edges:
        try:
            result = train(market, tiny.changed(**edge))
            run = simulate(result.policy, market)
            assert math.isfinite(run.log_return), edge
        except MtfScalperError as error:
            said.append(str(error))
    assert all("\n" not in line for line in said)
    assert len(said) < TRAINED // 2
