"""Polyphase sampling and space to depth: their cells, their adjoints, and what moves do to them."""

import itertools
import math

import pytest
import torch

from poolkit import ArgumentError, DtypeError, nn, reference, shift
from poolkit import functional as F
from poolkit.testing import FLOATS, assert_bit_equal, assert_format, laid_out, sample

pytestmark = pytest.mark.usefixtures("one_thread")

every_rank = pytest.mark.parametrize("rank", [1, 2, 3])
every_layout = pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
STRIDES = {1: [(2,), (3,), (1,)], 2: [(2, 2), (3, 1), (1, 4)], 3: [(2, 2, 2), (1, 3, 2)]}


def at(name, rank):
    return getattr(F, f"{name}{rank}d")


# ---- Against the reference ----------------------------------------------------------------------


@every_rank
@every_layout
@pytest.mark.parametrize("dtype", FLOATS)
def test_polyphase_against_reference(rank, layout, dtype):
    """Bits, phases and format; extents that divide and that do not, one smaller than its stride."""
    for strides, size, p in itertools.product(STRIDES[rank], (6, 7, 2), (2.0, 1, 2.5, math.inf)):
        x = laid_out(sample((3, 2, *range(size, size + rank)), dtype), layout)
        y, phase = at("polyphase_pool", rank)(x, strides, norm_type=p, return_phase=True)
        expected, number = reference.polyphase_pool(x, strides, p)
        assert_bit_equal(y, expected)
        assert_bit_equal(phase, number)
        assert_format(y, x)
        assert_bit_equal(at("polyphase_pool", rank)(x, strides, norm_type=p), expected)
        again = at("polyphase_pool", rank)(x.flip(0), strides, phase=phase.flip(0).int())
        assert_bit_equal(again, expected.flip(0))
        back = at("polyphase_unpool", rank)(y, phase, strides, x.shape[2:])
        assert_bit_equal(back, reference.polyphase_unpool(y, phase, strides, x.shape[2:]))
        assert_format(back, y)
        image = at("polyphase_pool", rank)(x[1], strides, norm_type=p, return_phase=True)
        assert_bit_equal(image[0].contiguous(), expected[1].contiguous())
        assert image[1].shape == ()
        alone = at("polyphase_unpool", rank)(*image, strides, x.shape[2:])
        assert_bit_equal(alone.contiguous(), back[1].contiguous())


@every_rank
@every_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_depth_against_reference(rank, layout, dtype):
    for blocks in STRIDES[rank]:
        sizes = [3 * block for block in blocks]
        x = laid_out(sample((2, 3, *sizes), dtype), layout)
        y = at("space_to_depth", rank)(x, blocks)
        assert_bit_equal(y, reference.space_to_depth(x, blocks))
        assert_format(y, x)
        back = at("depth_to_space", rank)(y, blocks)
        assert torch.equal(back, x)
        assert_bit_equal(back, reference.depth_to_space(y, blocks))
        assert torch.equal(at("space_to_depth", rank)(x[0], blocks), y[0])


def test_order_of_channels_is_torch_s():
    x = sample((2, 3, 6, 9))
    assert torch.equal(F.space_to_depth2d(x, 3), torch.nn.functional.pixel_unshuffle(x, 3))
    y = sample((2, 18, 2, 3))
    assert torch.equal(F.depth_to_space2d(y, 3), torch.nn.functional.pixel_shuffle(y, 3))


@every_rank
def test_unpool_is_the_adjoint(rank):
    """<pool x, y> = <x, unpool y>, where the end was filled up from the front too."""
    for size in (6, 5, 1):
        x = sample((2, 3, *(size,) * rank), torch.float64)
        phase = torch.tensor([2, 3**rank - 1])
        pooled = at("polyphase_pool", rank)(x, 3, phase=phase)
        y = sample(tuple(pooled.shape), torch.float64, seed=1)
        put = at("polyphase_unpool", rank)(y, phase, 3, size)
        torch.testing.assert_close((pooled * y).sum(), (x * put).sum())


def test_first_of_equal_norms():
    x = torch.zeros(3, 1, 4, 4)
    x[1, :, 0::2, 1::2] = x[1, :, 1::2, 0::2] = -2
    x[2] = x[1].roll(1, -1)
    assert F.polyphase_pool2d(x, return_phase=True)[1].tolist() == [0, 1, 0]


