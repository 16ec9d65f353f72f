"""What `mkdocs build` adds to the written pages: READMEs, lesson, operators, API; and a check.

With POOLKIT_DOCS_QUICK set, the lesson measures little and trains briefly: to look at the site.
"""

import importlib
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docstrings import to_markdown
from lesson import lesson
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from offline import fetches

import poolkit.functional
import poolkit.nn

ROOT = Path(__file__).parents[2]
QUICK = bool(os.environ.get("POOLKIT_DOCS_QUICK"))

# The modules of the API reference.
API = ("functional", "nn", "accelerate", "patch", "selfcheck", "onnx", "distributed", "models",
       "cost", "shift", "cam", "surgery")  # fmt: skip

NAVIGATION = [
    {"Home": "index.md"},
    {"한국어": "index.ko.md"},
    {"Adopting poolkit": "adopting.md"},
    {"Surgery": "surgery.md"},
    {"Auditing a model": "auditing.md"},
    {"ONNX": "onnx.md"},
    {"The lesson": [{"Pooling, live": "lesson.md"}, {"Pooling, 직접 돌려 보기": "lesson.ko.md"}]},
    {"An experiment": "experiment.md"},
    {
        "Operators": [
            {"All of them": "operators.md"},
            {"Where they differ from torch": "deviations.md"},
            {"Dtypes": "dtypes.md"},
        ]
    },
    {"API": [{f"poolkit.{name}": f"api/{name}.md"} for name in API]},
    {
        "Speed": [
            {"Benchmarks": "benchmarks.md"},
            {"Benchmarks without AVX-512": "benchmarks-avx2.md"},
            {"How the kernels work": "kernels.md"},
        ]
    },
    {
        "Project": [
            {"How the report is made": "report.md"},
            {"Contributing": "contributing.md"},
            {"Changes": "changelog.md"},
        ]
    },
]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation, which follows API."""
    config.nav = NAVIGATION
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from other sources."""
    for uri, content in pages():
        files.append(File.generated(config, uri, content=content))
    return files


def pages() -> Iterator[tuple[str, str | bytes]]:
    """Every generated file of the site: its place, and its content."""
    sources = {
        "index.md": "README.md",
        "index.ko.md": "README.ko.md",
        "contributing.md": "CONTRIBUTING.md",
        "changelog.md": "CHANGELOG.md",
    }
    for uri, source in sources.items():
        yield uri, from_repository((ROOT / source).read_text(encoding="utf-8"))
    for name in API:
        yield f"api/{name}.md", reference(f"poolkit.{name}")
    yield "operators.md", operators()
    for language, uri in (("en", "lesson.md"), ("ko", "lesson.ko.md")):
        page, figures = lesson(language, quick=QUICK)
        yield uri, page
        for name, png in figures.items():
            yield f"lesson/{language}/{name}", png


def from_repository(text: str) -> str:
    """A page of the repository's root as a page of the site: its links follow."""
    pages = {
        "README.md": "index.md",
        "README.ko.md": "index.ko.md",
        "CONTRIBUTING.md": "contributing.md",
        "CHANGELOG.md": "changelog.md",
    }

    def link(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        if "://" in target or target.startswith("#"):
            return found[0]
        if target.startswith("docs/"):
            return f"[{words}]({target.removeprefix('docs/')})"
        if target in pages:
            return f"[{words}]({pages[target]})"
        return f"`{words}`"  # a file that the site does not have

    text = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", link, text)
    return re.sub(r'(src|srcset)="docs/', r'\1="', text)


def reference(module: str) -> str:
    """The page of a module: its docstring, and a directive for everything public."""
    found = importlib.import_module(module)
    public = sorted(found.__all__, key=lambda name: (name.rstrip("123d"), name))
    directives = "\n\n".join(f"::: {module}.{name}" for name in public)
    return f"# {module}\n\n{to_markdown(found.__doc__ or '')}\n\n{directives}\n"


def operators() -> str:
    """A row for each operator: what it computes, and where its functions and modules are."""
    families: dict[str, list[str]] = {}
    for name in poolkit.functional.__all__:
        if not name.endswith("_with_indices"):
            families.setdefault(re.sub(r"\dd$", "", name), []).append(name)
    modules, alone = {}, dict[str, list[str]]()
    for name in poolkit.nn.__all__:
        function = getattr(getattr(poolkit.nn, name), "_function", None)
        if function is None:
            alone.setdefault(re.sub(r"\dd$", "", name), []).append(name)
        else:
            modules[function.__name__] = name
    rows = ""
    for family, names in families.items():
        classes = _links("nn", [modules[name] for name in names if name in modules])
        computes = _summary(getattr(poolkit.functional, f"{family}2d"))
        rows += f"| `{family}` | {computes} | {_links('functional', names)} | {classes} |\n"
    for family, names in alone.items():
        computes = _summary(getattr(poolkit.nn, names[-1]))
        rows += f"| `{family}` | {computes} | | {_links('nn', names)} |\n"
    return (
        "# Operators\n\nIn 1-D, 2-D and 3-D, batched or not, contiguous or channels-last. Where "
        "results or arguments differ from torch's: [deviations](deviations.md). Who computes what: "
        '[dtypes](dtypes.md).\n\n<div class="operators" markdown>\n\n'
        f"| operator | computes | functions | modules |\n|---|---|---|---|\n{rows}\n</div>\n"
    )


def _summary(thing: Any) -> str:
    """The first line of a docstring, and its formula."""
    line = thing.__doc__.split("\n")[0].replace(", over 2 spatial axes", "")
    text = to_markdown(inspect.cleandoc(thing.__doc__))
    formula = re.search(r"<math.*?</math>", text, re.DOTALL)
    return f"{line} {formula[0]}" if formula else line


def _links(module: str, names: list[str]) -> str:
    """A link for each rank; the name itself for what has no rank."""
    shown = {name: name[-2:] if re.search(r"\dd$", name) else name for name in names}
    return " ".join(f"[{text}][poolkit.{module}.{name}]" for name, text in shown.items())


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Say which pages are Korean."""
    if page.file.src_uri.endswith(".ko.md"):
        return output.replace('<html lang="en"', '<html lang="ko"', 1)
    return output


def on_post_build(config: MkDocsConfig) -> None:
    """Fail if a page would need the network."""
    found = {}
    for path in Path(config.site_dir).rglob("*"):
        if path.suffix in {".html", ".css"} and (hits := fetches(path.read_text(encoding="utf-8"))):
            found[path.name] = hits
    if found:
        raise PluginError(f"pages of the site load from the network: {found}")
