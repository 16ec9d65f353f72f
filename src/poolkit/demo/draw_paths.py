"""The figure of "Where it is used": how networks shrink their maps, a row each."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from ..page.theme import Theme
from .draw import DPI, Drawer

# Kind of layer: marker, its size in points, and index of its hue. Shape and colour say the same.
MARKERS = {
    "max pool": ("v", 12.0, 0),
    "strided conv": ("s", 9.5, 1),
    "avg pool": ("o", 10.5, 2),
    "adaptive avg": ("D", 8.5, 2),
    "global avg": ("*", 16.0, 3),
    "flatten": ("X", 11.0, None),
}
BESIDE = 1.22  # the factor from a size to the marker of a layer that keeps it
VECTOR = 1  # where vectors have their place on the axis of sizes


@dataclass(frozen=True)
class Mark:
    """One layer, or several that run beside each other: kinds and windows, sizes of the map.

    A ``before`` or ``after`` of 1 is a vector.
    """

    kinds: Sequence[str]
    windows: Sequence[str]
    before: int
    after: int


@dataclass(frozen=True)
class Row:
    """One network: its layers, and the parameters of the head among all."""

    label: str
    marks: Sequence[Mark]
    head: int
    parameters: int


def paths(rows: Sequence[Row]) -> Drawer:
    """Sizes from the image to the scores on a logarithmic scale; on the right the head's share."""

    def drawer(theme: Theme) -> Figure:
        figure = Figure(figsize=(10.6, 1.3 + 0.8 * len(rows)), dpi=DPI, layout="constrained")
        figure.set_facecolor(theme.card)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3.1, 1))
        start = max(row.marks[0].before for row in rows)
        sizes = [start]
        while sizes[-1] % 2 == 0:
            sizes.append(sizes[-1] // 2)
        sizes.append(VECTOR)
        for place, row in enumerate(rows):
            _path(left, theme, row, place, sizes)
            _share(right, theme, row, place)
        left.set_xscale("log", base=2)
        left.set_xlim(start * 1.35, 0.72)
        left.xaxis.set_major_locator(FixedLocator(sizes))
        left.xaxis.set_minor_locator(NullLocator())
        left.set_xticklabels([str(size) for size in sizes])
        left.set_ylim(len(rows) - 0.4, -0.62)
        left.set_yticks(range(len(rows)), [row.label for row in rows])
        right.set_xlim(0, 100)
        right.set_xlabel("head / parameters (%)", fontsize=10.5, color=theme.muted)
        left.set_xlabel("H = W", fontsize=10.5, color=theme.muted)
        for axes in (left, right):
            _style(axes, theme)
        left.tick_params(axis="y", labelsize=11.5)
        _legend(figure, theme, {kind for row in rows for mark in row.marks for kind in mark.kinds})
        return figure

    return drawer


def _hue(theme: Theme, kind: str) -> str:
    index = MARKERS[kind][2]
    return theme.ink if index is None else theme.windows[index]


def _path(axes: Axes, theme: Theme, row: Row, place: int, named: Sequence[int]) -> None:
    x = float(row.marks[0].before)
    axes.plot(x, place, marker="|", markersize=13, markeredgewidth=2, color=theme.muted)
    for mark in row.marks:
        kept = mark.before == mark.after
        end = x / BESIDE if kept else float(mark.after)
        axes.plot((x, end), (place, place), color=theme.line, linewidth=3, zorder=1)
        for level, (kind, window) in enumerate(zip(mark.kinds, mark.windows, strict=True)):
            # Layers beside the first, such as shortcuts, stand below it.
            y = place + 0.27 * level
            shape, size, _ = MARKERS[kind]
            axes.plot(end, y, marker=shape, markersize=size, color=_hue(theme, kind), zorder=2)
            _label(
                axes, theme, window, (end, y), "right" if level else "below" if kept else "above"
            )
        if not kept and mark.after not in named:
            _label(axes, theme, f"{mark.after}×{mark.after}", (end, place), "below")
        x = end


def _label(axes: Axes, theme: Theme, text: str, at: tuple[float, float], where: str) -> None:
    shift, across, along = {
        "above": ((0, 9), "center", "bottom"),
        "below": ((0, -9), "center", "top"),
        "right": ((8, 0), "left", "center"),
    }[where]
    axes.annotate(
        text,
        at,
        xytext=shift,
        textcoords="offset points",
        ha=across,
        va=along,
        fontsize=9.5,
        color=theme.ink if where == "above" else theme.muted,
        bbox={"facecolor": theme.card, "edgecolor": "none", "pad": 0.4},  # over the grid
    )


def _share(axes: Axes, theme: Theme, row: Row, place: int) -> None:
    share = 100 * row.head / row.parameters
    axes.barh(place, share, 0.34, color=theme.muted, zorder=2)
    axes.text(
        0,
        place - 0.25,
        f"{row.head / 1e6:.1f} M / {row.parameters / 1e6:.1f} M = {share:.1f} %",
        va="bottom",
        fontsize=9.5,
        color=theme.ink,
    )


def _style(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.card)
    axes.grid(axis="x", color=theme.line, linewidth=0.8, zorder=0)
    axes.tick_params(axis="y", length=0, labelcolor=theme.ink)
    axes.tick_params(axis="x", color=theme.line, labelsize=9.5, labelcolor=theme.muted)
    for side in axes.spines.values():
        side.set_visible(False)


def _legend(figure: Figure, theme: Theme, shown: set[str]) -> None:
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=marker,
            markersize=size,
            color=_hue(theme, kind),
            label=kind,
        )
        for kind, (marker, size, _) in MARKERS.items()
        if kind in shown
    ]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=len(handles),
        frameon=False,
        labelcolor=theme.ink,
        fontsize=11,
        handletextpad=0.2,
        columnspacing=1.4,
    )
