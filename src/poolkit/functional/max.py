"""Maximum pooling: fixed, adaptive and global windows."""

from typing import Any, Literal, overload

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from .. import ops
from ..window import Ints, Padding, Window, check_mode
from .common import (
    ORDERED,
    Padded,
    adaptive,
    documented,
    fixed,
    is_symmetric,
    ours,
    stock,
    widened,
)

MaybeIndices = Tensor | tuple[Tensor, Tensor]
Sizes = int | None | tuple[int | None, ...] | list[int | None]


def _max_pool(
    where: str,
    rank: int,
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
    return_indices: Any,
    padding_mode: str,
) -> MaybeIndices:
    if not ours(where, x, ORDERED):
        beyond = {"padding": not is_symmetric(padding), "padding_mode": padding_mode != "zeros"}
        served: MaybeIndices | None = stock(
            where, x, beyond, f"max_pool{rank}d", kernel_size, stride, padding, dilation, ceil_mode,
            bool(return_indices),
        )  # fmt: skip
        if served is not None:
            return served
    zeros = padding_mode == "zeros"
    window = fixed(where, rank, x, kernel_size, stride, padding, dilation, ceil_mode, zeros)
    if zeros:
        return _reduce(x, window, True) if return_indices else ops.max_pool(x, window)
    check_mode(where, padding_mode)
    padded = Padded(where, rank, widened(ops.keep_strides(x)), window, padding_mode)
    window = fixed(where, rank, padded.x, kernel_size, stride, 0, dilation, ceil_mode, True)
    if not return_indices:
        return ops.max_pool(padded.x, window).to(x.dtype)
    values, indices = _reduce(padded.x, window, True)
    return values.to(x.dtype), padded.indices(indices)


def _reduce(x: Tensor, window: Window, return_indices: Any) -> MaybeIndices:
    if not return_indices:
        return ops.max_pool(x, window)
    values, offsets = ops.max_pool_offsets(x, window)
    return values, ops.plane_indices(offsets, window)


@overload
def _adaptive_max_pool(
    where: str, rank: int, x: Tensor, output_size: Any, return_indices: Literal[False]
) -> Tensor: ...
@overload
def _adaptive_max_pool(
    where: str, rank: int, x: Tensor, output_size: Any, return_indices: Any
) -> MaybeIndices: ...
def _adaptive_max_pool(
    where: str, rank: int, x: Tensor, output_size: Any, return_indices: Any
) -> MaybeIndices:
    if not ours(where, x, ORDERED):
        name = f"adaptive_max_pool{rank}d"
        served: MaybeIndices | None = stock(where, x, {}, name, output_size, bool(return_indices))
        if served is not None:
            return served
    return _reduce(x, adaptive(where, rank, x, output_size, True), return_indices)


_MAX = """Maximum of every window, over {axes}.

    .. math:: y_i = \\max_{m \\in R_i} x_m

    The signature is that of ``torch.nn.functional.max_pool{n}d``, and so are the results, bit for
    bit: the first of equal values wins (-0.0 and +0.0 are equal), NaN beats every number, the last
    NaN is the one that is indexed, and padding never wins.

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.
        kernel_size: cells of a window per axis.
        stride: step from window to window; default ``kernel_size``.
        {padding}
        dilation: step between the cells of a window.
        ceil_mode: also keep a last window that hangs over the end, if it starts inside the input or
            the padding before it.
        return_indices: also return the int64 index of each maximum in its flattened input plane.
        {padding_mode}

    Shapes:
        ``{shapes}``, each
        ``L' = floor((L + before + after - dilation * (kernel - 1) - 1) / stride) + 1``
        (``ceil`` in ceil mode). The memory format is kept.

    Dtypes:
        float16, bfloat16, float32, float64, int8, uint8, int16, int32, int64, bool. Training keeps
        one byte per output for the backward pass, and nothing of the input.

    Raises:
        {errors}

    Example:
        >>> import torch, poolkit.functional as F
        >>> F.max_pool{n}d(torch.zeros(1, 1, {sizes}), 2).shape
        torch.Size([1, 1, {halves}])

    Source: Ranzato et al., "Unsupervised Learning of Invariant Feature Hierarchies", CVPR 2007.
    """

_ADAPTIVE_MAX = """Maximum over windows that share the input evenly among ``output_size`` outputs.

    .. math:: y_i = \\max_{\\lfloor iL/O \\rfloor \\le m < \\lceil (i+1)L/O \\rceil} x_m

    Ties, NaN and signed zeros are treated as in ``max_pool{n}d``, and as in torch.

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.
        output_size: an int or one per axis; None keeps the extent, 0 gives an empty result.
        return_indices: also return the int64 index of each maximum in its flattened input plane.

    Shapes:
        ``{shapes}``, with ``({out})`` as ``output_size`` says. The memory format is kept.

    Dtypes:
        float16, bfloat16, float32, float64, int8, uint8, int16, int32, int64, bool.

    Raises:
        {errors}

    Example:
        >>> import torch, poolkit.functional as F
        >>> F.adaptive_max_pool{n}d(torch.zeros(1, 1, {sizes}), 2).shape[2]
        2

    Source: He et al., "Spatial Pyramid Pooling", ECCV 2014, arXiv:1406.4729.
    """

