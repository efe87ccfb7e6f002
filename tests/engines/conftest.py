"""A cluster of Ray on this machine's own processes, started once for all that ask for it."""

from collections.abc import Iterator

import pytest

from mtf_scalper.engines.cluster import RayCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayCluster]:
    """Return a running cluster of two CPUs."""
    pytest.importorskip("ray", reason="ray is not installed")
    with RayCluster(jobs=2) as engine:
        yield engine
