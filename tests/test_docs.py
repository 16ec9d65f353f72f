"""The documentation site: its code runs, its lesson is complete, and it needs no network."""

import contextlib
import importlib
import io
import os
import re
import subprocess
import sys
from html import escape
from pathlib import Path
from typing import get_args

import pytest
import torch

pytest.importorskip("matplotlib")

from poolkit.demo import report
from poolkit.demo.sections import max_and_average, where_used

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = [*DOCS.glob("*.md"), REPOSITORY / "CONTRIBUTING.md"]


@pytest.fixture
def site(monkeypatch):
    """Import a module of docs/site as MkDocs does."""
    monkeypatch.syspath_prepend(DOCS / "site")
    return importlib.import_module


def blocks(page, language):
    """The fenced blocks of a page in one language."""
    fenced = rf"^```{language}\n(.*?)^```$"
    return re.findall(fenced, page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


# ---- Written pages ------------------------------------------------------------------------------


# torch's ONNX exporter copies its own objects in a way that its own pytree deprecates.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_prints_what_it_says(page):
    """Python blocks run; a comment after a print says what it prints."""
    for code in blocks(page, "python"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page.name, "exec"), {})
        stated = re.findall(r"^print\(.*  # (.+)$", code, re.MULTILINE)
        assert printed.getvalue().splitlines() == stated
        assert stated


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    """Every make target that a block of shell commands names."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    for code in blocks(page, "sh") + blocks(page, ""):
        assert set(re.findall(r"^make ([\w-]+)", code, re.MULTILINE)) <= targets


def test_commands_of_adopting_run(tmp_path):
    """Every line of the page's shell blocks, on a script that says how it was begun."""
    (tmp_path / "train.py").write_text(
        "import sys, poolkit\n"
        "poolkit.unpatch_torch()  # an error, were torch not patched\n"
        "poolkit.patch_torch()\n"
        "print(__name__, sys.argv[1:])\n"
    )
    printed = []
    for line in "".join(blocks(DOCS / "adopting.md", "sh")).splitlines():
        words = line.removeprefix("python -m ").split()
        assert words[0] == "poolkit"
        words += ["--seconds", "1"] if words[1] == "selfcheck" else []
        result = subprocess.run(
            [sys.executable, "-P", "-m", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        printed.append(result.stdout)
    assert len(printed) == 3
    assert printed[0] == "__main__ ['--epochs', '3']\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


# ---- The lesson ---------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "ko"])
def test_lesson(site, language):
    """Everything that two sections consist of is on the page, in their order."""
    context = report.Context(torch.rand(1, 3, 64, 64) * 255, "<x>.png", language, quick=True)
    sections = [max_and_average.build(context), where_used.build(context)]
    page = site("lesson").page(sections, context)
    place = 0
    for section in sections:
        for words in (f"## {section.title} {{ #{section.slug} }}", *map(sought, section.blocks)):
            assert words in page[place:], words
            place = page.index(words, place) + len(words)
    assert page.count("#only-light)") == page.count("#only-dark)") == 4
    assert f"(lesson/{language}/where-used-paths-dark.png#only-dark)" in page
    assert "<x>" not in page  # the name of a file is no markup


def sought(block):
    """Something of a block that the page must have."""
    match block:
        case report.Prose() | report.Formula():
            return str(block.html if isinstance(block, report.Prose) else block.mathml)
        case report.Heading():
            return f"### {block.text}\n"
        case report.Figure():
            return f"{block.name}.png#only-light"
        case report.Table():
            return f"<td>{block.rows[-1][0]}</td>"
        case report.Snippet():
            return f"```text\n{block.output}\n```"
        case report.ReadNext():
            return f"<li>{escape(block.items[-1][0])}</li>"


def test_lesson_knows_every_kind_of_block(site):
    assert set(site("lesson").MARKDOWN) == set(get_args(report.Block))


# ---- No network ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://example.org/a.js"></script>',
        "<script async src='//example.org/a.js'>",
        '<link rel="stylesheet" href="https://example.org/a.css">',
        '<link href="https://fonts.example.org" rel="preconnect" crossorigin>',
        '<img alt="x" src="http://example.org/a.png">',
        '<source srcset="https://example.org/a.png">',
        '@import url("https://example.org/a.css");',
        "body { background: url(//example.org/a.png) }",
    ],
)
def test_what_loads_from_the_network_is_found(site, page):
    assert len(site("offline").fetches(f"<p>before</p>{page}<p>after</p>")) == 1


def test_what_does_not_is_not(site):
    page = """
    <a href="https://example.org">a link to follow</a> <code>https://example.org</code>
    <link rel="canonical" href="https://example.org"> <img src="images/a.png">
    <script src="assets/a.js"></script> <style>a { background: url(data:image/png,x) }</style>
    """
    assert site("offline").fetches(page) == []


# ---- The whole site, where its generator is installed (`make docs`) ------------------------------


def test_site(tmp_path):
    pytest.importorskip("mkdocs", reason="only `make docs` installs the site's generator")
    command = ["-P", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env={**os.environ, "POOLKIT_DOCS_QUICK": "1", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    pages = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")}
    assert pages >= {
        "index.html", "index.ko.html", "lesson.html", "lesson.ko.html", "operators.html",
        "adopting.html", "deviations.html", "dtypes.html", "benchmarks.html", "kernels.html",
        "report.html",
        "api/functional.html", "api/nn.html", "api/models.html",
    }  # fmt: skip
    assert '<html lang="ko"' in (tmp_path / "lesson.ko.html").read_text(encoding="utf-8")
    functions = (tmp_path / "api" / "functional.html").read_text(encoding="utf-8")
    assert functions.count("<math") >= 39
    assert ".. math::" not in functions
    assert "{axes}" not in functions
    operators = (tmp_path / "operators.html").read_text(encoding="utf-8")
    assert 'href="api/functional.html#poolkit.functional.max_pool3d"' in operators
