"""Real pictures for a model's input: photographs that ship in a package, or a folder of files.

Both come as float32 from 0 to 1, a little larger than the model's input, so that two different
pieces of one picture can be cut out (:func:`poolkit.shift.crop`). A tensor of the user's own goes
to the model as it is; these go through :func:`normalised` first.

NumPy, Pillow and scikit-image are needed for the files alone (``pip install poolkit[tools]``).
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as stock
from torch import Tensor

from ..errors import ArgumentError

__all__ = ["PHOTOGRAPHS", "default_pictures", "from_folder", "margin", "normalised", "unusable"]

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)
"""Files of scikit-image's own data: people, a cat, things, textures, print."""

PIECES = 2  # of each photograph, beside each other: they share no pixel

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of the pixels of ImageNet, red, green and blue: what published weights expect."""

SUFFIXES = (".jpeg", ".jpg", ".png")


def margin(size: Sequence[int]) -> tuple[int, ...]:
    """How far the pictures may be moved along each axis, in pixels, before a piece leaves them.

    A fourteenth of the input, at least 1: 16 for 224, for which a picture has 256 pixels, as in
    Zhang's test (2019, arXiv:1904.11486).

    Example:
        >>> from poolkit.audit.pictures import margin
        >>> margin((224, 32))
        (16, 2)
    """
    return tuple(max(1, extent // 14) for extent in size)


def unusable(input_shape: Sequence[int]) -> str | None:
    """Why no picture fits a model with such an input; None if pictures do.

    Args:
        input_shape: of the model's input, batch included.

    Example:
        >>> from poolkit.audit.pictures import unusable
        >>> unusable((8, 3, 224, 224))
        >>> unusable((8, 2, 16000))
        'the model takes (N, C, L), and pictures are (N, C, H, W)'
        >>> unusable((8, 4, 64, 64))
        'the model takes 4 channels, and pictures have 1 or 3'
    """
    if len(input_shape) != 4:
        axes = {2: "(N, C)", 3: "(N, C, L)", 5: "(N, C, D, H, W)"}
        taken = axes.get(len(input_shape), f"{len(input_shape)} axes")
        return f"the model takes {taken}, and pictures are (N, C, H, W)"
    if input_shape[1] not in (1, 3):
        return f"the model takes {input_shape[1]} channels, and pictures have 1 or 3"
    return None


def default_pictures(size: Sequence[int], channels: int) -> Tensor:
    """32 pictures: two pieces of each of 16 photographs that ship inside scikit-image.

    The halves of each photograph, left and right or top and bottom, so that no pixel is in two
    pictures; of each half the largest middle piece of the wanted proportions, scaled to the wanted
    size (with a filter against aliasing). They are real, but few and of no class of ImageNet. The
    smallest half has 224 x 172 pixels: for larger inputs some are magnified, so smooth.

    Args:
        size: height and width of the model's input.
        channels: 1 or 3; colours become grey by brightness, grey is repeated.

    Shapes:
        ``-> (32, channels, H + 2 * margin, W + 2 * margin)``, see :func:`margin`.

    Dtypes:
        float32, 0 to 1.

    Raises:
        ArgumentError: other channels or sizes than these.
        ModuleNotFoundError: scikit-image, NumPy or Pillow is not installed.

    Example:
        >>> from poolkit.audit.pictures import default_pictures
        >>> default_pictures((32, 48), 1).shape
        torch.Size([32, 1, 36, 54])
    """
    from ..imaging import load_image, shipped_file

    _check("default_pictures", size, channels)
    photographs = (load_image(shipped_file(name)) for name in PHOTOGRAPHS)
    return _fitted((half for image in photographs for half in _halves(image)), size, channels)


def from_folder(
    path: str | os.PathLike[str], size: Sequence[int], channels: int, *, most: int = 256
) -> Tensor:
    """The PNG and JPEG files of a folder and of those within, in the order of their names.

    Of each file the largest middle piece of the wanted proportions, scaled to the wanted size.
    Files with other suffixes, and those whose names begin with a dot, are passed over.

    Args:
        path: the folder.
        size: height and width of the model's input.
        channels: 1 or 3; colours become grey by brightness, grey is repeated.
        most: of more files than this many, as many at equal distances in their order are read.

    Shapes:
        ``-> (files, channels, H + 2 * margin, W + 2 * margin)``, see :func:`margin`.

    Dtypes:
        float32, 0 to 1.

    Raises:
        ArgumentError: other channels or sizes than these.
        poolkit.imaging.ImageError: no such folder, a folder without pictures, or a file that is
            none, which is named.
        ModuleNotFoundError: NumPy or Pillow is not installed.
    """
    from ..imaging import ImageError, load_image

    _check("from_folder", size, channels)
    folder = Path(path)
    if not folder.is_dir():
        why = "it is a file, not a folder" if folder.exists() else "there is no such folder"
        raise ImageError(f"cannot read pictures from {folder}: {why}")
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise ImageError(f"cannot read pictures from {folder}: it has no PNG or JPEG file")
    count = min(most, len(files))
    chosen = (files[i * len(files) // count] for i in range(count))
    return _fitted((load_image(file) for file in chosen), size, channels)


def normalised(
    pictures: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Tensor:
    r"""Pictures as a network gets them.

    .. math:: y_c = (x_c - \mu_c) / \sigma_c

    Args:
        pictures: from 0 to 1.
        mean: one number for each channel. None: those of ImageNet for 3 channels, their average,
            0.449, for 1.
        std: the same of the standard deviations; their average is 0.226.

    Shapes:
        ``(N, C, H, W) -> (N, C, H, W)``.

    Raises:
        ArgumentError: other numbers of values than channels, or a deviation that is not positive.

    Example:
        >>> import torch
        >>> from poolkit.audit.pictures import normalised
        >>> normalised(torch.full((1, 1, 1, 1), 0.5), [0.5], [0.2]).item()
        0.0
    """
    channels = pictures.shape[1]
    one = channels == 1
    means = tuple(mean or ((sum(MEAN) / 3,) if one else MEAN))
    stds = tuple(std or ((sum(STD) / 3,) if one else STD))
    if not len(means) == len(stds) == channels or min(stds) <= 0:
        raise ArgumentError(
            f"normalised: mean and std must have a number for each of {channels} channels, and "
            f"those of std be positive, got {mean!r} and {std!r}"
        )
    centre, scale = (pictures.new_tensor(values).view(-1, 1, 1) for values in (means, stds))
    return (pictures - centre) / scale


def _check(where: str, size: Sequence[int], channels: int) -> None:
    if len(size) != 2 or not all(type(extent) is int and extent > 0 for extent in size):
        raise ArgumentError(f"{where}: size must be height and width, got {size!r}")
    if channels not in (1, 3):
        raise ArgumentError(f"{where}: channels must be 1 or 3, got {channels!r}")


def _halves(image: Tensor) -> tuple[Tensor, ...]:
    """Pieces beside each other along the longer axis, of equal extent."""
    axis = 3 if image.shape[3] >= image.shape[2] else 2
    extent = image.shape[axis] // PIECES
    return image.narrow(axis, 0, PIECES * extent).chunk(PIECES, axis)


def _fitted(images: Iterable[Tensor], size: Sequence[int], channels: int) -> Tensor:
    """``(1, 1 or 3, any, any)`` grey levels 0 to 255 -> one batch of the wanted size, 0 to 1."""
    from ..imaging import luma

    height, width = (extent + 2 * room for extent, room in zip(size, margin(size), strict=True))
    pictures = []
    for image in images:
        came = image.shape[1]
        grey = luma(image) if channels == 1 and came == 3 else image
        piece = _middle(grey, height, width) / 255
        scaled = stock.interpolate(piece, (height, width), mode="bilinear", antialias=True)
        pictures.append(scaled.expand(1, channels, -1, -1))
    return torch.cat(pictures)


def _middle(image: Tensor, height: int, width: int) -> Tensor:
    """The largest piece with the proportions of ``height`` to ``width``, from the middle."""
    rows, columns = image.shape[-2:]
    scale = min(rows / height, columns / width)
    tall = min(rows, max(1, round(height * scale)))
    wide = min(columns, max(1, round(width * scale)))
    top, left = (rows - tall) // 2, (columns - wide) // 2
    return image[..., top : top + tall, left : left + wide]
