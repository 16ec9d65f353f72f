"""Sample inputs, tolerances and the table of deviations, shared by the tests and the benchmarks.

:data:`DEVIATIONS` names every deliberate difference from torch. Comparisons with torch may leave
out what :func:`excused` says it covers, and nothing else; ``docs/deviations.md`` is generated from
it.
"""

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

import poolkit.functional

from . import reference
from .errors import ArgumentError, DtypeError
from .window import Window

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALVES)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool)

# ---- inputs -------------------------------------------------------------------------------------

VALUES = ("normal", "relu", "zeros", "special", "extreme")
LAYOUTS = ("contiguous", "channels_last", "permuted", "expanded", "sliced", "strided", "ambiguous")


def sample(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    values: str = "normal",
    seed: int = 0,
) -> Tensor:
    """A contiguous tensor of one of the kinds of :data:`VALUES`, the same for the same arguments.

    ``"normal"``; ``"relu"``: quantised and rectified, so that most windows hold ties; ``"zeros"``:
    of -1, -0 and +0; ``"special"``: with NaN and infinities of both signs; ``"extreme"``: the
    smallest and the largest numbers of the dtype, and denormals. Integers take what is nearest.
    """
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.4
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    picks = torch.randint(0, 8, shape, generator=generator)
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        if values == "extreme":
            choice = [info.min, info.max, info.min + 1, info.max - 1, 0, 1, info.min, info.max]
            return torch.tensor(choice, dtype=dtype)[picks]
        top = {"normal": 100, "relu": 3, "zeros": 1, "special": 2}[values]
        low = 0 if values == "relu" else max(info.min, -top)
        return torch.randint(low, top + 1, shape, generator=generator).to(dtype)
    if values == "relu":
        normal = (normal * 2).round().clamp(min=0) / 2
    elif values == "zeros":
        normal = torch.tensor([-1.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0, -1.0]).double()[picks]
    elif values == "special":
        rare = torch.randint(0, 24, shape, generator=generator)
        for pick, special in enumerate((math.nan, -math.nan, math.inf, -math.inf)):
            normal[rare == pick] = special
        normal[picks == 0] = -math.inf
    elif values == "extreme":
        f = torch.finfo(dtype)
        numbers = [f.min, f.max, f.tiny, -f.tiny, f.tiny * f.eps, 0.0, 1.0, -1.0]
        normal = torch.tensor(numbers, dtype=torch.float64)[picks]
    return normal.to(dtype)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The values of ``x`` in one of :data:`LAYOUTS`.

    Only ``"expanded"`` changes them (to the first plane's), and only ``"ambiguous"`` the shape (to
    one channel).
    """
    if layout == "channels_last" and x.dim() in (4, 5):
        x = x.contiguous(
            memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        )
    elif layout == "permuted":
        x = x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))
    elif layout == "expanded":
        x = x[:1, :1].clone().expand(x.shape)
    elif layout == "sliced":
        padded = x.new_zeros([size + 3 for size in x.shape])
        inner = padded[tuple(slice(2, 2 + size) for size in x.shape)]
        x = inner.copy_(x)
    elif layout == "strided":
        x = x.repeat_interleave(2, -1)[..., ::2]
    elif layout == "ambiguous":
        x = laid_out(x[:, :1] if x.dim() > 3 else x, "channels_last")
    return x


# ---- comparisons --------------------------------------------------------------------------------

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(x: Tensor) -> Tensor:
    """The bits of ``x`` as integers, with one pattern for every NaN."""
    x = x.detach().contiguous()
    if x.is_floating_point():
        x = torch.where(x.isnan(), torch.full_like(x, math.nan), x)
    return x.view(_BITS[x.element_size()])


def assert_bit_equal(got: Tensor, expected: Tensor, what: str = "values") -> None:
    """Same shape, dtype and bits, signs of zeros included; a NaN equals a NaN."""
    assert got.dtype == expected.dtype, f"{what}: {got.dtype} is not {expected.dtype}"
    assert got.shape == expected.shape, f"{what}: {got.shape} is not {expected.shape}"
    wrong = (bits(got) != bits(expected)).nonzero()
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise AssertionError(
            f"{what}: {len(wrong)} of {got.numel()} differ, first at {place}: "
            f"{got[place].item()!r} is not {expected[place].item()!r}"
        )


def assert_average_close(got: Tensor, x: Tensor, window: Window) -> None:
    """``got`` is the average of ``x`` up to what its number of additions explains.

    ``|error| <= (k_d + k_h + k_w) * eps * sum |x_m| / |divisor|`` against float64, with ``eps`` of
    the dtype that sums, and half an ulp for a half type's rounding. Integers must be equal.
    """
    assert got.dtype == x.dtype
    if not x.is_floating_point():
        assert_bit_equal(got, reference.avg_pool(x, window))
        return
    exact = reference.avg_pool(x.detach().double(), window)
    size = reference.avg_pool(x.detach().double().abs(), window).abs()
    one = Window(window.axes, divisor=1)
    total = reference.avg_pool(x.detach().double().abs(), one)
    finite = reference.avg_pool(x.detach().isfinite().logical_not().double(), one) == 0
    # A sum of finite numbers may overflow on the way; what it gives then depends on the order.
    half = x.dtype in HALVES
    overflows = finite & ~(total < torch.finfo(torch.float32 if half else x.dtype).max)
    steps = sum(axis.kernel for axis in window.axes)
    _assert_within(got, exact, size, steps, overflows)


def assert_sum_close(got: Tensor, exact: Tensor, size: Tensor, terms: int) -> None:
    """``got`` is ``exact``, a sum of ``terms`` numbers; their absolute values sum to ``size``."""
    _assert_within(got, exact.double(), size.double(), terms, torch.zeros_like(got).bool())


def _assert_within(got: Tensor, exact: Tensor, size: Tensor, steps: int, excused: Tensor) -> None:
    assert got.shape == exact.shape, f"{got.shape} is not {exact.shape}"
    info = torch.finfo(got.dtype)
    half = got.dtype in HALVES
    eps = torch.finfo(torch.float32).eps if half else info.eps
    # Against float64 the reference is as wrong as what it checks.
    bound = (1 + (got.dtype is torch.float64)) * steps * eps * size + info.tiny * info.eps
    if half:
        bound = bound + (exact.abs() + bound) * info.eps / 2
    value = got.detach().double()
    finite = exact.isfinite() & size.isfinite()
    over = excused | (finite & ((exact.abs() + bound) >= info.max))  # so may its rounding
    same = (value == exact) | (value.isnan() & exact.isnan())
    close = finite & ((value - exact).abs() <= bound)
    wrong = (~(same | close | over)).nonzero()
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise AssertionError(
            f"{len(wrong)} of {got.numel()} out of bounds, first at {place}: {value[place]:.9g}, "
            f"exact {exact[place]:.9g}, bound {bound[place]:.3g}"
        )


def strides(x: Tensor) -> tuple[int, ...]:
    """The strides of ``x`` along axes longer than 1: those of the others mean nothing."""
    return tuple(s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1) if x.numel() else ()


def assert_same_strides(got: Tensor, expected: Tensor, what: str = "values") -> None:
    """Equal strides, save along axes of size 1 and of empty tensors."""
    assert strides(got) == strides(expected), f"{what}: {got.stride()} is not {expected.stride()}"


def assert_format(got: Tensor, x: Tensor) -> None:
    """``got`` has the memory format that a result of the input ``x`` must have."""
    like = torch.empty(got.shape, device="meta", memory_format=suggest_memory_format(x))
    assert_same_strides(got, like)


def assert_close(got: Tensor, expected: Tensor) -> None:
    """Equal up to what the order of a few additions explains."""
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-4}
    most = tolerance.get(got.dtype, 1e-9)
    torch.testing.assert_close(got, expected, rtol=most, atol=most, equal_nan=True)


# ---- dtypes -------------------------------------------------------------------------------------

FUNCTIONS = tuple(
    f"{family}{rank}d"
    for family in (
        "max_pool", "avg_pool", "lp_pool", "adaptive_max_pool", "adaptive_avg_pool", "max_unpool",
        "fractional_max_pool",
    )
    for rank in (1, 2, 3)
)  # fmt: skip
"""The core functions; torch has all but fractional_max_pool1d."""


def computes(function: Callable[..., Any], dtype: torch.dtype, channels_last: bool = False) -> bool:
    """Whether a pooling functional takes ``dtype``, found out by calling it."""
    name = function.__name__.lstrip("_").removesuffix("_with_indices")
    family, rank = name[:-2], int(name[-2])
    x = torch.ones((1, 2, *(6,) * rank)).to(dtype)
    if channels_last:
        x = laid_out(x, "channels_last")
    arguments: dict[str, tuple[Any, ...]] = {
        "lp_pool": (2, 2),
        "max_unpool": (torch.arange(6**rank).reshape((6,) * rank).expand(x.shape), 1),
        "fractional_max_pool": (2, 3),
    }
    try:
        function(x, *arguments.get(family, (2,)))
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
    return True


@functools.cache
def torch_has(name: str, dtype: torch.dtype, channels_last: bool = False) -> bool:
    """Whether torch's function of this name has a kernel for ``dtype``, on this device."""
    name = name.removesuffix("_with_indices")
    if not hasattr(torch.nn.functional, name):
        return False

    def stock(*args: Any) -> Any:
        return getattr(torch.nn.functional, name)(*args)

    stock.__name__ = name  # torch's own functions are not all called what they are
    return computes(stock, dtype, channels_last)


