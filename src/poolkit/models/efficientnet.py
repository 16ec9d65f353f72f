"""EfficientNet-B0: depthwise strided convolutions, and global averages within every block."""

from torch import Tensor, nn

from .. import nn as pools
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

STAGES = (
    # expansion, kernel, stride, channels, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def conv(
    inputs: int, outputs: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution for batch normalisation: centred, without bias."""
    return nn.Conv2d(
        inputs, outputs, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
    )


def activated(convolution: nn.Conv2d, *after: nn.Module) -> nn.Sequential:
    """A convolution with batch normalisation and SiLU."""
    norm = nn.BatchNorm2d(convolution.out_channels)
    return nn.Sequential(convolution, norm, nn.SiLU(inplace=True), *after)


class SqueezeExcitation(nn.Module):
    """Weigh every channel by what its global average says (Hu 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = pools.GlobalAvgPool2d()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.SiLU(inplace=True)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.scale_activation = nn.Sigmoid()

    def forward(self, input: Tensor) -> Tensor:
        """The input with its channels weighed."""
        weights = self.fc2(self.activation(self.fc1(self.avgpool(input))))
        result: Tensor = input * self.scale_activation(weights)
        return result


class MBConv(nn.Module):
    """Inverted bottleneck: 1 x 1 up, depthwise, squeeze and excitation, 1 x 1 down."""

    def __init__(
        self, inputs: int, outputs: int, expansion: int, kernel_size: int, stride: int, pool: Pool
    ) -> None:
        super().__init__()
        wide = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(activated(conv(inputs, wide, 1)))
        pooled = stride == 2 and pool != "conv"
        depthwise = conv(wide, wide, kernel_size, 1 if pooled else stride, groups=wide)
        after = [window_pool(pool, 2, ceil_mode=True)] if pooled else []
        layers += [
            activated(depthwise, *after),
            SqueezeExcitation(wide, inputs // 4),
            nn.Sequential(conv(wide, outputs, 1), nn.BatchNorm2d(outputs)),
        ]
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, input: Tensor) -> Tensor:
        """The block, added to its input where the shapes agree."""
        result: Tensor = self.block(input)
        return input + result if self.residual else result


class EfficientNetB0(nn.Module):
    """EfficientNet-B0: 5,288,548 parameters.

    Of the paper's regularisers it has dropout, and no stochastic depth.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        pool: what halves the map in four of its stages: ``"conv"``, stride 2 in the depthwise
            convolution, or ``"max"`` or ``"avg"``, a 2 x 2 window after it. The stem's 3 x 3
            convolution has stride 2 always.
        head: ``"gap"`` or ``"gmp"``, the global mean or maximum and one linear layer; ``"fc"``, an
            adaptive average to 7 x 7 and one linear layer over all cells.
        dropout: probability, before the linear layer.

    Shapes:
        ``(N, in_channels, H, W) -> (N, num_classes)``, any H and W; 224 in the paper.

    Raises:
        ArgumentError: an unknown choice, or a number that is no positive integer.

    State dict: torchvision's names, with any choice of pool.

    Example:
        >>> import torch
        >>> from poolkit.models import EfficientNetB0
        >>> EfficientNetB0(10, pool="avg")(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])

    Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
    2019, arXiv:1905.11946.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        pool: Pool = "conv",
        head: Head = "gap",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        check_choice(self, "pool", pool, POOLS)
        check_choice(self, "head", head, HEADS)
        check_counts(self, num_classes=num_classes, in_channels=in_channels)
        layers = [activated(conv(in_channels, 32, 3, 2))]
        channels = 32
        for expansion, kernel_size, stride, outputs, blocks in STAGES:
            stage = []
            for block in range(blocks):
                step = stride if block == 0 else 1
                stage.append(MBConv(channels, outputs, expansion, kernel_size, step, pool))
                channels = outputs
            layers.append(nn.Sequential(*stage))
        layers.append(activated(conv(channels, 1280, 1)))
        self.features = nn.Sequential(*layers)
        self.avgpool, cells = head_pool(head, 7)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280 * cells, num_classes))
        initialise(self)

    def forward(self, input: Tensor) -> Tensor:
        """Scores of the classes."""
        scores: Tensor = self.classifier(self.avgpool(self.features(input)))
        return scores
