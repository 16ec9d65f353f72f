"""Rows of the table of deviations: arguments, what happens between calls, dtypes."""

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .calls import Call, torch_has
from .rows import ALL, Deviation, always, gradient, is_channels_last, never, ones


def _sequences(call: Call) -> Iterator[tuple[Any, ...]]:
    for value in call.arguments.values():
        if isinstance(value, (tuple, list)):
            yield tuple(value)


def _fractional_outputs(call: Call) -> tuple[int, ...]:
    if call.arguments.get("output_size") is not None:
        return call.ints("output_size", 1)
    spatial = call.input.shape[-call.rank :]
    ratios = call.ints("output_ratio", 1)
    return tuple(int(r * n) for r, n in zip(ratios, spatial, strict=True))


def _largest_output(call: Call) -> bool:
    spatial, kernels = call.input.shape[-call.rank :], call.ints("kernel_size", 1)
    outputs = _fractional_outputs(call)
    return any(o + k - 1 == n for o, k, n in zip(outputs, kernels, spatial, strict=True))


def _samples(call: Call) -> Tensor | None:
    return call.arguments.get("_random_samples")


def _samples_of(value: float) -> Callable[[ModuleType], Any]:
    def example(F: ModuleType) -> Any:
        samples = torch.full((1, 1, 2), value)
        return tuple(F.fractional_max_pool2d(ones(1, 1, 6, 6), 2, 3, _random_samples=samples).shape)

    return example


def _in_place(F: ModuleType) -> list[float]:
    x = ones(1, 1, 4)
    inner = x * 1
    y = F.avg_pool1d(inner, 2) + F.max_pool1d(inner, 2)
    inner.mul_(2)
    return gradient(y, x).flatten().tolist()


def _tampered(F: ModuleType) -> list[float]:
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]], requires_grad=True)
    y, indices = F.max_pool1d(x, 2, return_indices=True)
    indices.data.zero_()
    return gradient(y, x).flatten().tolist()


def _autocast(F: ModuleType) -> str:
    with torch.autocast("cpu", torch.bfloat16):
        return str(F.max_pool3d(ones(1, 1, 4, 4, 4, dtype=torch.bfloat16), 2).dtype)


