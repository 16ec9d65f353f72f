"""Drawings of windows on one axis: rows of numbers, and the spans of an adaptive pooling."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .draw import DPI, Drawer
from .theme import Theme

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
            _arrow(axes, theme, longest + 0.3, longest + gap - 0.3, top + 0.5)
            _row(axes, theme, (longest + gap, top), k, moved, moved_maxima, maxima)
        return figure

    return drawer


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


def _arrow(axes: Axes, theme: Theme, tail: float, head: float, y: float) -> None:
    arrow = {"arrowstyle": "-|>", "color": theme.muted, "linewidth": 2, "mutation_scale": 18}
    axes.annotate("", xy=(head, y), xytext=(tail, y), arrowprops=arrow)
    axes.text(
        (tail + head) / 2, y - 0.25, "+1", ha="center", fontsize=13, color=theme.ink, style="italic"
    )
