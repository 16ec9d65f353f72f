"""The READMEs: their example prints what they say, and their links lead somewhere."""

import contextlib
import io
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
READMES = ("README.md", "README.ko.md")

each = pytest.mark.parametrize("name", READMES)


def read(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


def examples(name):
    return re.findall(r"^```python\n(.*?)^```$", read(name), re.MULTILINE | re.DOTALL)


@each
@pytest.mark.parametrize(("number", "prints"), [(0, 4), (1, 1)])
def test_example_prints_what_it_says(name, number, prints):
    code = examples(name)[number]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec"), {})
    stated = re.findall(r"^print\(.*  # (.+)$", code, re.MULTILINE)
    assert len(stated) == code.count("print(") == prints
    assert printed.getvalue().splitlines() == stated


def test_examples_are_short_and_the_same_in_both_languages():
    english, korean = (examples(name) for name in READMES)
    assert len(english) == len(korean) == 2
    assert len([line for line in english[0].splitlines() if line]) <= 10
    assert english[0] == korean[0]
    comment = re.compile(r"  # or .*|  # 또는 .*")
    assert comment.sub("", english[1]) == comment.sub("", korean[1])


@each
def test_links_lead_to_files(name):
    text = read(name)
    targets = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    local = [target for target in targets if "://" not in target]
    assert len(local) >= 8
    assert [target for target in local if not (REPOSITORY / target).exists()] == []


@each
def test_place_for_measurements(name):
    begin, end = (read(name).index(f"<!-- bench:{word} -->") for word in ("begin", "end"))
    assert begin < end


def test_both_languages_have_the_same_outline():
    outlines = [
        [len(line) - len(line.lstrip("#")) for line in read(name).splitlines() if line[:1] == "#"]
        for name in READMES
    ]
    assert outlines[0] == outlines[1]


def test_pictures_are_small():
    for path in (REPOSITORY / "docs" / "images").glob("pooling*.png"):
        assert path.stat().st_size < 200_000
