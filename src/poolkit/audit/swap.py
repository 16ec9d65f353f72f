"""The same call with torch's pooling and with poolkit's: what it keeps, and how long it takes."""

import functools
import inspect
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn import functional as stock
from torch.utils._pytree import tree_map

from .. import functional as ours
from .. import ops
from .. import window as geometry
from .calls import Calls, Function, title
from .rules import hangs_over
from .trace import Call, Spec

Side = Literal["torch", "poolkit"]

BOTH = frozenset(name for name in ours.__all__ if hasattr(stock, name))
"""The functions that torch and poolkit both have, of the same names and arguments."""


def served(function: Function, side: Side) -> Function | None:
    """What a side has in a function's place; None if that is the function itself."""
    name = title(function)
    if name in PACKED and getattr(function, "namespace", "") == "poolkit":
        return functools.partial(_packed, name, side)
    is_ours = getattr(function, "__module__", "").startswith("poolkit.")
    if is_ours == (side == "poolkit"):
        return None
    if is_ours and name.startswith("global_"):
        adaptive = getattr(stock, f"adaptive_{name.removeprefix('global_')}", None)
        return None if adaptive is None else lambda x: adaptive(x, 1)
    if name not in BOTH:
        return None
    if side == "poolkit":
        found: Function = getattr(ours, name)
        return found
    return _without_defaults(function, getattr(stock, name))


def _without_defaults(function: Function, other: Function) -> Function:
    """Torch's function, called without those options that it lacks as long as they say nothing."""
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}

    def call(*args: Any, **keywords: Any) -> Any:
        said = {name: value for name, value in keywords.items() if value != defaults.get(name)}
        return other(*args, **said)

    return call


PACKED = ("max_pool", "max_pool_offsets", "avg_pool", "l2_pool")
"""Operators of poolkit's that an exported program calls with a packed window."""


def _packed(name: str, side: Side, x: Tensor, packed: Any) -> Any:
    """What a node of an exported program stands for, with derivatives."""
    window, _ = geometry.unpack(packed)
    if side == "poolkit":
        return getattr(ops, name)(x, window)
    axes, rank = window.axes, window.rank
    if name == "l2_pool" or any(a.before != a.after for a in axes):
        raise TypeError(name)
    kind = name[:3]
    if any(a.stride == 0 for a in axes) or all(a.out == 1 for a in axes):
        return getattr(stock, f"adaptive_{kind}_pool{rank}d")(x, window.output_size)
    kernel, stride, before, dilation = (
        tuple(getattr(a, field) for a in axes)
        for field in ("kernel", "stride", "before", "dilation")
    )
    ceil_mode = hangs_over(window)
    if kind == "avg":
        pool = getattr(stock, f"avg_pool{rank}d")
        divisor = (window.divisor or None,) if rank > 1 else ()
        return pool(x, kernel, stride, before, ceil_mode, window.include_pad, *divisor)
    both = getattr(stock, f"max_pool{rank}d_with_indices")(
        x, kernel, stride, before, dilation, ceil_mode
    )
    return both if name == "max_pool_offsets" else both[0]


def calling(function: Function, side: Side, args: Any, keywords: Any) -> Any:
    """Call what a side has in a function's place, or the function where that cannot serve."""
    other = served(function, side)
    if other is not None:
        try:
            return other(*args, **keywords)
        except (TypeError, RuntimeError):  # torch has no asymmetric padding, for one
            pass
    return function(*args, **keywords)