def test_norms_of_all_channels_decide():
    """Each channel by itself would choose another phase; which norm is asked for matters."""
    x = torch.zeros(1, 2, 4)
    x[0, 0, 0], x[0, 1, 0::2], x[0, :, 1::2] = 3, 0, 2
    assert F.polyphase_pool1d(x, return_phase=True)[1].item() == 1
    assert F.polyphase_pool1d(x, norm_type=math.inf, return_phase=True)[1].item() == 0


# ---- Moves --------------------------------------------------------------------------------------


def network(downsample, padding_mode="circular", head="gap", size=8):
    """Two stages of random weights. Only what is named differs."""
    torch.manual_seed(0)

    def conv(inputs, outputs):
        return torch.nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=padding_mode)

    flat = -(-size // 2)
    cells = 1 if head == "gap" else (-(-flat // 2)) ** 2
    pool = nn.GlobalAvgPool2d(flatten=True) if head == "gap" else torch.nn.Flatten()
    return torch.nn.Sequential(
        conv(2, 6), torch.nn.ReLU(), downsample(), conv(6, 8), torch.nn.ReLU(), downsample(),
        conv(8, 8), torch.nn.ReLU(), pool, torch.nn.Linear(8 * cells, 5),
    ).double().eval()  # fmt: skip


def spread(net, size=8):
    """The largest difference of any score between an image and any of its circular moves."""
    x = sample((1, 2, size, size), torch.float64)
    moves = itertools.product(range(size), repeat=2)
    with torch.no_grad():
        scores = net(torch.cat([shift.roll(x, move) for move in moves]))
    return (scores - scores[0]).abs().max().item()


@pytest.mark.parametrize("norm_type", [1, 2, math.inf])
def test_scores_are_the_same_for_every_move(norm_type):
    """Theorem of the paper, untrained: circular padding, extents that divide, global average."""
    assert spread(network(lambda: nn.PolyphasePool2d(2, norm_type))) < 1e-12


@pytest.mark.parametrize(
    ("change", "size"),
    [({"padding_mode": "zeros"}, 8), ({"head": "flatten"}, 8), ({}, 9),
     ({"downsample": lambda: nn.MaxPool2d(2)}, 8)],
    ids=["zero padding", "flatten", "odd", "max"],
)  # fmt: skip
def test_each_condition_is_needed(change, size):
    arguments = {"downsample": nn.PolyphasePool2d, **change}
    assert spread(network(**arguments, size=size), size) > 1e-4


def test_moves_by_the_whole_stride_are_exact():
    """A circular stack of any strides commutes with rolls by their product, bit for bit."""
    torch.manual_seed(0)
    conv = nn.StridedConv2d(3, 3, 2, 1, padding_mode="circular", out_channels=4)
    with torch.no_grad():  # whole numbers: no order of additions rounds
        for parameter in conv.parameters():
            parameter.copy_((8 * parameter).round())
    stack = torch.nn.Sequential(
        conv, nn.MaxPool2d(3, 2, 1, padding_mode="circular"), nn.PolyphasePool2d(2),
        nn.AvgPool2d(3, 2, 1, padding_mode="circular"), nn.SpaceToDepth2d(2),
    )  # fmt: skip
    x = (8 * sample((2, 3, 96, 64))).round()
    y = stack(x)
    assert y.shape == (2, 16, 3, 2)
    for move in ((32, 0), (64, 32), (-32, 32)):
        there = [m // 32 for m in move]
        assert_bit_equal(stack(shift.roll(x, move)), shift.roll(y, there))


def test_branches_stay_in_step():
    """A branch that keeps the other's phase commutes with moves as the other does."""
    pool = nn.PolyphasePool2d(return_phase=True)
    x = sample((2, 3, 8, 8))

    def both(x):
        y, phase = pool(x)
        return y + nn.PolyphasePool2d()(x.sin(), phase)

    for move in ((1, 0), (3, 2), (5, 7)):
        found = both(shift.roll(x, move))
        candidates = [
            shift.roll(both(x), (dy, dx)) for dy, dx in itertools.product(range(4), repeat=2)
        ]
        per_image = [any(torch.equal(f[i], found[i]) for f in candidates) for i in (0, 1)]
        assert per_image == [True, True]


# ---- Arguments ----------------------------------------------------------------------------------

IMAGE = torch.zeros(2, 4, 6, 9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.polyphase_pool2d(IMAGE, 0), "polyphase_pool2d: stride must be from 1"),
        (lambda: F.polyphase_pool2d(IMAGE, (2, 2, 2)), "stride must be an int or 2 of them"),
        (lambda: F.polyphase_pool2d(IMAGE[0, 0]), r"input must have the shape \(N, C, H, W\)"),
        (lambda: F.polyphase_pool1d(IMAGE[..., :0]), "input must have the shape"),
        (lambda: F.polyphase_pool2d(IMAGE[..., :0]), "no channel and no spatial extent"),
        (lambda: F.polyphase_pool2d(IMAGE, norm_type=-1), "norm_type must be a positive number"),
        (lambda: F.polyphase_pool2d(IMAGE, norm_type=True), "norm_type must be a positive number"),
        (lambda: F.polyphase_pool2d(IMAGE, return_phase=1), "return_phase must be a bool, got 1"),
        (lambda: F.polyphase_pool2d(IMAGE, phase=[0, 0]), "phase must be a tensor, got list"),
        (lambda: F.polyphase_pool2d(IMAGE, phase=torch.tensor([0])),
         r"phase must have the shape \(2,\) for an input of shape \(2, 4, 6, 9\), got \(1,\)"),
        (lambda: F.polyphase_pool2d(IMAGE, phase=torch.tensor([0, 4])),
         r"phase must be from 0 to 3 for stride \(2, 2\), got \[0, 4\]"),
        (lambda: F.polyphase_unpool2d(IMAGE, torch.tensor([-1, 0])), "phase must be from 0 to 3"),
        (lambda: F.polyphase_unpool2d(IMAGE, torch.tensor([0, 0]), 2, (12, 20)),
         r"output_size \(12, 20\) has \[6, 10\] cells in a phase of .*, but the input \[6, 9\]"),
        (lambda: F.polyphase_pool2d(None), "polyphase_pool2d: input must be a tensor"),
        (lambda: F.space_to_depth2d(IMAGE, 2),
         r"space_to_depth2d: block_size \(2, 2\) must divide the extents \(6, 9\) of the input"),
        (lambda: F.depth_to_space2d(IMAGE, 3),
         r"the 9 cells of block_size \(3, 3\) must divide the 4 channels"),
        (lambda: F.space_to_depth2d(IMAGE, True), "block_size must be an int, got True"),
        (lambda: nn.PolyphasePool2d(0), "PolyphasePool2d: stride must be from 1"),
        (lambda: nn.PolyphasePool2d(norm_type=0), "PolyphasePool2d: norm_type must be a positive"),
        (lambda: nn.PolyphaseUnpool1d((1, 2)), "PolyphaseUnpool1d: stride must be an int or 1"),
        (lambda: nn.SpaceToDepth3d(2.0), "SpaceToDepth3d: block_size must be an int"),
    ],
)  # fmt: skip
def test_bad_arguments(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


def test_bad_dtypes():
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(DtypeError, match="polyphase_pool2d: input must have one of the dtypes"):
            F.polyphase_pool2d(IMAGE.to(dtype))
    with pytest.raises(DtypeError, match="space_to_depth2d: input must have one of"):
        F.space_to_depth2d(IMAGE.to(torch.complex64))
    with pytest.raises(DtypeError, match=r"phase must be int64 or int32, got torch\.float32"):
        F.polyphase_pool2d(IMAGE, phase=torch.zeros(2))


def test_modules_pass_their_arguments():
    x, phase = sample((2, 4, 6, 8)), torch.tensor([3, 0])
    pool = nn.PolyphasePool2d((1, 2), 1, return_phase=True)
    for got, expected in zip(
        pool(x), F.polyphase_pool2d(x, (1, 2), norm_type=1, return_phase=True), strict=True
    ):
        assert_bit_equal(got, expected)
    assert repr(pool) == "PolyphasePool2d(stride=(1, 2), norm_type=1.0, return_phase=True)"
    assert_bit_equal(nn.PolyphasePool2d()(x, phase), F.polyphase_pool2d(x, phase=phase))
    unpool = nn.PolyphaseUnpool2d(3)
    assert_bit_equal(unpool(x, phase, (17, 22)), F.polyphase_unpool2d(x, phase, 3, (17, 22)))
    assert_bit_equal(nn.SpaceToDepth2d((3, 2))(x), F.space_to_depth2d(x, (3, 2)))
    assert_bit_equal(nn.DepthToSpace2d((1, 2))(x), F.depth_to_space2d(x, (1, 2)))
