"""Max unpooling: values go back to the cells that indices name."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.autograd import Function
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .. import onnx, ops
from ..errors import ArgumentError, DtypeError
from ..window import (
    Ints,
    Padding,
    as_ints,
    is_omitted,
    is_sequence,
    normalise_padding,
    spatial,
)
from .common import (
    ORDERED,
    check_tensor,
    documented,
    is_symmetric,
    ours,
    readable,
    stock,
    widened,
)

DUPLICATES = ("last", "sum", "max", "mean", "error")


def _max_unpool(
    where: str,
    rank: int,
    x: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    output_size: Any,
    duplicates: str,
) -> Tensor:
    check_duplicates(where, duplicates)
    if duplicates == "error" and onnx.exporting():
        raise ArgumentError(
            f"ONNX export of {where}: duplicates='error' cannot be, because no operator of ONNX "
            f"raises an error for what is in a tensor"
        )
    check_tensor(where, "indices", indices)
    if not ours(where, x, ORDERED):
        beyond = {"padding": not is_symmetric(padding), "duplicates": duplicates != "last"}
        served: Tensor | None = stock(
            where, x, beyond, f"max_unpool{rank}d", indices, kernel_size, stride, padding,
            output_size,
        )  # fmt: skip
        if served is not None:
            return served
    spatial(where, x.shape, rank)
    _check_indices(where, x, indices)
    sizes = _output_size(where, rank, x.shape, kernel_size, stride, padding, output_size)
    try:
        return _unpooled(where, x, indices, sizes, duplicates)
    except RuntimeError:
        _check_range(where, indices, math.prod(sizes))  # says more than the operator
        raise


def check_duplicates(where: str, duplicates: Any) -> None:
    """Refuse a ``duplicates`` that is none of `DUPLICATES`."""
    if duplicates not in DUPLICATES:
        raise ArgumentError(
            f"{where}: duplicates must be one of {', '.join(map(repr, DUPLICATES))}, "
            f"got {duplicates!r}"
        )


def _check_indices(where: str, x: Tensor, indices: Tensor) -> None:
    if indices.dtype is not torch.int64:
        raise DtypeError(f"{where}: indices must be int64, got {indices.dtype}")
    if indices.shape != x.shape:
        raise ArgumentError(
            f"{where}: indices must have the shape of input {tuple(x.shape)}, "
            f"got {tuple(indices.shape)}"
        )


def _output_size(
    where: str,
    rank: int,
    shape: Sequence[int],
    kernel_size: Any,
    stride: Any,
    padding: Any,
    output_size: Any,
) -> tuple[int, ...]:
    kernels = as_ints(where, "kernel_size", kernel_size, rank, 1)
    strides = kernels if is_omitted(stride) else as_ints(where, "stride", stride, rank, 1)
    pads = normalise_padding(where, padding, rank)
    if isinstance(pads, str):
        raise ArgumentError(f"{where}: padding must be ints or pairs here, got {padding!r}")
    natural = [
        (extent - 1) * strides[i] + kernels[i] - sum(pads[i])
        for i, extent in enumerate(shape[-rank:])
    ]
    if output_size is None:
        sizes = natural
    else:
        whole = is_sequence(output_size) and len(output_size) == rank + 2
        given = output_size[2:] if whole else output_size
        sizes = [*as_ints(where, "output_size", given, rank, 0)]
        for size, usual, step in zip(sizes, natural, strides, strict=True):
            if not usual - step < size < usual + step:
                raise ArgumentError(
                    f"{where}: output_size must be within one stride of {tuple(natural)}, got "
                    f"{output_size!r} (input shape {tuple(shape)}, stride {strides})"
                )
    if any(size < 1 for size in sizes):
        raise ArgumentError(
            f"{where}: the output would have the spatial shape {tuple(sizes)} "
            f"(input shape {tuple(shape)})"
        )
    return tuple(sizes)


def _check_range(where: str, indices: Tensor, cells: int) -> None:
    if not readable(indices) or indices.numel() == 0:
        return
    low, high = (int(v) for v in torch.aminmax(indices))
    if low < 0 or high >= cells:
        raise ArgumentError(
            f"{where}: indices must be from 0 to {cells - 1} (the output has {cells} cells per "
            f"plane), got {low if low < 0 else high}"
        )


def _unpooled(
    where: str, x: Tensor, indices: Tensor, sizes: tuple[int, ...], duplicates: str
) -> Tensor:
    if duplicates == "last":
        return ops.put(x, indices, sizes)
    if duplicates == "max":
        y = ops.put(*_ascending(x, indices, len(sizes)), sizes)
        return y.contiguous(memory_format=suggest_memory_format(x))
    if duplicates == "sum":
        return _summed(x, indices, sizes)
    writers = ops.add_at(torch.ones_like(indices), indices, sizes)
    if duplicates == "mean":
        return (_summed(widened(x), indices, sizes) / writers.clamp(min=1)).to(x.dtype)
    _refuse_repeats(where, indices, writers)
    return ops.put(x, indices, sizes)


def _summed(x: Tensor, indices: Tensor, sizes: tuple[int, ...]) -> Tensor:
    if x.is_floating_point():
        return ops.add_at(x, indices, sizes)
    return ops.add_at(x.to(torch.int64), indices, sizes).to(x.dtype)


def _refuse_repeats(where: str, index: Tensor, writers: Tensor) -> None:
    single = (writers > 0).sum()
    expected = f"{where}: duplicates='error', and"
    if readable(index):
        repeated = index.numel() - int(single)
        if repeated > 0:
            raise ArgumentError(f"{expected} {repeated} of {index.numel()} indices repeat another")
        return
    # What is traced has no values yet: the check becomes a part of it.
    mapped = not is_compiling() and ops.transforms_active()
    check = _Assert.apply if mapped else torch._assert_async  # noqa: SLF001  no public name
    check(single == index.numel(), f"{expected} an index repeats another")


class _Assert(Function):
    """``torch._assert_async`` for `torch.func`: vmap has no rule for that."""

    @staticmethod
    def forward(holds: Tensor, message: str) -> Tensor:
        if not bool(holds.all()):
            raise ArgumentError(message)
        return holds.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, holds: Tensor, message: str) -> Any:
        return _Assert.apply(holds, message), in_dims[0]  # type: ignore[no-untyped-call]  # torch's

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> None:
        return None


def _ascending(x: Tensor, indices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Both in ascending order of the values, so that the last writer of a cell is the greatest."""
    values, index = ops.keep_strides(x).flatten(-rank), indices.flatten(-rank)
    if onnx.exporting():  # there, every sort is stable, and torch cannot export one that says so
        order = torch.sort(onnx.plain(values.detach())).indices
    else:
        order = torch.sort(values.detach(), stable=True).indices
    return values.gather(-1, order).view(x.shape), index.gather(-1, order).view(x.shape)


