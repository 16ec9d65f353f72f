"""JAX: `lax.reduce_window`, compiled by XLA, in either layout; gradients by `jax.vjp`."""

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..cases import Point
from .base import Peer, Unsupported
from .geometry import Geometry, geometry


class JAX(Peer):
    name = "JAX"
    needs = ("jax", "jaxlib")
    pool = "JAX"

    def __init__(self) -> None:
        self._threads: int | None = None

    def start(self, threads: int) -> None:
        if self._threads is not None:
            return
        import jax

        jax.config.update("jax_platforms", "cpu")
        before = os.environ.get("NPROC")
        os.environ["NPROC"] = str(threads)  # XLA reads it once, when it makes its threads
        try:
            jax.devices()
        finally:
            if before is None:
                del os.environ["NPROC"]
            else:
                os.environ["NPROC"] = before
        self._threads = threads

    def prepare(self, point: Point, x: Tensor, upstream: Tensor) -> Callable[[], Any]:
        import jax

        self.start(torch.get_num_threads())
        if torch.get_num_threads() != self._threads:
            raise Unsupported(
                f"XLA started with {self._threads} threads and cannot change their number; "
                "a run with --threads 1 alone has it on one"
            )
        window = geometry(point)
        if window is None:
            raise Unsupported("reduce_window has no windows of different sizes")
        forward = functools.partial(_pool, point, window)
        a = jax.numpy.from_dlpack(_in_order(point, x))
        if point.phase == "inference":
            compiled = jax.jit(forward)
            return lambda: compiled(a).block_until_ready()
        recorded = jax.jit(lambda a: jax.vjp(forward, a))
        if point.phase == "training":
            return lambda: jax.block_until_ready(recorded(a))[0]
        _, pullback = jax.block_until_ready(recorded(a))
        backward = jax.jit(lambda pullback, gradient: pullback(gradient)[0])
        gradient = jax.numpy.from_dlpack(_in_order(point, upstream))
        return lambda: backward(pullback, gradient).block_until_ready()

    def result(self, point: Point, value: Any) -> Tensor:
        y = torch.from_dlpack(value)
        return y.movedim(-1, 1) if point.layout == "channels_last" else y


def _in_order(point: Point, x: Tensor) -> Tensor:
    """Axes in the order of memory: JAX has no strides."""
    order = x.movedim(1, -1) if point.layout == "channels_last" else x
    return order.contiguous()  # moves nothing of an input, which is laid out already


def _pool(point: Point, window: Geometry, a: Any) -> Any:
    import jax
    import numpy as np

    first = 1 if point.layout == "channels_last" else 2
    spatial = tuple(range(first, first + point.case.rank))

    def full(values: tuple[int, ...], other: Any) -> list[Any]:
        """Values of the spatial axes, and another for batch and channels."""
        found = dict(zip(spatial, values, strict=True))
        return [found.get(axis, other) for axis in range(a.ndim)]

    def reduce(a: Any, start: Any, combine: Any) -> Any:
        init = np.array(start, a.dtype)
        if window.is_global:
            y = jax.lax.reduce(a, init, combine, spatial)
            return jax.numpy.expand_dims(y, spatial)
        return jax.lax.reduce_window(
            a,
            init,
            combine,
            full(window.kernel, 1),
            full(window.stride, 1),
            full(tuple(zip(window.padding, window.trailing, strict=True)), (0, 0)),
            window_dilation=full(window.dilation, 1),
        )

    if point.case.family == "max":
        integer = not jax.numpy.issubdtype(a.dtype, jax.numpy.floating)
        return reduce(a, np.iinfo(a.dtype).min if integer else -np.inf, jax.lax.max)
    wide = a.astype(np.float32)  # a sum in a half type would be far from the average
    if point.case.family == "lp":
        if window.norm != 2:
            raise Unsupported("written for the 2-norm alone")
        return jax.numpy.sqrt(reduce(wide * wide, 0, jax.lax.add)).astype(a.dtype)
    return (reduce(wide, 0, jax.lax.add) / _divisors(window, full)).astype(a.dtype)


def _divisors(window: Geometry, full: Callable[[Any, Any], list[Any]]) -> Any:
    """By what to divide sums: a number, or an array where windows differ."""
    import numpy as np

    per_axis = [window.divisors(axis) for axis in range(len(window.out))]
    counts = functools.reduce(np.multiply.outer, [np.array(n, np.float32) for n in per_axis])
    if (counts == counts.flat[0]).all():
        return counts.flat[0]
    return counts.reshape(full(window.out, 1))
