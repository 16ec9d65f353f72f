"""The window of a case as numbers per axis, which is how the other libraries want it."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch

import poolkit.functional

from .. import stock
from ..cases import Point
from .base import Unsupported


@dataclass(frozen=True)
class Geometry:
    """A fixed window; a global one is as large as the input."""

    size: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil: bool
    include_pad: bool
    norm: float

    @property
    def is_global(self) -> bool:
        return self.kernel == self.size and not any(self.padding)

    @property
    def trailing(self) -> tuple[int, ...]:
        """Padding behind the input with which all windows, those of ceil mode too, are whole."""
        spans = zip(
            self.size, self.out, self.kernel, self.stride, self.padding, self.dilation, strict=True
        )
        return tuple(
            max(0, (out - 1) * stride + dilation * (kernel - 1) + 1 - before - size)
            for size, out, kernel, stride, before, dilation in spans
        )

    def divisors(self, axis: int) -> list[int]:
        """By how many cells an average divides, per output along one axis."""
        size, before = self.size[axis], self.padding[axis]
        low, high = (-before, size + before) if self.include_pad else (0, size)
        starts = [i * self.stride[axis] - before for i in range(self.out[axis])]
        return [min(start + self.kernel[axis], high) - max(start, low) for start in starts]


def arguments(point: Point) -> dict[str, Any]:
    """The case's arguments by name, defaults included."""
    signature = inspect.signature(getattr(poolkit.functional, point.case.function))
    bound = signature.bind(None, *point.case.args)
    bound.apply_defaults()
    return bound.arguments


def output_shape(point: Point) -> tuple[int, ...]:
    return tuple(point.case(stock, torch.empty(point.shape, device="meta")).shape)


def geometry(point: Point) -> Geometry | None:
    """None for adaptive windows of different sizes."""
    if "blur" in point.case.family:
        raise Unsupported("has no blur")
    given, rank = arguments(point), point.case.rank
    size, out = point.case.shape[1:], output_shape(point)[2:]

    def per_axis(value: int | tuple[int, ...]) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * rank

    if "output_size" in given:
        if any(n % m for n, m in zip(size, out, strict=True)):
            return None
        kernel = stride = tuple(n // m for n, m in zip(size, out, strict=True))
        padding = 0
    else:
        kernel, padding = per_axis(given["kernel_size"]), given["padding"]
        stride = per_axis(given["stride"] or given["kernel_size"])
    return Geometry(
        size=size,
        out=out,
        kernel=kernel,
        stride=stride,
        padding=per_axis(padding),
        dilation=per_axis(given.get("dilation", 1)),
        ceil=given.get("ceil_mode", False),
        include_pad=given.get("count_include_pad", True),
        norm=given.get("norm_type", 0),
    )
