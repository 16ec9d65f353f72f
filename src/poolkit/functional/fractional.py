"""Fractional pooling: maxima and means of Graham's pseudo-random windows."""

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .. import ops
from ..window import Ints
from .common import FLOATS, documented, ours, stock
from .graham import fractional_windows
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
    samples, window = fractional_windows(
        where, rank, x, kernel_size, output_size, output_ratio, samples, generator
    )
    if return_indices:
        return ops.fractional_max_pool_indices(x, samples, window)
    return ops.fractional_max_pool(x, samples, window)


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
    samples, window = fractional_windows(
        where, rank, x, kernel_size, output_size, output_ratio, samples, generator
    )
    return ops.fractional_avg_pool(x, samples, window)


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
