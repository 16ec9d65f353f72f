"""Receptive fields: where in the image every value of a tensor comes from.

A dimension of a tensor is a product of *parts*, outermost first. A part either walks along an axis
of the image, in steps of so many pixels, or carries something else (channels, the batch). A map
``(N, C, H, W)`` has one part per dimension; ``view`` splits and joins parts, ``permute`` moves
them, a window lengthens the step of one. So flattening, patches by reshape, space to depth, slices
with a step and windows in plain torch need no rules of their own: whatever adds up the values
along a part makes the field as much larger as the part is long.

Sizes and places are fractions of pixels, exact; those of upsampled maps need not be whole.

Source: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks",
Distill, 2019.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

from ..window import Axis
from .report import Field

HALF = Fraction(1, 2)


class Part(NamedTuple):
    """A factor of a dimension: so many places along an axis of the image, or of something else."""

    length: int
    axis: int | None = None
    step: Fraction = Fraction(0)
    """Pixels from place to place."""


Dim = tuple[Part, ...]


@dataclass(frozen=True)
class Line:
    """What the values of a tensor see along one axis of the image."""

    size: Fraction | None = Fraction(1)
    """Pixels of the longest path through windows alone; None where every path is global."""
    shortest: Fraction | None = Fraction(1)
    whole: bool = False
    """Some path sees the whole image, however large it is."""
    start: Fraction = Fraction(0)
    """The centre of the first value's field."""
    stride: Fraction = Fraction(1)
    aligned: bool = True

    def grown(self, pixels: Fraction, shift: Fraction) -> "Line":
        """Every path sees ``pixels`` more, and its centre moves by ``shift``."""
        return replace(
            self,
            size=None if self.size is None else self.size + pixels,
            shortest=None if self.shortest is None else self.shortest + pixels,
            start=self.start + shift,
        )

    def everywhere(self, direct: bool = False) -> "Line":
        """After an operation over the whole map; ``direct``: beside a path that is not."""
        return replace(self, whole=True) if direct else replace(
            self, size=None, shortest=None, whole=True
        )  # fmt: skip

    def joined(self, other: "Line") -> "Line":
        """Two branches become one."""
        shortest = [s for s in (self.shortest, other.shortest) if s is not None]
        least = min(shortest, default=None)
        whole = self.whole or other.whole
        if self.size is None or other.size is None:  # a global branch is aligned with all
            local = other if self.size is None else self
            return replace(local, shortest=least, whole=whole)
        low = min(line.low() for line in (self, other))
        high = max(line.high() for line in (self, other))
        same = self.start == other.start and self.stride == other.stride
        return Line(
            high - low + 1, least, whole, (low + high) / 2, max(self.stride, other.stride),
            self.aligned and other.aligned and same,
        )  # fmt: skip

    def low(self) -> Fraction:
        """The first pixel of the first value's field."""
        assert self.size is not None
        return self.start - (self.size - 1) / 2

    def high(self) -> Fraction:
        """Its last pixel."""
        assert self.size is not None
        return self.start + (self.size - 1) / 2

    def report(self) -> Field:
        """As plain numbers."""
        local = None if self.size is None else math.ceil(self.size)
        return Field(
            size=None if self.whole else local,
            smallest=None if self.shortest is None else math.ceil(self.shortest),
            stride=float(self.stride),
            start=float(self.start),
            phase=float(self.start - (self.stride - 1) / 2),
            aligned=self.aligned,
            local=local,
        )


