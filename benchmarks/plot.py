"""Pictures of the results: per phase, poolkit against the best peer, torch and the limit."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .cases import LAYOUTS, PHASES
from .report import LAYOUT_NAMES, PHASE_NAMES, number, threads_text
from .summary import NOISE, Record, ratio_of, title

LOST = "#b00020"
"""A peer that is faster beyond noise."""
COLORS = {"contiguous": "#1f6fb4", "channels_last": "#e08a1e"}
PANELS = {
    "best": "best peer / poolkit: left of 1 the peer is faster",
    "speedup": "torch / poolkit: how many times longer torch takes",
    "limit": "poolkit / limit: 1 is as fast as memory allows",
}


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """A PNG per measured phase: the first dtype and thread count of the run, largest batches."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for phase in PHASES:
        chosen = _select(records, phase)
        if chosen:
            path = folder / f"{phase}.png"
            with mpl.rc_context({"font.size": 9, "font.family": "DejaVu Sans"}):
                _figure(chosen, phase).savefig(path, dpi=110, bbox_inches="tight")
            written.append(path)
    return written


def _select(records: Sequence[Record], phase: str) -> list[Record]:
    """The records of one picture: they differ in case and layout alone."""
    records = [r for r in records if r["phase"] == phase]
    for axis, first in (("dtype", "float32"), ("threads", "all")):
        values = [r[axis] for r in records]
        value = first if first in values else next(iter(values), None)
        records = [r for r in records if r[axis] == value]
    largest: dict[str, int] = {}
    for r in records:
        largest[r["case"]] = max(r["batch"], largest.get(r["case"], 0))
    return [r for r in records if r["batch"] == largest[r["case"]]]


def _figure(records: Sequence[Record], phase: str) -> Figure:
    names = list(dict.fromkeys(f"{r['network']}  {title(r)}" for r in records))
    figure = Figure(figsize=(16, 1.6 + 0.34 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, ratio in zip(panels, PANELS, strict=True):
        _bars(axes, records, names, ratio)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
    r = records[0]
    threads = threads_text(r["thread_count"])
    figure.suptitle(
        f"{PHASE_NAMES[phase].capitalize()}, {r['dtype']}, {threads}",
        x=0.01,
        ha="left",
        weight="bold",
    )
    return figure


def _bars(axes: Axes, records: Sequence[Record], names: list[str], ratio: str) -> None:
    """Bars from 1, on a logarithmic axis: to the left of the line means less than 1."""
    height = 0.38
    highest = 2.0
    for side, layout in enumerate(LAYOUTS):
        points = [
            (names.index(f"{r['network']}  {title(r)}") + (side - 0.5) * height, value, r)
            for r in records
            if r["layout"] == layout and (value := ratio_of(r, ratio)) is not None
        ]
        if not points:
            continue
        places, values, _ = zip(*points, strict=True)
        widths = [value - 1 for value in values]
        label = LAYOUT_NAMES[layout]
        axes.barh(places, widths, height, left=1, color=COLORS[layout], label=label)
        for place, value, r in points:
            text = f"{number(value)}  {r['best_peer']}" if ratio == "best" else number(value)
            axes.annotate(
                text,
                (max(value, 1), place),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=LOST if ratio == "best" and value < 1 - NOISE else "#444444",
            )
        highest = max(highest, *values)
    axes.set_xscale("log")
    low = axes.get_xlim()[0]
    # Room for what is written behind the longest bar.
    room = 3.5 if ratio == "best" else 1.7
    axes.set_xlim(min(low, 0.8), highest * (highest / min(low, 0.8)) ** 0.12 * room)
    axes.axvline(1, color="black", linewidth=0.9)
    axes.set_title(PANELS[ratio], fontsize=9, loc="left")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
