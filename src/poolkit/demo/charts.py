"""Figures of the sections about heads and strides; as in ``draw``, they fit every language."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..imaging import to_array
from ..page.theme import Theme
from .draw import DPI, Drawer, Pixels, arrow, bare, cell
from .training import Interval

GLOW = "inferno"  # bright on a grey photograph, and in order of brightness for every eye


def channels_to_numbers(channels: Sequence[tuple[str, torch.Tensor, float]]) -> Drawer:
    """Each channel ``(rows, columns)`` with its name, an arrow, and the one number it becomes."""
    rows, columns = channels[0][1].shape
    gap, between = 1.9, 1.3
    step = columns + gap + 1 + between
    width = len(channels) * step - between

    def drawer(theme: Theme) -> Figure:
        figure = Figure(figsize=(9.6, 9.6 * (rows + 0.8) / (width + 0.3)), dpi=DPI)
        figure.set_facecolor(theme.card)
        axes = bare(figure.add_axes((0, 0, 1, 1)))
        axes.set_xlim(-0.15, width + 0.15)
        axes.set_ylim(rows + 0.15, -0.65)
        for index, (name, values, number) in enumerate(channels):
            left, hue = index * step, theme.windows[index % len(theme.windows)]
            axes.text(left, -0.25, name, fontsize=13, color=theme.ink, va="center")
            for row in range(rows):
                for column in range(columns):
                    value = float(values[row, column])
                    cell(axes, theme, (left + column, row), value, hue, filled=False, shade=value)
            middle = left + columns
            arrow(axes, theme, middle + 0.25, middle + gap - 0.25, rows / 2, "mean")
            cell(axes, theme, (middle + gap, rows / 2 - 0.5), number, hue, filled=number > 0)
        return figure

    return drawer


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    note: str
    ours: bool = False  # in the accent colour


def log_bars(bars: Sequence[Bar], unit: str, names: tuple[str, str], floor: float) -> Drawer:
    """Horizontal bars on a logarithmic scale from ``floor``, in two colours that ``names`` name."""

    def drawer(theme: Theme) -> Figure:
        figure = Figure(figsize=(9.6, 1.2 + 0.36 * len(bars)), dpi=DPI, layout="constrained")
        figure.set_facecolor(theme.card)
        axes = figure.subplots()
        places = np.arange(len(bars))
        top = max(bar.value for bar in bars)
        colours = [theme.poolkit if bar.ours else theme.torch for bar in bars]
        axes.barh(places, [bar.value for bar in bars], 0.66, color=colours, zorder=2)
        axes.set_xscale("log")
        axes.set_xlim(floor, top * (top / floor) ** 0.22)
        for place, bar in zip(places.tolist(), bars, strict=True):
            end = bar.value * (top / floor) ** 0.015
            axes.text(end, place, bar.note, va="center", fontsize=10, color=theme.ink)
        _tidy(axes, theme, [bar.label for bar in bars], unit)
        handles = [mpl.patches.Patch(facecolor=colour) for colour in (theme.torch, theme.poolkit)]
        _legend(figure, theme, handles, names)
        return figure

    return drawer


@dataclass(frozen=True)
class Dots:
    """One panel of :func:`dots`: for every label one interval of each series, shown in percent."""

    unit: str
    series: Sequence[Sequence[Interval]]
    title: str = ""
    zero: bool = False  # a line at 0, and a scale of its own


def dots(charts: Sequence[Dots], labels: Sequence[str], names: Sequence[str] = ()) -> Drawer:
    """Small dots for single runs; a large one with a bar for the mean and its 95 % interval."""

    def drawer(theme: Theme) -> Figure:
        series = len(charts[0].series)
        height = 1.25 + (0.34 + 0.26 * series) * len(labels)
        figure = Figure(figsize=(9.6, height), dpi=DPI, layout="constrained")
        figure.set_facecolor(theme.card)
        share = not any(chart.zero for chart in charts)
        axes = figure.subplots(1, len(charts), sharey=True, sharex=share, squeeze=False)[0]
        colours = _series_colours(theme, series)
        for chart, ax in zip(charts, axes, strict=True):
            for s, (intervals, colour) in enumerate(zip(chart.series, colours, strict=True)):
                shift = (s - (series - 1) / 2) * 0.3
                for place, interval in enumerate(intervals):
                    _dot_row(ax, interval, place + shift, colour, theme)
            if chart.zero:
                ax.axvline(0, color=theme.muted, linewidth=1.2, zorder=1)
            ax.set_title(chart.title, loc="left", fontsize=11.5, color=theme.ink, pad=8)
            _tidy(ax, theme, labels, chart.unit)
        if names:
            handles = [
                mpl.lines.Line2D([], [], marker="o", linewidth=3, markersize=8, color=colour)
                for colour in colours
            ]
            _legend(figure, theme, handles, names)
        return figure

    return drawer


def _series_colours(theme: Theme, series: int) -> Sequence[str]:
    return (theme.poolkit,) if series == 1 else (theme.windows[1], theme.poolkit)


def _dot_row(ax: Axes, interval: Interval, place: float, colour: str, theme: Theme) -> None:
    values = [100 * value for value in interval.values]
    # Equal values would hide one another: the same few steps up and down in every figure.
    heights = [place + 0.05 * ((index % 3) - 1) for index in range(len(values))]
    ax.scatter(values, heights, s=13, color=colour, alpha=0.45, linewidths=0, zorder=3)
    if np.isfinite(interval.half):
        low, high = 100 * (interval.mean - interval.half), 100 * (interval.mean + interval.half)
        ax.plot([low, high], [place, place], color=colour, linewidth=3, zorder=4)
    ax.scatter([100 * interval.mean], [place], s=62, color=colour, edgecolors=theme.card, zorder=5)


@dataclass(frozen=True)
class Costs:
    """One panel of :func:`cost_bars`: a value for every label, and how it is written."""

    title: str
    values: Sequence[float]
    notes: Sequence[str]


def cost_bars(charts: Sequence[Costs], labels: Sequence[str]) -> Drawer:
    """A row of panels over the same labels; each has its own linear scale from zero."""

    def drawer(theme: Theme) -> Figure:
        size = (9.6, 0.75 + 0.46 * len(labels))
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        figure.set_facecolor(theme.card)
        axes = figure.subplots(1, len(charts), sharey=True, squeeze=False)[0]
        colours = [theme.windows[index % len(theme.windows)] for index in range(len(labels))]
        places = np.arange(len(labels))
        for chart, ax in zip(charts, axes, strict=True):
            ax.barh(places, chart.values, 0.62, color=colours, zorder=2)
            top = max(chart.values) or 1.0
            ax.set_xlim(0, top * 1.75)
            for place, value, note in zip(places.tolist(), chart.values, chart.notes, strict=True):
                ax.text(value + top * 0.05, place, note, va="center", fontsize=10, color=theme.ink)
            ax.set_title(chart.title, loc="left", fontsize=10.5, color=theme.ink, pad=6)
            _tidy(ax, theme, labels, "")
            ax.set_xticks([])
        return figure

    return drawer


def _tidy(ax: Axes, theme: Theme, labels: Sequence[str], unit: str) -> None:
    ax.set_yticks(np.arange(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0, labelsize=10, labelcolor=theme.ink)
    ax.tick_params(axis="x", which="both", color=theme.line, labelsize=9, labelcolor=theme.muted)
    ax.set_xlabel(unit, fontsize=10, color=theme.muted)
    ax.grid(axis="x", color=theme.line, linewidth=0.8, zorder=0)
    ax.set_facecolor(theme.card)
    for side in ax.spines.values():
        side.set_visible(False)


def _legend(
    figure: Figure, theme: Theme, handles: Sequence[mpl.artist.Artist], names: Sequence[str]
) -> None:
    figure.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=len(names),
        frameon=False,
        labelcolor=theme.ink,
        fontsize=10.5,
        handlelength=1.4,
    )


def glowing(image: torch.Tensor, seen: torch.Tensor, box: tuple[int, int, int, int]) -> Pixels:
    """A map ``(H, W)`` laid over its photograph, darkened where it is not positive; and a box.

    The brightest colour is the map's own maximum. ``box``: top, left, height, width.
    """
    photograph = to_array(image.mean(1, keepdim=True))[:, :, None].repeat(3, axis=2) / 255
    strength = (seen.clamp(min=0) / seen.max().clamp(min=1e-12)).numpy()[:, :, None]
    colour = mpl.colormaps[GLOW](0.25 + 0.75 * strength[:, :, 0])[:, :, :3]
    cover = np.sqrt(strength) * 0.8
    pixels = (1 - cover) * 0.75 * photograph + cover * colour
    return framed((pixels * 255).round().astype(np.uint8), box)


def framed(pixels: Pixels, box: tuple[int, int, int, int]) -> Pixels:
    """The same pixels with a box drawn in white between two thin black lines."""
    top, left, height, width = box
    pixels = pixels.copy()
    for grow, shade in ((3, 0), (2, 255), (1, 255), (0, 0)):
        t, b = max(0, top - grow), min(pixels.shape[0], top + height + grow) - 1
        s, e = max(0, left - grow), min(pixels.shape[1], left + width + grow) - 1
        pixels[[t, b], s : e + 1] = shade
        pixels[t : b + 1, [s, e]] = shade
    return pixels
