"""Fractional pooling: Graham's pseudo-random windows, gathered and then pooled."""

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .. import ops
from ..errors import ArgumentError
from ..window import Ints, as_ints
from .common import FLOATS, documented, fixed, ours
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
) -> tuple[Tensor, list[Tensor], tuple[int, ...]]:
    """The cells of all windows side by side, where each came from, and the kernel.

    The windows of the result do not overlap: an ordinary window with ``stride == kernel`` reads it.
    """
    if x.dim() not in (rank + 1, rank + 2):
        raise ArgumentError(
            f"{where}: input must have {rank + 1} or {rank + 2} axes, got shape {tuple(x.shape)}"
        )
    extents = tuple(x.shape[-rank:])
    if any(extent == 0 for extent in x.shape[x.dim() - rank - 1 :]):
        raise ArgumentError(
            f"{where}: no channel and no spatial extent may be 0, got shape {tuple(x.shape)}"
        )
    kernel = as_ints(where, "kernel_size", kernel_size, rank, 1)
    sizes = _output_size(where, rank, extents, output_size, output_ratio)
    for extent, k, out in zip(extents, kernel, sizes, strict=True):
        if out + k - 1 > extent:
            raise ArgumentError(
                f"{where}: {out} windows of {k} cells do not fit into an extent of {extent}: "
                f"output_size + kernel_size - 1 must be at most the extent "
                f"(input shape {tuple(x.shape)})"
            )
    batched = x if x.dim() == rank + 2 else x[None]
    if samples is None:
        samples = torch.rand(
            *batched.shape[:2], rank, dtype=x.dtype, device=x.device, generator=generator
        )
    _check_samples(where, rank, batched, samples)
    # torch's order of samples is (W, H) in 2-D, and (T, H, W) in 3-D.
    columns = (1, 0) if rank == 2 else tuple(range(rank))
    sources = []
    for i in range(rank):
        start = _starts(samples[..., columns[i]], extents[i], kernel[i], sizes[i])
        cells = (start[..., None] + torch.arange(kernel[i], device=x.device)).flatten(-2)
        shape = [*cells.shape[:2], *(1 for _ in range(rank))]
        shape[2 + i] = cells.shape[-1]
        batched = batched.gather(
            2 + i, cells.view(shape).expand(*batched.shape[: 2 + i], -1, *batched.shape[3 + i :])
        )
        sources.append(cells if x.dim() == rank + 2 else cells[0])
    return (batched if x.dim() == rank + 2 else batched[0]), sources, kernel


def _output_size(
    where: str, rank: int, extents: tuple[int, ...], output_size: Any, output_ratio: Any
) -> tuple[int, ...]:
    if (output_size is None) == (output_ratio is None):
        raise ArgumentError(
            f"{where}: exactly one of output_size and output_ratio must be given, got "
            f"{output_size!r} and {output_ratio!r}"
        )
    if output_size is not None:
        return as_ints(where, "output_size", output_size, rank, 1)
    many = isinstance(output_ratio, Sequence)
    ratios = tuple(output_ratio) if many else (output_ratio,) * rank
    if len(ratios) != rank or not all(
        isinstance(r, (int, float)) and not isinstance(r, bool) and 0 < r < 1 for r in ratios
    ):
        raise ArgumentError(
            f"{where}: output_ratio must be a number between 0 and 1, or {rank} of them, "
            f"got {output_ratio!r}"
        )
    sizes = tuple(int(extent * r) for extent, r in zip(extents, ratios, strict=True))
    if min(sizes) < 1:
        raise ArgumentError(f"{where}: output_ratio {output_ratio!r} gives the size {sizes}")
    return sizes


