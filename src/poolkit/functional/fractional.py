"""Fractional pooling: Graham's pseudo-random windows, gathered and then pooled."""

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .. import ops
from ..errors import ArgumentError
from ..window import Ints, as_ints, is_bool, is_sequence, spatial
from .common import (
    FLOATS,
    check_tensor,
    documented,
    fixed,
    ours,
    readable,
    stock,
    widened,
)
from .max import MaybeIndices

Ratios = float | Sequence[float]


def _windows(
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


def _gathered(x: Tensor, sources: list[Tensor]) -> Tensor:
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
        sizes = tuple(int(extent * r) for extent, r in zip(extents, ratios, strict=True))
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
    room = torch.tensor(extent - kernel, dtype=u.dtype, device=u.device)
    a = room / torch.tensor(out - 1, dtype=u.dtype, device=u.device)
    j = torch.arange(out - 1, device=u.device).to(u.dtype)
    u = u[..., None]
    starts = ((j + u) * a).to(torch.int64) - (u * a).to(torch.int64)
    return torch.cat([starts.clamp(0, extent - kernel), last], -1)


def _max(
    where: str,
    rank: int,
    x: Tensor,
    kernel_size: Any,
    output_size: Any,
    output_ratio: Any,
    return_indices: Any,
    samples: Tensor | None,
    generator: torch.Generator | None,
) -> MaybeIndices:
    if not ours(where, x, FLOATS):
        beyond = {"one spatial axis": rank == 1, "generator": generator is not None}
        served: MaybeIndices | None = stock(
            where, x, beyond, f"fractional_max_pool{rank}d", kernel_size, output_size, output_ratio,
            bool(return_indices), samples,
        )  # fmt: skip
        if served is not None:
            return served
    layout = suggest_memory_format(x)
    # The windows are gathered for their winners alone: a gradient through them would add the shares
    # of a cell window by window along each axis, not output by output as torch does.
    sources, kernel = _windows(
        where, rank, x, kernel_size, output_size, output_ratio, samples, generator
    )
    cells = _gathered(x.detach(), sources)
    window = fixed(where, rank, cells, kernel, None, 0, 1, False, True)
    differentiates = ops.differentiates(x)
    if not return_indices and not differentiates:
        return ops.max_pool(cells, window).contiguous(memory_format=layout)
    values, offsets = ops.max_pool_offsets(cells, window)
    indices = _source_indices(ops.plane_indices(offsets, window), sources, x.shape[-rank:])
    if differentiates:
        values = _taken(ops.keep_strides(x), indices, rank)
    values = values.contiguous(memory_format=layout)
    return (values, indices.contiguous(memory_format=layout)) if return_indices else values


def _taken(x: Tensor, indices: Tensor, rank: int) -> Tensor:
    """The values of ``x`` at ``indices``: the derivative of a maximum, and its adjoint.

    A gradient adds up in row-major order of the outputs; that of a half type in float32.
    """
    values = widened(x).flatten(-rank).gather(-1, indices.flatten(-rank))
    return values.view(indices.shape).to(x.dtype)


def _source_indices(index: Tensor, sources: list[Tensor], sizes: Sequence[int]) -> Tensor:
    """Indices in the plane of the input from indices among the gathered cells."""
    flat = index.flatten(sources[0].dim() - 1)
    result = torch.zeros_like(flat)
    place = 1
    for source, size in zip(reversed(sources), reversed(sizes), strict=True):
        result = result + source.gather(-1, flat % source.shape[-1]) * place
        flat = flat // source.shape[-1]
        place *= size
    return result.view(index.shape)


def _avg(
    where: str,
    rank: int,
    x: Tensor,
    kernel_size: Any,
    output_size: Any,
    output_ratio: Any,
    samples: Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    if not ours(where, x, FLOATS):
        stock(where, x, {"an average": True}, "")  # refuses what the reference cannot read
    sources, kernel = _windows(
        where, rank, x, kernel_size, output_size, output_ratio, samples, generator
    )
    cells = _gathered(widened(ops.keep_strides(x)), sources)
    window = fixed(where, rank, cells, kernel, None, 0, 1, False, True)
    means = ops.avg_pool(cells, window).to(x.dtype)
    return means.contiguous(memory_format=suggest_memory_format(x))


_FRACTIONAL = """{kind} over Graham's pseudo-random windows: any ratio of sizes, also from 1 to 2.

    .. math:: y_j = \\{op}_{0 \\le t < k} x_{s_j + t}, \\quad
              s_j = \\lfloor (j + u) a \\rfloor - \\lfloor u a \\rfloor, \\quad
              a = \\frac{L - k}{O - 1}

    with one ``u`` per sample, channel and axis; the last window is the last ``k`` cells.{stock}

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``.
        kernel_size: cells of a window per axis.
        output_size: windows per axis; either this or ``output_ratio``.
        output_ratio: output over input extent, between 0 and 1.{indices}
        _random_samples: the ``u``: finite, ``(N, C, {n})``, of the input's dtype{order}. By
            default ``torch.rand``, so that seeds give torch's windows.
        generator: draws them, if given.

    Shapes:
        ``{shapes}``. The memory format is kept.

    Dtypes:
        float16, bfloat16, float32, float64.

    Raises:
        {errors}

    Example:
        >>> import torch, poolkit.functional as F
        >>> F.{name}(torch.rand(1, 1, {sizes}), 2, output_ratio=0.7).shape[2] < {first}
        True

    Source: Graham, "Fractional Max-Pooling", 2014, arXiv:1412.6071.
    """


def _text(name: str, rank: int) -> str:
    maximum = "max" in name
    stock = f"\n    The signature is that of ``torch.nn.functional.{name}``."
    indices = (
        "\n        return_indices: also return the int64 index of each maximum in its flattened "
        "input plane."
    )
    return (
        _FRACTIONAL.replace("{kind}", "Maximum" if maximum else "Average")
        .replace("{op}", "max" if maximum else "operatorname{mean}")
        .replace("{name}", name)
        .replace("{first}", "468"[3 - rank])
        .replace("{order}", ("", ", in the order (W, H)", ", in the order (D, H, W)")[rank - 1])
        .replace("{stock}", stock if maximum and rank > 1 else "")
        .replace("{indices}", indices if maximum else "")
    )


@overload
def fractional_max_pool1d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    return_indices: Literal[False] = False,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor: ...
@overload
def fractional_max_pool1d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    *,
    return_indices: Literal[True],
    _random_samples: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def fractional_max_pool1d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> MaybeIndices: ...
@documented(_text("fractional_max_pool1d", 1))
def fractional_max_pool1d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> MaybeIndices:
    if has_torch_function_variadic(input, _random_samples):
        return handle_torch_function(
            fractional_max_pool1d, (input, _random_samples), input, kernel_size, output_size,
            output_ratio, return_indices, _random_samples, generator=generator,
        )  # fmt: skip
    return _max("fractional_max_pool1d", 1, input, kernel_size, output_size, output_ratio,
                return_indices, _random_samples, generator)  # fmt: skip


@documented(_text("fractional_max_pool1d", 1))
def fractional_max_pool1d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = True,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    if has_torch_function_variadic(input, _random_samples):
        return handle_torch_function(
            fractional_max_pool1d_with_indices, (input, _random_samples), input, kernel_size,
            output_size, output_ratio, return_indices, _random_samples, generator=generator,
        )  # fmt: skip
    values, indices = _max("fractional_max_pool1d_with_indices", 1, input, kernel_size,
                           output_size, output_ratio, True, _random_samples, generator)  # fmt: skip
    return values, indices


@documented(_text("fractional_avg_pool1d", 1))
def fractional_avg_pool1d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    if has_torch_function_variadic(input, _random_samples):
        return handle_torch_function(
            fractional_avg_pool1d, (input, _random_samples), input, kernel_size, output_size,
            output_ratio, _random_samples, generator=generator,
        )  # fmt: skip
    return _avg("fractional_avg_pool1d", 1, input, kernel_size, output_size, output_ratio,
                _random_samples, generator)  # fmt: skip


@overload
def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    return_indices: Literal[False] = False,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor: ...
@overload
def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    *,
    return_indices: Literal[True],
    _random_samples: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> MaybeIndices: ...
@documented(_text("fractional_max_pool2d", 2))
def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> MaybeIndices:
    if has_torch_function_variadic(input, _random_samples):
        return handle_torch_function(
            fractional_max_pool2d, (input, _random_samples), input, kernel_size, output_size,
            output_ratio, return_indices, _random_samples, generator=generator,
        )  # fmt: skip
    return _max("fractional_max_pool2d", 2, input, kernel_size, output_size, output_ratio,
                return_indices, _random_samples, generator)  # fmt: skip


@documented(_text("fractional_max_pool2d", 2))
def fractional_max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = True,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    if has_torch_function_variadic(input, _random_samples):
        return handle_torch_function(
            fractional_max_pool2d_with_indices, (input, _random_samples), input, kernel_size,
            output_size, output_ratio, return_indices, _random_samples, generator=generator,
        )  # fmt: skip
    values, indices = _max("fractional_max_pool2d_with_indices", 2, input, kernel_size,
                           output_size, output_ratio, True, _random_samples, generator)  # fmt: skip
    return values, indices


@documented(_text("fractional_avg_pool2d", 2))
def fractional_avg_pool2d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    if has_torch_function_variadic(input, _random_samples):
        return handle_torch_function(
            fractional_avg_pool2d, (input, _random_samples), input, kernel_size, output_size,
            output_ratio, _random_samples, generator=generator,
        )  # fmt: skip
    return _avg("fractional_avg_pool2d", 2, input, kernel_size, output_size, output_ratio,
                _random_samples, generator)  # fmt: skip


@overload
def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    return_indices: Literal[False] = False,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor: ...
@overload
def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    *,
    return_indices: Literal[True],
    _random_samples: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> MaybeIndices: ...
@documented(_text("fractional_max_pool3d", 3))
def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> MaybeIndices:
    if has_torch_function_variadic(input, _random_samples):
        return handle_torch_function(
            fractional_max_pool3d, (input, _random_samples), input, kernel_size, output_size,
            output_ratio, return_indices, _random_samples, generator=generator,
        )  # fmt: skip
    return _max("fractional_max_pool3d", 3, input, kernel_size, output_size, output_ratio,
                return_indices, _random_samples, generator)  # fmt: skip


@documented(_text("fractional_max_pool3d", 3))
def fractional_max_pool3d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    return_indices: bool = True,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    if has_torch_function_variadic(input, _random_samples):
        return handle_torch_function(
            fractional_max_pool3d_with_indices, (input, _random_samples), input, kernel_size,
            output_size, output_ratio, return_indices, _random_samples, generator=generator,
        )  # fmt: skip
    values, indices = _max("fractional_max_pool3d_with_indices", 3, input, kernel_size,
                           output_size, output_ratio, True, _random_samples, generator)  # fmt: skip
    return values, indices


@documented(_text("fractional_avg_pool3d", 3))
def fractional_avg_pool3d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Ratios | None = None,
    _random_samples: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    if has_torch_function_variadic(input, _random_samples):
        return handle_torch_function(
            fractional_avg_pool3d, (input, _random_samples), input, kernel_size, output_size,
            output_ratio, _random_samples, generator=generator,
        )  # fmt: skip
    return _avg("fractional_avg_pool3d", 3, input, kernel_size, output_size, output_ratio,
                _random_samples, generator)  # fmt: skip
