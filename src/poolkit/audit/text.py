"""A report as tables for a terminal of 100 columns."""

import textwrap
from collections.abc import Callable, Sequence

from ..table import aligned
from .report import Border, Interval, Report, Stage
from .units import by, byte_count, duration, percent

WIDTH = 100
NAME = 24  # columns of a stage's name
EMPTY = "-"

Row = tuple[str, ...]


def tables(report: Report) -> str:
    """All of a report, section after section."""
    sections = [_title(report)]
    for heading, section in SECTIONS.items():
        body = section(report)
        if body:
            sections.append(f"{heading}\n{textwrap.indent(body, '  ')}")
    return "\n\n".join(sections)


def _title(report: Report) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in report.machine.items() if value)
    title = f"{report.model}, input {by(report.input_shape)}"
    return f"{title}\n{wrapped(machine)}" if machine else title


def _path(report: Report) -> str:
    heading = ("stage", "kind", "map", "kernel", "stride", "padding")
    rows = [
        (
            label(stage),
            f"{stage.kind}, side" if stage.side else stage.kind,
            f"{_tight(stage.input_shape[1:])} -> {_tight(stage.output_shape[1:])}",
            _equal(stage.kernel),
            _equal(stage.stride),
            _padding(stage.padding) + (", ceil" if stage.ceil_mode else ""),
        )
        for stage in report.stages
    ]
    return aligned([heading, *rows]) if rows else "No stage shrinks a map or pools."


def _border(report: Report) -> str:
    heading = ("stage", "cells", "dropped", "counted twice", "skipped", "drops none at")
    rows = []
    for stage in report.stages:
        border = stage.border or ()
        if any(b.dropped or b.repeated or b.skipped for b in border):
            rows.append(
                (
                    label(stage),
                    _equal(stage.input_shape[2:]),
                    _equal([b.dropped for b in border]),
                    _equal([b.repeated for b in border]),
                    _equal([b.skipped for b in border]),
                    _equal([_multiple(b) for b in border]),
                )
            )
    lines = [aligned([heading, *rows], right=range(1, 5))] if rows else []
    totals = report.totals
    if totals.divides_by and max(totals.divides_by) == 1:
        lines.append("No size of the input loses cells at a border.")
    elif totals.divides_by:
        lines.append(f"Inputs that divide by {by(totals.divides_by)} lose nothing at any border.")
    if totals.smallest_input:
        lines.append(f"The smallest input that works: {by(totals.smallest_input)}.")
    return "\n".join(lines)


def _multiple(border: Border) -> str:
    if border.divides_by == 1:
        return "any"
    multiple = f"{border.divides_by} n"
    return f"{multiple} + {border.remainder}" if border.remainder else multiple


def _fields(report: Report) -> str:
    heading = ("stage", "field", "shortest", "by gradient", "step", "phase", "folded", "moved")
    rows = [
        (
            label(stage),
            _equal([f.size or "all" for f in stage.field or ()]),
            _equal([f.smallest or "all" for f in stage.field or ()]),
            _equal([f"{width:.3g}" for width in stage.effective_field or ()]),
            _equal([f"{f.stride:g}" for f in stage.field or ()]),
            _equal([f"{f.phase:+g}" + ("" if f.aligned else "!") for f in stage.field or ()]),
            maybe(stage.aliasing, percent),
            maybe(stage.feature_shift, percent),
        )
        for stage in report.stages
    ]
    if not rows:
        return ""
    legend = (
        "field: pixels that a value depends on, by the longest path and the shortest; by gradient: "
        "the width that holds 95 % of its squared gradient; step: pixels between neighbours; "
        "phase: pixels off a centred grid (! where branches meet that differ); folded: energy "
        "above the new Nyquist limit before the stride; moved: how far the map is from following "
        "a move of one pixel."
    )
    return f"{aligned([heading, *rows], right=range(1, 8))}\n{wrapped(legend)}"


def _cost(report: Report) -> str:
    totals = report.totals
    heading = ("stage", "parameters", "", "multiply-adds", "", "comparisons", "additions")

    def row(name: str, part: Stage | object) -> Row:
        counts = [getattr(part, each) for each in COUNTS]
        return (
            name,
            f"{counts[0]:,}",
            _part(counts[0], totals.parameters),
            f"{counts[1]:,}",
            _part(counts[1], totals.multiply_adds),
            f"{counts[2]:,}",
            f"{counts[3]:,}",
        )

    rows = [row(label(stage), stage) for stage in report.stages]
    return aligned([heading, *rows, row("the model", totals)], right=range(1, 7))


COUNTS = ("parameters", "multiply_adds", "comparisons", "additions")


def _memory(report: Report) -> str:
    heading = ("stage", "map", "kept: torch", "poolkit", "indices: torch", "poolkit")

    def row(name: str, part: Stage | object) -> Row:
        counts = [getattr(part, each) for each in BYTES]
        return (name, *(byte_count(count) if count else "0" for count in counts))

    rows = [row(label(stage), stage) for stage in report.stages]
    return aligned([heading, *rows, row("the model", report.totals)], right=range(1, 6))


