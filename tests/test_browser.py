"""The report in a real browser: it opens without errors or requests, and fits every screen."""

import os
import shutil

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("playwright", reason="playwright is not installed")

from playwright import sync_api

from poolkit import demo
from poolkit.demo.sections import BUILDERS
from poolkit.page.theme import DARK, LIGHT

# A browser that is named must be there: `.ci/run` names the one that it has installed.
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: `apt-get install chromium`, or set CHROMIUM to its path"
)

SCHEMES = {"light": LIGHT, "dark": DARK}
WIDTHS = (390, 820, 1440)  # a telephone, a tablet, a desk


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM)
        yield running
        running.close()


@pytest.fixture(scope="module", params=["en", "ko"])
def report(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return demo.run_demo(lang=request.param, out=folder, quick=True)


class Visit:
    """A page that is open, with everything that it complained about and asked for."""

    def __init__(self, browser, address, width, scheme):
        self.complaints, self.requests = [], []
        self.context = browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_report(browser, report, width, scheme):
    with Visit(browser, report.as_uri(), width, scheme) as visit:
        page = visit.page
        assert visit.complaints == []
        asked = [url for url in visit.requests if not url.startswith("data:image/png;base64,")]
        assert asked == [report.as_uri()]
        # The page never scrolls sideways; what is too wide scrolls in its own box.
        assert page.evaluate("document.documentElement.scrollWidth") == width
        images = page.evaluate(
            "[...document.images].map(i => [i.complete, i.naturalWidth, i.getAttribute('alt')])"
        )
        assert len(images) >= len(BUILDERS)
        assert all(complete and natural > 0 and alt for complete, natural, alt in images)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        channels = [int(SCHEMES[scheme].page[i : i + 2], 16) for i in (1, 3, 5)]
        assert colour == f"rgb({', '.join(map(str, channels))})"


def test_figures_follow_the_scheme(browser, report):
    shown = {}
    for scheme in SCHEMES:
        with Visit(browser, report.as_uri(), 1440, scheme) as visit:
            shown[scheme] = visit.page.evaluate(
                "[...document.querySelectorAll('figure img')].map(i => i.currentSrc)"
            )
    assert all(light != dark for light, dark in zip(*shown.values(), strict=True))


@pytest.mark.parametrize("width", WIDTHS)
def test_contents_lead_to_every_section(browser, report, width):
    """Each link of the contents can be seen and clicked, and its section comes into view."""
    with Visit(browser, report.as_uri(), width, "light") as visit:
        page = visit.page
        page.add_style_tag(content="html { scroll-behavior: auto !important }")
        for slug in BUILDERS:
            page.click(f"nav a[href='#{slug}']")
            top = page.evaluate(f"document.getElementById('{slug}').getBoundingClientRect().top")
            bottom = page.evaluate("innerHeight")
            assert 0 <= top < bottom, slug


def test_wide_content_scrolls_in_its_own_box(browser, report):
    """On a telephone every table, figure and listing can be read to its right end."""
    with Visit(browser, report.as_uri(), 390, "light") as visit:
        boxes = visit.page.evaluate(
            """[...document.querySelectorAll('table, figure img, pre')].map(element => {
                 const box = element.closest('pre, .scroll');
                 box.scrollLeft = 1e6;
                 const inner = element === box ? box : element.getBoundingClientRect();
                 return [getComputedStyle(box).overflowX, box.getBoundingClientRect().right,
                         inner === box ? 0 : inner.right];
               })"""
        )
        assert boxes
        for overflow, edge, end in boxes:
            assert overflow == "auto"
            assert edge <= 390
            assert end <= edge + 1
