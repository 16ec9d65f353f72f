"""What is reported of a stage: sizes, border, operations, bytes."""

import math
from dataclasses import replace

from .. import cost
from .. import window as geometry
from ..window import Axis
from . import fields
from .report import Border, Field, Stage
from .swap import Saved, saved_by
from .trace import Event

COMPARED = ("max", "global max", "adaptive max", "max blur", "fractional")
ADDED = ("avg", "global avg", "adaptive avg", "lp")


def stage(event: Event) -> Stage:
    """All that follows from the call itself; nothing is run but on the meta device."""
    window, kind = event.window, event.found.kind
    planes = math.prod(event.output.shape) // max(1, math.prod(window.output_size))
    joined = event.found.dense or window
    joins = cost.joins(planes, joined) if kind in COMPARED + ADDED else 0
    even = all(axis.stride for axis in window.axes)
    ours, stock = _saved(event)
    return Stage(
        name=event.name,
        call=event.number,
        kind=kind,
        side=event.side,
        input_shape=event.input.shape,
        output_shape=event.output.shape,
        kernel=tuple(axis.kernel for axis in window.axes),
        stride=tuple(axis.stride for axis in window.axes) if even else None,
        padding=tuple((max(0, axis.before), max(0, axis.after)) for axis in window.axes),
        dilation=tuple(axis.dilation for axis in window.axes),
        ceil_mode=event.found.ceil_mode,
        border=tuple(border(axis, event.found.ceil_mode) for axis in window.axes),
        parameters=sum(weight.numel() for weight in event.weights),
        multiply_adds=event.multiply_adds,
        comparisons=joins if kind in COMPARED else 0,
        additions=joins if kind in ADDED else 0,
        output_bytes=math.prod(event.output.shape) * event.output.dtype.itemsize,
        saved_bytes=ours.total,
        saved_bytes_torch=stock.total,
        index_bytes=ours.indices,
        index_bytes_torch=stock.indices,
        field=_fields(event),
        effective_field=None,
        seconds=None,
        seconds_torch=None,
        aliasing=None,
        feature_shift=None,
    )


def _saved(event: Event) -> tuple[Saved, Saved]:
    if event.call is None:
        return Saved(0, 0), Saved(0, 0)  # views
    return saved_by(event.call, "poolkit"), saved_by(event.call, "torch")


def _fields(event: Event) -> tuple[Field, ...]:
    found = [line.report() for line in fields.seen(event.sight)]
    if not event.found.kind.startswith("global"):
        return tuple(found)
    # What the values that it pools see, and how far they are off the centre.
    before = [line.report() for line in fields.seen(event.before)]
    return tuple(
        replace(f, local=b.local, phase=b.phase) for f, b in zip(found, before, strict=True)
    )


def border(axis: Axis, ceil_mode: bool = False) -> Border:
    """What the windows of one axis do at its ends."""
    size, kernel, stride = axis.size, axis.kernel, axis.stride
    read = [0] * size
    spans = geometry.spans(axis)
    for span in spans:
        for cell in span:
            if cell >= 0:
                read[cell] += 1
    if stride == 0:  # adaptive, uneven: windows overlap by a cell
        repeated = sum(count > 1 for count in read)
        return Border(0, repeated, 0, axis.out or 1, 0)
    extent = max((kernel - 1) * axis.dilation + 1, 1)
    gap = max(0, stride - extent)
    last = (axis.out - 1) * stride - axis.before + extent
    dropped = max(0, size - last - gap)
    skipped = read.count(0) - dropped
    taps = axis.out * kernel
    outside = taps - sum(read)
    divides_by, remainder = _even(axis, extent, gap, ceil_mode)
    return Border(dropped, 0, outside, divides_by, remainder, max(0, skipped))


def _even(axis: Axis, extent: int, gap: int, ceil_mode: bool) -> tuple[int, int]:
    """Sizes that drop nothing: a multiple, and a remainder.

    Of what is left behind the last window some is padding, and some skipped as between windows.
    """
    room, free = axis.before + axis.after, max(0, axis.after + gap)
    if ceil_mode or free >= axis.stride - 1:
        return 1, 0
    fitting = {(extent - room + left) % axis.stride for left in range(free + 1)}
    return axis.stride, min(fitting)


def drops(event: Event) -> tuple[int, ...]:
    """Cells dropped along every axis."""
    return tuple(border(axis, event.found.ceil_mode).dropped for axis in event.window.axes)
