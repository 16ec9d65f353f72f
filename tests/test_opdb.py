"""PyTorch's own samples of every pooling operator and module, inputs and bad inputs, on poolkit.

Only what DEVIATIONS names may differ.
"""

import copy
import itertools
import warnings

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import poolkit
from poolkit import functional as F
from poolkit import nn, testing
from poolkit.testing import Call, attempt, call, compare, excused

DTYPES = (*testing.FLOATS, *testing.INTEGERS)
OPERATORS = [op for op in op_db if "nn.functional." in op.name and "pool" in op.name]
MODULES = [info for info in module_db if "Pool" in info.module_cls.__name__]

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

every_operator = pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.formatted_name)
every_module = pytest.mark.parametrize("info", MODULES, ids=lambda info: info.module_cls.__name__)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def seeded(name, function):
    """Fractional pooling draws its windows: the same ones for torch and for poolkit."""
    if "fractional" not in name:
        return function

    def call(*args, **kwargs):
        torch.manual_seed(0)
        return function(*args, **kwargs)

    return call


def test_samples_are_there():
    assert len(OPERATORS) >= 20
    assert len(MODULES) >= 17
    assert all(hasattr(F, op.name.removeprefix("nn.functional.")) for op in OPERATORS)
    assert all(hasattr(nn, info.module_cls.__name__) for info in MODULES)


def samples(op, dtype):
    """The samples in any dtype: integers are made from those of float32."""
    stock = dtype if dtype.is_floating_point else torch.float32
    made = op.sample_inputs("cpu", stock, requires_grad=False)
    # All of them in float32; the geometries of the other dtypes are the same, some will do.
    for s in itertools.islice(made, 0, None, 1 if dtype is torch.float32 else 5):
        x = s.input if dtype is stock else s.input.mul(3).to(dtype)
        yield x, s.args, s.kwargs


@every_operator
@every_dtype
def test_operator_samples(op, dtype):
    name, count = op.name.removeprefix("nn.functional."), 0
    for x, args, kwargs in samples(op, dtype):
        theirs = getattr(torch.nn.functional, name)
        ours = getattr(F, name)
        compare(
            call(name, x, *args, **kwargs),
            seeded(name, lambda x: theirs(x, *args, **kwargs)),  # noqa: B023  called before the next turn
            seeded(name, lambda x: ours(x, *args, **kwargs)),  # noqa: B023
        )
        count += 1
    assert count > 0


@pytest.mark.parametrize(
    "op", [op for op in OPERATORS if op.error_inputs_func], ids=lambda op: op.formatted_name
)
def test_operator_error_inputs(op):
    """What torch refuses, poolkit refuses, with an exception that `except` for torch's catches."""
    name = op.name.removeprefix("nn.functional.")
    count = 0
    for error in op.error_inputs("cpu"):
        s = error.sample_input
        made = call(name, s.input, *s.args, **s.kwargs)
        result = attempt(getattr(F, name), s.input, *s.args, **s.kwargs)
        if not excused(made, "error"):
            assert isinstance(result, (poolkit.ArgumentError, poolkit.DtypeError)), (made, result)
            if error.error_type in (RuntimeError, ValueError):
                assert isinstance(result, error.error_type)
            count += 1
    assert count > 0


def function_name(module):
    """MaxPool2d -> max_pool2d, LPPool1d -> lp_pool1d."""
    return getattr(nn, type(module).__name__)._function.__name__


def as_call(module, x, rest):
    """A module's forward as the call of its function, for DEVIATIONS."""
    name = function_name(module)
    names = testing.PARAMETERS[name[:-2]]
    arguments = {n: getattr(module, n) for n in names if hasattr(module, n)}
    if rest:
        arguments["indices"] = rest[0]
    return Call(name, x, arguments)


@every_module
@every_dtype
@pytest.mark.parametrize("training", [False, True])
def test_module_samples(info, dtype, training):
    stock = dtype if dtype.is_floating_point else torch.float32
    count = 0
    for s in info.module_inputs_func(
        info, device="cpu", dtype=stock, requires_grad=False, training=training
    ):
        args, kwargs = s.constructor_input.args, s.constructor_input.kwargs
        theirs = info.module_cls(*args, **kwargs).train(training)
        ours = getattr(nn, info.module_cls.__name__)(*args, **kwargs).train(training)
        assert isinstance(ours, info.module_cls)
        assert repr(ours) == repr(theirs)
        x, *rest = s.forward_input.args
        x = x if dtype is stock else x.detach().mul(3).to(dtype)
        compare(
            as_call(theirs, x, rest),
            seeded(repr(ours).lower(), lambda x: theirs(x, *rest)),  # noqa: B023  called before the next turn
            seeded(repr(ours).lower(), lambda x: ours(x, *rest)),  # noqa: B023
        )
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        count += 1
    assert count > 0


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
        build = getattr(nn, info.module_cls.__name__)
        args, kwargs = s.constructor_input.args, s.constructor_input.kwargs
        if error.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type):
                build(*args, **kwargs)
        else:
            with warnings.catch_warnings(), pytest.raises(error.error_type):
                build(*args, **kwargs)(*s.forward_input.args)
