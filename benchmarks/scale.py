"""What Ray costs: throughput on this machine, then many tasks on a simulated cluster.

Run: ``python benchmarks/scale.py``, a quarter of an hour on two quiet cores. First 60 trainings of
the shipped size by one process with two threads, by one worker of one CPU, by two, and by two
processes, in turn; then 1,000 to
100,000 tasks, which take as long as those trainings did (drawn with a seed, a hundredth of it), on
the cluster that Ray itself tests with: four machines of four CPUs, all on this one. With 10,000 of
them two machines are killed on the way.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import Any

import numpy as np
import psutil
from report import (
    HERE,
    Measured,
    ParityError,
    Requirement,
    Workload,
    in_fresh_process,
    number,
    run,
    table,
    with_spread,
)

from mtf_scalper.engines.cluster import RayCluster
from mtf_scalper.engines.processes import LocalProcesses
from mtf_scalper.engines.tasks import Ended, Engine
from mtf_scalper.ppo.policy import Policy
from mtf_scalper.settings import EntryMode, Settings
from mtf_scalper.training import train

DOCUMENT = "scale.md"
N_TRAININGS, QUICK_TRAININGS = 60, 4
SIZES, QUICK_SIZES = (1_000, 10_000, 100_000), (20, 40)
WITH_KILLED = 10_000
NODES, CPUS = 4, 4
PART = 0.01
"""Of a training's time: what a simulated task takes."""
LEAST_GAIN, LEAST_OVER_THREADS, MOST_OVERHEAD = 1.9, 1.3, 0.05
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Throughput:
    """So many trainings by one engine, in one of the rounds.

    Attributes
    ----------
    name : str
    workers : int
    wall : float
        Seconds from the first call to the last result; the engine had started, and its workers had
        trained once.
    works : list of float
        Seconds that each training took where it ran.
    digests : list of str
        Of the weights.
    """

    name: str
    workers: int
    wall: float
    works: list[float]
    digests: list[str]

    @property
    def overhead(self) -> float:
        """Seconds of a worker for each task beside its work."""
        return self.wall * self.workers / len(self.works) - mean(self.works)


def one_training(workload: dict[str, Any], seed: int, threads: int) -> str:
    """Train with the shipped settings on a random walk, and return the digest of the weights."""
    size = Workload(**workload)
    settings = Settings(
        **size_of(size),
        random_state=seed,
        cpu_count=threads,
        device="cpu",
        evidence=0.0,  # on a random walk every training would end early
        rules=size.settings(EntryMode.CLASSIC).rules,
    )
    policy: Policy = train(size.market(), settings).policy
    return policy.digest


def size_of(workload: Workload) -> dict[str, Any]:
    """Return nothing for the shipped size, and a small one otherwise."""
    return {} if workload == Workload() else {"net_arch": (16,), "train_cycles": 1}


def throughput(name: str, engine: Engine, workers: int, n: int, work: dict[str, Any]) -> Throughput:
    """Let an engine do all trainings."""
    with engine:
        warm = [(work, 0, engine.threads)] * workers
        for ended in engine.run(one_training, warm):
            check(ended)
        began, found = time.monotonic(), {}
        for ended in engine.run(one_training, ((work, seed, engine.threads) for seed in range(n))):
            check(ended)
            found[ended.number] = ended
        wall = time.monotonic() - began
    ordered = [found[number] for number in range(n)]
    works = [each.ended - each.began for each in ordered]
    return Throughput(name, workers, wall, works, [each.value for each in ordered])


def check(ended: Ended) -> None:
    """Stop where a task failed: nothing is measured then."""
    if ended.error is not None:
        raise ParityError(str(ended.error))


def throughputs(workload: Workload) -> list[Throughput]:
    """Measure one worker, two workers, and one process with two threads."""
    n = N_TRAININGS if workload == Workload() else QUICK_TRAININGS
    work = dict(vars(workload))
    found = [
        throughput("one process, two threads", LocalProcesses(1), 1, n, work),
        throughput("Ray, one worker of one CPU", RayCluster(jobs=1), 1, n, work),
        throughput("Ray, two workers of one CPU", RayCluster(jobs=2), 2, n, work),
        throughput("two processes", LocalProcesses(2), 2, n, work),
    ]
    for each in found:
        if each.digests != found[0].digests:
            raise ParityError(f"{each.name} has other weights than {found[0].name}")
    return found


def nap(seconds: float) -> None:
    """Take as long as a training did, and no CPU."""
    time.sleep(seconds)


@dataclass(frozen=True)
class Simulated:
    """Many tasks on the simulated cluster.

    Attributes
    ----------
    tasks, killed : int
        Tasks, and machines that were killed.
    wall : float
        Seconds.
    ideal : float
        All naps together, divided by the CPUs: what no scheduler can beat.
    lost : int
        Attempts that were made again.
    stragglers : int
        Tasks that took more than twice the median.
    grown : float
        Megabytes by which the driver's memory had grown at its highest.
    """

    tasks: int
    killed: int
    wall: float
    ideal: float
    lost: int
    stragglers: int
    grown: float

    @property
    def milliseconds(self) -> float:
        """Wall time for each task."""
        return 1000.0 * self.wall / self.tasks


