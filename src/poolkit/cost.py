"""What one stage of a network costs, from its sizes alone: operations, parameters and bytes.

Nothing is run and no tensor is made; the geometry is that of the operators (``poolkit.window``).
Every function takes the shape of the input, batch included, then the arguments of torch's layer by
torch's names, and returns a :class:`Cost`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import window as geometry
from .errors import ArgumentError
from .window import Ints, Padding, Window

__all__ = [
    "Cost",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "avg_pool",
    "conv",
    "linear",
    "max_pool",
    "relu",
]


@dataclass(frozen=True)
class Cost:
    """What one stage costs for one forward pass over the whole batch.

    Operations are those of the definition, whatever a kernel does to save some: a maximum of k
    cells takes k - 1 comparisons, a mean k - 1 additions and a division. A floating-point operation
    count (FLOPs) in the usual sense is ``2 * multiply_adds``.

    Example:
        >>> from poolkit import cost
        >>> convolution = cost.conv((1, 64, 56, 56), 64, 3, padding=1)
        >>> pooling = cost.max_pool(convolution.output_shape, 2)
        >>> convolution.multiply_adds, pooling.comparisons
        (115605504, 150528)
        >>> convolution.parameters, pooling.parameters
        (36928, 0)
    """

    output_shape: tuple[int, ...]
    """Shape of the result."""
    multiply_adds: int = 0
    """Multiplications, each with its addition (MACs), of convolutions and linear layers."""
    comparisons: int = 0
    """Comparisons of two values, of maxima and ReLU."""
    additions: int = 0
    """Additions without a multiplication: those of means and of biases."""
    divisions: int = 0
    """Divisions, one for each mean."""
    parameters: int = 0
    """Numbers that are learnt."""
    input_bytes: int = 0
    """Bytes of the input."""
    output_bytes: int = 0
    """Bytes of the output."""
    saved_bytes: int = 0
    """Bytes that poolkit keeps from the forward to the backward pass, parameters left out. Where
    poolkit has no operator, convolution say, it is torch's. A stage may keep a tensor that its
    neighbour keeps as well: the sum over stages is an upper bound."""
    saved_bytes_torch: int = 0
    """The same with torch's own operators."""


