"""Short trainings on real images that ship inside scikit-image: data, splits, and intervals.

Nothing here reads or moves torch's global random state: every draw takes a generator.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as stock

from ..audit.intervals import student
from ..imaging import ImageError, load_image, luma, shipped_file

SIDE = 25  # of the labelled images
BATCH = 32
RATE = 3e-3  # peak of the one-cycle schedule

Network = TypeVar("Network", bound=torch.nn.Module)
Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Images:
    """Labelled images: ``pixels`` (N, 1, H, W) and ``labels`` (N,), 1 for a face and 0 for none."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: torch.Tensor) -> "Images":
        return Images(self.pixels[index], self.labels[index])

    def with_negatives(self, pixels: torch.Tensor) -> "Images":
        """These and more images without a face."""
        labels = torch.cat([self.labels, self.labels.new_zeros(len(pixels))])
        return Images(torch.cat([self.pixels, pixels]), labels)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faces() -> Images:
    """100 faces and 100 cuts of background, 25 x 25, grey from 0 to 1 (a part of LFW).

    Huang, Mattar, Lee and Learned-Miller, "Learning to Align from Scratch", NIPS 2012. Addressed as
    a file, as the photographs are: scikit-image's own function would try the network if it were
    gone.
    """
    path = shipped_file("lfw_subset.npy")
    try:
        with path.open("rb") as file:
            pixels = torch.from_numpy(np.load(file)).float()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from None
    return Images(pixels[:, None], (torch.arange(200) < 100).long())


def photograph(name: str) -> torch.Tensor:
    """A photograph that ships inside scikit-image, ``(1, 3, H, W)``, grey levels 0 to 255."""
    return load_image(shipped_file(name)).expand(1, 3, -1, -1)


def grey(image: torch.Tensor) -> torch.Tensor:
    """``(1, 3, H, W)`` grey levels 0 to 255 -> ``(1, 1, H, W)`` from 0 to 1."""
    return luma(image / 255)


def split(images: Images, train: int, generator: torch.Generator) -> tuple[Images, Images]:
    """``train`` images, as many of each class, and all the others: held out."""
    kept, held_out = [], []
    for label in (1, 0):
        index = (images.labels == label).nonzero().flatten()
        index = index[torch.randperm(len(index), generator=generator)]
        kept.append(index[: train // 2])
        held_out.append(index[train // 2 :])
    return images.take(torch.cat(kept)), images.take(torch.cat(held_out))


def with_wrong_labels(images: Images, share: float, generator: torch.Generator) -> Images:
    """The same pixels; a random ``share`` of the labels turned into the other one."""
    wrong = torch.randperm(len(images), generator=generator)[: round(share * len(images))]
    labels = images.labels.clone()
    labels[wrong] = 1 - labels[wrong]
    return Images(images.pixels, labels)


def new(build: Callable[[], Network], generator: torch.Generator) -> Network:
    """A network with He's initial weights (2015), drawn from ``generator``; biases are 0."""
    # On the meta device the layers' own initialisation draws nothing.
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            torch.nn.init.zeros_(parameter)
    return model


def fit(
    model: torch.nn.Module,
    images: Images,
    generator: torch.Generator,
    steps: int,
    augment: Augment | None = None,
) -> None:
    """Train in place: AdamW, one cycle of learning rates, batches with as many of each class."""
    with one_thread():
        _fit(model, images, generator, steps, augment)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Work this small is no faster on many threads, on a busy machine far slower.

    And the order of additions, so the result, no longer depends on their number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(
    model: torch.nn.Module,
    images: Images,
    generator: torch.Generator,
    steps: int,
    augment: Augment | None,
) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    weights = 1.0 / images.labels.bincount()[images.labels].float()
    for _ in range(steps):
        index = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        x = images.pixels[index]
        if augment is not None:
            x = augment(x, generator)
        optimiser.zero_grad()
        loss = stock.cross_entropy(model(x), images.labels[index])
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()


def accuracy(model: torch.nn.Module, images: Images) -> float:
    """The share of images whose larger logit is that of their label."""
    with torch.inference_mode():
        right = model(images.pixels).argmax(1) == images.labels
    return float(right.float().mean())


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval by Student's t; ``values`` are what it is made of."""

    values: Sequence[float]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def half(self) -> float:
        """Half the width of the interval; of one value it is infinite."""
        count = len(self.values)
        if count < 2:
            return float("inf")
        deviation = float(torch.tensor(self.values, dtype=torch.float64).std())
        return student(count - 1) * deviation / math.sqrt(count)

    def minus(self, other: "Interval") -> "Interval":
        """The differences run by run: pairs of the same seed and the same images."""
        return Interval([a - b for a, b in zip(self.values, other.values, strict=True)])


def percent(interval: Interval) -> str:
    """``96.2 ± 1.3 %``."""
    return f"{100 * interval.mean:.1f} ± {100 * interval.half:.1f} %"
