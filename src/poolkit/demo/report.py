"""What a section is made of, and how sections become a page and a terminal print-out.

A section returns blocks of plain data; nothing in a section knows HTML layout or the terminal.
"""

import base64
import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from markupsafe import Markup
from matplotlib.figure import Figure as Drawing
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as TerminalTable

import poolkit.functional as F

from ..imaging import to_array
from ..page import environment
from ..page.theme import DARK, LIGHT, Theme

Lang = Literal["en", "ko"]
T = TypeVar("T")


@dataclass(frozen=True)
class Prose:
    """A paragraph. Markup is ours; what comes from the user is escaped by ``Markup.format``."""

    html: Markup
    kind: Literal["text", "note", "warning"] = "text"


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Formula:
    mathml: Markup


@dataclass(frozen=True)
class Figure:
    """One drawing, rendered once for light pages and once for dark ones (PNG bytes)."""

    name: str
    caption: Markup
    alt: str
    light: bytes
    dark: bytes

    @property
    def files(self) -> dict[str, bytes]:
        return {f"{self.name}.png": self.light, f"{self.name}-dark.png": self.dark}


@dataclass(frozen=True)
class Table:
    """Rows of text; the columns whose numbers are in ``numeric`` are set flush right."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Snippet:
    """Code that the reader can paste, and what it printed when this report was made."""

    code: str
    output: str


@dataclass(frozen=True)
class ReadNext:
    """What to read after a section, as the section's last block.

    ``items`` are (label, href) pairs. An href is the anchor of another section, ``"#" + its slug``,
    or None for a label that leads nowhere: a paper, cited as "Author, title, year, identifier". The
    page adds the words in front, and shows a link to a section that it does not have as plain text.
    """

    items: Sequence[tuple[str, str | None]]


Block = Prose | Heading | Formula | Figure | Table | Snippet | ReadNext


@dataclass(frozen=True)
class Section:
    slug: str
    title: str
    blocks: Sequence[Block]

    @property
    def figures(self) -> list[Figure]:
        return [block for block in self.blocks if isinstance(block, Figure)]

    @property
    def tables(self) -> list[Table]:
        return [block for block in self.blocks if isinstance(block, Table)]


@dataclass(frozen=True)
class Context:
    """What every section gets: the photograph, the language, and where progress is shown."""

    image: torch.Tensor  # (1, C, H, W), grey levels 0..255, sides that 16 divides
    image_name: str
    lang: Lang = "en"
    quick: bool = False  # for tests: few repetitions, small batches
    progress: Progress = field(default_factory=lambda: Progress(disable=True))

    def draw(
        self, name: str, drawing: Callable[[Theme], Drawing], caption: Markup, alt: str
    ) -> Figure:
        """Render ``drawing`` for both themes."""
        light, dark = (render(drawing(theme)) for theme in (LIGHT, DARK))
        return Figure(name, caption, alt, light, dark)

    def track(self, items: Sequence[T], description: str) -> Iterator[T]:
        """Go through ``items`` under a progress bar."""
        task = self.progress.add_task(description, total=len(items))
        for item in items:
            yield item
            self.progress.advance(task)
        self.progress.remove_task(task)


def render(drawing: Drawing) -> bytes:
    buffer = io.BytesIO()
    # No "Software" entry: the same drawing gives the same bytes under every matplotlib.
    drawing.savefig(
        buffer, format="png", facecolor=drawing.get_facecolor(), metadata={"Software": None}
    )
    return buffer.getvalue()


def run_snippet(code: str) -> Snippet:
    """Execute a section's code, so that the output in the report is what it really prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "<snippet>", "exec"), {"__name__": "snippet"})  # noqa: S102 - our own text
    return Snippet(code.strip(), printed.getvalue().strip())


@dataclass(frozen=True)
class PageText:
    title: str
    summary: Markup
    made_with: str
    code: str
    prints: str
    read_next: str
    contents: str
    light_dark: str
    reproduce: str


PAGE: dict[Lang, PageText] = {
    "en": PageText(
        title="Pooling, live",
        summary=Markup(
            "Pooling shrinks a feature map, keeps what matters and makes a network more robust to "
            "small moves. Every number and picture on this page was computed by <b>poolkit</b> "
            "just now, on this photograph and this machine."
        ),
        made_with="Made with",
        code="Try it",
        prints="prints",
        read_next="Read next",
        contents="Contents",
        light_dark="Each figure is also a PNG file beside this page.",
        reproduce="Make your own",
    ),
    "ko": PageText(
        title="Pooling, 직접 돌려 보기",
        summary=Markup(
            "Pooling은 특징 맵을 축소하여 중요한 정보만 남기고, 작은 위치 변화에 강건하게 만드는 "
            "연산입니다. 이 페이지의 모든 숫자와 그림은 방금 이 사진과 이 컴퓨터에서 "
            "<b>poolkit</b>으로 계산한 것입니다."
        ),
        made_with="실행 환경",
        code="코드",
        prints="출력",
        read_next="더 읽을거리",
        contents="차례",
        light_dark="그림은 모두 이 페이지와 같은 폴더에 PNG 파일로도 저장됩니다.",
        reproduce="직접 만들어 보기",
    ),
}


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _size(png: bytes) -> tuple[int, int]:
    """Width and height from the PNG header, so that the page does not jump while it loads."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def _opening(context: Context) -> list[tuple[str, bytes]]:
    """The photograph and what pooling makes of it, one pixel for each value: (label, PNG)."""
    k = 8
    pictures = {
        context.image_name: context.image,
        f"max {k}×{k}": F.max_pool2d(context.image, k),
        f"avg {k}×{k}": F.avg_pool2d(context.image, k),
    }
    shown = []
    for label, image in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(to_array(image)).save(buffer, "PNG")
        height, width = image.shape[-2:]
        shown.append((f"{label}   {width}×{height}", buffer.getvalue()))
    return shown


def page(sections: Sequence[Section], context: Context, machine: str) -> str:
    """The self-contained ``report.html``: styles, figures and text in one file."""
    templates = environment("poolkit.demo")
    templates.filters["data_uri"] = _data_uri
    templates.filters["size"] = _size
    templates.filters["kind"] = lambda block: type(block).__name__
    return templates.get_template("report.html.j2").render(
        lang=context.lang,
        text=PAGE[context.lang],
        image_name=context.image_name,
        machine=machine,
        opening=_opening(context),
        sections=sections,
        anchors={f"#{section.slug}" for section in sections},
        light=LIGHT,
        dark=DARK,
    )


def print_tables(sections: Sequence[Section], console: Console) -> None:
    """The tables of the report, in the terminal."""
    for section in sections:
        console.rule(section.title, align="left")
        for table in section.tables:
            shown = TerminalTable(title=table.title, title_justify="left", title_style="bold")
            for column, name in enumerate(table.header):
                shown.add_column(name, justify="right" if column in table.numeric else "left")
            for row in table.rows:
                shown.add_row(*row)
            console.print(shown)


def progress_bar(console: Console) -> Progress:
    """A bar that leaves nothing behind. It is drawn only on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
