"""The page in a real Chromium: it draws, answers, sorts, can be read by everybody, asks nobody."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mtf_scalper.page.render import write_page

PLOTS = [
    "equity-plot",
    "candles-plot",
    "learning-plot",
    "machine-plot",
    "exits-plot",
    "random-plot",
    "importance-plot",
]
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}

# What axe-core would look at, of what this page has: names, structure and contrast.
CHECKS = Path(__file__).with_name("accessibility.js").read_text(encoding="utf-8")

OpenPage = Callable[..., "Opened"]


class Opened:
    """A page in the browser, with all that it logged and asked for."""

    def __init__(self, context: Any) -> None:
        self.page = context.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.wait_for_selector("html[data-state=drawn]", timeout=60_000)


@pytest.fixture(scope="module")
def open_page(browser: Any, recorded: Any) -> Iterator[OpenPage]:
    """Return an opener of the recorded run's page from disk."""
    contexts = []
    url = write_page(recorded.folder).as_uri()

    def open_it(size: str = "desktop", scheme: str = "light", at: str = url) -> Opened:
        is_phone = size == "phone"
        context = browser.new_context(
            viewport=SIZES[size], color_scheme=scheme, has_touch=is_phone, is_mobile=is_phone
        )
        contexts.append(context)
        opened = Opened(context)
        opened.open(at)
        return opened

    yield open_it
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def opened_as(open_page: OpenPage) -> OpenPage:
    """Return the same of a page that is only looked at: one for each size and scheme."""
    opened = functools.cache(open_page)
    return lambda size="desktop", scheme="light": opened(size, scheme)


@pytest.fixture(scope="module")
def desktop(open_page: OpenPage) -> Opened:
    return open_page()


@pytest.fixture
def page(desktop: Opened) -> Any:
    """Return the desktop page, scrolled to its begin."""
    desktop.page.evaluate("scrollTo(0, 0)")
    return desktop.page


def test_it_loads_from_disk_without_an_error_or_a_request(desktop: Opened) -> None:
    assert desktop.messages == []
    assert [url.split(":")[0] for url in desktop.requests] == ["file"]
    assert desktop.page.is_hidden("#trouble")


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_is_drawn(name: str, page: Any) -> None:
    plot = page.locator(f"#{name}")
    wanted = page.evaluate(f"document.getElementById('{name}').data.length")
    assert wanted >= 1
    assert page.evaluate(f"document.getElementById('{name}')._fullData.length") == wanted
    # Bars, lines, markers and candles are paths, each in a group of its trace.
    drawn = plot.locator(".overplot .trace path")
    assert drawn.count() >= wanted
    box = plot.locator("svg.main-svg").first.bounding_box()
    assert box is not None
    assert box["width"] > 800
    assert box["height"] > 200


def test_no_plot_was_forgotten(page: Any) -> None:
    assert page.eval_on_selector_all(".plot[role=img]", "all => all.map(p => p.id)") == PLOTS


@pytest.mark.parametrize("name", PLOTS)
def test_plots_say_what_is_under_the_pointer(name: str, page: Any) -> None:
    plot = page.locator(f"#{name}")
    plot.scroll_into_view_if_needed()
    labels = page.locator(f"#{name} .hoverlayer .hovertext, #{name} .hoverlayer .legend")
    area = plot.locator(".nsewdrag").first.bounding_box()
    for across, down in itertools.product((0.5, 0.2, 0.08), (0.5, 0.3, 0.7, 0.1, 0.9)):
        x, y = area["x"] + area["width"] * across, area["y"] + area["height"] * down
        page.mouse.move(x, y)
        page.mouse.move(x + 1, y + 1)
        page.wait_for_timeout(150)
        if labels.count():
            break
    assert labels.count() >= 1
    assert labels.first.text_content().strip()


def test_a_click_on_the_legend_hides_a_line(page: Any) -> None:
    plot = page.locator("#equity-plot")
    plot.scroll_into_view_if_needed()
    state = "document.getElementById('equity-plot')._fullData.map(t => t.visible)"
    before = page.evaluate(state)
    plot.locator(".legendtoggle").nth(1).click()
    page.wait_for_timeout(700)  # plotly waits whether it becomes a double click
    after = page.evaluate(state)
    assert before.count("legendonly") == 0
    assert after.count("legendonly") == 1
    plot.locator(".legendtoggle").nth(1).click()
    page.wait_for_timeout(700)
    assert page.evaluate(state) == before