# ---- deviations ---------------------------------------------------------------------------------

Aspect = Literal["error", "value", "index", "gradient", "stride", "gradient stride", "dtype"]


@dataclass(frozen=True)
class Call:
    """A call of a functional: its name and its arguments by torch's names."""

    name: str
    input: Tensor
    arguments: dict[str, Any]

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return int(self.name.removesuffix("_with_indices")[-2])

    @property
    def family(self) -> str:
        """The name without its rank."""
        return self.name.removesuffix("_with_indices")[:-2]

    def ints(self, name: str, default: Any) -> tuple[int, ...]:
        """An argument as one int per axis."""
        value = self.arguments.get(name)
        value = default if value is None or value in ((), []) else value
        items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        return items * self.rank if len(items) == 1 else items


_PARAMETERS = {
    "max_pool": ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool": (
        "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"
    ),
    "lp_pool": ("norm_type", "kernel_size", "stride", "ceil_mode"),
    "adaptive_max_pool": ("output_size", "return_indices"),
    "adaptive_avg_pool": ("output_size",),
    "max_unpool": ("indices", "kernel_size", "stride", "padding", "output_size"),
    "fractional_max_pool": (
        "kernel_size", "output_size", "output_ratio", "return_indices", "_random_samples"
    ),
}  # fmt: skip