def _check_samples(where: str, rank: int, x: Tensor, samples: Any) -> None:
    if not isinstance(samples, Tensor) or not samples.is_floating_point():
        raise ArgumentError(f"{where}: _random_samples must be a floating tensor, got {samples!r}")
    if tuple(samples.shape) != (*x.shape[:2], rank):
        raise ArgumentError(
            f"{where}: _random_samples must have the shape {(*x.shape[:2], rank)}, "
            f"got {tuple(samples.shape)}"
        )
    if samples.dtype != x.dtype:
        raise ArgumentError(
            f"{where}: _random_samples must have the input's dtype {x.dtype}, got {samples.dtype}"
        )
    if torch.compiler.is_compiling() or ops.transforms_active() or samples.is_meta:
        return  # what is traced or mapped has no values to look at; starts are clamped anyway
    if not bool(samples.isfinite().all()):
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
        stock = getattr(torch.nn.functional, f"fractional_max_pool{rank}d")
        return stock(  # type: ignore[no-any-return]
            x, kernel_size, output_size, output_ratio, bool(return_indices), samples
        )
    cells, sources, kernel = _windows(
        where, rank, x, kernel_size, output_size, output_ratio, samples, generator
    )
    layout = suggest_memory_format(x)
    window = fixed(where, rank, cells, kernel, None, 0, 1, False, True)
    if not return_indices:
        return ops.max_pool(cells, window).contiguous(memory_format=layout)
    values, offsets = ops.max_pool_offsets(cells, window)
    indices = _source_indices(ops.plane_indices(offsets, window), sources, x.shape[-rank:])
    return values.contiguous(memory_format=layout), indices.contiguous(memory_format=layout)


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
    ours(where, x, FLOATS)
    cells, _, kernel = _windows(
        where, rank, x, kernel_size, output_size, output_ratio, samples, generator
    )
    window = fixed(where, rank, cells, kernel, None, 0, 1, False, True)
    return ops.avg_pool(cells, window).contiguous(memory_format=suggest_memory_format(x))


_FRACTIONAL = """{kind} over Graham's pseudo-random windows: any ratio of sizes, also between 1 and 2.

    .. math:: y_j = \\{op}_{0 \\le t < k} x_{s_j + t}, \\quad
              s_j = \\lfloor (j + u) a \\rfloor - \\lfloor u a \\rfloor, \\quad a = \\frac{L - k}{O - 1}

    with one ``u`` per sample, channel and axis; the last window is the last ``k`` cells.{stock}

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``.
        kernel_size: cells of a window per axis.
        output_size: windows per axis; either this or ``output_ratio``.
        output_ratio: output over input extent, between 0 and 1.{indices}
        _random_samples: the ``u``, of shape ``(N, C, {n})`` and the input's dtype{order}; finite. By
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
    return (
        _FRACTIONAL.replace("{kind}", "Maximum" if maximum else "Average")
        .replace("{op}", "max" if maximum else "operatorname{mean}")
        .replace("{name}", name)
        .replace("{first}", "468"[3 - rank])
        .replace("{order}", {1: "", 2: ", in the order (W, H)", 3: ", in the order (D, H, W)"}[rank])
        .replace(
            "{stock}",
            f" The signature is that of\n    ``torch.nn.functional.{name}``."
            if maximum and rank > 1
            else "",
        )
        .replace(
            "{indices}",
            "\n        return_indices: also return the int64 index of each maximum in its input plane."
            if maximum
            else "",
        )
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
        return handle_torch_function(  # type: ignore[no-any-return]
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
    return fractional_max_pool1d(  # type: ignore[return-value]
        input, kernel_size, output_size, output_ratio, True, _random_samples, generator=generator
    )


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
        return handle_torch_function(  # type: ignore[no-any-return]
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
        return handle_torch_function(  # type: ignore[no-any-return]
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
    return fractional_max_pool2d(  # type: ignore[return-value]
        input, kernel_size, output_size, output_ratio, True, _random_samples, generator=generator
    )


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
        return handle_torch_function(  # type: ignore[no-any-return]
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
        return handle_torch_function(  # type: ignore[no-any-return]
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
    return fractional_max_pool3d(  # type: ignore[return-value]
        input, kernel_size, output_size, output_ratio, True, _random_samples, generator=generator
    )


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
        return handle_torch_function(  # type: ignore[no-any-return]
            fractional_avg_pool3d, (input, _random_samples), input, kernel_size, output_size,
            output_ratio, _random_samples, generator=generator,
        )  # fmt: skip
    return _avg("fractional_avg_pool3d", 3, input, kernel_size, output_size, output_ratio,
                _random_samples, generator)  # fmt: skip
