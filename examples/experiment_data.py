"""The labelled pictures of downsampling_experiment.py: textures, digits, or a folder of the user's.

Each is a `Task`: pictures to learn from, and larger ones held out, in which the content can be
moved by whole cells, as `poolkit.shift` moves it.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from skimage import data as photographs
from torch import Tensor
from torch.nn.functional import interpolate
from train_digits import digits

from poolkit import shift
from poolkit.imaging import load_image

SIZE = 32
"""Rows and columns that a network sees."""
MARGIN = 4
"""Cells by which a crop can move to any side."""
WHOLE = SIZE + 2 * MARGIN
HELD_OUT = 100
"""Windows of each texture that are held out."""
TEXTURES = ("brick", "grass", "gravel", "immunohistochemistry")


class FolderError(ValueError):
    """A folder that is no set of labelled pictures, said in one sentence."""


@dataclass(frozen=True)
class Task:
    """Pictures ``(N, C, SIZE, SIZE)`` to learn, and others held out, which can be moved."""

    classes: tuple[str, ...]
    images: Tensor
    labels: Tensor
    held_images: Tensor
    held_labels: Tensor
    circular: bool
    """Whether content moves in a circle; otherwise it moves as a crop of a larger picture."""

    def moved(self, move: Sequence[int]) -> Tensor:
        """The pictures held out, moved down and to the right."""
        if self.circular:
            return shift.roll(self.held_images, move)
        return shift.crop(self.held_images, move, (SIZE, SIZE))

    def moves(self, count: int, generator: torch.Generator) -> list[list[int]]:
        """Random moves: any in a circle, up to the margin of a crop."""
        low, high = (0, SIZE - 1) if self.circular else (-MARGIN, MARGIN)
        return torch.randint(low, high + 1, (count, 2), generator=generator).tolist()


def task(name: str, seed: int, per_class: int) -> Task:
    """One of `TASKS`, or a folder by its path: what the seed draws of it."""
    if name in TASKS:
        return TASKS[name](seed, per_class)
    return folder(name, seed, per_class)


def middle(images: Tensor) -> Tensor:
    return shift.crop(images, (0, 0), (SIZE, SIZE))


def standardised(images: Tensor) -> Tensor:
    """Mean 0 and deviation 1 of each picture: brightness and contrast give nothing away."""
    flat = images.flatten(1)
    spread = flat.std(1, keepdim=True).clamp(min=1e-3)
    return ((flat - flat.mean(1, keepdim=True)) / spread).view_as(images)


# ---- textures -----------------------------------------------------------------------------------


def textures(seed: int, per_class: int) -> Task:
    """Windows of four photographs: to learn from the left halves, held out from the right ones."""
    generator = torch.Generator().manual_seed(seed)
    learned, held = [], []
    for name in TEXTURES:
        left, right = photograph(name).chunk(2, 1)
        learned.append(windows(left, per_class, generator))
        held.append(windows(right, HELD_OUT, generator))
    labels = torch.arange(len(TEXTURES))
    return Task(
        TEXTURES,
        middle(standardised(torch.cat(learned))),
        labels.repeat_interleave(per_class),
        standardised(torch.cat(held)),
        labels.repeat_interleave(HELD_OUT),
        circular=False,
    )


def photograph(name: str) -> Tensor:
    """One that scikit-image ships, in grey, ``(512, 512)``."""
    picture = torch.from_numpy(getattr(photographs, name)()).float()
    return picture if picture.dim() == 2 else picture.mean(2)


def windows(picture: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``(count, 1, WHOLE, WHOLE)`` at random places."""
    rows, columns = (
        torch.randint(0, extent - WHOLE + 1, (count,), generator=generator).tolist()
        for extent in picture.shape
    )
    cut = [picture[y : y + WHOLE, x : x + WHOLE] for y, x in zip(rows, columns, strict=True)]
    return torch.stack(cut)[:, None]


# ---- digits -------------------------------------------------------------------------------------


def placed_digits(seed: int, per_class: int) -> Task:
    """Handwritten digits of scikit-learn, enlarged to 16 x 16, anywhere on an empty canvas."""
    generator = torch.Generator().manual_seed(seed)
    images, labels, held_images, held_labels = digits(seed)

    def placed(small: Tensor) -> Tensor:
        large = interpolate(small, scale_factor=2, mode="bilinear")
        extent = large.shape[-1]
        canvases = torch.zeros(len(small), 1, SIZE, SIZE)
        places = torch.randint(0, SIZE - extent + 1, (len(small), 2), generator=generator)
        for canvas, digit, (y, x) in zip(canvases, large, places.tolist(), strict=True):
            canvas[:, y : y + extent, x : x + extent] = digit
        return canvases

    few = slice(10 * per_class)  # of each digit, about as many
    return Task(tuple("0123456789"), placed(images[few]), labels[few], placed(held_images),
                held_labels, circular=True)  # fmt: skip


TASKS: dict[str, Callable[[int, int], Task]] = {"textures": textures, "digits": placed_digits}


# ---- a folder -----------------------------------------------------------------------------------


def folder(path: str, seed: int, per_class: int) -> Task:
    """A quarter of each class is held out, drawn by the seed; of the others, at most so many."""
    generator = torch.Generator().manual_seed(seed)
    found = pictures(path)
    learned, held, labels, held_labels = [], [], [], []
    for label, of_class in enumerate(found.values()):
        images = of_class[torch.randperm(len(of_class), generator=generator)]
        quarter = max(1, len(images) // 4)
        held.append(images[:quarter])
        learned.append(images[quarter : quarter + per_class])
        held_labels += [label] * len(held[-1])
        labels += [label] * len(learned[-1])
    return Task(
        tuple(found),
        middle(torch.cat(learned)),
        torch.tensor(labels),
        torch.cat(held),
        torch.tensor(held_labels),
        circular=False,
    )


@functools.cache
def pictures(path: str) -> dict[str, Tensor]:
    """The pictures ``(N, C, WHOLE, WHOLE)`` of each class: of each subfolder, by its name.

    Errors: `FolderError`, and those of `poolkit.imaging.load_image`.
    """
    root = Path(path)
    if not root.is_dir():
        raise FolderError(f"{path} is no folder")
    files = {
        sub.name: sorted(
            file for file in sub.iterdir() if file.suffix.lower() in (".png", ".jpg", ".jpeg")
        )
        for sub in sorted(root.iterdir())
        if sub.is_dir()
    }
    if len(files) < 2:
        raise FolderError(
            f"{path} must have a subfolder of PNG or JPEG files for each class, at least two; "
            f"it has {len(files)}"
        )
    for name, paths in files.items():
        if len(paths) < 2:
            raise FolderError(
                f"{path}: class {name!r} needs two pictures, one of them to hold out; "
                f"it has {len(paths)} PNG or JPEG files"
            )
    loaded = {name: [fitted(load_image(file)) for file in paths] for name, paths in files.items()}
    channels = max(image.shape[1] for images in loaded.values() for image in images)
    return {
        name: standardised(torch.cat([image.expand(-1, channels, -1, -1) for image in images]))
        for name, images in loaded.items()
    }


def fitted(image: Tensor) -> Tensor:
    """The middle square, ``(1, C, WHOLE, WHOLE)``."""
    side = min(image.shape[-2:])
    square = shift.crop(image, (0, 0), (side, side))
    return interpolate(square, (WHOLE, WHOLE), mode="bilinear", antialias=True)
