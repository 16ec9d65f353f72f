"""The page of an audit: what is in it, what is escaped, and what a figure that is missing does."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

pytest.importorskip("jinja2")

from poolkit.audit import charts
from poolkit.audit.html import page
from poolkit.audit.report import Interval
from poolkit.audit.units import byte_count, duration, percent

EMPTY = ("br", "img", "meta", "wbr", "link", "input")


class Page(HTMLParser):
    """Tags with their attributes, and the text of each cell and element."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.texts.append(" ")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self.texts).replace("\N{NO-BREAK SPACE}", " ").split())


def test_nothing_of_the_model_is_markup(audited):
    """Names, advice, notes: none opens a tag, and all can be read."""
    found = Page(page(audited))
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in found.tags}
    for _, attributes in found.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    # The name of the model twice, a stage's in 6 tables, and the rest once.
    assert found.text.count("<script>alert(1)</script>") >= 2 + 6 + 6


def test_policy_names_the_one_style(audited):
    text = page(audited)
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(styles) == 1
    digest = base64.b64encode(hashlib.sha256(styles[0].encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.split("; ")[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]
    assert "http" not in text.replace("http-equiv", "")


def test_every_figure_is_in_words(audited):
    text = Page(page(audited)).text
    for said in (
        "33 x 32 → 16 x 16 3 → 8 channels 3 x 3, stride 2, padding 0 x 1+0",
        "se.pool (call 2)",
        "beside the main line",
        "multiples of 2 + 1 x any",
        "3 px effective 3 px stride 2, off centre by −0.5 px",
        "all; 5 px by local windows",
        "not aligned",
        "216 21.6 % 55,296 92.2 %",
        "torch 12.0 KiB, indices 4.0 KiB poolkit 512 bytes, indices 512 bytes",
        "2 other stages keep nothing",
        "torch 200 µs, 3.33 % of the model poolkit 200 µs, 5 % of the model",
        "folds 25 % map moves by 10 %",
        "90 %, 95 % interval 70 % to 97 % 32 pictures, 4 moves each, seed 0",
        "90 of 1,000 9 %",
        "yes (48 x 48 works)",
    ):
        assert said in text, said


def test_figures_that_are_missing(audited):
    """A report in which little was measured; and one without stages."""
    totals = replace(
        audited.totals, seconds=None, seconds_torch=None, smallest_input=None, divides_by=None
    )
    gap = audited.stages[-1]
    bare = replace(gap, kernel=None, stride=None, padding=None, dilation=None, output_shape=(1, 8))
    lean = replace(
        audited, stages=(bare,), totals=totals, head=None, consistency=(), recommendations=()
    )
    text = Page(page(lean)).text
    assert text.count("not measured; see why") == 4
    assert "8 x 8 → vector" in text
    assert "None" not in text
    text = Page(page(replace(lean, stages=(), not_measured=()))).text
    assert "This network shrinks no map." in text
    assert "All was measured." in text
    assert text.count("There are no stages.") == 3
    assert "None" not in text


def test_path_puts_branches_beside_the_main_line(audited):
    steps = charts.steps(audited.stages)
    assert [step.aside for step in steps] == [False, False, True, True, False]
    assert [step.returns for step in steps if step.aside] == [True, False]
    # A U-Net's maps are all enlarged again, and make its main line all the same.
    pool = replace(audited.stages[1], side=True)
    later = replace(pool, input_shape=(1, 8, 8, 8), output_shape=(1, 8, 4, 4))
    assert not any(step.aside for step in charts.steps([pool, later]))


def test_path_shows_how_maps_grow_again(audited):
    pool = replace(audited.stages[1], side=True, output_shape=(1, 8, 4, 4))
    for grid, there in (((32, 24), True), ((4, 4), False)):
        head = replace(audited.head, kind="none", grid=grid)
        report = replace(audited, stages=(pool,), head=head)
        text = Page(page(report)).text
        assert ("the way up" in text) is ("4 x 4 → 32 x 24" in text) is there
        assert f"None: the answer is a map of {grid[0]} x {grid[1]}." in str(report)


def test_scale():
    scale = charts.Scale(256, 1, log=True)
    assert [scale.at(v) for v in (1, 16, 256, 1e6)] == [1.5, 50, 98.5, 98.5]
    assert list(scale.ticks()) == [1, 4, 16, 64, 256]
    assert list(charts.Scale(1.0).ticks()) == [0, 0.5, 1]
    drawn = charts.marks(charts.Scale(1.0), Interval(0.5, 0.0, 1.0, 3), "hue-1")
    assert 'x1="1.50%" x2="98.50%"' in drawn
    assert 'cx="50.00%"' in drawn


def test_units():
    assert [duration(s) for s in (0, 1.23456e-6, 0.0009999, 0.0625, 0.9999, 12.5, 1234)] == [
        "0 µs", "1.23 µs", "1 ms", "62.5 ms", "1 s", "12.5 s", "1234 s"
    ]  # fmt: skip
    assert [byte_count(n) for n in (0, 1023, 1024, 3 * 2**29)] == [
        "0 bytes", "1023 bytes", "1.0 KiB", "1,536.0 MiB"
    ]  # fmt: skip
    assert percent(0.12345) == "12.3 %"