@dataclass(frozen=True)
class Sight:
    """Where the values of one tensor come from."""

    dims: tuple[Dim, ...]
    lines: tuple[Line, ...]
    stages: frozenset[int] = frozenset()
    """The stages that the values went through."""
    lost: str = ""
    """The operation after which the places are not known any more."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(math.prod(part.length for part in dim) for dim in self.dims)

    @property
    def cells(self) -> int:
        """Of the map: places along axes of the image."""
        return math.prod(p.length for dim in self.dims for p in dim if p.axis is not None)

    @property
    def is_image(self) -> bool:
        """Whether the values are those of the image itself."""
        return not self.stages and all(line == Line() for line in self.lines)

    def through(self, stage: int) -> "Sight":
        """The same behind a stage."""
        return replace(self, stages=self.stages | {stage})

    def alone(self, dim: int) -> Part | None:
        """The only part of a dimension, if it walks along an axis."""
        parts = [part for part in self.dims[dim] if part.length > 1] or list(self.dims[dim])
        walking = [part for part in parts if part.axis is not None]
        return walking[0] if len(parts) == len(walking) == 1 else None

    def walks(self, dim: int) -> bool:
        """Whether a dimension walks along any axis."""
        return any(part.axis is not None for part in self.dims[dim])

    def with_dim(self, dim: int, parts: Iterable[Part]) -> "Sight":
        """The same with other parts in a dimension."""
        dims = list(self.dims)
        dims[dim] = tuple(parts)
        return replace(self, dims=tuple(dims))

    def with_line(self, axis: int, line: Line) -> "Sight":
        """The same with another line for an axis of the image."""
        lines = list(self.lines)
        lines[axis] = line
        return replace(self, lines=tuple(lines))


def image(shape: Sequence[int]) -> Sight:
    """The input ``(N, C, *)`` itself."""
    dims: list[Dim] = [(Part(extent),) for extent in shape[:2]]
    dims += [(Part(extent, axis, Fraction(1)),) for axis, extent in enumerate(shape[2:])]
    return Sight(tuple(dims), (Line(),) * len(shape[2:]))


def constant(shape: Sequence[int], like: Sight, lost: str = "") -> Sight:
    """A tensor of which nothing but the paths is known."""
    dims = tuple((Part(extent),) for extent in shape)
    return replace(like, dims=dims, lost=like.lost or lost)


# ---- windows ------------------------------------------------------------------------------------


def windowed(sight: Sight, dim: int, axis: Axis) -> Sight:
    """A window along a dimension, of which only a part along an axis of the image is seen."""
    part = sight.alone(dim)
    if part is None or part.axis is None:
        after = sight
        for other in sight.dims[dim]:
            if other.axis is not None and axis.kernel > 1:  # tokens, of several axes
                after = after.with_line(other.axis, after.lines[other.axis].everywhere())
        return after.with_dim(dim, (Part(axis.out),))
    line = sight.lines[part.axis]
    if axis.stride == 0:  # adaptive, uneven: the widest window, and the mean step
        step = part.step * Fraction(axis.size, max(axis.out, 1))
        spread = max((-(-(i + 1) * axis.size // axis.out) - i * axis.size // axis.out
                      for i in range(axis.out)), default=1)  # fmt: skip
        line = line.grown((spread - 1) * part.step, (step - part.step) / 2)
    else:
        step = part.step * axis.stride
        reach = (axis.kernel - 1) * axis.dilation * part.step
        line = line.grown(reach, reach / 2 - axis.before * part.step)
    line = replace(line, stride=step)
    return sight.with_dim(dim, (Part(axis.out, part.axis, step),)).with_line(part.axis, line)


def resized(sight: Sight, dim: int, out: int, taps: int, step: Fraction, first: Fraction) -> Sight:
    """Upsampling: places ``step`` cells apart, the first at cell ``first``, each of ``taps``."""
    part = sight.alone(dim)
    if part is None or part.axis is None:
        return sight.with_dim(dim, (Part(out),))
    line = sight.lines[part.axis].grown((taps - 1) * part.step, first * part.step)
    line = replace(line, stride=part.step * step)
    after = Part(out, part.axis, part.step * step)
    return sight.with_dim(dim, (after,)).with_line(part.axis, line)


def absorbed(sight: Sight, dims: Iterable[int], keep: bool = False) -> Sight:
    """The values along dimensions become one, as in a sum; ``keep``: the dimensions stay, as 1."""
    gone = {dim % len(sight.dims) for dim in dims}
    lines = list(sight.lines)
    for dim in sorted(gone):
        for part in sight.dims[dim]:
            if part.axis is not None:
                reach = (part.length - 1) * part.step
                lines[part.axis] = lines[part.axis].grown(reach, reach / 2)
    kept = [
        tuple(Part(1, p.axis, p.step * p.length) for p in parts if p.axis is not None) or (Part(1),)
        if dim in gone
        else parts
        for dim, parts in enumerate(sight.dims)
        if keep or dim not in gone
    ]
    return replace(sight, dims=tuple(kept), lines=tuple(lines))


def seen(sight: Sight) -> tuple[Line, ...]:
    """What all values at one place of the map see, those that lie in other dimensions too."""
    coarse = _steps(sight)
    lines = absorbed(sight, fine_dims(sight)).lines
    return tuple(replace(line, stride=coarse.get(i, line.stride)) for i, line in enumerate(lines))


def fine_dims(sight: Sight) -> list[int]:
    """Dimensions that walk within the steps of another, as channels after space to depth."""
    coarse = _steps(sight)
    return [
        dim
        for dim, parts in enumerate(sight.dims)
        if any(p.axis is not None and p.step < coarse[p.axis] for p in parts)
    ]


def _steps(sight: Sight) -> dict[int, Fraction]:
    """Pixels from place to place of the map, along every axis that any dimension walks along."""
    steps: dict[int, Fraction] = {}
    for part in (part for dim in sight.dims for part in dim):
        if part.axis is not None:
            steps[part.axis] = max(part.step, steps.get(part.axis, part.step))
    return steps


def global_over(sight: Sight, axes: Iterable[int], direct: bool = False) -> Sight:
    """Axes of the image of which every value now sees everything."""
    lines = list(sight.lines)
    for axis in axes:
        lines[axis] = lines[axis].everywhere(direct)
    return replace(sight, lines=tuple(lines))


# ---- branches -----------------------------------------------------------------------------------


def joined(sights: Sequence[Sight], shape: Sequence[int]) -> Sight:
    """Tensors that are broadcast to ``shape`` and combined place by place."""
    dims: list[Dim] = [(Part(extent),) for extent in shape]
    for sight in reversed(sights):
        offset = len(shape) - len(sight.dims)
        for dim, parts in enumerate(sight.dims, offset):
            if dim >= 0 and math.prod(p.length for p in parts) == shape[dim] and (
                any(p.axis is not None for p in parts)
            ):  # fmt: skip
                dims[dim] = parts
    return replace(merged(sights), dims=tuple(dims))


def merged(sights: Sequence[Sight]) -> Sight:
    """The paths of several tensors, in the dimensions of the first."""
    first, *others = sights
    lines = list(first.lines)
    for other in others:
        lines = [a.joined(b) for a, b in zip(lines, other.lines, strict=True)]
    return replace(
        first,
        lines=tuple(lines),
        stages=frozenset[int]().union(*(sight.stages for sight in sights)),
        lost=next((sight.lost for sight in sights if sight.lost), ""),
    )


# ---- places -------------------------------------------------------------------------------------


def viewed(sight: Sight, shape: Sequence[int]) -> Sight | None:
    """The same values in another shape; None if a dimension would begin inside a part."""
    parts = [part for dim in sight.dims for part in dim]
    dims: list[Dim] = []
    for extent in shape:
        taken: list[Part] = []
        need = extent
        if extent == 1 and parts and parts[0].length == 1:
            taken.append(parts.pop(0))
        while need > 1 and parts:
            part = parts.pop(0)
            if part.length and need % part.length == 0:
                taken.append(part)
                need //= part.length
            elif part.length % need == 0:
                inner = part.length // need
                taken.append(Part(need, part.axis, part.step * inner))
                parts.insert(0, Part(inner, part.axis, part.step))
                need = 1
            else:
                return None
        longer = [part for part in taken if part.length > 1]
        dims.append(tuple(longer or taken[:1] or [Part(extent)]))
    return replace(sight, dims=tuple(dims))


def cropped(sight: Sight, dim: int, first: int, length: int, step: int = 1) -> Sight:
    """The places ``first``, ``first + step``, ... of a dimension; before 0 they are padding."""
    part = sight.alone(dim)
    if part is None or part.axis is None:
        walks = sight.walks(dim) and length != sight.shape[dim]
        after = sight.with_dim(dim, (Part(length),) if walks or first or not sight.walks(dim)
                               else sight.dims[dim])  # fmt: skip
        return replace(after, lost=after.lost or "a slice of flattened cells") if walks else after
    line = sight.lines[part.axis].grown(Fraction(0), first * part.step)
    line = replace(line, stride=line.stride * step)
    kept = Part(length, part.axis, part.step * step)
    return sight.with_dim(dim, (kept,)).with_line(part.axis, line)
