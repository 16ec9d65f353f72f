"""Modules of the heads that torch lacks, and of the generalised mean."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from .. import functional as F
from ..errors import ArgumentError
from ..functional.gem import check_eps, check_exponent
from ..window import Ints, Padding, as_int, as_ints, check_mode, is_omitted, normalise_padding
from .base import Pool


class _Head(Pool):
    _function: ClassVar[Callable[..., Tensor]]
    _own: ClassVar[tuple[str, ...]] = ("flatten",)
    _constructor: ClassVar[str] = (
        "The constructor takes ``flatten``: whether to give ``(N, C)``, without axes of one cell."
    )
    flatten: bool = False

    def __init__(self, *, flatten: bool = False) -> None:
        super().__init__()
        self.flatten = flatten

    def _flat(self, pooled: Tensor) -> Tensor:
        return pooled.flatten(-self._rank - 1) if self.flatten else pooled

    def forward(self, input: Tensor) -> Tensor:
        return self._flat(self._function(input))


_LEARNED = """``p`` is a parameter if ``learnable``: one number, or one for each of ``channels``.
    If not, it is a number, or a buffer with one for each of ``channels``."""


class _GeM(Pool):
    """What both kinds share: the exponent, learned or not."""

    _function: ClassVar[Callable[..., Tensor]]
    p: float | Tensor
    eps: float = 1e-6

    def _keep(self, p: float, eps: float, learnable: bool, channels: int | None) -> None:
        where = type(self).__name__
        number = check_exponent(where, p)
        if isinstance(number, Tensor):
            raise ArgumentError(f"{where}: p must be a number, got {p!r}")
        if learnable and math.isinf(number):
            raise ArgumentError(f"{where}: a learnable p must be finite, got {p!r}")
        self.eps = check_eps(where, eps)
        size = 1 if channels is None else as_int(where, "channels", channels, 1)
        if learnable:
            self.p = torch.nn.Parameter(torch.full((size,), number))
        elif channels is None:
            self.p = number
        else:
            self.register_buffer("p", torch.full((size,), number))

    def extra_repr(self) -> str:
        if isinstance(self.p, Tensor):
            kind = "learnable" if isinstance(self.p, torch.nn.Parameter) else "fixed"
            shown = f"p={self.p.numel()} {kind}"
        else:
            shown = f"p={self.p!r}"
        return ", ".join(filter(None, (shown, super().extra_repr())))


class _GeMPool(_GeM):
    _own: ClassVar[tuple[str, ...]] = (
        "kernel_size", "stride", "padding", "ceil_mode", "eps", "dilation", "padding_mode",
    )  # fmt: skip
    _constructor: ClassVar[str] = f"The constructor takes these arguments as well: {_LEARNED}"
    padding: Padding = 0
    ceil_mode: bool = False
    dilation: Ints = 1
    padding_mode: str = "zeros"

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        *,
        p: float = 3.0,
        eps: float = 1e-6,
        learnable: bool = True,
        channels: int | None = None,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        where = type(self).__name__
        strides = kernel_size if stride is None or is_omitted(stride) else stride
        given = {"kernel_size": kernel_size, "stride": strides, "dilation": dilation}
        for name, value in given.items():
            as_ints(where, name, value, self._rank, 1)
        normalise_padding(where, padding, self._rank)
        check_mode(where, padding_mode)
        self.kernel_size = kernel_size
        self.stride = strides
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.dilation = dilation
        self.padding_mode = padding_mode
        self._keep(p, eps, learnable, channels)

    def forward(self, input: Tensor) -> Tensor:
        return self._function(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, p=self.p,
            eps=self.eps, dilation=self.dilation, padding_mode=self.padding_mode,
        )  # fmt: skip


class _GlobalGeMPool(_Head, _GeM):
    _own: ClassVar[tuple[str, ...]] = ("eps", "flatten")
    _constructor: ClassVar[str] = (
        f"The constructor takes ``flatten``, whether to give ``(N, C)``, as well: {_LEARNED}"
    )

    def __init__(
        self,
        p: float = 3.0,
        eps: float = 1e-6,
        learnable: bool = True,
        channels: int | None = None,
        *,
        flatten: bool = False,
    ) -> None:
        super().__init__(flatten=flatten)
        self._keep(p, eps, learnable, channels)

    def forward(self, input: Tensor) -> Tensor:
        return self._flat(self._function(input, self.p, self.eps))


# ---- the classes --------------------------------------------------------------------------------


class GeMPool1d(_GeMPool):
    _function = staticmethod(F.gem_pool1d)


class GeMPool2d(_GeMPool):
    _function = staticmethod(F.gem_pool2d)


class GeMPool3d(_GeMPool):
    _function = staticmethod(F.gem_pool3d)


class GlobalGeMPool1d(_GlobalGeMPool):
    _function = staticmethod(F.global_gem_pool1d)


class GlobalGeMPool2d(_GlobalGeMPool):
    _function = staticmethod(F.global_gem_pool2d)


class GlobalGeMPool3d(_GlobalGeMPool):
    _function = staticmethod(F.global_gem_pool3d)


class GlobalAvgMaxPool1d(_Head):
    _function = staticmethod(F.global_avg_max_pool1d)


class GlobalAvgMaxPool2d(_Head):
    _function = staticmethod(F.global_avg_max_pool2d)


class GlobalAvgMaxPool3d(_Head):
    _function = staticmethod(F.global_avg_max_pool3d)


class GlobalCatAvgMaxPool1d(_Head):
    _function = staticmethod(F.global_cat_avg_max_pool1d)


class GlobalCatAvgMaxPool2d(_Head):
    _function = staticmethod(F.global_cat_avg_max_pool2d)


class GlobalCatAvgMaxPool3d(_Head):
    _function = staticmethod(F.global_cat_avg_max_pool3d)
