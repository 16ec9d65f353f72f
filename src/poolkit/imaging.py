"""Photographs in and out: a file becomes a float tensor ``(1, C, H, W)``, and back.

Values are grey levels from 0 to 255 whatever the file's depth, so that a printed array of a small
image shows the numbers that an image viewer shows.
"""

import math
import os
import tempfile
import warnings
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import torch

from .errors import ArgumentError

try:
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"poolkit.imaging needs {error.name}: pip install poolkit[tools]", name=error.name
    ) from None

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: grey from red, green and blue

# This many pixels take 1.2 GB as float32 RGB; a larger file is refused before it is decoded.
MAX_PIXELS = 100_000_000


class ImageError(ArgumentError):
    """A file that cannot be read as one image, said in one sentence."""


def default_photograph() -> Path:
    """The cat that ships inside scikit-image (Chelsea, 451 x 300, CC0)."""
    return shipped_file("chelsea.png")


def shipped_file(name: str) -> Path:
    """A file of sample data that ships inside scikit-image, by its name.

    Addressed as a file: ``skimage.data.chelsea()`` would try the network if it were gone.
    """
    try:
        package = files("skimage")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} is in scikit-image, which needs {error.name}: pip install poolkit[tools]",
            name=error.name,
        ) from None
    return Path(str(package.joinpath("data", name)))


def load_image(path: str | os.PathLike[str]) -> torch.Tensor:
    """Read a PNG or JPEG file as a float32 tensor of grey levels.

    Grey files give one channel, all others three. Palettes are resolved, transparency is laid over
    white, 16-bit grey is scaled to 0..255 without rounding (of 16-bit colour Pillow reads the upper
    8 bits), and a camera's rotation (EXIF) is applied. Of several pictures in a file the first is
    read.

    Shapes: file of H x W pixels -> ``(1, C, H, W)``, C = 1 or 3.

    Errors: :class:`ImageError` if the file is missing, empty, not a PNG or JPEG, damaged, or larger
    than ``MAX_PIXELS``.
    """
    try:
        return _read(Path(path))
    except _Refused as refused:
        reason = str(refused)
    except UnidentifiedImageError:
        reason = "it is not a PNG or JPEG image"
    except Image.DecompressionBombError:
        reason = f"it has more than {MAX_PIXELS:,} pixels"
    except OSError as error:
        # Pillow's own messages about damaged files have no errno.
        reason = error.strerror or str(error)
    except (SyntaxError, ValueError) as error:
        reason = f"damaged image ({error})"
    raise ImageError(f"cannot read {path}: {reason[:1].lower()}{reason[1:]}")


class _Refused(Exception):  # noqa: N818 - never leaves this module
    pass


def _read(path: Path) -> torch.Tensor:
    if path.is_dir():
        raise _Refused("it is a folder, not an image")
    if path.stat().st_size == 0:
        raise _Refused("the file is empty")
    with warnings.catch_warnings():
        # Pillow warns about large images on its own; the limit below is ours. It warns of damage
        # to metadata, which the picture can do without.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)
        with Image.open(path, formats=("PNG", "JPEG")) as file:
            if math.prod(file.size) > MAX_PIXELS:
                raise _Refused(f"it has more than {MAX_PIXELS:,} pixels")
            return _to_tensor(ImageOps.exif_transpose(file))


def _to_tensor(image: Image.Image) -> torch.Tensor:
    if image.mode.startswith("I"):  # 16-bit grey; 65535 / 257 is exactly 255
        deep = np.asarray(image)
        levels = deep.astype(np.float32) / 257.0
        # Pillow converts such a file to no mode with transparency: a PNG names one clear level.
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            levels[deep == clear] = 255.0
        return torch.from_numpy(levels)[None, None]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image).convert("RGB")
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    levels = np.asarray(image).astype(np.float32)
    if levels.ndim == 2:
        levels = levels[:, :, None]
    return torch.from_numpy(levels).permute(2, 0, 1).contiguous()[None]


def to_array(image: torch.Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """``(1, C, H, W)`` or ``(C, H, W)`` grey levels -> ``(H, W)`` or ``(H, W, 3)`` bytes.

    Levels are rounded and cut to 0..255; NaN becomes 0.
    """
    planes = image.detach().reshape(image.shape[-3:]).nan_to_num(nan=0.0)
    levels = planes.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)


def luma(image: torch.Tensor) -> torch.Tensor:
    """Grey of the same brightness: ``(*, 3, H, W) -> (*, 1, H, W)``, in the unit that came."""
    return (image * image.new_tensor(LUMA).view(3, 1, 1)).sum(-3, keepdim=True)


def save_png(image: torch.Tensor, path: str | os.PathLike[str]) -> None:
    """Write grey levels as a PNG file: the whole file, or nothing."""
    path = Path(path)
    check_writable(path)
    write_whole(path, lambda temporary: Image.fromarray(to_array(image)).save(temporary, "PNG"))


def check_writable(path: Path) -> None:
    """Raise now what `write_whole` would raise later, after the work."""
    if path.is_dir():
        raise IsADirectoryError(21, "Is a directory", str(path))
    _temporary(path).unlink()


def _temporary(path: Path) -> Path:
    """An empty file beside ``path``."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # the file that the user knows
        raise
    os.close(handle)
    return Path(name)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there in one step."""
    temporary = _temporary(path)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    """The process's umask: temporary files are private, the results should not be."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
