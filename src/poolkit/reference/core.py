"""Every core operator in plain torch: slow and obviously right.

This is what the kernels are tested against, and what serves where there is no kernel. Each function
lists the cells of every window (:func:`_cells`), gathers them into one more axis, the *taps*, and
reduces that axis. Inputs have the shape ``(N, C, *spatial)`` or ``(C, *spatial)``; arguments are
taken as checked. Memory is one number per output and tap.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from ..errors import ArgumentError
from ..window import Axis, Window

# ---- geometry -----------------------------------------------------------------------------------


def _positions(axis: Axis, device: torch.device) -> tuple[Tensor, Tensor]:
    """Position of every (output, tap) of an axis, and whether it is a cell of the window."""
    out = torch.arange(axis.out, device=device)[:, None]
    tap = torch.arange(axis.kernel, device=device)
    if axis.stride == 0:
        start = out * axis.size // max(axis.out, 1)
        end = -((out + 1) * -axis.size // max(axis.out, 1))
        position = start + tap
        return position, position < end
    position = out * axis.stride - axis.before + tap * axis.dilation
    return position, (position >= 0) & (position < axis.size)


def _cells(window: Window, device: torch.device) -> tuple[Tensor, Tensor]:
    """Index in the flattened plane of every (output, tap), and whether there is such a cell.

    Both are (outputs, taps), row-major. Where there is no cell the index names some other cell.
    """
    cell = torch.zeros(1, 1, dtype=torch.int64, device=device)
    real = torch.ones(1, 1, dtype=torch.bool, device=device)
    for axis in window.axes:
        position, inside = _positions(axis, device)
        position = position.clamp(0, axis.size - 1)
        outputs, taps = cell.shape[0] * axis.out, cell.shape[1] * axis.kernel
        cell = cell[:, None, :, None] * axis.size + position[None, :, None, :]
        real = real[:, None, :, None] & inside[None, :, None, :]
        cell, real = cell.reshape(outputs, taps), real.reshape(outputs, taps)
    return cell, real


def _located(offsets: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Index in the flattened plane of the cell that each offset names, and whether there is one."""
    rest = _flat(offsets, window.rank).to(torch.int64)
    real = (rest >= 0) & (rest < window.taps)
    cell, place = torch.zeros_like(rest), 1
    number = torch.arange(rest.shape[-1], device=rest.device)
    for axis in reversed(window.axes):
        position, inside = _positions(axis, rest.device)
        pair = number % max(axis.out, 1) * axis.kernel + rest % axis.kernel
        real = real & inside.flatten()[pair]
        cell = cell + place * position.clamp(0, axis.size - 1).flatten()[pair]
        number, rest, place = number // max(axis.out, 1), rest // axis.kernel, place * axis.size
    return cell, real


# Derivatives in forward mode come here batched by the vmap of torch.autograd.gradcheck, which has
# rules for reshape and empty_like, but none for flatten and empty.


def _flat(x: Tensor, rank: int) -> Tensor:
    """``x`` with its last ``rank`` axes as one."""
    first = x.dim() - rank
    return x.reshape(*x.shape[:first], math.prod(x.shape[first:]))


def _formatted(result: Tensor, shape: Sequence[int], memory_format: torch.memory_format) -> Tensor:
    result = result.reshape(tuple(shape))
    # Tensor.contiguous() would keep unusual strides on axes of size 1.
    return torch.empty_like(result, memory_format=memory_format).copy_(result)


def _gradient_format(rank: int, channels_last: bool) -> torch.memory_format:
    if not channels_last:
        return torch.contiguous_format
    return torch.channels_last if rank == 4 else torch.channels_last_3d


def _wide(x: Tensor) -> Tensor:
    """``x`` in a dtype that holds its values and that torch can compare, sum and gather."""
    if x.dtype in (torch.bool, torch.uint16, torch.uint32):
        return x.to(torch.int64)
    return x


def _accumulated(x: Tensor) -> Tensor:
    """``x`` in the dtype in which its values are summed."""
    if x.dtype in (torch.float16, torch.bfloat16):
        return x.to(torch.float32)
    return x if x.is_floating_point() else x.to(torch.int64)


# ---- max ----------------------------------------------------------------------------------------


