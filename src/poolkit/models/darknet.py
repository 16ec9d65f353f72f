"""Darknet-53, the backbone of YOLOv3, with or without the pooling block of later YOLOs."""

import torch
from torch import Tensor, nn

from .. import nn as pools
from ..errors import ArgumentError
from .common import (
    HEADS,
    POOLS,
    Head,
    Pool,
    check_choice,
    check_counts,
    head_pool,
    initialise,
    window_pool,
)

STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
"""Channels and number of residual blocks of each stage."""


def conv(inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """A convolution with batch normalisation and a leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


class _Residual(nn.Module):
    """Half the channels in a 1 x 1 convolution, all in a 3 x 3, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            conv(channels, channels // 2, 1), conv(channels // 2, channels, 3)
        )

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = input + self.block(input)
        return result


class SPPF(nn.Module):
    """Spatial pyramid pooling, fast: maxima over 5 x 5, 9 x 9 and 13 x 13 beside the input.

    Three 5 x 5 max pools in a row, with stride 1 and padding 2, see as much as one of 5, one of 9
    and one of 13. The windows are fixed and the size of the map stays.

    Args:
        inputs: channels of the input; half of them are pooled.
        outputs: channels of the output.
        kernel_size: of each of the three pools, odd.

    Shapes:
        ``(N, inputs, H, W) -> (N, outputs, H, W)``, any H and W.

    Raises:
        ArgumentError: fewer than two inputs, no output, or an even kernel.

    Example:
        >>> import torch
        >>> from poolkit.models import SPPF
        >>> SPPF(8, 16)(torch.zeros(1, 8, 7, 5)).shape
        torch.Size([1, 16, 7, 5])

    Source: He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks", 2014,
    arXiv:1406.4729; as a cascade: Jocher, YOLOv5, 2021.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 5) -> None:
        super().__init__()
        check_counts(self, inputs=inputs, outputs=outputs, kernel_size=kernel_size)
        if inputs < 2:
            raise ArgumentError(f"SPPF: inputs must be at least 2, got {inputs}")
        if kernel_size % 2 == 0:
            raise ArgumentError(f"SPPF: kernel_size must be odd, got {kernel_size}")
        self.reduce = conv(inputs, inputs // 2, 1)
        self.pool1, self.pool2, self.pool3 = (
            pools.MaxPool2d(kernel_size, 1, kernel_size // 2) for _ in range(3)
        )
        self.expand = conv(inputs // 2 * 4, outputs, 1)

    def forward(self, input: Tensor) -> Tensor:
        """The map, and three maxima of it, mixed."""
        maps = [self.reduce(input)]
        for pool in (self.pool1, self.pool2, self.pool3):
            maps.append(pool(maps[-1]))
        result: Tensor = self.expand(torch.cat(maps, 1))
        return result


class Darknet53(nn.Module):
    """Darknet-53: 41,609,928 parameters without SPPF.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        pool: what halves the map before each of its five stages: ``"conv"``, stride 2 in a 3 x 3
            convolution, or ``"max"`` or ``"avg"``, a 2 x 2 window after it.
        sppf: add :class:`SPPF` before the head, as detectors do.
        head: ``"gap"`` or ``"gmp"``, the global mean or maximum and one linear layer; ``"fc"``, an
            adaptive average to 7 x 7 and one linear layer over all cells. YOLO itself has none of
            them, but predicts boxes in every cell of the map.

    Shapes:
        ``(N, in_channels, H, W) -> (N, num_classes)``, any H and W; 256 in the paper.

    Raises:
        ArgumentError: an unknown choice, or a number that is no positive integer.

    Example:
        >>> import torch
        >>> from poolkit.models import Darknet53
        >>> Darknet53(10, sppf=True)(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 10])

    Source: Redmon and Farhadi, "YOLOv3: An Incremental Improvement", 2018, arXiv:1804.02767.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        pool: Pool = "conv",
        sppf: bool = False,
        head: Head = "gap",
    ) -> None:
        super().__init__()
        check_choice(self, "pool", pool, POOLS)
        check_choice(self, "head", head, HEADS)
        check_counts(self, num_classes=num_classes, in_channels=in_channels)
        self.stem = conv(in_channels, 32, 3)
        stages = []
        channels = 32
        for width, blocks in STAGES:
            layers = [conv(channels, width, 3, 2 if pool == "conv" else 1)]
            if pool != "conv":
                layers.append(nn.Sequential(window_pool(pool, 2, ceil_mode=True)))
            stages.append(nn.Sequential(*layers, *(_Residual(width) for _ in range(blocks))))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.sppf = SPPF(channels, channels) if sppf else nn.Identity()
        self.avgpool, cells = head_pool(head, 7)
        self.fc = nn.Linear(channels * cells, num_classes)
        initialise(self)

    def forward(self, input: Tensor) -> Tensor:
        """Scores of the classes."""
        x = self.sppf(self.stages(self.stem(input)))
        scores: Tensor = self.fc(self.avgpool(x))
        return scores
