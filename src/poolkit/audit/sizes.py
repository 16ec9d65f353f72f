"""Which input sizes a model takes, and which of them lose nothing; tried on the meta device."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .stages import drops
from .swap import without_values
from .trace import Trace

TRIES = 400


class Sizes:
    """Runs of a model with one image of other sizes, without values."""

    def __init__(self, model: nn.Module, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.model, self.shape, self.dtype = model, tuple(shape), dtype
        self.tries = 0
        self._known: dict[tuple[int, ...], Trace | None] = {}

    def trace(self, size: Sequence[int]) -> Trace | None:
        """A run with this size; None if the model does not take it."""
        key = tuple(size)
        if key not in self._known:
            self.tries += 1
            self._known[key] = self._run(key)
        return self._known[key]

    def _run(self, size: tuple[int, ...]) -> Trace | None:
        trace = Trace(self.model)

        def run(x: Tensor) -> None:
            trace.run(x)

        try:
            without_values(self.model, run, (*self.shape[:2], *size), self.dtype)
        except Exception:  # noqa: BLE001  whatever a model raises, that is the answer
            return None
        return trace

    def smallest(self) -> tuple[int, ...] | None:
        """The smallest size that works, all axes alike, as far as the input has them so large.

        Sizes are doubled until one works; below it every one is tried.
        """
        size = self.shape[2:]
        limit = max(size)
        high = 1
        while high < limit and self.trace(_bounded(high, size)) is None:
            high *= 2
        for extent in range(high // 2 + 1, min(high, limit) + 1):
            if self.tries > TRIES:
                return None
            if self.trace(_bounded(extent, size)) is not None:
                return _bounded(extent, size)
        return None

    def divides_by(self) -> tuple[int, ...] | None:
        """Per axis the smallest number whose multiples lose nothing at any border."""
        found = []
        for axis in range(len(self.shape) - 2):
            step = next((s for s in self._steps(axis) if self._is_even(axis, s)), None)
            if step is None:
                return None
            found.append(step)
        return tuple(found)

    def takes_others(self) -> bool:
        """Whether any other size than the input's has worked so far."""
        return any(run is not None for size, run in self._known.items() if size != self.shape[2:])

    def _steps(self, axis: int) -> Iterator[int]:
        trace = self.trace(self.shape[2:])
        if trace is None:
            return
        strides = [math.ceil(event.sight.lines[axis].stride) for event in trace.events
                   if not event.found.kind.startswith("global")]  # fmt: skip
        total = max(strides, default=1)
        yield from (step for step in range(1, total + 1) if total % step == 0)

    def _is_even(self, axis: int, step: int) -> bool:
        """Whether the next multiples of ``step`` lose nothing along an axis."""
        least = -(-self.shape[2 + axis] // step) * step
        for extent in range(least, least + 4 * step, step):
            size = list(self.shape[2:])
            size[axis] = extent
            trace = self.trace(size)
            if trace is None or any(drops(event)[axis] for event in trace.events):
                return False
        return True


def _bounded(extent: int, size: Sequence[int]) -> tuple[int, ...]:
    return tuple(min(extent, most) for most in size)
