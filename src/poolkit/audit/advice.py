"""What to do about what an audit found: a sentence with its number, and the line that does it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .report import Consistency, Recommendation, Report, Stage
from .units import by, byte_count, counted, duration, percent

__all__ = ["recommend"]

# What the policy "antialias" changes; it leaves the layer that reads the image: the most expensive.
BLURRED = ("max", "avg", "strided conv")

# From where on a number is worth a sentence.
FASTER = 0.05  # of the model's time: less is within what two runs differ by
SMALLER = 0.05  # of what training keeps
FOLDED = (
    0.02  # of a stage's energy: of photographs, random filters fold about 5 %, blurred ones 0.5 %
)
RESOLVED = 16  # cells along an axis before the stride: of fewer, a spectrum has hardly a slow wave
MOVED = 0.02  # relative distance of the scores, the lower end of its interval
FLATTENED = 0.25  # of the model's parameters in the head: beyond it, the head is the model's size
SEEN = 1  # times the image that a field may cover before later windows find nothing new


def recommend(report: Report, exported: bool = False) -> tuple[Recommendation, ...]:
    """Recommendations, each only where a number of the report speaks for it.

    - ``poolkit.accelerate`` where poolkit's pooling saves at least 5 % of the measured time or of
      the bytes that training keeps;
    - ``antialias`` where moved pictures change the answer (the lower end of the interval of the
      roll's distance is 2 % or more) and a stage folds 2 % or more of its map's energy;
    - ``gap_head`` where a head of flattened cells holds 25 % of the parameters or more, and global
      average pooling fewer; or where it refuses other sizes;
    - sizes that divide evenly, or ``ceil_mode``, where a border drops cells;
    - a larger image or a smaller stride where a field is larger than the image and more windows
      follow.

    Surgery changes what a trained network computes: those lines say that it needs fine-tuning. In
    the code, ``model`` is the model and ``images`` its input. A program that was ``exported`` has
    no modules to change: the lines are for the model that it came from.
    """
    parts = (_speed, _memory, _aliasing, _head, _border, _field)
    made = (found for part in parts for found in part(report))
    return tuple(replace(r, code=_then_exported(r.code)) if exported else r for r in made)


def _then_exported(code: str) -> str:
    if "model" not in code:
        return code
    return f"{code}, and export it again" if "#" in code else f"{code}  # then export it again"


def _speed(report: Report) -> Iterator[Recommendation]:
    stock, ours = report.totals.seconds_torch, report.totals.seconds
    if stock is None or ours is None or ours >= stock or stock - ours < FASTER * stock:
        return
    yield Recommendation(
        f"One forward pass takes {duration(stock)} with torch's pooling and "
        f"{duration(ours)} with poolkit's, {percent(1 - ours / stock)} less, with the same "
        "results.",
        "poolkit.accelerate(model)",
    )


def _memory(report: Report) -> Iterator[Recommendation]:
    totals = report.totals
    saved = totals.saved_bytes_torch - totals.saved_bytes
    if saved <= 0 or saved < SMALLER * totals.saved_bytes_torch:
        return
    text = (
        f"Training keeps {byte_count(totals.saved_bytes_torch)} for the backward pass with torch's "
        f"pooling and {byte_count(totals.saved_bytes)} with poolkit's"
    )
    if totals.index_bytes_torch > totals.index_bytes:
        text += (
            f"; its indices alone take {byte_count(totals.index_bytes)} in place of "
            f"{byte_count(totals.index_bytes_torch)}"
        )
    yield Recommendation(f"{text}.", "poolkit.accelerate(model)")


def _aliasing(report: Report) -> Iterator[Recommendation]:
    roll = next((c for c in report.consistency if c.kind == "roll"), None)
    folding = [
        stage
        for stage in report.stages
        if stage.kind in BLURRED
        and stage.aliasing is not None
        and stage.aliasing >= FOLDED
        and stage.input_shape != report.input_shape
        and min(stage.input_shape[2:]) >= RESOLVED
    ]
    if roll is None or roll.distance.low < MOVED or not folding:
        return
    worst = max(folding, key=lambda stage: stage.aliasing or 0.0)
    among = (
        f", the most of {len(folding)} stages that fold {percent(FOLDED)} or more of maps of at "
        f"least {RESOLVED} cells a side"
    )
    yield Recommendation(
        f"{_instability(roll)}; '{worst.name}' folds {percent(worst.aliasing or 0.0)} of its "
        f"map's energy{among if len(folding) > 1 else ''}. A blur before the stride takes that "
        "energy off.",
        'poolkit.rewrite(model, "antialias", images)  # then fine-tune',
        worst.name,
    )


def _instability(roll: Consistency) -> str:
    d = roll.distance
    text = (
        f"A circular move of up to {roll.largest_shift:g} pixels changes the answer by "
        f"{percent(d.mean)} of its length (95 % interval {percent(d.low)} to {percent(d.high)}, "
        f"{counted(roll.images, 'picture')}, {roll.shifts} moves each)"
    )
    if roll.top1 is not None and roll.top1.mean < 1:
        text += f" and the top class in {percent(1 - roll.top1.mean)} of the moves"
    return text


def _head(report: Report) -> Iterator[Recommendation]:
    head = report.head
    if head is None or not head.kind.startswith("flatten") or head.gap_parameters is None:
        return
    heavy = head.share >= FLATTENED and head.gap_parameters < head.parameters
    refused = [size for size, works in head.sizes_tried if not works]
    if not heavy and not refused:
        return
    text = (
        f"The head '{head.name}' ({head.kind}) has {head.parameters:,} of "
        f"{report.totals.parameters:,} parameters, {percent(head.share)}"
    )
    if refused:
        text += f", and takes no map of another size: an input of {by(refused[0])} is refused"
    yield Recommendation(
        f"{text}. Global average pooling and one linear layer would have "
        f"{head.gap_parameters:,} and take any size.",
        'poolkit.rewrite(model, "gap_head", images)  # then fine-tune',
        head.name,
    )


def _border(report: Report) -> Iterator[Recommendation]:
    dropping = [(_dropped(stage), stage) for stage in report.stages]
    share, stage = max(dropping, key=lambda pair: pair[0], default=(0.0, None))
    if stage is None or not share:
        return
    lost = " and ".join(
        f"{border.dropped} of {extent}"
        for border, extent in zip(stage.border or (), stage.input_shape[2:], strict=False)
    )
    text = (
        f"'{stage.name}' drops {lost} rows and columns at the border, {percent(share)} of its map"
    )
    size, steps = report.input_shape[2:], report.totals.divides_by
    if steps is not None and any(extent % step for extent, step in zip(size, steps, strict=True)):
        smaller = [extent // step * step for extent, step in zip(size, steps, strict=True)]
        larger = [-(-extent // step) * step for extent, step in zip(size, steps, strict=True)]
        pad = [part for a, b in zip(size, larger, strict=True) for part in (b - a, 0)][::-1]
        code = f"images = torch.nn.functional.pad(images, {tuple(pad)})"
        text += f"; sizes that divide by {by(steps)} drop none: pad {by(size)} to {by(larger)}"
        if min(smaller) > 0:
            text += f", or crop it to {by(smaller)}"
    elif stage.kind in {"max", "avg", "lp"} and not stage.ceil_mode:
        text += "; with ceil_mode it has one more window there"
        code = f"model.get_submodule({stage.name!r}).ceil_mode = True"
    else:
        return
    yield Recommendation(f"{text}.", code, stage.name)


def _dropped(stage: Stage) -> float:
    """Share of the cells of a stage's map that no window reads."""
    read = 1.0
    for border, extent in zip(stage.border or (), stage.input_shape[2:], strict=False):
        read *= 1 - border.dropped / extent
    return 1 - read


def _field(report: Report) -> Iterator[Recommendation]:
    size = report.input_shape[2:]
    strided = [
        stage
        for stage in report.stages
        if stage.field
        and max(stage.stride or (1,)) > 1
        and not stage.kind.startswith(("global", "adaptive"))
    ]
    stage = next((s for s in strided if _exceeds(s, size)), None)
    if stage is None:
        return
    # Beside it, in another branch, are those that still get the larger map.
    later = [s for s in strided if max(s.input_shape[2:]) <= max(stage.output_shape[2:])]
    if not later:
        return
    widths = [field.size or 0 for field in stage.field or ()]
    early = strided[0]
    code = "images = torch.nn.functional.interpolate(images, scale_factor=2)"
    if ":" not in early.name:
        code = f"model.get_submodule({early.name!r}).stride = 1  # then fine-tune"
    yield Recommendation(
        f"A value of '{stage.name}' depends on {by(widths)} pixels, more than the image of "
        f"{by(size)} has, and {counted(len(later), 'stage')} with a stride follow, whose windows "
        "see nothing new: give larger images, or an early stage no stride.",
        code,
        stage.name,
    )


def _exceeds(stage: Stage, size: Sequence[int]) -> bool:
    fields = [field.size for field in stage.field or ()]
    return all(f is not None and f > SEEN * extent for f, extent in zip(fields, size, strict=False))
