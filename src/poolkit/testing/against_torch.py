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


def compare_with_torch(name: str, x: Tensor, *args: Any, **kwargs: Any) -> set[Aspect]:
    """`compare` the functional ``name`` of torch and of poolkit."""
    return compare(
        call(name, x, *args, **kwargs),
        lambda x: getattr(torch.nn.functional, name)(x, *args, **kwargs),
        lambda x: getattr(poolkit.functional, name)(x, *args, **kwargs),
    )


def compare(
    call: Call,
    theirs: Callable[[Tensor], Any],
    ours: Callable[[Tensor], Any],
    exact: bool | None = None,
    may_differ: set[Aspect] | None = None,
) -> set[Aspect]:
    """Error or not, dtype, values, indices, strides and gradient of the same call made twice.

    Maxima and their gradients must agree in every bit, sums up to rounding; ``exact`` says which if
    the name of the call does not. What :data:`DEVIATIONS` excuses ``may_differ``, unless another
    set is given: returned is what of it does; anything else raises AssertionError.
    """
    found = _Differences(excuses(call) if may_differ is None else may_differ)
    inputs = [call.input.detach().requires_grad_(call.input.is_floating_point()) for _ in "ab"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a, b = attempt(theirs, inputs[0]), attempt(ours, inputs[1])
    if isinstance(b, Exception):
        assert isinstance(b, (ArgumentError, DtypeError)), repr(b)
    if isinstance(a, Exception) or isinstance(b, Exception):
        if not (isinstance(a, Exception) and isinstance(b, Exception)):
            found.note("error", f"torch: {a!r:.300}\npoolkit: {b!r:.300}")
        return found.excused
    (a, i), (b, j) = (r if isinstance(r, tuple) else (r, None) for r in (a, b))
    if a.dtype is not b.dtype:
        found.note("dtype", f"{b.dtype} is not {a.dtype}")
    if exact is None:
        exact = "max_pool" in call.family or "unpool" in call.family
    found.check("value", "stride", b, a, exact)
    assert (i is None) is (j is None)
    if i is not None:
        found.check("index", "stride", j, i, True)
    if b.requires_grad:
        g = sample(tuple(b.shape), torch.float64, seed=5).to(b.dtype)
        (b,) = torch.autograd.grad(b, inputs[1], g)
        assert_same_strides(b, torch.empty_like(inputs[1]), "gradient")
        a = attempt(lambda: torch.autograd.grad(a, inputs[0], g)[0])
        if isinstance(a, Exception):
            found.note("gradient", f"torch: {a!r:.300}")
        else:
            found.check("gradient", "gradient stride", b, a, exact)
    return found.excused


class _Differences:
    """What differs: kept where it is excused, raised where it is not."""

    def __init__(self, may_differ: set[Aspect]) -> None:
        self.may_differ = may_differ
        self.excused: set[Aspect] = set()

    def note(self, aspect: Aspect, message: str) -> None:
        if aspect not in self.may_differ:
            raise AssertionError(message)
        self.excused.add(aspect)

    def check(
        self, aspect: Aspect, stride: Aspect, got: Tensor, expected: Tensor, exact: bool
    ) -> None:
        try:
            if exact:
                assert_bit_equal(got, expected, aspect)
            else:
                assert_close(got, expected)
        except AssertionError as error:
            self.note(aspect, str(error))
        try:
            assert_same_strides(got, expected, aspect)
        except AssertionError as error:
            self.note(stride, str(error))
