"""The operators as the rest of the package calls them: with derivatives where somebody wants any.

Each function goes to the raw operator (`raw`) at once unless something is under way that the
operator would lose (`modes`). Then it goes to a Function (`derivatives`), and sees to the strides
of its gradient (`strides`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, is_grad_enabled
from torch._prims_common import suggest_memory_format
from torch.nn import Parameter

from .. import onnx
from ..window import Axis, Packed, Window
from .derivatives import (
    average,
    avg_pool_backward,
    avg_pool_eager,
    blurred,
    fractional_maximum,
    indexed,
    lp_pool_eager,
    max_blur_pool_eager,
    max_pool_eager,
    maximum,
    plane_indices,
)
from .modes import differentiates, transforms_active, under_transform
from .raw import (
    NATIVE,
    raw_avg_pool,
    raw_lp_pool,
    raw_max_pool,
    raw_max_pool_offsets,
    raw_operators,
)
from .strides import keep_strides, keep_unusual_strides, settled, wanted

__all__ = [
    "NATIVE",
    "add_at",
    "avg_pool",
    "avg_pool_backward",
    "blur_pool",
    "differentiates",
    "fractional_avg_pool",
    "fractional_max_pool",
    "fractional_max_pool_indices",
    "indexed",
    "keep_strides",
    "lp_pool",
    "max_blur_pool",
    "max_pool",
    "max_pool_offsets",
    "pick",
    "plane",
    "plane_indices",
    "put",
    "scatter",
    "transforms_active",
]


def max_pool(x: Tensor, window: Window) -> Tensor:
    """The maxima alone; offsets are kept only for a backward pass."""
    values: Tensor
    if x.requires_grad and is_grad_enabled():
        eager = _eager(x, window)
        if eager is not None:
            values = max_pool_eager(x, eager)
            return values
        if onnx.exporting():  # no backward pass follows, which offsets would be for
            return raw_max_pool(x, window.packed)
    elif not under_transform():
        return raw_max_pool(x, window.packed)
    return max_pool_offsets(x, window)[0]


def max_pool_offsets(x: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """The maxima and the tap of each winner."""
    if not differentiates(x):
        return raw_max_pool_offsets(x, window.packed)
    return maximum(keep_unusual_strides(x), wanted(x, window))


def avg_pool(x: Tensor, window: Window) -> Tensor:
    """The averages."""
    averages: Tensor
    if x.requires_grad and is_grad_enabled():
        eager = _eager(x, window)
        if eager is not None:
            averages = avg_pool_eager(x, eager)
            return averages
    elif not under_transform():
        return raw_avg_pool(x, window.packed)
    return average(keep_unusual_strides(x), wanted(x, window))


def lp_pool(x: Tensor, p: float, window: Window) -> Tensor | None:
    """The p-norms, p finite, or None where they have to be composed of other operators.

    They have to where a transform or a forward derivative is under way.
    """
    x = settled(x)
    if x.requires_grad and is_grad_enabled():
        eager = _eager(x, window)
        if eager is None:
            return None
        # Gradients need the norms of half types unrounded.
        whole = x.dtype in (torch.float32, torch.float64)
        norms: Tensor = lp_pool_eager(x if whole else x.to(torch.float32), p, eager)
        return norms if whole else norms.to(x.dtype)
    return None if under_transform() else raw_lp_pool(x, p, window.packed)


def blur_pool(x: Tensor, taps: tuple[float, ...], window: Window) -> Tensor:
    """The weighted sum of every window; ``taps`` are the weights axis by axis."""
    if not differentiates(x):
        result: Tensor = raw_operators["blur_pool"](x, taps, window.packed)
        return result
    return blurred("blur_pool", keep_unusual_strides(x), taps, wanted(x, window))


def max_blur_pool(x: Tensor, taps: tuple[float, ...], dense: Window, window: Window) -> Tensor:
    """The blurred maxima over ``dense``, a window of stride 1."""
    if not differentiates(x):
        result: Tensor = raw_operators["max_blur_pool"](x, taps, dense.packed, window.packed)
        return result
    # Subclasses, such as DTensor, have rules for the parts.
    if type(x) in (Tensor, Parameter):
        packed = _eager(x, dense), _eager(x, window)
        if None not in packed:
            blurs: Tensor = max_blur_pool_eager(x, taps, *packed)
            return blurs
    return blur_pool(max_pool(x, dense), taps, window)


def _eager(x: Tensor, window: Window) -> str | None:
    """The packed window for the light Functions, or None where they would not do.

    They do where nothing but reverse mode is under way and ``x`` is dense in its memory format.
    (What is being compiled has no text.)
    """
    packed = window.packed
    if type(packed) is not str or under_transform():
        return None
    # Where no stride is ambiguous, this settles it without the full comparison of strides.
    if x.is_contiguous():
        strides = x.stride()
        if strides[1] > strides[-1]:
            return packed
    elif 1 not in x.shape[1:] and x.is_contiguous(memory_format=_LAST.get(x.dim(), _FIRST)):
        return str(window.packed_last)
    elif not x.is_contiguous(memory_format=suggest_memory_format(x)):
        return None
    return str(wanted(x, window))


_FIRST, _LAST = torch.contiguous_format, {4: torch.channels_last, 5: torch.channels_last_3d}


def pick(x: Tensor, offsets: Tensor, packed: Packed) -> Tensor:
    """The values of ``x`` at the cells that the offsets name."""
    return indexed("pick", x, offsets, packed)


def scatter(g: Tensor, offsets: Tensor, packed: Packed) -> Tensor:
    """The sum, at each cell, of the values whose offset names it."""
    return indexed("scatter", g, offsets, packed)


def put(x: Tensor, indices: Tensor, sizes: Sequence[int]) -> Tensor:
    """Planes of ``sizes`` whose cells hold the last value of ``x`` that names them, or 0."""
    return _to_cells("put", x, indices, sizes)


def add_at(x: Tensor, indices: Tensor, sizes: Sequence[int]) -> Tensor:
    """Planes of ``sizes`` whose cells hold the sum of the values of ``x`` that name them."""
    return _to_cells("add_at", x, indices, sizes)


def _to_cells(operator: str, x: Tensor, indices: Tensor, sizes: Sequence[int]) -> Tensor:
    packed = wanted(x, plane(sizes, x.shape[x.dim() - len(sizes) :]))
    if not differentiates(x):
        result: Tensor = raw_operators[operator](x, indices, packed)
        return result
    return indexed(operator, keep_unusual_strides(x), indices, packed)


def fractional_max_pool(x: Tensor, samples: Tensor, window: Window) -> Tensor:
    """The maxima of Graham's windows alone; indices are kept only for a backward pass."""
    values: Tensor
    if differentiates(x):
        values = fractional_max_pool_indices(x, samples, window)[0]
    else:
        values = raw_operators["fractional_max_pool"](x, samples, window.packed)
    return values


def fractional_max_pool_indices(
    x: Tensor, samples: Tensor, window: Window
) -> tuple[Tensor, Tensor]:
    """The maxima of Graham's windows, and where they are in the plane, int64."""
    if not differentiates(x):
        both: tuple[Tensor, Tensor] = raw_operators["fractional_max_pool_indices"](
            x, samples, window.packed
        )
        return both
    return fractional_maximum(keep_unusual_strides(x), samples, wanted(x, window))


def fractional_avg_pool(x: Tensor, samples: Tensor, window: Window) -> Tensor:
    """The means of Graham's windows."""
    if not differentiates(x):
        return indexed("fractional_avg_pool", x, samples, window.packed)
    packed = wanted(x, window)
    return indexed("fractional_avg_pool", keep_unusual_strides(x), samples, packed)


def plane(sizes: Sequence[int], out: Sequence[int]) -> Window:
    """A window of which only the extents count: those of cells, and those of values."""
    axes = [Axis(size, o, 1, 1, 0, 0, 1) for size, o in zip(sizes, out, strict=True)]
    return Window(tuple(axes))
