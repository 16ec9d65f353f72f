"""The report in a real browser: it opens without errors or requests, and fits every screen."""

import pytest

pytest.importorskip("matplotlib")

from poolkit import demo
from poolkit.demo.sections import BUILDERS
from poolkit.page.theme import DARK, LIGHT

SCHEMES = {"light": LIGHT, "dark": DARK}
WIDTHS = (390, 820, 1440)  # a telephone, a tablet, a desk


@pytest.fixture(scope="module", params=["en", "ko"])
def report(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return demo.run_demo(lang=request.param, out=folder, quick=True)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_report(visit, report, width, scheme):
    with visit(report.as_uri(), width, scheme) as opened:
        page = opened.page
        assert opened.complaints == []
        asked = [url for url in opened.requests if not url.startswith("data:image/png;base64,")]
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


def test_figures_follow_the_scheme(visit, report):
    shown = {}
    for scheme in SCHEMES:
        with visit(report.as_uri(), 1440, scheme) as opened:
            shown[scheme] = opened.page.evaluate(
                "[...document.querySelectorAll('figure img')].map(i => i.currentSrc)"
            )
    assert all(light != dark for light, dark in zip(*shown.values(), strict=True))


@pytest.mark.parametrize("width", WIDTHS)
def test_contents_lead_to_every_section(visit, report, width):
    """Each link of the contents can be seen and clicked, and its section comes into view."""
    with visit(report.as_uri(), width, "light") as opened:
        page = opened.page
        page.add_style_tag(content="html { scroll-behavior: auto !important }")
        for slug in BUILDERS:
            page.click(f"nav a[href='#{slug}']")
            top = page.evaluate(f"document.getElementById('{slug}').getBoundingClientRect().top")
            bottom = page.evaluate("innerHeight")
            assert 0 <= top < bottom, slug


def test_wide_content_scrolls_in_its_own_box(visit, report):
    """On a telephone every table, figure and listing can be read to its right end."""
    with visit(report.as_uri(), 390, "light") as opened:
        boxes = opened.page.evaluate(
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
