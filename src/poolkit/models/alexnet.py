"""AlexNet: overlapping max pools, and a head of three fully connected layers."""

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


class AlexNet(nn.Module):
    """AlexNet in one tower, as torchvision has it: 61,100,840 parameters.

    Args:
        num_classes: outputs.
        in_channels: channels of the image.
        pool: the three 3 x 3 windows with stride 2: ``"max"``, ``"avg"``, or ``"conv"``, a
            convolution of the same window and a ReLU.
        head: ``"fc"``, an adaptive average to 6 x 6 and three fully connected layers with
            ``dropout``; ``"gap"`` or ``"gmp"``, the global mean or maximum and one linear layer.
        dropout: probability; of the ``"fc"`` head alone.

    Shapes:
        ``(N, in_channels, H, W) -> (N, num_classes)``, H and W at least 63; 224 in the paper.

    Raises:
        ArgumentError: an unknown choice, or a number that is no positive integer.

    State dict: torchvision's names, with the published choices.

    Example:
        >>> import torch
        >>> from poolkit.models import AlexNet
        >>> AlexNet(10, head="gap")(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 10])

    Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014,
    arXiv:1404.5997.
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
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            pool_or_conv(pool, 64, 3),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            pool_or_conv(pool, 192, 3),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            pool_or_conv(pool, 256, 3),
        )
        self.avgpool, cells = head_pool(head, 6)
        self.classifier: nn.Module = nn.Linear(256, num_classes)
        if head == "fc":
            self.classifier = nn.Sequential(
                nn.Dropout(dropout),
                nn.Linear(256 * cells, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Linear(4096, num_classes),
            )
        initialise(self)

    def forward(self, input: Tensor) -> Tensor:
        """Scores of the classes."""
        scores: Tensor = self.classifier(self.avgpool(self.features(input)))
        return scores
