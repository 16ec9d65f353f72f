"""Graham's pseudo-random windows, the geometry of fractional pooling.

They differ from plane to plane, so that no `Window` describes them: their cells are gathered side
by side, and an ordinary window over those does the rest.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..window import as_ints, is_bool, is_sequence, spatial
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
) -> tuple[list[Tensor], tuple[int, ...]]:
    """Per axis, the cells of all windows side by side, ``(N, C, windows * k)``; and the kernel."""
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
    # torch's order of samples is (W, H) in 2-D, and (T, H, W) in 3-D.
    columns = (1, 0) if rank == 2 else tuple(range(rank))
    sources = []
    for i in range(rank):
        start = _starts(samples[..., columns[i]], extents[i], kernel[i], sizes[i])
        cells = (start[..., None] + torch.arange(kernel[i], device=x.device)).flatten(-2)
        sources.append(cells if x.dim() == rank + 2 else cells[0])
    return sources, kernel


def gathered(x: Tensor, sources: list[Tensor]) -> Tensor:
    """The cells of all windows: an ordinary window with ``stride == kernel`` reads them."""
    rank = len(sources)
    first = x.dim() - rank
    for i, source in enumerate(sources):
        one_axis = [*source.shape[:-1], *(1 for _ in range(rank))]
        one_axis[first + i] = source.shape[-1]
        wanted = (*x.shape[: first + i], -1, *x.shape[first + i + 1 :])
        x = x.gather(first + i, source.view(one_axis).expand(wanted))
    return x


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
    # Unreadable samples need no check to be safe: starts are clamped.
    if readable(samples) and not bool(samples.isfinite().all()):
        raise ArgumentError(f"{where}: _random_samples must be finite")


def _starts(u: Tensor, extent: int, kernel: int, out: int) -> Tensor:
    """First cell of each window: int((j + u) a) - int(u a), and extent - kernel for the last."""
    last = torch.full((*u.shape, 1), extent - kernel, dtype=torch.int64, device=u.device)
    if out == 1:
        return last
    # The quotient too is taken in the samples' dtype, as torch takes it.
    room = torch.full((), extent - kernel, dtype=u.dtype, device=u.device)
    a = room / torch.full((), out - 1, dtype=u.dtype, device=u.device)
    j = torch.arange(out - 1, device=u.device).to(u.dtype)
    u = u[..., None]
    starts = ((j + u) * a).to(torch.int64) - (u * a).to(torch.int64)
    return torch.cat([starts.clamp(0, extent - kernel), last], -1)


def source_indices(index: Tensor, sources: list[Tensor], sizes: Sequence[int]) -> Tensor:
    """Indices in the plane of the input from indices among the gathered cells."""
    flat = index.flatten(sources[0].dim() - 1)
    result = torch.zeros_like(flat)
    place = 1
    for source, size in zip(reversed(sources), reversed(sizes), strict=True):
        result = result + source.gather(-1, flat % source.shape[-1]) * place
        flat = flat // source.shape[-1]
        place *= size
    return result.view(index.shape)
