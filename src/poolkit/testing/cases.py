"""Random comparisons with torch, each of them a handful of plain values: it can be made again."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

import poolkit.functional
import poolkit.ops

from ..window import PADDING_MODES
from .against_torch import compare
from .calls import Call
from .deviations import DEVIATIONS, excuses
from .samples import FLOATS, HALVES, INTEGERS, LAYOUTS, VALUES, laid_out, sample

Arguments = dict[str, Any]
Spatial = tuple[int, ...]

TF = torch.nn.functional


@dataclass(frozen=True)
class Case:
    """One call of poolkit and of torch. Its ``repr`` is the code that makes it again.

    Example:
        >>> import torch
        >>> from poolkit.testing import Case
        >>> case = Case("max_pool2d", (2, 3, 8, 8), torch.float32, "relu", "channels_last",
        ...             batched=True, seed=7, threads=1, arguments={"kernel_size": 2})
        >>> case.check()
        set()
    """

    operator: str
    """A name of ``poolkit.functional``."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    values: str
    """The kind of values, of :data:`VALUES`."""
    layout: str
    """The layout of the input, of :data:`LAYOUTS`."""
    batched: bool
    """Whether the input keeps its first axis."""
    seed: int
    """Of the values, and of the windows of fractional pooling."""
    threads: int
    arguments: Arguments
    """Those of the operator; ``_random_samples=True`` stands for samples of the seed."""

    def check(self) -> set[str]:
        """Compare; the ids of the deviations that name what differs.

        Raises:
            AssertionError: something differs that :data:`DEVIATIONS` does not name.
        """
        with _settings(self.threads):
            call = self._call()
            exact = None if "avg" not in self.operator else False
            may_differ = excuses(call)
            if "fractional_avg" in self.operator:
                may_differ.discard("gradient")  # its twin below rounds but once
            differing = compare(call, self._theirs(call), self._ours(call), exact, may_differ)
            if differing & {"error", "value", "gradient"}:
                self._compare_wider(call, exact)
        rows = [row for row in DEVIATIONS if differing & {*row.aspects} and row.covers(call)]
        return {row.id for row in rows}

    def _compare_wider(self, call: Call, exact: bool | None) -> None:
        """Where torch rounds too often, or has no kernel: its result in a wider type, rounded."""
        narrow, lp = self.dtype, "lp_pool" in call.family
        if narrow is torch.int64 and self.values == "extreme":
            return  # no type holds them
        wide = torch.float32 if narrow in HALVES or lp else torch.float64
        result = wide if lp and not narrow.is_floating_point else narrow
        theirs = self._theirs(call)

        def rounded(x: Tensor) -> Any:
            return _first(theirs(x.to(wide)), lambda y: y.to(result))

        def gathered(x: Tensor) -> Any:
            # The windows depend on the type of the samples: torch's cells, in float32.
            _, cells = self._theirs(call, return_indices=True)(x.detach())
            flat = x.to(wide).flatten(-call.rank).gather(-1, cells.flatten(-call.rank))
            return _first(theirs(x.detach()), lambda _: flat.view(cells.shape).to(narrow))

        fractional = "fractional_max" in self.operator
        may_differ = excuses(Call(call.name, call.input.to(wide), call.arguments))
        compare(call, gathered if fractional else rounded, self._ours(call), exact, may_differ)

    def _call(self) -> Call:
        x, arguments = self._values(), dict(self.arguments)
        name = self.operator.replace("fractional_avg", "fractional_max")
        rank = int(name.removesuffix("_with_indices")[-2])
        if name.startswith("global"):
            name, arguments = name.replace("global", "adaptive"), {"output_size": 1}
        if "unpool" in name:
            # From contiguous values: the indices of torch's channels-last maxima may be wrong.
            x, indices = getattr(TF, f"max_pool{rank}d")(
                x, arguments["kernel_size"], return_indices=True
            )
            arguments["indices"] = self._placed(indices)
        x = self._placed(x)
        if arguments.get("_random_samples"):
            batch = x.shape[:2] if self.batched else (1, x.shape[0])
            generator = torch.Generator().manual_seed(self.seed)
            u = torch.rand((*batch, rank), generator=generator, dtype=torch.float32)
            arguments["_random_samples"] = u.to(x.dtype).clamp(max=0.99)
        return Call(name, x, arguments)

    def _values(self) -> Tensor:
        x = sample(self.shape, self.dtype, self.values, self.seed)
        p = self.arguments.get("norm_type", 2)
        if p == 2 or self.dtype is torch.bool:
            return x
        # Signed sums cancel, and then no two orders of addition agree.
        x = x.abs()
        return x + 0.5 if p < 1 and x.is_floating_point() else x

    def _placed(self, x: Tensor) -> Tensor:
        x = laid_out(x, self.layout)
        return x if self.batched else x[0]

    def _ours(self, call: Call) -> Callable[[Tensor], Any]:
        arguments = {} if self.operator.startswith("global") else call.arguments
        return self._seeded(getattr(poolkit.functional, self.operator), arguments)

    def _theirs(self, call: Call, **more: Any) -> Callable[[Tensor], Any]:
        function = _TWINS.get(self.operator) or getattr(TF, call.name)
        return self._seeded(function, {**call.arguments, **more})

    def _seeded(self, function: Callable[..., Any], arguments: Arguments) -> Callable[..., Any]:
        def seeded(x: Tensor) -> Any:
            torch.default_generator.manual_seed(self.seed)
            return function(x, **arguments)

        return seeded