class Swapped(Calls):
    """A model whose pooling is torch's, or poolkit's, whoever's it is."""

    def __init__(self, model: nn.Module, side: Side) -> None:
        super().__init__(model)
        self.side = side

    def call(self, function: Function, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """A function, or its kin."""
        return calling(function, self.side, args, keywords)


# ---- memory -------------------------------------------------------------------------------------


class Saved(NamedTuple):
    """Bytes that autograd keeps for the backward pass."""

    total: int
    indices: int


def saved(run: Callable[[], object], without: Iterable[Tensor] = ()) -> Saved:
    """What a call asks autograd to keep, but for the tensors ``without``; a storage counts once.

    No tensor needs to have values.
    """
    left_out = {_storage(tensor) for tensor in without}
    found: dict[int, tuple[int, bool]] = {}
    alive = []  # a storage that is freed could lend its number to another

    def pack(tensor: Tensor) -> Tensor:
        key = _storage(tensor)
        if key not in left_out:
            alive.append(tensor.untyped_storage())
            is_index = not tensor.dtype.is_floating_point and not tensor.dtype.is_complex
            found[key] = (alive[-1].nbytes(), is_index)
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    total = sum(size for size, _ in found.values())
    return Saved(total, sum(size for size, is_index in found.values() if is_index))


def _storage(tensor: Tensor) -> int:
    number: int = tensor.untyped_storage()._cdata  # noqa: SLF001  meta tensors have no address
    return number


def saved_by(call: Call, side: Side) -> Saved:
    """What one call keeps, found on the meta device: nothing is computed."""
    weights: dict[int, Tensor] = {}

    def remade(value: Any) -> Any:
        if isinstance(value, Spec):
            like = torch.empty_strided(value.shape, value.strides, dtype=value.dtype, device="meta")
            return like.requires_grad_(value.dtype.is_floating_point)
        if isinstance(value, Tensor):
            if id(value) not in weights:
                weights[id(value)] = torch.empty_like(value, device="meta").requires_grad_(
                    value.requires_grad
                )
            return weights[id(value)]
        return value

    args, keywords = _rebuilt(call, remade)
    return saved(lambda: calling(call.function, side, args, keywords), weights.values())


def _rebuilt(call: Call, remade: Callable[[Any], Any]) -> tuple[Any, Any]:
    is_leaf = lambda value: isinstance(value, Spec)  # noqa: E731  a tuple, to torch
    return tree_map(remade, call.args, is_leaf=is_leaf), tree_map(
        remade, call.keywords, is_leaf=is_leaf
    )


class _Run(nn.Module):
    """A model whose ``forward`` is a run of something around it."""

    def __init__(self, model: nn.Module, run: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.run = run

    def forward(self, *inputs: Any) -> Any:
        """The run."""
        return self.run(*inputs)


def without_values(
    model: nn.Module, run: Callable[..., Any], shape: Iterable[int], dtype: torch.dtype
) -> Any:
    """Call ``run`` with an input of a shape, while the model is on the meta device."""
    x = torch.empty(tuple(shape), dtype=dtype, device="meta")
    return functional_call(_Run(model, run), weightless(model), (x,))


def weightless(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model on the meta device, by its names in :class:`_Run`."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        state[f"model.{name}"] = torch.empty_like(parameter, device="meta").requires_grad_(
            parameter.requires_grad
        )
    for name, buffer in model.named_buffers():
        state[f"model.{name}"] = torch.empty_like(buffer, device="meta")
    return state


def saved_in_training(
    model: nn.Module, shape: Iterable[int], dtype: torch.dtype, side: Side
) -> Saved:
    """What a training step of the model keeps; parameters do not count."""
    calls = Swapped(model, side)
    found: list[Saved] = []

    def run(x: Tensor) -> None:
        found.append(saved(lambda: calls.run(x), model.parameters()))

    without_values(model, run, shape, dtype)
    return found[0]


# ---- time ---------------------------------------------------------------------------------------

LEAST, MOST = 2, 200  # runs of each


def fastest(runs: Iterable[Callable[[], object]], seconds: float, device: torch.device) -> list[
    float
]:  # fmt: skip
    """The smallest time of each of several runs, taken in turns, once each is warm."""
    steps = list(runs)
    best = [math.inf] * len(steps)
    # Not inference mode: a model may keep what it computes.
    with torch.no_grad():
        start = time.perf_counter()
        for count in range(MOST + 1):
            for i, step in enumerate(steps):
                before = _now(device)
                step()
                took = _now(device) - before
                if count:  # the first is not warm
                    best[i] = min(best[i], took)
            if count >= LEAST and time.perf_counter() - start > seconds:
                break
    return best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(call: Call, seconds: float, device: torch.device) -> tuple[float, float]:
    """Seconds of one call, with torch's function and with poolkit's, on random values."""
    generator = torch.Generator(device).manual_seed(0)

    def remade(value: Any) -> Any:
        return _random(value, device, generator) if isinstance(value, Spec) else value

    args, keywords = _rebuilt(call, remade)
    sides: tuple[Side, ...] = ("torch", "poolkit")
    if all(served(call.function, side) is None for side in sides):
        (one,) = fastest([lambda: call.function(*args, **keywords)], seconds, device)
        return one, one

    def on(side: Side) -> Callable[[], object]:
        return lambda: calling(call.function, side, args, keywords)

    first, second = fastest(map(on, sides), seconds, device)
    return first, second


def _random(spec: Spec, device: torch.device, generator: torch.Generator) -> Tensor:
    x = torch.empty_strided(spec.shape, spec.strides, dtype=spec.dtype, device=device)
    if 0 in spec.strides:  # expanded
        x = torch.empty(spec.shape, dtype=spec.dtype, device=device)
    return x.uniform_(generator=generator) if spec.dtype.is_floating_point else x.zero_()


def timed_whole(
    model: nn.Module, x: Tensor, seconds: float
) -> tuple[float, float]:  # fmt: skip
    """Seconds of one forward pass, with torch's pooling and with poolkit's."""
    sides: tuple[Side, ...] = ("torch", "poolkit")
    runs = (functools.partial(Swapped(model, side).run, x) for side in sides)
    first, second = fastest(runs, seconds, x.device)
    return first, second
