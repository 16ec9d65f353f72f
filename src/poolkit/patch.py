"""Torch's own pooling on poolkit's kernels, for the whole process: patch, unpatch.

Kernels are registered with torch's dispatcher, where every call arrives, whatever Python name it
went by. They take calls whose dispatch keys are those of a dense CPU tensor and nothing more, and
hand every other call to the kernel that they replaced. A call under a functorch transform, on a
fake, sparse or quantised tensor, or under a mode that traces or counts, has a further key, and so
finds torch's own operators and derivatives as ever.

Calls arrive at the key AutogradCPU; in inference mode, and from below a transform, at the key CPU.
An operator that torch composes of others is overridden for the first alone, and its parts for both:
tracers no longer decompose what has a CPU kernel. Only ``max_pool`` without indices has one of its
own all the same, because the operator with indices, of which it is composed, would write eight
bytes per output for nothing.
"""

import contextlib
import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import thread as executor
from types import CodeType
from typing import Any, NamedTuple

import torch
from torch import Tensor, is_grad_enabled
from torch.autograd import forward_ad as fwad

from . import cpu, ops
from . import window as geometry
from .errors import ArgumentError
from .window import Packed, Window

__all__ = ["patch_torch", "patched_torch", "unpatch_torch"]


def patch_torch() -> None:
    """Make torch's pooling run on poolkit's kernels, in the whole process, until `unpatch_torch`.

    Whoever calls torch's pooling by whatever name is served: modules, functions (also those
    imported by name before), third-party libraries, scripted, traced and exported programs, every
    thread. Values, shapes, indices, dtypes, exceptions and derivatives are torch's; averages may
    differ in the last bits, and gradients as docs/deviations.md says. Training keeps one byte per
    output of a maximum, and nothing for an average.

    Served are ``max_pool``, ``avg_pool``, ``adaptive_max_pool`` and ``adaptive_avg_pool`` in one,
    two and three dimensions, with and without indices, and so the averages inside ``lp_pool``, for
    dense CPU tensors of the floating-point dtypes that torch has a kernel for; ``max_pool2d``
    takes integers too. All other calls go to torch's own kernels: other devices, layouts and dtypes
    (integer averages, say), functorch transforms, forward-mode derivatives, tracing, and what torch
    or poolkit refuses. ``fractional_max_pool`` and ``max_unpool`` stay torch's.

    ``torch.compile`` and ``torch.export`` see torch's own operators. Inductor generates code for
    most of them; where it calls one instead, as for averages of more than 25 cells, that call is
    served while the patch is on. ``run_decompositions`` under the patch leaves ``max_pool`` without
    indices whole.

    Patches nest: as many calls of `unpatch_torch` undo as many of `patch_torch`.

    Raises:
        LibraryError: no native library serves (a ``RuntimeError``): the reference is slower than
            torch, and would slow down the whole process.

    Example:
        >>> import torch, poolkit
        >>> poolkit.patch_torch()
        >>> torch.nn.MaxPool2d(2)(torch.ones(1, 1, 4, 4)).shape  # on poolkit's kernels
        torch.Size([1, 1, 2, 2])
        >>> poolkit.unpatch_torch()
    """
    if cpu.isa() is None:
        raise cpu.LibraryError(
            "patch_torch: no native library serves, and torch's own kernels are faster than the "
            "reference implementation, so torch was left as it is"
        )
    _patch.begin()


def unpatch_torch() -> None:
    """Undo one `patch_torch`; with the last one, torch is as it was before the first.

    Torch's dispatcher cannot change an operator while another thread calls it. If a thread that has
    pooled is still at work, or one that was started since poolkit was imported, the overrides stay,
    hand every call to torch's own kernels, and go with the first pooling call that finds those
    threads waiting or gone.

    Raises:
        ArgumentError: torch is not patched.

    Example:
        >>> import poolkit
        >>> poolkit.unpatch_torch()
        Traceback (most recent call last):
        poolkit.errors.ArgumentError: unpatch_torch: torch is not patched
    """
    _patch.end()


@contextlib.contextmanager
def patched_torch() -> Iterator[None]:
    """`patch_torch` for a ``with`` block, or, as a decorator, for the calls of a function.

    The patch is the process's and not the thread's: what other threads call meanwhile is served
    too, and the last block that ends undoes it.

    Raises:
        LibraryError: as `patch_torch`.

    Example:
        >>> import torch, poolkit
        >>> with poolkit.patched_torch():
        ...     torch.nn.functional.avg_pool1d(torch.ones(1, 1, 4), 2)
        tensor([[[1., 1.]]])
    """
    patch_torch()
    try:
        yield
    finally:
        unpatch_torch()


