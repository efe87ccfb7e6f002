"""The notebook runs as it is shown, from the first cell to the last, and says what it promises."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("plotly")

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tour.ipynb"


@pytest.fixture(scope="module")
def outputs() -> list[list[Any]]:
    """Outputs of each code cell."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    asyncio.run(client.async_execute())
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def text_of(outputs: list[Any]) -> str:
    return "".join(output.get("text", "") for output in outputs if output.output_type == "stream")


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_the_agent_earns_on_candles_that_it_has_not_seen(outputs: list[list[Any]]) -> None:
    lines = dict(line.split("  ", 1) for line in text_of(outputs[3]).splitlines() if "  " in line)
    values = {name: value.strip() for name, value in lines.items()}
    assert values["policy"] == "not degenerate"
    assert float(values["log return"]) > 0.0
    assert float(values["log return"]) > float(values["random exits, median of 100"])


def test_the_plots_are_drawn(outputs: list[list[Any]]) -> None:
    drawn = [
        output
        for cell in outputs
        for output in cell
        if "application/vnd.plotly.v1+json" in output.get("data", {})
    ]
    traces = [len(figure.data["application/vnd.plotly.v1+json"]["data"]) for figure in drawn]
    assert traces == [2, 23]


def test_without_a_signal_nothing_is_traded(outputs: list[list[Any]]) -> None:
    assert "DEGENERATE, never trades" in text_of(outputs[-1])