def _first(result: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The result with its values changed, and its indices, if there are any, as they are."""
    if isinstance(result, tuple):
        return (change(result[0]), *result[1:])
    return change(result)


@contextmanager
def _settings(threads: int) -> Iterator[None]:
    """This number of threads, gradients, no autocast and the CPU; afterwards all as it was."""
    before = torch.get_num_threads()
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, before)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.inference_mode(False))  # turns gradients on as well
        stack.enter_context(torch.autocast("cpu", enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_num_threads(threads)
        yield


# ---- functions that torch lacks, made of those that it has --------------------------------------


def _fractional_max_pool1d(x: Tensor, **arguments: Any) -> Any:
    """2-D pooling of one row."""
    size = arguments.pop("output_size", None)
    ratio = arguments.pop("output_ratio", None)
    size = int(ratio * x.shape[-1]) if size is None else size[0]
    u = arguments.pop("_random_samples")
    result = TF.fractional_max_pool2d(
        x.unsqueeze(-2),
        (1, arguments.pop("kernel_size")[0]),
        (1, size),
        _random_samples=torch.cat([u, torch.zeros_like(u)], -1),
        **arguments,
    )
    return tuple(t.squeeze(-2) for t in result) if isinstance(result, tuple) else result.squeeze(-2)


def _fractional_avg_pool(rank: int) -> Callable[..., Tensor]:
    """The mean of torch's windows: the maximum of a ramp is the last cell of each."""

    def average(x: Tensor, kernel_size: tuple[int, ...], **arguments: Any) -> Tensor:
        spatial = x.shape[-rank:]
        # A half type tells 256 cells apart; a case has no more.
        ramp = torch.arange(math.prod(spatial), dtype=x.dtype).view(spatial).expand(x.shape)
        pool = _TWINS.get(f"fractional_max_pool{rank}d") or getattr(
            TF, f"fractional_max_pool{rank}d"
        )
        last = pool(ramp, kernel_size=kernel_size, return_indices=True, **arguments)[1]
        before = torch.arange(math.prod(spatial)).view(spatial)
        before = before[tuple(slice(k) for k in kernel_size)].flatten()
        index = last.unsqueeze(-1) - before
        cells = x.double().flatten(-rank).gather(-1, index.flatten(x.dim() - rank))
        return cells.view(index.shape).mean(-1).to(x.dtype)

    return average


def _blur_pool(rank: int) -> Callable[..., Tensor]:
    """Padding, and a convolution of every plane with the whole filter, in float64."""

    def blur(x: Tensor, kernel_size: Spatial, stride: Spatial, padding_mode: str) -> Tensor:
        planes = poolkit.ops.keep_strides(x).double().reshape(-1, 1, *x.shape[-rank:])
        pads = [n for k in reversed(kernel_size) for n in ((k - 1) // 2, k // 2)]
        mode = "constant" if padding_mode == "zeros" else padding_mode
        weights = torch.ones((), dtype=torch.float64)
        for k in kernel_size:
            row = torch.tensor([math.comb(k - 1, i) for i in range(k)]).double() / 2 ** (k - 1)
            weights = weights.unsqueeze(-1) * row
        convolve = getattr(TF, f"conv{rank}d")
        y = convolve(TF.pad(planes, pads, mode), weights[None, None], stride=stride).to(x.dtype)
        y = y.reshape(*x.shape[:-rank], *y.shape[-rank:])
        blurred: Tensor = y.contiguous(memory_format=suggest_memory_format(x))
        return blurred

    return blur


def _max_blur_pool(rank: int) -> Callable[..., Tensor]:
    def pool(
        x: Tensor, kernel_size: Spatial, stride: Spatial, padding: Spatial, blur: Spatial,
        padding_mode: str,
    ) -> Tensor:  # fmt: skip
        layout = suggest_memory_format(x)
        # With strides of their own: a single channel passes for channels-last, see deviations.py.
        planes = poolkit.ops.keep_strides(x).double().clone(memory_format=torch.contiguous_format)
        largest = getattr(TF, f"max_pool{rank}d")(planes, kernel_size, 1, padding)
        y = _blur_pool(rank)(largest, blur, stride, padding_mode)
        return y.to(x.dtype).contiguous(memory_format=layout)

    return pool


_TWINS: dict[str, Callable[..., Any]] = {
    **{f"blur_pool{rank}d": _blur_pool(rank) for rank in (1, 2, 3)},
    **{f"max_blur_pool{rank}d": _max_blur_pool(rank) for rank in (1, 2, 3)},
    "fractional_max_pool1d": _fractional_max_pool1d,
    "fractional_max_pool1d_with_indices": lambda x, **arguments: _fractional_max_pool1d(
        x, **{**arguments, "return_indices": True}
    ),
    **{f"fractional_avg_pool{rank}d": _fractional_avg_pool(rank) for rank in (1, 2, 3)},
}


# ---- random cases -------------------------------------------------------------------------------


def comparable() -> list[str]:
    """The names of ``poolkit.functional`` that torch has too, or whose results it can make."""
    return [name for name in poolkit.functional.__all__ if _family(name) in _ARGUMENTS]


def _family(operator: str) -> str:
    return operator.removesuffix("_with_indices")[:-2]


_EXTENTS = {1: (40, 3000), 2: (12, 64), 3: (6, 16)}
"""The largest extent of a small and of a large input. Only large ones are shared among threads."""


def random_case(operator: str, rng: Random, threads: int = 1) -> Case:
    """A call of ``operator`` with random geometry, dtype, layout and values.

    Most are small; one in eight is large enough for several threads.
    """
    rank = int(operator.removesuffix("_with_indices")[-2])
    family = _family(operator)
    small, large = _EXTENTS[rank]
    big = family != "fractional_avg_pool" and rng.random() < 1 / 8
    channels = rng.choice([16, 17, 64]) if big else rng.choice([1, 2, 3, 8, 17])
    least, most = (large // 2, large) if big else (2 if "fractional" in family else 1, small)
    spatial = tuple(rng.randint(least, most) for _ in range(rank))
    arguments = _ARGUMENTS[family](rng, spatial)
    if "return_indices" in arguments and operator.endswith("_with_indices"):
        del arguments["return_indices"]
    if family.startswith("fractional") and (rank == 1 or "avg" in family or rng.random() < 0.5):
        arguments["_random_samples"] = True  # otherwise both draw them
    dtypes, values = _INPUTS[family]
    if rng.random() < 0.5:
        dtypes = FLOATS  # torch has few kernels for integers
    return Case(
        operator, (rng.randint(1, 3), channels, *spatial), rng.choice(dtypes), rng.choice(values),
        rng.choice(LAYOUTS), rng.random() < 0.8, rng.randrange(2**31), threads, arguments,
    )  # fmt: skip


def _each(rng: Random, low: int, highs: Spatial) -> Spatial:
    return tuple(rng.randint(low, high) for high in highs)


def _fixed(rng: Random, spatial: Spatial) -> Arguments:
    kernel = _each(rng, 1, tuple(min(5, n) for n in spatial))
    wide = rng.random() < 1 / 8  # more padding than torch takes
    return {
        "kernel_size": kernel,
        "stride": rng.choice([None, _each(rng, 1, (4,) * len(spatial))]),
        "padding": _each(rng, 0, tuple(min(k // 2 + wide, (k + 1) // 2) for k in kernel)),
        "ceil_mode": rng.random() < 0.5,
    }


def _max(rng: Random, spatial: Spatial) -> Arguments:
    arguments = _fixed(rng, spatial)
    if rng.random() < 1 / 3:
        kernels = zip(arguments["kernel_size"], spatial, strict=True)
        fits = [(n - 1) // (k - 1) if k > 1 else 3 for k, n in kernels]
        arguments["dilation"] = _each(rng, 1, tuple(min(3, most) for most in fits))
    return {**arguments, "return_indices": rng.random() < 0.5}


def _avg(rng: Random, spatial: Spatial) -> Arguments:
    arguments = {**_fixed(rng, spatial), "count_include_pad": rng.random() < 0.5}
    if len(spatial) > 1:
        arguments["divisor_override"] = rng.choice([None, None, 1, 3, -2])
    return arguments


def _lp(rng: Random, spatial: Spatial) -> Arguments:
    arguments = _fixed(rng, spatial)
    del arguments["padding"]
    if len(spatial) == 1:
        arguments["kernel_size"] = arguments["kernel_size"][0]
        arguments["stride"] = arguments["stride"] and arguments["stride"][0]
    return {"norm_type": rng.choice([1, 2, 3, 2.5, 0.5, -1, math.inf, -math.inf]), **arguments}


def _adaptive(rng: Random, spatial: Spatial) -> Arguments:
    low = 0 if rng.random() < 1 / 8 else 1
    size: list[int | None] = [*_each(rng, low, tuple(min(n + 3, 24) for n in spatial))]
    if len(size) == 1:
        return {"output_size": size[0]}
    if rng.random() < 0.5:
        size[rng.randrange(len(size))] = None
    return {"output_size": tuple(size)}


def _adaptive_max(rng: Random, spatial: Spatial) -> Arguments:
    return {**_adaptive(rng, spatial), "return_indices": rng.random() < 0.5}


def _unpool(rng: Random, spatial: Spatial) -> Arguments:
    return {"kernel_size": rng.randint(1, min(3, *spatial, 3)), "output_size": spatial}


def _fractional(rng: Random, spatial: Spatial) -> Arguments:
    kernel = _each(rng, 1, tuple(max(1, min(3, n - 1)) for n in spatial))
    most = tuple(max(1, n - k) for n, k in zip(spatial, kernel, strict=True))
    return {"kernel_size": kernel, "output_size": _each(rng, 1, most)}


def _fractional_max(rng: Random, spatial: Spatial) -> Arguments:
    return {**_fractional(rng, spatial), "return_indices": rng.random() < 0.5}


def _blur(rng: Random, spatial: Spatial) -> Arguments:
    return {
        "kernel_size": _each(rng, 1, tuple(min(5, n) for n in spatial)),
        "stride": _each(rng, 1, (4,) * len(spatial)),
        "padding_mode": rng.choice(PADDING_MODES),
    }


def _max_blur(rng: Random, spatial: Spatial) -> Arguments:
    kernel = _each(rng, 1, tuple(min(4, n) for n in spatial))
    padding = _each(rng, 0, tuple(k // 2 for k in kernel))
    sizes = zip(spatial, kernel, padding, strict=True)
    blurred = _blur(rng, tuple(n - k + 1 + 2 * p for n, k, p in sizes))
    return {
        **blurred, "kernel_size": kernel, "padding": padding, "blur": blurred["kernel_size"]
    }  # fmt: skip


_ARGUMENTS: dict[str, Callable[[Random, Spatial], Arguments]] = {
    "max_pool": _max,
    "avg_pool": _avg,
    "lp_pool": _lp,
    "adaptive_max_pool": _adaptive_max,
    "adaptive_avg_pool": _adaptive,
    "global_max_pool": lambda *_: {},
    "global_avg_pool": lambda *_: {},
    "max_unpool": _unpool,
    "fractional_max_pool": _fractional_max,
    "fractional_avg_pool": _fractional,
    "blur_pool": _blur,
    "max_blur_pool": _max_blur,
}

# Sums of the largest numbers of a dtype overflow in one order and not in another.
_SUMMABLE = tuple(kind for kind in VALUES if kind != "extreme")
_INPUTS: dict[str, tuple[tuple[torch.dtype, ...], tuple[str, ...]]] = {
    **dict.fromkeys(("max_pool", "adaptive_max_pool", "global_max_pool"),
                    ((*FLOATS, *INTEGERS), VALUES)),
    **dict.fromkeys(("avg_pool", "adaptive_avg_pool", "global_avg_pool"),
                    ((*FLOATS, torch.int64), _SUMMABLE)),
    "lp_pool": ((*FLOATS, *INTEGERS), ("normal", "relu")),
    "max_unpool": (FLOATS, VALUES),
    "fractional_max_pool": (FLOATS, VALUES),
    "fractional_avg_pool": (FLOATS, _SUMMABLE),
    "blur_pool": (FLOATS, _SUMMABLE),
    "max_blur_pool": (FLOATS, _SUMMABLE),
}  # fmt: skip
