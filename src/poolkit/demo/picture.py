"""The picture of the READMEs: ``python -m poolkit.demo.picture docs/images``."""

import sys
from pathlib import Path

import poolkit.functional as F

from ..imaging import default_photograph, load_image
from ..page.theme import DARK, LIGHT
from . import fit
from .draw import Panel, blocks, panels
from .report import render

KERNEL = 8
CUT = (224, 384)  # the cat's face; with more around it a file exceeds 200 KB


def main(folder: Path) -> None:
    """Write ``pooling.png`` and ``pooling-dark.png``: the photograph, max and average pooled."""
    height, width = CUT
    image = fit(load_image(default_photograph()), "the photograph")
    image = image[:, :, 16 : 16 + height, 16 : 16 + width]
    shown = {
        "": image,
        f"max {KERNEL}×{KERNEL}   ": F.max_pool2d(image, KERNEL),
        f"avg {KERNEL}×{KERNEL}   ": F.avg_pool2d(image, KERNEL),
    }
    row = [
        Panel(f"{name}{small.shape[-1]}×{small.shape[-2]}", blocks(small, (height, width)))
        for name, small in shown.items()
    ]
    drawing = panels(lambda _: [row], (height, width))
    for theme, name in ((LIGHT, "pooling.png"), (DARK, "pooling-dark.png")):
        (folder / name).write_bytes(render(drawing(theme)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
