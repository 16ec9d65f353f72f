"""Classifier heads, from the last feature map to the logits: their weights, and over-fitting."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn as stock

from poolkit import nn

from .training import Interval, accuracy, faces, fit, new, seeded, split, with_wrong_labels

CLASSES = 1000  # of ImageNet


def flat_head(channels: int, side: int, hidden: Sequence[int], classes: int) -> stock.Sequential:
    """``(N, channels, side, side) -> (N, classes)`` by flatten and linear layers, as AlexNet's."""
    layers: list[stock.Module] = [stock.Flatten()]
    width = channels * side * side
    for wider in hidden:
        layers += [stock.Linear(width, wider), stock.ReLU()]
        width = wider
    return stock.Sequential(*layers, stock.Linear(width, classes))


def gap_head(channels: int, classes: int) -> stock.Sequential:
    """``(N, channels, any, any) -> (N, classes)`` by global average pooling, as ResNet's."""
    return stock.Sequential(nn.GlobalAvgPool2d(flatten=True), stock.Linear(channels, classes))


@dataclass(frozen=True)
class Head:
    """A network's own head, and what a GAP head on the same feature map would need."""

    network: str
    channels: int
    side: int
    hidden: tuple[int, ...] | None  # None: it is a GAP head already

    @property
    def layers(self) -> str:
        if self.hidden is None:
            return f"GAP → {self.channels} → {CLASSES}"
        widths = (self.channels * self.side**2, *self.hidden, CLASSES)
        return " → ".join(map(str, widths))

    @property
    def own(self) -> int:
        if self.hidden is None:
            return self.with_gap
        return parameters(lambda: flat_head(self.channels, self.side, self.hidden or (), CLASSES))

    @property
    def with_gap(self) -> int:
        return parameters(lambda: gap_head(self.channels, CLASSES))


HEADS = (
    Head("AlexNet", 256, 6, (4096, 4096)),
    Head("VGG16", 512, 7, (4096, 4096)),
    Head("ResNet-18", 512, 7, None),
    Head("ResNet-50", 2048, 7, None),
)


def parameters(build: Callable[[], stock.Module]) -> int:
    """Weights and biases of a module, counted on the meta device: VGG's head is half a gigabyte."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def weights(layer: stock.Linear) -> int:
    """The weights of one linear layer, without its biases: what the text counts."""
    return layer.weight.numel()


def linear(inputs: int, outputs: int) -> stock.Linear:
    return stock.Linear(inputs, outputs, device="meta")


# ---- Over-fitting -------------------------------------------------------------------------------

WIDTH = 8
HIDDEN = 256
TRAIN = 100  # of the 200 images
WRONG = (0.0, 0.2)  # shares of the training labels turned into the other one
STEPS = 100


def trunk() -> stock.Sequential:
    """25 x 25 pixels -> 32 channels of 6 x 6 cells."""
    return stock.Sequential(
        stock.Conv2d(1, WIDTH, 3, padding=1),
        stock.ReLU(),
        nn.MaxPool2d(2),
        stock.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1),
        stock.ReLU(),
        nn.MaxPool2d(2),
        stock.Conv2d(2 * WIDTH, 4 * WIDTH, 3, padding=1),
        stock.ReLU(),
    )


HEADS_COMPARED: dict[str, Callable[[], stock.Sequential]] = {
    "GAP → FC": lambda: gap_head(4 * WIDTH, 2),
    "flatten → FC": lambda: flat_head(4 * WIDTH, 6, (), 2),
    "flatten → FC → FC": lambda: flat_head(4 * WIDTH, 6, (HIDDEN,), 2),
}


@dataclass(frozen=True)
class Fit:
    """Accuracies of one head over all seeds: on the labels it was trained with, and held out."""

    train: Interval
    held_out: Interval


def overfitting(seeds: Iterable[int], steps: int = STEPS) -> dict[tuple[str, float], Fit]:
    """Train every head on the same images, splits and wrong labels; by head and share of wrong."""
    images = faces()
    found: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for seed in seeds:
        for share in WRONG:
            for name, head in HEADS_COMPARED.items():
                # The same generator for each head: the same split, wrong labels and trunk.
                generator = seeded(seed)
                kept, held_out = split(images, TRAIN, generator)
                kept = with_wrong_labels(kept, share, generator)
                # (mypy does not infer a lambda that keeps the head in a default.)
                model = new(lambda head=head: stock.Sequential(trunk(), head()), generator)  # type: ignore[misc]
                fit(model, kept, generator, steps)
                result = (accuracy(model, kept), accuracy(model, held_out))
                found.setdefault((name, share), []).append(result)
    return {
        key: Fit(*(Interval(values) for values in zip(*runs, strict=True)))
        for key, runs in found.items()
    }
