"""The report of `poolkit demo`: complete, self-contained, in both languages, and computed."""

import base64
import contextlib
import html.parser
import io
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("matplotlib")

import numpy as np
from PIL import Image

import poolkit.functional as F
from poolkit import ArgumentError, demo, imaging
from poolkit.demo import measure, report
from poolkit.demo.report import Formula, Heading, Prose, ReadNext, Snippet, Table
from poolkit.demo.sections import BUILDERS, max_and_average, speed_and_memory, titles

LANGUAGES = ("en", "ko")

# Nothing in these sections is timed, so the same bytes can be expected of two runs.
UNTIMED = {"cost", "moves", "max-and-average", "adaptive"}

# The whole lesson, in reading order.
LESSON = (
    "cost",
    "moves",
    "max-and-average",
    "global-average",
    "strided-convolution",
    "adaptive",
    "speed-and-memory",
    "where-used",
)


class Made(NamedTuple):
    """A finished report: where it is, what was printed, and what it was made from."""

    language: str
    out: Path
    printed: str
    sections: list[report.Section]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """A quick report in each language."""
    made = {}
    for language in LANGUAGES:
        sections = []

        def record(build, sections=sections):
            return lambda context: sections.append(build(context)) or sections[-1]

        out = tmp_path_factory.mktemp("demo") / "new" / "folder"
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setattr(demo, "BUILDERS", {k: record(build) for k, build in BUILDERS.items()})
            path = demo.run_demo(lang=language, out=out, quick=True)
        assert path == out / "report.html"
        made[language] = Made(language, out, printed.getvalue(), sections)
    return made


@pytest.fixture(params=LANGUAGES)
def made(request, reports):
    return reports[request.param]


