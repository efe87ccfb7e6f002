"""Two programs under one identifier: the second is refused in one line."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from mtf_scalper.errors import SettingsError
from mtf_scalper.freqai.one_program import hold


class Holder:
    """Stands for a model."""


HOLDS = """
import sys
from pathlib import Path
from mtf_scalper.freqai.one_program import hold
class Holder: pass
holder = Holder()
hold(Path(sys.argv[1]), holder)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.processes
def test_a_second_program_is_refused_until_the_first_has_died(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "mine"
    command = [sys.executable, "-c", HOLDS, str(folder)]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None
        assert first.stdout.readline().strip() == b"held"
        with pytest.raises(SettingsError) as caught:
            hold(folder, Holder())
        assert str(caught.value) == (
            f"freqai.identifier: 'mine' is in use by another program (process {first.pid}); "
            "end that one, or choose another identifier"
        )
        hold(tmp_path / "models" / "other", Holder())
    finally:
        first.kill()
        first.wait()
        for pipe in (first.stdin, first.stdout):
            assert pipe is not None
            pipe.close()
    hold(folder, Holder())


@pytest.mark.processes
def test_models_of_one_program_share_an_identifier_as_long_as_one_of_them_lives(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "models" / "mine"
    command = [sys.executable, "-c", HOLDS, str(folder)]
    one, two = Holder(), Holder()
    hold(folder, one)
    hold(folder, two)
    del one
    gc.collect()
    refused = subprocess.run(command, input=b"", capture_output=True, check=False)
    assert refused.returncode == 1
    assert b"is in use by another program" in refused.stderr
    del two
    gc.collect()
    done = subprocess.run(command, input=b"", capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