BYTES = (
    "output_bytes",
    "saved_bytes_torch",
    "saved_bytes",
    "index_bytes_torch",
    "index_bytes",
)


def _time(report: Report) -> str:
    totals = report.totals
    whole = totals.seconds_torch
    heading = ("stage", "torch", "of the model", "poolkit", "torch / poolkit")

    def row(name: str, stock: float | None, ours: float | None) -> Row:
        return (
            name,
            maybe(stock, duration),
            EMPTY if stock is None or not whole else percent(stock / whole),
            maybe(ours, duration),
            EMPTY if stock is None or not ours else f"{stock / ours:.3g}",
        )

    rows = [row(label(s), s.seconds_torch, s.seconds) for s in report.stages]
    if whole is None and all(s.seconds_torch is None for s in report.stages):
        return ""
    return aligned([heading, *rows, row("the model", whole, totals.seconds)], right=range(1, 5))


def _moves(report: Report) -> str:
    if not report.consistency:
        return ""
    heading = ("move", "up to", "same top class", "95 % interval", "logits moved", "95 % interval")
    rows = [
        (
            each.kind,
            f"{each.largest_shift:g} px",
            *interval(each.top1),
            *interval(each.distance),
        )
        for each in report.consistency
    ]
    return f"{aligned([heading, *rows], right=range(1, 6))}\n{wrapped(_samples(report))}"


def _samples(report: Report) -> str:
    drawn = {(c.images, c.shifts, c.seed) for c in report.consistency}
    return "; ".join(
        f"{images} pictures, {shifts} moves of each and kind, seed {seed}"
        for images, shifts, seed in sorted(drawn)
    )


def _head(report: Report) -> str:
    head = report.head
    if head is None:
        return ""
    if head.kind == "none":
        text = f"None: the answer is a map of {by(head.grid)}." if head.grid else "None."
    else:
        text = (
            f"{head.name}: {head.kind} of a {by(head.grid)} map, {head.parameters:,} parameters, "
            f"{percent(head.share)} of the model's; {head.multiply_adds:,} multiply-adds."
        )
    if head.gap_parameters is not None and head.gap_parameters != head.parameters:
        text += f" Global average pooling and one linear layer: {head.gap_parameters:,} parameters."
    if head.sizes_tried:
        tried = [f"{by(size)} {'works' if ok else 'fails'}" for size, ok in head.sizes_tried]
        text += f" Other input sizes: {', '.join(tried)}."
    return wrapped(text)


def _advice(report: Report) -> str:
    return "\n".join(
        f"{wrapped(f'- {each.text}', '  ')}\n      {each.code}" for each in report.recommendations
    )


def _missing(report: Report) -> str:
    return "\n".join(wrapped(f"- {each.what}: {each.why}", "  ") for each in report.not_measured)


SECTIONS: dict[str, Callable[[Report], str]] = {
    "Where the maps shrink": _path,
    "At the border": _border,
    "What a value sees": _fields,
    "Operations of one forward pass": _cost,
    "Memory: maps, and what training keeps": _memory,
    "Time of one call": _time,
    "When the picture moves": _moves,
    "Head": _head,
    "Recommendations": _advice,
    "Not measured": _missing,
}


# ---- cells --------------------------------------------------------------------------------------


def label(stage: Stage) -> str:
    """The name, its end if it is long, and which call of several."""
    call = f" #{stage.call}" if stage.call > 1 else ""
    room = NAME - len(call)
    name = stage.name if len(stage.name) <= room else f"...{stage.name[3 - room :]}"
    return name + call


def maybe(value: float | None, write: Callable[[float], str]) -> str:
    """A dash for what was not measured."""
    return EMPTY if value is None else write(value)


def interval(found: Interval | None) -> tuple[str, str]:
    """The mean, and its interval."""
    if found is None:
        return EMPTY, EMPTY
    return percent(found.mean), f"{percent(found.low)} to {percent(found.high)}"


def wrapped(text: str, hanging: str = "") -> str:
    """Lines that fit, indented as they will be."""
    lines = textwrap.wrap(text, WIDTH - 2, subsequent_indent=hanging, break_on_hyphens=False)
    return "\n".join(lines)


def _part(count: int, whole: int) -> str:
    return percent(count / whole) if whole and count else ""


def _tight(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _equal(sizes: Sequence[object] | None) -> str:
    """One size for all axes if they are equal."""
    if not sizes:
        return EMPTY
    parts = [str(each) for each in sizes]
    return parts[0] if len(set(parts)) == 1 else "x".join(parts)


def _padding(padding: Sequence[tuple[int, int]] | None) -> str:
    """``1``, or ``0/1`` where before and after differ."""
    if padding is None:
        return EMPTY
    return _equal([str(a) if a == b else f"{a}/{b}" for a, b in padding])
