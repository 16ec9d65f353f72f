"""What tests of the raw operators expect of maxima: the bits of the reference."""

import torch
from torch import Tensor

from poolkit import reference
from poolkit.testing import assert_bit_equal
from poolkit.window import Window


def assert_maxima(x: Tensor, w: Window) -> None:
    """Both operators give the reference's values, and one its offsets."""
    values, offsets = torch.ops.poolkit.max_pool_offsets(x, w.packed)
    expected_values, expected_offsets = reference.max_pool(x, w)
    assert_bit_equal(torch.ops.poolkit.max_pool(x, w.packed), expected_values)
    assert_bit_equal(values, expected_values)
    assert_bit_equal(offsets.long(), expected_offsets.long(), "offsets")
