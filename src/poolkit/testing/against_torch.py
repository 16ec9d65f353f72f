"""The same call made of torch and of poolkit: only what the table excuses may differ."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import poolkit.functional

from ..errors import ArgumentError, DtypeError
from .calls import Call, attempt, call
from .comparisons import assert_bit_equal, assert_close, assert_same_strides
from .deviations import excuses
from .rows import Aspect
from .samples import sample


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
