"""``poolkit demo``: the lesson on pooling, computed live on a photograph and on this machine."""

import contextlib
import platform
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

import poolkit
import poolkit.functional as F

try:
    # All of them here, to say at once what is missing.
    import jinja2  # noqa: F401
    import matplotlib as mpl  # noqa: F401
    from rich.console import Console
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"poolkit.demo needs {error.name}: pip install poolkit[tools]", name=error.name
    ) from None

from ..config import processor
from ..errors import ArgumentError
from ..imaging import ImageError, default_photograph, load_image
from .report import PAGE, Context, Lang, Section, page, print_tables, progress_bar
from .sections import BUILDERS, Builder

__all__ = ["Context", "Section", "fit", "run_demo"]

LONGEST = 448  # pixels; larger photographs are shrunk to it
STEP = 16  # the largest window shown; sides are cut to multiples of it
SMALLEST = 32


def run_demo(
    image: Path | None = None,
    lang: Lang = "en",
    out: Path = Path("demo"),
    *,
    sections: Sequence[str] = (),
    quick: bool = False,
) -> Path:
    """Build the report and print its tables.

    ``out`` gets ``report.html`` (self-contained) and every figure as PNG. Files appear there only
    once all of them are finished. ``sections`` are the slugs of those to build, all if there is
    none; they come in the order of the lesson. ``quick`` trades careful measurement for speed, for
    tests.

    Returns: the path of ``report.html``.

    Errors: :class:`~poolkit.imaging.ImageError` for a photograph that cannot be used,
    :class:`~poolkit.errors.ArgumentError` for a section or language that does not exist,
    ``OSError`` for a folder that cannot be written.
    """
    if lang not in PAGE:
        raise ArgumentError(f"no language {lang!r}: expected one of {', '.join(PAGE)}")
    builders = _chosen(sections)
    out = Path(out)
    photograph = default_photograph() if image is None else Path(image)
    picture = fit(load_image(photograph), str(photograph))
    with _scratch(out) as scratch:  # before the work: an unwritable folder is reported at once
        with progress_bar(Console(stderr=True)) as progress:
            context = Context(picture, photograph.name, lang, quick, progress)
            built = [build(context) for build in context.track(builders, PAGE[lang].contents)]
        files = {
            name: png
            for section in built
            for figure in section.figures
            for name, png in figure.files.items()
        }
        files["report.html"] = page(built, context, machine(context)).encode("utf-8")
        _publish(files, Path(scratch), out)
    # Wide enough for the tables where the output is a file.
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    print_tables(built, console)
    return out / "report.html"


def _chosen(slugs: Sequence[str]) -> list[Builder]:
    """The builders of these sections, in the order of the lesson; of all, if there is none."""
    for slug in slugs:
        if slug not in BUILDERS:
            raise ArgumentError(f"no section {slug!r}: expected one of {', '.join(BUILDERS)}")
    return [build for slug, build in BUILDERS.items() if not slugs or slug in slugs]


def fit(image: torch.Tensor, name: str) -> torch.Tensor:
    """Cut and shrink a photograph so that every window shown divides it.

    At most 2:1, at most ``LONGEST`` pixels long, sides multiples of ``STEP``, always the middle. A
    large photograph is shrunk by adaptive average pooling. Grey becomes three equal channels, so
    that every figure has the same shape.
    """
    height, width = image.shape[-2:]
    if min(height, width) < SMALLEST:
        raise ImageError(
            f"cannot use {name}: it has {width} x {height} pixels and the demo needs at least "
            f"{SMALLEST} x {SMALLEST}"
        )
    image = _middle(image, min(height, 2 * width), min(width, 2 * height))
    height, width = image.shape[-2:]
    shrink = LONGEST / max(height, width)
    if shrink < 1:
        image = F.adaptive_avg_pool2d(image, (round(height * shrink), round(width * shrink)))
        height, width = image.shape[-2:]
    image = _middle(image, height // STEP * STEP, width // STEP * STEP)
    return image.expand(1, 3, -1, -1).contiguous()


def _middle(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[:, :, top : top + height, left : left + width]


def machine(context: Context) -> str:
    """What the figures were made with: two lines, the same in every language."""
    config = poolkit.show_config()
    kernels = config.kernels if config.isa is None else f"{config.kernels} ({config.isa})"
    return (
        f"poolkit {config.version} · kernels: {kernels} · torch {config.torch} · "
        f"Python {config.python}\n"
        f"{processor()} · {config.threads} threads · {platform.system()} {platform.machine()} · "
        f"{context.image_name}"
    )


def _scratch(out: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for unfinished files, on the same disk as ``out``."""
    existing = out if out.exists() else _nearest_folder(out)
    if not existing.is_dir():
        raise NotADirectoryError(20, "Not a directory", str(existing))
    _refuse_folders(out, ["report.html"])
    try:
        return tempfile.TemporaryDirectory(prefix=".poolkit-demo-", dir=existing)
    except OSError as error:
        # In the words of the user's path, not of ours.
        raise OSError(error.errno, error.strerror, str(existing)) from None


def _nearest_folder(path: Path) -> Path:
    """The closest parent that exists: where a new folder would be made."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def _publish(files: dict[str, bytes], scratch: Path, out: Path) -> None:
    """Write every file aside, then move all of them into ``out``; the report comes last."""
    _refuse_folders(out, files)
    for name, content in files.items():
        (scratch / name).write_bytes(content)
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError:
        for folder in missing:
            with contextlib.suppress(OSError):  # the one that could not be made
                folder.rmdir()
        raise
    for name in files:
        (scratch / name).replace(out / name)


def _refuse_folders(out: Path, names: Iterable[str]) -> None:
    """A folder cannot be replaced by a file: say so before any file is moved."""
    for name in names:
        if (out / name).is_dir():
            raise IsADirectoryError(21, "Is a directory", str(out / name))
