"""Heads, generalised means and convolutions with a stride: values, limits, gradients, arguments."""

import itertools
import math

import onnxruntime
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from poolkit import ArgumentError, DtypeError, nn, reference
from poolkit import functional as F
from poolkit import window as W
from poolkit.models import downsampling_path
from poolkit.testing import FLOATS, HALVES, assert_bit_equal, assert_format, laid_out, sample

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch's own forward mode says so when it is first used.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated"),
]

every_rank = pytest.mark.parametrize("rank", [1, 2, 3])
every_layout = pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
every_float = pytest.mark.parametrize("dtype", FLOATS)


def at(name, rank):
    return getattr(F, f"{name}{rank}d")


def assert_near(got, expected):
    """Within some roundings of the dtype."""
    assert got.dtype == expected.dtype
    eps = torch.finfo(got.dtype).eps
    steps = 2 if got.dtype in HALVES else 64
    torch.testing.assert_close(got, expected, rtol=steps * eps, atol=steps * eps, equal_nan=True)


# ---- Values -------------------------------------------------------------------------------------


@every_rank
@every_layout
@every_float
def test_two_reductions_against_reference(rank, layout, dtype):
    for size in (1, 7):
        x = laid_out(sample((2, 3, *(size,) * rank), dtype), layout)
        for name in ("global_avg_max_pool", "global_cat_avg_max_pool"):
            y = at(name, rank)(x)
            assert_near(y, getattr(reference, name)(x, rank))
            assert_format(y, x)
            assert_near(at(name, rank)(x[0]), y[0])


@every_rank
@every_layout
@every_float
def test_gem_against_reference(rank, layout, dtype):
    """Padding in no mean, windows over the end, dilation, cells below eps, p per channel."""
    x = laid_out(sample((2, 3, *range(7, 7 + rank)), dtype), layout)
    exponents = (3.0, 0.5, 20, torch.tensor([1.0, 2.0, 7.0]), torch.tensor(4.0))
    windows = (((2,), {}), ((3, 2, 1, True), {}), ((2, 3, ((1, 0),) * rank), {"dilation": 2}),
               ((2, 2, "same"), {}))  # fmt: skip
    for (args, more), p in itertools.product(windows, exponents):
        full = dict(zip(("stride", "padding", "ceil_mode"), args[1:], strict=False))
        y = at("gem_pool", rank)(x, *args, p=p, eps=0.1, **more)
        window = W.fixed("gem", rank, x.shape, args[0], full.get("stride"), full.get("padding", 0),
                         more.get("dilation", 1), full.get("ceil_mode", False), True)  # fmt: skip
        assert_near(y, reference.gem_pool(x, p, window, 0.1))
        assert_format(y, x)
        assert_near(at("gem_pool", rank)(x[0], *args, p=p, eps=0.1, **more), y[0].contiguous())
    whole = W.adaptive("gem", rank, x.shape, 1, True)
    for p in exponents:
        y = at("global_gem_pool", rank)(x, p, 0.1)
        assert_near(y, reference.gem_pool(x, p, whole, 0.1))
        assert_format(y, x)
        assert_near(at("global_gem_pool", rank)(x[0], p, 0.1), y[0].contiguous())


@every_rank
def test_gem_from_mean_to_maximum(rank):
    x = sample((2, 3, *(6,) * rank)).abs() + 0.1
    pooled, whole = at("gem_pool", rank), at("global_gem_pool", rank)
    assert_near(pooled(x, 3, 2, 1, p=1), at("avg_pool", rank)(x, 3, 2, 1, False, False))
    assert_near(whole(x, 1.0), at("global_avg_pool", rank)(x))
    maxima, most = at("max_pool", rank)(x, 3, 2, 1), at("global_max_pool", rank)(x)
    assert_bit_equal(pooled(x, 3, 2, 1, p=math.inf), maxima)
    assert_bit_equal(whole(x, math.inf), most)
    for p in (1e4, torch.tensor(1e4)):
        torch.testing.assert_close(pooled(x, 3, 2, 1, p=p), maxima, rtol=1e-3, atol=0)
        torch.testing.assert_close(whole(x, p), most, rtol=1e-3, atol=0)
    order = [whole(x, p) for p in (0.5, 1, 2, 3, 10, 100, math.inf)]
    assert all((a <= b).all() for a, b in itertools.pairwise(order))


