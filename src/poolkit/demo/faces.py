"""Where is the face? A small GAP network, trained on cuts, looks at a whole photograph.

Twice: once trained on the labelled images alone, once also on backgrounds of photographs without a
face, of which it gets those that it took for faces: bootstrapping, after Sung and Poggio,
"Example-Based Learning for View-Based Human Face Detection", 1998.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import torch
import torch.nn.functional as stock
from skimage.feature import Cascade

import poolkit.functional as F
from poolkit import nn
from poolkit.cam import class_activation_map

from ..imaging import to_array
from .training import SIDE, Images, accuracy, faces, fit, grey, new, photograph, seeded, split

PHOTOGRAPH = "astronaut.png"
SIZES = (128, 144, 160, 176, 192)  # pixels: what the photograph is shrunk to
WITHOUT_FACES = (
    "brick.png",
    "clock_motion.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)
BACKGROUND_SIZES = (64, 96, 144, 216)  # their shorter sides
TRAIN = 150  # of the 200 images; the others are held out
WIDTH = 12  # channels of the first layer
STRIDE = 4  # pixels from cell to cell of the map
FIELD = 20  # pixels that one cell of the map sees


@dataclass(frozen=True)
class Box:
    """Where the face is, as rows and columns of the photograph."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Findings:
    """What one training found: held-out accuracy, and a map of the photograph for each size."""

    held_out: float
    maps: Sequence[torch.Tensor]  # logit of a face minus that of none, as large as the photograph
    error: float  # largest |mean of the map + bias - logit|