def candle_count(page: Any) -> int:
    return page.evaluate("document.getElementById('candles-plot').data[0].x.length")


def test_zooming_in_takes_joined_candles_apart(page: Any) -> None:
    """14 days are 4,032 candles; a plot of 1,200 pixels shows 400 at most: one for each hour."""
    step = """() => { const x = document.getElementById('candles-plot').data[0].x;
                      return (x[1] - x[0]) / 60000; }"""
    assert candle_count(page) <= 400
    assert page.evaluate(step) == 60
    for _ in range(4):
        page.click("[data-plot=candles-plot][data-move=in]")
        page.wait_for_timeout(200)
    assert page.evaluate(step) == 5
    assert 200 < candle_count(page) <= 400
    shown = page.evaluate("document.getElementById('candles-plot')._fullLayout.xaxis.range")
    page.click("[data-plot=candles-plot][data-move=back]")
    page.wait_for_timeout(200)
    moved = page.evaluate("document.getElementById('candles-plot')._fullLayout.xaxis.range")
    assert moved[0] < shown[0] < moved[1] < shown[1]
    page.click("[data-plot=candles-plot][data-move=all]")
    page.wait_for_timeout(300)
    assert page.evaluate(step) == 60


def test_joined_candles_keep_open_highest_lowest_and_close(page: Any, recorded: Any) -> None:
    drawn = page.evaluate(
        """() => { const t = document.getElementById('candles-plot').data[0];
                   return [t.open, t.high, t.low, t.close]; }"""
    )
    whole = page.evaluate(
        """() => { const t = page.figures['candles-plot'].traces[0];
                   return [t.open, t.high, t.low, t.close]; }"""
    )
    assert drawn[0] == whole[0][::12]
    assert drawn[1] == [max(whole[1][row : row + 12]) for row in range(0, 4032, 12)]
    assert drawn[2] == [min(whole[2][row : row + 12]) for row in range(0, 4032, 12)]
    assert drawn[3] == [whole[3][min(row + 11, 4031)] for row in range(0, 4032, 12)]


def test_the_selector_shows_the_other_pair(page: Any) -> None:
    price = "document.getElementById('candles-plot').data[0].close[0]"
    first = page.evaluate(price)
    options = page.eval_on_selector_all("#candles-plot-choice option", "o => o.map(e => e.value)")
    assert sorted(options) == ["BTC/USDT:USDT", "ETH/USDT:USDT"]
    page.select_option("#candles-plot-choice", options[1])
    page.wait_for_timeout(300)
    second = page.evaluate(price)
    assert max(first, second) / min(first, second) > 5
    visible = page.evaluate(
        "[...new Set(document.getElementById('candles-plot').data.flatMap(t => t.meta.choice))]"
    )
    assert visible == [options[1]]
    page.select_option("#candles-plot-choice", options[0])


def column(page: Any, table: str, place: int) -> list[str]:
    return page.eval_on_selector_all(
        f"#{table} tbody tr", f"rows => rows.map(row => row.children[{place}].textContent)"
    )


def test_tables_sort_by_click_and_by_keyboard(page: Any) -> None:
    heading = page.locator("#exits-table thead th").nth(1)
    button = heading.locator("button")
    assert heading.get_attribute("aria-sort") is None
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    counts = [int(text) for text in column(page, "exits-table", 1)]
    assert counts == sorted(counts)
    button.focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    counts = [int(text) for text in column(page, "exits-table", 1)]
    assert counts == sorted(counts, reverse=True)
    page.locator("#exits-table thead th").nth(0).locator("button").focus()
    page.keyboard.press("Space")
    names = column(page, "exits-table", 0)
    assert names == sorted(names, key=str.casefold)
    assert heading.get_attribute("aria-sort") is None


def test_signed_percentages_sort_as_numbers(page: Any) -> None:
    page.locator("#exits-table thead th").nth(3).locator("button").click()
    values = [float(text.rstrip("%")) for text in column(page, "exits-table", 3)]
    assert values == sorted(values)
    assert min(values) < 0


