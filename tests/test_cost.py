"""What a stage costs, against torch's own counter, real modules and brute force."""

import doctest
import math

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

import poolkit.functional as F
from poolkit import ArgumentError, cost

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = ((2, 4, 13), (2, 4, 11, 14), (2, 4, 7, 6, 9))
CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
OPTIONS = (
    {"kernel_size": 3},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 2, "stride": 3, "dilation": 2, "bias": False},
    {"kernel_size": 3, "padding": 2, "groups": 2},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": 5, "padding": "valid", "groups": 4, "bias": False},
)


def saved(stage, x, parameters=()):
    """Bytes of the distinct tensors that autograd keeps, parameters left out."""
    own, kept = {p.data_ptr() for p in parameters}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = stage(x.clone().requires_grad_())
    del result
    return sum(kept.values())


def multiply_adds(stage, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        stage(x)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


# ---- Against torch ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_conv(shape, options):
    layer = CONVOLUTIONS[len(shape) - 3](shape[1], 8, **options)
    x = torch.randn(shape)
    found = cost.conv(shape, 8, **options)
    y = layer(x)
    assert found.output_shape == y.shape
    assert found.multiply_adds == multiply_adds(layer, x) > 0
    assert found.additions == (y.numel() if options.get("bias", True) else 0)
    assert found.parameters == sum(p.numel() for p in layer.parameters())
    assert (found.input_bytes, found.output_bytes) == (x.nbytes, y.nbytes)
    kept = saved(layer, x, layer.parameters())
    assert found.saved_bytes == found.saved_bytes_torch == kept


@pytest.mark.parametrize("shape", [(9,), (5, 9), (2, 5, 9), (0, 9)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias):
    layer = torch.nn.Linear(9, 4, bias=bias)
    x = torch.randn(shape)
    found = cost.linear(shape, 4, bias)
    y = layer(x)
    assert found.output_shape == y.shape
    assert found.multiply_adds == x.numel() * 4
    if len(shape) > 1:  # torch's counter has no formula for a single vector
        assert found.multiply_adds == multiply_adds(layer, x)
    assert found.additions == (y.numel() if bias else 0)
    assert found.parameters == sum(p.numel() for p in layer.parameters())
    assert (found.input_bytes, found.output_bytes) == (x.nbytes, y.nbytes)
    assert found.saved_bytes == found.saved_bytes_torch == saved(layer, x, layer.parameters())


def test_relu():
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    found = cost.relu(x.shape, dtype=x.dtype)
    assert found.output_shape == x.shape
    assert found.comparisons == x.numel()
    assert found.saved_bytes == found.saved_bytes_torch == saved(torch.relu, x) == x.nbytes


POOLS = (
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True},
)


def check_bytes(found, name, x, *args, **options):
    """Output shape and bytes of both libraries, by running them."""
    ours, stock = getattr(F, name), getattr(torch.nn.functional, name)
    y = ours(x, *args, **options)
    assert found.output_shape == y.shape == stock(x, *args, **options).shape
    assert (found.input_bytes, found.output_bytes) == (x.nbytes, y.nbytes)
    assert found.saved_bytes == saved(lambda x: ours(x, *args, **options), x)
    assert found.saved_bytes_torch == saved(lambda x: stock(x, *args, **options), x)
    assert found.parameters == found.multiply_adds == 0


def joins(y):
    """How often two values became one in windows whose numbers of cells are ``y``."""
    return int((y - 1).clamp(min=0).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", POOLS, ids=str)
def test_fixed_pooling(shape, options, dtype):
    rank, x = len(shape) - 2, torch.randn(shape, dtype=dtype)
    sums = getattr(F, f"avg_pool{rank}d")(torch.ones(shape), **options, divisor_override=1)
    most = cost.max_pool(shape, **options, dtype=dtype)
    check_bytes(most, f"max_pool{rank}d", x, **options)
    assert (most.comparisons, most.additions, most.divisions) == (joins(sums), 0, 0)
    mean = cost.avg_pool(shape, **options, dtype=dtype)
    check_bytes(mean, f"avg_pool{rank}d", x, **options)
    assert (mean.comparisons, mean.additions) == (0, joins(sums))
    assert mean.divisions == math.prod(mean.output_shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [1, 3, 5, None], ids=str)
def test_adaptive_pooling(shape, size):
    rank, x = len(shape) - 2, torch.randn(shape)
    sizes = [extent if size is None else size for extent in shape[2:]]  # torch has no None in 1-D
    lengths = []  # of the windows of each axis: the cells of which torch's mean has a share
    for extent, out in zip(shape[2:], sizes, strict=True):
        shares = torch.nn.functional.adaptive_avg_pool1d(torch.eye(extent)[None], out)[0]
        lengths.append((shares > 0).sum(0))
    cells = lengths[0]
    for length in lengths[1:]:
        cells = cells[..., None] * length
    expected = joins(cells) * shape[0] * shape[1]
    most = cost.adaptive_max_pool(shape, size)
    check_bytes(most, f"adaptive_max_pool{rank}d", x, sizes)
    assert most.comparisons == expected
    mean = cost.adaptive_avg_pool(shape, size)
    check_bytes(mean, f"adaptive_avg_pool{rank}d", x, sizes)
    assert (mean.additions, mean.divisions) == (expected, math.prod(mean.output_shape))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2, "padding": "same"},
        {"kernel_size": 2, "stride": 1, "padding": ((1, 0),), "dilation": 3},
        {"kernel_size": 2, "stride": 5, "padding": 4, "dilation": 9},
        {"kernel_size": 2, "stride": 2, "padding": 3},  # windows of padding alone
    ],
    ids=str,
)
def test_pooling_beyond_torch(options):
    shape = (2, 3, 8, 11)
    sums = F.avg_pool2d(torch.ones(shape), **options, divisor_override=1)
    assert cost.avg_pool(shape, **options).additions == joins(sums)
    assert cost.avg_pool(shape, **options).output_shape == sums.shape
    if (sums > 0).all():
        assert cost.max_pool(shape, **options).comparisons == joins(sums)