def _winners(values: Tensor, real: Tensor) -> Tensor:
    """The winning tap along the last axis: the last NaN if there is one, else the first maximum."""
    taps = torch.arange(values.shape[-1], device=values.device)
    nan = values.isnan() & real
    lowest = -math.inf if values.is_floating_point() else torch.iinfo(values.dtype).min
    most = values.masked_fill(~real | nan, lowest).amax(-1, keepdim=True)
    first = taps.masked_fill(~((values == most) & real), values.shape[-1] - 1).amin(-1)
    last = taps.masked_fill(~nan, -1).amax(-1)
    return torch.where(last >= 0, last, first)


def max_pool(x: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """The maximum of every window, and the number of its tap, row-major in the window.

    ``(N, C, *spatial) -> (N, C, *out)``, any dtype, and the same shape in ``window.offset_dtype``.
    The first maximum wins, but a NaN beats every number and the last NaN beats the others. -0.0
    and +0.0 are equal. Padding never wins.
    """
    cell, real = _cells(window, x.device)
    values = _flat(_wide(x), window.rank)[..., cell]
    tap = _winners(values, real)
    best = values.gather(-1, tap[..., None]).to(x.dtype)
    shape, layout = window.output_shape(x.shape), suggest_memory_format(x)
    return (
        _formatted(best, shape, layout),
        _formatted(tap.to(window.offset_dtype), shape, layout),
    )


def pick(t: Tensor, offsets: Tensor, window: Window) -> Tensor:
    """The value of ``t`` at the cell that each offset names; 0 where an offset names none.

    ``t`` ``(N, C, *spatial)`` and ``offsets`` ``(N, C, *out)`` give ``(N, C, *out)`` of ``t``'s
    dtype. It is the forward derivative of :func:`max_pool` and the adjoint of :func:`scatter`.
    """
    cell, real = _located(offsets, window)
    picked = _flat(_wide(t), window.rank).gather(-1, cell).masked_fill(~real, 0)
    return _formatted(picked.to(t.dtype), offsets.shape, suggest_memory_format(t))


def scatter(g: Tensor, offsets: Tensor, window: Window, channels_last: bool) -> Tensor:
    """The sum, per cell, of ``g`` over the outputs whose offset names the cell.

    ``g`` and ``offsets`` ``(N, C, *out)`` give ``(N, C, *spatial)``, channels last if asked. Starts
    from 0 and adds in row-major order of the outputs; half types are summed in float32 and rounded
    once. It is the gradient of :func:`max_pool` and the adjoint of :func:`pick`.
    """
    parts = _flat(_accumulated(g), window.rank)
    return _summed(parts, _located(offsets, window), g, window, channels_last)


def _summed(
    parts: Tensor, cells: tuple[Tensor, Tensor], like: Tensor, window: Window, channels_last: bool
) -> Tensor:
    """The planes whose cells are the sums of the ``parts`` that ``cells`` sends there."""
    (cell, real), shape = cells, window.input_shape(like.shape)
    plane = math.prod([axis.size for axis in window.axes])  # Dynamo traces no generator here
    # What belongs to no cell goes to one more cell behind the plane, which is then cut off.
    sums = parts.new_zeros((*parts.shape[:-1], plane + 1))
    sums.scatter_add_(-1, cell.where(real, plane).expand(parts.shape), parts)
    return _formatted(
        sums[..., :plane].to(like.dtype), shape, _gradient_format(len(shape), channels_last)
    )


def plane_indices(offsets: Tensor, window: Window) -> Tensor:
    """The index in the plane, int64 and row-major as torch has it, of the cell each offset names.

    -1 where an offset names none. Shape and memory format are those of ``offsets``.
    """
    cell, real = _located(offsets, window)
    return _formatted(cell.where(real, -1), offsets.shape, suggest_memory_format(offsets))


# ---- average ------------------------------------------------------------------------------------


def _divisors(window: Window, device: torch.device) -> Tensor:
    """What each output divides its sum by, int64."""
    counts = torch.ones(1, dtype=torch.int64, device=device)
    for axis in window.axes:
        position, real = _positions(axis, device)
        if window.include_pad and axis.stride != 0:
            real = position < axis.size + axis.after  # ceil mode clips what is beyond the padding
        counts = (counts[:, None] * real.sum(-1)).flatten()
    return torch.full_like(counts, window.divisor) if window.divisor else counts


def _divided(sums: Tensor, divisors: Tensor) -> Tensor:
    if sums.is_floating_point():
        return sums / divisors
    # Dividing the smallest int64 by -1 ends the process.
    negated = divisors == -1
    quotients = torch.div(sums, divisors.masked_fill(negated, 1), rounding_mode="trunc")
    return torch.where(negated, -sums, quotients)


def avg_pool(x: Tensor, window: Window) -> Tensor:
    """The sum of every window over its divisor.

    ``(N, C, *spatial) -> (N, C, *out)``. The divisor is ``window.divisor`` if that is not 0, else
    the number of taps inside the padded extent, or of real cells without ``window.include_pad``.
    float16 and bfloat16 are summed in float32; an int64 quotient is truncated toward zero.
    """
    cell, real = _cells(window, x.device)
    values = _flat(_accumulated(x), window.rank)[..., cell].masked_fill(~real, 0)
    means = _divided(values.sum(-1), _divisors(window, x.device)).to(x.dtype)
    return _formatted(means, window.output_shape(x.shape), suggest_memory_format(x))


def avg_pool_backward(g: Tensor, window: Window, channels_last: bool) -> Tensor:
    """The sum, per cell, of ``g / divisor`` over the outputs whose window holds the cell.

    ``(N, C, *out) -> (N, C, *spatial)``, channels last if asked. The adjoint of :func:`avg_pool`.
    """
    cell, real = _cells(window, g.device)
    share = _divided(_flat(_accumulated(g), window.rank), _divisors(window, g.device))
    parts = _flat(share[..., None].expand(*share.shape, cell.shape[1]), 2)
    return _summed(parts, (cell.flatten(), real.flatten()), g, window, channels_last)


# ---- norms, unpooling, fractional ---------------------------------------------------------------


def lp_pool(x: Tensor, norm_type: float, window: Window, absolute: bool = False) -> Tensor:
    """The p-norm of every window, ``(N, C, *spatial) -> (N, C, *out)``; integers give float32.

    As torch has it: ``(S * k / k_clipped) ** (1 / p)``, where ``S = sum x_m ** p`` keeps its sign
    (NaN where torch gives NaN), ``k`` is the number of taps and ``k_clipped`` that of the taps
    inside the padded extent. With ``absolute``: ``(sum |x_m| ** p) ** (1 / p)``. p = inf and -inf
    are the maximum and the minimum of ``|x_m|``. Padding adds nothing; a window of it alone is 0.
    """
    wide = _accumulated(x) if x.is_floating_point() else x.to(torch.float32)
    cell, real = _cells(window, x.device)
    if math.isinf(norm_type):
        values = _flat(wide.abs(), window.rank)[..., cell]
        if norm_type > 0:
            norms = values.masked_fill(~real, 0).amax(-1)
        else:
            norms = values.masked_fill(~real, math.inf).amin(-1).masked_fill(~real.any(-1), 0)
    else:
        powers = (wide.abs() if absolute else wide).pow(norm_type)
        sums = _flat(powers, window.rank)[..., cell].masked_fill(~real, 0).sum(-1)
        if not absolute:
            clipped = _divisors(Window(window.axes), x.device)
            sums = sums / clipped * window.taps
        norms = sums.pow(1 / norm_type).masked_fill(~real.any(-1), 0)
    dtype = x.dtype if x.is_floating_point() else torch.float32
    return _formatted(norms.to(dtype), window.output_shape(x.shape), suggest_memory_format(x))


def _indices(indices: Tensor, window: Window) -> Tensor:
    """The flattened indices, each checked."""
    index, cells = _flat(indices, window.rank), math.prod([axis.size for axis in window.axes])
    if not index.is_meta and bool(((index < 0) | (index >= cells)).any()):
        raise ArgumentError(f"indices must be from 0 to {cells - 1}")
    return index


def _last(index: Tensor, cells: int) -> Tensor:
    """The number of the last value that names each cell, or -1."""
    order = torch.arange(index.shape[-1], device=index.device).expand(index.shape)
    nobody = torch.full((*index.shape[:-1], cells), -1, device=index.device)
    return nobody.scatter_reduce(-1, index, order, "amax")


def put(x: Tensor, indices: Tensor, window: Window, channels_last: bool) -> Tensor:
    """A plane of zeros with ``x`` at ``indices``; the last value in row-major order stays.

    ``x`` and ``indices`` ``(N, C, *out)`` give ``(N, C, *spatial)``, channels last if asked. Only
    the extents of ``window`` count.
    """
    index, shape = _indices(indices, window), window.input_shape(x.shape)
    writer = _last(index, math.prod(shape[x.dim() - window.rank :]))
    values = _flat(_wide(x), window.rank).gather(-1, writer.clamp(min=0)).masked_fill(writer < 0, 0)
    return _formatted(values.to(x.dtype), shape, _gradient_format(len(shape), channels_last))


def put_backward(g: Tensor, indices: Tensor, window: Window, channels_last: bool) -> Tensor:
    """The adjoint of :func:`put`: each cell's value, for the last value that names the cell."""
    index, cells = _indices(indices, window), _flat(_wide(g), window.rank)
    order = torch.arange(index.shape[-1], device=g.device)
    stays = _last(index, cells.shape[-1]).gather(-1, index) == order
    values = cells.gather(-1, index).masked_fill(~stays, 0).to(g.dtype)
    return _formatted(values, indices.shape, _gradient_format(g.dim(), channels_last))


def add_at(g: Tensor, indices: Tensor, window: Window, channels_last: bool) -> Tensor:
    """The sum, per cell, of the values whose index names it: shapes as for :func:`put`.

    Starts from 0 and adds in row-major order; half types are summed in float32, rounded once.
    """
    index, shape = _indices(indices, window), window.input_shape(g.shape)
    parts = _flat(_accumulated(g), window.rank)
    plane = math.prod(shape[g.dim() - window.rank :])
    sums = parts.new_zeros((*parts.shape[:-1], plane)).scatter_add(-1, index, parts)
    return _formatted(sums.to(g.dtype), shape, _gradient_format(len(shape), channels_last))


def take(x: Tensor, indices: Tensor, window: Window, channels_last: bool) -> Tensor:
    """The value of ``x`` at each index: the adjoint of :func:`add_at`."""
    values = _flat(_wide(x), window.rank).gather(-1, _indices(indices, window)).to(x.dtype)
    return _formatted(values, indices.shape, _gradient_format(x.dim(), channels_last))


def max_unpool(
    x: Tensor, indices: Tensor, output_size: tuple[int, ...], duplicates: str = "last"
) -> Tensor:
    """A plane of zeros with ``x`` at ``indices``, ``(N, C, *spatial) -> (N, C, *output_size)``.

    Where an index occurs twice, ``duplicates`` says what the cell holds: the value that is
    ``"last"`` in row-major order, the ``"sum"``, the ``"max"``, the ``"mean"``, or an ``"error"``.
    """
    rank, plane = len(output_size), math.prod(output_size)
    values, index = x.flatten(-rank), indices.flatten(-rank).to(torch.int64)
    if bool(((index < 0) | (index >= plane)).any()):
        raise ArgumentError(f"max_unpool: an index lies outside the output plane {output_size}")
    zeros = values.new_zeros((*values.shape[:-1], plane), dtype=torch.int64)
    count = zeros.scatter_add(-1, index, torch.ones_like(index))
    if duplicates == "error" and bool((count > 1).any()):
        raise ArgumentError("max_unpool: an index occurs twice in a plane")
    if duplicates in ("last", "error", "max"):
        order = torch.arange(index.shape[-1], device=x.device).expand(index.shape)
        if duplicates == "max":  # among equal values, the last
            most = zeros.to(x.dtype).scatter_reduce(-1, index, values, "amax", include_self=False)
            most = most.gather(-1, index)
            order = order.where((values == most) | values.isnan(), -1)
        writer = (zeros - 1).scatter_reduce(-1, index, order, "amax")
        result = values.gather(-1, writer.clamp(min=0)).masked_fill(writer < 0, 0)
    else:
        wide = _accumulated(values)
        result = zeros.to(wide.dtype).scatter_add(-1, index, wide)
        if duplicates == "mean":
            result = _divided(result, count.clamp(min=1))
    shape = (*x.shape[: x.dim() - rank], *output_size)
    return _formatted(result.to(x.dtype), shape, suggest_memory_format(x))


def _fractional_starts(sample: Tensor, size: int, kernel: int, out: int) -> Tensor:
    """Where the windows of an axis begin, ``(N, C) -> (N, C, out)``, in the samples' dtype."""
    if out > 1:
        # One division in the samples' dtype, as torch's kernel has it.
        step = sample.new_tensor(size - kernel) / sample.new_tensor(out - 1)
    else:
        step = sample.new_tensor(0)
    sample = sample[..., None]
    number = torch.arange(out, device=sample.device).to(sample.dtype)
    ends = ((number + sample) * step).double().trunc() - (sample * step).double().trunc()
    starts = ends.nan_to_num().clamp(0, size - kernel).to(torch.int64)
    starts[..., -1:] = size - kernel
    return starts


def _fractional_cells(
    planes: Sequence[int], axes: Sequence[tuple[int, int, int]], samples: Tensor
) -> Tensor:
    """Index in the plane of every (output, tap) of every plane, ``(*planes, outputs, taps)``.

    ``axes`` holds (extent, kernel, windows). Window ``j`` of an axis begins at
    ``int((j + u) * a) - int(u * a)`` with ``a = (L - k) / (O - 1)``, the last at ``L - k``, for the
    sample ``u`` of the axis: ``samples`` ``(N, C, rank)``, in 2-D for (W, H), else in axis order.
    """
    cell = torch.zeros((*planes, 1, 1), dtype=torch.int64, device=samples.device)
    for i, (size, kernel, out) in enumerate(axes):
        sample = samples[..., 1 - i if len(axes) == 2 else i].reshape(planes)
        position = _fractional_starts(sample, size, kernel, out)[..., None]
        position = position + torch.arange(kernel, device=samples.device)
        outputs, taps = cell.shape[-2] * out, cell.shape[-1] * kernel
        cell = cell[..., :, None, :, None] * size + position[..., None, :, None, :]
        cell = cell.reshape(*planes, outputs, taps)
    return cell


def fractional_max_pool(
    x: Tensor, kernel_size: tuple[int, ...], output_size: tuple[int, ...], samples: Tensor
) -> tuple[Tensor, Tensor]:
    """The maximum of Graham's pseudo-random windows, and its int64 index in the plane.

    ``(N, C, *spatial) -> (N, C, *output_size)`` twice.
    """
    rank = len(kernel_size)
    planes, sizes = x.shape[:-rank], x.shape[-rank:]
    axes = list(zip(sizes, kernel_size, output_size, strict=True))
    cell = _fractional_cells(planes, axes, samples)
    values = _flat(_wide(x), rank).gather(-1, cell.flatten(-2)).reshape(cell.shape)
    tap = _winners(values, torch.ones_like(cell, dtype=torch.bool))[..., None]
    shape, layout = (*planes, *output_size), suggest_memory_format(x)
    return (
        _formatted(values.gather(-1, tap).to(x.dtype), shape, layout),
        _formatted(cell.gather(-1, tap), shape, layout),
    )


def fractional_avg_pool(x: Tensor, samples: Tensor, window: Window) -> Tensor:
    """The mean of Graham's windows, ``(N, C, *spatial) -> (N, C, *out)``.

    Of ``window`` only the extents and the kernel count.
    """
    shape = window.output_shape(x.shape)
    axes = [(axis.size, axis.kernel, axis.out) for axis in window.axes]
    cell = _fractional_cells(x.shape[: x.dim() - window.rank], axes, samples)
    values = _flat(_accumulated(x), window.rank).gather(-1, _flat(cell, 2)).reshape(cell.shape)
    means = (values.sum(-1) / window.taps).to(x.dtype)
    return _formatted(means, shape, suggest_memory_format(x))


def fractional_avg_pool_backward(
    g: Tensor, samples: Tensor, window: Window, channels_last: bool
) -> Tensor:
    """The adjoint of :func:`fractional_avg_pool`: each cell's sum of its outputs' shares."""
    axes = [(axis.size, axis.kernel, axis.out) for axis in window.axes]
    cell = _fractional_cells(g.shape[: g.dim() - window.rank], axes, samples)
    share = (_flat(_accumulated(g), window.rank) / window.taps)[..., None].expand(cell.shape)
    everywhere = torch.ones_like(cell, dtype=torch.bool)
    return _summed(_flat(share, 2), (_flat(cell, 2), _flat(everywhere, 2)), g, window,
                   channels_last)  # fmt: skip
