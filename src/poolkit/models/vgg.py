"""VGG16: a 2 x 2 max pool after every stage, and nine tenths of the parameters in its head."""

from torch import Tensor, nn

from .common import (
    HEADS,
    POOLS,
    Head,
    Pool,
    check_choice,
    check_counts,
    head_pool,
    initialise,
    pool_or_conv,
)

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of 3 x 3 convolutions of each stage."""


class VGG16(nn.Module):
    """VGG16 (configuration D, without batch normalisation): 138,357,544 parameters.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        pool: the five 2 x 2 windows with stride 2: ``"max"``, ``"avg"``, or ``"conv"``, a
            convolution of the same window and a ReLU.
        head: ``"fc"``, an adaptive average to 7 x 7 and three fully connected layers with
            ``dropout``; ``"gap"`` or ``"gmp"``, the global mean or maximum and one linear layer.
        dropout: probability; of the ``"fc"`` head alone.

    Shapes:
        ``(N, in_channels, H, W) -> (N, num_classes)``, H and W at least 32; 224 in the paper.

    Raises:
        ArgumentError: an unknown choice, or a number that is no positive integer.

    State dict: torchvision's names, with the published choices.

    Example:
        >>> import torch
        >>> from poolkit.models import VGG16
        >>> VGG16(10, pool="avg", head="gap")(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 10])

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", 2014, arXiv:1409.1556.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        pool: Pool = "max",
        head: Head = "fc",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_choice(self, "pool", pool, POOLS)
        check_choice(self, "head", head, HEADS)
        check_counts(self, num_classes=num_classes, in_channels=in_channels)
        layers: list[nn.Module] = []
        channels = in_channels
        for width, convolutions in STAGES:
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(pool_or_conv(pool, channels, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool, cells = head_pool(head, 7)
        self.classifier: nn.Module = nn.Linear(512, num_classes)
        if head == "fc":
            self.classifier = nn.Sequential(
                nn.Linear(512 * cells, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, num_classes),
            )
        initialise(self)

    def forward(self, input: Tensor) -> Tensor:
        """Scores of the classes."""
        scores: Tensor = self.classifier(self.avgpool(self.features(input)))
        return scores
