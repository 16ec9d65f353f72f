"""Modules of anti-aliased downsampling, computed by `poolkit.functional`."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import functional as F
from ..functional.blur import Filters, kernels_of
from ..window import Ints, Padding, as_ints, check_mode, normalise_padding
from .base import Pool


class _Blurring(Pool):
    """What both kinds share: the filter, and what is checked before any input is there."""

    _function: ClassVar[Callable[..., Tensor]]
    _size: ClassVar[str]  # the argument that is the filter's length
    filter: Any

    def _keep(self, size: Ints, stride: Ints, padding_mode: str, filter: Filters | None) -> None:
        where = type(self).__name__
        _, given = kernels_of(where, self._rank, self._size, size, filter)
        as_ints(where, "stride", stride, self._rank, 1)
        check_mode(where, padding_mode)
        self.stride = stride
        self.padding_mode = padding_mode
        # Numbers: a weight that shall be learned is the business of `poolkit.functional`.
        self.filter = given and tuple([_numbers(weights) for weights in given])

    def _shown(self, *names: str) -> str:
        # A given filter has its own length.
        names = (*names, self._size if self.filter is None else "filter", "padding_mode")
        return ", ".join([f"{name}={getattr(self, name)!r}" for name in names])


def _numbers(weights: Any) -> tuple[float, ...]:
    return tuple(weights.tolist() if isinstance(weights, Tensor) else weights)


class _Blur(_Blurring, torch.nn.Module):
    _size: ClassVar[str] = "kernel_size"

    def __init__(
        self,
        kernel_size: Ints = 3,
        stride: Ints = 2,
        padding: Padding | None = None,
        *,
        padding_mode: str = "reflect",
        filter: Filters | None = None,
    ) -> None:
        super().__init__()
        self._keep(kernel_size, stride, padding_mode, filter)
        if padding is not None:
            normalise_padding(type(self).__name__, padding, self._rank)
        self.kernel_size = kernel_size
        self.padding = padding

    def forward(self, input: Tensor) -> Tensor:
        return self._function(
            input, self.kernel_size, self.stride, self.padding, padding_mode=self.padding_mode,
            filter=self.filter,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return self._shown("stride", "padding")


class _MaxBlur(_Blurring, torch.nn.Module):
    _size: ClassVar[str] = "blur"

    def __init__(
        self,
        kernel_size: Ints = 2,
        stride: Ints = 2,
        padding: Padding = 0,
        *,
        blur: Ints = 3,
        padding_mode: str = "reflect",
        filter: Filters | None = None,
    ) -> None:
        super().__init__()
        self._keep(blur, stride, padding_mode, filter)
        as_ints(type(self).__name__, "kernel_size", kernel_size, self._rank, 1)
        normalise_padding(type(self).__name__, padding, self._rank)
        self.kernel_size = kernel_size
        self.padding = padding
        self.blur = blur

    def forward(self, input: Tensor) -> Tensor:
        return self._function(
            input, self.kernel_size, self.stride, self.padding, blur=self.blur,
            padding_mode=self.padding_mode, filter=self.filter,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return self._shown("kernel_size", "stride", "padding")


# ---- the classes --------------------------------------------------------------------------------


class BlurPool1d(_Blur):
    _function = staticmethod(F.blur_pool1d)


class BlurPool2d(_Blur):
    _function = staticmethod(F.blur_pool2d)


class BlurPool3d(_Blur):
    _function = staticmethod(F.blur_pool3d)


class MaxBlurPool1d(_MaxBlur):
    _function = staticmethod(F.max_blur_pool1d)


class MaxBlurPool2d(_MaxBlur):
    _function = staticmethod(F.max_blur_pool2d)


class MaxBlurPool3d(_MaxBlur):
    _function = staticmethod(F.max_blur_pool3d)