# ---- what is overridden -------------------------------------------------------------------------


class _Override(NamedTuple):
    """One of torch's operators, and what computes it."""

    name: str
    dtypes: frozenset[torch.dtype]
    window: Callable[..., Window]
    """From the input's shape and the operator's further arguments."""
    raw: Callable[[Tensor, Packed], Any]
    differentiable: Callable[[Tensor, Window], Any]
    keys: tuple[str, ...] = ("AutogradCPU", "CPU")
    """AutogradCPU first: a composite operator with a CPU kernel alone has no derivative."""


# What torch has CPU kernels for, in every layout: elsewhere it raises, and goes on doing so.
_FLOATS = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16})
_WIDE = frozenset({torch.float32, torch.float64})
_NUMBERS = _FLOATS | {torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64}

_COMPOSED = ("AutogradCPU",)

Ints = Sequence[int]


def _max_window(
    rank: int,
    shape: Ints,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = (0,),
    dilation: Ints = (1,),
    ceil_mode: bool = False,
) -> Window:
    return geometry.fixed(
        "max_pool", rank, shape, kernel_size, stride, padding, dilation, ceil_mode, True
    )


def _avg_window(
    rank: int,
    shape: Ints,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Window:
    needs_cell = not count_include_pad and divisor_override is None
    return geometry.fixed(
        "avg_pool", rank, shape, kernel_size, stride, padding, 1, ceil_mode, needs_cell,
        count_include_pad, divisor_override,
    )  # fmt: skip


def _adaptive_window(rank: int, shape: Ints, output_size: Ints) -> Window:
    return geometry.adaptive("adaptive_pool", rank, shape, output_size, False)


def _indexed(x: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    values, offsets = ops.max_pool_offsets(x, window)
    return values, ops.plane_indices(offsets, window)


def _overrides() -> Iterator[_Override]:
    # The overloads of eager calls; they exist only once the library is loaded. What an OpOverload
    # calls is 0.3 us faster without it.
    largest, average, offsets_of, indices_of = (
        getattr(torch.ops.poolkit, name).text._op  # noqa: SLF001  no public name
        for name in ("max_pool", "avg_pool", "max_pool_offsets", "plane_indices")
    )

    def indexed(x: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        values, offsets = offsets_of(x, packed)
        return values, indices_of(offsets, packed)

    for rank in (1, 2, 3):
        flat = {"keys": _COMPOSED} if rank == 1 else {}  # 1-D operators are composed of 2-D ones
        fixed = functools.partial(_max_window, rank)
        numbers = _NUMBERS if rank == 2 else _FLOATS
        yield _Override(f"max_pool{rank}d", numbers, fixed, largest, ops.max_pool)
        yield _Override(f"max_pool{rank}d_with_indices", numbers, fixed, indexed, _indexed, **flat)
        averaged = functools.partial(_avg_window, rank)
        wide = _WIDE if rank == 3 else _FLOATS
        yield _Override(f"avg_pool{rank}d", wide, averaged, average, ops.avg_pool, **flat)
        adaptive = functools.partial(_adaptive_window, rank)
        yield _Override(f"adaptive_max_pool{rank}d", _FLOATS, adaptive, indexed, _indexed, **flat)
        means = (_FLOATS, adaptive, average, ops.avg_pool)
        yield _Override(f"adaptive_avg_pool{rank}d", *means, keys=_COMPOSED)
        if rank > 1:
            yield _Override(f"_adaptive_avg_pool{rank}d", *means)


def _window(override: _Override, shape: torch.Size, dtype: torch.dtype, *args: Any) -> Any:
    """The window of a call, or None if torch's kernel shall have it.

    It shall have what torch refuses, so that torch's exception is raised, and what poolkit refuses.
    """
    if dtype not in override.dtypes:
        return None
    try:
        window = override.window(shape, *args)
        with torch._C.DisableTorchFunction():  # noqa: SLF001  no public name; a mode of the user's is not asked
            x = torch.empty(shape, dtype=dtype, device="meta")
            pooled = getattr(torch.ops.aten, override.name).default(x, *args)
    except (RuntimeError, TypeError, ValueError, IndexError, ArithmeticError):
        return None
    pooled = pooled[0] if isinstance(pooled, tuple) else pooled
    # What is being compiled has no text.
    same = pooled.shape == window.output_shape(shape) and isinstance(window.packed, str)
    return window if same else None


def _plain(key: str) -> int:
    """The dispatch keys, as a number, of a call on a dense CPU tensor that arrives at ``key``."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)  # noqa: SLF001  no public name
    if key == "AutogradCPU":
        keys = keys | torch._C.DispatchKeySet(torch._C.DispatchKey.AutogradCPU)  # noqa: SLF001
    return int(keys.raw_repr())


def _kernel(patch: "_Patch", override: _Override, key: str, window_of: Any) -> Callable[..., Any]:
    """The kernel to register for ``override`` and ``key``."""
    stock = torch.library.get_kernel(f"aten::{override.name}", key)
    plain, differentiates = _plain(key), key == "AutogradCPU"
    raw, differentiable = override.raw, override.differentiable
    note, thread = patch.threads.add, threading.get_ident

    def kernel(keys: Any, x: Tensor, *args: Any) -> Any:
        note(thread())
        if not patch.depth:
            patch.try_to_remove()
        elif keys.raw_repr() == plain and fwad._current_level < 0:  # noqa: SLF001  no public name
            hashable = [tuple(a) if type(a) is list else a for a in args]
            window = window_of(x.shape, x.dtype, *hashable)
            if window is not None:
                if differentiates and x.requires_grad and is_grad_enabled():
                    return differentiable(x, window)
                return raw(x, window.packed)
        return stock.call_boxed(keys, x, *args)

    return kernel


# ---- the patch ----------------------------------------------------------------------------------

_MOST_WINDOWS = 4096


class _Patch:
    """How many patches are on, and what is registered."""

    def __init__(self) -> None:
        self.depth = 0
        self.threads: set[int] = set()
        """Those that have called an overridden operator."""
        self._lock = threading.Lock()
        self._library: torch.library.Library | None = None
        self._removed: list[Any] = []

    def begin(self) -> None:
        """One patch more."""
        with self._lock:
            if self._library is None:
                self._register()
            self.depth += 1

    def end(self) -> None:
        """One patch less."""
        with self._lock:
            if self.depth == 0:
                raise ArgumentError("unpatch_torch: torch is not patched")
            self.depth -= 1
            self._remove_if_safe()

    def try_to_remove(self) -> None:
        """Remove overrides that had to stay, if that can be done now."""
        if self._lock.acquire(blocking=False):
            try:
                self._remove_if_safe()
            finally:
                self._lock.release()

    def _register(self) -> None:
        """Override every operator, or none if anything goes wrong."""
        self.threads.clear()
        library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        try:
            for override in _overrides():
                window = functools.lru_cache(_MOST_WINDOWS)(functools.partial(_window, override))
                for key in override.keys:
                    kernel = _kernel(self, override, key, window)
                    _register_quietly(library, override.name, kernel, key)
        except BaseException:
            _destroy(library)
            raise
        self._library = library

    def _remove_if_safe(self) -> None:
        if self.depth or self._library is None or _busy(self.threads):
            return
        # The call that removes them is itself on its way through one: keep them until next time.
        self._removed = [
            torch.library.get_kernel(f"aten::{override.name}", key)
            for override in _overrides()
            for key in override.keys
        ]
        _destroy(self._library)
        self._library = None


def _register_quietly(
    library: torch.library.Library, name: str, kernel: Callable[..., Any], key: str
) -> None:
    with warnings.catch_warnings():
        # Torch says, once per process, that a kernel is overridden: it is meant to be.
        warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
        library.impl(name, kernel, key, with_keyset=True)  # type: ignore[no-untyped-call]


def _destroy(library: torch.library.Library) -> None:
    # `del` does the same, once nothing else holds it.
    library._destroy()  # type: ignore[no-untyped-call]  # noqa: SLF001


_EARLY = frozenset(sys._current_frames())  # noqa: SLF001  its documented name
"""Threads that run poolkit's import, or somebody's inputs and outputs in the background."""


def _busy(pooled: set[int]) -> bool:
    """Whether a thread other than this one may be on its way into an operator.

    It is one that has pooled, or a later one, whose first call may be under way.

    The dispatcher reads its table without a lock. A thread that reads an entry while it changes
    back to torch's kernel calls one kernel with the other's data (seen on torch 2.13 within
    seconds; registering is harmless, as torch's kernels have no data).
    """
    frames = sys._current_frames()  # noqa: SLF001
    others = frames.keys() - (_EARLY - pooled) - {threading.get_ident()}
    return any(not _waits(frames[thread].f_code) for thread in others)


def _waits(code: CodeType) -> bool:
    """Whether a thread whose innermost function this is waits for another thread."""
    if code.co_filename == threading.__file__:
        return code.co_name != "run"  # which calls what the user gave it
    return code is executor._worker.__code__  # noqa: SLF001  that of an executor without work


_patch = _Patch()
