"""What is measured: the core cases as a table, the axes of a run, the bytes a case must move."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from poolkit.testing import HALVES

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "uint8": torch.uint8,
}
LAYOUTS = ("contiguous", "channels_last")
PHASES = ("inference", "training", "backward")
"""Forward without gradient; forward that records for backward; backward alone."""
THREADS = ("1", "all")


@dataclass(frozen=True)
class Case:
    """A call of a functional on a network's feature map: `function(x, *args)`."""

    name: str
    network: str
    function: str
    label: str
    """Kernel, stride and padding as in `max 3/2/1`."""
    shape: tuple[int, ...]
    """Channels, then the extents."""
    args: tuple[Any, ...]
    batches: tuple[int, ...] = (1, 8)
    taps: int = field(default=1, repr=False)
    """Cells of the largest window."""
    kernel: tuple[int, ...] = field(default=(), repr=False)
    """Extents of a fixed window; empty where windows are adaptive."""
    stride: tuple[int, ...] = field(default=(), repr=False)
    slow: bool = False
    """Stock pooling takes seconds: left out of most of the default run."""

    @property
    def family(self) -> str:
        """`max`, `avg`, `lp`, `blur` or `max_blur`."""
        return self.function.removeprefix("adaptive_").partition("_pool")[0]

    @property
    def rank(self) -> int:
        return len(self.shape) - 1

    def __call__(self, functional: ModuleType, x: Tensor) -> Tensor:
        return getattr(functional, self.function)(x, *self.args)

    def size(self, batch: int) -> str:
        return "x".join(map(str, (batch, *self.shape)))


def _pool(
    network: str, family: str, shape: tuple[int, ...], *args: Any, note: str = "", **kwargs: Any
) -> Case:
    """A fixed window; `args` are kernel, stride, padding and what else torch's signature has."""
    rank = len(shape) - 1
    numbers = args[1:] if family == "lp" else args
    words = family.replace("_", " ")
    numbers = [
        n if isinstance(n, tuple) else (n,) * rank for n in numbers[:3] if type(n) is not bool
    ]
    label = f"{words} {'/'.join(_named(n) for n in numbers)}".removesuffix("/0")
    label += f" {note}" if note else ""
    parts = (network, "x".join(map(str, _folded(shape))), label)
    return Case(
        name="-".join(parts).lower().replace("/", "-").replace(" ", "-"),
        network=network,
        function=f"{family}_pool{rank}d",
        label=label,
        shape=shape,
        args=args,
        taps=math.prod(numbers[0]),
        kernel=numbers[0],
        stride=numbers[1],
        **kwargs,
    )


def _named(numbers: tuple[int, ...]) -> str:
    """Of equal numbers only one: 2, 2x1."""
    return "x".join(map(str, numbers if len(set(numbers)) > 1 else numbers[:1]))


