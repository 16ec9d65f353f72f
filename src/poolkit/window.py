"""Which cells belong to which output: the only Python copy of the geometry.

A window is, per axis, an interval of cells with a step. Fixed, adaptive, global, padded and
ceil-mode pooling differ in nothing else. Sizes are worked out here, once per shape and arguments,
and cross to the kernels as one packed string of integers; ``csrc/window.h`` only maps (output, tap)
to a cell.

Nothing but :func:`spans`, which only tools call, loops over windows, so extents may be symbolic.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import ArgumentError

INT64_MAX = 2**63 - 1
PADDING_NAMES = ("valid", "same", "same_lower")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

Packed = str | Sequence[int]
Ints = int | Sequence[int]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]


class Axis(NamedTuple):
    """One axis of a window.

    Output ``i`` of a fixed axis holds the cells ``i * stride - before + t * dilation`` for
    ``0 <= t < kernel``, as far as they lie in ``[0, size)``. ``stride == 0`` marks an adaptive
    axis: output ``i`` holds the cells from ``floor(i * size / out)`` to
    ``ceil((i + 1) * size / out)``, and ``kernel`` is an upper bound of their number.
    """

    size: int
    out: int
    kernel: int
    stride: int
    before: int
    after: int
    dilation: int


@dataclass(frozen=True, slots=True)
class Window:
    """The axes of a window, and what an average divides by (``divisor`` 0: the number of taps).

    ``packed`` is what crosses to the kernels: flags, the divisor, then seven integers per axis, as
    text, which crosses fastest; ``packed_last`` is the same with the flag that makes a backward
    kernel's result channels-last. Which cell a tap in the padding repeats, `padding_mode` says, and
    only blurs ask.
    """

    axes: tuple[Axis, ...]
    include_pad: bool = True
    divisor: int = 0
    padding_mode: str = "zeros"
    packed: Packed = field(init=False, repr=False, compare=False)
    packed_last: Packed = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fields = [number for axis in self.axes for number in axis]
        flags = int(self.include_pad) << 1 | PADDING_MODES.index(self.padding_mode) << 2
        # What may hold symbolic integers is a tuple, and the operators have an overload for it.
        plain = not torch.compiler.is_compiling() and all(type(f) is int for f in fields)
        for name, bits in (("packed", flags), ("packed_last", flags | 1)):
            packed = (bits, self.divisor, *fields)
            object.__setattr__(self, name, " ".join(map(str, packed)) if plain else packed)

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.axes)

    @property
    def output_size(self) -> tuple[int, ...]:
        """The number of windows per axis."""
        return tuple(axis.out for axis in self.axes)

    @property
    def taps(self) -> int:
        """The number of cells of a whole window, padding included."""
        return math.prod([axis.kernel for axis in self.axes])  # Dynamo traces no generator here

    @property
    def offset_dtype(self) -> torch.dtype:
        """The type of a tap's number in its window: uint8, uint16, int32 or int64."""
        taps = self.taps
        if taps <= 2**8:
            return torch.uint8
        if taps <= 2**16:
            return torch.uint16
        return torch.int32 if taps < 2**31 else torch.int64

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The pooled shape of an input of shape ``shape``."""
        return (*shape[: len(shape) - self.rank], *self.output_size)

    def input_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the input whose pooled shape is ``shape``."""
        return (*shape[: len(shape) - self.rank], *(axis.size for axis in self.axes))


def pack(window: Window, channels_last: bool = False) -> Packed:
    """``window`` as the kernels read it."""
    return window.packed_last if channels_last else window.packed


def unpack(packed: Packed) -> tuple[Window, bool]:
    """The inverse of :func:`pack`, for the reference and the fake kernels."""
    flags, divisor, *fields = map(int, packed.split()) if isinstance(packed, str) else packed
    axes = tuple(Axis(*fields[i : i + 7]) for i in range(0, len(fields), 7))
    window = Window(axes, bool(flags & 2), divisor, PADDING_MODES[flags >> 2])
    return window, bool(flags & 1)


# ---- arguments ----------------------------------------------------------------------------------


def _is_symbolic(value: object) -> bool:
    # A SymInt stands for an int wherever sizes go; no type annotation tells one from the other.
    return isinstance(value, torch.SymInt)


def is_bool(value: Any) -> bool:
    """Whether ``value`` is a bool of Python, numpy or torch: all of them pass for 0 or 1."""
    # numpy's is known by its name: the package works without numpy.
    names = ("bool", "bool_")
    return type(value).__name__ in names or getattr(value, "dtype", None) is torch.bool


