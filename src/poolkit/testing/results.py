"""Rows of the table of deviations: windows, values, gradients, memory formats."""

import math
from types import ModuleType

import torch
from torch import Tensor

from .calls import Call
from .rows import ALL, Deviation, gradient, is_channels_last, last, ones
from .samples import HALVES


def _lowest(x: Tensor) -> Tensor:
    if x.is_floating_point():
        return x == -math.inf
    return x == (False if x.dtype is torch.bool else torch.iinfo(x.dtype).min)


def _may_be_channels_last(call: Call) -> bool:
    """Whether torch takes the input for channels-last: in 3-D without a batch it guesses."""
    x = call.input
    return is_channels_last(x) or (x.dim() == call.rank + 1 == 4 and not x.is_contiguous())


def _empty_window(call: Call) -> bool:
    kernels = call.ints("kernel_size", 1)
    pads, dilations = call.ints("padding", 0), call.ints("dilation", 1)
    spatial = call.input.shape[-call.rank :]
    return any(
        pad > 0 and kernel > 1 and dilation > size
        for kernel, pad, dilation, size in zip(kernels, pads, dilations, spatial, strict=False)
    )


def _has_zero_window(call: Call) -> bool:
    return bool((call.input == 0).any())


def _has_duplicates(call: Call) -> bool:
    index = call.arguments["indices"].flatten(-call.rank).sort().values
    return bool((index.diff() == 0).any())


def _zero_norm_gradient(F: ModuleType) -> str:
    x = torch.zeros(1, 1, 2, requires_grad=True)
    return str(gradient(F.lp_pool1d(x, 0.5, 2), x).flatten().tolist())


def _unpooled_gradient(F: ModuleType) -> list[float]:
    x = torch.tensor([[[1.0, 2.0, 3.0]]], requires_grad=True)
    y = F.max_unpool1d(x, torch.tensor([[[0, 0, 2]]]), 2)
    return torch.autograd.grad(y, x, torch.arange(1.0, 7.0)[None, None])[0].flatten().tolist()


def _sliced_indices(F: ModuleType) -> list[float]:
    x, indices = ones(1, 1, 2, 2), torch.tensor([[[[0, 2, 0], [8, 10, 0]]]])[..., :2]
    return gradient(F.max_unpool2d(x, indices, 2), x).flatten().tolist()


def _stalled(F: ModuleType) -> float:
    x = torch.zeros(1, 1, 31, 31, dtype=torch.bfloat16)
    x[0, 0, 15, 15] = 1
    x.requires_grad_()
    return gradient(F.max_pool2d(x, 17, 1, 8), x).max().item()


def _kept_format(F: ModuleType) -> list[bool]:
    layout = torch.channels_last_3d
    x = last(1, 2, 4, 4, 4)
    results = [
        F.avg_pool3d(x, 2), F.lp_pool3d(x, 2, 2), F.adaptive_avg_pool3d(x, 2),
        F.adaptive_max_pool3d(x, 2), F.fractional_max_pool3d(x, 2, 2),
    ]  # fmt: skip
    return [y.is_contiguous(memory_format=layout) for y in results]


def _permuted_gradient(F: ModuleType) -> list[int]:
    x = torch.ones(6, 2, 3, 6).permute(1, 2, 0, 3).requires_grad_()
    return list(gradient(F.max_pool2d(x, 2), x).stride())


