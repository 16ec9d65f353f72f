"""The raw operators, their fake kernels and their derivatives: torch only.

Operators come in adjoint pairs, `pick` and `scatter`, `avg_pool` and `avg_pool_backward`, `put` and
`put_backward`, `take` and `add_at`. Each is the other's derivative, and `pick` is also the forward
derivative of a maximum: there is no code for second derivatives, and every order works. Functional
code calls `max_pool`, `max_pool_offsets`, `avg_pool` and the like of this module; each goes to the
raw operator at once unless something differentiates.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, is_grad_enabled
from torch._prims_common import suggest_memory_format
from torch.autograd import Function
from torch.autograd import forward_ad as fwad
from torch.compiler import is_compiling

from .. import cpu, onnx, reference
from ..window import Axis, Packed, Window, unpack
from . import inductor

R = TypeVar("R")

# ---- raw operators ------------------------------------------------------------------------------


def _slow_max_pool(x: Tensor, window: Packed) -> Tensor:
    return reference.max_pool(x, unpack(window)[0])[0]


def _slow_max_pool_offsets(x: Tensor, window: Packed) -> tuple[Tensor, Tensor]:
    return reference.max_pool(x, unpack(window)[0])


def _slow_pick(x: Tensor, offsets: Tensor, window: Packed) -> Tensor:
    return reference.pick(x, offsets, unpack(window)[0])


def _slow_scatter(g: Tensor, offsets: Tensor, window: Packed) -> Tensor:
    return reference.scatter(g, offsets, *unpack(window))


def _slow_plane_indices(offsets: Tensor, window: Packed) -> Tensor:
    return reference.plane_indices(offsets, unpack(window)[0])


def _slow_put(x: Tensor, indices: Tensor, window: Packed) -> Tensor:
    return reference.put(x, indices, *unpack(window))


def _slow_put_backward(g: Tensor, indices: Tensor, window: Packed) -> Tensor:
    return reference.put_backward(g, indices, *unpack(window))


def _slow_add_at(g: Tensor, indices: Tensor, window: Packed) -> Tensor:
    return reference.add_at(g, indices, *unpack(window))


def _slow_take(x: Tensor, indices: Tensor, window: Packed) -> Tensor:
    return reference.take(x, indices, *unpack(window))


def _slow_fractional_max_pool(x: Tensor, samples: Tensor, window: Packed) -> Tensor:
    return _slow_fractional_max_pool_indices(x, samples, window)[0]


def _slow_fractional_max_pool_indices(
    x: Tensor, samples: Tensor, window: Packed
) -> tuple[Tensor, Tensor]:
    w, _ = unpack(window)
    kernel = tuple(axis.kernel for axis in w.axes)
    return reference.fractional_max_pool(x, kernel, w.output_size, samples)


def _slow_fractional_avg_pool(x: Tensor, samples: Tensor, window: Packed) -> Tensor:
    return reference.fractional_avg_pool(x, samples, unpack(window)[0])


def _slow_fractional_avg_pool_backward(g: Tensor, samples: Tensor, window: Packed) -> Tensor:
    return reference.fractional_avg_pool_backward(g, samples, *unpack(window))


def _slow_avg_pool(x: Tensor, window: Packed) -> Tensor:
    return reference.avg_pool(x, unpack(window)[0])


def _slow_avg_pool_backward(g: Tensor, window: Packed) -> Tensor:
    return reference.avg_pool_backward(g, *unpack(window))


def _slow_l2_pool(x: Tensor, window: Packed) -> Tensor:
    w, _ = unpack(window)
    return reference.lp_pool(x, 2, w, absolute=w.divisor != 0)


def _slow_l2_pool_backward(g: Tensor, y: Tensor, x: Tensor, window: Packed) -> Tensor:
    w, channels_last = unpack(window)
    return reference.avg_pool_backward(_l2_shares(g, y, w), w, channels_last) * x


def _l2_shares(g: Tensor, y: Tensor, window: Window) -> Tensor:
    """What each of its cells gets of an output's gradient: a norm of 0 hands on nothing."""
    shares = g / torch.where(y == 0, math.inf, y)
    return shares if window.divisor else shares * window.taps


def _pooled(x: Tensor, window: Packed, dtype: torch.dtype | None = None) -> Tensor:
    """An empty tensor of the strides that the kernels give the pooled ``x``."""
    shape = unpack(window)[0].output_shape(x.shape)
    return torch.empty(
        shape, dtype=dtype or x.dtype, device=x.device, memory_format=suggest_memory_format(x)
    )


