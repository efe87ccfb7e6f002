"""From a run's record to its page, section by section."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from mtf_scalper.page.learning import importance_section, learning_section
from mtf_scalper.page.machine import machine_section
from mtf_scalper.page.parts import Page, Section
from mtf_scalper.page.search import SEARCH, search_section
from mtf_scalper.page.summary import page_head
from mtf_scalper.page.table_sections import (
    checks_section,
    figures_section,
    manifest_section,
    statistics_section,
)
from mtf_scalper.page.tasks import tasks_section
from mtf_scalper.page.trading import (
    candles_section,
    equity_section,
    exits_section,
    random_section,
)
from mtf_scalper.records.reader import Run

SECTIONS: Final[Mapping[str, Callable[[Run], Section]]] = MappingProxyType(
    {
        "equity": equity_section,
        "candles": candles_section,
        "learning": learning_section,
        "machine": machine_section,
        "tasks": tasks_section,
        "exits": exits_section,
        "random": random_section,
        "importance": importance_section,
        "search": search_section,
        "figures": figures_section,
        "statistics": statistics_section,
        "checks": checks_section,
        "manifest": manifest_section,
    }
)
"""Sections by name, in the order of reading."""
_OF_A_SEARCH: Final = ("search", "tasks", "machine", "manifest")


def sections_of(run: Run) -> tuple[str, ...]:
    """Return the names of the sections that a run of this kind can have, in the order of reading.

    A search trades nothing that a page could show; the records of its trials do.
    """
    if run.kind == SEARCH:
        return _OF_A_SEARCH
    return tuple(name for name in SECTIONS if name != "search")


def build_page(run: Run) -> Page:
    """Return the page of a run, whatever its record holds so far.

    Raises
    ------
    RecordError
        If a file of the record is damaged: names it.
    """
    run = _EventsOnce(run.folder, run.manifest)
    return replace(page_head(run), sections=tuple(SECTIONS[name](run) for name in sections_of(run)))


class _EventsOnce(Run):
    """Reads the events of a run once: most sections ask for them, and there may be 100,000."""

    @cached_property
    def _all_events(self) -> list[dict[str, Any]]:
        return super().events()

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the events in order, of one name if given."""
        return [event for event in self._all_events if name is None or event["event"] == name]
