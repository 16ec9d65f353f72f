"""The modules: arguments, what is kept of them, copies, repr."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch

from poolkit import ArgumentError, nn
from poolkit import functional as F
from poolkit.testing import assert_bit_equal, sample

# Modules that no class of torch could stand for.
BEYOND_TORCH = (
    "Blur", "DepthToSpace", "FractionalAvg", "FractionalMaxPool1d", "GeM", "GlobalAvgMax",
    "GlobalCatAvgMax", "GlobalGeM", "MaxBlur", "Polyphase", "ResNetD", "SpaceToDepth",
    "StridedConv",
)  # fmt: skip
FRACTIONAL = [name for name in nn.__all__ if name.startswith("Fractional")]

MODULES = [
    nn.MaxPool1d(2, padding="same"), nn.MaxPool2d(3, 2, ((0, 1), (1, 0)), 2, True, True),
    nn.MaxPool3d(2, padding=1, padding_mode="replicate"), nn.AvgPool1d(2, divisor_override=3),
    nn.AvgPool2d(3, 2, "same_lower", True, False, 5), nn.AvgPool3d(2, dilation=2),
    nn.LPPool1d(3, 2), nn.LPPool2d(2, 2, absolute=True, padding=1), nn.LPPool3d(1.5, 2, dilation=2),
    nn.AdaptiveMaxPool2d((None, 3), return_indices=True), nn.AdaptiveAvgPool3d(2),
    nn.GlobalAvgPool2d(flatten=True), nn.GlobalMaxPool1d(), nn.MaxUnpool2d(2, duplicates="sum"),
    nn.FractionalMaxPool2d(2, output_ratio=0.5), nn.FractionalMaxPool3d(2, 3),
    nn.FractionalMaxPool1d(2, 3), nn.FractionalAvgPool2d(2, output_ratio=0.5),
    nn.BlurPool2d((3, 5)), nn.BlurPool3d(filter=torch.ones(2)), nn.MaxBlurPool1d(3, 2, 1, blur=4),
]  # fmt: skip


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_copies_of_modules(module):
    """deepcopy, pickle, torch.save and state dicts; a stock module where it subclasses one."""
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(twin) is type(module)
        assert repr(twin) == repr(module)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    assert repr(torch.load(buffer, weights_only=False)) == repr(module)
    module.load_state_dict(module.state_dict())


@pytest.mark.parametrize("name", nn.__all__)
def test_subclasses_the_stock_module(name):
    stock = getattr(torch.nn, name.replace("Global", "Adaptive"), None)
    if stock is None:
        assert name.startswith(BEYOND_TORCH)
    else:
        assert issubclass(getattr(nn, name), stock)


def test_modules_say_what_is_not_torch_s():
    assert repr(nn.MaxPool2d(2)) == repr(torch.nn.MaxPool2d(2))
    assert "padding=same" in repr(nn.MaxPool2d(2, padding="same"))
    assert "absolute=True" in repr(nn.LPPool2d(2, 2, absolute=True))
    assert "dilation=2" in repr(nn.AvgPool2d(2, dilation=2))
    assert "flatten=True" in repr(nn.GlobalAvgPool2d(flatten=True))


# ---- Arguments ----------------------------------------------------------------------------------


def rank_of(name):
    return int(name[-2])


@pytest.mark.parametrize("name", FRACTIONAL)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of output_size and output_ratio"),
        ({"output_size": 2, "output_ratio": 0.5}, "exactly one of output_size and output_ratio"),
        ({"output_ratio": 1.5}, "output_ratio must be a number between 0 and 1"),
        ({"output_ratio": 0}, "output_ratio must be a number between 0 and 1"),
        ({"output_ratio": math.nan}, "output_ratio must be a number between 0 and 1"),
        ({"output_ratio": True}, "output_ratio must be a number between 0 and 1"),
        ({"output_ratio": "half"}, "output_ratio must be a number between 0 and 1"),
        ({"output_ratio": (0.5,) * 4}, "output_ratio must be a number between 0 and 1"),
        ({"output_size": 0}, "output_size must be from 1"),
        ({"output_size": 2.0}, "output_size must be an int"),
        ({"output_size": (2,) * 4}, "output_size must be an int or"),
        ({"output_size": 2, "kernel_size": 0}, "kernel_size must be from 1"),
        ({"output_size": 2, "kernel_size": True}, "kernel_size must be an int"),
    ],
)
def test_fractional_constructors_check(name, arguments, message):
    """Before any input is there, with the module's name and one class of exception."""
    with pytest.raises(ArgumentError, match=f"^{name}: {message}"):
        getattr(nn, name)(**{"kernel_size": 2, **arguments})


