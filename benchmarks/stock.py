"""The functions of `torch.nn.functional`, and what is made of them where torch has none."""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def __getattr__(name: str) -> Any:
    return getattr(F, name)


def blur_pool2d(input: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Padding and a convolution of every channel by itself, as antialiased networks have it."""
    channels, pads = input.shape[1], ((kernel_size - 1) // 2, kernel_size // 2)
    weights = _weights(channels, kernel_size, input.dtype, input.device)
    return F.conv2d(F.pad(input, pads * 2, "reflect"), weights, stride=stride, groups=channels)


def max_blur_pool2d(input: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Torch's maximum of stride 1, and the blur of that."""
    return blur_pool2d(F.max_pool2d(input, kernel_size, 1), 3, stride)


@functools.cache
def _weights(channels: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        row = torch.tensor([math.comb(size - 1, i) for i in range(size)], device=device).double()
        weights = (row[:, None] * row / 4 ** (size - 1)).to(dtype)
        return weights.expand(channels, 1, size, size).contiguous()
