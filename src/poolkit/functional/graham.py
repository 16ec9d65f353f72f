"""Graham's pseudo-random windows, the geometry of fractional pooling.

Where they begin differs from plane to plane and follows from samples: a `Window` holds only the
extents and the kernel.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import onnx
from ..errors import ArgumentError
from ..window import Axis, Window, as_ints, is_bool, is_sequence, spatial
from .common import check_tensor, readable


def fractional_windows(
    where: str,
    rank: int,
    x: Tensor,
    kernel_size: Any,
    output_size: Any,
    output_ratio: Any,
    samples: Tensor | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Window]:
    """The samples that say where each plane's windows begin, checked or drawn; and the extents."""
    if onnx.exporting():
        raise ArgumentError(
            f"ONNX export of {where}: the windows of every plane come from random samples, drawn "
            f"or given, and ONNX has neither torch's generator nor its rounding of their starts"
        )
    extents = spatial(where, x.shape, rank)
    kernel = as_ints(where, "kernel_size", kernel_size, rank, 1)
    sizes = _output_size(where, rank, extents, output_size, output_ratio)
    for extent, k, out in zip(extents, kernel, sizes, strict=True):
        if out + k - 1 > extent:
            raise ArgumentError(
                f"{where}: {out} windows of {k} cells do not fit into an extent of {extent}: "
                f"output_size + kernel_size - 1 must be at most the extent "
                f"(input shape {tuple(x.shape)})"
            )
    shape = (*(x.shape[:2] if x.dim() == rank + 2 else (1, x.shape[0])), rank)
    if samples is None:
        if generator is None:  # Dynamo cannot trace symbolic extents beside generator=None
            samples = torch.rand(shape, dtype=x.dtype, device=x.device)
        else:
            samples = torch.rand(shape, dtype=x.dtype, device=x.device, generator=generator)
    _check_samples(where, x, shape, samples)
    axes = [Axis(*sizes, 1, 0, 0, 1) for sizes in zip(extents, sizes, kernel, strict=True)]
    return samples, Window(tuple(axes))


def size_or_ratio(
    where: str, rank: int, output_size: Any, output_ratio: Any
) -> tuple[tuple[int, ...] | None, tuple[float, ...] | None]:
    """The one of the two that is given, per axis.

    Raises:
        ArgumentError: both are given, or none, or what is given can be no size or ratio.
    """
    if (output_size is None) == (output_ratio is None):
        raise ArgumentError(
            f"{where}: exactly one of output_size and output_ratio must be given, got "
            f"{output_size!r} and {output_ratio!r}"
        )
    if output_size is not None:
        return as_ints(where, "output_size", output_size, rank, 1), None
    ratios = tuple(output_ratio) if is_sequence(output_ratio) else (output_ratio,)
    if len(ratios) == 1:
        ratios = ratios * rank
    if len(ratios) != rank or any(
        is_bool(r) or not hasattr(r, "__float__") or not 0 < r < 1 for r in ratios
    ):
        raise ArgumentError(
            f"{where}: output_ratio must be a number between 0 and 1, or {rank} of them, "
            f"got {output_ratio!r}"
        )
    return None, ratios


def _output_size(
    where: str, rank: int, extents: tuple[int, ...], output_size: Any, output_ratio: Any
) -> tuple[int, ...]:
    sizes, ratios = size_or_ratio(where, rank, output_size, output_ratio)
    if ratios is not None:
        # Not int(), which would fix a symbolic extent.
        whole: Callable[[Any], int] = torch.sym_int
        sizes = tuple(whole(extent * r) for extent, r in zip(extents, ratios, strict=True))
        if min(sizes) < 1:
            raise ArgumentError(f"{where}: output_ratio {output_ratio!r} gives the size {sizes}")
    assert sizes is not None
    return sizes


def _check_samples(where: str, x: Tensor, shape: tuple[int, ...], samples: Any) -> None:
    check_tensor(where, "_random_samples", samples)
    if tuple(samples.shape) != shape:
        raise ArgumentError(
            f"{where}: _random_samples must have the shape {shape}, got {tuple(samples.shape)}"
        )
    if samples.dtype != x.dtype:
        raise ArgumentError(
            f"{where}: _random_samples must have the input's dtype {x.dtype}, got {samples.dtype}"
        )
    # Unreadable samples need no check to be safe: operators clamp the starts.
    if readable(samples) and not bool(samples.isfinite().all()):
        raise ArgumentError(f"{where}: _random_samples must be finite")
