"""Rules of the operations that move values to other places: views, slices, joins, upsampling."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from torch import Tensor

from ..window import Axis, Window
from . import fields
from .fields import Part, Sight
from .rules import Found, Op, Outcome, reduced, rule


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy")
def _view(op: Op, sight: Sight) -> Outcome:
    shape = op.result.shape
    after = fields.viewed(sight, shape)
    if after is None:
        return fields.constant(shape, sight, "a reshape across axes"), None
    mixed = [i for i, dim in enumerate(after.dims) if _is_mixed(dim)]
    if not mixed or any(map(_is_mixed, sight.dims)) or not fields.fine_dims(after):
        return after, None
    window = reduced(after, mixed)  # cells of a place become channels
    return after, None if window is None else Found("space to depth", window)


def _is_mixed(dim: fields.Dim) -> bool:
    """Whether a dimension is both channels and places."""
    return {part.axis is None for part in dim if part.length > 1} == {True, False}


@rule("permute")
def _permute(op: Op, sight: Sight) -> Outcome:
    return replace(sight, dims=tuple(sight.dims[dim] for dim in op.args[1])), None


@rule("transpose", "t", "swapaxes")
def _transpose(op: Op, sight: Sight) -> Outcome:
    dims = list(sight.dims)
    a, b = op.args[1:3] if len(op.args) > 2 else (0, -1)
    if len(dims) > 1:
        dims[a], dims[b] = dims[b], dims[a]
    return replace(sight, dims=tuple(dims)), None


@rule("unsqueeze")
def _unsqueeze(op: Op, sight: Sight) -> Outcome:
    dims = list(sight.dims)
    dims.insert(op.args[1] % (len(dims) + 1), (Part(1),))
    return replace(sight, dims=tuple(dims)), None


@rule("squeeze")
def _squeeze(op: Op, sight: Sight) -> Outcome:
    rank = len(sight.dims)
    given = op.args[1] if len(op.args) > 1 else range(rank)
    gone = {dim % rank for dim in ([given] if isinstance(given, int) else given)}
    shape = sight.shape
    dims = (d for i, d in enumerate(sight.dims) if i not in gone or shape[i] != 1)
    return replace(sight, dims=tuple(dims)), None


@rule("expand")
def _expand(op: Op, sight: Sight) -> Outcome:
    return fields.joined([sight], op.result.shape), None


@rule("select")
def _select(op: Op, sight: Sight) -> Outcome:
    dim, first = op.args[1] % len(sight.dims), op.args[2]
    first %= max(sight.shape[dim], 1)
    after = fields.cropped(sight, dim, first, 1)
    return replace(after, dims=(*after.dims[:dim], *after.dims[dim + 1 :])), None


@rule("slice")
def _slice(op: Op, sight: Sight) -> Outcome:
    x = op.args[0]
    dim = op.arg(1, "dim", 0) % x.ndim
    size, out = x.shape[dim], op.result.shape[dim]
    first, step = op.arg(2, "start", None) or 0, op.arg(4, "step", 1)
    first = min(first + size if first < 0 else first, size)
    after = fields.cropped(sight, dim, first, out, step)
    part = sight.alone(dim)
    if step == 1 or part is None:
        return after, None
    axes = [Axis(line, line, 1, 1, 0, 0, 1) for line in _extents(sight)]
    axes[part.axis or 0] = Axis(size, out, 1, step, -first, 0, 1)
    starts = tuple(first if axis == part.axis else 0 for axis in range(len(sight.lines)))
    return after, Found("slicing", Window(tuple(axes)), starts=starts)


def _extents(sight: Sight) -> list[int]:
    """How many places there are along every axis of the image."""
    extents = [1] * len(sight.lines)
    for dim in sight.dims:
        for part in dim:
            if part.axis is not None:
                extents[part.axis] *= part.length
    return extents


@rule("split", "split_with_sizes", "chunk", "unbind", "unsafe_split")
def _split(op: Op, sight: Sight) -> Outcome:
    # Places of the first piece; along channels, where models split, those of all.
    return sized(sight, op.result.shape) if op.name != "unbind" else (
        fields.constant(op.result.shape, sight, "unbind") if sight.walks(op.arg(1, "dim", 0))
        else replace(sight, dims=tuple(d for i, d in enumerate(sight.dims)
                                       if i != op.arg(1, "dim", 0) % len(sight.dims)))
    ), None  # fmt: skip


def sized(sight: Sight, shape: Sequence[int]) -> Sight:
    """The same with other extents, kept from the front."""
    for dim, (has, wants) in enumerate(zip(sight.shape, shape, strict=True)):
        if has != wants:
            sight = fields.cropped(sight, dim, 0, wants)
    return sight


@rule("cat", "stack")
def _cat(op: Op, sight: Sight) -> Outcome:
    parts = op.args[0]
    shape = op.result.shape
    dim = op.arg(1, "dim", 0) % len(shape)
    seen: list[Sight] = []
    place = 0
    for part in parts:
        own = op.sight(part)
        if own is not None and op.name == "cat" and own.alone(dim) is not None:
            own = fields.cropped(own, dim, -place, shape[dim])
        if own is not None:
            seen.append(own)
        place += part.shape[dim] if op.name == "cat" else 1
    if op.name == "stack":
        seen = [replace(s, dims=(*s.dims[:dim], (Part(len(parts)),), *s.dims[dim:])) for s in seen]
    best = max(seen, key=lambda s: s.cells)
    if op.name == "cat" and best.walks(dim) and best.alone(dim) is not None:
        return fields.joined([best], shape), None  # pieces of one map, side by side
    after = replace(fields.merged(seen), dims=best.dims)
    fine = [p for s in seen for p in s.dims[dim] if p.axis is not None]
    if fine and best.alone(dim) is None and op.name == "cat" and place != best.shape[dim]:
        return fields.constant(shape, after, "cat of flattened cells"), None
    return (after if op.name == "stack" else after.with_dim(dim, (Part(shape[dim]),))), None


@rule("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
      "replication_pad1d", "replication_pad2d", "replication_pad3d")  # fmt: skip
def _pad(op: Op, sight: Sight) -> Outcome:
    amounts, shape = op.args[1], op.result.shape
    for i, before in enumerate(amounts[::2]):
        dim = len(shape) - 1 - i
        if shape[dim] != sight.shape[dim] or before:
            sight = fields.cropped(sight, dim, -before, shape[dim])
    return sight, None


@rule("index_select", "index")
def _index(op: Op, sight: Sight) -> Outcome:
    shape, has = op.result.shape, sight.shape
    if len(shape) != len(has):
        return fields.constant(shape, sight, op.name), None
    for dim, extent in enumerate(shape):
        if extent != has[dim]:
            if extent < has[dim] and sight.walks(dim):
                return fields.constant(shape, sight, op.name), None
            sight = fields.cropped(sight, dim, -((extent - has[dim]) // 2), extent)  # padding
    return sight, None


@rule("pixel_unshuffle")
def _unshuffle(op: Op, sight: Sight) -> Outcome:
    by = op.args[1]
    found = []
    fine: list[Part] = []
    for dim in (-2, -1):
        part = sight.alone(len(sight.dims) + dim)
        if part is None or part.axis is None:
            return fields.constant(op.result.shape, sight, op.name), None
        size, out = op.args[0].shape[dim], op.result.shape[dim]
        found.append(Axis(size, out, by, by, 0, 0, 1))
        fine.append(Part(by, part.axis, part.step))
        coarse = Part(out, part.axis, part.step * by)
        line = replace(sight.lines[part.axis], stride=coarse.step)
        sight = sight.with_dim(len(sight.dims) + dim, (coarse,)).with_line(part.axis, line)
    channels = len(sight.dims) - 3
    after = sight.with_dim(channels, (*sight.dims[channels], *fine))
    return after, Found("space to depth", Window(tuple(found)))


@rule("pixel_shuffle")
def _shuffle(op: Op, sight: Sight) -> Outcome:
    by = op.args[1]
    channels = len(sight.dims) - 3
    sight = fields.absorbed(sight, [channels], keep=True)
    sight = sight.with_dim(channels, (Part(op.result.shape[channels]),))
    return _upsampled(op, sight, 2, 1, Fraction(1 - by, 2 * by)), None


def _upsampled(op: Op, sight: Sight, rank: int, taps: int, first: Fraction | None) -> Sight:
    for dim in range(-rank, 0):
        size, out = op.args[0].shape[dim], op.result.shape[dim]
        step = Fraction(size, out)
        centre = (step - 1) / 2 if first is None else first
        sight = fields.resized(sight, len(sight.dims) + dim, out, taps, step, centre)
    return sight


@rule("max_unpool2d", "max_unpool3d", "put")
def _unpool(op: Op, sight: Sight) -> Outcome:
    return _upsampled(op, sight, op.result.ndim - 2, 1, None), None


MODES = ("nearest1d", "nearest2d", "nearest3d", "nearest_exact1d", "nearest_exact2d",
         "nearest_exact3d", "linear1d", "bilinear2d", "trilinear3d", "bicubic2d")  # fmt: skip
SCALING = tuple(
    f"{_}upsample_{mode}{aa}" for _ in ("", "_") for mode in MODES for aa in ("", "_aa")
)


@rule(*SCALING)
def _resize(op: Op, sight: Sight) -> Outcome:
    """Interpolation; nearest, to fewer cells, is a slice."""
    x, y = op.args[0], op.result
    rank = int(op.name.removesuffix("_aa")[-2])
    nearest = "nearest" in op.name
    corners = not nearest and op.arg(2, "align_corners", False) is True
    axes = []
    for dim in range(-rank, 0):
        size, out = x.shape[dim], y.shape[dim]
        step = Fraction(size - 1, out - 1) if corners and out > 1 else Fraction(size, out)
        first = (step - 1) / 2
        if corners or (nearest and out <= size):
            first = Fraction(0)
        taps = 1 if nearest else 4 if "cubic" in op.name else 2
        if op.name.endswith("_aa") and out < size:
            taps = -(-taps * size // out)
        sight = fields.resized(sight, len(sight.dims) + dim, out, taps, step, first)
        axes.append(Axis(size, out, taps, int(step), 0, 0, 1))
    if all(a.out >= a.size for a in axes):
        return sight, None
    whole = all(a.size % a.out == 0 for a in axes)
    kind = "slicing" if nearest and whole else "resize"
    if not whole:
        axes = [a._replace(stride=0) for a in axes]
    return sight, Found(kind, Window(tuple(axes)))


@rule("im2col")
def _im2col(op: Op, sight: Sight) -> Outcome:
    x, kernels, dilations, pads, strides = op.args[:5]
    axes: list[Axis] = []
    fine: list[Part] = []
    coarse: list[Part] = []
    for i in range(2):
        dim = len(sight.dims) - 2 + i
        part = sight.alone(dim)
        if part is None or part.axis is None:
            return fields.constant(op.result.shape, sight, op.name), None
        size, k, s, d = x.shape[-2 + i], kernels[i], strides[i], dilations[i]
        out = (size + 2 * pads[i] - d * (k - 1) - 1) // s + 1
        axes.append(Axis(size, out, k, s, pads[i], pads[i], d))
        fine.append(Part(k, part.axis, part.step * d))
        coarse.append(Part(out, part.axis, part.step * s))
        line = sight.lines[part.axis].grown(Fraction(0), -pads[i] * part.step)
        sight = sight.with_line(part.axis, replace(line, stride=part.step * s))
    channels = (*sight.dims[-3], *fine)
    after = replace(sight, dims=(*sight.dims[:-3], channels, tuple(coarse)))
    stage = Found("patch embedding", Window(tuple(axes))) if max(strides) > 1 else None
    return after, stage


@rule("unfold")
def _unfold(op: Op, sight: Sight) -> Outcome:
    _, dim, size, step = op.args[:4]
    dim %= len(sight.dims)
    part = sight.alone(dim)
    if part is None or part.axis is None:
        return fields.constant(op.result.shape, sight, op.name), None
    coarse = Part(op.result.shape[dim], part.axis, part.step * step)
    after = sight.with_dim(dim, (coarse,))
    after = after.with_line(part.axis, replace(sight.lines[part.axis], stride=coarse.step))
    return replace(after, dims=(*after.dims, (Part(size, part.axis, part.step),))), None


@rule("copy_")
def _copy(op: Op, sight: Sight) -> Outcome:
    source: Any = op.args[1]
    own = op.sight(source) if isinstance(source, Tensor) else None
    return (None if own is None else fields.joined([own], op.result.shape)), None


@rule("roll", "flip")
def _roll(op: Op, sight: Sight) -> Outcome:
    return sight, None