_UNPOOL = """Put every value back to the cell that its index names; all other cells are 0.

    The inverse of ``max_pool{n}d(..., return_indices=True)``, with the signature of
    ``torch.nn.functional.max_unpool{n}d``.

    .. math:: y_{\\text{indices}_i} = x_i

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``.
        indices: int64, of the shape of ``input``: places in the flattened output plane. They are
            checked before anything is written.
        kernel_size: of the pooling that is undone.
        stride: of the pooling that is undone; default ``kernel_size``.
        padding: of the pooling that is undone: an int, one per axis, or (before, after) pairs.
        output_size: the spatial (or whole) shape of the result, where the pooling's arguments leave
            a choice.
        duplicates: what happens where several values name one cell: ``"last"`` in row-major order
            wins (and alone gets the gradient), ``"sum"``, ``"max"``, ``"mean"``, or ``"error"``.

    Shapes:
        ``{shapes}``, each ``L' = (L - 1) * stride + kernel - before - after``, or ``output_size``.

    Dtypes:
        those of ``max_pool{n}d``.

    Raises:
        {errors}

    Example:
        >>> import torch, poolkit.functional as F
        >>> x = torch.rand(1, 1, {sizes})
        >>> y, i = F.max_pool{n}d(x, 2, return_indices=True)
        >>> F.max_pool{n}d(F.max_unpool{n}d(y, i, 2), 2).equal(y)
        True

    Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2013,
    arXiv:1311.2901.
    """


@documented(_UNPOOL)
def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    output_size: Sequence[int] | None = None,
    *,
    duplicates: str = "last",
) -> Tensor:
    if has_torch_function_variadic(input, indices):
        return handle_torch_function(
            max_unpool1d, (input, indices), input, indices, kernel_size, stride, padding,
            output_size, duplicates=duplicates,
        )  # fmt: skip
    return _max_unpool("max_unpool1d", 1, input, indices, kernel_size, stride, padding,
                       output_size, duplicates)  # fmt: skip


@documented(_UNPOOL)
def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    output_size: Sequence[int] | None = None,
    *,
    duplicates: str = "last",
) -> Tensor:
    if has_torch_function_variadic(input, indices):
        return handle_torch_function(
            max_unpool2d, (input, indices), input, indices, kernel_size, stride, padding,
            output_size, duplicates=duplicates,
        )  # fmt: skip
    return _max_unpool("max_unpool2d", 2, input, indices, kernel_size, stride, padding,
                       output_size, duplicates)  # fmt: skip


@documented(_UNPOOL)
def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    output_size: Sequence[int] | None = None,
    *,
    duplicates: str = "last",
) -> Tensor:
    if has_torch_function_variadic(input, indices):
        return handle_torch_function(
            max_unpool3d, (input, indices), input, indices, kernel_size, stride, padding,
            output_size, duplicates=duplicates,
        )  # fmt: skip
    return _max_unpool("max_unpool3d", 3, input, indices, kernel_size, stride, padding,
                       output_size, duplicates)  # fmt: skip