_GLOBAL_MAX = """Maximum of every whole channel: ``adaptive_max_pool{n}d(input, 1)``.

    .. math:: y = \\max_m x_m

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.

    Shapes:
        ``(N, C, {cells}) -> (N, C, {ones})``.

    Dtypes:
        float16, bfloat16, float32, float64, int8, uint8, int16, int32, int64, bool.

    Raises:
        {errors}

    Example:
        >>> import torch, poolkit.functional as F
        >>> F.global_max_pool{n}d(torch.ones(1, 3, {sizes})).flatten(1)
        tensor([[1., 1., 1.]])

    Source: Oquab et al., "Is object localization for free?", CVPR 2015.
    """


@overload
def max_pool1d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Padding = 0,
               dilation: Ints = 1, ceil_mode: bool = False, return_indices: Literal[False] = False,
               *, padding_mode: str = "zeros") -> Tensor: ...  # fmt: skip
@overload
def max_pool1d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Padding = 0,
               dilation: Ints = 1, ceil_mode: bool = False, *, return_indices: Literal[True],
               padding_mode: str = "zeros") -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def max_pool1d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Padding = 0,
               dilation: Ints = 1, ceil_mode: bool = False, return_indices: bool = False, *,
               padding_mode: str = "zeros") -> MaybeIndices: ...  # fmt: skip
@documented(_MAX)
def max_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    padding_mode: str = "zeros",
) -> MaybeIndices:
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool1d, (input,), input, kernel_size, stride, padding, dilation, ceil_mode,
            return_indices, padding_mode=padding_mode,
        )  # fmt: skip
    return _max_pool("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode,
                     return_indices, padding_mode)  # fmt: skip


@documented(_MAX)
def max_pool1d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = True,
    *,
    padding_mode: str = "zeros",
) -> tuple[Tensor, Tensor]:
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool1d_with_indices, (input,), input, kernel_size, stride, padding, dilation,
            ceil_mode, return_indices, padding_mode=padding_mode,
        )  # fmt: skip
    values, indices = _max_pool("max_pool1d_with_indices", 1, input, kernel_size, stride, padding,
                                dilation, ceil_mode, True, padding_mode)  # fmt: skip
    return values, indices


@overload
def max_pool2d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Padding = 0,
               dilation: Ints = 1, ceil_mode: bool = False, return_indices: Literal[False] = False,
               *, padding_mode: str = "zeros") -> Tensor: ...  # fmt: skip
@overload
def max_pool2d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Padding = 0,
               dilation: Ints = 1, ceil_mode: bool = False, *, return_indices: Literal[True],
               padding_mode: str = "zeros") -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def max_pool2d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Padding = 0,
               dilation: Ints = 1, ceil_mode: bool = False, return_indices: bool = False, *,
               padding_mode: str = "zeros") -> MaybeIndices: ...  # fmt: skip
@documented(_MAX)
def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    padding_mode: str = "zeros",
) -> MaybeIndices:
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool2d, (input,), input, kernel_size, stride, padding, dilation, ceil_mode,
            return_indices, padding_mode=padding_mode,
        )  # fmt: skip
    return _max_pool("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode,
                     return_indices, padding_mode)  # fmt: skip


@documented(_MAX)
def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = True,
    *,
    padding_mode: str = "zeros",
) -> tuple[Tensor, Tensor]:
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool2d_with_indices, (input,), input, kernel_size, stride, padding, dilation,
            ceil_mode, return_indices, padding_mode=padding_mode,
        )  # fmt: skip
    values, indices = _max_pool("max_pool2d_with_indices", 2, input, kernel_size, stride, padding,
                                dilation, ceil_mode, True, padding_mode)  # fmt: skip
    return values, indices


@overload
def max_pool3d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Padding = 0,
               dilation: Ints = 1, ceil_mode: bool = False, return_indices: Literal[False] = False,
               *, padding_mode: str = "zeros") -> Tensor: ...  # fmt: skip
@overload
def max_pool3d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Padding = 0,
               dilation: Ints = 1, ceil_mode: bool = False, *, return_indices: Literal[True],
               padding_mode: str = "zeros") -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def max_pool3d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Padding = 0,
               dilation: Ints = 1, ceil_mode: bool = False, return_indices: bool = False, *,
               padding_mode: str = "zeros") -> MaybeIndices: ...  # fmt: skip
@documented(_MAX)
def max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    padding_mode: str = "zeros",
) -> MaybeIndices:
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool3d, (input,), input, kernel_size, stride, padding, dilation, ceil_mode,
            return_indices, padding_mode=padding_mode,
        )  # fmt: skip
    return _max_pool("max_pool3d", 3, input, kernel_size, stride, padding, dilation, ceil_mode,
                     return_indices, padding_mode)  # fmt: skip