def test_plots_follow_the_colour_scheme_when_it_changes(desktop: Opened) -> None:
    """The last test of this page, which is dark from then on."""
    opened = desktop
    read = """() => { const p = document.getElementById('equity-plot');
                      return [p.data[0].line.color, p._fullLayout.font.color]; }"""
    light = opened.page.evaluate(read)
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_function(
        "light => document.getElementById('equity-plot').data[0].line.color !== light[0]", arg=light
    )
    dark = opened.page.evaluate(read)
    assert light == ["#0a58ca", "#1b2027"]
    assert dark == ["#6ea8fe", "#e6e9ed"]
    assert opened.messages == []


def test_a_browser_that_cannot_unpack_says_so_and_shows_the_tables(
    browser: Any, recorded: Any
) -> None:
    context = browser.new_context()
    opened = Opened(context)
    opened.page.add_init_script("delete window.DecompressionStream")
    opened.open(write_page(recorded.folder).as_uri())
    assert "browser of 2023 or newer" in opened.page.text_content("#trouble")
    assert opened.page.is_visible("#exits-table")
    context.close()


def test_without_scripts_the_tables_and_sentences_are_there(browser: Any, recorded: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(write_page(recorded.folder).as_uri())
    assert "The plots need JavaScript" in page.text_content("noscript")
    assert page.is_visible("#comparison-table")
    assert "the agent ended at" in page.text_content("#equity-plot-says")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_screenshots_and_no_sideways_scroll(
    size: str, scheme: str, opened_as: OpenPage, tmp_path: Path
) -> None:
    """The pictures are for a person: MTF_SCALPER_SCREENSHOTS names a folder that keeps them."""
    opened = opened_as(size, scheme)
    width = opened.page.evaluate("document.documentElement.scrollWidth")
    assert width == SIZES[size]["width"]
    folder = Path(os.environ.get("MTF_SCALPER_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    for name, is_whole in ((f"{size}-{scheme}", True), (f"{size}-{scheme}-first", False)):
        path = folder / f"{name}.png"
        opened.page.screenshot(path=str(path), full_page=is_whole)
        assert path.stat().st_size > 20_000
    assert opened.messages == []


def test_a_finger_scrolls_the_page_over_a_plot(opened_as: OpenPage) -> None:
    opened = opened_as("phone")
    assert opened.page.evaluate("document.getElementById('equity-plot')._fullLayout.dragmode") is (
        False
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_by_4_5_to_1(scheme: str, opened_as: OpenPage) -> None:
    """WCAG 2.2, 1.4.3 (AA); text in plots included."""
    opened = opened_as("desktop", scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    found = opened.page.evaluate(f"{CHECKS.strip()}.contrast()")
    assert found["seen"] > 300
    assert found["poor"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_line_and_marker_stands_out_by_3_to_1(scheme: str, opened_as: OpenPage) -> None:
    """WCAG 2.2, 1.4.11 (AA)."""
    ratios = dict(opened_as("desktop", scheme).page.evaluate(f"{CHECKS.strip()}.lines()"))
    assert {name: ratio for name, ratio in ratios.items() if ratio < 3} == {}


@pytest.mark.parametrize("size", SIZES)
def test_everything_has_its_name_heading_label_and_size(size: str, opened_as: OpenPage) -> None:
    assert opened_as(size).page.evaluate(f"{CHECKS.strip()}.structure()") == []


def test_the_keyboard_reaches_everything_in_the_order_of_reading(opened_as: OpenPage) -> None:
    page = opened_as().page
    wanted = page.evaluate(
        """() => [...document.querySelectorAll("a[href], button, select, summary, [tabindex='0']")]
          .filter((each) => each.tabIndex >= 0 && each.checkVisibility())
          .map((each, place) => { each.dataset.place = place; return place; })"""
    )
    assert len(wanted) > 60
    reached = []
    for _ in wanted:
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => { const each = document.activeElement, style = getComputedStyle(each);
                 return [Number(each.dataset.place), parseFloat(style.outlineWidth)]; }"""
        )
        assert found[1] >= 2, f"no outline at {found[0]}"
        reached.append(found[0])
    assert reached == wanted
    page.focus(".skip")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