def face_box(image: torch.Tensor) -> Box:
    """The face as scikit-image's own detector finds it, which shares nothing with our network.

    Local binary patterns in a cascade (Liao et al., 2007), trained by OpenCV's makers.
    """
    model = str(files("skimage").joinpath("data", "lbpcascade_frontalface_opencv.xml"))
    side = min(image.shape[-2:])
    found = Cascade(model).detect_multi_scale(
        img=to_array(image),
        scale_factor=1.2,
        step_ratio=1,
        min_size=(side // 8, side // 8),
        max_size=(side // 2, side // 2),
    )
    largest = max(found, key=lambda box: int(box["width"]))
    return Box(*(int(largest[key]) for key in ("r", "c", "height", "width")))


def local_contrast(x: torch.Tensor) -> torch.Tensor:
    """Each pixel minus the mean around it, over the standard deviation around it.

    The network should see forms, not how bright a photograph is. Both means are average pooling.
    """
    mean = F.avg_pool2d(x, SIDE, 1, SIDE // 2, count_include_pad=False)
    variance = F.avg_pool2d((x - mean).square(), SIDE, 1, SIDE // 2, count_include_pad=False)
    return (x - mean) / (variance.sqrt() + 0.05)


class GapNetwork(torch.nn.Module):
    """Three convolutions, GAP, one linear layer: 25 x 25 pixels become a map of 2 x 2 cells."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(1, WIDTH, 5),
            torch.nn.ReLU(),
            nn.MaxPool2d(2),
            torch.nn.Conv2d(WIDTH, 2 * WIDTH, 3),
            torch.nn.ReLU(),
            nn.MaxPool2d(2),
            torch.nn.Conv2d(2 * WIDTH, 4 * WIDTH, 3),
            torch.nn.ReLU(),
        )
        self.pool = nn.GlobalAvgPool2d(flatten=True)
        self.head = torch.nn.Linear(4 * WIDTH, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.pool(self.features(x)))
        return logits


def jitter(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images, and move the batch by up to two pixels."""
    mirrored = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    x = torch.where(mirrored, x.flip(-1), x)
    down, right = torch.randint(5, (2,), generator=generator).tolist()
    side = x.shape[-1]
    x = stock.pad(x, (2, 2, 2, 2), mode="replicate")
    return x[:, :, down : down + side, right : right + side]


def backgrounds(names: Sequence[str] = WITHOUT_FACES) -> list[torch.Tensor]:
    """Photographs without a face at several sizes, their local contrast."""
    scaled = []
    for name in names:
        x = grey(photograph(name))
        for shorter in BACKGROUND_SIZES:
            shrink = min(1.0, shorter / min(x.shape[-2:]))
            height, width = (round(extent * shrink) for extent in x.shape[-2:])
            scaled.append(local_contrast(F.adaptive_avg_pool2d(x, (height, width))))
    return scaled


def random_cuts(
    scenes: Sequence[torch.Tensor], each: int, generator: torch.Generator
) -> torch.Tensor:
    cuts = []
    for x in scenes:
        for _ in range(each):
            top, left = (
                int(torch.randint(extent - SIDE + 1, (), generator=generator))
                for extent in x.shape[-2:]
            )
            cuts.append(x[:, :, top : top + SIDE, left : left + SIDE])
    return torch.cat(cuts)


def mistakes(model: GapNetwork, scenes: Sequence[torch.Tensor], most: int) -> torch.Tensor | None:
    """The cuts that ``model`` takes for faces, up to ``most`` of each scene, the clearest first."""
    cuts = []
    for x in scenes:
        # A cut is a map of 2 x 2 cells, so the means of those are the logits of all cuts at once.
        scores = F.avg_pool2d(face_map(model, x)[None, None], 2, 1)[0, 0]
        scores = scores + model.head.bias.detach() @ torch.tensor([-1.0, 1.0])
        values, places = scores.flatten().topk(min(most, scores.numel()))
        for place in places[values > 0].tolist():
            row, column = divmod(place, scores.shape[1])
            top = min(row * STRIDE, x.shape[-2] - SIDE)
            left = min(column * STRIDE, x.shape[-1] - SIDE)
            cuts.append(x[:, :, top : top + SIDE, left : left + SIDE])
    return torch.cat(cuts) if cuts else None


def face_map(
    model: GapNetwork, x: torch.Tensor, size: tuple[int, int] | None = None
) -> torch.Tensor:
    """The map of "face" minus that of "none": positive where a face is the more likely."""
    with torch.no_grad():
        maps = class_activation_map(model.features(x)[0], model.head.weight, size=size)
    return maps[1] - maps[0]


def look(model: GapNetwork, image: torch.Tensor, size: int) -> tuple[torch.Tensor, float]:
    """The map over the photograph shrunk to ``size``, and how far mean + bias is from the logit."""
    x = local_contrast(F.adaptive_avg_pool2d(grey(image), size))
    # Without padding in the network the map would start half a field inside the photograph.
    margin = (FIELD - STRIDE) // 2
    x = stock.pad(x, (margin,) * 4, mode="replicate")
    with torch.no_grad():
        logits = model(x)[0]
        maps = class_activation_map(model.features(x)[0], model.head.weight)
        error = (maps.mean((1, 2)) + model.head.bias - logits).abs().max()
    height, width = image.shape[-2:]
    return face_map(model, x, (height, width)), float(error)


def train(
    seed: int, scenes: Sequence[torch.Tensor], steps: int, rounds: int
) -> tuple[GapNetwork, float]:
    """A network and its held-out accuracy.

    ``rounds`` more trainings of ``steps``, with the mistakes added; without scenes, as it is.
    """
    generator = seeded(seed)
    labelled = faces()
    labelled = Images(local_contrast(labelled.pixels), labelled.labels)
    images, held_out = split(labelled, TRAIN, generator)
    model = new(GapNetwork, generator)
    if scenes:
        images = images.with_negatives(random_cuts(scenes, 5, generator))
    fit(model, images, generator, steps, jitter)
    for _ in range(rounds):
        found = mistakes(model, scenes, 20)
        if found is not None:
            images = images.with_negatives(found)
        fit(model, images, generator, steps, jitter)
    return model, accuracy(model, held_out)


def search(model: GapNetwork, held_out: float, image: torch.Tensor) -> Findings:
    looks = [look(model, image, size) for size in SIZES]
    return Findings(held_out, [seen for seen, _ in looks], max(error for _, error in looks))


def share_inside(seen: torch.Tensor, box: Box) -> float:
    """The part of the map's positive mass inside the box; the box's part of the area is chance."""
    positive = seen.clamp(min=0)
    return float(box.cut(positive).sum() / positive.sum().clamp(min=1e-12))


def peaks_inside(seen: torch.Tensor, box: Box) -> bool:
    """Whether the largest value is inside the box: the pointing game (Zhang et al., 2016)."""
    return bool(box.cut(seen).max() == seen.max())
