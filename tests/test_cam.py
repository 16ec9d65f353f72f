"""Class activation maps: the algebra that defines them, layouts of the arguments, and errors."""

import doctest

import pytest
import torch

import poolkit.functional as F
from poolkit import ArgumentError, DtypeError, cam
from poolkit.cam import class_activation_map


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 4, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    bias = torch.randn(7, generator=generator, dtype=torch.float64)
    return features, weight, bias


def test_mean_plus_bias_is_the_logit(case):
    features, weight, bias = case
    logits = torch.nn.functional.linear(F.global_avg_pool2d(features).flatten(1), weight, bias)
    maps = class_activation_map(features, weight)
    torch.testing.assert_close(maps.mean((2, 3)) + bias, logits, rtol=1e-13, atol=1e-13)


def test_mean_plus_bias_is_the_logit_exactly():
    """Small integers over a power of two: no rounding anywhere, so every bit must agree."""
    features = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).remainder(7).float()
    weight = torch.tensor([[1.0, -2.0, 3.0], [0.0, 5.0, -1.0]])
    bias = torch.tensor([4.0, -8.0])
    logits = F.global_avg_pool2d(features).flatten(1) @ weight.T + bias
    assert torch.equal(class_activation_map(features, weight).mean((2, 3)) + bias, logits)


def test_each_place_is_the_head_applied_there(case):
    features, weight, _ = case
    maps = class_activation_map(features, weight)
    for i in range(4):
        for j in range(6):
            torch.testing.assert_close(maps[:, :, i, j], features[:, :, i, j] @ weight.T)


def test_one_class_of_all_and_one_class_each(case):
    features, weight, _ = case
    maps = class_activation_map(features, weight)
    torch.testing.assert_close(class_activation_map(features, weight, 4), maps[:, 4])
    chosen = torch.tensor([6, 0, 2])
    each = class_activation_map(features, weight, chosen)
    torch.testing.assert_close(each, torch.stack([maps[n, c] for n, c in enumerate(chosen)]))


def test_without_a_batch(case):
    features, weight, _ = case
    maps = class_activation_map(features, weight, size=9)
    torch.testing.assert_close(class_activation_map(features[1], weight, size=9), maps[1])
    single = class_activation_map(features[1], weight, 3, 9)
    torch.testing.assert_close(single, maps[1, 3])
    one = class_activation_map(features[1], weight, torch.tensor([3]), 9)
    torch.testing.assert_close(one, single)


def test_no_images():
    maps = class_activation_map(torch.ones(0, 2, 3, 3), torch.ones(4, 2), size=8)
    assert maps.shape == (0, 4, 8, 8)


def test_resizing(case):
    features, weight, _ = case
    maps = class_activation_map(features, weight)
    large = class_activation_map(features, weight, size=(12, 18))
    assert large.shape == (3, 7, 12, 18)
    # Pixels as areas: the middle one of each 3 x 3 block is the cell itself.
    torch.testing.assert_close(large[:, :, 1::3, 1::3], maps)
    assert large.max() <= maps.max()
    assert large.min() >= maps.min()
    constant = class_activation_map(torch.ones(2, 3, 3), torch.ones(1, 2), 0, (5, 8))
    torch.testing.assert_close(constant, torch.full((5, 8), 2.0))


def test_gradients(case):
    features, weight, _ = case
    arguments = features.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda f, w: class_activation_map(f, w, 2, (5, 7)), arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept(dtype):
    result = class_activation_map(
        torch.ones(1, 2, 3, 3, dtype=dtype), torch.ones(4, 2, dtype=dtype)
    )
    assert result.dtype == dtype
    assert torch.equal(result, torch.full((1, 4, 3, 3), 2, dtype=dtype))


def test_a_nan_stays_in_its_place():
    features = torch.ones(1, 2, 3, 3)
    features[0, 1, 0, 2] = torch.nan
    maps = class_activation_map(features, torch.ones(4, 2))
    assert maps.isnan().sum() == 4
    assert maps[:, :, 0, 2].isnan().all()


GOOD = torch.zeros(2, 3, 4, 4), torch.zeros(5, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], GOOD[1]), "features must be a tensor, got list"),
        ((GOOD[0][0, 0], GOOD[1]), r"\(N, C, H, W\) or \(C, H, W\), got \(4, 4\)"),
        ((GOOD[0], GOOD[1].T), r"weight must be \(classes, 3\).*got \(3, 5\)"),
        ((GOOD[0], GOOD[1][0]), r"got \(3,\)"),
        ((GOOD[0], GOOD[1][:0]), r"got \(0, 3\)"),
        ((torch.zeros(1, 3, 0, 4), GOOD[1]), r"no cell: \(1, 3, 0, 4\)"),
        ((*GOOD, 5), r"classes must be from 0 to 4, got \[5\]"),
        ((*GOOD, -1), r"from 0 to 4, got \[-1\]"),
        ((*GOOD, True), "got True"),
        ((*GOOD, 1.0), "got 1.0"),
        ((*GOOD, torch.tensor([1, 9])), r"from 0 to 4, got \[1, 9\]"),
        (
            (*GOOD, torch.tensor([1])),
            r"int64 tensor of shape \(2,\), got torch.int64 of shape \(1,\)",
        ),
        ((*GOOD, torch.tensor([1.0, 2.0])), "got torch.float32"),
        ((*GOOD, None, 0), "size must be a positive int, or height and width, got 0"),
        ((*GOOD, None, (2, 3, 4)), r"got \(2, 3, 4\)"),
        ((*GOOD, None, (2, 3.0)), r"got \(2, 3.0\)"),
        ((*GOOD, None, "77"), "got '77'"),
        ((*GOOD, None, True), "got True"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=f"^class_activation_map: .*{message}"):
        class_activation_map(*arguments)


def test_bad_dtypes():
    with pytest.raises(DtypeError, match=r"features must be floating point, got torch\.int64"):
        class_activation_map(GOOD[0].long(), GOOD[1])
    with pytest.raises(DtypeError, match=r"one dtype, got torch\.float32 and torch\.float64"):
        class_activation_map(GOOD[0], GOOD[1].double())


@pytest.mark.parametrize("name", cam.__all__)
def test_example(name):
    thing = getattr(cam, name)
    (found,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs={})
    assert found.examples
    assert doctest.DocTestRunner(verbose=False).run(found).failed == 0
