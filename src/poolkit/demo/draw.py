"""The report's figures.

Text inside a figure is numbers, symbols and operator names only, so that one figure serves every
language and needs no font beyond matplotlib's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..imaging import to_array
from ..page.theme import Theme

Drawer = Callable[[Theme], Figure]
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

DPI = 160
# Photographs are laid out pixel by pixel; at this resolution an inch is a hundred of them.
PIXEL_DPI = 100


def window_example(x: torch.Tensor, k: int, mean: torch.Tensor, maximum: torch.Tensor) -> Drawer:
    """A square input cut into k x k windows; the means to its left, the maxima to its right.

    The cells that a maximum came from are filled. All three are (rows, columns).
    """
    side, small = x.shape[0], maximum.shape[0]
    gap = 1.7  # between grids, in cells: room for an arrow and its name
    width = side + 2 * (small + gap)
    lift = (side - small) / 2

    def colour(theme: Theme, row: int, column: int) -> str:
        return theme.windows[(row * small + column) % len(theme.windows)]

    def output(axes: Axes, theme: Theme, values: torch.Tensor, left: float, filled: bool) -> None:
        for row in range(small):
            for column in range(small):
                hue = colour(theme, row, column)
                at = (left + column, lift + row)
                cell(axes, theme, at, float(values[row, column]), hue, filled)
                _frame(axes, at, 1, hue)

    def drawer(theme: Theme) -> Figure:
        figure = Figure(figsize=(9.6, 9.6 * (side + 0.3) / (width + 0.3)), dpi=DPI)
        figure.set_facecolor(theme.card)
        axes = bare(figure.add_axes((0, 0, 1, 1)))
        axes.set_xlim(-0.15, width + 0.15)
        axes.set_ylim(side + 0.15, -0.15)
        start = small + gap
        output(axes, theme, mean, 0, False)
        arrow(axes, theme, start - 0.25, small + 0.25, side / 2, "mean")
        for row in range(side):
            for column in range(side):
                value = float(x[row, column])
                won = value == float(maximum[row // k, column // k])
                hue = colour(theme, row // k, column // k)
                cell(axes, theme, (start + column, row), value, hue, won)
        for row in range(small):
            for column in range(small):
                _frame(axes, (start + column * k, row * k), k, colour(theme, row, column))
        arrow(axes, theme, start + side + 0.25, start + side + gap - 0.25, side / 2, "max")
        output(axes, theme, maximum, start + side + gap, True)
        return figure

    return drawer


def cell(
    axes: Axes,
    theme: Theme,
    at: tuple[float, float],
    value: float,
    hue: str,
    filled: bool,
    shade: float = 0.0,
) -> None:
    """One number in its square: filled, or tinted, from 0 to 1 more strongly with ``shade``."""
    tint = theme.tint + (0.55 - theme.tint) * shade
    face = mpl.colors.to_rgba(hue, 1.0 if filled else tint)
    axes.add_patch(Rectangle(at, 1, 1, facecolor=face, edgecolor=theme.card, linewidth=1.5))
    axes.text(
        at[0] + 0.5,
        at[1] + 0.5,
        f"{value:g}",
        ha="center",
        va="center_baseline",
        fontsize=19,
        fontweight="bold" if filled else "normal",
        color=theme.card if filled else theme.ink,
    )


def _frame(axes: Axes, at: tuple[float, float], size: int, hue: str) -> None:
    inset = 0.04
    axes.add_patch(
        Rectangle(
            (at[0] + inset, at[1] + inset),
            size - 2 * inset,
            size - 2 * inset,
            fill=False,
            edgecolor=hue,
            linewidth=3,
        )
    )


def arrow(axes: Axes, theme: Theme, tail: float, head: float, y: float, name: str) -> None:
    axes.annotate(
        "",
        xy=(head, y),
        xytext=(tail, y),
        arrowprops={
            "arrowstyle": "-|>",
            "color": theme.muted,
            "linewidth": 2,
            "mutation_scale": 22,
        },
    )
    axes.text(
        (tail + head) / 2, y - 0.28, name, ha="center", fontsize=15, color=theme.ink, style="italic"
    )


def bare(axes: Axes) -> Axes:
    axes.set_axis_off()
    return axes


@dataclass(frozen=True)
class Panel:
    """One image of a panel figure, with the line printed above it."""

    label: str
    pixels: Pixels


def blocks(image: torch.Tensor, size: tuple[int, int]) -> Pixels:
    """``(1, C, H, W)`` at ``size`` pixels (height, width): a block per value, nothing smoothed."""
    levels = to_array(image)
    rows, columns = size[0] // levels.shape[0], size[1] // levels.shape[1]
    grown: Pixels = levels.repeat(rows, axis=0).repeat(columns, axis=1)
    if grown.ndim == 2:
        grown = grown[:, :, None].repeat(3, axis=2)
    return grown


def heat(values: torch.Tensor, top: float, size: tuple[int, int], theme: Theme) -> Pixels:
    """``(H, W)`` values from 0 to ``top`` as colours, one block per value."""
    shades = mpl.colormaps[theme.scale](Normalize(0, top)(values.numpy()))[:, :, :3]
    pixels: Pixels = (shades * 255).round().astype(np.uint8)
    return pixels.repeat(size[0] // pixels.shape[0], axis=0).repeat(
        size[1] // pixels.shape[1], axis=1
    )


def panels(
    rows: Callable[[Theme], Sequence[Sequence[Panel]]],
    size: tuple[int, int],
    before: Panel | None = None,
    bar: tuple[str, float] | None = None,
) -> Drawer:
    """Images of ``size`` pixels in rows and columns, each pixel of theirs one pixel of the figure.

    ``before`` stands alone in a first column, halfway down. ``bar`` = (label, top) adds the colour
    scale of :func:`heat` below the last column.
    """

    def drawer(theme: Theme) -> Figure:
        grid = rows(theme)
        lead = 0 if before is None else 1
        columns = lead + max(len(row) for row in grid)
        gap = size[1] // 24
        width = columns * size[1] + (columns - 1) * gap
        # The page shows every figure at one width, so letters grow with the pixels.
        letter = width / 62
        header = round(letter * 2.1)
        foot = round(letter * 2.9) if bar else 4
        height = len(grid) * (size[0] + header) + foot
        figure = Figure(figsize=(width / PIXEL_DPI, height / PIXEL_DPI), dpi=PIXEL_DPI)
        figure.set_facecolor(theme.card)

        def place(panel: Panel, column: int, row: float) -> None:
            left = column * (size[1] + gap)
            top = round(row * (size[0] + header)) + header
            _image(figure, panel.pixels, left, top)
            at = (left / width, 1 - (top - letter * 0.6) / height)
            points = letter * 72 / PIXEL_DPI
            figure.text(*at, panel.label, fontsize=points, color=theme.ink, va="baseline")

        if before is not None:
            place(before, 0, (len(grid) - 1) / 2)
        for r, row in enumerate(grid):
            for c, panel in enumerate(row):
                place(panel, lead + c, r)
        if bar:
            left = (columns - 1) * (size[1] + gap)
            top = height - foot + round(letter * 0.7)
            _scale(figure, theme, bar, (left, top, size[1], round(letter * 0.7)), letter)
        return figure

    return drawer


def _image(figure: Figure, pixels: Pixels, left: int, top: int) -> None:
    high, wide = pixels.shape[:2]
    width, height = (figure.get_size_inches() * PIXEL_DPI).round()
    place = (left / width, 1 - (top + high) / height, wide / width, high / height)
    bare(figure.add_axes(place)).imshow(pixels, interpolation="none", aspect="auto")


def _scale(
    figure: Figure,
    theme: Theme,
    bar: tuple[str, float],
    box: tuple[int, int, int, int],
    letter: float,
) -> None:
    label, top = bar
    left, y, wide, high = box
    shades = mpl.colormaps[theme.scale](np.linspace(0, 1, wide))[None, :, :3]
    strip: Pixels = (shades * 255).round().astype(np.uint8).repeat(high, axis=0)
    _image(figure, strip, left, y)
    width, height = (figure.get_size_inches() * PIXEL_DPI).round()
    base = 1 - (y + high + letter * 0.3) / height
    marks = (("0", 0.0, "left"), (label, 0.5, "center"), (f"{top:g}", 1.0, "right"))
    for mark, share, align in marks:
        at = (left + wide * share) / width
        points = letter * 0.85 * 72 / PIXEL_DPI
        figure.text(at, base, mark, ha=align, va="top", fontsize=points, color=theme.muted)


@dataclass(frozen=True)
class Bars:
    """One chart of :func:`bar_pairs`: two bars for every label, and a note after each pair."""

    title: str
    unit: str
    first: Sequence[float]
    second: Sequence[float]
    notes: Sequence[str]


def bar_pairs(
    charts: Sequence[Bars], labels: Sequence[str], names: tuple[str, str], floor: float
) -> Drawer:
    """Charts side by side over the same labels, horizontal, on a logarithmic scale.

    A value below ``floor`` has no bar: a zero has no place on a logarithmic scale.
    """

    def drawer(theme: Theme) -> Figure:
        figure = Figure(figsize=(9.6, 1.15 + 0.52 * len(labels)), dpi=DPI, layout="constrained")
        figure.set_facecolor(theme.card)
        axes = figure.subplots(1, len(charts), sharey=True, squeeze=False)[0]
        for index, (chart, ax) in enumerate(zip(charts, axes, strict=True)):
            _bar_chart(ax, chart, labels, theme, floor, first=index == 0)
        handles = [
            Rectangle((0, 0), 1, 1, facecolor=colour) for colour in (theme.torch, theme.poolkit)
        ]
        figure.legend(
            handles,
            names,
            loc="outside upper left",
            ncols=2,
            frameon=False,
            labelcolor=theme.ink,
            fontsize=10.5,
            handlelength=1.1,
            handleheight=1.0,
        )
        return figure

    return drawer


def _bar_chart(
    ax: Axes, chart: Bars, labels: Sequence[str], theme: Theme, floor: float, first: bool
) -> None:
    start = floor * 0.9
    places = np.arange(len(labels), dtype=float)
    pairs = ((chart.first, -0.19, theme.torch), (chart.second, 0.19, theme.poolkit))
    for values, shift, colour in pairs:
        lengths = [value if value >= floor else start for value in values]
        ax.barh(places + shift, lengths, 0.36, color=colour, zorder=2)
    top = max(*chart.first, *chart.second, floor * 10)
    ax.set_xscale("log")
    # Room on the right for the notes.
    ax.set_xlim(start, top * (top / floor) ** 0.32)
    ax.set_ylim(len(labels) - 0.45, -0.6)
    for place, a, b, note in zip(
        places.tolist(), chart.first, chart.second, chart.notes, strict=True
    ):
        end = max(a, b, floor) * (top / floor) ** 0.025
        ax.text(end, place, note, va="center", fontsize=10, color=theme.ink, fontweight="bold")
    ax.set_title(chart.title, loc="left", fontsize=11.5, color=theme.ink, pad=8)
    ax.set_xlabel(chart.unit, fontsize=10, color=theme.muted)
    ax.set_yticks(places, labels)
    ax.tick_params(axis="y", length=0, labelsize=10, labelcolor=theme.ink)
    ax.tick_params(axis="x", which="both", color=theme.line, labelsize=9, labelcolor=theme.muted)
    ax.grid(axis="x", color=theme.line, linewidth=0.8, zorder=0)
    ax.set_facecolor(theme.card)
    for side in ax.spines.values():
        side.set_visible(False)