def _flagged(x: Tensor, shape: Sequence[int], channels_last: bool) -> Tensor:
    layout = torch.contiguous_format
    if channels_last:
        layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _unpooled(g: Tensor, window: Packed) -> Tensor:
    w, channels_last = unpack(window)
    return _flagged(g, w.input_shape(g.shape), channels_last)


def _fake_put(x: Tensor, indices: Tensor, window: Packed) -> Tensor:
    return _unpooled(x, window)


def _fake_take(x: Tensor, indices: Tensor, window: Packed) -> Tensor:
    w, channels_last = unpack(window)
    return _flagged(x, w.output_shape(x.shape), channels_last)


def _fake_max_pool_offsets(x: Tensor, window: Packed) -> tuple[Tensor, Tensor]:
    return _pooled(x, window), _pooled(x, window, unpack(window)[0].offset_dtype)


def _fake_fractional(x: Tensor, samples: Tensor, window: Packed) -> Tensor:
    return _pooled(x, window)


def _fake_fractional_indices(x: Tensor, samples: Tensor, window: Packed) -> tuple[Tensor, Tensor]:
    return _pooled(x, window), _pooled(x, window, torch.int64)


def _fake_plane_indices(offsets: Tensor, window: Packed) -> Tensor:
    return torch.empty_like(offsets, dtype=torch.int64)


_OPERATORS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    # name: (what serves without a kernel, the fake kernel)
    "max_pool": (_slow_max_pool, _pooled),
    "max_pool_offsets": (_slow_max_pool_offsets, _fake_max_pool_offsets),
    "pick": (_slow_pick, lambda x, offsets, window: _pooled(x, window)),
    "scatter": (_slow_scatter, lambda g, offsets, window: _unpooled(g, window)),
    "plane_indices": (_slow_plane_indices, _fake_plane_indices),
    "put": (_slow_put, _fake_put),
    "put_backward": (_slow_put_backward, _fake_take),
    "add_at": (_slow_add_at, _fake_put),
    "take": (_slow_take, _fake_take),
    "fractional_max_pool": (_slow_fractional_max_pool, _fake_fractional),
    "fractional_max_pool_indices": (_slow_fractional_max_pool_indices, _fake_fractional_indices),
    "fractional_avg_pool": (_slow_fractional_avg_pool, _fake_fractional),
    "fractional_avg_pool_backward": (_slow_fractional_avg_pool_backward, _fake_put),
    "avg_pool": (_slow_avg_pool, _pooled),
    "avg_pool_backward": (_slow_avg_pool_backward, _unpooled),
    "l2_pool": (_slow_l2_pool, _pooled),
    "l2_pool_backward": (_slow_l2_pool_backward, lambda g, y, x, window: _unpooled(g, window)),
}