class Page(html.parser.HTMLParser):
    """Every tag's attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta", "img", "source", "br", "link"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page(out):
    return Page((out / "report.html").read_text(encoding="utf-8"))


# ---- The report ---------------------------------------------------------------------------------


def test_report_needs_nothing_else(made):
    """No network and no other file: every image is inside, nothing else is loaded."""
    shown = page(made.out)
    assert not shown.open
    sources = [a[key] for _, a in shown.tags for key in ("src", "srcset", "href") if key in a]
    assert sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert not {"link", "script", "iframe"} & {tag for tag, _ in shown.tags}
    text = (made.out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(", text)


def test_figures_are_files_too(made):
    names = {path.name for path in made.out.iterdir()}
    stems = [figure.name for section in made.sections for figure in section.figures]
    assert len(set(stems)) == len(stems)
    for section in made.sections:
        assert all(figure.name.startswith(f"{section.slug}-") for figure in section.figures)
    assert names == {"report.html", *(f"{s}{dark}.png" for s in stems for dark in ("", "-dark"))}
    for path in made.out.glob("*.png"):
        with Image.open(path) as image:
            assert image.width > 1000
    images = [attributes for tag, attributes in page(made.out).tags if tag == "img"]
    assert len(images) == len(stems) + 3  # the page opens with three
    assert all(attributes["alt"] for attributes in images)


def test_numbers_of_the_text(made):
    for shown in (page(made.out).text, made.printed):
        for number in ("3.75", "4.5", "7.5"):
            assert number in shown
        assert "(4 + 2 + 10 + 14) / 4 = 7.5" in shown


def test_language(made):
    shown = page(made.out)
    assert ("html", {"lang": made.language}) in shown.tags
    for word in ("특징 맵", "강건", "최댓값 선택"):
        assert (word in shown.text) == (made.language == "ko")
    assert ("최댓값 선택" in made.printed) == (made.language == "ko")


def test_tables_are_printed(made):
    shown = page(made.out)
    tables = sum(len(section.tables) for section in made.sections)
    assert made.printed.count("┏") == [tag for tag, _ in shown.tags].count("table") == tables
    for case in speed_and_memory.QUICK_CASES:
        assert case.size in made.printed
        assert case.size in shown.text


def test_both_languages_say_the_same():
    """The same fields, the same placeholders, tables of the same shape; no English left over."""
    for build in BUILDERS.values():
        module = sys.modules[build.__module__]
        en, ko = (vars(module.TEXT[language]) for language in LANGUAGES)
        for name, words in en.items():
            if isinstance(words, str):
                places = [sorted(re.findall(r"{(\w+)", text)) for text in (words, ko[name])]
                assert places[0] == places[1], name
                assert words != ko[name] or name == "differs", name
            else:
                assert len(words) == len(ko[name]), name


def test_sections_are_blocks(reports):
    """Every section has every kind of block; its figures, for both themes, are in no language."""
    sections = [made.sections for made in reports.values()]
    for slug, english, korean in zip(BUILDERS, *sections, strict=True):
        assert english.slug == korean.slug == slug
        for section in (english, korean):
            kinds = {type(block) for block in section.blocks}
            assert kinds >= {Prose, Heading, Formula, report.Figure, Table, Snippet, ReadNext}
            assert isinstance(section.blocks[-1], ReadNext)
            assert isinstance(section.blocks[-2], Snippet)
            for table in section.tables:
                assert all(len(row) == len(table.header) for row in table.rows)
        if slug in UNTIMED:
            for a, b in zip(english.figures, korean.figures, strict=True):
                assert (a.light, a.dark) == (b.light, b.dark)
                assert a.light != a.dark


def test_titles(reports):
    """`--list` names the sections as the page does."""
    for language, made in reports.items():
        assert titles(language) == {section.slug: section.title for section in made.sections}


def test_unknown_words_are_refused_before_the_work(tmp_path):
    for options in ({"lang": "fr"}, {"sections": ["costs"]}):
        with pytest.raises(ArgumentError, match="expected one of"):
            demo.run_demo(out=tmp_path / "out", quick=True, **options)
    assert not list(tmp_path.iterdir())


def test_order_of_sections():
    assert tuple(BUILDERS) == tuple(LESSON)


def test_read_next(made):
    """Links lead to other sections of the lesson; on the page, only to those that are there."""
    for section in made.sections:
        hrefs = [href for _, href in section.blocks[-1].items if href is not None]
        assert set(hrefs) <= {f"#{slug}" for slug in LESSON if slug != section.slug}
    tags = page(made.out).tags
    identifiers = {attributes["id"] for _, attributes in tags if "id" in attributes}
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= identifiers


def test_read_next_shows_what_it_cannot_link_to():
    image = torch.zeros(1, 3, 32, 32)
    block = ReadNext([("Here", "#here"), ("Elsewhere", "#elsewhere"), ("A <paper>", None)])
    context = report.Context(image, "x")
    text = report.page([report.Section("here", "T", [block])], context, "machine")
    assert '<li><a href="#here">Here</a></li>' in text
    assert "<li>Elsewhere</li>" in text
    assert "<li>A &lt;paper&gt;</li>" in text


def test_table_of_max_and_average(made):
    """The text's table, and its claims measured: lines and dark specks, and what does not hold."""
    (section,) = [section for section in made.sections if section.slug == "max-and-average"]
    text = section.tables[-2]
    korean = {
        "동작": ("최댓값 선택", "평균값 계산"),
        "특징": ("가장 강한 활성화 유지", "전체 정보의 평균 유지"),
        "장점": ("에지, 텍스처에 강함", "부드러운 특징"),
        "주 사용처": ("CNN 중간 레이어", "Global Pooling, 마지막 레이어"),
    }
    if made.language == "ko":
        assert {row[0]: row[1:] for row in text.rows} == korean
        assert text.header == ("비교", "Max Pooling", "Average Pooling")
    bright, dark, noise, dark_specks, bright_specks = (r[1:] for r in section.tables[-1].rows)
    assert bright == ("100%", "100%", "25%")
    assert dark == ("100%", "0%", "25%")
    before, largest, mean = map(float, noise)
    assert before == pytest.approx(10, rel=0.02)
    assert mean == pytest.approx(10 / 4, rel=0.05)  # sixteen cells: a quarter of the deviation
    assert largest > before
    assert float(dark_specks[1]) < float(dark_specks[2]) < float(bright_specks[1])


def test_noise_that_is_let_through():
    """By hand: a bright speck in every window of a dark picture raises each maximum."""
    image = torch.zeros(1, 1, 8, 8)

    def spoil(x, generator):
        return x + 8.0 * (torch.arange(64).reshape(1, 1, 8, 8) % 2 == 0)

    pools = [lambda x: x, lambda x: F.max_pool2d(x, 4), lambda x: F.avg_pool2d(x, 4)]
    found = max_and_average.noise_let_through(image, pools, spoil)
    assert found == pytest.approx([32**0.5, 8, 4])


# ---- Snippets -----------------------------------------------------------------------------------


def test_snippet_of_max_and_average():
    output = report.run_snippet(max_and_average.SNIPPET).output
    pooled = re.findall(r"[\d.]+", output)
    assert [float(number) for number in pooled] == [6, 8, 14, 16, 3.75, 4.5, 7.5, 8]


