"""Moving cells into channels and back: downsampling that drops nothing."""

import math
from typing import Any

from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.overrides import handle_torch_function, has_torch_function_unary

from .. import ops
from ..errors import ArgumentError
from ..window import Ints, as_ints, spatial
from .common import ORDERED, check_input, documented


def _to_depth(where: str, rank: int, x: Tensor, block_size: Any) -> Tensor:
    check_input(where, x, ORDERED)
    sizes = spatial(where, x.shape, rank)
    blocks = as_ints(where, "block_size", block_size, rank, 1)
    if any(size % block for size, block in zip(sizes, blocks, strict=True)):
        raise ArgumentError(
            f"{where}: block_size {blocks} must divide the extents {sizes} of the input "
            f"(input shape {tuple(x.shape)})"
        )
    layout, first, x = suggest_memory_format(x), x.dim() - rank, ops.keep_strides(x)
    outs = [size // block for size, block in zip(sizes, blocks, strict=True)]
    split = [n for pair in zip(outs, blocks, strict=True) for n in pair]
    places = range(first, first + 2 * rank, 2)
    y = x.reshape(*x.shape[:first], *split)
    y = y.permute(*range(first), *(n + 1 for n in places), *places)
    channels = x.shape[first - 1] * math.prod(blocks)
    return y.reshape(*x.shape[: first - 1], channels, *outs).contiguous(memory_format=layout)


def _to_space(where: str, rank: int, x: Tensor, block_size: Any) -> Tensor:
    check_input(where, x, ORDERED)
    sizes = spatial(where, x.shape, rank)
    blocks = as_ints(where, "block_size", block_size, rank, 1)
    layout, first, x = suggest_memory_format(x), x.dim() - rank, ops.keep_strides(x)
    channels, count = x.shape[first - 1], math.prod(blocks)
    if channels % count:
        raise ArgumentError(
            f"{where}: the {count} cells of block_size {blocks} must divide the {channels} "
            f"channels of the input (input shape {tuple(x.shape)})"
        )
    y = x.reshape(*x.shape[: first - 1], channels // count, *blocks, *sizes)
    order = [n for axis in range(rank) for n in (first + rank + axis, first + axis)]
    y = y.permute(*range(first), *order)
    outs = [size * block for size, block in zip(sizes, blocks, strict=True)]
    return y.reshape(*y.shape[:first], *outs).contiguous(memory_format=layout)


_TO_DEPTH = """Every block of cells as so many channels of one cell (SPD).

    .. math:: y_{c b^{n} + m, i} = x_{c, b i + m}, \\quad m \\in [0, b)^{n}

    The order of the channels is that of ``torch.nn.functional.pixel_unshuffle``: those that come
    of one input channel are together, in row-major order of the block.

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.
        block_size: cells of a block: an int or one per axis.

    Shapes:
        ``(N, C, {cells}) -> (N, C * b, {out})``, ``b`` cells in a block, each
        ``L' = L / block_size``. The memory format is kept.

    Dtypes:
        float16, bfloat16, float32, float64, int8, uint8, int16, int32, int64, bool.

    Raises:
        {errors}

    Edge cases:
        A block size that does not divide the extents is an ArgumentError that names them.

    Example:
        >>> import torch, poolkit.functional as F
        >>> F.space_to_depth{n}d(torch.zeros(1, 3, {sizes}), 2).shape
        torch.Size([1, {deep}, {halves}])

    Source: Sunkara and Luo, "No More Strided Convolutions or Pooling", 2022, arXiv:2208.03641.
    """

_TO_SPACE = """So many channels of one cell as a block of cells: the inverse of space_to_depth.

    .. math:: y_{c, b i + m} = x_{c b^{n} + m, i}, \\quad m \\in [0, b)^{n}

    Args:
        input: ``(N, C, {cells})`` or ``(C, {cells})``, contiguous or channels-last.
        block_size: cells of a block: an int or one per axis.

    Shapes:
        ``(N, C, {cells}) -> (N, C / b, {out})``, ``b`` cells in a block, each
        ``L' = L * block_size``. The memory format is kept.

    Dtypes:
        float16, bfloat16, float32, float64, int8, uint8, int16, int32, int64, bool.

    Raises:
        {errors}

    Edge cases:
        Channels that are no multiple of ``b`` are an ArgumentError.

    Example:
        >>> import torch, poolkit.functional as F
        >>> x = torch.rand(1, 3, {sizes})
        >>> torch.equal(F.depth_to_space{n}d(F.space_to_depth{n}d(x)), x)
        True

    Source: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient
    Sub-Pixel Convolutional Neural Network", 2016, arXiv:1609.05158.
    """


@documented(_TO_DEPTH.replace("{deep}", "6"))
def space_to_depth1d(input: Tensor, block_size: Ints = 2) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(space_to_depth1d, (input,), input, block_size)
    return _to_depth("space_to_depth1d", 1, input, block_size)


@documented(_TO_SPACE)
def depth_to_space1d(input: Tensor, block_size: Ints = 2) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(depth_to_space1d, (input,), input, block_size)
    return _to_space("depth_to_space1d", 1, input, block_size)


@documented(_TO_DEPTH.replace("{deep}", "12"))
def space_to_depth2d(input: Tensor, block_size: Ints = 2) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(space_to_depth2d, (input,), input, block_size)
    return _to_depth("space_to_depth2d", 2, input, block_size)


@documented(_TO_SPACE)
def depth_to_space2d(input: Tensor, block_size: Ints = 2) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(depth_to_space2d, (input,), input, block_size)
    return _to_space("depth_to_space2d", 2, input, block_size)


@documented(_TO_DEPTH.replace("{deep}", "24"))
def space_to_depth3d(input: Tensor, block_size: Ints = 2) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(space_to_depth3d, (input,), input, block_size)
    return _to_depth("space_to_depth3d", 3, input, block_size)


@documented(_TO_SPACE)
def depth_to_space3d(input: Tensor, block_size: Ints = 2) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(depth_to_space3d, (input,), input, block_size)
    return _to_space("depth_to_space3d", 3, input, block_size)
