"""Moves that are exact, and distances that are what they say."""

import doctest
import math

import numpy as np
import pytest
import torch

import poolkit.functional as F
from poolkit import ArgumentError, DtypeError, shift

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = ((7,), (8,), (2, 5, 8), (1, 3, 6, 9), (2, 1, 4, 5, 6))
MOVES = (0, 1, -1, 3, -17, 10**12 + 1)


def picture(shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def smooth(extent):
    """A signal with nothing at the Nyquist frequency, as a function of a real position."""
    generator = np.random.default_rng(0)
    waves = generator.normal(size=(2, (extent - 1) // 2 + 1))

    def value(position):
        angles = 2 * np.pi * np.arange(waves.shape[1])[:, None] * position / extent
        return torch.tensor(waves[0] @ np.cos(angles) + waves[1] @ np.sin(angles))

    return value


# ---- Whole cells --------------------------------------------------------------------------------


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("extent", [1, 2, 7])
def test_roll_by_definition(extent, move):
    x = torch.arange(extent)
    expected = [x[(i - move) % extent].item() for i in range(extent)]
    assert shift.roll(x, move).tolist() == expected


def test_roll_moves_down_and_right():
    x = torch.zeros(1, 1, 4, 5)
    x[..., 1, 2] = 1
    assert shift.roll(x, (2, 1))[..., 3, 3] == 1
    assert shift.roll(x, 1)[..., 1, 3] == 1
    assert shift.roll(x, (0, 0, 1, 0))[..., 2, 2] == 1
    assert torch.equal(shift.roll(x, ()), x)


def test_roll_of_any_dtype():
    for dtype in (torch.bool, torch.int64, torch.bfloat16, torch.complex64):
        x = torch.tensor([1, 0, 0]).to(dtype)
        assert shift.roll(x, 1).dtype == dtype
        assert shift.roll(x, 1).tolist() == [0, 1, 0]


def test_crop_by_definition():
    x = torch.arange(9 * 10).reshape(9, 10)
    for dy, dx in ((0, 0), (2, -2), (-2, 3), (1, 0)):
        y = shift.crop(x, (dy, dx), (4, 4))
        top, left = (9 - 4) // 2 - dy, (10 - 4) // 2 - dx
        assert torch.equal(y, x[top : top + 4, left : left + 4])


def test_crop_agrees_with_roll_inside():
    x = picture((2, 3, 12, 14))
    for move in ((1, 0), (0, -2), (2, 3)):
        moved = shift.crop(shift.roll(x, move), (0, 0), (6, 8))
        assert torch.equal(shift.crop(x, move, (6, 8)), moved)


def test_crop_of_fewer_moves_than_sizes():
    x = picture((6, 9))
    assert torch.equal(shift.crop(x, 1, (4, 5)), shift.crop(x, (0, 1), (4, 5)))
    assert torch.equal(shift.crop(x, 1, 5), shift.crop(x, (0, 1), (6, 5)))


# ---- Fractions of a cell ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_fourier_by_whole_cells_is_roll(shape, move, dtype):
    x = picture(shape, dtype)
    moves = [move + i for i in range(len(shape))]
    rounding = 64 * torch.finfo(dtype).eps * x.abs().max().item()
    for given in (moves, move):
        y = shift.fourier(x, given)
        assert y.dtype == dtype
        assert y.shape == x.shape
        assert (y - shift.roll(x, given)).abs().max() <= rounding


@pytest.mark.parametrize("extent", [1, 7, 8, 33])
@pytest.mark.parametrize("move", [0.5, -0.25, 3.7, 1e6 + 0.125])
def test_fourier_moves_the_signal_between_its_samples(extent, move):
    value = smooth(extent)
    place = np.arange(extent)
    y = shift.fourier(value(place), move)
    assert torch.allclose(y, value(place - move), atol=1e-8 if move > 1e3 else 1e-12, rtol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fourier_without_nyquist_is_a_group(shape):
    """Moves add up and undo one another, along every axis."""
    x = picture(shape)
    for axis, extent in enumerate(shape):
        if extent % 2 == 0:  # take out what alternates from cell to cell
            places = [1] * len(shape)
            places[axis] = extent
            wave = torch.tensor([1.0, -1.0]).repeat(extent // 2).reshape(places)
            x = x - wave * (x * wave).mean(axis, keepdim=True)
    there = [0.3 * (axis + 1) for axis in range(len(shape))]
    back = [-move for move in there]
    assert torch.allclose(shift.fourier(shift.fourier(x, there), back), x, atol=1e-12)
    twice = [2 * move for move in there]
    assert torch.allclose(
        shift.fourier(shift.fourier(x, there), there), shift.fourier(x, twice), atol=1e-12
    )


@pytest.mark.parametrize("move", [0.5, 0.3, 1.0, 2.0, 2.75])
def test_nyquist_of_an_even_extent(move):
    """The alternating wave is multiplied by cos(pi s), so that half a cell extinguishes it."""
    wave = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4)
    assert torch.allclose(shift.fourier(wave, move), wave * math.cos(math.pi * move), atol=1e-12)
    both = shift.fourier(shift.fourier(wave, move), -move)
    assert torch.allclose(both, wave * math.cos(math.pi * move) ** 2, atol=1e-12)
    # One whole move is enough for moves to add up.
    added = shift.fourier(shift.fourier(wave, move), 3)
    assert torch.allclose(added, shift.fourier(wave, move + 3), atol=1e-12)


def test_fourier_keeps_the_mean_and_is_linear():
    x, y = picture((2, 6, 7)), picture((2, 6, 7)).flip(0)
    moved = shift.fourier(x, (0.4, 1.3))
    assert torch.allclose(moved.mean((1, 2)), x.mean((1, 2)))
    both = shift.fourier(2 * x + y, (0.4, 1.3))
    assert torch.allclose(both, 2 * moved + shift.fourier(y, (0.4, 1.3)))


def test_fourier_of_half_types():
    x = picture((4, 9), torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        y = shift.fourier(x.to(dtype), 0.5)
        assert y.dtype == dtype
        assert torch.equal(y, shift.fourier(x.to(dtype).float(), 0.5).to(dtype))


def test_fourier_of_numbers_of_other_libraries():
    x = picture((4, 9))
    expected = shift.fourier(x, (1.5, 2))
    assert torch.equal(shift.fourier(x, [np.float32(1.5), np.int64(2)]), expected)
    assert torch.equal(shift.fourier(x, [torch.tensor(1.5), torch.tensor(2)]), expected)


def test_fourier_has_a_gradient():
    x = picture((3, 6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: shift.fourier(x, (0.5, -1.2)), x)


# ---- Distances ----------------------------------------------------------------------------------


def test_relative_l2():
    a = torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])
    b = torch.tensor([[[3.0, 1.0], [0.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert shift.relative_l2(a, b).tolist() == [0.2, 0.0]
    assert shift.relative_l2(a, torch.zeros_like(a)).tolist() == [1.0, 1.0]


def test_cosine_distance():
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[5.0, 0.0], [1.0, -1.0], [-3.0, 0.0], [1.0, 1.0]])
    assert shift.cosine_distance(a, b).tolist() == pytest.approx([0, 1, 2, 1 - 0.5**0.5], abs=1e-15)


def test_cosine_distance_of_nearly_the_same():
    """The cosine of 1e-9 is 1 in float64: the plain formula would find nothing."""
    a = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, 1e-9]], dtype=torch.float64)
    assert shift.cosine_distance(a, b).item() == pytest.approx(5e-19, rel=1e-6)


@pytest.mark.parametrize("distance", [shift.relative_l2, shift.cosine_distance])
def test_distances_at_the_edges(distance):
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    assert distance(zero, zero).tolist() == [0, 0]
    assert distance(one, one).tolist() == [0, 0]
    assert distance(one, zero).tolist() == [1, 1]
    assert distance(one, one * math.nan).isnan().all()
    assert distance(torch.ones(0, 3), torch.ones(0, 3)).shape == (0,)
    assert distance(torch.ones(2), torch.ones(2)).tolist() == [0, 0]
    # Wide enough for the sums of any type, and exact for integers.
    large = torch.full((1, 4), 60_000.0, dtype=torch.float16)
    assert distance(large, large).item() == 0
    assert distance(large, large / 2).isfinite().all()
    assert distance(torch.tensor([[3, 4]]), torch.tensor([[3, 4]])).tolist() == [0]


def test_distance_from_nothing():
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    assert shift.relative_l2(zero, one).item() == math.inf
    assert shift.cosine_distance(zero, one).item() == 1


# ---- What pooling does to moves -----------------------------------------------------------------


def test_pooling_commutes_with_moves_by_its_stride():
    x = picture((1, 2, 8, 12))
    for pool in (F.max_pool2d, F.avg_pool2d):
        assert torch.equal(pool(shift.roll(x, (2, 4)), 2), shift.roll(pool(x, 2), (1, 2)))


def test_global_average_is_blind_to_circular_moves():
    x = picture((2, 3, 7, 8))
    before, after = F.global_avg_pool2d(x), F.global_avg_pool2d(shift.roll(x, (3, 5)))
    assert shift.relative_l2(before, after).max() < 1e-14
    assert shift.relative_l2(x, shift.roll(x, (3, 5))).min() > 0.1


# ---- Refusals and documentation -----------------------------------------------------------------

X = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("call", "mention"),
    [
        (lambda: shift.roll([1, 2], 1), "input must be a tensor, got list"),
        (lambda: shift.roll(X, 1.5), "shift must be an int, got 1.5"),
        (lambda: shift.roll(X, True), "shift must be an int, got True"),
        (lambda: shift.roll(X, (1, 2, 3, 4, 5)), "4 axes"),
        (lambda: shift.crop(X, (0, 1), (8, 8)), "beyond the 8 cells of axis -1"),
        (lambda: shift.crop(X, (0, -2), (8, 6)), "beyond"),
        (lambda: shift.crop(X, (3, 0), (4, 4)), "axis -2"),
        (lambda: shift.crop(X, (0, 0), (9, 4)), "beyond"),
        (lambda: shift.crop(X, (0, 0), (0, 4)), "size"),
        (lambda: shift.crop(X, (0, 0), 4), "size"),
        (lambda: shift.crop(X, 0, (1, 1, 1, 1, 1)), "size"),
        (lambda: shift.crop(X, 0.5, 4), "shift must be an int"),
        (lambda: shift.fourier(X, math.nan), "finite numbers, got nan"),
        (lambda: shift.fourier(X, (0, math.inf)), "finite numbers, got inf"),
        (lambda: shift.fourier(X, "1"), "finite numbers, got '1'"),
        (lambda: shift.fourier(X, None), "finite numbers, got None"),
        (lambda: shift.fourier(X, 1j), "finite numbers"),
        (lambda: shift.fourier(X, True), "finite numbers, got True"),
        (lambda: shift.fourier(X[..., :0], 1), "extent 0"),
        (lambda: shift.relative_l2(X, X[:, :1]), "same shape"),
        (lambda: shift.relative_l2(X.sum(), X.sum()), "same shape"),
        (lambda: shift.relative_l2(X, 1), "other must be a tensor"),
        (lambda: shift.cosine_distance(None, X), "reference must be a tensor"),
    ],
)
def test_refusals(call, mention):
    with pytest.raises(ArgumentError, match=mention.replace("(", r"\(")):
        call()


def test_refused_dtypes():
    for x in (X.to(torch.int64), X.to(torch.complex64), X.bool()):
        with pytest.raises(DtypeError, match="fourier"):
            shift.fourier(x, 1)
    with pytest.raises(DtypeError, match="real"):
        shift.relative_l2(X.to(torch.complex64), X.to(torch.complex64))


@pytest.mark.parametrize("thing", [shift, *(getattr(shift, name) for name in shift.__all__)])
def test_examples(thing):
    (found,) = doctest.DocTestFinder(recurse=False).find(thing, "shift", globs={})
    assert found.examples
    assert doctest.DocTestRunner(verbose=False).run(found).failed == 0
