"""What an audit found, as plain frozen data.

Nothing here measures anything. A figure that could not be had is ``None``, and
:attr:`Report.not_measured` says why. Sizes and fields are per spatial axis, the first axis first.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compare import Comparison

__all__ = [
    "Border",
    "Consistency",
    "Field",
    "Head",
    "Interval",
    "Recommendation",
    "Report",
    "Stage",
    "Totals",
    "Unmeasured",
]


@dataclass(frozen=True)
class Border:
    """What a window does at the end of one axis.

    ``dropped`` cells of the input, at its end, are read by no window, ``repeated`` cells by more
    windows than their neighbours in the middle are, ``outside`` counts taps that fall on padding or
    beyond the input. ``divides_by``: sizes that are a multiple of this, plus ``remainder``, drop
    nothing. ``skipped`` cells lie between windows that are further apart than they are wide.
    """

    dropped: int
    repeated: int
    outside: int
    divides_by: int
    remainder: int
    skipped: int = 0


@dataclass(frozen=True)
class Field:
    """Where a value of a map looks in the image, along one axis, in pixels of the image.

    ``size`` is the receptive field of the longest path, ``smallest`` that of the shortest (``None``
    for infinite: the whole image, after squeeze and excitation or global pooling). ``stride`` is
    the distance of neighbouring values; ``start`` the centre of the first value's field (0 is the
    centre of the first pixel: with "centred" downsampling it is ``(stride - 1) / 2``, and ``phase``
    is ``start`` less that). ``aligned`` is false where branches meet whose centres differ.
    ``local`` is the longest path through no global operation: ``size`` where that is finite, 851 in
    EfficientNet-B0, whose squeeze and excitation see the whole image; ``None`` if there is none.
    Of a global pool ``local`` and ``phase`` are those of the map that it reads.
    """

    size: int | None
    smallest: int | None
    stride: float
    start: float
    phase: float
    aligned: bool
    local: int | None = None


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval and the number of samples behind it."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Stage:
    """One place where the network shrinks its maps (or pools with stride 1).

    All counts and bytes are for one forward pass over the whole batch that was given. Times are
    seconds of one call, forward, smallest of several. ``name`` is the qualified name of the module,
    or of the module whose ``forward`` called the function (``"layer4:mean"``); a module that runs
    several times gives several stages, ``call`` counts them.
    """

    name: str
    call: int
    kind: str
    """``"max"``, ``"avg"``, ``"lp"``, ``"strided conv"``, ``"global max"``, ``"global avg"``,
    ``"adaptive max"``, ``"adaptive avg"``, ``"blur"``, ``"max blur"``, ``"polyphase"``,
    ``"slicing"``, ``"space to depth"``, ``"patch embedding"``, ``"fractional"``."""
    side: bool
    """A side branch: a later layer puts out a larger map again (squeeze and excitation, U-Net)."""
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel: tuple[int, ...] | None
    stride: tuple[int, ...] | None
    padding: tuple[tuple[int, int], ...] | None
    """Before and after, per axis."""
    dilation: tuple[int, ...] | None
    ceil_mode: bool
    border: tuple[Border, ...] | None
    parameters: int
    multiply_adds: int
    comparisons: int
    additions: int
    output_bytes: int
    saved_bytes: int
    """What poolkit keeps for the backward pass: indices and inputs; of convolutions torch's."""
    saved_bytes_torch: int
    index_bytes: int
    index_bytes_torch: int
    field: tuple[Field, ...] | None
    effective_field: tuple[float, ...] | None
    """Width, per axis in pixels of the image, that holds 95 % of the squared gradient."""
    seconds: float | None
    seconds_torch: float | None
    aliasing: float | None
    """Share, 0 to 1, of the spectral energy before the stride that lies above the new Nyquist
    limit and is folded, on the given images."""
    feature_shift: float | None
    """Relative L2 distance of the map from its unshifted self, undone, one pixel of roll."""


@dataclass(frozen=True)
class Head:
    """From the last map to the scores."""

    kind: str
    """``"flatten + fc"``, ``"gap"``, ``"gmp"``, ``"none"``, ..."""
    name: str
    grid: tuple[int, ...]
    parameters: int
    share: float
    """Of the model's parameters."""
    gap_parameters: int | None
    """What global average pooling and one linear layer would have."""
    multiply_adds: int
    any_size: bool | None
    """Whether other input sizes work."""
    sizes_tried: tuple[tuple[tuple[int, ...], bool], ...]


