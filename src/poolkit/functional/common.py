"""What every public function does before it calls an operator: check, and choose who serves."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import window as geometry
from ..errors import ArgumentError, DtypeError
from ..window import Padding, Window, freeze

FLOATS = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16})
ORDERED = FLOATS | {torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool}
SUMMED = FLOATS | {torch.int64}
_REFUSED = frozenset({torch.complex32, torch.complex64, torch.complex128})

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

F = TypeVar("F", bound=Callable[..., Any])

_SHAPES = {1: ("L", "L'"), 2: ("H, W", "H', W'"), 3: ("D, H, W", "D', H', W'")}

_PADDING = """padding: cells added on both sides: an int, one int per axis, one ``(before, after)`` pair per
            axis, or ``"valid"`` (none), ``"same"`` (the output has ``ceil(L / stride)`` cells, the odd
            padding cell comes after) or ``"same_lower"`` (before). Any amount that leaves every
            window a cell that counts."""

_MODE = """padding_mode: ``"zeros"`` (padding that never wins a maximum and counts as zeros in sums),
            ``"reflect"``, ``"replicate"`` or ``"circular"``, whose cells count as real ones."""

_ERRORS = """ArgumentError: a size, shape or option that cannot be; it names the argument, what was expected
            and what came. It is a ``ValueError`` and a ``RuntimeError``.
        DtypeError: a dtype without this operation. It is a ``TypeError`` and a ``RuntimeError``."""


def documented(template: str) -> Callable[[F], F]:
    """Give a function its family's docstring, with the shapes of its rank filled in."""

    def fill(function: F) -> F:
        rank = int(function.__name__.split("_with")[0][-2])
        cells, out = _SHAPES[rank]
        function.__doc__ = (
            template.replace("{n}", str(rank))
            .replace("{shapes}", f"(N, C, {cells}) -> (N, C, {out})")
            .replace("{cells}", cells)
            .replace("{out}", out)
            .replace("{ones}", ", ".join("1" * rank))
            .replace("{sizes}", ", ".join(("4", "6", "8")[3 - rank :]))
            .replace("{halves}", ", ".join(("2", "3", "4")[3 - rank :]))
            .replace("{padding}", _PADDING)
            .replace("{padding_mode}", _MODE)
            .replace("{errors}", _ERRORS)
        )
        return function

    return fill


def shown(value: Any) -> Any:
    """``value`` as a cache key: itself if it is a plain int, else frozen."""
    return value if type(value) is int or value is None else freeze(value)


def fixed(
    where: str,
    rank: int,
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
    needs_cell: bool,
    include_pad: Any = True,
    divisor: Any = None,
) -> Window:
    return geometry.fixed_cached(  # type: ignore[no-any-return]
        where, rank, x.shape, shown(kernel_size), shown(stride), shown(padding), shown(dilation),
        ceil_mode, needs_cell, include_pad, shown(divisor),
    )  # fmt: skip


def adaptive(where: str, rank: int, x: Tensor, output_size: Any, needs_channels: bool) -> Window:
    return geometry.adaptive_cached(  # type: ignore[no-any-return]
        where, rank, x.shape, shown(output_size), needs_channels
    )


def ours(where: str, x: Tensor, dtypes: frozenset[torch.dtype]) -> bool:
    """Whether poolkit's operators serve ``x``; if not, the stock operator does.

    Raises:
        DtypeError: a strided tensor of a dtype that the operation has no meaning for.
    """
    if x.dtype in dtypes:
        if x.is_cpu and x.layout is torch.strided and not x.is_nested:
            return True
        return x.device.type == "meta"
    if not isinstance(x, Tensor):
        raise ArgumentError(f"{where}: input must be a tensor, got {type(x).__name__}")
    if x.layout is torch.strided and not x.is_quantized:
        names = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        raise DtypeError(f"{where}: input must have one of the dtypes {names}, got {x.dtype}")
    return False


def foreign(where: str, x: Tensor, stock: Callable[[], Any], extras: dict[str, Any]) -> Any:
    """The stock operator's result for a tensor that poolkit has no kernel for."""
    used = [name for name, value in extras.items() if value]
    if used:
        raise ArgumentError(
            f"{where}: {', '.join(used)} beyond torch's own arguments is not available for a "
            f"{x.dtype} tensor of layout {x.layout} on {x.device}"
        )
    return stock()


def is_symmetric(padding: Any) -> bool:
    """Whether torch takes this padding: an int, or one int per axis."""
    if isinstance(padding, str):
        return False
    return not any(isinstance(p, (tuple, list)) for p in padding) if _is_seq(padding) else True


def _is_seq(value: Any) -> bool:
    return isinstance(value, (tuple, list))


# ---- padding with cells of the input ---------------------------------------------------------------


class Padded:
    """``x`` with cells of its own around it, and the way back from indices into it."""

    def __init__(
        self, where: str, rank: int, x: Tensor, window: Window, mode: str, padding: Padding
    ) -> None:
        self.rank = rank
        self.sizes = tuple(x.shape[-rank:])
        self.sources = []
        for i, axis in enumerate(window.axes):
            source = _sources(where, mode, axis.size, axis.before, axis.after, x.device)
            if axis.before or axis.after:
                x = x.index_select(x.dim() - rank + i, source)
            self.sources.append(source)
        layout = torch._prims_common.suggest_memory_format(x)
        self.x = x.contiguous(memory_format=layout)

    def indices(self, index: Tensor) -> Tensor:
        """Indices in the plane of the input from indices in the padded plane."""
        result: Tensor = torch.zeros_like(index)
        place = 1
        for source, size in zip(reversed(self.sources), reversed(self.sizes), strict=True):
            result = result + source[index % len(source)] * place
            index = index // len(source)
            place *= size
        return result


def check_mode(where: str, padding_mode: Any) -> None:
    if padding_mode not in PADDING_MODES:
        raise ArgumentError(
            f"{where}: padding_mode must be one of {', '.join(map(repr, PADDING_MODES))}, "
            f"got {padding_mode!r}"
        )


def _sources(
    where: str, mode: str, size: int, before: int, after: int, device: torch.device
) -> Tensor:
    """The cell of the input that each cell of the padded axis repeats."""
    most = {"reflect": size - 1, "circular": size, "replicate": before + after}[mode]
    if max(before, after) > most:
        raise ArgumentError(
            f"{where}: padding with padding_mode={mode!r} must be at most {most} for an extent of "
            f"{size}, got {(before, after)}"
        )
    position = torch.arange(-before, size + after, device=device)
    if mode == "circular":
        return position % size
    if mode == "replicate":
        return position.clamp(0, size - 1)
    position = position.abs()
    return torch.where(position < size, position, 2 * (size - 1) - position)
