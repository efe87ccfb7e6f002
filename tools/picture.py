"""Make the README's pictures of the page, ``docs/images/page-light.png`` and ``page-dark.png``.

    python tools/picture.py user_data/runs/<run>

It takes the page of a run as it opens in the system's Chromium, 1,280 x 1,240 pixels.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from mtf_scalper.page.render import write_page

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main(run: Path) -> None:
    """Write both pictures of the page of a run's folder."""
    named = os.environ.get("MTF_SCALPER_CHROMIUM")
    program = named or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise SystemExit("no Chromium; install the system's package or set MTF_SCALPER_CHROMIUM")
    url = write_page(run).resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1280, "height": 1240}, color_scheme=scheme)
            page.goto(url)
            page.wait_for_selector("html[data-state=drawn]", timeout=60_000)
            page.screenshot(path=IMAGES / f"page-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tools/picture.py user_data/runs/<run>")
    main(Path(sys.argv[1]))