@documented(_MAX)
def max_pool3d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = True,
    *,
    padding_mode: str = "zeros",
) -> tuple[Tensor, Tensor]:
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool3d_with_indices, (input,), input, kernel_size, stride, padding, dilation,
            ceil_mode, return_indices, padding_mode=padding_mode,
        )  # fmt: skip
    values, indices = _max_pool("max_pool3d_with_indices", 3, input, kernel_size, stride, padding,
                                dilation, ceil_mode, True, padding_mode)  # fmt: skip
    return values, indices


@overload
def adaptive_max_pool1d(
    input: Tensor, output_size: Sizes, return_indices: Literal[False] = False
) -> Tensor: ...
@overload
def adaptive_max_pool1d(
    input: Tensor, output_size: Sizes, return_indices: Literal[True]
) -> tuple[Tensor, Tensor]: ...
@overload
def adaptive_max_pool1d(
    input: Tensor, output_size: Sizes, return_indices: bool = False
) -> MaybeIndices: ...
@documented(_ADAPTIVE_MAX)
def adaptive_max_pool1d(
    input: Tensor, output_size: Sizes, return_indices: bool = False
) -> MaybeIndices:
    if has_torch_function_unary(input):
        return handle_torch_function(
            adaptive_max_pool1d, (input,), input, output_size, return_indices
        )
    return _adaptive_max_pool("adaptive_max_pool1d", 1, input, output_size, return_indices)


@documented(_ADAPTIVE_MAX)
def adaptive_max_pool1d_with_indices(
    input: Tensor, output_size: Sizes, return_indices: bool = True
) -> tuple[Tensor, Tensor]:
    if has_torch_function_unary(input):
        return handle_torch_function(
            adaptive_max_pool1d_with_indices, (input,), input, output_size, return_indices
        )
    where = "adaptive_max_pool1d_with_indices"
    values, indices = _adaptive_max_pool(where, 1, input, output_size, True)
    return values, indices


@documented(_GLOBAL_MAX)
def global_max_pool1d(input: Tensor) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(global_max_pool1d, (input,), input)
    return _adaptive_max_pool("global_max_pool1d", 1, input, 1, False)


@overload
def adaptive_max_pool2d(
    input: Tensor, output_size: Sizes, return_indices: Literal[False] = False
) -> Tensor: ...
@overload
def adaptive_max_pool2d(
    input: Tensor, output_size: Sizes, return_indices: Literal[True]
) -> tuple[Tensor, Tensor]: ...
@overload
def adaptive_max_pool2d(
    input: Tensor, output_size: Sizes, return_indices: bool = False
) -> MaybeIndices: ...
@documented(_ADAPTIVE_MAX)
def adaptive_max_pool2d(
    input: Tensor, output_size: Sizes, return_indices: bool = False
) -> MaybeIndices:
    if has_torch_function_unary(input):
        return handle_torch_function(
            adaptive_max_pool2d, (input,), input, output_size, return_indices
        )
    return _adaptive_max_pool("adaptive_max_pool2d", 2, input, output_size, return_indices)


@documented(_ADAPTIVE_MAX)
def adaptive_max_pool2d_with_indices(
    input: Tensor, output_size: Sizes, return_indices: bool = True
) -> tuple[Tensor, Tensor]:
    if has_torch_function_unary(input):
        return handle_torch_function(
            adaptive_max_pool2d_with_indices, (input,), input, output_size, return_indices
        )
    where = "adaptive_max_pool2d_with_indices"
    values, indices = _adaptive_max_pool(where, 2, input, output_size, True)
    return values, indices


@documented(_GLOBAL_MAX)
def global_max_pool2d(input: Tensor) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(global_max_pool2d, (input,), input)
    return _adaptive_max_pool("global_max_pool2d", 2, input, 1, False)


@overload
def adaptive_max_pool3d(
    input: Tensor, output_size: Sizes, return_indices: Literal[False] = False
) -> Tensor: ...
@overload
def adaptive_max_pool3d(
    input: Tensor, output_size: Sizes, return_indices: Literal[True]
) -> tuple[Tensor, Tensor]: ...
@overload
def adaptive_max_pool3d(
    input: Tensor, output_size: Sizes, return_indices: bool = False
) -> MaybeIndices: ...
@documented(_ADAPTIVE_MAX)
def adaptive_max_pool3d(
    input: Tensor, output_size: Sizes, return_indices: bool = False
) -> MaybeIndices:
    if has_torch_function_unary(input):
        return handle_torch_function(
            adaptive_max_pool3d, (input,), input, output_size, return_indices
        )
    return _adaptive_max_pool("adaptive_max_pool3d", 3, input, output_size, return_indices)


@documented(_ADAPTIVE_MAX)
def adaptive_max_pool3d_with_indices(
    input: Tensor, output_size: Sizes, return_indices: bool = True
) -> tuple[Tensor, Tensor]:
    if has_torch_function_unary(input):
        return handle_torch_function(
            adaptive_max_pool3d_with_indices, (input,), input, output_size, return_indices
        )
    where = "adaptive_max_pool3d_with_indices"
    values, indices = _adaptive_max_pool(where, 3, input, output_size, True)
    return values, indices


@documented(_GLOBAL_MAX)
def global_max_pool3d(input: Tensor) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(global_max_pool3d, (input,), input)
    return _adaptive_max_pool("global_max_pool3d", 3, input, 1, False)