def _load() -> dict[str, tuple[Callable[..., Any], Callable[..., Any]]]:
    """Each operator for any packed window, and for one that is text."""
    try:
        cpu.load()
    except cpu.LibraryError as error:
        warnings.warn(
            f"poolkit computes with its reference implementation, 10 to 1000 times slower than its "
            f"kernels, because its native library does not serve: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return {name: (_or_onnx(name, slow), slow) for name, (slow, _) in _OPERATORS.items()}
    for name, (slow, fake) in _OPERATORS.items():
        for overload in (name, f"{name}.text"):
            # The reference serves devices without a kernel of ours, through the same operator.
            torch.library.impl(f"poolkit::{overload}", "CompositeExplicitAutograd", slow)
            torch.library.register_fake(f"poolkit::{overload}", _before_lowering(fake))
    return {name: _overloads(name) for name in _OPERATORS}


def _before_lowering(fake: Callable[..., Any]) -> Callable[..., Any]:
    """``fake``, which every compiler calls: the moment to tell inductor how to lower."""

    def called(*args: Any) -> Any:
        inductor.register(tuple(_OPERATORS))
        return fake(*args)

    return called


def _or_onnx(name: str, serves: Callable[..., Any]) -> Callable[..., Any]:
    """``serves``, but what ONNX has for it while a model is exported there."""
    lowered = onnx.LOWERED[name]
    return lambda *args: lowered(*args) if onnx.exporting() else serves(*args)


def _overloads(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    operator = getattr(torch.ops.poolkit, name)
    # OpOverload.__call__ only hands its arguments on, which takes 0.3 us.
    text, symbolic = operator.text._op, _or_onnx(name, operator.default)  # noqa: SLF001  no public name

    def either(*args: Any) -> Any:
        return text(*args) if type(args[-1]) is str else symbolic(*args)

    return either, text


_operators = _load()
_raw = {name: either for name, (either, _) in _operators.items()}
NATIVE = cpu.isa() is not None
"""Whether kernels serve; otherwise everything is computed by the reference."""

_raw_max_pool: Callable[[Tensor, Packed], Tensor] = _raw["max_pool"]
_raw_max_pool_offsets: Callable[[Tensor, Packed], tuple[Tensor, Tensor]] = _raw["max_pool_offsets"]
_raw_pick: Callable[[Tensor, Tensor, Packed], Tensor] = _raw["pick"]
_raw_scatter: Callable[[Tensor, Tensor, Packed], Tensor] = _raw["scatter"]
_raw_plane_indices: Callable[[Tensor, Packed], Tensor] = _raw["plane_indices"]
_raw_fractional_max_pool_indices: Callable[[Tensor, Tensor, Packed], tuple[Tensor, Tensor]] = _raw[
    "fractional_max_pool_indices"
]
_raw_avg_pool: Callable[[Tensor, Packed], Tensor] = _raw["avg_pool"]
_raw_avg_pool_backward: Callable[[Tensor, Packed], Tensor] = _raw["avg_pool_backward"]
_raw_l2_pool: Callable[[Tensor, Packed], Tensor] = _raw["l2_pool"]
_raw_l2_pool_backward: Callable[[Tensor, Tensor, Tensor, Packed], Tensor] = _raw["l2_pool_backward"]

_text_max_pool_offsets: Callable[[Tensor, str], Any] = _operators["max_pool_offsets"][1]
_text_avg_pool: Callable[[Tensor, str], Tensor] = _operators["avg_pool"][1]


# ---- derivatives --------------------------------------------------------------------------------
#
# torch.compile takes a Function without jvp, everything else wants one: hence a pair of classes per
# operator. The raw operator itself would lose tangents and gradients silently.


def _fold(info: Any, dims: Sequence[int | None], tensors: Sequence[Tensor], rank: int) -> Any:
    """The mapped dimension of ``tensors`` folded into the batch, and its inverse for a result."""
    moved = [
        t.movedim(d, 0) if d is not None else t.expand(info.batch_size, *t.shape)
        for t, d in zip(tensors, dims, strict=True)
    ]
    if moved[0].dim() == rank + 2:  # an unbatched input: the mapped dimension becomes its batch
        return moved, lambda result: result
    batch = moved[0].shape[:2]
    return [t.flatten(0, 1) for t in moved], lambda result: result.unflatten(0, batch)


def _rank(window: Packed) -> int:
    return unpack(window)[0].rank


def _kept(window: Packed) -> Packed:
    """``window`` as a Function may keep it for its backward pass.

    Dynamo takes symbolic sizes over into the backward graph only if they were computed inside the
    Function.
    """
    if isinstance(window, str) or not is_compiling():
        return window
    return tuple([n + 0 for n in window])


def _traceable(window: Packed) -> Packed:
    """The window as compiled autograd, which traces backward passes, can hand it to an operator."""
    if isinstance(window, str) and is_compiling():
        return tuple([int(n) for n in window.split()])
    return window


class _MaxPool(Function):
    @staticmethod
    def forward(x: Tensor, window: Packed) -> tuple[Tensor, Tensor]:
        return _raw_max_pool_offsets(x, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.window = _kept(inputs[1])
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: Any) -> Any:
        return None if g is None else scatter(g, ctx.saved_tensors[0], ctx.window), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, window: Packed) -> Any:
        (x,), unfold = _fold(info, in_dims[:1], (x,), _rank(window))
        values, offsets = _apply(_MaxPool, _MaxPoolForward, x, window)
        return (unfold(values), unfold(offsets)), (0, 0)


class _MaxPoolForward(_MaxPool):
    @staticmethod
    def jvp(ctx: Any, t: Tensor, _: Any) -> Any:
        return pick(t, ctx.saved_tensors[0], ctx.window), None


class _Pick(Function):
    @staticmethod
    def forward(x: Tensor, offsets: Tensor, window: Packed) -> Tensor:
        return _raw_pick(x, offsets, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.window = _kept(inputs[2])
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return scatter(g, ctx.saved_tensors[0], ctx.window), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, offsets: Tensor, window: Packed) -> Any:
        (x, offsets), unfold = _fold(info, in_dims[:2], (x, offsets), _rank(window))
        return unfold(pick(x, offsets, window)), 0


class _PickForward(_Pick):
    @staticmethod
    def jvp(ctx: Any, t: Tensor, _offsets: Any, _window: Any) -> Any:
        return pick(t, ctx.saved_tensors[0], ctx.window)


class _Scatter(Function):
    @staticmethod
    def forward(g: Tensor, offsets: Tensor, window: Packed) -> Tensor:
        return _raw_scatter(g, offsets, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.window = _kept(inputs[2])
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return pick(g, ctx.saved_tensors[0], ctx.window), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, g: Tensor, offsets: Tensor, window: Packed) -> Any:
        (g, offsets), unfold = _fold(info, in_dims[:2], (g, offsets), _rank(window))
        return unfold(scatter(g, offsets, window)), 0


class _ScatterForward(_Scatter):
    @staticmethod
    def jvp(ctx: Any, t: Tensor, _offsets: Any, _window: Any) -> Any:
        return scatter(t, ctx.saved_tensors[0], ctx.window)


class _PlaneIndices(Function):
    @staticmethod
    def forward(offsets: Tensor, window: Packed) -> Tensor:
        return _raw_plane_indices(offsets, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, offsets: Tensor, window: Packed) -> Any:
        (offsets,), unfold = _fold(info, in_dims[:1], (offsets,), _rank(window))
        return unfold(plane_indices(offsets, window)), 0


class _PlaneIndicesForward(_PlaneIndices):
    @staticmethod
    def jvp(ctx: Any, _offsets: Any, _window: Any) -> Any:
        return None


class _Indexed(Function):
    """``operator(x, at, window)``, linear in ``x``; `_ADJOINTS` names its adjoint."""

    @staticmethod
    def forward(operator: str, x: Tensor, at: Tensor, window: Packed) -> Tensor:
        result: Tensor = _raw[operator](x, at, window)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.operator, _, at, window = inputs
        ctx.window = _kept(window)
        ctx.save_for_backward(at)
        ctx.save_for_forward(at)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        adjoint = _ADJOINTS[ctx.operator]
        return None, indexed(adjoint, g, ctx.saved_tensors[0], ctx.window), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, operator: str, x: Tensor, at: Tensor, window: Packed) -> Any:
        (x, at), unfold = _fold(info, in_dims[1:3], (x, at), _rank(window))
        return unfold(indexed(operator, x, at, window)), 0


