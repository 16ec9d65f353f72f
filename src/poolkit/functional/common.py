"""What every public function does before it calls an operator: check, and choose who serves."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensor
from torch.compiler import is_compiling
from torch.nn import Parameter

from .. import ops
from .. import window as geometry
from ..errors import ArgumentError, DtypeError
from ..window import Window, check_reach, freeze, freeze_bool, is_sequence

HALVES = (torch.float16, torch.bfloat16)
FLOATS = frozenset({torch.float32, torch.float64, *HALVES})
ORDERED = FLOATS | {torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool}
SUMMED = FLOATS | {torch.int64}

_STRIDED = torch.strided

F = TypeVar("F", bound=Callable[..., Any])

_SHAPES = {1: ("L", "L'"), 2: ("H, W", "H', W'"), 3: ("D, H, W", "D', H', W'")}

_PADDING = """padding: cells added on both sides: an int, one int per axis, one ``(before, after)``
            pair per axis, or ``"valid"`` (none), ``"same"`` (the output has ``ceil(L / stride)``
            cells, the odd padding cell comes after) or ``"same_lower"`` (before). Any amount that
            leaves every window a cell that counts."""

_MODE = """padding_mode: ``"zeros"`` (padding that never wins a maximum and counts as zeros in
            sums), ``"reflect"``, ``"replicate"`` or ``"circular"``, whose cells count as real
            ones."""

_ERRORS = """ArgumentError: a size, shape or option that cannot be; it names the argument, what was
            expected and what came. It is a ``ValueError`` and a ``RuntimeError``.
        DtypeError: a dtype without this operation. It is a ``TypeError`` and a
            ``RuntimeError``."""


def documented(template: str) -> Callable[[F], F]:
    """Give a function its family's docstring, with the shapes of its rank filled in."""

    def fill(function: F) -> F:
        name = function.__name__.removesuffix("_with_indices")
        rank = int(name[-2])
        cells, out = _SHAPES[rank]
        text = template
        if function.__name__ != name:
            head, body = template.split("\n", 1)
            text = f"{head}\n\n    It is ``{name}``, but always returns the indices too.\n{body}"
        function.__doc__ = (
            text.replace("{n}", str(rank))
            .replace("{axes}", "1 spatial axis" if rank == 1 else f"{rank} spatial axes")
            .replace("{shapes}", f"(N, C, {cells}) -> (N, C, {out})")
            .replace("{cells}", cells)
            .replace("{out}", out)
            .replace("{ones}", ", ".join("1" * rank))
            .replace("{sizes}", ", ".join(("4", "6", "8")[3 - rank :]))
            .replace("{halves}", ", ".join(("2", "3", "4")[3 - rank :]))
            .replace("{padding}", _PADDING)
            .replace("{padding_mode}", _MODE)
            .replace("{errors}", _ERRORS)
        )
        return function

    return fill


def fixed(
    where: str,
    rank: int,
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
    needs_cell: bool,
    include_pad: Any = True,
    divisor: Any = None,
) -> Window:
    """The window of fixed pooling over ``x``, from the cache if it was asked for before."""
    if type(kernel_size) is not int:  # an int is its own key, and the usual case saves a call
        kernel_size = freeze(kernel_size)
    if stride is not None and type(stride) is not int:
        stride = freeze(stride)
    if type(padding) is not int:
        padding = freeze(padding)
    if type(dilation) is not int:
        dilation = freeze(dilation)
    if divisor is not None:
        divisor = freeze(divisor)
    if type(ceil_mode) is not bool:
        ceil_mode = freeze_bool(ceil_mode)
    if type(include_pad) is not bool:
        include_pad = freeze_bool(include_pad)
    key = (where, rank, x.shape, kernel_size, stride, padding, dilation, ceil_mode, needs_cell,
           include_pad, divisor)  # fmt: skip
    if is_compiling():
        return geometry.fixed(*key)
    try:
        return _windows[key]
    except (KeyError, TypeError):
        return _remembered(geometry.fixed, key)


def adaptive(where: str, rank: int, x: Tensor, output_size: Any, needs_channels: bool) -> Window:
    """The window of adaptive pooling over ``x``, from the cache if it was asked for before."""
    key = (where, rank, x.shape, freeze(output_size), needs_channels)
    if is_compiling():
        return geometry.adaptive(*key)
    try:
        return _windows[key]
    except (KeyError, TypeError):
        return _remembered(geometry.adaptive, key)


def blurred(
    where: str,
    rank: int,
    shape: tuple[int, ...],
    kernels: tuple[int, ...],
    stride: Any,
    padding: Any,
    padding_mode: Any,
) -> Window:
    """The window of a blur over ``shape``, from the cache if it was asked for before."""
    mode = padding_mode if type(padding_mode) is str else freeze(padding_mode)
    key = (where, rank, shape, kernels, freeze(stride), freeze(padding), mode)
    if is_compiling():
        return geometry.blurred(*key)
    try:
        return _windows[key]
    except (KeyError, TypeError):
        return _remembered(geometry.blurred, key)


# Windows by the arguments they were made of. Those are a key as they are: `freeze` has seen to it
# that no two are equal but of different types. (``functools.lru_cache`` would look at the types, at
# twice the cost.)
_windows: dict[Any, Window] = {}
_MOST_WINDOWS = 4096


def _remembered(make: Callable[..., Window], key: tuple[Any, ...]) -> Window:
    window = make(*key)
    if len(_windows) >= _MOST_WINDOWS:
        _windows.clear()
    with contextlib.suppress(TypeError):  # symbolic extents have no hash
        _windows[key] = window
    return window


