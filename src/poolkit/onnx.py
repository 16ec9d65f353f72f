"""ONNX: what ``torch.onnx.export`` writes in place of the raw operators.

While a model is exported, `poolkit.ops` calls the functions of :data:`LOWERED` and not its kernels.
They are torch code around operators of ONNX, which ``torch.onnx.ops.symbolic`` writes:

- *windows*: MaxPool, AveragePool, LpPool. Ceil mode, whose last window ONNX's versions disagree on,
  never appears: the padding after the input is what makes the floor formula give the same number of
  windows. ONNX Runtime wants padding smaller than the kernel; more of it is a Pad before.
- *cells*: where no such operator says it (adaptive windows of unequal size, dilated averages,
  dtypes without a kernel), a Gather of the cells of every window and a reduction, axis by axis.
- *blurs*: a Pad and a Conv of every channel by itself, or sums of slices.

Every operator that is written exists since opset 18, with the same meaning up to the latest.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ArgumentError
from .norms import composed
from .window import Axis, Packed, Window, overhang, spans, unpack

__all__ = ["decompositions"]

_OPSET = 18

# The dtype in which ONNX Runtime takes the maximum of one that it has no MaxPool for; each holds
# every value of the other.
_MAX_IN = {
    torch.bfloat16: torch.float32,
    torch.int16: torch.float32,
    torch.int32: torch.float64,
    torch.bool: torch.uint8,
}
# The same for all other operators, which it has for float32, float64, int32 and int64.
_PLAIN = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.int8: torch.int32,
    torch.uint8: torch.int32,
    torch.int16: torch.int32,
    torch.bool: torch.int32,
}


def exporting() -> bool:
    """Whether ``torch.onnx.export`` is at work."""
    return torch.onnx.is_in_onnx_export()


# Dynamo would take the flag for False, and shall call the function while it traces. This is what
# torch.compiler.assume_constant_result does, after it has imported Dynamo, for a second.
exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]  # noqa: SLF001


def plain(x: Tensor) -> Tensor:
    """``x`` in a dtype that holds its values and that ONNX Runtime computes with."""
    return x.to(_PLAIN.get(x.dtype, x.dtype))


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What a program of ``torch.export`` has to be decomposed with before it goes to ONNX.

    ``torch.onnx.export(model, args)`` needs nothing. An ``ExportedProgram`` that was made before
    holds poolkit's raw operators: decompose it first.

    Returns:
        A table for ``ExportedProgram.run_decompositions``.

    Raises:
        RuntimeError: poolkit's native library does not serve; then there are no raw operators.

    Example:
        >>> import torch, poolkit
        >>> program = torch.export.export(poolkit.nn.MaxPool2d(2), (torch.zeros(1, 1, 4, 4),))
        >>> program = program.run_decompositions(poolkit.onnx.decompositions())
        >>> [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        ['onnx_symbolic._symbolic.default']

    Source: https://onnx.ai/onnx/operators/
    """
    if not hasattr(torch.ops.poolkit, "max_pool"):
        raise RuntimeError("poolkit's native library does not serve, so it has no raw operators")
    return {
        getattr(getattr(torch.ops.poolkit, name), overload): function
        for name, function in LOWERED.items()
        for overload in ("default", "text")
    }


# ---- windows ------------------------------------------------------------------------------------


def _known(condition: Any) -> bool:
    """Whether ``condition`` holds for every value of the symbolic sizes in it, without a guard."""
    # Imports sympy, which takes as long as poolkit.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return bool(statically_known_true(condition))


def _axes(window: Window) -> list[Axis]:
    """The axes, adaptive ones as fixed ones where they are."""
    return [_fixed_if_even(axis) for axis in window.axes]


def _fixed_if_even(axis: Axis) -> Axis:
    if axis.stride != 0:
        return axis
    if _known(axis.out == axis.size):
        return Axis(axis.size, axis.out, 1, 1, 0, 0, 1)
    if _is_static(axis) and axis.out > 0 and axis.size % axis.out == 0:
        step = axis.size // axis.out
        return Axis(axis.size, axis.out, step, step, 0, 0, 1)
    return axis