@every_float
def test_gem_neither_overflows_nor_vanishes(dtype):
    """Where x^p is beyond the dtype: windows of the largest and of tiny cells in one map."""
    big, tiny = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    x = torch.tensor([[[big, big / 2, tiny, tiny, math.inf, 1, math.nan, 1]]], dtype=dtype)
    low = torch.finfo(dtype).tiny
    for p in (2.0, 300.0, torch.tensor(300.0)):
        y = F.gem_pool1d(x, 2, p=p, eps=low).flatten().tolist()
        exact = float(big) * ((1 + 0.5 ** float(p)) / 2) ** (1 / float(p))
        assert y[:2] == pytest.approx([exact, tiny], rel=1e-2 if dtype in HALVES else 1e-5)
        assert y[2] == math.inf
        assert math.isnan(y[3])


def test_gem_derivatives():
    """By x and by p, of both orders, with several windows over a cell and padding."""
    x = (sample((2, 3, 5, 4), torch.float64).abs() + 0.2).requires_grad_()
    p = torch.tensor([1.0, 2.5, 6.0], dtype=torch.float64, requires_grad=True)

    def pooled(x, p):
        return F.gem_pool2d(x, 3, 2, 1, p=p)

    for function in (pooled, F.global_gem_pool2d):
        for exponent in (p, p[1:2].detach().requires_grad_()):
            assert gradcheck(function, (x, exponent), check_forward_ad=True, fast_mode=True)
            assert gradgradcheck(function, (x, exponent), fast_mode=True)
    slope = torch.autograd.grad(pooled(x, p[1]).sum(), p)[0]
    assert slope[1] > 0  # the mean grows with p
    flat = torch.full((1, 1, 4), 0.01, requires_grad=True)
    F.gem_pool1d(flat, 2, eps=0.1).sum().backward()
    assert not flat.grad.any()  # below eps


# ---- Modules ------------------------------------------------------------------------------------


@every_rank
def test_modules(rank):
    x = sample((2, 3, *(6,) * rank))
    for name, function in (("GlobalAvgMaxPool", "global_avg_max_pool"),
                           ("GlobalCatAvgMaxPool", "global_cat_avg_max_pool"),
                           ("GlobalGeMPool", "global_gem_pool")):  # fmt: skip
        build, expected = getattr(nn, f"{name}{rank}d"), at(function, rank)(x)
        assert_near(build()(x), expected)
        assert_near(build(flatten=True)(x), expected.flatten(1))
        assert_near(build(flatten=True)(x[0]), expected[0].flatten())
    mode = {"eps": 0.1, "dilation": 2, "padding_mode": "circular"}
    pool = getattr(nn, f"GeMPool{rank}d")(2, 3, 1, True, p=2.5, **mode)
    expected = at("gem_pool", rank)(x, 2, 3, 1, True, p=2.5, **mode)
    assert_near(pool(x), expected)


def test_exponent_of_modules():
    """Learned or not, one or one per channel, in the state dict where there is something."""
    learned = nn.GlobalGeMPool2d(channels=3)
    assert {name: p.shape for name, p in learned.named_parameters()} == {"p": (3,)}
    x = sample((2, 3, 6, 6)).abs()
    learned(x).sum().backward()
    assert (learned.p.grad > 0).all()
    fixed = nn.GlobalGeMPool2d(learnable=False, channels=3)
    fixed.load_state_dict(learned.state_dict())
    assert not list(fixed.parameters())
    assert_bit_equal(fixed(x), learned(x).detach())
    plain = nn.GeMPool2d(2, p=math.inf, learnable=False)
    assert not plain.state_dict()
    assert_bit_equal(plain(x), F.max_pool2d(x.clamp(min=1e-6), 2))
    assert repr(plain) == "GeMPool2d(p=inf, kernel_size=2, stride=2)"
    assert repr(learned) == "GlobalGeMPool2d(p=3 learnable)"
    half = nn.GeMPool2d(2).to(torch.bfloat16)
    assert half(x.bfloat16()).dtype is torch.bfloat16