def as_int(where: str, name: str, value: Any, low: int = -INT64_MAX) -> int:
    """``value`` as an int of at least ``low``; a bool, a float or no number at all is refused."""
    if _is_symbolic(value):
        symbol: int = value
        return symbol
    # The compiler shows a symbolic size as a plain int, of which it can ask nothing else.
    refused = type(value) is not int and is_bool(value)
    try:
        number = value if type(value) is int else operator.index(value)
    except (TypeError, RuntimeError, OverflowError):
        refused = True
    if refused:
        raise ArgumentError(f"{where}: {name} must be an int, got {value!r}")
    if not low <= number <= INT64_MAX:
        raise ArgumentError(f"{where}: {name} must be from {low} to 2**63 - 1, got {number}")
    return number


def as_ints(where: str, name: str, value: Any, rank: int, low: int) -> tuple[int, ...]:
    """``value`` as one int per axis; an int or a sequence of one stands for all axes."""
    if not is_sequence(value):
        return (as_int(where, name, value, low),) * rank
    items = tuple(value)
    if len(items) not in (1, rank):
        raise ArgumentError(f"{where}: {name} must be an int or {rank} of them, got {value!r}")
    numbers = tuple(as_int(where, name, item, low) for item in items)
    return numbers * rank if len(numbers) == 1 else numbers


def is_sequence(value: Any) -> bool:
    """Whether ``value`` holds one number per axis, as opposed to one number or a name."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def is_omitted(value: Any) -> bool:
    """Whether a stride is left to be the kernel size: None, or torch's own default ``()``."""
    return value is None or (is_sequence(value) and len(value) == 0)


def freeze(value: Any) -> Any:
    """``value`` as a key that tells 1 from True and 1.0, so that a cache cannot hide a bad type."""
    if type(value) is int or value is None or type(value) is str:
        return value
    if type(value) is list or type(value) is tuple or isinstance(value, torch.Size):
        return tuple([freeze(item) for item in value])
    if type(value) is bool or type(value) is float:
        return _Odd(value)
    if is_sequence(value):
        return tuple([freeze(item) for item in value])
    try:
        return as_int("", "", value)
    except ArgumentError:
        return _Odd(value)


def freeze_bool(value: Any) -> Any:
    """The same for an argument that must be a bool."""
    return value if type(value) is bool else _Odd(value)


