"""Drawings of windows: rows of numbers, and the windows of an adaptive pooling."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..page.theme import Theme
from .draw import DPI, PIXEL_DPI, Drawer, Pixels

Row = Sequence[float]


def moved_rows(pairs: Sequence[tuple[Row, Row, Row, Row]], k: int) -> Drawer:
    """Rows in windows of ``k`` cells with their maxima below; to the right the same rows, moved.

    Each of ``pairs`` is (row, maxima, moved row, maxima of the moved row). The cells that a maximum
    came from are filled; a maximum that the move has changed has a dashed frame.
    """
    longest = max(len(pair[0]) for pair in pairs)
    gap, high = 1.6, 3.0
    width = 2 * longest + gap

    def drawer(theme: Theme) -> Figure:
        height = high * len(pairs) - 0.5
        figure = Figure(figsize=(9.6, 9.6 * (height + 0.3) / (width + 0.3)), dpi=DPI)
        figure.set_facecolor(theme.card)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(-0.15, width + 0.15)
        axes.set_ylim(height + 0.15, -0.15)
        for number, (row, maxima, moved, moved_maxima) in enumerate(pairs):
            top = number * high
            left = longest - len(row)
            _row(axes, theme, (left, top), k, row, maxima, maxima)
            _arrow(axes, theme, longest + 0.3, longest + gap - 0.3, top + 0.5, "+1")
            _row(axes, theme, (longest + gap, top), k, moved, moved_maxima, maxima)
        return figure

    return drawer


def adaptive_rows(cases: Sequence[tuple[Row, Sequence[range], Row]]) -> Drawer:
    """Rows of cells, a bar under each for every window, and to the right what the windows give.

    Each of ``cases`` is (row, windows, outputs). Bars of neighbours lie at two heights, so that an
    overlap is seen.
    """
    longest = max(len(row) for row, _, _ in cases)
    most = max(len(outputs) for _, _, outputs in cases)
    gap, high, bar = 1.6, 2.35, 0.3
    width = longest + gap + most

    def drawer(theme: Theme) -> Figure:
        height = high * len(cases) - 0.6
        figure = Figure(figsize=(9.6, 9.6 * (height + 0.3) / (width + 0.3)), dpi=DPI)
        figure.set_facecolor(theme.card)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(-0.15, width + 0.15)
        axes.set_ylim(height + 0.15, -0.15)
        for number, (row, windows, outputs) in enumerate(cases):
            top = number * high
            left = longest - len(row)
            for place, value in enumerate(row):
                _cell(axes, theme, (left + place, top), value, theme.muted, False)
            for window, span in enumerate(windows):
                hue = theme.windows[window % len(theme.windows)]
                at = (left + span.start + 0.06, top + 1.1 + window % 2 * (bar + 0.06))
                axes.add_patch(Rectangle(at, len(span) - 0.12, bar, facecolor=hue))
                at = (longest + gap + window, top)
                _cell(axes, theme, at, outputs[window], hue, True)
            _arrow(axes, theme, longest + 0.3, longest + gap - 0.3, top + 0.5, "")
        return figure

    return drawer


@dataclass(frozen=True)
class Grid:
    """A picture with the windows of its two axes, and the grid that they give, both as pixels."""

    label: str
    pixels: Pixels
    rows: Sequence[range]
    columns: Sequence[range]
    grow: int  # pixels of the picture for a cell of the input
    output: Pixels


def grids(cases: Sequence[Grid]) -> Drawer:
    """Pictures of different sizes at one scale with their windows; below each, its output."""
    gap = 36
    widths = [max(case.pixels.shape[1], case.output.shape[1]) for case in cases]
    tallest = max(case.pixels.shape[0] for case in cases)
    width = sum(widths) + gap * (len(cases) - 1)
    letter = width / 62
    header = round(letter * 2.1)
    height = header + tallest + gap + max(case.output.shape[0] for case in cases)

    def drawer(theme: Theme) -> Figure:
        figure = Figure(figsize=(width / PIXEL_DPI, height / PIXEL_DPI), dpi=PIXEL_DPI)
        figure.set_facecolor(theme.card)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        left = 0
        for case, wide in zip(cases, widths, strict=True):
            top = header + tallest - case.pixels.shape[0]
            points = letter * 72 / PIXEL_DPI
            axes.text(left, top - letter * 0.6, case.label, fontsize=points, color=theme.ink)
            _picture(axes, case.pixels, left, top)
            hue = theme.windows[1]
            for axis, windows in enumerate((case.rows, case.columns)):
                for number, span in enumerate(windows):
                    _strip(axes, case, (left, top), axis, span.start * case.grow, hue)
                    if number == len(windows) - 1:
                        _strip(axes, case, (left, top), axis, span.stop * case.grow, hue)
            _picture(axes, case.output, left, header + tallest + gap)
            left += wide + gap
        return figure

    return drawer


def _picture(axes: Axes, pixels: Pixels, left: int, top: int) -> None:
    high, wide = pixels.shape[:2]
    place = (left, left + wide, top + high, top)
    axes.imshow(pixels, interpolation="none", aspect="auto", extent=place)


def _strip(axes: Axes, case: Grid, corner: tuple[int, int], axis: int, at: int, hue: str) -> None:
    """A line across the picture where a window starts or the last one ends."""
    left, top = corner
    high, wide = case.pixels.shape[:2]
    if axis == 0:
        axes.plot((left, left + wide), (top + at, top + at), color=hue, linewidth=1.2)
    else:
        axes.plot((left + at, left + at), (top, top + high), color=hue, linewidth=1.2)


def _row(
    axes: Axes,
    theme: Theme,
    at: tuple[float, float],
    k: int,
    row: Row,
    maxima: Row,
    before: Row,
) -> None:
    left, top = at
    for place, value in enumerate(row):
        hue = theme.windows[place // k % len(theme.windows)]
        _cell(axes, theme, (left + place, top), value, hue, value == maxima[place // k])
    for window, value in enumerate(maxima):
        hue = theme.windows[window % len(theme.windows)]
        start = left + window * k
        _frame(axes, (start, top), (k, 1), hue)
        _cell(axes, theme, (start + (k - 1) / 2, top + 1.35), value, hue, True)
        if value != before[window]:
            _frame(axes, (start + (k - 1) / 2 - 0.1, top + 1.25), (1.2, 1.2), theme.ink, "--", 2)


def _cell(
    axes: Axes, theme: Theme, at: tuple[float, float], value: float, hue: str, filled: bool
) -> None:
    face = mpl.colors.to_rgba(hue, 1.0 if filled else theme.tint)
    axes.add_patch(Rectangle(at, 1, 1, facecolor=face, edgecolor=theme.card, linewidth=1.5))
    axes.text(
        at[0] + 0.5,
        at[1] + 0.5,
        f"{value:g}",
        ha="center",
        va="center_baseline",
        fontsize=15,
        fontweight="bold" if filled else "normal",
        color=theme.card if filled else theme.ink,
    )


def _frame(
    axes: Axes,
    at: tuple[float, float],
    size: tuple[float, float],
    hue: str,
    style: str = "-",
    line: float = 2.5,
) -> None:
    inset = 0.04
    axes.add_patch(
        Rectangle(
            (at[0] + inset, at[1] + inset),
            size[0] - 2 * inset,
            size[1] - 2 * inset,
            fill=False,
            edgecolor=hue,
            linewidth=line,
            linestyle=style,
        )
    )


def _arrow(axes: Axes, theme: Theme, tail: float, head: float, y: float, name: str) -> None:
    arrow = {"arrowstyle": "-|>", "color": theme.muted, "linewidth": 2, "mutation_scale": 18}
    axes.annotate("", xy=(head, y), xytext=(tail, y), arrowprops=arrow)
    axes.text(
        (tail + head) / 2, y - 0.25, name, ha="center", fontsize=13, color=theme.ink, style="italic"
    )