def ours(where: str, x: Tensor, dtypes: frozenset[torch.dtype]) -> bool:
    """Whether poolkit's operators serve ``x``; if not, `stock` comes first.

    Raises:
        ArgumentError: no tensor.
        DtypeError: a strided tensor of a dtype that the operation has no meaning for.
    """
    try:
        if x.dtype in dtypes:
            if type(x) is not Tensor and type(x) not in _met:
                _meet(type(x))
            if x.is_cpu and x.layout is _STRIDED and not x.is_nested:
                return True
            return x.device.type == "meta"
    except AttributeError:
        _refuse(where, "input", x)
    if not isinstance(x, Tensor):
        _refuse(where, "input", x)  # an array, say: it has a dtype too
    if x.layout is torch.strided and not x.is_quantized:
        names = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        raise DtypeError(f"{where}: input must have one of the dtypes {names}, got {x.dtype}")
    return False


_met: set[type] = {Parameter}


def _meet(cls: type) -> None:
    """Load the sharding rules when the first DTensor comes: torch's part of them takes seconds."""
    module = sys.modules.get("torch.distributed.tensor")
    if module is not None and issubclass(cls, module.DTensor) and ops.NATIVE:
        from ..ops import sharding  # noqa: F401  registers them
    _met.add(cls)


def _refuse(where: str, name: str, value: object) -> NoReturn:
    raise ArgumentError(f"{where}: {name} must be a tensor, got {type(value).__name__}") from None


def check_tensor(where: str, name: str, value: object) -> None:
    """Refuse what is no tensor."""
    if not isinstance(value, Tensor):
        _refuse(where, name, value)


def stock(where: str, x: Tensor, beyond: dict[str, bool], name: str, *args: Any) -> Any:
    """What torch's function ``name`` gives for an ``x`` that is not `ours`.

    None if the reference has to serve, through the raw operators: torch has no kernel for the dtype
    on this device, or the call asks for something of ``beyond``, which names what torch lacks.

    Raises:
        ArgumentError: it does, and ``x`` has a layout or a dtype that only torch can read.
        DtypeError: the same for what torch has no kernel for.
    """
    plain = x.layout is torch.strided and not x.is_quantized and not x.is_nested
    used = [what for what, asked in beyond.items() if asked]
    kind = f"a {x.dtype} tensor of layout {x.layout} on {x.device}"
    if used and not plain:
        raise ArgumentError(
            f"{where}: {', '.join(used)} beyond torch's own arguments is not available for {kind}"
        )
    if used:
        return None
    try:
        return getattr(torch.nn.functional, name)(x, *args)
    except NotImplementedError as error:
        if not plain:
            raise DtypeError(f"{where}: torch has no kernel for {kind}") from error
        return None


def check_input(where: str, x: Tensor, dtypes: frozenset[torch.dtype]) -> None:
    """Refuse what composed code, which runs on any device, cannot read.

    Raises:
        ArgumentError: no tensor, or one of a layout that only torch can read.
        DtypeError: a dtype that the operation has no meaning for.
    """
    if not ours(where, x, dtypes):
        stock(where, x, {"a result": True}, "")


def differs(value: Any, default: int) -> bool:
    """Whether an int, or any of a sequence, is not ``default``."""
    return any(v != default for v in value) if is_sequence(value) else bool(value != default)


def is_symmetric(padding: Any) -> bool:
    """Whether torch takes this padding: an int, or one int per axis."""
    if isinstance(padding, str):
        return False
    return not (is_sequence(padding) and any(is_sequence(amount) for amount in padding))


def readable(x: Tensor) -> bool:
    """Whether ``x`` has values to check; what is traced, mapped, fake or on meta has none."""
    if is_compiling() or ops.transforms_active():
        return False
    return not x.is_meta and not isinstance(x, FakeTensor)


def widened(x: Tensor) -> Tensor:
    """``x`` in the dtype that sums it, for composed code: its gradient adds up in ``x``'s dtype."""
    return x.to(torch.float32) if x.dtype in HALVES else x


# ---- padding with cells of the input -------------------------------------------------------------


def _beside(x: Tensor, index: Tensor) -> Tensor:
    """``index`` as a DTensor that all processes have if ``x`` is one: torch mixes no kinds."""
    module = sys.modules.get("torch.distributed.tensor")
    if module is None or not isinstance(x, module.DTensor):
        return index
    mesh = x.device_mesh
    everywhere = [module.Replicate()] * mesh.ndim
    shared: Tensor = module.DTensor.from_local(index, mesh, everywhere, run_check=False)
    return shared


class Padded:
    """``x`` with cells of its own around it, and the way back from indices into it."""

    def __init__(self, where: str, rank: int, x: Tensor, window: Window, mode: str) -> None:
        self.rank = rank
        self.sizes = tuple(x.shape[-rank:])
        self.sources: list[Tensor] = []
        layout = suggest_memory_format(x)  # index_select gives it up
        for i, axis in enumerate(window.axes):
            check_reach(where, mode, axis.size, axis.before, axis.after)
            position = torch.arange(-axis.before, axis.size + axis.after, device=x.device)
            source = _beside(x, geometry.sources(mode, axis.size, position))
            if axis.before or axis.after:
                x = x.index_select(x.dim() - rank + i, source)
            self.sources.append(source)
        self.x = x.contiguous(memory_format=layout)

    def indices(self, index: Tensor) -> Tensor:
        """Indices in the plane of the input from indices in the padded plane."""
        result: Tensor = torch.zeros_like(index)
        place = 1
        for source, size in zip(reversed(self.sources), reversed(self.sizes), strict=True):
            result = result + source[index % len(source)] * place
            index = index // len(source)
            place *= size
        return result