def test_windows_of_many_cells_need_wider_offsets():
    for side, width in ((16, 1), (17, 2), (257, 4)):
        found = cost.adaptive_max_pool((1, 2, side, side), 1)
        assert found.saved_bytes == 2 * width


# ---- The numbers of the text --------------------------------------------------------------------


def test_numbers_of_the_text():
    one = cost.conv((1, 256, 56, 56), 1, 3, padding=1, bias=False)
    assert one.multiply_adds == 7_225_344
    assert one.multiply_adds // math.prod(one.output_shape) == one.parameters == 2_304
    half = cost.conv((1, 256, 28, 28), 1, 3, padding=1, bias=False)
    assert one.multiply_adds == 4 * half.multiply_adds
    assert cost.linear((1, 25_088), 4_096, bias=False).parameters == 102_760_448
    assert cost.linear((1, 512), 1_000, bias=False).parameters == 512_000
    assert cost.adaptive_avg_pool((32, 512, 7, 7), 1).output_shape == (32, 512, 1, 1)


# ---- Refusals and documentation -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "mention"),
    [
        (lambda: cost.conv((256, 56, 56, 1, 1, 1), 1, 3), "input_shape"),
        (lambda: cost.conv((256, 56), 1, 3), "input_shape"),
        (lambda: cost.conv(56, 1, 3), "input_shape"),
        (lambda: cost.conv((1, 256, -56, 56), 1, 3), "-56"),
        (lambda: cost.conv((1, 256, 56.0, 56), 1, 3), "56.0"),
        (lambda: cost.conv((1, 256, 0, 56), 1, 3), "0, 56"),
        (lambda: cost.conv((1, 256, 2, 2), 1, 3), "output size"),
        (lambda: cost.conv((1, 6, 8, 8), 9, 3, groups=2), "groups"),
        (lambda: cost.conv((1, 6, 8, 8), 8, 3, groups=4), "groups"),
        (lambda: cost.conv((1, 6, 8, 8), 0, 3), "out_channels"),
        (lambda: cost.conv((1, 6, 8, 8), 8, 3, dtype="float32"), "dtype"),
        (lambda: cost.linear((1, 0), 4), "in_features"),
        (lambda: cost.linear((), 4), "in_features"),
        (lambda: cost.linear((1, 4), -4), "out_features"),
        (lambda: cost.relu(None), "input_shape"),
        (lambda: cost.max_pool((1, 6, 8, 8), 0), "kernel_size"),
        (lambda: cost.max_pool((1, 6, 8, 8), 2, padding=3), "holds no cell"),
        (lambda: cost.avg_pool((1, 6, 8, 8), 2, stride=0), "stride"),
        (lambda: cost.adaptive_max_pool((1, 6, 8, 8), -1), "output_size"),
        (lambda: cost.adaptive_avg_pool((1, 6, 8, 8), (1, 2, 3)), "output_size"),
    ],
)
def test_refusals(call, mention):
    with pytest.raises(ArgumentError, match=mention):
        call()


@pytest.mark.parametrize("name", cost.__all__)
def test_examples(name):
    (found,) = doctest.DocTestFinder(recurse=False).find(getattr(cost, name), name, globs={})
    assert found.examples
    assert doctest.DocTestRunner(verbose=False).run(found).failed == 0
