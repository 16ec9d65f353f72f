"""The lesson of `poolkit demo` as pages of the site: blocks of plain data become Markdown."""

from collections.abc import Callable
from html import escape

from rich.console import Console

from poolkit.demo import Context, Section, fit, machine
from poolkit.demo.report import (
    PAGE,
    Figure,
    Formula,
    Heading,
    Lang,
    Prose,
    ReadNext,
    Snippet,
    Table,
    progress_bar,
)
from poolkit.demo.sections import BUILDERS
from poolkit.imaging import default_photograph, load_image

SUMMARY: dict[Lang, str] = {
    "en": "This is the report that `poolkit demo` writes, as it came out when this site was built. "
    "On your machine, with your photograph: `make demo`.",
    "ko": "`poolkit demo`가 만드는 리포트이며, 숫자와 그림은 이 사이트를 만들 때 계산한 것입니다. "
    "여러분의 컴퓨터에서 여러분의 사진으로 만들려면 `make demo`를 실행하세요.",
}


def lesson(language: Lang, *, quick: bool) -> tuple[str, dict[str, bytes]]:
    """Run every section; gives the page, and its figures by name."""
    photograph = default_photograph()
    image = fit(load_image(photograph), photograph.name)
    with progress_bar(Console(stderr=True)) as progress:
        context = Context(image, photograph.name, language, quick, progress)
        sections = [build(context) for build in BUILDERS.values()]
    figures = {
        name: png for section in sections for f in section.figures for name, png in f.files.items()
    }
    return page(sections, context), figures


def page(sections: list[Section], context: Context) -> str:
    """One page with a chapter for each section; figures lie in the folder of the language."""
    text = PAGE[context.lang]
    head = f"# {text.title}\n\n{SUMMARY[context.lang]}"
    made = f"{text.made_with}: {escape(machine(context))}"
    parts = [head, f'<p class="note" markdown="0">{made.replace(chr(10), "<br>")}</p>']
    for section in sections:
        # The slug stays the anchor in every language.
        parts.append(f"## {section.title} {{ #{section.slug} }}")
        parts += [MARKDOWN[type(block)](block, context.lang) for block in section.blocks]
    return '<div class="lesson" markdown>\n\n' + "\n\n".join(parts) + "\n\n</div>\n"


def _prose(block: Prose, _: Lang) -> str:
    return f'<p class="{block.kind}" markdown="0">{block.html}</p>'


def _heading(block: Heading, _: Lang) -> str:
    return f"### {block.text}"


def _formula(block: Formula, _: Lang) -> str:
    return f'<div markdown="0">{block.mathml}</div>'


def _figure(block: Figure, language: Lang) -> str:
    place = f"lesson/{language}/{block.name}"
    light, dark = f"{place}.png#only-light", f"{place}-dark.png#only-dark"
    words = f'<figcaption markdown="0">{block.caption}</figcaption>'
    images = f"![{block.alt}]({light})\n![{block.alt}]({dark})"
    return f'<figure markdown="span">\n{images}\n{words}\n</figure>'


def _snippet(block: Snippet, language: Lang) -> str:
    code, printed = f"```python\n{block.code}\n```", f"```text\n{block.output}\n```"
    return f"{code}\n\n{PAGE[language].prints}:\n\n{printed}"


def _read_next(block: ReadNext, language: Lang) -> str:
    # All sections are on the page.
    items = (
        "<li>"
        + (escape(label) if href is None else f'<a href="{href}">{escape(label)}</a>')
        + "</li>"
        for label, href in block.items
    )
    return f'### {PAGE[language].read_next}\n\n<ul markdown="0">{"".join(items)}</ul>'


def _table(table: Table, _: Lang) -> str:
    def row(cells: list[str], tag: str) -> str:
        shown = (
            f"<{tag}{' class=n' if column in table.numeric else ''}>{escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )
        return f"<tr>{''.join(shown)}</tr>"

    body = "\n".join(row(list(cells), "td") for cells in table.rows)
    return (
        f'<div class="table" markdown="0"><table>\n<caption>{escape(table.title)}</caption>\n'
        f"<thead>{row(list(table.header), 'th')}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


MARKDOWN: dict[type, Callable[..., str]] = {
    Prose: _prose,
    Heading: _heading,
    Formula: _formula,
    Figure: _figure,
    Table: _table,
    Snippet: _snippet,
    ReadNext: _read_next,
}
"""What becomes of each kind of block."""
