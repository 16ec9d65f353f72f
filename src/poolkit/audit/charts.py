"""Drawings of the page: one small SVG for a row of a table, which says the same in words.

Widths are in percent of the cell, so that a chart fits a telephone and a desk, and letters are
never scaled. Colours are classes of the style sheet, for light and dark. Nothing that is written
here comes from the model.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from .report import Interval, Stage

__all__ = ["Scale", "Step", "axis", "bars", "flow", "marks", "steps", "widening"]

ROW = 11  # pixels of a bar
GAP = 3
EDGE = 1.5  # percent at both ends, so that no mark and no number is cut


@dataclass(frozen=True)
class Scale:
    """From ``bottom`` to ``top``, linear, or by powers of two."""

    top: float
    bottom: float = 0.0
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value stands, in percent; values beyond an end stand at that end."""
        low, high, place = self.bottom, self.top, value
        if self.log:
            low, high, place = (math.log2(max(v, self.bottom)) for v in (low, high, place))
        share = (place - low) / (high - low) if high > low else 0.0
        return EDGE + (100 - 2 * EDGE) * min(1.0, max(0.0, share))

    def ticks(self) -> Iterator[float]:
        """A few round values."""
        if self.log:
            step = 2 if math.log2(self.top / self.bottom) > 5 else 1
            power = math.ceil(math.log2(self.bottom))
            while 2**power <= self.top:
                yield 2.0**power
                power += step
            return
        rough = (self.top - self.bottom) / 3 or 1.0
        unit = 10 ** math.floor(math.log10(rough))
        step_ = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
        count = math.floor((self.top - self.bottom) / step_ + 1e-9)
        yield from (self.bottom + step_ * place for place in range(count + 1))


def _svg(height: int, inner: Markup, kind: str = "chart") -> Markup:
    # What it shows stands beside it in words: a screen reader has no use for it.
    return Markup('<svg class="{}" width="100%" height="{}" aria-hidden="true">{}</svg>').format(
        kind, height, inner
    )


def _joined(parts: Sequence[Markup]) -> Markup:
    return Markup("").join(parts)


def axis(scale: Scale, written: Sequence[tuple[float, str]]) -> Markup:
    """Labels over a column of charts: ``written`` are values and how they are written."""
    labels = []
    for value, text in written:
        at = scale.at(value)
        anchor = "start" if at < 8 else "end" if at > 92 else "middle"
        labels.append(
            Markup(
                '<text x="{:.2f}%" y="11" text-anchor="{}">{}</text>'
                '<line x1="{:.2f}%" x2="{:.2f}%" y1="15" y2="19"/>'
            ).format(at, anchor, text, at, at)
        )
    return _svg(19, _joined(labels), "axis")


def bars(
    scale: Scale,
    rows: Sequence[Sequence[tuple[float, str]]],
    *,
    line: float | None = None,
    dots: Sequence[float] = (),
) -> Markup:
    """Bars below each other, each of parts ``(length, class)`` end to end.

    ``line`` is a value that the bars are compared with; ``dots`` are marked as rhombs.
    """
    parts = []
    height = len(rows) * ROW + (len(rows) - 1) * GAP
    for place, row in enumerate(rows):
        end = scale.bottom
        for length, kind in row:
            start, end = end, end + length if not scale.log else length
            x = scale.at(start)
            width = scale.at(end) - x
            parts.append(
                Markup('<rect x="{:.2f}%" y="{}" width="{:.2f}%" height="{}" class="{}"/>').format(
                    x, place * (ROW + GAP), max(width, 0.4 if length else 0.0), ROW, kind
                )
            )
    if line is not None:
        x = scale.at(line)
        parts.append(
            Markup('<line x1="{:.2f}%" x2="{:.2f}%" y1="-5" y2="{}" class="limit"/>').format(
                x, x, height + 5
            )
        )
    # A path has no percentages: a rhomb is placed by an inner svg that begins there.
    parts.extend(
        Markup(
            '<svg x="{:.2f}%" y="{}" overflow="visible">'
            '<path d="M0 -6 6 0 0 6 -6 0Z" class="dot"/></svg>'
        ).format(scale.at(dot), height / 2)
        for dot in dots
    )
    return _svg(height, _joined(parts))


