"""One update: FastPPO against stable-baselines3's PPO, on the same weights and the same rollout.

Run: ``python benchmarks/update.py``. Both take the same minibatches in the same order. First their
updates have to be the same (``update_parity.py``); then they are timed in turn.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from typing import Any

import torch
from report import (
    Measured,
    Requirement,
    Workload,
    number,
    run,
    spread,
    table,
    with_spread,
)
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecMonitor
from update_parity import check_same_update
from update_parts import (
    N_ACTIONS,
    PARTS,
    matrix_peak,
    parts_of_fast,
    parts_of_stock,
    product_flops,
    tower_parts,
)

from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.rollouts.environments import make_vec_env
from mtf_scalper.rollouts.fast_ppo import FastPPO
from mtf_scalper.rollouts.rollout_buffer import CandleRolloutBuffer
from mtf_scalper.settings import EntryMode
from mtf_scalper.simulator.kernels import gather_windows

EPOCHS = 2
"""Passes over the rollout per repeat."""


def pair_of_models(workload: Workload, entry: EntryMode) -> tuple[FastPPO, PPO]:
    """Return both with the same weights, Adam state and rollout, after one rollout and epoch."""
    torch.set_num_threads(min(workload.threads, available_cpus()))
    fast, stock = (_model(kind, workload, entry) for kind in (FastPPO, PPO))
    fast.learn(workload.steps)
    stock.policy.load_state_dict(fast.policy.state_dict())
    state = copy.deepcopy(fast.policy.optimizer.state_dict())
    stock.policy.optimizer.load_state_dict(state)
    _hand_over(fast, stock)
    return fast, stock


def measure(
    workload: Workload, repeats: int, epochs: int = EPOCHS, peak_size: int = 2048
) -> Measured:
    """Check parity, time both in turn, then time the parts, in both entry modes."""
    torch.set_num_threads(min(workload.threads, available_cpus()))
    peak = matrix_peak(peak_size)
    modes = {
        str(entry): _measure_mode(workload, entry, repeats, epochs)
        for entry in (EntryMode.ALWAYS, EntryMode.ANY)
    }
    for mode in modes.values():
        for side in ("fast", "stock"):
            seconds = mode[side]["minibatch_ms"]["median"] / 1e3
            mode[side]["share_of_peak"] = mode[side]["flops"] / seconds / peak
    threads = torch.get_num_threads()
    return Measured(
        results={"torch_threads": threads, "matrix_peak_gflops": peak / 1e9, "entry_modes": modes},
        tables=[
            _table(modes),
            _parts_table(modes),
            f"Matrix peak: {number(peak / 1e9)} GFLOP/s "
            f"in float32, {peak_size} x {peak_size}, {threads} torch threads.",
        ],
        requirements=[
            Requirement(f"one update, SB3 over FastPPO, `{entry}`", mode["ratio"]["median"], 1.4)
            for entry, mode in modes.items()
        ],
    )


def _measure_mode(
    workload: Workload, entry: EntryMode, repeats: int, epochs: int
) -> dict[str, Any]:
    fast, stock = pair_of_models(workload, entry)
    parity = check_same_update(fast, stock)
    milliseconds: dict[str, list[float]] = {"fast": [], "stock": []}
    cpu: dict[str, list[float]] = {"fast": [], "stock": []}
    for _ in range(repeats):
        for side, model in (("fast", fast), ("stock", stock)):
            wall, busy = _timed_update(model, epochs)
            milliseconds[side].append(wall)
            cpu[side].append(busy)
    choices = share_of_choices(fast)
    sizes = (workload.window * workload.n_features, *workload.net_arch)
    rows = {"fast": (round(choices * workload.batch_size), workload.batch_size)}
    rows["stock"] = (workload.batch_size, workload.batch_size)
    medians = {side: statistics.median(values) for side, values in milliseconds.items()}
    parts = {
        "fast": parts_of_fast(fast, sizes, rows["fast"], medians["fast"]),
        "stock": parts_of_stock(stock, sizes, rows["stock"]),
    }
    mode: dict[str, Any] = {
        "parity": parity,
        "share_of_choices": choices,
        "ratio": spread(
            [
                theirs / ours
                for ours, theirs in zip(milliseconds["fast"], milliseconds["stock"], strict=True)
            ]
        ),
    }
    for side in ("fast", "stock"):
        alone = tower_parts(sizes, rows[side])
        products = alone["forward products"] + alone["backward products"]
        mode[side] = {
            "minibatch_ms": spread(milliseconds[side]),
            "cpu_share": spread(cpu[side]),
            "flops": product_flops(sizes, rows[side]),
            "products_ms": products,
            "share_of_products": products / medians[side],
            "parts_ms": parts[side],
        }
    return mode


def share_of_choices(fast: FastPPO) -> float:
    """Return the share of the rollout's samples in which more than one action is valid."""
    buffer = fast.rollout_buffer
    assert isinstance(buffer, CandleRolloutBuffer)
    masks = buffer.extras[..., -N_ACTIONS:]
    return float(((masks > 0.5).sum(axis=-1) > 1).mean())


