"""The derivatives of the operators, of every order: the Functions of autograd.

Linear operators come in adjoint pairs, `pick` and `scatter`, `avg_pool` and `avg_pool_backward`,
`put` and `put_backward`, `take` and `add_at`, `blur_pool` and `blur_pool_backward`. Each is the
other's derivative, and `pick` is also the forward derivative of a maximum: there is no code for
second derivatives.
"""

from typing import Any

from torch import Tensor, is_grad_enabled
from torch.autograd import Function
from torch.compiler import is_compiling

from .. import norms
from ..window import Packed, Window, unpack
from .modes import (
    apply,
    differentiable,
    differentiates,
    direct,
    fold,
    kept,
    rank_of,
    traceable,
    transforms_active,
)
from .raw import (
    raw_avg_pool,
    raw_avg_pool_backward,
    raw_lp_pool,
    raw_max_pool_offsets,
    raw_operators,
    raw_plane_indices,
    text_avg_pool,
    text_max_pool_offsets,
)

Taps = tuple[float, ...]


class _MaxPool(Function):
    @staticmethod
    def forward(x: Tensor, window: Packed) -> tuple[Tensor, Tensor]:
        return raw_max_pool_offsets(x, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.window = kept(inputs[1])
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: Any) -> Any:
        return None if g is None else indexed("scatter", g, ctx.saved_tensors[0], ctx.window), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, window: Packed) -> Any:
        (x,), unfold = fold(info, in_dims[:1], (x,), rank_of(window))
        values, offsets = maximum(x, window)
        return (unfold(values), unfold(offsets)), (0, 0)


@differentiable
class _MaxPoolForward(_MaxPool):
    @staticmethod
    def jvp(ctx: Any, t: Tensor, _: Any) -> Any:
        return indexed("pick", t, ctx.saved_tensors[0], ctx.window), None


class _PlaneIndices(Function):
    @staticmethod
    def forward(offsets: Tensor, window: Packed) -> Tensor:
        return raw_plane_indices(offsets, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, offsets: Tensor, window: Packed) -> Any:
        (offsets,), unfold = fold(info, in_dims[:1], (offsets,), rank_of(window))
        return unfold(plane_indices(offsets, window)), 0


@differentiable
class _PlaneIndicesForward(_PlaneIndices):
    @staticmethod
    def jvp(ctx: Any, _offsets: Any, _window: Any) -> Any:
        return None


class _Indexed(Function):
    """``operator(x, at, window)``, linear in ``x``; `_ADJOINTS` names its adjoint."""

    @staticmethod
    def forward(operator: str, x: Tensor, at: Tensor, window: Packed) -> Tensor:
        result: Tensor = raw_operators[operator](x, at, window)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.operator, _, at, window = inputs
        ctx.window = kept(window)
        ctx.save_for_backward(at)
        ctx.save_for_forward(at)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        adjoint = _ADJOINTS[ctx.operator]
        return None, indexed(adjoint, g, ctx.saved_tensors[0], ctx.window), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, operator: str, x: Tensor, at: Tensor, window: Packed) -> Any:
        (x, at), unfold = fold(info, in_dims[1:3], (x, at), rank_of(window))
        return unfold(indexed(operator, x, at, window)), 0


@differentiable
class _IndexedForward(_Indexed):
    @staticmethod
    def jvp(ctx: Any, _operator: Any, t: Tensor, _at: Any, _window: Any) -> Any:
        return indexed(ctx.operator, t, ctx.saved_tensors[0], ctx.window)


_ADJOINTS = {
    "pick": "scatter", "scatter": "pick",
    "put": "put_backward", "put_backward": "put",
    "add_at": "take", "take": "add_at",
    "blur_pool": "blur_pool_backward", "blur_pool_backward": "blur_pool",
    "fractional_avg_pool": "fractional_avg_pool_backward",
    "fractional_avg_pool_backward": "fractional_avg_pool",
}  # fmt: skip


