"""The page while its run works: what a server on loopback tells a browser.

The page asks every two seconds which sections have changed (``/news``), and gets those alone.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.page.build import SECTIONS, build_page, sections_of
from mtf_scalper.page.parts import Page, Section
from mtf_scalper.page.render import (
    page_policy,
    plots_of,
    render_head,
    render_page,
    render_section,
)
from mtf_scalper.page.server import Answer, PageServer, Reply
from mtf_scalper.page.summary import page_head
from mtf_scalper.records import files
from mtf_scalper.records.reader import Run

DEFAULT_PORT = 8098
HOST = "127.0.0.1"
_READS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "equity": (files.EQUITY, files.EVENTS),
        "candles": (files.CANDLES, files.TRADES, files.PREDICTIONS, files.LIVE_PREDICTIONS),
        "learning": (files.EVENTS,),
        "machine": (files.EVENTS, files.SAMPLES, files.OUTCOME),
        "tasks": (files.EVENTS,),
        "exits": (files.TRADES,),
        "random": (files.RANDOM_EXITS, files.FIGURES, files.EQUITY),
        "importance": (files.IMPORTANCE,),
        "search": (files.STUDY, files.EVENTS),
        "figures": (files.FIGURES,),
        "statistics": (files.STATISTICS,),
        "checks": (files.CHECKS,),
        "manifest": (files.MANIFEST, files.SETTINGS, files.OUTCOME, files.EVENTS),
    }
)
"""Files that each section is made from: it is made again where one of them has changed."""

FindRun = Callable[[], Run]


class LivePage:
    """The page of a run as it stands; safe to use from several threads.

    Parameters
    ----------
    find : callable
        Returns the run to show; called anew each time, so that ``latest`` goes on to the next run.
    """

    def __init__(self, find: FindRun) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._made: dict[str, tuple[Any, Section]] = {}
        self._made_head: tuple[Any, Page] | None = None

    def html(self) -> str:
        """Return the whole page."""
        with self._lock:
            return render_page(build_page(self._find()), live=True)

    def news(self, known: Mapping[str, str]) -> dict[str, Any]:
        """Return the parts of the page that differ from those that a browser has.

        Parameters
        ----------
        known : mapping
            Digest by part; ``run`` is the id of the run that the page shows.

        Returns
        -------
        dict
            ``run``, ``status``, ``digests`` of all parts, ``html`` of those that changed, by name,
            and their ``plots``.
        """
        with self._lock:
            run = self._find()
            head = self._head(run)
            html = {"head": render_head(head)}
            sections = {name: self._section(run, name) for name in sections_of(run)}
            html.update({name: render_section(section) for name, section in sections.items()})
        plots = {name: plots_of([section]) for name, section in sections.items()}
        digests = {name: _digest(text, plots.get(name)) for name, text in html.items()}
        changed = [name for name in html if digests[name] != known.get(name)]
        return {
            "run": run.run_id,
            "status": head.status,
            "digests": digests,
            "html": {name: html[name] for name in changed},
            "plots": {plot: each for name in changed for plot, each in plots.get(name, {}).items()},
        }

    def _head(self, run: Run) -> Page:
        # The status alone can change without any file: where the process was ended.
        state = (run.run_id, _state(run.folder, ("*",)), run.status)
        if self._made_head is None or self._made_head[0] != state:
            self._made_head = (state, page_head(run))
        return self._made_head[1]

    def _section(self, run: Run, name: str) -> Section:
        state = (run.run_id, _state(run.folder, _READS[name]))
        made = self._made.get(name)
        if made is None or made[0] != state:
            made = self._made[name] = (state, SECTIONS[name](run))
        return made[1]


def watch(
    find: FindRun, port: int = DEFAULT_PORT, *, on_listening: Callable[[str], None] | None = None
) -> None:
    """Serve the page of a run on loopback until Ctrl-C.

    Parameters
    ----------
    find : callable
        Returns the run to show, see ``LivePage``; called once before anything is served.
    port : int
        0 takes a free one.
    on_listening : callable, optional
        Called with the address once it can be opened.

    Raises
    ------
    MtfScalperError
        If there is no such run, plotly is not installed, or the port is in use.
    """
    LivePage(find).html()
    try:
        with running_watch(find, port) as address:
            if on_listening is not None:
                on_listening(address)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        return


@contextmanager
def running_watch(find: FindRun, port: int = 0) -> Iterator[str]:
    """Serve the page from a thread of this process; yields its address, and ends with the context.

    See ``watch``.
    """
    try:
        page = LivePage(find)
        server = PageServer({"/": _page_of(page), "/news": _news_of(page)}, HOST, port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MtfScalperError(
            f"cannot listen on {HOST} port {port} ({reason}); choose another --port, 0 takes a "
            "free one"
        ) from None
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="watch", daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _page_of(page: LivePage) -> Answer:
    return lambda _: Reply(page.html(), "text/html", page_policy(live=True))


def _news_of(page: LivePage) -> Answer:
    def news(known: Mapping[str, str]) -> Reply:
        return Reply(json.dumps(page.news(known), allow_nan=False), "application/json")

    return news


def _state(folder: Path, patterns: tuple[str, ...]) -> tuple[Any, ...]:
    found = []
    for path in sorted(folder.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in patterns):
            status = path.stat()
            found.append((path.name, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _digest(html: str, plots: Any) -> str:
    content = html + json.dumps(plots, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
