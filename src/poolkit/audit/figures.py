"""The charts of the page: of every stage a drawing, and the same in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from . import charts
from .charts import Scale
from .report import Field, Report, Stage
from .units import by, byte_count, counted, duration, percent

__all__ = [
    "Chart",
    "Row",
    "aliasing",
    "consistency",
    "fields",
    "head",
    "memory",
    "path",
    "shared",
    "time",
    "title",
]


@dataclass(frozen=True)
class Row:
    """A row of a chart: what it is of, its drawing, and the same in words."""

    label: str
    note: str
    chart: Markup | None
    words: Sequence[str]


@dataclass(frozen=True)
class Chart:
    """A table with a drawing in every row. ``legend``: class of a colour, and what it means."""

    caption: str
    legend: Sequence[tuple[str, str]]
    axis: Markup | None
    rows: Sequence[Row]
    first: str = "Stage"
    """Over the column of labels."""
    flows: bool = False


def title(stage: Stage) -> str:
    """Its name, and which of its calls where there are several."""
    name = stage.name or "the model"
    return f"{name} (call {stage.call})" if stage.call > 1 else name


def shared(values: Sequence[object]) -> str:
    """One value where all axes have the same."""
    return str(values[0]) if len(set(values)) == 1 else " x ".join(map(str, values))


# ---- the path ------------------------------------------------------------------------------------


def path(report: Report) -> Chart:
    """The maps from the input to the scores, as funnels."""
    steps = charts.steps(report.stages)
    sides = [
        charts.extent(shape) for s in report.stages for shape in (s.input_shape, s.output_shape)
    ]
    largest = max([*sides, charts.extent(report.input_shape)])
    rows = []
    for step in steps:
        stage = step.stage
        words = [
            f"{by(stage.input_shape[2:])} → {by(stage.output_shape[2:]) or 'vector'}",
            _change(stage.input_shape[1], stage.output_shape[1], "channels"),
            *([window] if (window := _window(stage)) else []),
        ]
        if step.aside:
            words.append("beside the main line")
        elif stage.side:
            words.append("enlarged again later")
        rows.append(Row(title(stage), stage.kind, charts.flow(step, largest), words))
    rows.extend(_way_up(report, [step.stage for step in steps if not step.aside], largest))
    kinds: dict[str, list[str]] = {charts.hue(stage.kind): [] for stage in report.stages}
    for stage in report.stages:
        if stage.kind not in kinds[charts.hue(stage.kind)]:
            kinds[charts.hue(stage.kind)].append(stage.kind)
    legend = [(kind, ", ".join(names)) for kind, names in kinds.items()]
    return Chart("From the input, at the top, to the scores", legend, None, rows, flows=True)


def _way_up(report: Report, line: Sequence[Stage], largest: float) -> Iterator[Row]:
    """Where the answer is a map, and larger than the last one on the main line."""
    if not line or report.head is None or report.head.kind != "none":
        return
    last, grid = line[-1].output_shape, report.head.grid
    low, high = charts.extent(last), charts.extent((1, 1, *grid))
    if low < high:
        words = [f"{by(last[2:])} → {by(grid)}", "no stages, drawn as one"]
        yield Row("the way up", "enlarged", charts.widening(low, high, max(largest, high)), words)


def _window(stage: Stage) -> str:
    """Its window in words."""
    parts = []
    if stage.kernel is not None and not stage.kind.startswith(("global", "adaptive")):
        parts.append(by(stage.kernel))
    if stage.stride is not None and max(stage.stride) > 1:
        parts.append(f"stride {shared(stage.stride)}")
    if stage.padding is not None and any(map(any, stage.padding)):
        sides = [
            before if before == after else f"{before}+{after}" for before, after in stage.padding
        ]
        parts.append(f"padding {shared(sides)}")
    if stage.dilation is not None and max(stage.dilation) > 1:
        parts.append(f"dilation {shared(stage.dilation)}")
    if stage.ceil_mode:
        parts.append("ceil_mode")
    return ", ".join(parts)


def _change(before: int, after: int, what: str) -> str:
    return f"{before} {what}" if before == after else f"{before} → {after} {what}"


# ---- receptive fields ----------------------------------------------------------------------------


def fields(report: Report) -> Chart:
    """Receptive fields, by windows and by gradient, beside the image."""
    image = report.input_shape[2:]
    found: list[tuple[Stage, list[int]]] = []
    for stage in report.stages:
        local = [f.size or f.local for f in stage.field or ()]
        found.append((stage, [width for width in local if width is not None]))
    top = max([*image, *(width for _, widths in found for width in widths)], default=1)
    scale = Scale(max(2, top), 1, log=True)
    rows = []
    for stage, widths in found:
        seen = stage.effective_field
        drawing = None
        if widths or seen:
            reach = max(widths, default=0)
            bar: list[tuple[float, str]] = [(reach, "hue-1")]
            if any(field.size is None for field in stage.field or ()) and reach < max(image):
                bar.append((max(image), "rest"))
            dots = [max(seen)] if seen else []
            drawing = charts.bars(scale, [bar], line=max(image), dots=dots)
        rows.append(Row(title(stage), stage.kind, drawing, _field_words(stage)))
    everywhere = any(f.size is None for stage, _ in found for f in stage.field or ())
    legend = [
        ("hue-1", "theoretical"),
        *([("rest", "all of the image, by a global operation")] if everywhere else []),
        ("dot", "effective (95 % of the squared gradient)"),
        ("limit", f"the image, {by(image)}"),
    ]
    ticks = [(tick, f"{tick:g}") for tick in scale.ticks()]
    return Chart("Receptive field, in pixels of the image", legend, charts.axis(scale, ticks), rows)


def _field_words(stage: Stage) -> list[str]:
    if not stage.field:
        return ["not known"]
    unit = " px" if all(f.size is not None for f in stage.field) else ""
    words = [shared([_field_size(f) for f in stage.field]) + unit]
    if stage.effective_field:
        words.append(f"effective {shared([f'{w:g}' for w in stage.effective_field])} px")
    grid = f"stride {shared([f'{f.stride:g}' for f in stage.field])}"
    if any(f.phase for f in stage.field):
        phases = [f"{f.phase:+g}".replace("-", "\N{MINUS SIGN}") for f in stage.field]
        grid += f", off centre by {shared(phases)} px"
    words.append(grid)
    if not all(f.aligned for f in stage.field):
        words.append("not aligned with a branch that it meets")
    return words


def _field_size(field: Field) -> str:
    if field.size is None:
        return "all" if field.local is None else f"all; {field.local} px by local windows"
    shortest = field.smallest or field.size
    return f"{shortest} to {field.size}" if shortest != field.size else f"{field.size}"


# ---- cost ----------------------------------------------------------------------------------------


def memory(report: Report) -> Chart | None:
    """What is kept for the backward pass; None where nothing is."""
    keeping = [s for s in report.stages if s.saved_bytes or s.saved_bytes_torch]
    if not keeping:
        return None
    top = max(max(s.saved_bytes_torch, s.saved_bytes) for s in keeping)
    scale = Scale(top)
    rows = []
    for s in keeping:
        kept = (
            (s.saved_bytes_torch, s.index_bytes_torch, "stock"),
            (s.saved_bytes, s.index_bytes, "ours"),
        )
        parts = [[(index, f"{who} index"), (saved - index, who)] for saved, index, who in kept]
        words = [
            f"{who} {byte_count(saved)}" + (f", indices {byte_count(index)}" if index else "")
            for (saved, index, _), who in zip(kept, ("torch", "poolkit"), strict=True)
        ]
        rows.append(Row(title(s), s.kind, charts.bars(scale, parts), words))
    unit, name = (2**20, "MiB") if top >= 2**20 else (2**10, "KiB")
    ticks = [(t * unit, f"{t:g} {name}") for t in Scale(top / unit).ticks()]
    legend = [
        ("stock", "torch"),
        ("stock index", "torch, indices"),
        ("ours", "poolkit"),
        ("ours index", "poolkit, indices"),
    ]
    caption = f"Bytes kept for the backward pass, a batch of {report.input_shape[0]}"
    return Chart(caption, legend, charts.axis(scale, ticks), rows)


def time(report: Report) -> Chart | None:
    """Seconds of every stage; None where none was timed."""
    timed = [s for s in report.stages if s.seconds is not None and s.seconds_torch is not None]
    if not timed:
        return None
    top = max(max(s.seconds or 0, s.seconds_torch or 0) for s in timed)
    scale = Scale(top)
    whole = (report.totals.seconds_torch, report.totals.seconds)
    rows = []
    for s in report.stages:
        if s.seconds is None or s.seconds_torch is None:
            rows.append(Row(title(s), s.kind, None, ["not measured"]))
            continue
        parts = [[(s.seconds_torch, "stock")], [(s.seconds, "ours")]]
        words = [
            f"{who} {duration(took)}" + (f", {percent(took / all_)} of the model" if all_ else "")
            for who, took, all_ in zip(
                ("torch", "poolkit"), (s.seconds_torch, s.seconds), whole, strict=True
            )
        ]
        rows.append(Row(title(s), s.kind, charts.bars(scale, parts), words))
    unit, name = (1e-3, "ms") if top >= 1e-3 else (1e-6, "µs")
    ticks = [(t * unit, f"{t:g} {name}") for t in Scale(top / unit).ticks()]
    legend = [("stock", "torch"), ("ours", "poolkit")]
    caption = f"Time of one call, forward, a batch of {report.input_shape[0]}"
    return Chart(caption, legend, charts.axis(scale, ticks), rows)


# ---- moves ---------------------------------------------------------------------------------------


def aliasing(report: Report) -> Chart | None:
    """What every stride folds, and how its map moves; None where neither was measured."""
    shares = [v for s in report.stages for v in (s.aliasing, s.feature_shift) if v is not None]
    if not shares:
        return None
    scale = Scale(max(*shares, 0.01))
    rows = []
    for s in report.stages:
        measured = ((s.aliasing, "hue-2", "folds"), (s.feature_shift, "hue-4", "map moves by"))
        parts = [[(value, kind)] for value, kind, _ in measured if value is not None]
        words = [f"{verb} {percent(value)}" for value, _, verb in measured if value is not None]
        drawing = charts.bars(scale, parts) if parts else None
        rows.append(Row(title(s), s.kind, drawing, words or ["not measured"]))
    legend = [("hue-2", "energy above the new Nyquist limit, before the stride"),
              ("hue-4", "distance of the map, undone, after a roll of one pixel")]  # fmt: skip
    ticks = [(t, percent(t)) for t in scale.ticks()]
    return Chart("Shares of every stage", legend, charts.axis(scale, ticks), rows)


KINDS = {
    "roll": "circular roll",
    "crop": "two crops of a larger picture",
    "fractional": "by parts of a pixel",
}


def consistency(report: Report) -> list[Chart]:
    """A chart of the top class where it means something, and one of the distance."""
    found = []
    top1 = [(c, c.top1) for c in report.consistency if c.top1 is not None]
    distance = [(c, c.distance) for c in report.consistency]
    farthest = max((i.high for _, i in distance), default=0.0)
    for caption, pairs, scale, kind in (
        ("Pairs with the same top class", top1, Scale(1.0), "hue-3"),
        ("Relative distance of the scores", distance, Scale(max(farthest, 0.01)), "hue-2"),
    ):
        rows = [
            Row(
                KINDS.get(c.kind, c.kind),
                f"up to {c.largest_shift:g} px",
                charts.marks(scale, i, kind),
                [
                    f"{percent(i.mean)}, 95 % interval {percent(i.low)} to {percent(i.high)}",
                    ", ".join(
                        (counted(c.images, "picture"), f"{c.shifts} moves each", f"seed {c.seed}")
                    ),
                ],
            )
            for c, i in pairs
        ]
        if rows:
            ticks = [(t, percent(t)) for t in scale.ticks()]
            legend = [(kind, "mean and 95 % interval")]
            found.append(Chart(caption, legend, charts.axis(scale, ticks), rows, "Move"))
    return found


# ---- the head ------------------------------------------------------------------------------------


def head(report: Report) -> Chart | None:
    """The head's share of the parameters; None without a head that has some."""
    found, whole = report.head, report.totals.parameters
    if found is None or not found.parameters or not whole:
        return None
    scale = Scale(1.0)
    counts = [("this head", found.parameters, whole)]
    if found.gap_parameters is not None and found.gap_parameters != found.parameters:
        slim = whole - found.parameters + found.gap_parameters
        counts.append(("with global average pooling", found.gap_parameters, slim))
    rows = []
    for label, part, model in counts:
        bar = charts.bars(scale, [[(part / whole, "hue-2"), ((model - part) / whole, "rest")]])
        words = [f"{part:,} of {model:,}", percent(part / model)]
        rows.append(Row(label, "", bar, words))
    legend = [("hue-2", "head"), ("rest", "the other layers")]
    ticks = [(t, percent(t)) for t in scale.ticks()]
    caption = "Parameters, in shares of the model as it is"
    return Chart(caption, legend, charts.axis(scale, ticks), rows, "Head")