def conv(
    input_shape: Sequence[int],
    out_channels: int,
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    bias: bool = True,
    *,
    dtype: torch.dtype = torch.float32,
) -> Cost:
    r"""Cost of a convolution over 1 to 3 spatial axes.

    .. math:: \text{multiply-adds} = N \cdot C' \cdot H' W' \cdot k_h k_w \cdot C / groups

    Taps on the padding count, as in ``torch.utils.flop_counter``.

    Args:
        input_shape: ``(N, C, L)``, ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        out_channels: number of filters.
        kernel_size: taps of a filter per axis.
        stride: step from output to output.
        padding: cells added on both sides, or anything else that poolkit's pooling takes.
        dilation: step between the taps of a filter.
        groups: parts that the channels are divided into; each filter sees one of them.
        bias: whether each filter adds a number of its own.
        dtype: type of input and output, for the bytes.

    Shapes:
        ``(N, C, H, W) -> (N, out_channels, H', W')``.

    Raises:
        ArgumentError: a size, shape or option that cannot be.

    Example:
        One filter of the text, over 256 channels of 56 x 56:

        >>> from poolkit import cost
        >>> cost.conv((1, 256, 56, 56), 1, 3, padding=1).multiply_adds
        7225344
        >>> cost.conv((1, 256, 28, 28), 1, 3, padding=1).multiply_adds
        1806336
    """
    shape = _feature_map("conv", input_shape)
    channels = shape[1]
    filters = geometry.as_int("conv", "out_channels", out_channels, 1)
    groups = geometry.as_int("conv", "groups", groups, 1)
    if channels % groups or filters % groups:
        raise ArgumentError(
            f"conv: groups must divide both the {channels} channels of the input and the "
            f"{filters} filters, got {groups}"
        )
    window = geometry.fixed(
        "conv", len(shape) - 2, shape, kernel_size, stride, padding, dilation, False, False
    )
    output = (shape[0], filters, *window.output_size)
    outputs = math.prod(output)
    # Torch gives an uneven padding a copy of the input, with what one side has more.
    uneven = [axis.size + abs(axis.after - axis.before) for axis in window.axes]
    kept = _bytes("conv", (*shape[:2], *uneven), dtype)
    return Cost(
        output,
        multiply_adds=outputs * window.taps * channels // groups,
        additions=outputs if bias else 0,
        parameters=filters * (window.taps * channels // groups + (1 if bias else 0)),
        input_bytes=_bytes("conv", shape, dtype),
        output_bytes=_bytes("conv", output, dtype),
        saved_bytes=kept,
        saved_bytes_torch=kept,
    )


def linear(
    input_shape: Sequence[int],
    out_features: int,
    bias: bool = True,
    *,
    dtype: torch.dtype = torch.float32,
) -> Cost:
    r"""Cost of a linear layer, as in the head of a classifier.

    .. math:: \text{multiply-adds} = N \cdot in \cdot out

    Args:
        input_shape: ``(*, in_features)``.
        out_features: length of each result.
        bias: whether each result adds a number of its own.
        dtype: type of input and output, for the bytes.

    Shapes:
        ``(*, in_features) -> (*, out_features)``.

    Raises:
        ArgumentError: a size or shape that cannot be.

    Example:
        The two heads of the text: flattened (512, 7, 7) to 4,096, and pooled 512 to 1,000:

        >>> from poolkit import cost
        >>> cost.linear((1, 512 * 7 * 7), 4096, bias=False).parameters
        102760448
        >>> cost.linear((1, 512), 1000, bias=False).parameters
        512000
    """
    shape = _shape("linear", input_shape)
    if not shape or shape[-1] == 0:
        raise ArgumentError(f"linear: input_shape must be (*, in_features), got {shape}")
    features = geometry.as_int("linear", "out_features", out_features, 1)
    output = (*shape[:-1], features)
    outputs = math.prod(output)
    size = _bytes("linear", shape, dtype)
    return Cost(
        output,
        multiply_adds=outputs * shape[-1],
        additions=outputs if bias else 0,
        parameters=features * (shape[-1] + (1 if bias else 0)),
        input_bytes=size,
        output_bytes=_bytes("linear", output, dtype),
        saved_bytes=size,
        saved_bytes_torch=size,
    )


def relu(input_shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Cost:
    """Cost of ReLU: a comparison for each value, and its output is kept.

    Args:
        input_shape: any shape.
        dtype: type of input and output, for the bytes.

    Shapes:
        ``(*) -> (*)``.

    Example:
        >>> from poolkit import cost
        >>> cost.relu((1, 64, 56, 56)).comparisons
        200704
    """
    shape = _shape("relu", input_shape)
    size = _bytes("relu", shape, dtype)
    return Cost(
        shape,
        comparisons=math.prod(shape),
        input_bytes=size,
        output_bytes=size,
        saved_bytes=size,
        saved_bytes_torch=size,
    )


def max_pool(
    input_shape: Sequence[int],
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    *,
    dtype: torch.dtype = torch.float32,
) -> Cost:
    r"""Cost of max pooling: one comparison less than a window has cells of the input.

    .. math:: \text{comparisons} = N C \sum_i (|R_i| - 1)

    Args:
        input_shape: ``(N, C, L)``, ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        kernel_size: cells of a window per axis.
        stride: step from window to window; default ``kernel_size``.
        padding: cells added on both sides, as in ``poolkit.functional``. They never win, so they
            cost nothing.
        dilation: step between the cells of a window.
        ceil_mode: also keep a last window that hangs over the end.
        dtype: type of input and output, for the bytes.

    Shapes:
        ``(N, C, H, W) -> (N, C, H', W')``.

    Raises:
        ArgumentError: a size, shape or option that cannot be.

    Example:
        For the backward pass torch keeps the input and an index of 8 bytes, poolkit one byte:

        >>> from poolkit import cost
        >>> stage = cost.max_pool((1, 64, 56, 56), 2)
        >>> stage.output_shape, stage.comparisons
        ((1, 64, 28, 28), 150528)
        >>> stage.saved_bytes, stage.saved_bytes_torch
        (50176, 1204224)
    """
    shape = _feature_map("max_pool", input_shape)
    window = geometry.fixed(
        "max_pool", len(shape) - 2, shape, kernel_size, stride, padding, dilation, ceil_mode, True
    )
    return _max("max_pool", shape, window, dtype)


def avg_pool(
    input_shape: Sequence[int],
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    *,
    dilation: Ints = 1,
    dtype: torch.dtype = torch.float32,
) -> Cost:
    r"""Cost of average pooling: additions, one less than a window has cells, and one division.

    .. math:: \text{additions} = N C \sum_i (|R_i| - 1)

    Args:
        input_shape: ``(N, C, L)``, ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        kernel_size: cells of a window per axis.
        stride: step from window to window; default ``kernel_size``.
        padding: cells added on both sides, as in ``poolkit.functional``. They are zeros, so they
            need no addition.
        ceil_mode: also keep a last window that hangs over the end.
        dilation: step between the cells of a window.
        dtype: type of input and output, for the bytes.

    Shapes:
        ``(N, C, H, W) -> (N, C, H', W')``.

    Raises:
        ArgumentError: a size, shape or option that cannot be.

    Example:
        >>> from poolkit import cost
        >>> stage = cost.avg_pool((1, 64, 56, 56), 2)
        >>> stage.additions, stage.divisions, stage.saved_bytes
        (150528, 50176, 0)
    """
    shape = _feature_map("avg_pool", input_shape)
    window = geometry.fixed(
        "avg_pool", len(shape) - 2, shape, kernel_size, stride, padding, dilation, ceil_mode, False
    )
    return _avg("avg_pool", shape, window, dtype, _bytes("avg_pool", shape, dtype))


def adaptive_max_pool(
    input_shape: Sequence[int], output_size: Any, *, dtype: torch.dtype = torch.float32
) -> Cost:
    """Cost of max pooling to a given output size; 1 is global max pooling.

    Args:
        input_shape: ``(N, C, L)``, ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        output_size: an int, or one int or None (keep the extent) per axis.
        dtype: type of input and output, for the bytes.

    Shapes:
        ``(N, C, H, W) -> (N, C, *output_size)``.

    Raises:
        ArgumentError: a size or shape that cannot be.

    Example:
        Windows overlap where the sizes do not divide: 5 cells in 3 windows of 2, 3 and 2.

        >>> from poolkit import cost
        >>> cost.adaptive_max_pool((1, 1, 5), 3).comparisons
        4
    """
    shape = _feature_map("adaptive_max_pool", input_shape)
    window = geometry.adaptive("adaptive_max_pool", len(shape) - 2, shape, output_size, True)
    return _max("adaptive_max_pool", shape, window, dtype)


def adaptive_avg_pool(
    input_shape: Sequence[int], output_size: Any, *, dtype: torch.dtype = torch.float32
) -> Cost:
    """Cost of average pooling to a given output size; 1 is global average pooling (GAP).

    Args:
        input_shape: ``(N, C, L)``, ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        output_size: an int, or one int or None (keep the extent) per axis.
        dtype: type of input and output, for the bytes.

    Shapes:
        ``(N, C, H, W) -> (N, C, *output_size)``.

    Raises:
        ArgumentError: a size or shape that cannot be.

    Example:
        >>> from poolkit import cost
        >>> cost.adaptive_avg_pool((32, 512, 7, 7), 1).additions
        786432
    """
    shape = _feature_map("adaptive_avg_pool", input_shape)
    window = geometry.adaptive("adaptive_avg_pool", len(shape) - 2, shape, output_size, False)
    # Torch computes one output per plane as a mean, which needs only the shape again.
    single = math.prod(window.output_size) == 1
    kept = 0 if single else _bytes("adaptive_avg_pool", shape, dtype)
    return _avg("adaptive_avg_pool", shape, window, dtype, kept)


def _shape(where: str, shape: Any) -> tuple[int, ...]:
    if not geometry.is_sequence(shape):
        raise ArgumentError(f"{where}: input_shape must be a sequence of ints, got {shape!r}")
    return tuple(geometry.as_int(where, "input_shape", extent, 0) for extent in shape)


def _feature_map(where: str, shape: Any) -> tuple[int, ...]:
    extents = _shape(where, shape)
    if len(extents) not in (3, 4, 5):
        raise ArgumentError(
            f"{where}: input_shape must be (N, C, L), (N, C, H, W) or (N, C, D, H, W), "
            f"got {extents}"
        )
    return extents


def _bytes(where: str, shape: Sequence[int], dtype: Any) -> int:
    if not isinstance(dtype, torch.dtype):
        raise ArgumentError(f"{where}: dtype must be a torch.dtype, got {dtype!r}")
    return math.prod(shape) * dtype.itemsize


def joins(planes: int, window: Window) -> int:
    """How often two values become one: the cells of all windows, less one for each that has any."""
    lengths = [[len(span) for span in geometry.spans(axis)] for axis in window.axes]
    cells = math.prod(sum(axis) for axis in lengths)
    filled = math.prod(sum(length > 0 for length in axis) for axis in lengths)
    return planes * (cells - filled)


def _max(where: str, shape: tuple[int, ...], window: Window, dtype: torch.dtype) -> Cost:
    output = window.output_shape(shape)
    size = _bytes(where, shape, dtype)
    return Cost(
        output,
        comparisons=joins(math.prod(shape[:2]), window),
        input_bytes=size,
        output_bytes=_bytes(where, output, dtype),
        saved_bytes=_bytes(where, output, window.offset_dtype),
        saved_bytes_torch=size + _bytes(where, output, torch.int64),
    )


def _avg(
    where: str, shape: tuple[int, ...], window: Window, dtype: torch.dtype, kept_by_torch: int
) -> Cost:
    output = window.output_shape(shape)
    return Cost(
        output,
        additions=joins(math.prod(shape[:2]), window),
        divisions=math.prod(output),
        input_bytes=_bytes(where, shape, dtype),
        output_bytes=_bytes(where, output, dtype),
        saved_bytes_torch=kept_by_torch,
    )