class _FractionalMax(Function):
    @staticmethod
    def forward(x: Tensor, samples: Tensor, window: Packed) -> tuple[Tensor, Tensor]:
        both: tuple[Tensor, Tensor] = raw_operators["fractional_max_pool_indices"](
            x, samples, window
        )
        return both

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.window = kept(inputs[2])
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: Any) -> Any:
        if g is None:
            return None, None, None
        return indexed("add_at", g, ctx.saved_tensors[0], ctx.window), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, samples: Tensor, window: Packed) -> Any:
        (x, samples), unfold = fold(info, in_dims[:2], (x, samples), rank_of(window))
        values, indices = fractional_maximum(x, samples, window)
        return (unfold(values), unfold(indices)), (0, 0)


@differentiable
class _FractionalMaxForward(_FractionalMax):
    @staticmethod
    def jvp(ctx: Any, t: Tensor, _samples: Any, _window: Any) -> Any:
        return indexed("take", t, ctx.saved_tensors[0], ctx.window), None


class _AvgPool(Function):
    @staticmethod
    def forward(x: Tensor, window: Packed) -> Tensor:
        return raw_avg_pool(x, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.window = kept(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return avg_pool_backward(g, ctx.window), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, window: Packed) -> Any:
        (x,), unfold = fold(info, in_dims[:1], (x,), rank_of(window))
        return unfold(average(x, window)), 0


@differentiable
class _AvgPoolForward(_AvgPool):
    @staticmethod
    def jvp(ctx: Any, t: Tensor, _: Any) -> Any:
        return average(t, ctx.window)


class _AvgPoolBackward(Function):
    @staticmethod
    def forward(g: Tensor, window: Packed) -> Tensor:
        return raw_avg_pool_backward(g, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.window = kept(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return average(g, ctx.window), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, g: Tensor, window: Packed) -> Any:
        (g,), unfold = fold(info, in_dims[:1], (g,), rank_of(window))
        return unfold(avg_pool_backward(g, window)), 0


@differentiable
class _AvgPoolBackwardForward(_AvgPoolBackward):
    @staticmethod
    def jvp(ctx: Any, t: Tensor, _: Any) -> Any:
        return avg_pool_backward(t, ctx.window)


class _Blur(Function):
    """``operator(x, taps, window)``, linear in ``x``: a blur or its adjoint."""

    @staticmethod
    def forward(operator: str, x: Tensor, taps: Taps, window: Packed) -> Tensor:
        result: Tensor = raw_operators[operator](x, taps, window)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.operator, _, ctx.taps, window = inputs
        ctx.window = kept(window)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return None, blurred(_ADJOINTS[ctx.operator], g, ctx.taps, ctx.window), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, operator: str, x: Tensor, taps: Taps, window: Packed) -> Any:
        (x,), unfold = fold(info, in_dims[1:2], (x,), rank_of(window))
        return unfold(blurred(operator, x, taps, window)), 0


@differentiable
class _BlurForward(_Blur):
    @staticmethod
    def jvp(ctx: Any, _operator: Any, t: Tensor, _taps: Any, _window: Any) -> Any:
        return blurred(ctx.operator, t, ctx.taps, ctx.window)


class _MaxPoolEager(Function):
    """`_MaxPool` where neither a transform nor a forward derivative is under way, at half the cost.

    Its offsets are no output, so it does not serve who wants to see them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: str) -> Any:
        values, offsets = text_max_pool_offsets(x, window)
        ctx.window = window
        ctx.save_for_backward(offsets)
        return values

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return indexed("scatter", g, ctx.saved_tensors[0], ctx.window), None


class _AvgPoolEager(Function):
    """`_AvgPool` where neither a transform nor a forward derivative is under way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: str) -> Tensor:
        ctx.window = window
        return text_avg_pool(x, window)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return avg_pool_backward(g, ctx.window), None