def test_snippet_of_speed_and_memory():
    lines = report.run_snippet(speed_and_memory.SNIPPET).output.splitlines()
    assert [line.split()[0] for line in lines] == ["torch", "poolkit"]
    saved = [int(line.split()[3].replace(",", "")) for line in lines]
    assert saved[0] == 64 * 56 * 56 * 4 + 64 * 28 * 28 * 8
    assert saved[1] <= saved[0]


# ---- The photograph -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((300, 451), (288, 448)),
        ((32, 32), (32, 32)),
        ((33, 1000), (32, 64)),
        ((1000, 40), (80, 32)),
        ((3000, 4000), (336, 448)),
        ((448, 448), (448, 448)),
    ],
)
def test_fit(size, fitted):
    image = torch.rand(1, 1, *size)
    result = demo.fit(image, "x")
    assert result.shape == (1, 3, *fitted)
    assert all(side % demo.STEP == 0 for side in result.shape[-2:])


def test_photographs_too_small_are_refused():
    with pytest.raises(imaging.ImageError, match="31 x 400 pixels"):
        demo.fit(torch.rand(1, 3, 400, 31), "tiny.png")


def test_a_name_with_markup_is_escaped(tmp_path):
    path = tmp_path / "<b>&.png"
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(path)
    context = report.Context(demo.fit(imaging.load_image(path), path.name), path.name)
    section = BUILDERS["max-and-average"](context)
    text = report.page([section], context, demo.machine(context))
    assert "<b>&.png" not in text
    assert "&lt;b&gt;&amp;.png" in text


def test_detail_holds_the_largest_difference():
    image = torch.zeros(1, 3, 128, 128)
    image[:, :, 100, 40] = 255
    assert max_and_average.most_telling(image).max() == 255


def test_blocks_repeat_values():
    from poolkit.demo.draw import blocks

    pixels = blocks(torch.tensor([[[[0.0, 255.0]]]]), (2, 4))
    assert pixels[:, :, 0].tolist() == [[0, 0, 255, 255]] * 2


# ---- Nothing half-written -----------------------------------------------------------------------


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(context):
        raise RuntimeError("broken")

    monkeypatch.setitem(BUILDERS, "speed-and-memory", fail)
    with pytest.raises(RuntimeError, match="broken"):
        demo.run_demo(out=tmp_path / "out", quick=True)
    assert not list(tmp_path.iterdir())


def test_other_files_of_the_folder_stay(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.delitem(BUILDERS, "speed-and-memory")
    demo.run_demo(out=tmp_path, quick=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "report.html").is_file()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# ---- Measuring ----------------------------------------------------------------------------------


def test_operators_that_differ_are_not_timed():
    x = torch.rand(1, 1, 4, 4)
    with pytest.raises(measure.ResultsDifferError, match="disagree"):
        measure.compare(lambda x: F.max_pool2d(x, 2), lambda x: F.avg_pool2d(x, 2), x, 0.01)


def test_gradients_that_differ_are_noticed():
    def wrong(x):
        return F.avg_pool2d(x.detach(), 2) + 0 * x.sum()

    with pytest.raises(measure.ResultsDifferError):
        measure.check_equal(lambda x: F.avg_pool2d(x, 2), wrong, torch.rand(1, 1, 4, 4))


def test_saved_bytes_are_counted_once():
    x = torch.rand(10)
    assert measure.saved_bytes(lambda x: x * 2, x) == 0
    assert measure.saved_bytes(lambda x: x * x, x) == 40  # one tensor, saved twice
    assert measure.saved_bytes(lambda x: x.exp(), x) == 40


def test_comparison():
    x = torch.rand(1, 2, 8, 8)
    result = measure.compare(*[lambda x: F.avg_pool2d(x, 2)] * 2, x, 0.02)
    assert result.difference == 0
    assert result.saved[0] == result.saved[1]
    assert min(*result.forward, *result.training) > 0
    assert result.spread >= 1


# ---- The opening --------------------------------------------------------------------------------


def test_the_page_opens_with_the_photograph(made):
    """As it is, and pooled by both operators: the pixels are the values."""
    images = [a for tag, a in page(made.out).tags if tag == "img"][:3]
    pixels = []
    for attributes in images:
        png = base64.b64decode(attributes["src"].partition(",")[2])
        with Image.open(io.BytesIO(png)) as picture:
            pixels.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1).float())
    photograph, largest, mean = pixels
    assert torch.equal(F.max_pool2d(photograph, 8), largest)
    # Both were rounded to whole grey levels, by half of one each.
    assert (F.avg_pool2d(photograph, 8) - mean).abs().max() <= 1
    assert images[0]["alt"].startswith("chelsea.png")