@dataclass(frozen=True)
class Consistency:
    """How often, and how far, the answer changes when the picture moves.

    ``kind`` is ``"roll"`` (circular), ``"crop"`` (two crops of a larger picture) or
    ``"fractional"`` (by the Fourier transform). ``top1`` is the share of pairs with equal top
    class, ``None`` where classes mean nothing; ``distance`` the relative L2 distance of the logits.
    """

    kind: str
    top1: Interval | None
    distance: Interval
    images: int
    shifts: int
    largest_shift: float
    seed: int


@dataclass(frozen=True)
class Recommendation:
    """A sentence with the measured number behind it, and the line of code that does it."""

    text: str
    code: str
    stage: str | None = None


@dataclass(frozen=True)
class Unmeasured:
    """What was not measured, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Totals:
    """The model as a whole, for the given batch."""

    parameters: int
    multiply_adds: int
    comparisons: int
    additions: int
    output_bytes: int
    saved_bytes: int
    saved_bytes_torch: int
    index_bytes: int
    index_bytes_torch: int
    seconds: float | None
    """One forward pass with poolkit in place of stock pooling."""
    seconds_torch: float | None
    """One forward pass of the model as it came."""
    smallest_input: tuple[int, ...] | None
    divides_by: tuple[int, ...] | None
    """Input sizes that are multiples of this lose nothing at any border."""


@dataclass(frozen=True)
class Report:
    """An audit. ``str()`` gives a table for the terminal; see also ``to_json`` and ``to_html``."""

    model: str
    input_shape: tuple[int, ...]
    machine: dict[str, str]
    stages: tuple[Stage, ...]
    totals: Totals
    head: Head | None
    consistency: tuple[Consistency, ...]
    recommendations: tuple[Recommendation, ...]
    not_measured: tuple[Unmeasured, ...]

    def __str__(self) -> str:
        """Tables for the terminal, 100 columns wide."""
        from .text import tables

        return tables(self)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """All of it as JSON; :meth:`from_json` gives an equal report back.

        Args:
            path: a file to write as well: the whole file, or nothing.

        Raises:
            OSError: a path that cannot be written.

        Example:
            >>> import poolkit
            >>> from torch import nn
            >>> report = poolkit.audit(nn.MaxPool2d(2), (1, 1, 8, 8), skip=("time", "consistency"))
            >>> type(report).from_json(report.to_json()) == report
            True
        """
        from .plain import to_json

        return _written(to_json(self), path)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """The report that :meth:`to_json` wrote.

        Raises:
            ArgumentError: no JSON, another format or another version of it, or a field that is
                missing, unknown or of the wrong type; the message says where.
        """
        from .plain import from_json

        return from_json(cls, text)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """A page with plots that needs nothing beside itself.

        Args:
            path: a file to write as well: the whole file, or nothing.

        Raises:
            OSError: a path that cannot be written.
        """
        from .html import page

        return _written(page(self), path)

    def compare(self, other: "Report") -> "Comparison":
        """This report beside a later one: stages, totals, and whether moves matter less.

        Stages are paired by name; those that are left, if their maps have the same size, with what
        stands in the old one's module or beside it.

        Args:
            other: of the model after a change, or of another one.

        Example:
            >>> import poolkit
            >>> from torch import nn
            >>> skip = ("time", "consistency")
            >>> before = poolkit.audit(nn.MaxPool2d(2), (1, 1, 8, 8), skip=skip)
            >>> after = poolkit.audit(nn.MaxPool2d(4), (1, 1, 8, 8), skip=skip)
            >>> print(before.compare(after).total("comparisons"))
            comparisons  48 -> 60  (+25 %)
        """
        from .compare import compare

        return compare(self, other)


def _written(text: str, path: str | os.PathLike[str] | None) -> str:
    if path is not None:
        from pathlib import Path

        from ..imaging import check_writable, write_whole

        check_writable(Path(path))
        write_whole(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return text
