"""The page of an audit in a real browser: no errors, no requests, every width, every table."""

import itertools

import pytest

pytest.importorskip("jinja2")

from poolkit.audit.html import page
from poolkit.page.theme import DARK, LIGHT

SCHEMES = {"light": LIGHT, "dark": DARK}
WIDTHS = (390, 1440)


@pytest.fixture(scope="module")
def address(audited, tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "audit.html"
    path.write_text(page(audited), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_page(visit, address, width, scheme):
    with visit(address, width, scheme) as opened:
        page = opened.page
        assert opened.complaints == []
        assert opened.requests == [address]
        # The page never scrolls sideways; what is too wide scrolls in its own box.
        assert page.evaluate("document.documentElement.scrollWidth") == width
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        channels = [int(SCHEMES[scheme].page[i : i + 2], 16) for i in (1, 3, 5)]
        assert colour == f"rgb({', '.join(map(str, channels))})"
        # Every bar is drawn inside its chart, in a colour of the sheet.
        bars = page.evaluate(
            """[...document.querySelectorAll('.chart rect, .flow polygon')].map(bar => {
                 const box = bar.getBoundingClientRect();
                 const chart = bar.ownerSVGElement.getBoundingClientRect();
                 return [box.left >= chart.left - 1 && box.right <= chart.right + 1,
                         getComputedStyle(bar).fill];
               })"""
        )
        assert len(bars) > 20
        assert all(inside and fill != "rgb(0, 0, 0)" for inside, fill in bars)


def test_keyboard_reaches_everything(visit, address):
    """Every link of the contents leads to its section; what scrolls can get the focus."""
    with visit(address, 390, "light") as opened:
        page = opened.page
        links = page.evaluate("[...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))")
        assert len(links) == 11
        assert page.evaluate("links => links.every(id => document.getElementById(id))", links)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.evaluate(
            "[...document.querySelectorAll('.scroll, pre')].every(box => box.tabIndex === 0)"
        )


def test_text_of_the_axes_does_not_overlap(visit, address):
    for width in WIDTHS:
        with visit(address, width, "light") as opened:
            rows = opened.page.evaluate(
                """[...document.querySelectorAll('.axis')].map(axis =>
                     [...axis.querySelectorAll('text')].map(text => {
                       const box = text.getBoundingClientRect();
                       return [box.left, box.right];
                     }))"""
            )
            assert rows
            for row in rows:
                for (_, end), (start, _) in itertools.pairwise(row):
                    assert end <= start, (width, row)
