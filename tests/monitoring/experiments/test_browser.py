"""Tests of the experiments page in Debian's Chromium: layout, contrast, keyboard and requests.

The tests fail if the browser is missing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitoring.experiments.page import page as page_of
from monitoring.experiments.web import serving, site
from tests.monitoring.experiments import made_views as made

pytestmark = pytest.mark.long

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
LEAST_CONTRAST, OF_LARGE_TEXT = 4.5, 3.0  # WCAG 2.2, level AA

# Return the contrast of each visible text with its background, lowest first.
CONTRASTS = """() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement, style = getComputedStyle(element);
    if (!node.textContent.trim() || ["SCRIPT", "STYLE", "TITLE"].includes(element.tagName.toUpperCase())) continue;
    if (!element.checkVisibility() || element.closest(".sr")) continue;
    const back = behind(element), front = over(parse(style.color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    found.push({ text: node.textContent.trim().slice(0, 60), contrast: (a + 0.05) / (b + 0.05), large });
  }
  return found.sort((x, y) => x.contrast - y.contrast);
}"""
# Return the elements without an accessible name.
NAMELESS = """() => [...document.querySelectorAll("a, summary, [tabindex], [role=img], section, article, table")]
  .filter((e) => !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.textContent.trim()))
  .map((e) => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.fail("chromium is missing; apt install chromium, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    views = {name: state() for name, state in made.STATES.items()}
    for name, view in views.items():
        (folder / f"{name}.html").write_text(page_of([view]))
    (folder / "all.html").write_text(page_of([*views.values()]))
    return folder


class Opened:
    def __init__(self, browser: Any, url: str, viewport: dict[str, int], scheme: str = "light") -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme)
        self.tab = self.context.new_page()
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(url)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


STATES = [*made.STATES, "all"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_it_fits_a_phone_loads_nothing_and_is_readable(state: str, scheme: str, browser: Any, pages: Path) -> None:
    url = (pages / f"{state}.html").as_uri()
    with Opened(browser, url, PHONE, scheme) as opened:
        opened.tab.evaluate("document.querySelectorAll('details').forEach((part) => part.open = true)")
        assert opened.complaints == []
        assert [address for address in opened.requests if not address.startswith(("data:", "file:"))] == []
        assert opened.requests[0] == url
        wide = opened.tab.evaluate("document.documentElement.scrollWidth")
        assert wide == PHONE["width"], f"{wide - PHONE['width']} pixels wider than the screen"
        texts = opened.tab.evaluate(CONTRASTS)
        assert len(texts) > 30
        faint = [text for text in texts if text["contrast"] < (OF_LARGE_TEXT if text["large"] else LEAST_CONTRAST)]
        assert faint == []
        assert opened.tab.evaluate(NAMELESS) == []


@pytest.mark.parametrize("state", ["win", "all"])
def test_it_fits_a_desktop(state: str, browser: Any, pages: Path) -> None:
    with Opened(browser, (pages / f"{state}.html").as_uri(), DESKTOP) as opened:
        assert opened.complaints == []
        assert opened.tab.evaluate("document.documentElement.scrollWidth") == DESKTOP["width"]
        # The stages are side by side, and screen readers get the current one.
        tops = opened.tab.evaluate(
            "[...document.querySelector('.steps').children].map((step) => step.getBoundingClientRect().top)"
        )
        assert len(set(tops)) == 1
        assert opened.tab.locator("[aria-current=step]").first.inner_text().startswith("50%" if state == "win" else "d")


def test_dark_and_light_schemes_differ(browser: Any, pages: Path) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        with Opened(browser, (pages / "win.html").as_uri(), DESKTOP, scheme) as opened:
            colours.add(opened.tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_the_keyboard_reaches_everything_with_visible_focus(browser: Any, pages: Path) -> None:
    with Opened(browser, (pages / "all.html").as_uri(), PHONE) as opened:
        tab = opened.tab
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.getAttribute('href')") == "#experiment-1"
        style = "getComputedStyle(document.activeElement)"
        assert tab.evaluate(f"[{style}.outlineStyle, {style}.outlineWidth]") == ["solid", "3px"]
        tab.keyboard.press("Enter")
        assert tab.evaluate("location.hash") == "#experiment-1"
    with Opened(browser, (pages / "win.html").as_uri(), PHONE) as opened:
        tab = opened.tab
        reached = 0
        for _ in range(60):
            tab.keyboard.press("Tab")
            if tab.evaluate("document.activeElement.tagName") == "SUMMARY":
                tab.keyboard.press("Enter")
                reached += 1
            if tab.evaluate("document.activeElement === document.body"):
                break
        assert reached == tab.locator("summary").count() == tab.locator("details[open]").count() > 1


def test_a_served_page_updates_and_keeps_open_sections_open(browser: Any) -> None:
    from playwright.sync_api import expect

    views = [made.early()]
    with serving(site(lambda: views, "127.0.0.1"), "127.0.0.1", 0) as url:
        with Opened(browser, url, DESKTOP) as opened:
            tab = opened.tab
            assert tab.locator("h1").inner_text() == "Let it run: nothing is decided yet"
            tab.locator("summary").first.click()
            views[:] = [made.win()]
            expect(tab.locator("h1")).to_have_text("Promote challenger", timeout=30_000)
            assert tab.locator("details[open]").count() == 1
            assert opened.complaints == []
            assert {address.split("/")[2] for address in opened.requests if address.startswith("http")} == {
                url.split("/")[2]
            }
        with Opened(browser, url, DESKTOP) as opened:
            watching = opened.tab
            assert watching.locator("#said").inner_text().startswith("As of ")
            watching.route("**/*", lambda route: route.abort())
            expect(watching.locator("#said")).to_contain_text("does not answer", timeout=30_000)