def _adaptive(network: str, family: str, shape: tuple[int, ...], out: int, **kwargs: Any) -> Case:
    label = f"global {family}" if out == 1 else f"adaptive {family} {out}"
    extents = "x".join(map(str, _folded(shape)))
    return Case(
        name=f"{network}-{extents}-{label}".lower().replace(" ", "-"),
        network=network,
        function=f"adaptive_{family}_pool{len(shape) - 1}d",
        label=label,
        shape=shape,
        args=(out,),
        taps=math.prod(-(-n // out) + 1 for n in shape[1:]),
        **kwargs,
    )


def _folded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A square is named by its side: 64x224."""
    return shape[:2] if len(shape) == 3 and shape[1] == shape[2] else shape


_SMALL = {"batches": (1, 32)}  # 7 x 7 maps come from large batches
_ONE = {"batches": (1,)}

CASES: tuple[Case, ...] = (
    _pool("VGG", "max", (64, 224, 224), 2, 2),
    _pool("VGG", "max", (512, 14, 14), 2, 2),
    _pool("ResNet", "max", (64, 112, 112), 3, 2, 1),
    _pool("AlexNet", "max", (64, 55, 55), 3, 2),
    _pool("AlexNet", "max", (192, 27, 27), 3, 2),
    _pool("AlexNet", "max", (256, 13, 13), 3, 2),
    _pool("GoogLeNet", "max", (192, 28, 28), 3, 1, 1),
    _pool("GoogLeNet", "max", (480, 14, 14), 3, 1, 1),
    _pool("GoogLeNet", "max", (832, 7, 7), 3, 1, 1, **_SMALL),
    _pool("GoogLeNet", "max", (192, 56, 56), 3, 2, 0, 1, True, note="ceil"),
    _pool("SqueezeNet", "max", (96, 109, 109), 3, 2, 0, 1, True, note="ceil"),
    _pool("Inception", "avg", (192, 35, 35), 3, 1, 1),
    _pool("Inception", "avg", (288, 35, 35), 3, 1, 1),
    _pool("Inception", "avg", (768, 17, 17), 3, 1, 1),
    _pool("Inception", "max", (288, 35, 35), 3, 2),
    _pool("DenseNet", "avg", (128, 56, 56), 2, 2),
    _pool("ResNet-D", "avg", (256, 56, 56), 2, 2, 0, True, False, note="ceil uncounted"),
    _pool("SPP", "max", (512, 20, 20), 5, 1, 2),
    _pool("SPP", "max", (512, 20, 20), 9, 1, 4),
    _pool("SPP", "max", (512, 20, 20), 13, 1, 6),
    _pool("Morphology", "max", (8, 1000, 1000), 5, 1, 2, slow=True, **_ONE),
    _pool("Morphology", "max", (8, 1000, 1000), 9, 1, 4, slow=True, **_ONE),
    _pool("Morphology", "avg", (8, 1000, 1000), 5, 1, 2, slow=True, **_ONE),
    _pool("Morphology", "avg", (8, 1000, 1000), 9, 1, 4, slow=True, **_ONE),
    _pool("Morphology", "max", (8, 1000, 1000), 31, 1, 15, slow=True, **_ONE),
    _pool("Morphology", "avg", (8, 1000, 1000), 31, 1, 15, slow=True, **_ONE),
    _adaptive("ResNet", "avg", (512, 7, 7), 1, **_SMALL),
    _adaptive("ResNet", "avg", (2048, 7, 7), 1, **_SMALL),
    _adaptive("Global", "avg", (256, 56, 56), 1),
    _adaptive("Adaptive", "avg", (512, 20, 20), 7),
    _adaptive("Adaptive", "max", (512, 20, 20), 7),
    _adaptive("Adaptive", "avg", (256, 28, 28), 6),
    _adaptive("Adaptive", "max", (256, 28, 28), 6),
    _pool("Antialiased", "blur", (256, 56, 56), 3, 2),
    _pool("Antialiased", "max_blur", (64, 112, 112), 2, 2),
    _pool("Lp", "lp", (64, 56, 56), 2, 3, 2, note="p2"),
    _pool("Text", "max", (256, 8, 100), (2, 1), (2, 1)),
    _pool("Normalization", "avg", (1, 100, 54, 54), (5, 1, 1), 1),
    _pool("Sequence", "max", (192, 65536), 8, 1, 0, 3, note="dilation 3", **_ONE),
    _pool("Sequence", "avg", (256, 32000), 5, 4, 2, **_ONE),
    _pool("Video", "max", (64, 32, 112, 112), 3, 2, 1, **_ONE),
    _pool("Video", "max", (64, 64, 64, 64), 2, 2, **_ONE),
    _pool("Video", "avg", (32, 64, 64, 64), 3, 2, 1, **_ONE),
)
TINY: tuple[Case, ...] = (
    _pool("Tiny", "max", (16, 8, 8), 2, 2, **_ONE),
    _pool("Tiny", "avg", (16, 8, 8), 2, 2, **_ONE),
)
"""So small that only the cost of a call is left."""

HEADLINES = ("vgg-64x224-*", "resnet-64x112-*", "inception-192x35-avg-*", "resnet-512x7-*")
"""What --quick measures if no case is named."""


@dataclass(frozen=True)
class Point:
    """One measurement: poolkit, the peers and the limit on one tensor, in turns."""

    case: Case
    batch: int
    dtype: str
    layout: str
    threads: str
    phase: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.batch, *self.case.shape)


def points(
    cases: Sequence[Case],
    dtypes: Sequence[str] = tuple(DTYPES),
    layouts: Sequence[str] = LAYOUTS,
    threads: Sequence[str] = THREADS,
    phases: Sequence[str] = PHASES,
    largest_batch: bool = False,
) -> Iterator[Point]:
    """Every combination that makes sense, ordered so that neighbours share their input."""
    for case in cases:
        batches = case.batches[-1:] if largest_batch else case.batches
        axes = itertools.product(batches, dtypes, layouts, threads, phases)
        for batch, dtype, layout, thread, phase in axes:
            if layout == "channels_last" and case.rank == 1:
                continue
            if dtype == "uint8" and (case.family != "max" or phase != "inference"):
                continue
            yield Point(case, batch, dtype, layout, thread, phase)


def in_default_run(point: Point) -> bool:
    """Whether the default run measures the point; a full run takes hours of stock pooling.

    float32 with all threads: every case in inference; for the largest batch, and slow cases left
    out, training and backward too. Without slow and 3-D cases, and for the largest batch, in
    inference: float32 with one thread, and the other dtypes.
    """
    largest = point.batch == point.case.batches[-1]
    if point.dtype == "float32" and point.threads == "all":
        return point.phase == "inference" or (largest and not point.case.slow)
    if point.case.slow or point.case.rank == 3 or not largest:
        return False
    return point.phase == "inference" and (point.dtype == "float32" or point.threads == "all")


def offset_bytes(family: str, taps: int) -> int:
    """What must be kept of an output, so that backward finds its cell among so many."""
    return 0 if family != "max" else 1 if taps <= 256 else 2


def traffic(point: Point, x: Tensor, y: Tensor) -> tuple[int, int]:
    """Bytes that the phase cannot do without: (read, written).

    Forward reads the input and writes the output, in training also one offset per output of max:
    a byte, or two above 256 taps. Backward reads the output's gradient and the offsets, and writes
    the input's gradient; that of a p-norm needs the input and the output too.
    """
    offsets = y.numel() * offset_bytes(point.case.family, point.case.taps)
    if point.phase == "inference":
        return x.nbytes, y.nbytes
    if point.phase == "training":
        return x.nbytes, y.nbytes + offsets
    operands = x.nbytes + y.nbytes if point.case.family == "lp" else 0
    return y.nbytes + offsets + operands, x.nbytes


def steps(case: Case, dtype: torch.dtype) -> tuple[int, float]:
    """How many roundings, of which size, lie between two honest results of an average or a norm.

    torch adds a window's cells one after the other; gradients and norms of half types are rounded
    after every addition (`half-gradient` and `lp-half` of `poolkit.testing.DEVIATIONS`).
    """
    half = dtype in HALVES
    return case.taps + 4, torch.finfo(dtype if half else torch.float32).eps