def _is_static(axis: Axis) -> bool:
    return all(type(number) is int for number in axis)


def _is_global(axis: Axis) -> bool:
    """Whether the one window of the axis is all of it."""
    whole = _known(axis.out == 1) and _known(axis.kernel == axis.size)
    return whole and axis.stride != 0 and axis.dilation == 1 and _known(axis.before == 0)


def _is_floor(axis: Axis) -> bool:
    """Whether ``out`` of a fixed axis is what floor mode gives."""
    room = axis.size + axis.before + axis.after - axis.dilation * (axis.kernel - 1) - 1
    return _known(axis.out == room // axis.stride + 1)


def _is_whole(axis: Axis) -> bool:
    """Whether every window of a fixed axis ends inside the padded extent."""
    return _is_floor(axis) or _known(overhang(axis) <= axis.after)


def _padding(axis: Axis) -> tuple[int, int]:
    """The padding with which ``floor`` gives ``out`` windows."""
    if _is_floor(axis):
        return axis.before, axis.after
    after: int = torch.sym_max(overhang(axis), 0)  # type: ignore[no-untyped-call]  # torch's
    return axis.before, after


def _have_kernels(axes: Sequence[Axis]) -> bool:
    """Whether the axes are what MaxPool and its like can be told: a fixed kernel."""
    return all(axis.stride != 0 and type(axis.kernel) is int for axis in axes)


def _fits(axes: Sequence[Axis]) -> bool:
    """Whether the padding may stand in the operator itself."""
    return all(
        type(amount) is int and amount < axis.kernel for axis in axes for amount in _padding(axis)
    )


def _padded(x: Tensor, axes: Sequence[Axis], value: float) -> Tensor:
    return F.pad(x, [n for axis in reversed(axes) for n in _padding(axis)], value=value)


def _geometry(axes: Sequence[Axis], padded: bool) -> dict[str, Any]:
    """The attributes of a pooling operator over ``axes``; ``padded``: its input is."""
    pads = [(0, 0) if padded else _padding(axis) for axis in axes]
    return {
        "kernel_shape": [axis.kernel for axis in axes],
        "strides": [axis.stride for axis in axes],
        "pads": [before for before, _ in pads] + [after for _, after in pads],
    }


def _node(
    name: str, inputs: Sequence[Tensor], attributes: dict[str, Any], shape: Sequence[int]
) -> Tensor:
    """One operator of ONNX, whose result has the dtype of its first input."""
    return torch.onnx.ops.symbolic(
        name, inputs, attributes, dtype=inputs[0].dtype, shape=shape, version=_OPSET
    )


def _pooled(name: str, x: Tensor, axes: Sequence[Axis], attributes: dict[str, Any]) -> Tensor:
    """A pooling operator of ONNX over ``(N, C, *spatial)`` or ``(C, *spatial)``."""
    batched = x if x.dim() == len(axes) + 2 else x.unsqueeze(0)
    shape = (*batched.shape[:2], *(axis.out for axis in axes))
    y = _node(name, (batched,), attributes, shape)
    return y if batched is x else y.squeeze(0)


# ---- cells --------------------------------------------------------------------------------------


def _refuse_dynamic(where: str, axes: Sequence[Axis]) -> None:
    for axis, letter in zip(axes, "DHW"[-len(axes) :], strict=True):
        if not (_is_static(axis) or _is_global(axis) or _is_each(axis)):
            raise ArgumentError(
                f"ONNX export of {where}: axis {letter} must have a fixed extent, because these "
                f"windows can only be written as a table of their cells, got the extent "
                f"{axis.size}: leave that axis out of dynamic_shapes"
            )


def _is_each(axis: Axis) -> bool:
    """Whether every cell is a window of its own."""
    return axis.kernel == 1 and axis.stride == 1 and _known(axis.out == axis.size)


def _table(axis: Axis, filler: int | None) -> Tensor:
    """The cells of every window, ``(out, taps)``; shorter ones filled up, or with their last."""
    rows = [list(cells) for cells in spans(axis)]
    taps = max((len(row) for row in rows), default=0)
    return torch.tensor(
        [row + [row[-1] if filler is None else filler] * (taps - len(row)) for row in rows],
        dtype=torch.int64,
    ).reshape(axis.out, taps)


def _gathered(x: Tensor, table: Tensor, dim: int) -> Tensor:
    """``x`` with the axis ``dim`` as two: windows and taps."""
    shape = (*x.shape[:dim], *table.shape, *x.shape[dim + 1 :])
    return _node("Gather", (x, table), {"axis": dim}, shape)


def _max_of_cells(x: Tensor, axes: Sequence[Axis]) -> Tensor:
    for dim, axis in enumerate(axes, x.dim() - len(axes)):
        if _is_global(axis):
            x = x.amax(dim, keepdim=True)
        elif not _is_each(axis):
            x = _gathered(x, _table(axis, None), dim).amax(dim + 1)
    return x


def _max_of_cells_indices(x: Tensor, axes: Sequence[Axis]) -> tuple[Tensor, Tensor]:
    """The maxima and torch's index of each, the first of equal ones."""
    first, rank = x.dim() - len(axes), len(axes)
    tables = [_table(axis, None) for axis in axes]
    for i in reversed(range(rank)):
        x = _gathered(x, tables[i], first + i)
    windows = [first + 2 * i for i in range(rank)]
    x = x.permute(*range(first), *windows, *(dim + 1 for dim in windows)).flatten(-rank)
    values, last = x.amax(-1), x.shape[-1] - 1
    # Not TopK or ArgMax: the one gives some of equal values, the other has no int64.
    taps = torch.where(x == values.unsqueeze(-1), torch.arange(last + 1), last).amin(-1)
    place, terms = 1, list[Tensor]()
    for i in reversed(range(rank)):
        out, kernel = tables[i].shape
        row = _along(torch.arange(0, out * kernel, kernel), first + i, taps)
        cell = _node("Gather", (tables[i].flatten(), taps % kernel + row), {}, taps.shape)
        terms.append(cell * place)
        taps, place = _divided(taps, torch.tensor(kernel)), place * axes[i].size
    return values, sum(terms[1:], terms[0])


def _sum_of_cells(x: Tensor, axes: Sequence[Axis], mean: bool) -> Tensor:
    """The sums; but the mean, if asked, along a global axis, of which ONNX need not know the size.

    What fills up a window is a zero behind the last cell: zero times another cell would make a NaN
    of an infinity.
    """
    for dim, axis in enumerate(axes, x.dim() - len(axes)):
        if mean and _is_global(axis):
            x = x.mean(dim, keepdim=True)
        elif not _is_each(axis):
            if len(set(map(len, spans(axis)))) > 1:
                x = F.pad(x, [0] * (2 * (x.dim() - 1 - dim)) + [0, 1])
            x = _gathered(x, _table(axis, axis.size), dim).sum(dim + 1)
    return x


def _counted(axis: Axis, include_pad: bool) -> Axis:
    """``axis`` over the cells that an average counts."""
    if not include_pad:
        return axis
    return axis._replace(size=axis.before + axis.size + axis.after, before=0)


def _counts(axis: Axis, include_pad: bool) -> list[int]:
    """What an average divides by, window by window."""
    return [len(cells) for cells in spans(_counted(axis, include_pad))]


def _count_tensor(axis: Axis, include_pad: bool) -> Tensor:
    """The same of any fixed axis, computed by ONNX if its extent is dynamic."""
    if _is_static(axis):
        return torch.tensor(_counts(axis, include_pad))
    axis = _counted(axis, include_pad)
    start = torch.arange(axis.out).unsqueeze(1) * axis.stride - axis.before
    cell = start + torch.arange(axis.kernel) * axis.dilation
    return ((cell >= 0) & (cell < axis.size)).sum(1)


def _along(counts: Tensor, dim: int, like: Tensor) -> Tensor:
    """``counts`` of the axis ``dim``, as they are broadcast over ``like``."""
    return counts.to(like.dtype).view(-1, *(1 for _ in range(like.dim() - 1 - dim)))


# ---- operators ----------------------------------------------------------------------------------


def _spatial(axes: Sequence[Axis]) -> tuple[int, ...]:
    return tuple(range(-len(axes), 0))


def _name(family: str, window: Window) -> str:
    adaptive = "adaptive_" if any(axis.stride == 0 for axis in window.axes) else ""
    return f"{adaptive}{family}{window.rank}d"


def _max_pool(x: Tensor, packed: Packed) -> Tensor:
    window = unpack(packed)[0]
    axes = _axes(window)
    if all(_is_global(axis) for axis in axes):
        y = plain(x).amax(_spatial(axes), keepdim=True)
    elif _have_kernels(axes) and x.dtype is not torch.int64:
        wide = x.to(_MAX_IN.get(x.dtype, x.dtype))
        fits = _fits(axes)
        y = wide if fits else _padded(wide, axes, _lowest(wide.dtype))
        attributes = {**_geometry(axes, not fits), "dilations": [axis.dilation for axis in axes]}
        y = _pooled("MaxPool", y, axes, attributes)
    else:
        _refuse_dynamic(_name("max_pool", window), axes)
        y = _max_of_cells(plain(x), axes)
    return y.to(x.dtype)


def _lowest(dtype: torch.dtype) -> float:
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _max_pool_offsets(x: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    """The maxima and, in place of their offsets, torch's indices: what is made of offsets next."""
    window = unpack(packed)[0]
    axes = _axes(window)
    if not _have_kernels(axes) or x.dtype is torch.int64 or not _fits(axes):
        _refuse_dynamic(_name("max_pool", window) + " with indices", axes)
        values, indices = _max_of_cells_indices(plain(x), axes)
        return values.to(x.dtype), indices
    wide = x.to(_MAX_IN.get(x.dtype, x.dtype))
    batched = wide if x.dim() == len(axes) + 2 else wide.unsqueeze(0)
    shape = (*batched.shape[:2], *window.output_size)
    values, indices = torch.onnx.ops.symbolic_multi_out(
        "MaxPool",
        (batched,),
        {**_geometry(axes, False), "dilations": [axis.dilation for axis in axes]},
        dtypes=(batched.dtype, torch.int64),
        shapes=(shape, shape),
        version=_OPSET,
    )
    # ONNX counts through the whole tensor, torch through the plane. (torch's exporter takes a
    # remainder by a tensor, by a symbolic number not.)
    plane = math.prod([axis.size for axis in axes])
    indices = indices % torch.scalar_tensor(plane, dtype=torch.int64)
    if batched is not wide:
        values, indices = values.squeeze(0), indices.squeeze(0)
    return values.to(x.dtype), indices


def _plane_indices(offsets: Tensor, packed: Packed) -> Tensor:
    return offsets


def _avg_pool(x: Tensor, packed: Packed) -> Tensor:
    window = unpack(packed)[0]
    axes = _axes(window)
    wide = plain(x)
    mean = wide.is_floating_point() and not window.divisor
    if mean and all(_is_global(axis) for axis in axes):
        return wide.mean(_spatial(axes), keepdim=True).to(x.dtype)
    if _is_float_kernel(wide, axes) and all(axis.dilation == 1 for axis in axes):
        return _avg_of_windows(wide, axes, window).to(x.dtype)
    _refuse_dynamic(_name("avg_pool", window), axes)
    y = _sum_of_cells(wide, axes, mean)
    divisor = window.divisor or 1
    for dim, axis in enumerate(axes, x.dim() - len(axes)):
        if window.divisor or _is_each(axis) or (mean and _is_global(axis)):
            continue
        counts = _counts(axis, window.include_pad)
        if len(set(counts)) == 1:
            divisor *= counts[0]
        else:
            y = _divided(y, _along(torch.tensor(counts), dim, y))
    return (y if divisor == 1 else _divided(y, torch.tensor(divisor))).to(x.dtype)


def _is_float_kernel(x: Tensor, axes: Sequence[Axis]) -> bool:
    """Whether ONNX Runtime has an AveragePool and an LpPool for it, which it has for one dtype."""
    return x.dtype is torch.float32 and _have_kernels(axes)


def _avg_of_windows(x: Tensor, axes: Sequence[Axis], window: Window) -> Tensor:
    counted = window.include_pad or window.divisor != 0
    fits = _fits(axes)
    attributes = {**_geometry(axes, not fits), "count_include_pad": int(counted or not fits)}
    y = _pooled("AveragePool", x if fits else _padded(x, axes, 0), axes, attributes)
    if window.divisor:
        return y * (window.taps / window.divisor)
    for dim, axis in enumerate(axes, x.dim() - len(axes)):
        # ONNX has divided by the whole kernel.
        if not _is_whole(axis) if counted else not fits:
            y = y * (axis.kernel / _along(_count_tensor(axis, counted), dim, y))
    return y


def _divided(x: Tensor, divisor: Tensor) -> Tensor:
    # ONNX's division of integers truncates, as torch's average does; torch's own goes by way of
    # floating point.
    return _node("Div", (x, divisor.to(x.dtype)), {}, x.shape)


def _lp_pool(x: Tensor, p: float, packed: Packed) -> Tensor:
    window = unpack(packed)[0]
    axes = _axes(window)
    wide = plain(x)
    if p != 2:
        return composed(wide, p, window, lambda t: _avg_pool(t, packed)).to(x.dtype)
    absolute = window.divisor != 0
    if _is_float_kernel(wide, axes) and (absolute or all(_is_whole(axis) for axis in axes)):
        fits = _fits(axes)
        attributes = {**_geometry(axes, not fits), "p": 2}
        attributes["dilations"] = [axis.dilation for axis in axes]
        y = _pooled("LpPool", wide if fits else _padded(wide, axes, 0), axes, attributes)
        return y.to(x.dtype)
    total = _avg_pool(wide * wide, packed)
    return (total if absolute else total * window.taps).sqrt().to(x.dtype)


def _blur_pool(x: Tensor, taps: Sequence[float], packed: Packed) -> Tensor:
    window = unpack(packed)[0]
    filters, used = [], 0
    for axis in window.axes:
        filters.append(taps[used : used + axis.kernel])
        used += axis.kernel
    y = _surrounded(plain(x), window)
    # ONNX Runtime has a convolution for one dtype, and its weights need the number of channels.
    if y.dtype is torch.float32 and type(y.shape[-window.rank - 1]) is int:
        return _convolved(y, filters, window).to(x.dtype)
    for dim, (axis, weights) in enumerate(
        zip(window.axes, filters, strict=True), x.dim() - window.rank
    ):
        shape = (*y.shape[:dim], axis.out, *y.shape[dim + 1 :])
        terms = [_every(y, dim, t, axis, shape) * weight for t, weight in enumerate(weights)]
        y = sum(terms[1:], terms[0])
    return y.to(x.dtype)


def _surrounded(x: Tensor, window: Window) -> Tensor:
    """``x`` with the padding of a blur around it."""
    axes, first = window.axes, x.dim() - window.rank
    if not any(axis.before or axis.after for axis in axes):
        return x
    if window.padding_mode == "circular":  # ONNX's Pad has it from opset 19 on
        for dim, axis in enumerate(axes, first):
            before = x.narrow(dim, axis.size - axis.before, axis.before)
            x = torch.cat([before, x, x.narrow(dim, 0, axis.after)], dim)
        return x
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}[window.padding_mode]
    lead = [0] * first
    pads = torch.tensor([*lead, *(a.before for a in axes), *lead, *(a.after for a in axes)])
    shape = (*x.shape[:first], *(a.before + a.size + a.after for a in axes))
    return _node("Pad", (x, pads), {"mode": mode}, shape)


def _convolved(x: Tensor, filters: Sequence[Sequence[float]], window: Window) -> Tensor:
    """Every channel by itself with the product of the filters."""
    kernel = torch.ones((), dtype=torch.float64)
    for weights in filters:
        kernel = kernel.unsqueeze(-1) * torch.tensor(weights, dtype=torch.float64)
    batched = x if x.dim() == window.rank + 2 else x.unsqueeze(0)
    channels = batched.shape[1]
    kernels = kernel.to(x.dtype).expand(channels, 1, *kernel.shape).contiguous()
    attributes = {"group": channels, "strides": [axis.stride for axis in window.axes]}
    y = _node("Conv", (batched, kernels), attributes, window.output_shape(batched.shape))
    return y if batched is x else y.squeeze(0)


def _every(x: Tensor, dim: int, start: int, axis: Axis, shape: Sequence[int]) -> Tensor:
    """Every stride-th of the cells from ``start`` on, for as many outputs as the axis has."""
    end = torch.scalar_tensor(start + (axis.out - 1) * axis.stride + 1, dtype=torch.int64)
    starts, dims, steps = (torch.tensor([n]) for n in (start, dim, axis.stride))
    return _node("Slice", (x, starts, end.reshape(1), dims, steps), {}, shape)


def _max_blur_pool(x: Tensor, taps: Sequence[float], dense: Packed, packed: Packed) -> Tensor:
    return _blur_pool(_max_pool(x, dense), taps, packed)


def _put(x: Tensor, indices: Tensor, packed: Packed) -> Tensor:
    """The last value that names a cell, found by its number: the last one in every runtime."""
    values, index, empty = _into_planes(plain(x), indices, packed)
    number = torch.arange(index.shape[-1]).expand(index.shape)
    nobody = torch.full_like(empty, -1, dtype=torch.int64)
    winner = nobody.scatter_reduce(-1, index, number, "amax")
    chosen = values.gather(-1, winner.clamp(min=0))
    return _in_planes(torch.where(winner >= 0, chosen, torch.zeros_like(chosen)), x, packed)


def _add_at(x: Tensor, indices: Tensor, packed: Packed) -> Tensor:
    values, index, empty = _into_planes(plain(x), indices, packed)
    return _in_planes(empty.scatter_add(-1, index, values), x, packed)


def _into_planes(x: Tensor, indices: Tensor, packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
    """Values and indices of flat planes, and flat planes of zeros for them."""
    window = unpack(packed)[0]
    values, index = x.flatten(-window.rank), indices.flatten(-window.rank)
    cells = math.prod([axis.size for axis in window.axes])
    return values, index, values.new_zeros(()).expand(*index.shape[:-1], cells)


def _in_planes(flat: Tensor, x: Tensor, packed: Packed) -> Tensor:
    return flat.to(x.dtype).view(unpack(packed)[0].input_shape(x.shape))


def _refuse_fractional(*_: Any) -> Any:
    raise ArgumentError("ONNX export of fractional pooling: ONNX has no operator for it")


def _refuse_gradient(*_: Any) -> Any:
    raise ArgumentError("ONNX export of a gradient of pooling: ONNX has no operator for it")


LOWERED: dict[str, Callable[..., Any]] = {
    "max_pool": _max_pool,
    "max_pool_offsets": _max_pool_offsets,
    "plane_indices": _plane_indices,
    "avg_pool": _avg_pool,
    "lp_pool": _lp_pool,
    "blur_pool": _blur_pool,
    "max_blur_pool": _max_blur_pool,
    "max_blur_pool_offsets": _refuse_gradient,
    "max_blur_pool_backward": _refuse_gradient,
    "pick": _refuse_gradient,
    "scatter": _refuse_gradient,
    "avg_pool_backward": _refuse_gradient,
    "blur_pool_backward": _refuse_gradient,
    "lp_pool_backward": _refuse_gradient,
    "put": _put,
    "add_at": _add_at,
    "put_backward": _refuse_gradient,
    "take": _refuse_gradient,
    "fractional_max_pool": _refuse_fractional,
    "fractional_max_pool_indices": _refuse_fractional,
    "fractional_avg_pool": _refuse_fractional,
    "fractional_avg_pool_backward": _refuse_gradient,
}
"""For each raw operator, the function that says it in ONNX."""
