"""Tensors that poolkit has no kernel for: torch's own operator serves, then the reference."""

import itertools
import math

import pytest
import torch

import poolkit
from poolkit import ArgumentError, DtypeError, reference
from poolkit import functional as F
from poolkit import window as W
from poolkit.testing import assert_bit_equal, assert_close, gradient, sample

TF = torch.nn.functional

pytestmark = pytest.mark.usefixtures("one_thread")

STOCK = [
    ("max_pool", (3, 2, 1)), ("avg_pool", (3, 2, 1)), ("lp_pool", (2, 2)),
    ("adaptive_max_pool", (3,)), ("adaptive_avg_pool", (3,)), ("fractional_max_pool", (2, 3)),
    ("max_unpool", ()),
]  # fmt: skip


def go_elsewhere(patch):
    """As if tensors of every dtype were on a device that poolkit has no kernels for."""
    for module in (F.max, F.avg, F.lp, F.unpool, F.fractional):
        patch.setattr(module, "ours", lambda *_: False)


@pytest.fixture
def elsewhere(monkeypatch):
    go_elsewhere(monkeypatch)
    return monkeypatch


def stock_call(name, rank):
    x = sample((2, 3, *(6,) * rank), values="relu")
    args = dict(STOCK)[name]
    if name == "max_unpool":
        x, i = getattr(TF, f"max_pool{rank}d")(x, 2, return_indices=True)
        args = (i, 2)
    elif name == "fractional_max_pool":
        args = (*args, None, False, torch.full((2, 3, rank), 0.3))
    return f"{name}{rank}d", x, args


CALLS = [(n, r) for n, _ in STOCK for r in (1, 2, 3) if (n, r) != ("fractional_max_pool", 1)]


@pytest.mark.parametrize(("family", "rank"), CALLS)
def test_stock_operator_serves_first(elsewhere, family, rank):
    name, x, args = stock_call(family, rank)
    seen = []

    def spy(*given):
        seen.append(given)
        return spy

    elsewhere.setattr(TF, name, spy)
    assert getattr(F, name)(x, *args) is spy
    assert seen[0][0] is x
    assert list(seen[0][1 : 1 + len(args)]) == list(args)

    def broken(*_):
        raise RuntimeError("something else")

    elsewhere.setattr(TF, name, broken)  # what is no lack of a kernel is not hidden
    with pytest.raises(RuntimeError, match="something else"):
        getattr(F, name)(x, *args)


@pytest.mark.parametrize(("family", "rank"), CALLS)
def test_reference_serves_where_torch_has_no_kernel(family, rank):
    name, x, args = stock_call(family, rank)

    def pool(x):
        return getattr(F, name)(x, *args)

    def missing(*_):
        raise NotImplementedError(f"\"{name}\" not implemented for 'Bool'")

    expected, slope = pool(x), gradient(lambda x: pool(x).square(), x)
    with pytest.MonkeyPatch.context() as patch:
        go_elsewhere(patch)
        patch.setattr(TF, name, missing)
        assert_bit_equal(pool(x), expected)
        assert_bit_equal(gradient(lambda x: pool(x).square(), x), slope)


def test_reference_serves_dtypes_that_torch_lacks(elsewhere):
    x = sample((1, 2, 6), torch.bool)
    with pytest.raises(NotImplementedError):
        TF.max_pool1d(x, 2, return_indices=True)
    window = W.fixed("f", 1, x.shape, 2, 2, 0, 1, False, True)
    assert_bit_equal(F.max_pool1d(x, 2, return_indices=True)[0], reference.max_pool(x, window)[0])


def test_raw_operators_have_a_kernel_on_every_device():
    if not poolkit.ops.NATIVE:
        pytest.skip("the reference serves without operators")
    for name in poolkit.ops.raw._OPERATORS:
        for overload, device in itertools.product(("", ".text"), ("CUDA", "MPS", "XPU", "Meta")):
            assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(
                f"poolkit::{name}{overload}", device
            )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [torch.quint8, torch.qint8])
def test_quantised(kind):
    """Torch's kernels, and a clear refusal of what they lack."""
    x = torch.quantize_per_tensor(sample((1, 2, 8, 8)), 0.05, 10, kind)
    for name, args in [("max_pool2d", (3, 2, 1)), ("avg_pool2d", (2,)),
                       ("adaptive_avg_pool2d", (3,))]:  # fmt: skip
        got, expected = getattr(F, name)(x, *args), getattr(TF, name)(x, *args)
        assert torch.equal(got.int_repr(), expected.int_repr())
        assert got.q_scale() == expected.q_scale()
    assert F.global_avg_pool2d(x).is_quantized
    for name, args in [("lp_pool2d", (2, 2)), ("adaptive_max_pool2d", (2,)),
                       ("fractional_max_pool2d", (2, 3)),
                       ("max_unpool2d", (torch.zeros(1, 2, 8, 8).long(), 1))]:  # fmt: skip
        with pytest.raises(DtypeError, match=rf"^{name}: torch has no kernel .*{kind}"):
            getattr(F, name)(x, *args)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [
    lambda x: torch.quantize_per_tensor(x, 0.05, 10, torch.quint8), torch.Tensor.to_mkldnn,
    torch.Tensor.to_sparse,
], ids=["quantised", "mkldnn", "sparse"])  # fmt: skip
def test_what_only_torch_can_read_has_torch_s_arguments_only(make):
    x = make(sample((1, 2, 8, 8)))
    for call, what in [
        (lambda: F.max_pool2d(x, 2, padding="same"), "padding"),
        (lambda: F.max_pool2d(x, 2, padding=1, padding_mode="reflect"), "padding_mode"),
        (lambda: F.avg_pool2d(x, 2, padding=((0, 1), (0, 0))), "padding"),
        (lambda: F.avg_pool2d(x, 2, dilation=2), "dilation"),
        (lambda: F.avg_pool2d(x, 2, padding_mode="circular"), "padding_mode"),
        (lambda: F.avg_pool1d(x, 2, divisor_override=3), "divisor_override"),
        (lambda: F.lp_pool2d(x, 2, 2, padding=1), "padding"),
        (lambda: F.lp_pool2d(x, 2, 2, dilation=(1, 2)), "dilation"),
        (lambda: F.lp_pool2d(x, 2, 2, absolute=True), "absolute"),
        (lambda: F.lp_pool2d(x, 2, 2, padding_mode="reflect"), "padding_mode"),
        (lambda: F.lp_pool2d(x, math.inf, 2), "an infinite norm_type"),
        (lambda: F.max_unpool2d(x, torch.zeros(1), 2, duplicates="sum"), "duplicates"),
        (lambda: F.max_unpool2d(x, torch.zeros(1), 2, padding=((0, 1), (0, 0))), "padding"),
        (lambda: F.fractional_max_pool1d(x, 2, 3), "one spatial axis"),
        (lambda: F.fractional_max_pool2d(x, 2, 3, generator=torch.Generator()), "generator"),
        (lambda: F.fractional_avg_pool2d(x, 2, 3), "an average"),
    ]:
        with pytest.raises(ArgumentError, match=rf": {what} beyond torch's own arguments"):
            call()


def test_mkldnn():
    x = sample((1, 2, 8, 8))
    for name, args in [("max_pool2d", (3, 2, 1)), ("avg_pool2d", (3, 2, 1)),
                       ("adaptive_avg_pool2d", (2,))]:  # fmt: skip
        got = getattr(F, name)(x.to_mkldnn(), *args)
        assert got.layout is torch._mkldnn
        assert_close(got.to_dense(), getattr(F, name)(x, *args))