def marks(scale: Scale, interval: Interval, kind: str) -> Markup:
    """A mean and its interval."""
    low, mean, high = (scale.at(v) for v in (interval.low, interval.mean, interval.high))
    inner = Markup(
        '<line x1="0" x2="100%" y1="8" y2="8" class="rail"/>'
        '<line x1="{:.2f}%" x2="{:.2f}%" y1="8" y2="8" class="span {}"/>'
        '<circle cx="{:.2f}%" cy="8" r="5.5" class="{}"/>'
    ).format(low, high, kind, mean, kind)
    return _svg(16, inner)


# ---- the path -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A stage in the drawing of the path: beside the main line, or on it."""

    stage: Stage
    aside: bool
    returns: bool
    """A branch that meets the main line again, not one that only scales it."""
    size: float
    """Of the main line, where the stage stands beside it; else of its own input."""


def steps(stages: Sequence[Stage]) -> list[Step]:
    """Which stages stand on the main line, and which beside it.

    Beside it are those that the map outlives (a later stage still reads a larger one: squeeze and
    excitation), and those that read what the stage before them on the line has read (a shortcut).
    """
    found: list[Step] = []
    before, size = -1.0, -1.0
    for place, stage in enumerate(stages):
        into, out = extent(stage.input_shape), extent(stage.output_shape)
        outlived = stage.side and any(extent(s.input_shape) > out for s in stages[place + 1 :])
        parallel = into == before != size
        aside = outlived or parallel
        found.append(
            Step(stage, aside, not outlived, (size if size > 0 else into) if aside else into)
        )
        if not aside:
            before, size = into, out
    return found


def extent(shape: Sequence[int]) -> float:
    """The side of a map ``(N, C, *)``: the geometric mean of its axes; 1 of a vector."""
    sides = shape[2:]
    return math.prod(sides) ** (1 / len(sides)) if sides else 1.0


MIDDLE, HALF = 35.0, 33.0  # of the main line, in percent of the cell
LANE, LANE_HALF = 86.0, 12.0  # of what stands beside it


def flow(step: Step, largest: float) -> Markup:
    """One stage as a funnel, as wide as the logarithm of the sizes; the rows make one line."""
    width = partial(_width, largest)
    into, out = extent(step.stage.input_shape), extent(step.stage.output_shape)
    if not step.aside:
        a, b = width(into, HALF), width(out, HALF)
        return _stretched(_funnel(MIDDLE, a, b, 0, 100, hue(step.stage.kind)))
    a = width(step.size, HALF)
    line = _funnel(MIDDLE, a, a, 0, 100, "passing")
    edge, lane = MIDDLE + a, LANE - width(into, LANE_HALF)
    link = Markup('<path d="M{:.2f} 14H{:.2f}" class="link"/>').format(edge, lane)
    back = Markup("")
    if step.returns:
        back = Markup('<path d="M{:.2f} 86H{:.2f}" class="link"/>').format(
            edge, LANE - width(out, LANE_HALF)
        )
    a, b = width(into, LANE_HALF), width(out, LANE_HALF)
    return _stretched(line + link + back + _funnel(LANE, a, b, 8, 92, hue(step.stage.kind)))


def widening(low: float, high: float, largest: float) -> Markup:
    """A map that grows again, in the main line."""
    a, b = (_width(largest, size, HALF) for size in (low, high))
    return _stretched(_funnel(MIDDLE, a, b, 0, 100, "passing"))


def _width(largest: float, size: float, half: float) -> float:
    return half * max(0.04, math.log2(size + 1) / math.log2(largest + 1))


def _stretched(inner: Markup) -> Markup:
    return Markup(
        '<svg class="flow" viewBox="0 0 100 100" preserveAspectRatio="none" '
        'aria-hidden="true">{}</svg>'
    ).format(inner)


def _funnel(middle: float, a: float, b: float, top: float, bottom: float, kind: str) -> Markup:
    bend = (bottom - top) / 4
    points = [
        (middle - a, top), (middle + a, top), (middle + a, top + bend), (middle + b, bottom - bend),
        (middle + b, bottom), (middle - b, bottom), (middle - b, bottom - bend),
        (middle - a, top + bend),
    ]  # fmt: skip
    path = " ".join(f"{x:.2f},{y:g}" for x, y in points)
    return Markup('<polygon points="{}" class="{}"/>').format(path, kind)


def hue(kind: str) -> str:
    """The class of a kind of stage; the kind is also written beside it."""
    if kind.startswith(("global", "adaptive")):
        return "hue-4"
    if kind in {"max", "max blur", "fractional", "polyphase"}:
        return "hue-1"
    if kind in {"strided conv", "patch embedding"}:
        return "hue-2"
    return "hue-3"
