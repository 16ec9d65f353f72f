"""A training in the style of Lightning: the module says what a step is, a trainer loops over them.

Lightning is not needed. Where it is installed, `Classifier` is a LightningModule, and
`lightning.pytorch.Trainer(max_epochs=10).fit(classifier, batches)` trains it as well. poolkit takes
one line before `fit`, whoever trains: `poolkit.accelerate(classifier)`.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

try:
    from lightning.pytorch import LightningModule
except ModuleNotFoundError:
    LightningModule = nn.Module

Batch = tuple[Tensor, Tensor]
"""Images and their labels."""


class Classifier(LightningModule):
    """A network that learns classes from labelled images."""

    def __init__(self, net: nn.Module, rate: float) -> None:
        super().__init__()
        self.net, self.rate = net, rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        return cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), self.rate, momentum=0.9)


class Trainer:
    """The core of Lightning's trainer: epochs, steps, and a call after each with its loss."""

    def __init__(self, max_epochs: int, after_step: Callable[[float], None]) -> None:
        self.max_epochs, self.after_step = max_epochs, after_step

    def fit(self, module: Classifier, batches: Iterable[Batch]) -> None:
        optimizer = module.configure_optimizers()
        module.train()
        for _ in range(self.max_epochs):
            for number, batch in enumerate(batches):
                loss = module.training_step(batch, number)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                self.after_step(loss.item())
