"""What the networks share: choices by name, the pools that they choose, the first weights."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from .. import nn as pools
from ..errors import ArgumentError

Pool = Literal["max", "avg", "conv"]
Head = Literal["fc", "gap", "gmp"]

POOLS = ("max", "avg", "conv")
HEADS = ("fc", "gap", "gmp")


def check_choice(model: nn.Module, argument: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a choice that ``model`` does not have."""
    if value not in choices:
        names = ", ".join(repr(choice) for choice in choices)
        raise ArgumentError(
            f"{type(model).__name__}: {argument} must be one of {names}, got {value!r}"
        )


def check_counts(model: nn.Module, **arguments: object) -> None:
    """Refuse a number of classes or channels that is no positive integer."""
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ArgumentError(
                f"{type(model).__name__}: {name} must be a positive integer, got {value!r}"
            )


def window_pool(
    pool: Pool, kernel_size: int, padding: int = 0, *, ceil_mode: bool = False
) -> nn.Module:
    """Max or average pooling with stride 2; padding counts in no mean."""
    if pool == "max":
        return pools.MaxPool2d(kernel_size, 2, padding, ceil_mode=ceil_mode)
    return pools.AvgPool2d(kernel_size, 2, padding, ceil_mode, count_include_pad=False)


def pool_or_conv(pool: Pool, channels: int, kernel_size: int) -> nn.Module:
    """A pool with stride 2, or what All-CNN puts in its place: a convolution of the same window.

    Source: Springenberg et al., "Striving for Simplicity", 2015, arXiv:1412.6806.
    """
    if pool == "conv":
        return nn.Sequential(nn.Conv2d(channels, channels, kernel_size, 2), nn.ReLU(inplace=True))
    return window_pool(pool, kernel_size)


def head_pool(head: Head, grid: int) -> tuple[nn.Module, int]:
    """The layer from ``(N, C, H, W)`` to vectors, and the values that it keeps of each channel.

    ``"gap"`` and ``"gmp"`` keep one, the mean or the maximum; ``"fc"`` keeps ``grid * grid`` means.
    """
    if head == "gap":
        return pools.GlobalAvgPool2d(flatten=True), 1
    if head == "gmp":
        return pools.GlobalMaxPool2d(flatten=True), 1
    return nn.Sequential(pools.AdaptiveAvgPool2d(grid), nn.Flatten()), grid * grid


def initialise(model: nn.Module) -> None:
    """Kaiming's normal weights for convolutions, small normal ones for linear layers.

    Source: He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
