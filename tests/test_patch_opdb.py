"""PyTorch's own samples of every pooling operator and module, with the patch off and on.

Only what DEVIATIONS names may differ, and no exception may: not its class, not its words.
"""

import itertools
from typing import Any, NamedTuple

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import poolkit
from poolkit import nn, ops, testing
from poolkit.testing import (
    Call,
    assert_bit_equal,
    assert_close,
    assert_same_strides,
    attempt,
    call,
    excuses,
    sample,
)

DTYPES = (torch.float32, torch.bfloat16, torch.uint8, torch.int64)
OPERATORS = [op for op in op_db if "nn.functional." in op.name and "pool" in op.name]
MODULES = [info for info in module_db if "Pool" in info.module_cls.__name__]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not ops.NATIVE, reason="there is nothing to patch torch with"),
]

every_operator = pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.formatted_name)
every_module = pytest.mark.parametrize("info", MODULES, ids=lambda info: info.module_cls.__name__)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


class Outcome(NamedTuple):
    """What a call gives: an exception; or a value, the indices if any, and the gradient if any."""

    value: Any
    index: Any = None
    gradient: Any = None


def outcome(function, x):
    x = x.detach().requires_grad_(x.is_floating_point())
    torch.manual_seed(0)  # fractional pooling draws its windows
    result = attempt(function, x)
    if isinstance(result, Exception):
        return Outcome(result)
    value, index = result if isinstance(result, tuple) else (result, None)
    if not value.requires_grad:
        return Outcome(value, index)
    g = sample(tuple(value.shape), torch.float64, seed=5).to(value.dtype)
    return Outcome(value, index, attempt(lambda: torch.autograd.grad(value, x, g)[0]))


def compare_patched(calls):
    """Pairs of a `Call` and the function that makes it, of its input: the outcomes off and on."""
    stock = [outcome(function, made.input) for made, function in calls]
    with poolkit.patched_torch():
        patched = [outcome(function, made.input) for made, function in calls]
    for (made, _), a, b in zip(calls, stock, patched, strict=True):
        may_differ = excuses(made)
        assert_agree(made, may_differ, b.value, a.value, "value", "stride")
        assert_agree(made, may_differ, b.index, a.index, "index", "stride")
        assert_agree(made, may_differ, b.gradient, a.gradient, "gradient", "gradient stride")


def assert_agree(made, may_differ, got, expected, aspect, stride):
    if expected is None:
        assert got is None
    elif isinstance(expected, Exception):
        excused = aspect == "gradient" and "gradient" in may_differ
        assert excused or (type(got), str(got)) == (type(expected), str(expected)), made
    else:
        assert isinstance(got, torch.Tensor), (made, got)
        assert got.dtype is expected.dtype
        exact = "max_pool" in made.family or "unpool" in made.family
        if aspect not in may_differ:
            (assert_bit_equal if exact else assert_close)(got, expected)
        if stride not in may_differ:
            assert_same_strides(got, expected, f"{aspect} of {made}")


def in_dtype(x, dtype):
    return x if x.dtype is dtype else x.detach().mul(3).to(dtype)


def floating(dtype):
    """Samples of integers are made from those of float32."""
    return dtype if dtype.is_floating_point else torch.float32


def bound(function, args, kwargs):
    return lambda x: function(x, *args, **kwargs)


@every_operator
@every_dtype
def test_operator_samples(op, dtype):
    name = op.name.removeprefix("nn.functional.")
    function = getattr(torch.nn.functional, name)
    made = op.sample_inputs("cpu", floating(dtype), requires_grad=False)
    calls = [
        (call(name, in_dtype(s.input, dtype), *s.args, **s.kwargs),
         bound(function, s.args, s.kwargs))
        for s in itertools.islice(made, 0, None, 2 if dtype is torch.float32 else 25)
    ]  # fmt: skip
    assert calls
    compare_patched(calls)


@pytest.mark.parametrize(
    "op", [op for op in OPERATORS if op.error_inputs_func], ids=lambda op: op.formatted_name
)
def test_operator_error_inputs(op):
    name = op.name.removeprefix("nn.functional.")
    function = getattr(torch.nn.functional, name)
    calls = []
    for error in op.error_inputs("cpu"):
        s = error.sample_input
        calls.append((call(name, s.input, *s.args, **s.kwargs), bound(function, s.args, s.kwargs)))
        with poolkit.patched_torch():
            assert isinstance(attempt(calls[-1][1], s.input), error.error_type)
    compare_patched(calls)


def as_call(module, x, rest):
    """A module's forward as the call of its function, for DEVIATIONS."""
    name = getattr(nn, type(module).__name__)._function.__name__
    names = testing.PARAMETERS[name[:-2]]
    arguments = {n: getattr(module, n) for n in names if hasattr(module, n)}
    if rest:
        arguments["indices"] = rest[0]
    return Call(name, x, arguments)


@every_module
@every_dtype
def test_module_samples(info, dtype):
    calls = []
    for s in info.module_inputs_func(
        info, device="cpu", dtype=floating(dtype), requires_grad=False, training=True
    ):
        made = s.constructor_input
        module = info.module_cls(*made.args, **made.kwargs)
        x, *rest = s.forward_input.args
        x = in_dtype(x, dtype)
        calls.append((as_call(module, x, rest), bound(module, rest, {})))
    assert calls
    compare_patched(calls)


@pytest.mark.parametrize(
    "info",
    [info for info in MODULES if info.module_error_inputs_func],
    ids=lambda info: info.module_cls.__name__,
)
def test_module_error_inputs(info):
    for error in info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=False
    ):
        s = error.module_error_input
        if error.error_on is not ModuleErrorEnum.CONSTRUCTION_ERROR:
            module = info.module_cls(*s.constructor_input.args, **s.constructor_input.kwargs)
            with poolkit.patched_torch(), pytest.raises(error.error_type):
                module(*s.forward_input.args)