def call(name: str, x: Tensor, *args: Any, **kwargs: Any) -> Call:
    """The call ``name(x, *args, **kwargs)`` with its arguments by name."""
    family = name.removesuffix("_with_indices")[:-2]
    return Call(name, x, {**dict(zip(_PARAMETERS[family], args, strict=False)), **kwargs})


@dataclass(frozen=True)
class Deviation:
    """A deliberate difference from torch."""

    id: str
    operators: tuple[str, ...]
    """Families, as in ``max_pool``, or single functions, as in ``max_pool3d``."""
    condition: str
    torch: str
    poolkit: str
    why: str
    aspects: tuple[Aspect, ...]
    """What of a call's result may differ from torch's."""
    applies: Callable[[Call], bool]
    """Whether a call of one of the operators meets the condition."""
    example: Callable[[ModuleType], Any]
    """Given ``torch.nn.functional`` or ``poolkit.functional``, computes what differs."""
    outcomes: tuple[Any, Any]
    """What the example gives with torch, and with poolkit; an exception counts by its name."""

    def covers(self, call: Call) -> bool:
        """Whether the call meets the condition."""
        names = (call.family, call.name, call.name.removesuffix("_with_indices"))
        return any(name in self.operators for name in names) and self.applies(call)


def excused(call: Call, aspect: Aspect) -> bool:
    """Whether :data:`DEVIATIONS` lets this aspect of the call's result differ from torch's."""
    return aspect in excuses(call)


def excuses(call: Call) -> set[Aspect]:
    """What of the call's result :data:`DEVIATIONS` lets differ from torch's."""
    return {aspect for d in DEVIATIONS if d.aspects and d.covers(call) for aspect in d.aspects}


def outcome(example: Callable[[ModuleType], Any], functional: ModuleType) -> Any:
    """What the example gives, or the name of the exception that it raises."""
    try:
        return example(functional)
    except Exception as error:  # noqa: BLE001  whatever it is, it is the outcome
        return type(error).__name__


def compare_with_torch(name: str, x: Tensor, *args: Any, **kwargs: Any) -> None:
    """Call the functional ``name`` of torch and of poolkit; only what is excused may differ."""
    compare(
        call(name, x, *args, **kwargs),
        lambda x: getattr(torch.nn.functional, name)(x, *args, **kwargs),
        lambda x: getattr(poolkit.functional, name)(x, *args, **kwargs),
    )