ARGUMENTS: tuple[Deviation, ...] = (
    Deviation(
        id="fractional-samples",
        operators=("fractional_max_pool",),
        condition="`_random_samples` that are NaN or infinite",
        torch="pools windows that start wherever the conversion to an integer leads",
        poolkit="raises ArgumentError",
        why="a NaN here is a bug of the caller, and its conversion is undefined",
        aspects=("error",),
        applies=lambda c: (s := _samples(c)) is not None and not bool(s.isfinite().all()),
        example=_samples_of(math.nan),
        outcomes=((1, 1, 3, 3), "ArgumentError"),
    ),
    Deviation(
        id="fractional-samples-shape",
        operators=("fractional_max_pool",),
        condition="`_random_samples` for another batch size or number of channels",
        torch="takes what it needs from the front",
        poolkit="raises ArgumentError",
        why="samples for other planes are a mistake",
        aspects=("error",),
        applies=lambda c: (
            (s := _samples(c)) is not None
            and tuple(s.shape[:2]) != tuple((1, *c.input.shape)[-2 - c.rank :][:2])
        ),
        example=lambda F: tuple(
            F.fractional_max_pool2d(
                ones(1, 1, 6, 6), 2, 3, _random_samples=torch.zeros(2, 1, 2)
            ).shape
        ),
        outcomes=((1, 1, 3, 3), "ArgumentError"),
    ),
    Deviation(
        id="fractional-largest-output",
        operators=("fractional_max_pool3d",),
        condition="output + kernel - 1 equal to the input along an axis",
        torch="raises in 3-D, but not in 2-D",
        poolkit="computes",
        why="one rule for every rank",
        aspects=("error",),
        applies=_largest_output,
        example=lambda F: F.fractional_max_pool3d(ones(1, 1, 4, 4, 4), 2, 3).numel(),
        outcomes=("RuntimeError", 27),
    ),
    Deviation(
        id="fractional-empty-output",
        operators=("fractional_max_pool",),
        condition="an output size of 0, given or by a small `output_ratio`",
        torch="returns an empty result",
        poolkit="raises ArgumentError",
        why="a ratio that pools everything away is a mistake",
        aspects=("error",),
        applies=lambda c: 0 in _fractional_outputs(c),
        example=lambda F: F.fractional_max_pool2d(
            ones(1, 1, 2, 2), 1, output_ratio=(0.3, 0.3)
        ).numel(),
        outcomes=(0, "ArgumentError"),
    ),
    Deviation(
        id="fractional-ratio-number",
        operators=("fractional_max_pool",),
        condition="`output_ratio` as one number",
        torch="raises in the function, though not in the module",
        poolkit="takes it for every axis",
        why="the documentation and the module say so",
        aspects=("error",),
        applies=lambda c: isinstance(c.arguments.get("output_ratio"), float),
        example=lambda F: F.fractional_max_pool2d(ones(1, 1, 4, 4), 2, output_ratio=0.5).numel(),
        outcomes=("TypeError", 4),
    ),
    Deviation(
        id="in-place",
        operators=ALL,
        condition="the input is changed in place between forward and backward",
        torch="raises in backward",
        poolkit="returns the gradient of the original input",
        why="nothing of the input is kept, so nothing is out of date",
        aspects=("error",),
        applies=never,
        example=_in_place,
        outcomes=("RuntimeError", [1.5, 0.5, 1.5, 0.5]),
    ),
    Deviation(
        id="indices-tampered",
        operators=("max_pool", "adaptive_max_pool", "fractional_max_pool"),
        condition="the returned indices are overwritten, through `.data`, before backward",
        torch="follows the new indices",
        poolkit="returns the gradient of what was computed",
        why="the offsets that backward needs are kept apart",
        aspects=("gradient",),
        applies=never,
        example=_tampered,
        outcomes=([2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]),
    ),
    Deviation(
        id="autocast",
        operators=(*(f"{family}3d" for family in ALL), "fractional_max_pool"),
        condition="autocast on the CPU",
        torch="computes 3-D and fractional pooling in float32",
        poolkit="never changes the dtype",
        why="a maximum is exact in any dtype, and averages add in float32 anyway",
        aspects=("dtype",),
        applies=lambda _: torch.is_autocast_enabled("cpu"),
        example=_autocast,
        outcomes=("torch.float32", "torch.bfloat16"),
    ),
    Deviation(
        id="bool-in-sequence",
        operators=ALL,
        condition="a bool among the ints of a sequence",
        torch="takes it for 0 or 1",
        poolkit="raises ArgumentError, as for a bool alone, where torch raises too",
        why="a swapped argument must not pass for a size",
        aspects=("error",),
        applies=lambda c: any(isinstance(item, bool) for items in _sequences(c) for item in items),
        example=lambda F: tuple(F.max_pool2d(ones(1, 1, 4, 4), (2, True)).shape),
        outcomes=((1, 1, 2, 4), "ArgumentError"),
    ),
    Deviation(
        id="one-element-sequence",
        operators=("lp_pool", "adaptive_max_pool", "adaptive_avg_pool"),
        condition="a sequence of one int where there are several axes, or for lp_pool1d",
        torch="raises here, though not in max and average pooling",
        poolkit="takes it for every axis",
        why="one rule for every function",
        aspects=("error",),
        applies=lambda c: any(len(items) == 1 for items in _sequences(c)),
        example=lambda F: tuple(F.adaptive_avg_pool2d(ones(1, 1, 4, 4), (2,)).shape),
        outcomes=("RuntimeError", (1, 1, 2, 2)),
    ),
    Deviation(
        id="adaptive-none",
        operators=("adaptive_max_pool", "adaptive_avg_pool"),
        condition="`output_size=None`, alone",
        torch="raises; None is understood only inside a tuple, and not in 1-D",
        poolkit="keeps the extent, in every rank",
        why="one rule for every rank",
        aspects=("error",),
        applies=lambda c: (
            c.arguments["output_size"] is None or (c.rank == 1 and (None,) in list(_sequences(c)))
        ),
        example=lambda F: tuple(F.adaptive_max_pool1d(ones(1, 1, 4), None).shape),
        outcomes=("TypeError", (1, 1, 4)),
    ),
    Deviation(
        id="adaptive-no-channels",
        operators=("adaptive_avg_pool3d",),
        condition="no channels",
        torch="raises in 3-D, but gives an empty result in 1-D and 2-D",
        poolkit="gives an empty result",
        why="one rule for every rank",
        aspects=("error",),
        applies=lambda c: 0 in c.input.shape,
        example=lambda F: tuple(F.adaptive_avg_pool3d(ones(1, 0, 4, 4, 4), 2).shape),
        outcomes=("RuntimeError", (1, 0, 2, 2, 2)),
    ),
    Deviation(
        id="adaptive-empty-gradient",
        operators=("adaptive_max_pool", "adaptive_avg_pool"),
        condition="an output size of 0",
        torch="computes the empty result, then raises in backward",
        poolkit="returns a gradient of zeros",
        why="what has a result has a gradient",
        aspects=("gradient",),
        applies=lambda c: 0 in c.ints("output_size", 1),
        example=lambda F: gradient(F.adaptive_max_pool1d(x := ones(1, 1, 2), 0), x).tolist(),
        outcomes=("RuntimeError", [[[0.0, 0.0]]]),
    ),
    Deviation(
        id="error-classes",
        operators=ALL,
        condition="an argument of a wrong type or value",
        torch="raises RuntimeError, TypeError, ValueError, IndexError or ZeroDivisionError",
        poolkit="raises ArgumentError, a ValueError and RuntimeError, or DtypeError, a TypeError "
        "and RuntimeError, before anything is allocated",
        why="one class to catch; code written for torch's RuntimeError keeps working",
        aspects=(),
        applies=always,
        example=lambda F: F.max_pool2d(ones(1, 1, 4, 4), 2.0),
        outcomes=("TypeError", "ArgumentError"),
    ),
    Deviation(
        id="more-dtypes",
        operators=ALL,
        condition="a dtype for which torch has no kernel (see dtypes.md)",
        torch="raises NotImplementedError",
        poolkit="computes",
        why="max needs an order only; one set of dtypes in every rank and layout",
        aspects=("error",),
        applies=lambda c: not torch_has(c.name, c.input.dtype, is_channels_last(c.input)),
        example=lambda F: F.max_pool2d(torch.ones(1, 1, 4, 4, dtype=torch.bool), 2).numel(),
        outcomes=("NotImplementedError", 4),
    ),
)