@every_rank
def test_strided_conv_has_the_sizes_of_the_pools(rank):
    """With each kind of padding; and the values of a convolution of the padded map."""
    pool, build = getattr(nn, f"MaxPool{rank}d"), getattr(nn, f"StridedConv{rank}d")
    pairs = [((2, 1), (0, 2), (1, 0))[:rank]]
    shapes = itertools.product(
        ((2,), (3, 2), (3, 2, 1), (2, 3, 0, 2), (3, 2, "same"), (2, 2, "same_lower"),
         (3, 2, *pairs)),
        (False, True), ("zeros", "circular", "reflect"), (6, 9),
    )  # fmt: skip
    for args, ceil, mode, size in shapes:
        x = sample((2, 4, *(size,) * rank))
        options = {"ceil_mode": ceil, "padding_mode": mode}
        conv = build(4, *args, **options, groups="depthwise", bias=False)
        expected = pool(*args, **options)(x)
        assert conv(x).shape == expected.shape
        with torch.no_grad():
            conv.weight.fill_(1)
        sums = {"divisor_override": 1, "padding_mode": mode}
        kernel, stride, padding, dilation = (*args, *(None, 0, 1)[len(args) - 1 :])
        average = at("avg_pool", rank)(x, kernel, stride, padding, ceil, dilation=dilation, **sums)
        torch.testing.assert_close(conv(x), average, rtol=1e-4, atol=1e-4)
        assert conv(x[0]).shape == expected[0].shape


def test_strided_conv_is_torch_s():
    conv = nn.StridedConv2d(4, 3, 2, 1, out_channels=8, groups=2)
    stock = torch.nn.Conv2d(4, 8, 3, 2, 1, groups=2)
    stock.load_state_dict(conv.state_dict())
    x = sample((2, 4, 9, 8))
    assert isinstance(conv, torch.nn.Conv2d)
    assert_bit_equal(conv(x), stock(x))
    assert repr(conv) == repr(stock).replace("Conv2d(", "StridedConv2d(")
    assert "ceil_mode=True" in repr(nn.StridedConv2d(4, ceil_mode=True))
    assert str(downsampling_path(conv, x)[0]) == "strided conv 3/2/1 (4, 9, 8) -> (8, 5, 4)"