def compare(call: Call, theirs: Callable[[Tensor], Any], ours: Callable[[Tensor], Any]) -> None:
    """Error or not, dtype, values, indices, strides and gradient of the same call made twice.

    Maxima and their gradients must agree in every bit, sums up to rounding.
    """
    may_differ = excuses(call)
    inputs = [call.input.detach().requires_grad_(call.input.is_floating_point()) for _ in "ab"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a, b = attempt(theirs, inputs[0]), attempt(ours, inputs[1])
    if isinstance(b, Exception):
        assert isinstance(b, (ArgumentError, DtypeError)), repr(b)
    if isinstance(a, Exception) or isinstance(b, Exception):
        both = isinstance(a, Exception) and isinstance(b, Exception)
        assert both or "error" in may_differ, f"torch: {a!r:.300}\npoolkit: {b!r:.300}"
        return
    (a, i), (b, j) = (r if isinstance(r, tuple) else (r, None) for r in (a, b))
    assert "dtype" in may_differ or a.dtype is b.dtype, f"{b.dtype} is not {a.dtype}"
    exact = "max_pool" in call.family or "unpool" in call.family
    _assert_agree(may_differ, "value", "stride", b, a, exact)
    assert (i is None) is (j is None)
    if i is not None:
        _assert_agree(may_differ, "index", "stride", j, i, True)
    if b.requires_grad:
        g = sample(tuple(b.shape), torch.float64, seed=5).to(b.dtype)
        (b,) = torch.autograd.grad(b, inputs[1], g)
        assert_same_strides(b, torch.empty_like(inputs[1]), "gradient")
        a = attempt(lambda: torch.autograd.grad(a, inputs[0], g)[0])
        if isinstance(a, Exception):
            assert "gradient" in may_differ, f"torch: {a!r:.300}"
            return
        # Fractional windows are gathered first: their overlaps add up in another order.
        exact = exact and not call.family.startswith("fractional")
        _assert_agree(may_differ, "gradient", "gradient stride", b, a, exact)


def _assert_agree(
    may_differ: set[Aspect],
    aspect: Aspect,
    stride: Aspect,
    got: Tensor,
    expected: Tensor,
    exact: bool,
) -> None:
    if aspect not in may_differ:
        if exact:
            assert_bit_equal(got, expected, aspect)
        else:
            assert_close(got, expected)
    if stride not in may_differ:
        assert_same_strides(got, expected, aspect)


def attempt(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of the call, or its exception if that is one for bad arguments."""
    try:
        return function(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        return error


_ALL = tuple(_PARAMETERS)
_WINDOWED = ("max_pool", "avg_pool", "lp_pool")
_RANK_3 = tuple(f"{family}3d" for family in _ALL)


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() > 3 and suggest_memory_format(x) is not torch.contiguous_format


def _lowest(x: Tensor) -> Tensor:
    if x.is_floating_point():
        return x == -math.inf
    return x == (False if x.dtype is torch.bool else torch.iinfo(x.dtype).min)


def _empty_window(call: Call) -> bool:
    kernels = call.ints("kernel_size", 1)
    pads, dilations = call.ints("padding", 0), call.ints("dilation", 1)
    spatial = call.input.shape[-call.rank :]
    return any(
        pad > 0 and kernel > 1 and dilation > size
        for kernel, pad, dilation, size in zip(kernels, pads, dilations, spatial, strict=False)
    )


def _sequences(call: Call) -> Iterator[tuple[Any, ...]]:
    for value in call.arguments.values():
        if isinstance(value, (tuple, list)):
            yield tuple(value)


def _fractional_outputs(call: Call) -> tuple[int, ...]:
    if call.arguments.get("output_size") is not None:
        return call.ints("output_size", 1)
    spatial = call.input.shape[-call.rank :]
    ratios = call.ints("output_ratio", 1)
    return tuple(int(r * n) for r, n in zip(ratios, spatial, strict=True))


def _largest_output(call: Call) -> bool:
    spatial, kernels = call.input.shape[-call.rank :], call.ints("kernel_size", 1)
    outputs = _fractional_outputs(call)
    return any(o + k - 1 == n for o, k, n in zip(outputs, kernels, spatial, strict=True))


def _has_zero_window(call: Call) -> bool:
    return bool((call.input == 0).any())


def _samples(call: Call) -> Tensor | None:
    return call.arguments.get("_random_samples")


def _gradient(y: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(y.sum(), x)[0]


def _ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype, requires_grad=dtype.is_floating_point)


def _last(*shape: int, value: float = 1.0) -> Tensor:
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = torch.full(shape, value).contiguous(memory_format=layout)
    return x.requires_grad_()


def _autocast(F: ModuleType) -> str:
    with torch.autocast("cpu", torch.bfloat16):
        return str(F.max_pool3d(_ones(1, 1, 4, 4, 4, dtype=torch.bfloat16), 2).dtype)


def _in_place(F: ModuleType) -> list[float]:
    x = _ones(1, 1, 4)
    inner = x * 1
    y = F.avg_pool1d(inner, 2) + F.max_pool1d(inner, 2)
    inner.mul_(2)
    return _gradient(y, x).flatten().tolist()


def _zero_norm_gradient(F: ModuleType) -> str:
    x = torch.zeros(1, 1, 2, requires_grad=True)
    return str(_gradient(F.lp_pool1d(x, 0.5, 2), x).flatten().tolist())


def _tampered(F: ModuleType) -> list[float]:
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]], requires_grad=True)
    y, indices = F.max_pool1d(x, 2, return_indices=True)
    indices.data.zero_()
    return _gradient(y, x).flatten().tolist()


def _unpooled_gradient(F: ModuleType) -> list[float]:
    x = torch.tensor([[[1.0, 2.0, 3.0]]], requires_grad=True)
    y = F.max_unpool1d(x, torch.tensor([[[0, 0, 2]]]), 2)
    return torch.autograd.grad(y, x, torch.arange(1.0, 7.0)[None, None])[0].flatten().tolist()


def _stalled(F: ModuleType) -> float:
    x = torch.zeros(1, 1, 31, 31, dtype=torch.bfloat16)
    x[0, 0, 15, 15] = 1
    x.requires_grad_()
    return _gradient(F.max_pool2d(x, 17, 1, 8), x).max().item()


def _kept_format(F: ModuleType) -> list[bool]:
    layout = torch.channels_last_3d
    x = _last(1, 2, 4, 4, 4)
    results = [
        F.avg_pool3d(x, 2), F.lp_pool3d(x, 2, 2), F.adaptive_avg_pool3d(x, 2),
        F.adaptive_max_pool3d(x, 2), F.fractional_max_pool3d(x, 2, 2),
    ]  # fmt: skip
    return [y.is_contiguous(memory_format=layout) for y in results]


def _samples_of(value: float) -> Callable[[ModuleType], Any]:
    def example(F: ModuleType) -> Any:
        samples = torch.full((1, 1, 2), value)
        return tuple(
            F.fractional_max_pool2d(_ones(1, 1, 6, 6), 2, 3, _random_samples=samples).shape
        )

    return example


def _permuted_gradient(F: ModuleType) -> list[int]:
    x = torch.ones(6, 2, 3, 6).permute(1, 2, 0, 3).requires_grad_()
    return list(_gradient(F.max_pool2d(x, 2), x).stride())


def _always(call: Call) -> bool:
    return True


def _never(call: Call) -> bool:
    return False  # it takes more than one call to show


DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        id="large-padding",
        operators=("max_pool", "avg_pool"),
        condition="padding above half of the (dilated) kernel",
        torch="raises, whether or not every window holds a cell",
        poolkit="computes as long as every window has a cell that counts",
        why="the result is well defined; other frameworks and exported models use it",
        aspects=("error",),
        applies=lambda c: any(
            2 * p > k for p, k in zip(c.ints("padding", 0), c.ints("kernel_size", 1), strict=True)
        ),
        example=lambda F: (
            F.max_pool1d(_ones(1, 1, 4), 2, 1, (1,)).numel()
            + F.max_pool1d(_ones(1, 1, 4), 3, 1, (2,)).numel()
        ),
        outcomes=("RuntimeError", 11),
    ),
    Deviation(
        id="empty-window",
        operators=("max_pool",),
        condition="padding and a dilation wider than the input, so that a window holds no cell",
        torch="returns -inf with an index outside the plane, and writes the gradient there",
        poolkit="raises ArgumentError, naming the axis and the window",
        why="a write outside the plane corrupts memory",
        aspects=("error", "value", "index", "gradient"),
        applies=_empty_window,
        example=lambda F: F.max_pool2d(_ones(1, 1, 4, 4), 2, 1, 1, 5, return_indices=True)[
            1
        ].item(),
        outcomes=(20, "ArgumentError"),
    ),
    Deviation(
        id="avg-kernel-above-input",
        operators=("avg_pool3d", "lp_pool3d"),
        condition="a kernel longer than the input without its padding",
        torch="raises in 3-D alone",
        poolkit="computes, as in 1-D and 2-D",
        why="one rule for every rank",
        aspects=("error",),
        applies=lambda c: any(
            k > n for k, n in zip(c.ints("kernel_size", 1), c.input.shape[-c.rank :], strict=True)
        ),
        example=lambda F: F.avg_pool3d(_ones(1, 1, 4, 4, 4), 5, 1, 2).numel(),
        outcomes=("RuntimeError", 64),
    ),
    Deviation(
        id="channels-last-lowest",
        operators=("max_pool3d",),
        condition="channels-last input with a window of -inf (of the lowest integer) alone",
        torch="returns the index of a cell of another window, which also gets the gradient",
        poolkit="returns the first cell of the window, as in the contiguous layout",
        why="the index names a cell that the window does not hold",
        aspects=("index", "gradient"),
        applies=lambda c: _is_channels_last(c.input) and bool(_lowest(c.input).any()),
        example=lambda F: (
            F.max_pool3d(_last(1, 2, 4, 2, 2, value=-math.inf), 2, return_indices=True)[1][0, 0]
            .flatten()
            .tolist()
        ),
        outcomes=([0, 0], [0, 8]),
    ),
    Deviation(
        id="unbatched-channels-last",
        operators=("max_pool3d", "lp_pool3d"),
        condition="an unbatched (C, D, H, W) input with strides as of channels-last",
        torch="raises (unsupported memory format), or takes the strides for those of a batch",
        poolkit="computes and keeps the format that the four axes have",
        why="a layout is no error",
        aspects=("error", "stride"),
        applies=lambda c: c.input.dim() == 4 and not c.input.is_contiguous(),
        example=lambda F: F.max_pool3d(_last(2, 4, 4, 4), 2).numel(),
        outcomes=("RuntimeError", 16),
    ),
    Deviation(
        id="half-gradient",
        operators=(
            "max_pool",
            "avg_pool",
            "adaptive_max_pool",
            "adaptive_avg_pool",
            "lp_pool",
            "fractional_max_pool",
        ),
        condition="float16 or bfloat16, where several outputs share a cell",
        torch="rounds after each addition, so that long sums stall",
        poolkit="adds in float32 and rounds once",
        why="the gradient of a cell must not depend on how many outputs it serves",
        aspects=("gradient",),
        applies=lambda c: c.input.dtype in HALVES,
        example=_stalled,
        outcomes=(256.0, 288.0),
    ),
    Deviation(
        id="lp-half",
        operators=("lp_pool",),
        condition="float16 or bfloat16",
        torch="rounds every power and every sum, which overflow at 65504 in float16",
        poolkit="computes in float32 and rounds once",
        why="a norm that fits its dtype must not overflow on the way",
        aspects=("value", "gradient"),
        applies=lambda c: c.input.dtype in HALVES,
        example=lambda F: F.lp_pool2d(300 * _ones(1, 1, 2, 2, dtype=torch.float16), 2, 2).item(),
        outcomes=(math.inf, 600.0),
    ),
    Deviation(
        id="lp-zero-gradient",
        operators=("lp_pool",),
        condition="norm_type below 1 and zeros in the input",
        torch="gives NaN as the gradient of an all-zero window",
        poolkit="gives 0",
        why="one dead window must not end a training run",
        aspects=("gradient",),
        applies=lambda c: c.arguments["norm_type"] < 1 and _has_zero_window(c),
        example=_zero_norm_gradient,
        outcomes=("[nan, nan]", "[0.0, 0.0]"),
    ),
    Deviation(
        id="lp-integers",
        operators=("lp_pool",),
        condition="an integer dtype or bool",
        torch="truncates the mean of the powers (int64, bool), or raises (the others); keeps the "
        "dtype where p is infinite",
        poolkit="computes in float32 and returns float32",
        why="a norm of integers is not an integer",
        aspects=("error", "value", "dtype"),
        applies=lambda c: not c.input.is_floating_point(),
        example=lambda F: F.lp_pool1d(torch.tensor([[[1, 2]]]), 1, 2).item(),
        outcomes=(2.0, 3.0),
    ),
    Deviation(
        id="unpool-duplicates",
        operators=("max_unpool",),
        condition="indices that name one cell several times",
        torch="gives the gradient of the cell to every writer; which value wins is a race in the "
        "channels-last layout",
        poolkit="the last writer in row-major order wins and alone gets the gradient; `duplicates` "
        "chooses another rule",
        why="a gradient of the function that was computed, the same in every run",
        aspects=("gradient",),
        applies=_always,
        example=_unpooled_gradient,
        outcomes=([1.0, 1.0, 3.0], [0.0, 1.0, 3.0]),
    ),
    Deviation(
        id="channels-last-kept",
        operators=(
            "avg_pool3d",
            "lp_pool3d",
            "adaptive_avg_pool3d",
            "adaptive_max_pool3d",
            "max_unpool3d",
            "fractional_max_pool",
        ),
        condition="channels-last input",
        torch="returns a contiguous result and a contiguous gradient",
        poolkit="keeps the memory format of the input, in the result and in the gradient",
        why="a channels-last network must not be converted to and fro at every pooling",
        aspects=("stride", "gradient stride"),
        applies=lambda c: _is_channels_last(c.input),
        example=_kept_format,
        outcomes=([False] * 5, [True] * 5),
    ),
    Deviation(
        id="channels-last-gradient",
        operators=("max_unpool2d", "adaptive_avg_pool2d"),
        condition="channels-last input; for the average, with one output",
        torch="returns a contiguous gradient",
        poolkit="keeps the memory format of the input",
        why="as above",
        aspects=("gradient stride",),
        applies=lambda c: _is_channels_last(c.input),
        example=lambda F: _gradient(
            F.adaptive_avg_pool2d(x := _last(1, 2, 4, 4), 1), x
        ).is_contiguous(memory_format=torch.channels_last),
        outcomes=(False, True),
    ),
    Deviation(
        id="gradient-strides",
        operators=_ALL,
        condition="input that is neither contiguous nor channels-last",
        torch="returns a contiguous gradient",
        poolkit="returns a gradient with the strides of `torch.empty_like(input)`",
        why="it is the layout that autograd accumulates into without a copy",
        aspects=("gradient stride",),
        applies=lambda c: not c.input.is_contiguous(),
        example=_permuted_gradient,
        outcomes=([108, 36, 6, 1], [18, 6, 36, 1]),
    ),
    Deviation(
        id="fractional-samples",
        operators=("fractional_max_pool",),
        condition="`_random_samples` that are NaN or infinite",
        torch="pools windows that start wherever the conversion to an integer leads",
        poolkit="raises ArgumentError",
        why="a NaN here is a bug of the caller, and its conversion is undefined",
        aspects=("error",),
        applies=lambda c: (s := _samples(c)) is not None and not bool(s.isfinite().all()),
        example=_samples_of(math.nan),
        outcomes=((1, 1, 3, 3), "ArgumentError"),
    ),
    Deviation(
        id="fractional-samples-shape",
        operators=("fractional_max_pool",),
        condition="`_random_samples` for another batch size or number of channels",
        torch="takes what it needs from the front",
        poolkit="raises ArgumentError",
        why="samples for other planes are a mistake",
        aspects=("error",),
        applies=lambda c: (
            (s := _samples(c)) is not None
            and tuple(s.shape[:2]) != tuple((1, *c.input.shape)[-2 - c.rank :][:2])
        ),
        example=lambda F: tuple(
            F.fractional_max_pool2d(
                _ones(1, 1, 6, 6), 2, 3, _random_samples=torch.zeros(2, 1, 2)
            ).shape
        ),
        outcomes=((1, 1, 3, 3), "ArgumentError"),
    ),
    Deviation(
        id="fractional-largest-output",
        operators=("fractional_max_pool3d",),
        condition="output + kernel - 1 equal to the input along an axis",
        torch="raises in 3-D, but not in 2-D",
        poolkit="computes",
        why="one rule for every rank",
        aspects=("error",),
        applies=_largest_output,
        example=lambda F: F.fractional_max_pool3d(_ones(1, 1, 4, 4, 4), 2, 3).numel(),
        outcomes=("RuntimeError", 27),
    ),
    Deviation(
        id="fractional-empty-output",
        operators=("fractional_max_pool",),
        condition="an output size of 0, given or by a small `output_ratio`",
        torch="returns an empty result",
        poolkit="raises ArgumentError",
        why="a ratio that pools everything away is a mistake",
        aspects=("error",),
        applies=lambda c: 0 in _fractional_outputs(c),
        example=lambda F: F.fractional_max_pool2d(
            _ones(1, 1, 2, 2), 1, output_ratio=(0.3, 0.3)
        ).numel(),
        outcomes=(0, "ArgumentError"),
    ),
    Deviation(
        id="fractional-ratio-number",
        operators=("fractional_max_pool",),
        condition="`output_ratio` as one number",
        torch="raises in the function, though not in the module",
        poolkit="takes it for every axis",
        why="the documentation and the module say so",
        aspects=("error",),
        applies=lambda c: isinstance(c.arguments.get("output_ratio"), float),
        example=lambda F: F.fractional_max_pool2d(_ones(1, 1, 4, 4), 2, output_ratio=0.5).numel(),
        outcomes=("TypeError", 4),
    ),
    Deviation(
        id="in-place",
        operators=_ALL,
        condition="the input is changed in place between forward and backward",
        torch="raises in backward",
        poolkit="returns the gradient of the original input",
        why="nothing of the input is kept, so nothing is out of date",
        aspects=("error",),
        applies=_never,
        example=_in_place,
        outcomes=("RuntimeError", [1.5, 0.5, 1.5, 0.5]),
    ),
    Deviation(
        id="indices-tampered",
        operators=("max_pool", "adaptive_max_pool", "fractional_max_pool"),
        condition="the returned indices are overwritten, through `.data`, before backward",
        torch="follows the new indices",
        poolkit="returns the gradient of what was computed",
        why="the offsets that backward needs are kept apart",
        aspects=("gradient",),
        applies=_never,
        example=_tampered,
        outcomes=([2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]),
    ),
    Deviation(
        id="autocast",
        operators=(*_RANK_3, "fractional_max_pool"),
        condition="autocast on the CPU",
        torch="computes 3-D and fractional pooling in float32",
        poolkit="never changes the dtype",
        why="a maximum is exact in any dtype, and averages add in float32 anyway",
        aspects=("dtype",),
        applies=lambda _: torch.is_autocast_enabled("cpu"),
        example=_autocast,
        outcomes=("torch.float32", "torch.bfloat16"),
    ),
    Deviation(
        id="bool-in-sequence",
        operators=_ALL,
        condition="a bool among the ints of a sequence",
        torch="takes it for 0 or 1",
        poolkit="raises ArgumentError, as for a bool alone, where torch raises too",
        why="a swapped argument must not pass for a size",
        aspects=("error",),
        applies=lambda c: any(isinstance(item, bool) for items in _sequences(c) for item in items),
        example=lambda F: tuple(F.max_pool2d(_ones(1, 1, 4, 4), (2, True)).shape),
        outcomes=((1, 1, 2, 4), "ArgumentError"),
    ),
    Deviation(
        id="one-element-sequence",
        operators=("lp_pool", "adaptive_max_pool", "adaptive_avg_pool"),
        condition="a sequence of one int where there are several axes, or for lp_pool1d",
        torch="raises here, though not in max and average pooling",
        poolkit="takes it for every axis",
        why="one rule for every function",
        aspects=("error",),
        applies=lambda c: any(len(items) == 1 for items in _sequences(c)),
        example=lambda F: tuple(F.adaptive_avg_pool2d(_ones(1, 1, 4, 4), (2,)).shape),
        outcomes=("RuntimeError", (1, 1, 2, 2)),
    ),
    Deviation(
        id="adaptive-none",
        operators=("adaptive_max_pool", "adaptive_avg_pool"),
        condition="`output_size=None`, alone",
        torch="raises; None is understood only inside a tuple, and not in 1-D",
        poolkit="keeps the extent, in every rank",
        why="one rule for every rank",
        aspects=("error",),
        applies=lambda c: (
            c.arguments["output_size"] is None or (c.rank == 1 and (None,) in list(_sequences(c)))
        ),
        example=lambda F: tuple(F.adaptive_max_pool1d(_ones(1, 1, 4), None).shape),
        outcomes=("TypeError", (1, 1, 4)),
    ),
    Deviation(
        id="adaptive-no-channels",
        operators=("adaptive_avg_pool3d",),
        condition="no channels",
        torch="raises in 3-D, but gives an empty result in 1-D and 2-D",
        poolkit="gives an empty result",
        why="one rule for every rank",
        aspects=("error",),
        applies=lambda c: 0 in c.input.shape,
        example=lambda F: tuple(F.adaptive_avg_pool3d(_ones(1, 0, 4, 4, 4), 2).shape),
        outcomes=("RuntimeError", (1, 0, 2, 2, 2)),
    ),
    Deviation(
        id="adaptive-empty-gradient",
        operators=("adaptive_max_pool", "adaptive_avg_pool"),
        condition="an output size of 0",
        torch="computes the empty result, then raises in backward",
        poolkit="returns a gradient of zeros",
        why="what has a result has a gradient",
        aspects=("gradient",),
        applies=lambda c: 0 in c.ints("output_size", 1),
        example=lambda F: _gradient(F.adaptive_max_pool1d(x := _ones(1, 1, 2), 0), x).tolist(),
        outcomes=("RuntimeError", [[[0.0, 0.0]]]),
    ),
    Deviation(
        id="error-classes",
        operators=_ALL,
        condition="an argument of a wrong type or value",
        torch="raises RuntimeError, TypeError, ValueError, IndexError or ZeroDivisionError",
        poolkit="raises ArgumentError, a ValueError and RuntimeError, or DtypeError, a TypeError "
        "and RuntimeError, before anything is allocated",
        why="one class to catch; code written for torch's RuntimeError keeps working",
        aspects=(),
        applies=_always,
        example=lambda F: F.max_pool2d(_ones(1, 1, 4, 4), 2.0),
        outcomes=("TypeError", "ArgumentError"),
    ),
    Deviation(
        id="more-dtypes",
        operators=_ALL,
        condition="a dtype for which torch has no kernel (see dtypes.md)",
        torch="raises NotImplementedError",
        poolkit="computes",
        why="max needs an order only; one set of dtypes in every rank and layout",
        aspects=("error",),
        applies=lambda c: not torch_has(c.name, c.input.dtype, _is_channels_last(c.input)),
        example=lambda F: F.max_pool2d(torch.ones(1, 1, 4, 4, dtype=torch.bool), 2).numel(),
        outcomes=("NotImplementedError", 4),
    ),
)