class _Odd:
    """A value of no accepted type: equal only to itself, shown as what it is."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def normalise_padding(where: str, padding: Any, rank: int) -> str | tuple[tuple[int, int], ...]:
    """``padding`` as ``"same"``, ``"same_lower"`` or one (before, after) pair per axis."""
    if isinstance(padding, str):
        if padding not in PADDING_NAMES:
            raise ArgumentError(
                f"{where}: padding must be an int, {rank} ints, {rank} (before, after) pairs or "
                f"one of {', '.join(map(repr, PADDING_NAMES))}, got {padding!r}"
            )
        return padding if padding != "valid" else ((0, 0),) * rank
    if is_sequence(padding) and any(is_sequence(item) for item in padding):
        if len(padding) not in (1, rank) or any(
            not is_sequence(item) or len(item) != 2 for item in padding
        ):
            raise ArgumentError(
                f"{where}: padding must hold one (before, after) pair per axis, got {padding!r}"
            )
        pairs = tuple(
            (as_int(where, "padding", before, 0), as_int(where, "padding", after, 0))
            for before, after in padding
        )
        return pairs * rank if len(pairs) == 1 else pairs
    return tuple((amount, amount) for amount in as_ints(where, "padding", padding, rank, 0))


# ---- shapes -------------------------------------------------------------------------------------


def _traced(shape: Sequence[Any]) -> tuple[int, ...]:
    """``shape`` as numbers: torch.jit.trace has tensors there, and records what it saw anyway."""
    return tuple([int(e) if isinstance(e, torch.Tensor) else e for e in shape])


def spatial(where: str, shape: Sequence[int], rank: int, channels: bool = True) -> tuple[int, ...]:
    """The spatial extents of a batched or unbatched ``shape``, none of them 0, nor ``channels``."""
    names = ("(N, C, L) or (C, L)", "(N, C, H, W) or (C, H, W)", "(N, C, D, H, W) or (C, D, H, W)")
    if len(shape) not in (rank + 1, rank + 2):
        raise ArgumentError(
            f"{where}: input must have the shape {names[rank - 1]}, got {tuple(shape)}"
        )
    first = len(shape) - rank - (1 if channels else 0)
    if any(extent == 0 for extent in shape[first:]):
        what = "no channel and no spatial extent" if channels else "no spatial extent"
        raise ArgumentError(f"{where}: {what} of the input may be 0, got shape {tuple(shape)}")
    return tuple(shape[-rank:])


def _farthest(axis: Axis, named: bool) -> int:
    """Where the last window ends, or a part of that in a graph: see _check_numel.

    ``named``: the padding follows from the extent.
    """
    reach = axis.dilation * axis.kernel
    if not torch.compiler.is_compiling():
        return reach + (axis.out - 1) * axis.stride + axis.before
    return reach if named else reach + axis.before


def _check_numel(where: str, shape: Sequence[int], window: Window) -> Window:
    # Eight bytes each is the widest that any result has (indices). The sizes of a graph are those
    # of tensors that exist; asked for a limit, ``Dim("n")`` would be refused as not meeting it.
    compiling = torch.compiler.is_compiling()
    if not compiling and math.prod(window.output_shape(shape)) > INT64_MAX // 8:
        raise ArgumentError(
            f"{where}: the result of shape {window.output_shape(shape)} has more elements than "
            f"memory can address (input shape {tuple(shape)})"
        )
    return window


def fixed(
    where: str,
    rank: int,
    shape: Sequence[int],
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
    needs_cell: bool,
    include_pad: Any = True,
    divisor: Any = None,
) -> Window:
    """The window of fixed pooling. ``needs_cell``: every window must hold a real cell."""
    shape = _traced(shape)
    extents = spatial(where, shape, rank)
    kernels = as_ints(where, "kernel_size", kernel_size, rank, 1)
    strides = kernels if is_omitted(stride) else as_ints(where, "stride", stride, rank, 1)
    dilations = as_ints(where, "dilation", dilation, rank, 1)
    pads = normalise_padding(where, padding, rank)
    if not isinstance(ceil_mode, bool):
        raise ArgumentError(f"{where}: ceil_mode must be a bool, got {ceil_mode!r}")
    if not isinstance(include_pad, bool):
        raise ArgumentError(f"{where}: count_include_pad must be a bool, got {include_pad!r}")
    if divisor is not None:
        divisor = as_int(where, "divisor_override", divisor)
        if divisor == 0:
            raise ArgumentError(f"{where}: divisor_override must not be 0")
    axes = []
    for i in range(rank):
        axis = _fixed_axis(
            extents[i], kernels[i], strides[i], pads if isinstance(pads, str) else pads[i],
            dilations[i], ceil_mode,
        )  # fmt: skip
        given = (
            f"(input shape {tuple(shape)}, kernel_size {kernels[i]}, stride {strides[i]}, "
            f"padding {(axis.before, axis.after)}, dilation {dilations[i]})"
        )
        name = "DHW"[3 - rank + i] if rank > 1 else "L"
        if axis.out < 1:
            raise ArgumentError(
                f"{where}: axis {name} would have the output size {axis.out} {given}"
            )
        if _farthest(axis, named=isinstance(pads, str)) > INT64_MAX // 2:
            raise ArgumentError(f"{where}: axis {name} reaches beyond 64-bit positions {given}")
        if needs_cell:
            empty = first_empty_window(axis)
            if empty is not None:
                raise ArgumentError(
                    f"{where}: window {empty} of axis {name} holds no cell of the input {given}"
                )
        axes.append(axis)
    return _check_numel(where, shape, Window(tuple(axes), include_pad, divisor or 0))


def blurred(
    where: str,
    rank: int,
    shape: Sequence[int],
    kernels: Sequence[int],
    stride: Any,
    padding: Any,
    padding_mode: Any,
) -> Window:
    """The window of a blur. Padding that is left out gives ``ceil(L / stride)`` outputs."""
    check_mode(where, padding_mode)
    if padding is None:
        padding = tuple([((k - 1) // 2, k // 2) for k in kernels])
    window = fixed(where, rank, shape, kernels, stride, padding, 1, False, False)
    for axis in window.axes:
        check_reach(where, padding_mode, axis.size, axis.before, axis.after)
    return Window(window.axes, padding_mode=padding_mode)


def _fixed_axis(
    size: int, kernel: int, stride: int, pad: str | tuple[int, int], dilation: int, ceil_mode: bool
) -> Axis:
    extent = dilation * (kernel - 1) + 1
    if isinstance(pad, str):
        out = (size + stride - 1) // stride
        total = max((out - 1) * stride + extent - size, 0)
        less, more = total // 2, total - total // 2
        before, after = (less, more) if pad == "same" else (more, less)
        return Axis(size, out, kernel, stride, before, after, dilation)
    before, after = pad
    room = size + before + after - extent
    out = room // stride + 1
    if ceil_mode:
        # Windows that would start in the padding behind the input are dropped, however many.
        # (Not by dividing -room: torch's ONNX exporter truncates a quotient of symbolic sizes.)
        out = min((room + stride - 1) // stride + 1, (size + before - 1) // stride + 1)
    return Axis(size, out, kernel, stride, before, after, dilation)


def first_empty_window(axis: Axis) -> int | None:
    """The first output of a fixed axis that holds no real cell, or None.

    A window that starts at ``a >= 0`` holds cell ``a``, if that is below ``size``. One that starts
    at ``a < 0`` meets the input first at ``a mod dilation``, if it has taps enough to get there.
    """
    size, out, kernel, stride, before, after, dilation = axis
    if before > (kernel - 1) * dilation:
        return 0
    if dilation > size and before > 0:
        negative = min(out, -(-before // stride))
        # Windows whose first non-negative tap falls into the gap [size, dilation).
        index = _first_in_range(stride % dilation, -before % dilation, dilation, size, dilation - 1)
        if index is not None and index < negative:
            return index
    # Only padding wider than a window lets one start beyond the input. It is asked for first, since
    # it is a number where the extents of a graph are symbols, and a question would be a guard.
    if after > (kernel - 1) * dilation and (out - 1) * stride - before >= size:
        return (size + before + stride - 1) // stride
    return None


def _first_in_range(step: int, start: int, modulus: int, low: int, high: int) -> int | None:
    """The smallest x >= 0 with low <= (start + step * x) mod modulus <= high, or None."""
    if low <= start % modulus <= high:
        return 0
    # Shift the range instead of the sequence. It cannot wrap round 0: that would make x = 0 a hit.
    return _first_multiple(step, modulus, (low - start) % modulus, (high - start) % modulus)


def _first_multiple(step: int, modulus: int, low: int, high: int) -> int | None:
    """The smallest x >= 0 with low <= step * x mod modulus <= high, for 0 < low <= high < modulus.

    Euclid's algorithm: the modulus at least halves with every other call.
    """
    if step == 0:
        return None
    if 2 * step > modulus:  # count down instead of up
        return _first_multiple(modulus - step, modulus, modulus - high, modulus - low)
    x = -(-low // step)
    if step * x <= high:
        return x
    # No multiple of step in the range: look for the first pass over the modulus that shifts one in.
    wraps = _first_multiple(-modulus % step, step, low % step, high % step)
    return None if wraps is None else -(-(low + modulus * wraps) // step)


def adaptive(
    where: str, rank: int, shape: Sequence[int], output_size: Any, needs_channels: bool
) -> Window:
    """The window of adaptive pooling: ``output_size`` ints or None (keep the extent)."""
    shape = _traced(shape)
    extents = spatial(where, shape, rank, needs_channels)
    sizes = tuple(output_size) if is_sequence(output_size) else (output_size,) * rank
    if len(sizes) == 1:
        sizes = sizes * rank
    if len(sizes) != rank:
        raise ArgumentError(
            f"{where}: output_size must be an int, None or {rank} of them, got {output_size!r}"
        )
    axes = tuple(
        _adaptive_axis(extent, extent if size is None else as_int(where, "output_size", size, 0))
        for extent, size in zip(extents, sizes, strict=True)
    )
    return _check_numel(where, shape, Window(axes))


def _adaptive_axis(size: int, out: int) -> Axis:
    if out == 1:
        return Axis(size, 1, size, 1, 0, 0, 1)
    # Equal parts are a fixed window. What is compiled keeps the general form, and the kernels see
    # to it: asking a symbolic extent for a remainder would pin the program to sizes of one residue.
    if not torch.compiler.is_compiling() and out > 0 and size % out == 0:
        return Axis(size, out, size // out, size // out, 0, 0, 1)
    most = size // out + 2 if out > 0 else 1
    return Axis(size, out, most, 0, 0, 0, 1)


# ---- padding with cells of the input -------------------------------------------------------------


def check_mode(where: str, padding_mode: Any) -> None:
    """Refuse a ``padding_mode`` that is none of `PADDING_MODES`."""
    if padding_mode not in PADDING_MODES:
        raise ArgumentError(
            f"{where}: padding_mode must be one of {', '.join(map(repr, PADDING_MODES))}, "
            f"got {padding_mode!r}"
        )


def check_reach(where: str, mode: str, size: int, before: int, after: int) -> None:
    """Refuse padding for which an extent has too few cells to repeat."""
    most = {"reflect": size - 1, "circular": size}.get(mode)
    if most is not None and max(before, after) > most:
        raise ArgumentError(
            f"{where}: padding with padding_mode={mode!r} must be at most {most} for an extent of "
            f"{size}, got {(before, after)}"
        )


def sources(mode: str, size: int, position: Tensor) -> Tensor:
    """The cell of the input at each position of an axis, or the one that stands there for it.

    Zeros have none: the nearest cell stands for them.
    """
    if mode == "circular":
        # By a tensor, because the exporter to ONNX takes no symbolic number for a divisor.
        return position % torch.full((), size, dtype=torch.int64, device=position.device)
    if mode != "reflect":
        return position.clamp(0, size - 1)
    position = position.abs()
    return torch.where(position < size, position, 2 * (size - 1) - position)


# ---- cells --------------------------------------------------------------------------------------


def spans(axis: Axis) -> list[range]:
    """The real cells of every output of ``axis``, in order; an empty range if there is none."""
    size, out, kernel, stride, before, _, dilation = axis
    if stride == 0:
        return [range(i * size // out, -((i + 1) * -size // out)) for i in range(out)]
    starts = range(-before, out * stride - before, stride)
    # A window that starts before the input meets it at the first tap of its residue.
    return [
        range(
            start if start >= 0 else start % dilation,
            min(start + kernel * dilation, size),
            dilation,
        )
        for start in starts
    ]


class Piece(NamedTuple):
    """Some windows of an axis by themselves: as an axis of their own, over a part of the cells."""

    axis: Axis
    outputs: range
    cells: range


def piece(axis: Axis, outputs: range, cells: range = range(0)) -> Piece:
    """The windows ``outputs`` of a fixed axis with the taps and divisors that they have there.

    The piece has more windows in front where one of its own cannot come first, and at least one;
    it has all ``cells``, those in no window too.
    """
    size, out, kernel, stride, before, after, dilation = axis
    # No padding is negative: the first window must not begin behind the first cell, or the last.
    reach = cells.start if cells else size - 1
    first = min((reach + before) // stride, outputs.start if outputs else out - 1)
    stop = outputs.stop if outputs else first + 1
    start = first * stride - before
    end = (stop - 1) * stride - before + (kernel - 1) * dilation + 1
    low = max(start, 0)
    high = min(max(end, low + 1, cells.stop if cells else 0), size)
    part = Axis(high - low, stop - first, kernel, stride, low - start, size + after - high,
                dilation)  # fmt: skip
    if _is_whole(part) and not _is_whole(axis):
        # The kernels sum up a plane that is one window in an order of their own. All taps of this
        # one are real, so a cell more behind them changes no divisor.
        part = part._replace(after=1)
    return Piece(part, range(first, stop), range(low, high))


def _is_whole(axis: Axis) -> bool:
    dense = axis.dilation == 1 and not (axis.before or axis.after)
    return dense and axis.out == 1 and axis.kernel == axis.size


def holders(axis: Axis, cells: range) -> range:
    """The outputs of a fixed axis from the first to the last that may hold one of ``cells``."""
    if not cells:
        return range(0)
    reach = cells.start + axis.before - (axis.kernel - 1) * axis.dilation
    low = min(max(0, -(-reach // axis.stride)), axis.out)
    high = min((cells.stop - 1 + axis.before) // axis.stride + 1, axis.out)
    return range(low, max(low, high))


def overhang(axis: Axis) -> int:
    """How far the last window of a fixed axis reaches beyond the input; negative if it does not."""
    reach = (axis.out - 1) * axis.stride + axis.dilation * (axis.kernel - 1) + 1
    return reach - axis.before - axis.size


def is_clipped(axis: Axis) -> bool:
    """Whether a window of a fixed axis has taps that are no real cells."""
    return axis.before > 0 or overhang(axis) > 0