def _model(kind: type[PPO], workload: Workload, entry: EntryMode) -> Any:
    env = VecMonitor(make_vec_env(workload.market(), workload.settings(entry)))
    model = kind(
        MaskedPolicy,
        env,
        n_steps=workload.n_steps,
        batch_size=workload.batch_size,
        n_epochs=1,
        policy_kwargs={"activation_fn": torch.nn.ReLU, "net_arch": list(workload.net_arch)},
        seed=1,
        device="cpu",
    )
    model.set_logger(Logger(None, []))  # or every training leaves an empty folder
    return model


def _hand_over(fast: FastPPO, stock: PPO) -> None:
    """Fill stable-baselines3's own buffer with the rollout, observations written out."""
    ours, theirs = fast.rollout_buffer, stock.rollout_buffer
    assert isinstance(ours, CandleRolloutBuffer)
    n_samples = ours.rows.size
    observations = theirs.observations.reshape(n_samples, -1)
    extras = ours.extras.reshape(n_samples, -1)
    gather_windows(ours.features, ours.rows.reshape(-1), extras, observations)
    for name in ("actions", "values", "log_probs", "advantages", "returns"):
        getattr(theirs, name)[:] = getattr(ours, name)
    theirs.pos, theirs.full = theirs.buffer_size, True


def _timed_update(model: PPO, epochs: int) -> tuple[float, float]:
    """Return milliseconds per minibatch and the share of the machine that was busy."""
    model.n_epochs = epochs
    wall, cpu = time.perf_counter(), time.process_time()
    model.train()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    minibatches = epochs * model.n_steps * model.n_envs // model.batch_size
    return 1e3 * wall / minibatches, cpu / wall / available_cpus()


def _table(modes: dict[str, Any]) -> str:
    header = ["one minibatch", "samples with a choice", "ms", "SB3 / ours", "share of matrix peak"]
    header += ["products alone", "CPU"]
    rows = []
    for entry, mode in modes.items():
        for side, name in (("stock", "SB3"), ("fast", "FastPPO")):
            figures = mode[side]
            rows.append(
                [
                    f"{name}, `{entry}`",
                    f"{mode['share_of_choices']:.0%}",
                    _shown(figures["minibatch_ms"]),
                    _shown(mode["ratio"]) if side == "fast" else "1",
                    f"{figures['share_of_peak']:.0%}",
                    f"{figures['share_of_products']:.0%}",
                    f"{figures['cpu_share']['median']:.0%}",
                ]
            )
    return table(header, rows)


def _parts_table(modes: dict[str, Any]) -> str:
    columns = [("fast", "always"), ("fast", "any"), ("stock", "any")]
    names = {"fast": "FastPPO", "stock": "SB3"}
    header = ["ms per minibatch", *(f"{names[side]}, `{entry}`" for side, entry in columns)]
    chosen = [modes[entry][side]["parts_ms"] for side, entry in columns]
    rows = []
    for part in PARTS:
        cells = []
        for parts in chosen:
            whole = sum(parts.values())
            cells.append(f"{parts[part]:.2f} ({parts[part] / whole:.0%})")
        rows.append([part, *cells])
    rows.append(["whole update", *(f"{sum(parts.values()):.2f}" for parts in chosen)])
    return table(header, rows)


def _shown(figure: dict[str, float]) -> str:
    # The values that were spread, as far as a table shows them.
    return with_spread(sorted({figure["min"], figure["median"], figure["max"]}))


if __name__ == "__main__":
    sys.exit(run("update", __doc__, measure))
