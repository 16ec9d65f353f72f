"""Residual networks: strided convolutions, one pool in the stem, global average pooling."""

from collections.abc import Sequence
from typing import ClassVar, Literal, TypedDict, Unpack

from torch import Tensor, nn

from .. import nn as pools
from .common import HEADS, Head, check_choice, check_counts, head_pool, initialise, window_pool

Stem = Literal["7x7", "d", "3x3"]
StemPool = Literal["max", "avg", "conv", "none"]
Shortcut = Literal["conv", "avg"]

STEMS = ("7x7", "d", "3x3")
STEM_POOLS = ("max", "avg", "conv", "none")
SHORTCUTS = ("conv", "avg")


class Choices(TypedDict, total=False):
    """The keyword arguments of :class:`ResNet`."""

    in_channels: int
    width: int
    stem: Stem
    pool: StemPool
    shortcut: Shortcut
    head: Head


def conv(inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution for batch normalisation: centred, without bias."""
    return nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=False)


def projection(inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> nn.Sequential | None:
    """The shortcut where shapes change: a strided 1 x 1 convolution, or an average before it."""
    if stride == 1 and inputs == outputs:
        return None
    if shortcut == "conv":
        return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
    return pools.ResNetDShortcut(inputs, outputs, stride)


class _Block(nn.Module):
    expansion: ClassVar[int]
    downsample: nn.Module | None
    relu: nn.Module

    def branch(self, input: Tensor) -> Tensor:
        """What is added to the shortcut: each kind of block has its own."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        """The rectified sum of shortcut and branch."""
        branch = self.branch(input)
        shortcut = input if self.downsample is None else self.downsample(input)
        result: Tensor = self.relu(branch + shortcut)
        return result


class BasicBlock(_Block):
    """Two 3 x 3 convolutions beside a shortcut; the first has the stride.

    Args:
        inputs: channels of the input.
        width: channels of the convolutions; ``width * expansion`` is that of the output.
        stride: 1 or 2.
        shortcut: as in :class:`ResNet`.

    Shapes:
        ``(N, inputs, H, W) -> (N, width, ceil(H / stride), ceil(W / stride))``

    Example:
        >>> import torch
        >>> from poolkit.models import BasicBlock
        >>> BasicBlock(8, 16, stride=2, shortcut="avg")(torch.zeros(1, 8, 7, 7)).shape
        torch.Size([1, 16, 4, 4])

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.
    """

    expansion = 1

    def __init__(
        self, inputs: int, width: int, stride: int = 1, shortcut: Shortcut = "conv"
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(inputs, width, stride, shortcut)

    def branch(self, input: Tensor) -> Tensor:
        """What is added to the shortcut."""
        x = self.relu(self.bn1(self.conv1(input)))
        result: Tensor = self.bn2(self.conv2(x))
        return result


class Bottleneck(_Block):
    """A 3 x 3 convolution between two 1 x 1, beside a shortcut; the 3 x 3 has the stride.

    That is version 1.5; the paper's first version strides in the 1 x 1, which drops three
    quarters of its input unread.

    Args:
        inputs: channels of the input.
        width: channels of the 3 x 3 convolution; ``width * expansion`` is that of the output.
        stride: 1 or 2.
        shortcut: as in :class:`ResNet`.

    Shapes:
        ``(N, inputs, H, W) -> (N, 4 * width, ceil(H / stride), ceil(W / stride))``

    Example:
        >>> import torch
        >>> from poolkit.models import Bottleneck
        >>> Bottleneck(8, 4, stride=2)(torch.zeros(1, 8, 7, 7)).shape
        torch.Size([1, 16, 4, 4])

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.
    """

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int = 1, shortcut: Shortcut = "conv"
    ) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(inputs, outputs, stride, shortcut)

    def branch(self, input: Tensor) -> Tensor:
        """What is added to the shortcut."""
        x = self.relu(self.bn1(self.conv1(input)))
        x = self.relu(self.bn2(self.conv2(x)))
        result: Tensor = self.bn3(self.conv3(x))
        return result


class ResNet(nn.Module):
    """A residual network of any depth and width.

    Args:
        block: :class:`BasicBlock` or :class:`Bottleneck`.
        depths: blocks of each stage; every stage after the first halves the map and doubles the
            channels. Published networks have four.
        num_classes: outputs.
        in_channels: channels of the image.
        width: channels of the stem.
        stem: ``"7x7"``, one convolution with stride 2; ``"d"``, three of 3 x 3, the first with
            stride 2; ``"3x3"``, one with stride 1, for small images.
        pool: after the stem, 3 x 3 with stride 2 and padding 1: ``"max"``, ``"avg"`` (of real
            cells), ``"conv"`` (with batch normalisation and ReLU), or ``"none"``.
        shortcut: where a stage halves the map, ``"conv"``, a 1 x 1 convolution with stride 2, or
            ``"avg"``, a 2 x 2 average before a 1 x 1 convolution.
        head: ``"gap"`` or ``"gmp"``, the global mean or maximum and one linear layer; ``"fc"``, an
            adaptive average to 7 x 7 and one linear layer over all cells.

    Shapes:
        ``(N, in_channels, H, W) -> (N, num_classes)``, any H and W; 224 in the paper.

    Raises:
        ArgumentError: an unknown choice, or a number that is no positive integer.

    State dict: the names of torchvision's and, with ``stem="d"`` and ``shortcut="avg"``, of timm's
    ResNets.

    Example:
        >>> import torch
        >>> from poolkit.models import BasicBlock, ResNet
        >>> net = ResNet(BasicBlock, (1, 1), 10, in_channels=1, width=8, stem="3x3", pool="max")
        >>> net(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385; stem
    and shortcut D: He et al., "Bag of Tricks", 2018, arXiv:1812.01187.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        width: int = 64,
        stem: Stem = "7x7",
        pool: StemPool = "max",
        shortcut: Shortcut = "conv",
        head: Head = "gap",
    ) -> None:
        super().__init__()
        check_choice(self, "stem", stem, STEMS)
        check_choice(self, "pool", pool, STEM_POOLS)
        check_choice(self, "shortcut", shortcut, SHORTCUTS)
        check_choice(self, "head", head, HEADS)
        check_counts(self, num_classes=num_classes, in_channels=in_channels, width=width)
        check_counts(self, **{f"depths[{i}]": depth for i, depth in enumerate(depths)})
        self.conv1 = _stem(stem, in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _stem_pool(pool, width)
        channels = width
        for stage, depth in enumerate(depths):
            wide = width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (depth - 1)
            blocks = []
            for stride in strides:
                blocks.append(block(channels, wide, stride, shortcut))
                channels = wide * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = tuple(f"layer{stage + 1}" for stage in range(len(depths)))
        self.avgpool, cells = head_pool(head, 7)
        self.fc = nn.Linear(channels * cells, num_classes)
        initialise(self)

    def forward(self, input: Tensor) -> Tensor:
        """Scores of the classes."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(input))))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        scores: Tensor = self.fc(self.avgpool(x))
        return scores


def _stem(stem: Stem, in_channels: int, width: int) -> nn.Module:
    if stem == "d":
        half = width // 2
        return nn.Sequential(
            conv(in_channels, half, 3, 2),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            conv(half, half, 3),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            conv(half, width, 3),
        )
    return conv(in_channels, width, 7, 2) if stem == "7x7" else conv(in_channels, width, 3)


def _stem_pool(pool: StemPool, width: int) -> nn.Module:
    if pool == "none":
        return nn.Identity()
    if pool == "conv":
        return nn.Sequential(conv(width, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    return window_pool(pool, 3, 1)


class ResNet18(ResNet):
    """ResNet-18: 11,689,512 parameters. Keyword arguments, shapes and names: :class:`ResNet`.

    Example:
        >>> import torch
        >>> from poolkit.models import ResNet18
        >>> ResNet18(10, stem="d")(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 10])

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.
    """

    def __init__(self, num_classes: int = 1000, **choices: Unpack[Choices]) -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2), num_classes, **choices)


class ResNet50(ResNet):
    """ResNet-50 (v1.5): 25,557,032 parameters. Arguments, shapes and names: :class:`ResNet`.

    Example:
        >>> import torch
        >>> from poolkit.models import ResNet50
        >>> ResNet50(10, pool="avg")(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 10])

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.
    """

    def __init__(self, num_classes: int = 1000, **choices: Unpack[Choices]) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), num_classes, **choices)


class ResNet50D(ResNet):
    """ResNet-50-D: 25,576,264 parameters. Arguments, shapes and names: :class:`ResNet`.

    Its stem has three 3 x 3 convolutions, its shortcuts average before they convolve: the
    defaults of ``stem`` and ``shortcut`` are ``"d"`` and ``"avg"``.

    Example:
        >>> import torch
        >>> from poolkit.models import ResNet50D
        >>> ResNet50D(10)(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 10])

    Source: He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks",
    2018, arXiv:1812.01187.
    """

    def __init__(self, num_classes: int = 1000, **choices: Unpack[Choices]) -> None:
        chosen: Choices = {"stem": "d", "shortcut": "avg", **choices}
        super().__init__(Bottleneck, (3, 4, 6, 3), num_classes, **chosen)