@pytest.mark.parametrize("name", FRACTIONAL)
def test_fractional_arguments_are_kept_per_axis(name):
    rank = rank_of(name)
    for size in (3, [3], (3,) * rank, np.int64(3)):
        module = getattr(nn, name)([2], output_size=size)
        assert (module.kernel_size, module.output_size) == ((2,) * rank, (3,) * rank)
        assert module.output_ratio is None
    for ratio in (0.5, [0.5], (0.5,) * rank):
        module = getattr(nn, name)(2, output_ratio=ratio)
        assert (module.output_size, module.output_ratio) == (None, (0.5,) * rank)
    x = sample((1, 2, *(8,) * rank))
    torch.manual_seed(0)
    y = module(x)
    torch.manual_seed(0)
    function = getattr(
        F, name.replace("Fractional", "fractional_").replace("Pool", "_pool").lower()
    )
    assert_bit_equal(y, function(x, 2, output_ratio=0.5))
    samples = torch.full((1, 2, rank), 0.3)
    module = getattr(nn, name)(2, 3, _random_samples=samples)
    assert_bit_equal(module(x), function(x, 2, 3, _random_samples=samples))
    assert "_random_samples" in module.state_dict()
    module = getattr(nn, name)(2, 3, generator=torch.Generator().manual_seed(5))
    twin = torch.Generator().manual_seed(5)
    assert_bit_equal(module(x), function(x, 2, 3, generator=twin))


@pytest.mark.parametrize(
    "name",
    [n for n in nn.__all__ if n.startswith(("MaxPool", "AvgPool", "MaxUnpool"))],
)
def test_sequences_are_kept_as_torch_keeps_them(name):
    rank, stock, ours = rank_of(name), getattr(torch.nn, name), getattr(nn, name)
    for amount in (0, 1, [1], (1,), [1] * rank, (1,) * rank, np.int64(1)):
        for given in ({"padding": amount}, {"stride": amount}, {"kernel_size": amount}):
            arguments = {"kernel_size": 2, **given}
            a, b = stock(**arguments), ours(**arguments)
            assert repr(b) == repr(a)
            for key in ("kernel_size", "stride", "padding"):
                assert type(getattr(b, key)) is type(getattr(a, key)), (key, arguments)
                assert getattr(b, key) == getattr(a, key)
    for padding in ("same", "same_lower", "valid"):
        assert ours(2, padding=padding).padding == padding
    pairs = ours(2, padding=[(0, 1)] * rank).padding
    assert [tuple(pair) for pair in pairs] == [(0, 1)] * rank
    for bad in (-1, 1.0, True, "some", (1,) * 4, [(1, 2, 3)] * rank):
        with pytest.raises(ArgumentError, match=f"^{name}: padding"):
            ours(2, padding=bad)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_forward_passes_every_argument(rank):
    x = sample((1, 2, *(7,) * rank))

    def check(kind, module, *args, **kwargs):
        built = getattr(nn, f"{kind}{rank}d")(*module[0], **module[1])
        name = {"LPPool": "lp_pool", "MaxPool": "max_pool", "AvgPool": "avg_pool"}[kind]
        got, expected = built(x), getattr(F, f"{name}{rank}d")(x, *args, **kwargs)
        for a, b in zip(*(t if isinstance(t, tuple) else (t,) for t in (got, expected)),
                        strict=True):  # fmt: skip
            assert_bit_equal(a, b)

    mode = {"padding_mode": "circular"}  # reflected cells lie in the same windows
    check("MaxPool", ((3, 2, 1, 2, True, True), mode), 3, 2, 1, 2, True, True, **mode)
    more = {"divisor_override": 5, "dilation": 2, **mode}
    check("AvgPool", ((3, 2, 1, True, False), more), 3, 2, 1, True, False, **more)
    check("AvgPool", ((3, 2, 1, True, False), {}), 3, 2, 1, True, False)
    for extra in ({"padding": 1, **mode}, {"padding": 1}, {"dilation": 2}, {"absolute": True}):
        check("LPPool", ((3, 2, 2, True), extra), 3, 2, 2, True, **extra)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_unpool_and_global_arguments(rank):
    x, index = sample((2, 3, *(3,) * rank)), torch.zeros((2, 3, *(3,) * rank), dtype=torch.int64)
    for duplicates in ("last", "sum", "max", "mean"):
        module = getattr(nn, f"MaxUnpool{rank}d")(3, 2, 1, duplicates=duplicates)
        function = getattr(F, f"max_unpool{rank}d")
        size = (6,) * rank
        expected = function(x, index, 3, 2, 1, size, duplicates=duplicates)
        assert_bit_equal(module(x, index, size), expected)
    for kind in ("Max", "Avg"):
        build = getattr(nn, f"Global{kind}Pool{rank}d")
        assert build()(x).shape == (2, 3, *(1,) * rank)
        assert_bit_equal(build(flatten=True)(x), build()(x).reshape(2, 3))


def test_names_are_checked_when_built():
    for build in (nn.MaxPool2d, nn.AvgPool2d, nn.AvgPool1d):
        with pytest.raises(ArgumentError, match=f"{build.__name__}: padding_mode must be one of"):
            build(2, padding_mode="constant")
    with pytest.raises(ArgumentError, match="LPPool3d: padding_mode must be one of"):
        nn.LPPool3d(2, 2, padding_mode="constant")
    with pytest.raises(ArgumentError, match="MaxUnpool2d: duplicates must be one of"):
        nn.MaxUnpool2d(2, duplicates="first")
