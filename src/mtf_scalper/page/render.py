"""``write_page``: a run's page as one HTML file that needs nothing else, not even a network.

plotly draws the plots, because candles, unified hover and shared axes are its own, and because its
script ships with the Python package, so that nothing is fetched. Its 4.8 MB would fill the page
alone; the script and the data are therefore embedded compressed, 2 MB together with the base64
that HTML needs, and unpacked by the browser's own ``DecompressionStream`` (in all browsers since
May 2023). The tables and all sentences are plain HTML and need no script.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import logging
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.optional import library
from mtf_scalper.page.build import build_page
from mtf_scalper.page.parts import Page, Section
from mtf_scalper.paths import check_file_to_write, written_whole
from mtf_scalper.records.reader import Run

PAGE_FILE = "report.html"
MAX_BYTES = 5_000_000
"""What a page should weigh at most; its parts are thinned by far enough for any usual run."""

_SELF, _NONE = "'self'", "'none'"
_UNFRAMED = "; frame-ancestors 'none'"

logger = logging.getLogger(__name__)


def write_page(folder: Path, output: Path | None = None) -> Path:
    """Write the page of a run and return where it is.

    Parameters
    ----------
    folder : Path
        The run's folder.
    output : Path, optional
        ``report.html`` in the folder by default. A page that is there is replaced: it is made
        from the record and is no part of it.

    Raises
    ------
    MtfScalperError
        If the folder is no run, one of its files is damaged, plotly is not installed, or the page
        cannot be written.
    """
    if output is not None:
        check_file_to_write(output, "the page")
    html = render_page(build_page(Run.open(folder)))
    if len(html) > MAX_BYTES:
        logger.warning("the page of %s weighs %.1f MB", folder, len(html) / 1e6)
    path = output or folder / PAGE_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            part.write_text(html, encoding="utf-8", newline="\n")
    except OSError as error:
        raise MtfScalperError(f"cannot write the page {path}: {error.strerror}") from None
    return path


def render_page(page: Page, *, live: bool = False) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    page : Page
    live : bool
        Whether the page asks the server that it came from for what is new.

    Raises
    ------
    MtfScalperError
        If plotly is not installed.
    """
    return str(
        _templates()
        .get_template("page.html")
        .render(
            page=page,
            live=live,
            # A browser takes a policy on who may frame a page from a header alone.
            policy=page_policy(live=live).removesuffix(_UNFRAMED),
            css=_asset("page.css"),
            script=_script(live=live),
            plotly=_plotly(),
            data=_packed(json.dumps(plots_of(page.sections), allow_nan=False).encode()),
        )
    )


def page_policy(*, live: bool = False) -> str:
    """Return the content security policy of a page.

    Only its own two scripts run, known by their digests: whatever a record brought into the page,
    it would be no script.
    """
    return (
        f"default-src 'none'; script-src {_digest_of(_script(live=live))} {_plotly_digest()}; "
        "style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {_SELF if live else _NONE}; base-uri 'none'; form-action 'none'"
        f"{_UNFRAMED}"
    )


def render_section(section: Section) -> str:
    """Return the HTML of one section, as it stands in the page."""
    return str(_templates().get_template("section.html").render(section=section))


def render_head(page: Page) -> str:
    """Return the HTML of verdict and key figures, as it stands in the page."""
    return str(_templates().get_template("head.html").render(page=page))


def plots_of(sections: Any) -> dict[str, Any]:
    """Return the plots of sections by name, as the page's script takes them."""
    return {plot.name: plot.as_dict() for section in sections for plot in section.plots}


@cache
def _templates() -> Any:
    jinja2 = library("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.tests["plot"] = lambda part: hasattr(part, "traces")
    return environment


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _script(*, live: bool) -> str:
    return _asset("page.js") + (_asset("live.js") if live else "")


@cache
def _plotly() -> str:
    """Return plotly's script, packed."""
    return _packed(_plotly_script().encode())


def _plotly_script() -> str:
    return str(library("plotly.offline").get_plotlyjs())


@cache
def _plotly_digest() -> str:
    return _digest_of(_plotly_script())


def _digest_of(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _packed(content: bytes) -> str:
    # Without the time in the header the same run gives the same page.
    return base64.b64encode(gzip.compress(content, compresslevel=9, mtime=0)).decode()
