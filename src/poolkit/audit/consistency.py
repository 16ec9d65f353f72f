"""What a small move of the picture does to a model's answer, on real pictures."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .. import shift
from ..errors import ArgumentError
from . import intervals
from .pictures import margin
from .report import Consistency, Unmeasured

__all__ = ["KINDS", "Measured", "along", "measure"]

KINDS = ("roll", "crop", "fractional")

Move = tuple[float, float]
Progress = Callable[[int, int], object]


class Measured(NamedTuple):
    """What :func:`measure` found; what it could not measure, and what must be known with it."""

    consistency: tuple[Consistency, ...]
    not_measured: tuple[Unmeasured, ...]


def measure(
    model: nn.Module,
    pictures: Tensor,
    input_size: Sequence[int],
    *,
    seed: int = 0,
    shifts: int = 4,
    batch: int = 8,
    progress: Progress | None = None,
) -> Measured:
    r"""How often, and how far, the answer changes when the picture moves.

    For every picture the answer to its middle piece is compared with the answers to the piece
    moved, along both axes at random:

    - ``"roll"``: by whole pixels, what leaves at one end enters at the other; nothing is lost.
    - ``"crop"``: by whole pixels to another piece of the larger picture, as a camera moves.
    - ``"fractional"``: by less than a pixel either way, by the Fourier transform.

    ``top1`` is the share of moves after which the top class is the same, ``distance`` the relative
    L2 distance :func:`poolkit.shift.relative_l2` of the scores:

    .. math:: d = \frac{\lVert f(T_s x) - f(x) \rVert_2}{\lVert f(x) \rVert_2}

    Where the model puts out a map (segmentation, image to image), it should move along with the
    picture, and :math:`f(x)` becomes :math:`T_s f(x)`: the unmoved picture's map, moved by as many
    of its cells; of a crop, what both maps show. The distance is then 0 for an equivariant model.
    Parts of a cell, of maps coarser than the picture, are moved by the Fourier transform; crops are
    moved by whole cells.

    Every picture draws its own moves. Those of one picture are not independent of each other, so
    **the pictures are the samples**: each counts with its mean over its moves, intervals are
    Student's for distances and Wilson's for top-1, which is wide enough for such means
    (:mod:`poolkit.audit.intervals`), and more shifts make them hardly smaller. The unmoved piece is
    one of each pair, unlike in Zhang's test, where both are moved; pairs of a difference are alike.

    Args:
        model: any module, run as it is: in evaluation mode, or dropout counts as a change.
        pictures: as the model takes them (:func:`poolkit.audit.pictures.normalised`), on its device
            and in its dtype; crops need more rows and columns than ``input_size``.
        input_size: height and width that the model gets.
        seed: of the moves; torch's own random state is neither read nor moved.
        shifts: moves of each picture and kind.
        batch: pictures of one run of the model. Every run has exactly as many, for models that
            take no other number; the last ones are repeated where some lack.
        progress: called after every run with the pictures run so far and those of all runs.

    Shapes:
        pictures ``(N, C, H, W)``, N at least 2; the model's answer ``(N, K)`` or ``(N, K, h, w)``,
        or any structure of tensors, the first of which counts.

    Raises:
        ArgumentError: fewer than two pictures, smaller ones than ``input_size``, or a number that
            is not positive.

    Edge cases:
        Moves go up to :func:`poolkit.audit.pictures.margin`, or to what the pictures have room for
        (crops); (0, 0) is none. ``top1`` is None where the answer is no ``(N, K)`` scores of at
        least two classes. A model that gives one class to every picture (constant, or not trained)
        has a ``top1`` near 1 that says nothing, and a note says so.

    Example:
        >>> import torch
        >>> from poolkit.audit.consistency import measure
        >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> roll, crop, fractional = measure(model, torch.rand(8, 3, 40, 40), (32, 32)).consistency
        >>> roll.top1.mean, roll.distance.mean < 1e-5, crop.distance.mean > 1e-3
        (1.0, True, True)

    Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019, arXiv:1904.11486
    (crops); Chaman and Dokmanic, "Truly Shift-Invariant Convolutional Neural Networks", 2021,
    arXiv:2011.14214 (rolls); Michaeli, Michaeli and Soudry, "Alias-Free Convnets", 2023,
    arXiv:2303.08085 (fractions).
    """
    size = _checked(pictures, input_size, shifts=shifts, batch=batch)
    answer = _Answers(model, batch, progress, len(pictures) * (1 + shifts * len(KINDS)))
    still = answer(shift.crop(pictures, (0, 0), size))
    if still is None:
        why = "the model's answer has no floating-point tensor with a row for each picture"
        return Measured((), (Unmeasured("shift consistency", why),))
    cell = _cell(still, size)
    if cell is None:
        why = (
            f"the model puts out maps of {tuple(still.shape[2:])} cells for {size} pixels, which "
            "are no multiple of them: where a cell lies in the picture is not known"
        )
        return Measured((), (Unmeasured("shift consistency", why),))
    found: list[Consistency] = []
    notes = _classes(still)
    for number, kind in enumerate(KINDS):
        largest = _largest(kind, pictures, size, cell)
        if not any(largest):
            answer.skip(len(pictures) * shifts)
            why = f"the pictures are too small to be moved by a cell of {cell} pixels"
            notes.append(Unmeasured(f"shift consistency: {kind}", why))
            continue
        generator = torch.Generator().manual_seed(len(KINDS) * seed + number)
        runs = []
        for _ in range(shifts):
            moves = [_draw(kind, largest, cell, generator) for _ in range(len(pictures))]
            moved = answer(_moved(kind, pictures, moves, size))
            assert moved is not None
            runs.append(_changes(kind, still, moved, moves, cell))
        distance, same = (
            torch.stack(values).mean(0).tolist() for values in zip(*runs, strict=True)
        )
        broken = sum(not math.isfinite(value) for value in distance)
        if broken:
            why = f"the distance is not finite for {broken} of {len(distance)} pictures"
            notes.append(Unmeasured(f"shift consistency: {kind}", why))
            continue
        top1 = intervals.share(same) if _has_classes(still) else None
        apart, farthest = intervals.mean(distance), float(max(largest))
        found.append(Consistency(kind, top1, apart, len(pictures), shifts, farthest, seed))
    return Measured(tuple(found), tuple(notes))


def _checked(pictures: Tensor, input_size: Sequence[int], **counts: int) -> tuple[int, int]:
    height, width = size = tuple(input_size)
    if pictures.ndim != 4 or len(pictures) < 2:
        raise ArgumentError(
            f"consistency: pictures must be (N, C, H, W), at least two for an interval, got "
            f"{tuple(pictures.shape)}"
        )
    if any(has < needs for has, needs in zip(pictures.shape[2:], size, strict=True)):
        raise ArgumentError(
            f"consistency: pictures must be as large as the model's input {size}, got "
            f"{tuple(pictures.shape)}"
        )
    for name, count in counts.items():
        if count < 1:
            raise ArgumentError(f"consistency: {name} must be at least 1, got {count}")
    return height, width


class _Answers:
    """Runs the model on any number of pictures, ``batch`` at a time."""

    def __init__(self, model: nn.Module, batch: int, progress: Progress | None, total: int) -> None:
        self.model, self.batch, self.progress, self.total = model, batch, progress, total
        self.done = 0

    def __call__(self, pictures: Tensor) -> Tensor | None:
        """``(N, *)``, or None where the answer has no row for each picture."""
        rows = []
        for part in torch.split(pictures, self.batch):
            lacking = self.batch - len(part)
            full = torch.cat([part, part[-1:].expand(lacking, -1, -1, -1)]) if lacking else part
            with torch.no_grad():
                output = self.model(full)
            tensors = [leaf for leaf in tree_leaves(output) if _is_batch(leaf, self.batch)]
            if not tensors:
                return None
            rows.append(tensors[0][: len(part)].detach())
            self.skip(len(part))
        return torch.cat(rows)

    def skip(self, pictures: int) -> None:
        self.done += pictures
        if self.progress is not None:
            self.progress(self.done, self.total)


def _is_batch(leaf: object, count: int) -> bool:
    return (
        isinstance(leaf, Tensor)
        and leaf.is_floating_point()
        and leaf.ndim > 0
        and len(leaf) == count
    )


def _is_map(answer: Tensor) -> bool:
    return answer.ndim == 4 and answer.shape[2:].numel() > 1


def _has_classes(answer: Tensor) -> bool:
    return not _is_map(answer) and answer.ndim in (2, 4) and answer.shape[1] > 1


def _cell(answer: Tensor, size: Sequence[int]) -> tuple[int, int] | None:
    """Pixels from one value of the answer to the next: 1 for scores, which do not move."""
    if not _is_map(answer):
        return 1, 1
    (height, width), (rows, columns) = size, answer.shape[2:]
    if height % rows or width % columns:
        return None
    return height // rows, width // columns


def _classes(answer: Tensor) -> list[Unmeasured]:
    """That equal classes say nothing, where they do."""
    if not _has_classes(answer):
        return []
    classes = answer.flatten(1).argmax(1)
    if bool((classes != classes[0]).any()):
        return []
    why = (
        f"all {len(classes)} pictures get class {int(classes[0])}, as from a network that is not "
        "trained: that it stays the same after a move says nothing; see the distance"
    )
    return [Unmeasured("top-1 consistency", why)]


def _largest(
    kind: str, pictures: Tensor, size: Sequence[int], cell: Sequence[int]
) -> tuple[int, ...]:
    """How far pictures are moved along each axis."""
    if kind == "fractional":
        return 1, 1
    if kind == "roll":
        return margin(size)
    room = ((has - needs) // 2 for has, needs in zip(pictures.shape[2:], size, strict=True))
    reach = (min(most, there) for most, there in zip(margin(size), room, strict=True))
    return tuple(far // step * step for far, step in zip(reach, cell, strict=True))


def _draw(
    kind: str, largest: Sequence[int], cell: Sequence[int], generator: torch.Generator
) -> Move:
    if kind == "fractional":
        down, right = (2 * torch.rand(2, generator=generator, dtype=torch.float64) - 1).tolist()
        return down, right
    steps = cell if kind == "crop" else (1, 1)
    while True:
        down, right = (
            step * int(torch.randint(-(far // step), far // step + 1, (), generator=generator))
            for far, step in zip(largest, steps, strict=True)
        )
        if (down, right) != (0, 0):
            return down, right


def _moved(kind: str, pictures: Tensor, moves: Sequence[Move], size: Sequence[int]) -> Tensor:
    pieces = []
    for picture, move in zip(pictures, moves, strict=True):
        if kind == "crop":
            pieces.append(shift.crop(picture, [int(step) for step in move], size))
        else:
            pieces.append(along(shift.crop(picture, (0, 0), size), move))
    return torch.stack(pieces)


def along(planes: Tensor, moves: Sequence[float]) -> Tensor:
    """Moved along the last axes by cells or parts of them, around the ends.

    Whole moves are exact; all others are those of :func:`poolkit.shift.fourier`.
    """
    if all(float(move).is_integer() for move in moves):
        return shift.roll(planes, [int(move) for move in moves])
    return shift.fourier(planes, moves)


def _changes(
    kind: str, still: Tensor, moved: Tensor, moves: Sequence[Move], cell: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Of each picture: the distance, and whether its top class is the same (1 or 0)."""
    same = (still.flatten(1).argmax(1) == moved.flatten(1).argmax(1)).double()
    if not _is_map(still):
        return shift.relative_l2(still, moved), same
    distances = []
    for before, after, (down, right) in zip(still, moved, moves, strict=True):
        cells = (down / cell[0], right / cell[1])
        pair = _shared(before, after, cells) if kind == "crop" else (along(before, cells), after)
        distances.append(shift.relative_l2(*(both[None] for both in pair)))
    return torch.cat(distances), same


def _shared(before: Tensor, after: Tensor, move: Move) -> tuple[Tensor, Tensor]:
    """What both maps show of one picture, where ``after`` shows it moved by whole cells."""
    for axis, cells in zip((-2, -1), map(int, move), strict=True):
        extent = before.shape[axis] - abs(cells)
        before = before.narrow(axis, max(0, -cells), extent)
        after = after.narrow(axis, max(0, cells), extent)
    return before, after
