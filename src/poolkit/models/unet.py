"""U-Net: down by max pools, up again, with every size's map handed across."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ArgumentError
from .common import POOLS, Pool, check_choice, check_counts, initialise, pool_or_conv

Up = Literal["transposed", "bilinear"]

UPS = ("transposed", "bilinear")


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, padded, each with a ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class _Up(nn.Module):
    """Twice the size and other channels, then two convolutions beside the map handed across."""

    def __init__(self, inputs: int, outputs: int, up: Up) -> None:
        super().__init__()
        self.up = (
            nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
            if up == "transposed"
            else nn.Conv2d(inputs, outputs, 1)
        )
        self.conv = double_conv(2 * outputs, outputs)

    def forward(self, input: Tensor, across: Tensor) -> Tensor:
        # An odd map lost a row or column on the way down; both ways up give it back.
        size = across.shape[2:]
        if isinstance(self.up, nn.ConvTranspose2d):
            larger = self.up(input, output_size=size)
        else:
            # Mixing channels commutes with interpolation and is cheaper before it.
            larger = F.interpolate(self.up(input), size, mode="bilinear", align_corners=False)
        result: Tensor = self.conv(torch.cat([across, larger], 1))
        return result


class UNet(nn.Module):
    """U-Net with padded convolutions: 31,031,810 parameters, 31,030,658 for images of one channel.

    The convolutions of the paper lose a border of the map; here they are padded, so that the
    output is as large as the image, as is common since.

    Args:
        num_classes: outputs in every pixel.
        in_channels: channels of the image; 1 in the paper.
        channels: of every size of map, from the image's own size down.
        pool: what halves the map: ``"max"`` or ``"avg"`` over 2 x 2 cells, or ``"conv"``, a
            convolution of the same window and a ReLU.
        up: what doubles it: ``"transposed"``, a 2 x 2 transposed convolution with stride 2, or
            ``"bilinear"``, a 1 x 1 convolution and interpolation.

    Shapes:
        ``(N, in_channels, H, W) -> (N, num_classes, H, W)``, H and W at least
        ``2 ** (len(channels) - 1)``, 16; no border is lost where they are multiples of it.

    Raises:
        ArgumentError: an unknown choice, a number that is no positive integer, or fewer than two
            sizes.

    Example:
        >>> import torch
        >>> from poolkit.models import UNet
        >>> UNet(4, channels=(8, 16, 32))(torch.zeros(1, 3, 21, 32)).shape
        torch.Size([1, 4, 21, 32])

    Source: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image
    Segmentation", 2015, arXiv:1505.04597.
    """

    def __init__(
        self,
        num_classes: int = 2,
        *,
        in_channels: int = 3,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        pool: Pool = "max",
        up: Up = "transposed",
    ) -> None:
        super().__init__()
        check_choice(self, "pool", pool, POOLS)
        check_choice(self, "up", up, UPS)
        widths = {f"channels[{place}]": width for place, width in enumerate(channels)}
        check_counts(self, num_classes=num_classes, in_channels=in_channels, **widths)
        if len(channels) < 2:
            raise ArgumentError(f"UNet: channels must be of at least two sizes, got {channels!r}")
        steps = list(itertools.pairwise((in_channels, *channels)))
        self.down = nn.ModuleList(double_conv(*step) for step in steps)
        self.pools = nn.ModuleList(pool_or_conv(pool, width, 2) for width in channels[:-1])
        self.up = nn.ModuleList(_Up(outer, inner, up) for inner, outer in reversed(steps[1:]))
        self.head = nn.Conv2d(channels[0], num_classes, 1)
        initialise(self)

    def forward(self, input: Tensor) -> Tensor:
        """Scores of the classes in every pixel."""
        maps = [self.down[0](input)]
        for pool, down in zip(self.pools, self.down[1:], strict=True):
            maps.append(down(pool(maps[-1])))
        x = maps.pop()
        for up in self.up:
            x = up(x, maps.pop())
        scores: Tensor = self.head(x)
        return scores