class _LpPoolEager(Function):
    """The norm, where neither a transform nor a forward derivative is under way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, window: str) -> Tensor:
        y = raw_lp_pool(x, p, window)
        ctx.p, ctx.window = p, window
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, y = ctx.saved_tensors
        window = traceable(ctx.window) if is_compiling() else ctx.window
        if not is_grad_enabled():
            return raw_operators["lp_pool_backward"](g, y, x, ctx.p, window), None, None
        # Somebody differentiates the gradient: in steps that have derivatives of their own.
        w, _ = unpack(window)
        spread = avg_pool_backward(norms.shares(g, y, ctx.p, w), window)
        return spread * norms.powers(x, ctx.p, w), None, None


class _MaxBlurPoolEager(Function):
    """Blurred maxima, where neither a transform nor a forward derivative is under way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Taps, dense: str, window: str) -> Any:
        values, offsets = raw_operators["max_blur_pool_offsets"](x, taps, dense, window)
        ctx.taps, ctx.dense, ctx.window = taps, dense, window
        ctx.save_for_backward(offsets)
        return values

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (offsets,) = ctx.saved_tensors
        if differentiates(g) or is_compiling():  # in steps, which have derivatives of their own
            spread = blurred("blur_pool_backward", g, ctx.taps, ctx.window)
            return indexed("scatter", spread, offsets, ctx.dense), None, None, None
        backward = raw_operators["max_blur_pool_backward"]
        return backward(g, offsets, ctx.taps, ctx.dense, ctx.window), None, None, None


max_pool_eager = direct(_MaxPoolEager)
max_blur_pool_eager = direct(_MaxBlurPoolEager)
avg_pool_eager = direct(_AvgPoolEager)
lp_pool_eager = direct(_LpPoolEager)


def maximum(x: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    """The maxima, which have derivatives, and the tap of each winner."""
    both: tuple[Tensor, Tensor] = apply(_MaxPool, _MaxPoolForward, x, packed)
    return both


def fractional_maximum(x: Tensor, samples: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    """The maxima of Graham's windows, which have derivatives, and the index of each winner."""
    both: tuple[Tensor, Tensor] = apply(_FractionalMax, _FractionalMaxForward, x, samples, packed)
    return both


def average(x: Tensor, packed: Packed) -> Tensor:
    """The averages, which have derivatives."""
    averages: Tensor = apply(_AvgPool, _AvgPoolForward, x, packed)
    return averages


def indexed(operator: str, x: Tensor, at: Tensor, packed: Packed) -> Tensor:
    """What the raw ``operator`` makes of ``x``, and its derivatives of every order."""
    if is_compiling():
        packed = traceable(packed)
    result: Tensor
    if differentiates(x):
        result = apply(_Indexed, _IndexedForward, operator, x, at, packed)
    else:
        result = raw_operators[operator](x, at, packed)
    return result


def blurred(operator: str, x: Tensor, taps: Taps, packed: Packed) -> Tensor:
    """What a blur or its adjoint makes of ``x``, and its derivatives of every order."""
    if is_compiling():
        packed = traceable(packed)
    result: Tensor
    if differentiates(x):
        result = apply(_Blur, _BlurForward, operator, x, taps, packed)
    else:
        result = raw_operators[operator](x, taps, packed)
    return result


def avg_pool_backward(g: Tensor, packed: Packed) -> Tensor:
    """The adjoint of the average: every output's value, divided, at each of its cells."""
    if is_compiling():
        packed = traceable(packed)
    if not differentiates(g):
        return raw_avg_pool_backward(g, packed)
    spread: Tensor = apply(_AvgPoolBackward, _AvgPoolBackwardForward, g, packed)
    return spread


def plane_indices(offsets: Tensor, window: Window | Packed) -> Tensor:
    """The int64 index, in the flattened input plane, of the cell that each offset names."""
    packed = window.packed if isinstance(window, Window) else window
    if not transforms_active():
        return raw_plane_indices(offsets, packed)
    indices: Tensor = apply(_PlaneIndices, _PlaneIndicesForward, offsets, packed)
    return indices