@pytest.mark.parametrize("size", [7, 8])
def test_resnet_d_shortcut(size):
    x = sample((2, 4, size, size))
    shortcut = nn.ResNetDShortcut(4, 6, norm=False)
    mean = torch.nn.functional.avg_pool2d(x, 2, 2, 0, True, False)
    assert_near(shortcut(x), torch.nn.functional.conv2d(mean, shortcut[1].weight))
    assert list(nn.ResNetDShortcut(4, 6).state_dict())[:2] == ["1.weight", "2.weight"]
    assert isinstance(nn.ResNetDShortcut(4, 6, 1)[0], torch.nn.Identity)
    assert nn.ResNetDShortcut(4, 6, (1, 2))(x).shape == (2, 6, size, -(-size // 2))


# ---- Arguments ----------------------------------------------------------------------------------

IMAGE = torch.ones(2, 4, 6, 9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.gem_pool2d(IMAGE, 2, p=0), "gem_pool2d: p must be a positive number, got 0"),
        (lambda: F.gem_pool2d(IMAGE, 2, p=-1.5), "p must be a positive number, got -1.5"),
        (lambda: F.gem_pool2d(IMAGE, 2, p="3"), "p must be a positive number"),
        (lambda: F.gem_pool2d(IMAGE, 2, p=torch.ones(3)),
         "p must be a number or a tensor of 1 or 4 numbers, one per channel, got shape"),
        (lambda: F.gem_pool2d(IMAGE, 2, eps=0), "eps must be a positive number, got 0"),
        (lambda: F.gem_pool2d(IMAGE, 2, eps=math.inf), "eps must be finite"),
        (lambda: F.gem_pool2d(IMAGE, 7), "axis H would have the output size 0"),
        (lambda: F.gem_pool2d(IMAGE, 2, 2, 2), "window 0 of axis H holds no cell"),
        (lambda: F.gem_pool2d(IMAGE, 2, padding_mode="same"), "padding_mode must be one of"),
        (lambda: F.global_gem_pool2d(IMAGE, math.nan), "p must be a positive number, got nan"),
        (lambda: F.global_gem_pool3d(IMAGE[0]), "input must have the shape"),
        (lambda: F.global_avg_max_pool2d(IMAGE[0, 0]), "input must have the shape"),
        (lambda: F.global_cat_avg_max_pool2d(IMAGE[:, :0]), "no channel and no spatial extent"),
        (lambda: F.global_avg_max_pool2d([1]), "input must be a tensor, got list"),
        (lambda: nn.GlobalGeMPool2d(0), "GlobalGeMPool2d: p must be a positive number"),
        (lambda: nn.GlobalGeMPool2d(math.inf), "a learnable p must be finite, got inf"),
        (lambda: nn.GlobalGeMPool2d(torch.ones(3)), "p must be a number"),
        (lambda: nn.GlobalGeMPool2d(channels=0), "channels must be from 1"),
        (lambda: nn.GeMPool2d(0), "GeMPool2d: kernel_size must be from 1"),
        (lambda: nn.GeMPool2d(2, padding="some"), "GeMPool2d: padding must be"),
        (lambda: nn.StridedConv2d(0), "StridedConv2d: channels must be from 1"),
        (lambda: nn.StridedConv2d(4, groups=3), "groups must divide the 4 channels and the 4"),
        (lambda: nn.StridedConv2d(4, groups="depthwise", out_channels=6), "groups must divide"),
        (lambda: nn.StridedConv2d(4, groups="all"), "groups must be an int"),
        (lambda: nn.StridedConv2d(4, out_channels=0), "out_channels must be from 1"),
        (lambda: nn.StridedConv2d(4, 2.0), "kernel_size must be an int"),
        (lambda: nn.StridedConv2d(4, padding=-1), "StridedConv2d: padding must be from 0"),
        (lambda: nn.StridedConv2d(4, ceil_mode=1), "ceil_mode must be a bool"),
        (lambda: nn.StridedConv2d(4, 7)(IMAGE), "StridedConv2d: axis H would have the output"),
        (lambda: nn.ResNetDShortcut(4, True), "ResNetDShortcut: out_channels must be an int"),
        (lambda: nn.ResNetDShortcut(4, 4, 0), "ResNetDShortcut: stride must be from 1"),
    ],
)  # fmt: skip
def test_bad_arguments(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


def test_bad_dtypes():
    for name in ("global_avg_max_pool2d", "global_cat_avg_max_pool2d", "global_gem_pool2d"):
        with pytest.raises(DtypeError, match=f"{name}: input must have one of the dtypes"):
            getattr(F, name)(IMAGE.long())
    with pytest.raises(DtypeError, match=r"p must be a number or a float tensor, got torch\.int64"):
        F.global_gem_pool2d(IMAGE, torch.tensor(3))


# ---- ONNX ---------------------------------------------------------------------------------------


class Everything(torch.nn.Module):
    """All of this file and of test_polyphase.py, for any batch and any size of image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.StridedConv2d(2, 3, 2, "same")
        self.gem = nn.GeMPool2d(3, 2, 1, True, channels=2)

    def forward(self, x):
        y, phase = F.polyphase_pool2d(x, return_phase=True)
        deep = F.depth_to_space2d(F.space_to_depth2d(x.repeat(1, 1, 2, 1), (2, 1)), (2, 1))
        back = F.polyphase_unpool2d(y, phase, 2)
        return (y, phase, back, deep, self.conv(x), self.gem(x), F.global_gem_pool2d(x),
                F.global_avg_max_pool2d(x), F.global_cat_avg_max_pool2d(x))  # fmt: skip


# torch's ONNX exporter copies its own objects in a way that its own pytree deprecates.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")
def test_onnx_runtime_agrees():
    net = Everything().eval()
    dims = ({0: "n", 2: "h", 3: "w"},)
    program = torch.onnx.export(net, (sample((2, 2, 6, 7)),), dynamic_shapes=dims, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for shape in ((2, 2, 6, 7), (3, 2, 9, 8)):
        x = sample(shape, seed=1)
        got = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        for g, expected in zip(got, net(x), strict=True):
            torch.testing.assert_close(torch.from_numpy(g), expected, rtol=1e-4, atol=1e-5)
