"""The page of an audit: one file, without scripts, that asks for nothing."""

import base64
import hashlib
import re

from markupsafe import Markup

from ..page import environment
from ..page.theme import DARK, LIGHT
from . import figures
from .figures import shared, title
from .report import Border, Report
from .units import by, byte_count, duration, percent

__all__ = ["page"]

NONE = "–"


def page(report: Report) -> str:
    """A self-contained HTML page: every figure of the report, with charts and the same in words.

    Light and dark follow the reader's system; it is printable, and readable on a telephone. What
    comes from the model is escaped, and its Content-Security-Policy lets nothing run or load.

    Raises:
        ModuleNotFoundError: jinja2 is not installed: ``pip install poolkit[tools]``.
    """
    templates = environment("poolkit.audit")
    templates.filters["dotted"] = _dotted
    templates.filters["unbroken"] = _unbroken
    # The policy names the one style sheet by its digest: no other style or script has effect.
    style = templates.get_template("report.css.j2").render(light=LIGHT, dark=DARK)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return templates.get_template("report.html.j2").render(
        report=report,
        style=Markup(style),  # noqa: S704  it is our own
        digest=digest,
        size=by(report.input_shape),
        cards=_cards(report),
        charts={
            "path": figures.path(report),
            "fields": figures.fields(report),
            "memory": figures.memory(report),
            "time": figures.time(report),
            "aliasing": figures.aliasing(report),
            "head": figures.head(report),
        },
        consistency=figures.consistency(report),
        head=_head_words(report),
        borders=_borders(report),
        operations=_operations(report),
    )


def _dotted(name: str) -> Markup:
    """A qualified name that may be broken after its dots."""
    return Markup(".<wbr>").join(name.split("."))


def _unbroken(words: str) -> str:
    """The words, with no line's end between a number and its unit."""
    return re.sub(
        r"(?<=\d) (?=(?:%|px|MiB|KiB|ms|µs|x)\b|%)|(?<= x) (?=\d)", "\N{NO-BREAK SPACE}", words
    )


def _cards(report: Report) -> list[tuple[str, str, str]]:
    """The totals: a name, a figure, and what it is of."""
    t = report.totals
    cards = [
        ("Parameters", f"{t.parameters:,}", ""),
        ("Multiply-adds", f"{t.multiply_adds:,}", f"{2 * t.multiply_adds:,} FLOPs"),
    ]
    if t.seconds_torch is not None and t.seconds is not None:
        cards.append(
            ("Forward pass", duration(t.seconds_torch), f"{duration(t.seconds)} with poolkit")
        )
    saved = f"{byte_count(t.saved_bytes)} with poolkit"
    cards.append(("Kept for training", byte_count(t.saved_bytes_torch), saved))
    indices = f"{byte_count(t.index_bytes)} with poolkit"
    cards.append(("of that, pooling indices", byte_count(t.index_bytes_torch), indices))
    if t.divides_by is not None:
        even = "any size" if max(t.divides_by) == 1 else f"multiples of {by(t.divides_by)}"
        cards.append(("Sizes that drop nothing", even, ""))
    if t.smallest_input is not None:
        cards.append(("Smallest input", by(t.smallest_input), ""))
    return cards


def _borders(report: Report) -> list[tuple[str, ...]]:
    """The stages whose windows do not cover their map exactly: a row each."""
    rows = []
    for stage in report.stages:
        border = stage.border or ()
        if any(
            b.dropped or b.skipped or b.repeated or b.outside or b.divides_by > 1 for b in border
        ):
            rows.append(
                (
                    title(stage),
                    by(stage.input_shape[2:]),
                    *(
                        shared(cells) if any(cells) else NONE
                        for cells in (
                            [b.dropped for b in border],
                            [b.skipped for b in border],
                            [b.repeated for b in border],
                            [b.outside for b in border],
                        )
                    ),
                    shared([_even(b) for b in border]),
                )
            )
    return rows


def _even(border: Border) -> str:
    if border.divides_by == 1:
        return "any"
    rest = f" + {border.remainder}" if border.remainder else ""
    return f"multiples of {border.divides_by}{rest}"


def _operations(report: Report) -> list[tuple[str, ...]]:
    t = report.totals
    rows = [
        (
            title(s),
            f"{s.parameters:,}",
            _share(s.parameters, t.parameters),
            f"{s.multiply_adds:,}",
            _share(s.multiply_adds, t.multiply_adds),
            f"{s.comparisons:,}",
            f"{s.additions:,}",
        )
        for s in report.stages
    ]
    total = ("The model", f"{t.parameters:,}", "100 %", f"{t.multiply_adds:,}", "100 %")
    return [*rows, (*total, f"{t.comparisons:,}", f"{t.additions:,}")]


def _share(part: float, whole: float) -> str:
    return percent(part / whole) if whole else NONE


def _head_words(report: Report) -> list[tuple[str, str]]:
    head = report.head
    if head is None:
        return []
    if head.kind == "none":
        words = [("Kind", "none: the scores are a map")]
    else:
        words = [("Kind", head.kind), ("Module", head.name or NONE)]
    words.append(("Last map", by(head.grid) or NONE))
    if head.multiply_adds:
        words.append(("Multiply-adds", f"{head.multiply_adds:,}"))
    works = {True: "yes", False: "no", None: "not known"}[head.any_size]
    tried = ", ".join(f"{by(size)} {'works' if ok else 'fails'}" for size, ok in head.sizes_tried)
    words.append(("Other input sizes", f"{works} ({tried})" if tried else works))
    return words
