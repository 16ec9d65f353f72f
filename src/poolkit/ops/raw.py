"""The raw operators: what serves each on any device, its fake kernel, and how it is called.

The native library registers the operators and their CPU kernels. This module gives them the
reference for other devices, and fake kernels for compilers. Where the library does not load, the
reference takes the operators' place. Neither knows of derivatives: those are in `derivatives`.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from .. import cpu, norms, onnx, reference
from ..window import Packed, Window, unpack
from . import inductor

Pair = tuple[Tensor, Tensor]


def _slow_max_pool(x: Tensor, window: Packed) -> Tensor:
    return reference.max_pool(x, unpack(window)[0])[0]


def _slow_max_pool_offsets(x: Tensor, window: Packed) -> Pair:
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


def _slow_fractional_max_pool_indices(x: Tensor, samples: Tensor, window: Packed) -> Pair:
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


def _slow_lp_pool(x: Tensor, p: float, window: Packed) -> Tensor:
    w, _ = unpack(window)
    return reference.lp_pool(x, p, w, absolute=w.divisor != 0)


def _slow_lp_pool_backward(g: Tensor, y: Tensor, x: Tensor, p: float, window: Packed) -> Tensor:
    w, channels_last = unpack(window)
    spread = reference.avg_pool_backward(norms.shares(g, y, p, w), w, channels_last)
    return spread * norms.powers(x, p, w)


def _filters(taps: Sequence[float], window: Window) -> list[Sequence[float]]:
    """The weights of each axis, which cross one behind the other."""
    filters, used = [], 0
    for axis in window.axes:
        filters.append(taps[used : used + axis.kernel])
        used += axis.kernel
    return filters


def _slow_blur_pool(x: Tensor, taps: Sequence[float], window: Packed) -> Tensor:
    w, _ = unpack(window)
    return reference.blur_pool(x, _filters(taps, w), w)


def _slow_blur_pool_backward(g: Tensor, taps: Sequence[float], window: Packed) -> Tensor:
    w, channels_last = unpack(window)
    return reference.blur_pool_backward(g, _filters(taps, w), w, channels_last)


def _slow_max_blur_pool(x: Tensor, taps: Sequence[float], dense: Packed, window: Packed) -> Tensor:
    w, _ = unpack(window)
    return reference.max_blur_pool(x, _filters(taps, w), unpack(dense)[0], w)


def _slow_max_blur_pool_offsets(
    x: Tensor, taps: Sequence[float], dense: Packed, window: Packed
) -> Pair:
    maxima, offsets = _slow_max_pool_offsets(x, dense)
    return _slow_blur_pool(maxima, taps, window), offsets


def _slow_max_blur_pool_backward(
    g: Tensor, offsets: Tensor, taps: Sequence[float], dense: Packed, window: Packed
) -> Tensor:
    return _slow_scatter(_slow_blur_pool_backward(g, taps, window), offsets, dense)


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


def _fake_blur(x: Tensor, *args: Any) -> Tensor:
    return _pooled(x, args[-1])


def _fake_max_blur_pool_offsets(
    x: Tensor, taps: Sequence[float], dense: Packed, window: Packed
) -> Pair:
    return _pooled(x, window), _pooled(x, dense, unpack(dense)[0].offset_dtype)


def _fake_max_pool_offsets(x: Tensor, window: Packed) -> Pair:
    return _pooled(x, window), _pooled(x, window, unpack(window)[0].offset_dtype)


def _fake_fractional(x: Tensor, samples: Tensor, window: Packed) -> Tensor:
    return _pooled(x, window)


def _fake_fractional_indices(x: Tensor, samples: Tensor, window: Packed) -> Pair:
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
    "lp_pool": (_slow_lp_pool, lambda x, p, window: _pooled(x, window)),
    "lp_pool_backward": (_slow_lp_pool_backward, lambda g, y, x, p, window: _unpooled(g, window)),
    "blur_pool": (_slow_blur_pool, _fake_blur),
    "blur_pool_backward": (
        _slow_blur_pool_backward,
        lambda g, taps, window: _unpooled(g, window),
    ),
    "max_blur_pool": (_slow_max_blur_pool, _fake_blur),
    "max_blur_pool_offsets": (_slow_max_blur_pool_offsets, _fake_max_blur_pool_offsets),
    "max_blur_pool_backward": (
        _slow_max_blur_pool_backward,
        lambda g, offsets, taps, dense, window: _unpooled(g, dense),
    ),
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


_both = _load()
raw_operators = {name: either for name, (either, _) in _both.items()}
NATIVE = cpu.isa() is not None
"""Whether kernels serve; otherwise everything is computed by the reference."""

# Names of their own, for fewer look-ups in calls on tiny tensors.
raw_max_pool: Callable[[Tensor, Packed], Tensor] = raw_operators["max_pool"]
raw_max_pool_offsets: Callable[[Tensor, Packed], Pair] = raw_operators["max_pool_offsets"]
raw_plane_indices: Callable[[Tensor, Packed], Tensor] = raw_operators["plane_indices"]
raw_avg_pool: Callable[[Tensor, Packed], Tensor] = raw_operators["avg_pool"]
raw_avg_pool_backward: Callable[[Tensor, Packed], Tensor] = raw_operators["avg_pool_backward"]
raw_lp_pool: Callable[[Tensor, float, Packed], Tensor] = raw_operators["lp_pool"]
text_max_pool_offsets: Callable[[Tensor, str], Pair] = _both["max_pool_offsets"][1]
text_avg_pool: Callable[[Tensor, str], Tensor] = _both["avg_pool"][1]