@contextmanager
def test_cluster() -> Iterator[Any]:
    """Yield Ray's own cluster for tests, of four machines on this one."""
    from ray.cluster_utils import Cluster

    # The first has no CPUs: it keeps the cluster's books and is not killed.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(NODES):
            cluster.add_node(num_cpus=CPUS)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def in_own_process(n_tasks: int, durations: Sequence[float], killed: int = 0) -> Simulated:
    """Run so many naps with a driver of its own, whose memory nothing else has grown."""
    environment = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # all of it is on loopback, for minutes
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
    }
    found = in_fresh_process(
        "scale:simulated", n_tasks, list(durations), killed, environment=environment
    )
    return Simulated(**found)


def simulated(n_tasks: int, durations: Sequence[float], killed: int = 0) -> dict[str, Any]:
    """Run so many naps on a new cluster, and kill machines at a third and at half of them."""
    naps = PART * np.random.default_rng(n_tasks).choice(durations, n_tasks)
    process, took, lost, done = psutil.Process(), [], 0, 0
    with test_cluster() as cluster, RayCluster(cluster.address) as engine:
        # All workers have started before the clock does.
        list(engine.run(nap, [(0.5,)] * (4 * NODES * CPUS)))
        before = most = process.memory_info().rss
        began, due = time.monotonic(), [n_tasks // 3, n_tasks // 2][:killed]
        for ended in engine.run(nap, ((float(each),) for each in naps)):
            if ended.error is not None:
                lost += 1
                if ended.is_last:
                    raise ParityError(f"task {ended.number}: {ended.error}")
                continue
            done += 1
            took.append(ended.ended - ended.began)
            if due and done >= due[0]:
                due.pop(0)
                # At once, as a machine that loses its power.
                cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
            if done % 100 == 0:
                most = max(most, process.memory_info().rss)
        wall = time.monotonic() - began
    if done != n_tasks:
        raise ParityError(f"{done} of {n_tasks} tasks ended")
    usual = median(took)
    found = Simulated(
        tasks=n_tasks,
        killed=killed,
        wall=wall,
        ideal=float(naps.sum()) / (NODES * CPUS),
        lost=lost,
        stragglers=sum(each > 2.0 * usual for each in took),
        grown=(most - before) / _MEGABYTE,
    )
    return asdict(found)


def measure(workload: Workload, repeats: int) -> Measured:
    """Return both tables; the second is of one run."""
    is_whole = workload == Workload()
    rounds = [throughputs(workload) for _ in range(repeats)]
    durations = rounds[0][1].works
    sizes = SIZES if is_whole else QUICK_SIZES
    many = [in_own_process(n, durations) for n in sizes]
    many.append(in_own_process(WITH_KILLED if is_whole else sizes[-1], durations, killed=2))
    return measured(rounds, many)


def measured(rounds: Sequence[Sequence[Throughput]], many: Sequence[Simulated]) -> Measured:
    """Return the tables, and what has to be."""
    by_name = {each.name: [each, *others] for each, *others in zip(*rounds, strict=True)}
    threads, one, two, _ = by_name.values()

    def gain(found: Sequence[Throughput], over: Sequence[Throughput]) -> list[float]:
        """Compare two engines round by round."""
        return [b.wall / a.wall for a, b in zip(found, over, strict=True)]

    first = [
        [
            name,
            with_spread([len(each.works) / each.wall * 60.0 for each in found]),
            with_spread(gain(found, one)),
            with_spread([mean(each.works) for each in found]),
            with_spread([1000.0 * each.overhead for each in found]),
        ]
        for name, found in by_name.items()
    ]
    second = [
        [
            f"{each.tasks:,}",
            str(each.killed),
            number(each.wall),
            number(each.milliseconds),
            number(each.wall / each.ideal),
            str(each.lost),
            str(each.stragglers),
            number(each.grown),
        ]
        for each in many
    ]
    plain = [each for each in many if not each.killed]
    return Measured(
        results={
            "throughput": [asdict(each) for found in rounds for each in found],
            "simulated": [asdict(each) for each in many],
        },
        tables=[
            table(
                [
                    *(f"{len(one[0].works)} trainings", "a minute", "of one worker"),
                    *("s each", "overhead, ms"),
                ],
                first,
            ),
            table(
                [
                    *("tasks", "machines killed", "s", "ms each", "of the ideal"),
                    *("made again", "stragglers", "driver's memory, MB"),
                ],
                second,
            ),
        ],
        requirements=[
            Requirement("two workers over one worker", median(gain(two, one)), LEAST_GAIN),
            Requirement(
                "two workers over one process with two threads",
                median(gain(two, threads)),
                LEAST_OVER_THREADS,
            ),
            Requirement(
                "overhead of a task",
                median(each.overhead for each in two),
                at_most=MOST_OVERHEAD,
                unit="s",
            ),
            Requirement(
                "a task's time with the most tasks, over that with the fewest",
                plain[-1].milliseconds / plain[0].milliseconds,
                at_most=1.5,
            ),
            Requirement(
                "driver's memory with the most tasks", plain[-1].grown, at_most=200.0, unit="MB"
            ),
        ],
    )


if __name__ == "__main__":
    # Functions of the main program have no name that a worker could import them by.
    import scale

    sys.exit(run("scale", __doc__, scale.measure, document=DOCUMENT))
