"""What a check says: measured value, expectation, verdict and reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self


class CannotTellError(Exception):
    """A fact that a check needs is missing."""


class Verdict(StrEnum):
    """Whether a check was passed."""

    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes
    ----------
    name : str
    measured, expected : str
        For people; ``measured`` is ``"-"`` if the check could not be made.
    verdict : Verdict
    reason : str
        Why it failed; empty if it passed.
    """

    name: str
    measured: str
    expected: str
    verdict: Verdict
    reason: str = ""

    @classmethod
    def of(cls, name: str, measured: str, expected: str, problem: str) -> Self:
        """Return a check that has failed if there is a problem."""
        verdict = Verdict.FAILED if problem else Verdict.PASSED
        return cls(name, measured, expected, verdict, problem)

    @property
    def has_passed(self) -> bool:
        """Whether the verdict is ``passed``."""
        return self.verdict is Verdict.PASSED

    def as_dict(self) -> dict[str, str]:
        """Return the check as plain values that JSON can hold."""
        return {key: str(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings that have to be used; by default the reference recipe, from rollouts."""

    advantage: str = "gae"
    train_cycles: int = 30
    cpu_count: int = 8
    interop_threads: int = 2
    n_envs: int = 8
    vec_env: str = "subproc"
    n_steps: int = 4096
    batch_size: int = 256
    net_arch: tuple[int, ...] = (512, 512, 256)
    device: str = "auto"
    inference_batch_size: int = 256

    @property
    def n_workers(self) -> int:
        """Processes that the environments take."""
        return self.n_envs if self.vec_env == "subproc" else 0
