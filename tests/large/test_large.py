"""Tensors beyond 2^31 elements, in one plane and in all: no 32-bit index anywhere."""

import pytest
import torch

import poolkit.functional as F

pytestmark = pytest.mark.large

BEYOND = 2**31 + 1024  # a multiple of 1024: no cell is left over


def test_max_of_one_long_row():
    """The maximum behind element 2^31 is found, with its index."""
    x = torch.zeros(1, 1, BEYOND, dtype=torch.int8)
    x[0, 0, BEYOND - 7] = 5
    values, indices = F.max_pool1d(x, 1024, return_indices=True)
    assert values.sum() == 5
    assert indices[values == 5].item() == BEYOND - 7
    assert F.global_max_pool1d(x).item() == 5
    assert F.adaptive_max_pool1d(x, 3)[0, 0].tolist() == [0, 0, 5]


def test_offsets_of_a_huge_window():
    """An offset beyond 2^16 taps is kept in 32 bits."""
    x = torch.zeros(1, 1, BEYOND, dtype=torch.uint8)
    x[0, 0, 70_000] = 1
    _, indices = F.max_pool1d(x, 2**20, return_indices=True)
    assert indices[0, 0, 0].item() == 70_000


def test_offsets_beyond_32_bits():
    """The window of a whole plane has more taps than an int32 can number."""
    x = torch.zeros(1, 1, 50_000, 50_000, dtype=torch.int8)
    x[0, 0, -1, -3] = 7
    value, index = F.adaptive_max_pool2d(x, 1, return_indices=True)
    assert value.item() == 7
    assert index.item() == x.numel() - 3


def test_plane_beyond_32_bits():
    """One plane of more than 2^31 cells, in two dimensions."""
    x = torch.zeros(1, 1, 70_000, 35_000, dtype=torch.int8)
    x[0, 0, -1, -1] = 3
    values, indices = F.max_pool2d(x, 100, return_indices=True)
    assert values[0, 0, -1, -1].item() == 3
    assert indices[0, 0, -1, -1].item() == x.numel() - 1


def test_many_planes():
    """More than 2^31 elements in all, forward and backward, both layouts."""
    x = torch.zeros(33, 64, 1024, 1024, dtype=torch.bfloat16)
    x[-1, -1, -1, -1] = 8
    assert F.avg_pool2d(x, 2)[-1, -1, -1, -1].item() == 2
    x.requires_grad_()
    y = F.max_pool2d(x, 2)
    y.backward(torch.ones((), dtype=y.dtype).expand_as(y))
    assert x.grad[-1, -1, -1, -1].item() == 1
    assert x.grad[-1, -1, -1, -2].item() == 0
    del y, x


def test_channels_last_beyond_32_bits():
    """The same in channels-last memory."""
    x = torch.zeros(2, 1100, 1024, 1024, dtype=torch.int8)
    x = x.contiguous(memory_format=torch.channels_last)
    x[-1, -1, -1, -1] = 9
    y = F.max_pool2d(x, 4)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y[-1, -1, -1, -1].item() == 9
    assert y.sum(dtype=torch.int64).item() == 9
