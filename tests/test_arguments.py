"""The arguments of poolkit.functional: torch's names, order and forms, and what is refused."""

import inspect

import numpy as np
import pytest
import torch

import poolkit
from poolkit import ArgumentError, DtypeError, reference, testing
from poolkit import functional as F
from poolkit import window as W
from poolkit.functional import common
from poolkit.testing import (
    assert_average_close,
    assert_bit_equal,
    compare_with_torch,
    laid_out,
    sample,
)

TF = torch.nn.functional

pytestmark = pytest.mark.usefixtures("one_thread")

every_rank = pytest.mark.parametrize("rank", [1, 2, 3])
every_layout = pytest.mark.parametrize("layout", testing.LAYOUTS)


@pytest.mark.parametrize("name", [n for n in testing.FUNCTIONS if n != "fractional_max_pool1d"])
def test_signature_begins_as_torch_s(name):
    """Positional arguments in torch's order; what poolkit adds is keyword-only."""
    ours = inspect.signature(getattr(F, name)).parameters
    positional = [n for n, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["input", *testing.PARAMETERS[name[:-2]]][: len(positional)]
    stock = getattr(TF, name)
    documented = inspect.signature(stock).parameters if "lp" in name or "unpool" in name else None
    if documented:
        assert positional == list(documented)
        assert [ours[n].default for n in positional] == [p.default for p in documented.values()]
    assert all(p.kind is p.KEYWORD_ONLY for n, p in ours.items() if n not in positional)


@pytest.mark.parametrize("name", F.__all__)
def test_torch_function_gets_every_argument(name):
    """A tensor subclass sees the function that was called, and each argument in its place."""
    seen = []

    class Spy(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append((func, inspect.signature(func).bind(*args, **(kwargs or {}))))
            return seen

    function = getattr(F, name)
    signature = inspect.signature(function)
    marks = {n: object() for n in signature.parameters}
    for tensor in [n for n in ("input", "indices", "phase", "p", "_random_samples") if n in marks]:
        given = {**marks, tensor: torch.ones(1).as_subclass(Spy)}
        seen.clear()
        assert function(**given) is seen
        assert seen[0][0] is function
        assert dict(seen[0][1].arguments) == given


@pytest.mark.parametrize(
    "name", [n for n in dir(TF) if n.endswith("_with_indices") and n[0] != "_"]
)
def test_with_indices_functions(name):
    x = sample((1, 2, *(6,) * int(name.removesuffix("_with_indices")[-2])))
    args = (2, 3) if "fractional" in name else (2,)
    torch.manual_seed(0)
    theirs = getattr(TF, name)(x, *args)
    torch.manual_seed(0)
    ours = getattr(F, name)(x, *args)
    for a, b in zip(ours, theirs, strict=True):
        assert_bit_equal(a, b)


@every_rank
def test_argument_forms(rank):
    x = sample((1, 2, *(6,) * rank))
    function = getattr(F, f"max_pool{rank}d")
    expected = function(x, 2, 2)
    for k, s in [
        (2, None),
        ([2], ()),
        ((2,) * rank, []),
        (np.int64(2), np.int32(2)),
        ([2] * rank, 2),
    ]:
        assert torch.equal(function(x, k, s), expected)
    assert torch.equal(function(input=x, kernel_size=2), expected)


def test_remembered_windows_are_few_and_right(monkeypatch):
    monkeypatch.setattr(common, "_MOST_WINDOWS", 3)
    for size in (*range(4, 12), *range(4, 12)):
        assert F.max_pool1d(torch.arange(float(size))[None], 2, 1).shape == (1, size - 1)
        assert len(common._windows) <= 3


@every_rank
@every_layout
def test_no_copy_is_kept(rank, layout):
    """The input is never written, whatever its layout."""
    x = laid_out(sample((2, 3, *(6,) * rank)), layout)
    before = x.clone()
    for name in ("max_pool", "avg_pool"):
        getattr(F, f"{name}{rank}d")(x, 3, 2, 1)
    assert torch.equal(x, before)


def test_overlapping_view():
    x = torch.arange(20.0).as_strided((1, 2, 5, 4), (1, 2, 3, 1)).requires_grad_()
    window = W.fixed("f", 2, x.shape, 2, 1, 0, 1, False, True)
    assert_bit_equal(F.max_pool2d(x, 2, 1), reference.max_pool(x, window)[0])
    assert_average_close(F.avg_pool2d(x, 2, 1), x, window)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool, torch.complex64]
)
def test_dtype_errors(dtype):
    x = torch.ones(1, 1, 4, dtype=dtype)
    with pytest.raises(DtypeError, match=r"avg_pool1d: .*got torch\.") as caught:
        F.avg_pool1d(x, 2)
    assert isinstance(caught.value, (TypeError, RuntimeError))
    with pytest.raises(DtypeError):
        F.adaptive_avg_pool1d(x, 2)


def test_exports():
    assert poolkit.ArgumentError is ArgumentError
    assert issubclass(ArgumentError, ValueError)
    assert issubclass(ArgumentError, RuntimeError)
    assert issubclass(DtypeError, TypeError)
    for name in [
        *testing.FUNCTIONS,
        *(f"global_{f}_pool{r}d" for f in ("max", "avg") for r in (1, 2, 3)),
    ]:
        assert getattr(F, name).__doc__, name


def test_unpool_output_size_limits():
    x, index = torch.ones(1, 1, 3), torch.tensor([[[0, 1, 2]]])
    natural, stride = 2 * 3 + 2, 3
    for size in range(natural - 5, natural + 6):
        if natural - stride < size < natural + stride:
            assert F.max_unpool1d(x, index, 2, stride, output_size=[size]).shape[-1] == size
        else:
            with pytest.raises(ArgumentError, match="within one stride"):
                F.max_unpool1d(x, index, 2, stride, output_size=[size])
        compare_with_torch("max_unpool1d", x, index, 2, stride, 0, [size])
    assert F.max_unpool1d(x, index, 2, 2, [(1, 0)]).shape[-1] == 5
    assert F.max_unpool1d(x, index, 2, 2, [(0, 2)]).shape[-1] == 4
    one = torch.zeros(1, 1, 1)
    with pytest.raises(ArgumentError, match="the output would have the spatial shape"):
        F.max_unpool1d(one, one.long(), 2, 2, 1)


@every_rank
def test_bools_and_numbers_are_told_apart(rank):
    """Also when the cache of windows holds the same call with an equal value."""
    x = sample((1, 2, *(4,) * rank))
    largest, mean = getattr(F, f"max_pool{rank}d"), getattr(F, f"avg_pool{rank}d")
    for good in (1, np.int64(1), torch.tensor(1)):
        largest(x, good, good, 0, good)
        mean(x, good, good, 0, divisor_override=good)
    for bad in (True, 1.0, np.bool_(True), np.float32(1), torch.tensor(True), torch.tensor(1.0)):
        for what in (bad, (bad,) * rank, [bad]):
            for name in ("kernel_size", "stride", "dilation", "padding"):
                with pytest.raises(ArgumentError, match=f"{name} must be"):
                    largest(x, **{"kernel_size": 1, name: what})
        with pytest.raises(ArgumentError, match="divisor_override must be an int"):
            mean(x, 1, divisor_override=bad)
    mean(x, 1, ceil_mode=True, count_include_pad=True)
    for bad in (1, 0, None, "True"):
        with pytest.raises(ArgumentError, match="ceil_mode must be a bool"):
            largest(x, 1, ceil_mode=bad)
        with pytest.raises(ArgumentError, match="count_include_pad must be a bool"):
            mean(x, 1, count_include_pad=bad)
