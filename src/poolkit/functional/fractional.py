"""Fractional pooling: Graham's pseudo-random windows, gathered and then pooled."""

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .. import ops
from ..window import Ints
from .common import FLOATS, documented, fixed, ours, stock, widened
from .graham import fractional_windows, gathered, source_indices
from .max import MaybeIndices

Ratios = float | Sequence[float]


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
    sources, kernel = fractional_windows(
        where, rank, x, kernel_size, output_size, output_ratio, samples, generator
    )
    cells = gathered(x.detach(), sources)
    window = fixed(where, rank, cells, kernel, None, 0, 1, False, True)
    differentiates = ops.differentiates(x)
    if not return_indices and not differentiates:
        return ops.max_pool(cells, window).contiguous(memory_format=layout)
    values, offsets = ops.max_pool_offsets(cells, window)
    indices = source_indices(ops.plane_indices(offsets, window), sources, x.shape[-rank:])
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
    sources, kernel = fractional_windows(
        where, rank, x, kernel_size, output_size, output_ratio, samples, generator
    )
    cells = gathered(widened(ops.keep_strides(x)), sources)
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
def fractional_max_pool1d(input: Tensor, kernel_size: Ints, output_size: Ints | None = None,
                          output_ratio: Ratios | None = None,
                          return_indices: Literal[False] = False,
                          _random_samples: Tensor | None = None, *,
                          generator: torch.Generator | None = None,
) -> Tensor: ...  # fmt: skip
@overload
def fractional_max_pool1d(input: Tensor, kernel_size: Ints, output_size: Ints | None = None,
                          output_ratio: Ratios | None = None, *, return_indices: Literal[True],
                          _random_samples: Tensor | None = None,
                          generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def fractional_max_pool1d(input: Tensor, kernel_size: Ints, output_size: Ints | None = None,
                          output_ratio: Ratios | None = None, return_indices: bool = False,
                          _random_samples: Tensor | None = None, *,
                          generator: torch.Generator | None = None,
) -> MaybeIndices: ...  # fmt: skip
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
def fractional_max_pool2d(input: Tensor, kernel_size: Ints, output_size: Ints | None = None,
                          output_ratio: Ratios | None = None,
                          return_indices: Literal[False] = False,
                          _random_samples: Tensor | None = None, *,
                          generator: torch.Generator | None = None,
) -> Tensor: ...  # fmt: skip
@overload
def fractional_max_pool2d(input: Tensor, kernel_size: Ints, output_size: Ints | None = None,
                          output_ratio: Ratios | None = None, *, return_indices: Literal[True],
                          _random_samples: Tensor | None = None,
                          generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def fractional_max_pool2d(input: Tensor, kernel_size: Ints, output_size: Ints | None = None,
                          output_ratio: Ratios | None = None, return_indices: bool = False,
                          _random_samples: Tensor | None = None, *,
                          generator: torch.Generator | None = None,
) -> MaybeIndices: ...  # fmt: skip
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
def fractional_max_pool3d(input: Tensor, kernel_size: Ints, output_size: Ints | None = None,
                          output_ratio: Ratios | None = None,
                          return_indices: Literal[False] = False,
                          _random_samples: Tensor | None = None, *,
                          generator: torch.Generator | None = None,
) -> Tensor: ...  # fmt: skip
@overload
def fractional_max_pool3d(input: Tensor, kernel_size: Ints, output_size: Ints | None = None,
                          output_ratio: Ratios | None = None, *, return_indices: Literal[True],
                          _random_samples: Tensor | None = None,
                          generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def fractional_max_pool3d(input: Tensor, kernel_size: Ints, output_size: Ints | None = None,
                          output_ratio: Ratios | None = None, return_indices: bool = False,
                          _random_samples: Tensor | None = None, *,
                          generator: torch.Generator | None = None,
) -> MaybeIndices: ...  # fmt: skip
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