RESULTS: tuple[Deviation, ...] = (
    Deviation(
        id="large-padding",
        operators=("max_pool", "avg_pool"),
        condition="padding above half of the (dilated) kernel",
        torch="raises, whether or not every window holds a cell",
        poolkit="computes as long as every window has a cell that counts",
        why="the result is well defined; other frameworks and exported models use it",
        aspects=("error",),
        applies=lambda c: any(
            2 * p > k for p, k in zip(c.ints("padding", 0), c.ints("kernel_size", 1), strict=True)
        ),
        example=lambda F: (
            F.max_pool1d(ones(1, 1, 4), 2, 1, (1,)).numel()
            + F.max_pool1d(ones(1, 1, 4), 3, 1, (2,)).numel()
        ),
        outcomes=("RuntimeError", 11),
    ),
    Deviation(
        id="empty-window",
        operators=("max_pool",),
        condition="padding and a dilation wider than the input, so that a window holds no cell",
        torch="returns -inf with an index outside the plane, and writes the gradient there",
        poolkit="raises ArgumentError, naming the axis and the window",
        why="a write outside the plane corrupts memory",
        aspects=("error", "value", "index", "gradient"),
        applies=_empty_window,
        example=lambda F: F.max_pool2d(ones(1, 1, 4, 4), 2, 1, 1, 5, return_indices=True)[1].item(),
        outcomes=(20, "ArgumentError"),
    ),
    Deviation(
        id="avg-kernel-above-input",
        operators=("avg_pool3d", "lp_pool3d"),
        condition="a kernel longer than the input without its padding",
        torch="raises in 3-D alone",
        poolkit="computes, as in 1-D and 2-D",
        why="one rule for every rank",
        aspects=("error",),
        applies=lambda c: any(
            k > n for k, n in zip(c.ints("kernel_size", 1), c.input.shape[-c.rank :], strict=True)
        ),
        example=lambda F: F.avg_pool3d(ones(1, 1, 4, 4, 4), 5, 1, 2).numel(),
        outcomes=("RuntimeError", 64),
    ),
    Deviation(
        id="channels-last-lowest",
        operators=("max_pool3d",),
        condition="channels-last input with a window of -inf (of the lowest integer) alone",
        torch="returns the index of a cell of another window, which also gets the gradient",
        poolkit="returns the first cell of the window, as in the contiguous layout",
        why="the index names a cell that the window does not hold",
        aspects=("index", "gradient"),
        applies=lambda c: _may_be_channels_last(c) and bool(_lowest(c.input).any()),
        example=lambda F: (
            F.max_pool3d(last(1, 2, 4, 2, 2, value=-math.inf), 2, return_indices=True)[1][0, 0]
            .flatten()
            .tolist()
        ),
        outcomes=([0, 0], [0, 8]),
    ),
    Deviation(
        id="channels-last-integers",
        operators=("max_pool2d", "max_pool3d"),
        condition="channels-last int8, uint8 or int16 with more cells in a plane than the dtype "
        "counts",
        torch="raises",
        poolkit="computes, as in the contiguous layout",
        why="the index of a cell is no value of the input",
        aspects=("error",),
        applies=lambda c: (
            _may_be_channels_last(c)
            and c.input.dtype in (torch.int8, torch.uint8, torch.int16)
            and math.prod(c.input.shape[-c.rank :]) > torch.iinfo(c.input.dtype).max
        ),
        example=lambda F: F.max_pool2d(last(1, 2, 16, 16).detach().to(torch.uint8), 2)[
            0, 0, 0, 0
        ].item(),
        outcomes=("RuntimeError", 1),
    ),
    Deviation(
        id="unbatched-channels-last",
        operators=("max_pool3d", "lp_pool3d"),
        condition="an unbatched (C, D, H, W) input with strides as of channels-last",
        torch="raises (unsupported memory format), or takes the strides for those of a batch",
        poolkit="computes and keeps the format that the four axes have",
        why="a layout is no error",
        aspects=("error", "stride"),
        applies=lambda c: c.input.dim() == 4 and not c.input.is_contiguous(),
        example=lambda F: F.max_pool3d(last(2, 4, 4, 4), 2).numel(),
        outcomes=("RuntimeError", 16),
    ),
    Deviation(
        id="half-gradient",
        operators=(
            "max_pool",
            "avg_pool",
            "adaptive_max_pool",
            "adaptive_avg_pool",
            "lp_pool",
            "fractional_max_pool",
        ),
        condition="float16 or bfloat16, where several outputs share a cell",
        torch="rounds after each addition, so that long sums stall",
        poolkit="adds in float32 and rounds once",
        why="the gradient of a cell must not depend on how many outputs it serves",
        aspects=("gradient",),
        applies=lambda c: c.input.dtype in HALVES,
        example=_stalled,
        outcomes=(256.0, 288.0),
    ),
    Deviation(
        id="lp-half",
        operators=("lp_pool",),
        condition="float16 or bfloat16",
        torch="rounds every power and every sum, which overflow at 65504 in float16",
        poolkit="computes in float32 and rounds once",
        why="a norm that fits its dtype must not overflow on the way",
        aspects=("value", "gradient"),
        applies=lambda c: c.input.dtype in HALVES,
        example=lambda F: F.lp_pool2d(300 * ones(1, 1, 2, 2, dtype=torch.float16), 2, 2).item(),
        outcomes=(math.inf, 600.0),
    ),
    Deviation(
        id="lp-zero-gradient",
        operators=("lp_pool",),
        condition="norm_type below 1 and zeros in the input",
        torch="gives NaN as the gradient of an all-zero window",
        poolkit="gives 0",
        why="one dead window must not end a training run",
        aspects=("gradient",),
        applies=lambda c: c.arguments["norm_type"] < 1 and _has_zero_window(c),
        example=_zero_norm_gradient,
        outcomes=("[nan, nan]", "[0.0, 0.0]"),
    ),
    Deviation(
        id="lp-integers",
        operators=("lp_pool",),
        condition="an integer dtype or bool",
        torch="truncates the mean of the powers (int64, bool), or raises (the others); keeps the "
        "dtype where p is infinite",
        poolkit="computes in float32 and returns float32",
        why="a norm of integers is not an integer",
        aspects=("error", "value", "dtype"),
        applies=lambda c: not c.input.is_floating_point(),
        example=lambda F: F.lp_pool1d(torch.tensor([[[1, 2]]]), 1, 2).item(),
        outcomes=(2.0, 3.0),
    ),
    Deviation(
        id="unpool-duplicates",
        operators=("max_unpool",),
        condition="indices that name one cell several times",
        torch="gives the gradient of the cell to every writer; which value wins is a race in the "
        "channels-last layout",
        poolkit="the last writer in row-major order wins and alone gets the gradient; `duplicates` "
        "chooses another rule",
        why="a gradient of the function that was computed, the same in every run",
        aspects=("gradient",),
        applies=_has_duplicates,
        example=_unpooled_gradient,
        outcomes=([1.0, 1.0, 3.0], [0.0, 1.0, 3.0]),
    ),
    Deviation(
        id="unpool-indices-layout",
        operators=("max_unpool2d", "max_unpool3d"),
        condition="indices that are neither contiguous nor channels-last",
        torch="raises in backward",
        poolkit="returns the gradient",
        why="a layout is no error",
        aspects=("gradient",),
        applies=lambda c: (
            not ((i := c.arguments["indices"]).is_contiguous() or is_channels_last(i))
        ),
        example=_sliced_indices,
        outcomes=("RuntimeError", [1.0, 1.0, 1.0, 1.0]),
    ),
    Deviation(
        id="channels-last-kept",
        operators=(
            "avg_pool3d",
            "lp_pool3d",
            "adaptive_avg_pool3d",
            "adaptive_max_pool3d",
            "max_unpool3d",
            "fractional_max_pool",
        ),
        condition="channels-last input",
        torch="returns a contiguous result and a contiguous gradient",
        poolkit="keeps the memory format of the input, in the result and in the gradient",
        why="a channels-last network must not be converted to and fro at every pooling",
        aspects=("stride", "gradient stride"),
        applies=lambda c: is_channels_last(c.input),
        example=_kept_format,
        outcomes=([False] * 5, [True] * 5),
    ),
    Deviation(
        id="channels-last-gradient",
        operators=("max_unpool2d", "adaptive_avg_pool2d"),
        condition="channels-last input; for the average, with one output",
        torch="returns a contiguous gradient",
        poolkit="keeps the memory format of the input",
        why="as above",
        aspects=("gradient stride",),
        applies=lambda c: is_channels_last(c.input),
        example=lambda F: gradient(
            F.adaptive_avg_pool2d(x := last(1, 2, 4, 4), 1), x
        ).is_contiguous(memory_format=torch.channels_last),
        outcomes=(False, True),
    ),
    Deviation(
        id="gradient-strides",
        operators=ALL,
        condition="input that is neither contiguous nor channels-last",
        torch="returns a contiguous gradient",
        poolkit="returns a gradient with the strides of `torch.empty_like(input)`",
        why="it is the layout that autograd accumulates into without a copy",
        aspects=("gradient stride",),
        applies=lambda c: not c.input.is_contiguous(),
        example=_permuted_gradient,
        outcomes=([108, 36, 6, 1], [18, 6, 36, 1]),
    ),
)