class _IndexedForward(_Indexed):
    @staticmethod
    def jvp(ctx: Any, _operator: Any, t: Tensor, _at: Any, _window: Any) -> Any:
        return indexed(ctx.operator, t, ctx.saved_tensors[0], ctx.window)


_ADJOINTS = {
    "put": "put_backward", "put_backward": "put",
    "add_at": "take", "take": "add_at",
    "fractional_avg_pool": "fractional_avg_pool_backward",
    "fractional_avg_pool_backward": "fractional_avg_pool",
}  # fmt: skip


class _FractionalMax(Function):
    @staticmethod
    def forward(x: Tensor, samples: Tensor, window: Packed) -> tuple[Tensor, Tensor]:
        return _raw_fractional_max_pool_indices(x, samples, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.window = _kept(inputs[2])
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
        (x, samples), unfold = _fold(info, in_dims[:2], (x, samples), _rank(window))
        values, indices = _apply(_FractionalMax, _FractionalMaxForward, x, samples, window)
        return (unfold(values), unfold(indices)), (0, 0)


class _FractionalMaxForward(_FractionalMax):
    @staticmethod
    def jvp(ctx: Any, t: Tensor, _samples: Any, _window: Any) -> Any:
        return indexed("take", t, ctx.saved_tensors[0], ctx.window), None


class _AvgPool(Function):
    @staticmethod
    def forward(x: Tensor, window: Packed) -> Tensor:
        return _raw_avg_pool(x, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.window = _kept(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return avg_pool_backward(g, ctx.window), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, window: Packed) -> Any:
        (x,), unfold = _fold(info, in_dims[:1], (x,), _rank(window))
        return unfold(_apply(_AvgPool, _AvgPoolForward, x, window)), 0


class _AvgPoolForward(_AvgPool):
    @staticmethod
    def jvp(ctx: Any, t: Tensor, _: Any) -> Any:
        return _apply(_AvgPool, _AvgPoolForward, t, ctx.window)


class _AvgPoolBackward(Function):
    @staticmethod
    def forward(g: Tensor, window: Packed) -> Tensor:
        return _raw_avg_pool_backward(g, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.window = _kept(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _apply(_AvgPool, _AvgPoolForward, g, ctx.window), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, g: Tensor, window: Packed) -> Any:
        (g,), unfold = _fold(info, in_dims[:1], (g,), _rank(window))
        return unfold(avg_pool_backward(g, window)), 0


class _AvgPoolBackwardForward(_AvgPoolBackward):
    @staticmethod
    def jvp(ctx: Any, t: Tensor, _: Any) -> Any:
        return avg_pool_backward(t, ctx.window)


class _MaxPoolEager(Function):
    """`_MaxPool` where neither a transform nor a forward derivative is under way, at half the cost.

    Its offsets are no output, so it does not serve who wants to see them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: str) -> Any:
        values, offsets = _text_max_pool_offsets(x, window)
        ctx.window = window
        ctx.save_for_backward(offsets)
        return values

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return scatter(g, ctx.saved_tensors[0], ctx.window), None


class _AvgPoolEager(Function):
    """`_AvgPool` where neither a transform nor a forward derivative is under way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: str) -> Tensor:
        ctx.window = window
        return _text_avg_pool(x, window)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return avg_pool_backward(g, ctx.window), None


class _L2PoolEager(Function):
    """The norm, where neither a transform nor a forward derivative is under way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: str) -> Tensor:
        y = _raw_l2_pool(x, window)
        ctx.window = window
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, y = ctx.saved_tensors
        window = _traceable(ctx.window)
        if not is_grad_enabled():
            return _raw_l2_pool_backward(g, y, x, window), None
        # Somebody differentiates the gradient: in steps that have derivatives of their own.
        shares = _l2_shares(g, y, unpack(window)[0])
        return avg_pool_backward(shares, window) * x, None


transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active  # noqa: SLF001  no public name


def _direct(cls: type[Function]) -> Callable[..., Any]:
    """``cls.apply`` without the 10 us that it spends on binding a signature that is known here."""
    apply: Callable[..., Any] = super(Function, cls).apply  # type: ignore[misc]  # not in torch's stubs
    return apply


_direct_apply: dict[type[Function], Callable[..., Any]] = {
    cls: _direct(cls)
    for cls in (
        _MaxPoolForward,
        _PickForward,
        _ScatterForward,
        _PlaneIndicesForward,
        _IndexedForward,
        _FractionalMaxForward,
        _AvgPoolForward,
        _AvgPoolBackwardForward,
    )
}


_max_pool_eager = _direct(_MaxPoolEager)
_avg_pool_eager = _direct(_AvgPoolEager)
_l2_pool_eager = _direct(_L2PoolEager)


def _eager(x: Tensor, window: Window) -> str | None:
    """The packed window for the light Functions, or None where they would not do.

    They do where nothing but reverse mode is under way and ``x`` is dense in its memory format.
    (What is being compiled has no text.)
    """
    packed = window.packed
    if type(packed) is not str or _transforms():
        return None
    # Where no stride is ambiguous, this settles it without the full comparison of strides.
    if x.is_contiguous():
        strides = x.stride()
        if strides[1] > strides[-1]:
            return packed
    elif 1 not in x.shape[1:] and x.is_contiguous(memory_format=_LAST.get(x.dim(), _FIRST)):
        return str(window.packed_last)
    elif not x.is_contiguous(memory_format=suggest_memory_format(x)):
        return None
    return str(_wanted(x, window))


_FIRST, _LAST = torch.contiguous_format, {4: torch.channels_last, 5: torch.channels_last_3d}


def _apply(plain: Any, cls: Any, *args: Any) -> Any:
    if is_compiling():
        return plain.apply(*args)  # the class without jvp; Dynamo cannot follow cls.__base__
    if transforms_active():
        return cls.apply(*args)
    return _direct_apply[cls](*args)


def _transforms() -> bool:
    """Whether a transform or a forward derivative is under way."""
    return transforms_active() or fwad._current_level >= 0  # noqa: SLF001  no public name


def differentiates(x: Tensor) -> bool:
    """Whether the raw operators would lose a derivative or a mapped dimension."""
    return (x.requires_grad and is_grad_enabled()) or _transforms()


def _wanted(x: Tensor, window: Window) -> Packed:
    """``window`` packed with the memory format of ``x``, which its gradient shall have."""
    return window.packed_last if _channels_last(x) else window.packed


def _channels_last(x: Tensor) -> bool:
    strides = x.stride()
    if len(strides) < 4 or strides[1] > strides[-1]:
        return False
    return suggest_memory_format(x) is not torch.contiguous_format


def _restore_strides(x: Tensor, make: Callable[[Tensor], R]) -> R:
    """``make(x)``, its gradient in the strides of ``empty_like(x)`` where those are unusual."""
    # The compiler chooses strides itself, and cannot sort symbolic ones.
    if (
        is_compiling()
        or x.is_contiguous()
        or x.is_contiguous(memory_format=suggest_memory_format(x))
    ):
        return make(x)
    return make(_apply(_SameStrides, _SameStridesForward, x))


class _SameStrides(Function):
    """The identity; its gradient has the strides of ``empty_like(x)``: a dense permutation's."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.detach()  # a view would get other strides along axes of size 1

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        strides = torch.empty_like(inputs[0], device="meta").stride()
        ctx.order = sorted(range(len(strides)), key=lambda axis: -strides[axis])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        inverse = sorted(range(len(ctx.order)), key=ctx.order.__getitem__)
        return g.permute(ctx.order).contiguous().permute(inverse)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        return x.view_as(x), in_dims[0]


class _SameStridesForward(_SameStrides):
    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return t.view_as(t)


_direct_apply[_SameStridesForward] = _direct(_SameStridesForward)


def keep_strides(x: Tensor) -> Tensor:
    """``x`` for composed code, whose gradient would lose the strides of ``empty_like(x)``."""
    if is_compiling() or x.is_contiguous() or not differentiates(x):
        return x
    same: Tensor = _apply(_SameStrides, _SameStridesForward, x)
    return same


# ---- what the rest of the package calls ---------------------------------------------------------


def max_pool(x: Tensor, window: Window) -> Tensor:
    """The maxima alone; offsets are kept only for a backward pass."""
    values: Tensor
    if x.requires_grad and is_grad_enabled():
        eager = _eager(x, window)
        if eager is not None:
            values = _max_pool_eager(x, eager)
            return values
        if onnx.exporting():  # no backward pass follows, which offsets would be for
            return _raw_max_pool(x, window.packed)
    elif not _transforms():
        return _raw_max_pool(x, window.packed)
    return max_pool_offsets(x, window)[0]


def max_pool_offsets(x: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """The maxima and the tap of each winner."""
    if not differentiates(x):
        return _raw_max_pool_offsets(x, window.packed)
    packed = _wanted(x, window)

    def pooled(x: Tensor) -> tuple[Tensor, Tensor]:
        both: tuple[Tensor, Tensor] = _apply(_MaxPool, _MaxPoolForward, x, packed)
        return both

    return _restore_strides(x, pooled)


def avg_pool(x: Tensor, window: Window) -> Tensor:
    """The averages."""
    averages: Tensor
    if x.requires_grad and is_grad_enabled():
        eager = _eager(x, window)
        if eager is not None:
            averages = _avg_pool_eager(x, eager)
            return averages
    elif not _transforms():
        return _raw_avg_pool(x, window.packed)
    packed = _wanted(x, window)

    def pooled(x: Tensor) -> Tensor:
        averages: Tensor = _apply(_AvgPool, _AvgPoolForward, x, packed)
        return averages

    return _restore_strides(x, pooled)


def l2_pool(x: Tensor, window: Window) -> Tensor | None:
    """The root of the sum of squares, or None where it has to be composed of other operators.

    It is where a transform or a forward derivative is under way, and for gradients of half types,
    which need sums in float32.
    """
    if x.requires_grad and is_grad_enabled():
        eager = _eager(x, window) if x.dtype in (torch.float32, torch.float64) else None
        return None if eager is None else _l2_pool_eager(x, eager)
    return None if _transforms() else _raw_l2_pool(x, window.packed)


def plane_indices(offsets: Tensor, window: Window | Packed) -> Tensor:
    """The int64 index, in the flattened input plane, of the cell that each offset names."""
    packed = window.packed if isinstance(window, Window) else window
    if not transforms_active():
        return _raw_plane_indices(offsets, packed)
    indices: Tensor = _apply(_PlaneIndices, _PlaneIndicesForward, offsets, packed)
    return indices


def pick(x: Tensor, offsets: Tensor, packed: Packed) -> Tensor:
    """The values of ``x`` at the cells that the offsets name."""
    packed = _traceable(packed)
    if not differentiates(x):
        return _raw_pick(x, offsets, packed)
    values: Tensor = _apply(_Pick, _PickForward, x, offsets, packed)
    return values


def scatter(g: Tensor, offsets: Tensor, packed: Packed) -> Tensor:
    """The sum, at each cell, of the values whose offset names it."""
    packed = _traceable(packed)
    if not differentiates(g):
        return _raw_scatter(g, offsets, packed)
    sums: Tensor = _apply(_Scatter, _ScatterForward, g, offsets, packed)
    return sums


def put(x: Tensor, indices: Tensor, sizes: Sequence[int]) -> Tensor:
    """Planes of ``sizes`` whose cells hold the last value of ``x`` that names them, or 0."""
    return _to_cells("put", x, indices, sizes)


def add_at(x: Tensor, indices: Tensor, sizes: Sequence[int]) -> Tensor:
    """Planes of ``sizes`` whose cells hold the sum of the values of ``x`` that name them."""
    return _to_cells("add_at", x, indices, sizes)


def _to_cells(operator: str, x: Tensor, indices: Tensor, sizes: Sequence[int]) -> Tensor:
    packed = _wanted(x, plane(sizes, x.shape[x.dim() - len(sizes) :]))
    if not differentiates(x):
        result: Tensor = _raw[operator](x, indices, packed)
        return result
    return _restore_strides(x, lambda x: indexed(operator, x, indices, packed))


def fractional_max_pool(x: Tensor, samples: Tensor, window: Window) -> Tensor:
    """The maxima of Graham's windows alone; indices are kept only for a backward pass."""
    values: Tensor
    if differentiates(x):
        values = fractional_max_pool_indices(x, samples, window)[0]
    else:
        values = _raw["fractional_max_pool"](x, samples, window.packed)
    return values


def fractional_max_pool_indices(
    x: Tensor, samples: Tensor, window: Window
) -> tuple[Tensor, Tensor]:
    """The maxima of Graham's windows, and where they are in the plane, int64."""
    if not differentiates(x):
        return _raw_fractional_max_pool_indices(x, samples, window.packed)
    packed = _wanted(x, window)

    def pooled(x: Tensor) -> tuple[Tensor, Tensor]:
        both: tuple[Tensor, Tensor] = _apply(
            _FractionalMax, _FractionalMaxForward, x, samples, packed
        )
        return both

    return _restore_strides(x, pooled)


def fractional_avg_pool(x: Tensor, samples: Tensor, window: Window) -> Tensor:
    """The means of Graham's windows."""
    if not differentiates(x):
        return indexed("fractional_avg_pool", x, samples, window.packed)
    packed = _wanted(x, window)
    return _restore_strides(x, lambda x: indexed("fractional_avg_pool", x, samples, packed))


def plane(sizes: Sequence[int], out: Sequence[int]) -> Window:
    """A window of which only the extents count: those of cells, and those of values."""
    axes = [Axis(size, o, 1, 1, 0, 0, 1) for size, o in zip(sizes, out, strict=True)]
    return Window(tuple(axes))


def indexed(operator: str, x: Tensor, at: Tensor, packed: Packed) -> Tensor:
    """What the raw ``operator`` makes of ``x``, and its derivatives of every order."""
    packed = _traceable(packed)
    result: Tensor
    if not differentiates(x):
        result = _raw[operator](x, at, packed)
    else:
        result = _apply(_Indexed, _IndexedForward, operator, x, at, packed)
    return result


def avg_pool_backward(g: Tensor, packed: Packed) -> Tensor:
    """The adjoint of the average: every output's value, divided, at each of its cells."""
    packed = _traceable(packed)
    if not differentiates(g):
        return _raw_avg_pool_backward(g, packed)
    spread: Tensor = _apply(_AvgPoolBackward, _AvgPoolBackwardForward, g, packed)
    return spread
