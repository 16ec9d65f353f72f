"""Pooling modules with the names and arguments of `torch.nn`, computed by `poolkit.functional`.

Each subclasses the stock module: `isinstance(m, torch.nn.MaxPool2d)`, `repr` and state dicts keep
working. Arguments that torch lacks are keyword-only. One mixin per family holds what its three
ranks share; a class at the end of this file only names the stock module and the function.

The defaults of the arguments that torch lacks are attributes of the classes: a stock module that
`poolkit.accelerate` gives one of these classes needs nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import functional as F
from ..functional.graham import size_or_ratio
from ..functional.unpool import check_duplicates
from ..window import Ints, Padding, as_ints, check_mode
from .base import Pool


class _Max(Pool):
    _own: ClassVar[tuple[str, ...]] = ("padding_mode",)
    padding_mode: str = "zeros"

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        dilation: Ints = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(kernel_size, stride, 0, dilation, return_indices, ceil_mode)
        check_mode(type(self).__name__, padding_mode)
        self.padding = self._kept(padding)
        self.padding_mode = padding_mode

    def forward(self, input: Tensor) -> Any:
        return self._function(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode,
            self.return_indices, padding_mode=self.padding_mode,
        )  # fmt: skip


class _Avg(Pool):
    _function: ClassVar[Callable[..., Tensor]]
    _own: ClassVar[tuple[str, ...]] = ("dilation", "padding_mode")
    dilation: Ints = 1
    padding_mode: str = "zeros"

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(kernel_size, stride, 0, ceil_mode, count_include_pad)
        check_mode(type(self).__name__, padding_mode)
        self.padding = self._kept(padding)
        self.divisor_override = divisor_override
        self.dilation = dilation
        self.padding_mode = padding_mode

    def forward(self, input: Tensor) -> Tensor:
        return self._function(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
            self.count_include_pad, divisor_override=self.divisor_override,
            dilation=self.dilation, padding_mode=self.padding_mode,
        )  # fmt: skip


class _Avg1d(_Avg):
    _own: ClassVar[tuple[str, ...]] = ("divisor_override", "dilation", "padding_mode")
    divisor_override: int | None = None

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        divisor_override: int | None = None,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(
            kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override,
            dilation=dilation, padding_mode=padding_mode,
        )  # fmt: skip


class _LP(Pool):
    _function: ClassVar[Callable[..., Tensor]]
    _own: ClassVar[tuple[str, ...]] = ("padding", "dilation", "absolute", "padding_mode")
    padding = 0
    dilation: Ints = 1
    absolute: bool = False
    padding_mode: str = "zeros"

    def __init__(
        self,
        norm_type: float,
        kernel_size: Ints,
        stride: Ints | None = None,
        ceil_mode: bool = False,
        *,
        padding: Padding = 0,
        dilation: Ints = 1,
        absolute: bool = False,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(norm_type, kernel_size, stride, ceil_mode)
        check_mode(type(self).__name__, padding_mode)
        self.padding = self._kept(padding)
        self.dilation = dilation
        self.absolute = absolute
        self.padding_mode = padding_mode

    def forward(self, input: Tensor) -> Tensor:
        return self._function(
            input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode,
            padding=self.padding, dilation=self.dilation, absolute=self.absolute,
            padding_mode=self.padding_mode,
        )  # fmt: skip


class _AdaptiveMax(Pool):
    def forward(self, input: Tensor) -> Any:
        return self._function(input, self.output_size, self.return_indices)


class _AdaptiveAvg(Pool):
    _function: ClassVar[Callable[..., Tensor]]

    def forward(self, input: Tensor) -> Tensor:
        return self._function(input, self.output_size)


class _Global(Pool):
    _function: ClassVar[Callable[..., Tensor]]
    _own: ClassVar[tuple[str, ...]] = ("flatten",)
    flatten: bool = False

    def __init__(self, *, flatten: bool = False) -> None:
        super().__init__(1)
        self.flatten = flatten

    def forward(self, input: Tensor) -> Tensor:
        pooled = self._function(input)
        return pooled.flatten(-self._rank - 1) if self.flatten else pooled


class _Unpool(Pool):
    _function: ClassVar[Callable[..., Tensor]]
    _own: ClassVar[tuple[str, ...]] = ("duplicates",)
    duplicates: str = "last"

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        *,
        duplicates: str = "last",
    ) -> None:
        super().__init__(kernel_size, stride, 0)
        check_duplicates(type(self).__name__, duplicates)
        self.padding = self._kept(padding)
        self.duplicates = duplicates

    def forward(
        self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        return self._function(
            input, indices, self.kernel_size, self.stride, self.padding, output_size,
            duplicates=self.duplicates,
        )  # fmt: skip


class _Fractional(Pool):
    generator: torch.Generator | None = None

    def __init__(
        self,
        kernel_size: Ints,
        output_size: Ints | None,
        output_ratio: float | Sequence[float] | None,
        return_indices: bool,
        samples: Tensor | None,
        generator: torch.Generator | None,
    ) -> None:
        # Checked first: torch's constructors check less, and raise other exceptions.
        where, rank = type(self).__name__, self._rank
        kernels = as_ints(where, "kernel_size", kernel_size, rank, 1)
        sizes, ratios = size_or_ratio(where, rank, output_size, output_ratio)
        super().__init__(kernels, sizes, ratios, return_indices, samples)
        self.generator = generator


class _FractionalMax(_Fractional):
    def __init__(
        self,
        kernel_size: Ints,
        output_size: Ints | None = None,
        output_ratio: float | Sequence[float] | None = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            kernel_size, output_size, output_ratio, return_indices, _random_samples, generator
        )

    def forward(self, input: Tensor) -> Any:
        return self._function(
            input, self.kernel_size, self.output_size, self.output_ratio, self.return_indices,
            self._random_samples, generator=self.generator,
        )  # fmt: skip


class _FractionalAvg(_Fractional):
    _function: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        kernel_size: Ints,
        output_size: Ints | None = None,
        output_ratio: float | Sequence[float] | None = None,
        _random_samples: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(kernel_size, output_size, output_ratio, False, _random_samples, generator)

    def forward(self, input: Tensor) -> Tensor:
        return self._function(
            input, self.kernel_size, self.output_size, self.output_ratio, self._random_samples,
            generator=self.generator,
        )  # fmt: skip


class _FractionalStock(torch.nn.Module):
    """What `torch.nn.FractionalMaxPool2d` is, for the modules that torch lacks."""

    def __init__(
        self,
        kernel_size: tuple[int, ...],
        output_size: tuple[int, ...] | None,
        output_ratio: tuple[float, ...] | None,
        return_indices: bool,
        _random_samples: Tensor | None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.output_size = output_size
        self.output_ratio = output_ratio
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)


# ---- the classes --------------------------------------------------------------------------------


class MaxPool1d(_Max, torch.nn.MaxPool1d):
    _function = staticmethod(F.max_pool1d)


class MaxPool2d(_Max, torch.nn.MaxPool2d):
    _function = staticmethod(F.max_pool2d)


class MaxPool3d(_Max, torch.nn.MaxPool3d):
    _function = staticmethod(F.max_pool3d)


class AvgPool1d(_Avg1d, torch.nn.AvgPool1d):
    _function = staticmethod(F.avg_pool1d)


class AvgPool2d(_Avg, torch.nn.AvgPool2d):
    _function = staticmethod(F.avg_pool2d)


class AvgPool3d(_Avg, torch.nn.AvgPool3d):
    _function = staticmethod(F.avg_pool3d)


class LPPool1d(_LP, torch.nn.LPPool1d):
    _function = staticmethod(F.lp_pool1d)


class LPPool2d(_LP, torch.nn.LPPool2d):
    _function = staticmethod(F.lp_pool2d)


class LPPool3d(_LP, torch.nn.LPPool3d):
    _function = staticmethod(F.lp_pool3d)


class AdaptiveMaxPool1d(_AdaptiveMax, torch.nn.AdaptiveMaxPool1d):
    _function = staticmethod(F.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMax, torch.nn.AdaptiveMaxPool2d):
    _function = staticmethod(F.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMax, torch.nn.AdaptiveMaxPool3d):
    _function = staticmethod(F.adaptive_max_pool3d)


class AdaptiveAvgPool1d(_AdaptiveAvg, torch.nn.AdaptiveAvgPool1d):
    _function = staticmethod(F.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvg, torch.nn.AdaptiveAvgPool2d):
    _function = staticmethod(F.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvg, torch.nn.AdaptiveAvgPool3d):
    _function = staticmethod(F.adaptive_avg_pool3d)


class GlobalMaxPool1d(_Global, torch.nn.AdaptiveMaxPool1d):
    _function = staticmethod(F.global_max_pool1d)


class GlobalMaxPool2d(_Global, torch.nn.AdaptiveMaxPool2d):
    _function = staticmethod(F.global_max_pool2d)


class GlobalMaxPool3d(_Global, torch.nn.AdaptiveMaxPool3d):
    _function = staticmethod(F.global_max_pool3d)


class GlobalAvgPool1d(_Global, torch.nn.AdaptiveAvgPool1d):
    _function = staticmethod(F.global_avg_pool1d)


class GlobalAvgPool2d(_Global, torch.nn.AdaptiveAvgPool2d):
    _function = staticmethod(F.global_avg_pool2d)


class GlobalAvgPool3d(_Global, torch.nn.AdaptiveAvgPool3d):
    _function = staticmethod(F.global_avg_pool3d)


class MaxUnpool1d(_Unpool, torch.nn.MaxUnpool1d):
    _function = staticmethod(F.max_unpool1d)


class MaxUnpool2d(_Unpool, torch.nn.MaxUnpool2d):
    _function = staticmethod(F.max_unpool2d)


class MaxUnpool3d(_Unpool, torch.nn.MaxUnpool3d):
    _function = staticmethod(F.max_unpool3d)


class FractionalMaxPool1d(_FractionalMax, _FractionalStock):
    _function = staticmethod(F.fractional_max_pool1d)


class FractionalMaxPool2d(_FractionalMax, torch.nn.FractionalMaxPool2d):
    _function = staticmethod(F.fractional_max_pool2d)


class FractionalMaxPool3d(_FractionalMax, torch.nn.FractionalMaxPool3d):
    _function = staticmethod(F.fractional_max_pool3d)


class FractionalAvgPool1d(_FractionalAvg, _FractionalStock):
    _function = staticmethod(F.fractional_avg_pool1d)


class FractionalAvgPool2d(_FractionalAvg, _FractionalStock):
    _function = staticmethod(F.fractional_avg_pool2d)


class FractionalAvgPool3d(_FractionalAvg, _FractionalStock):
    _function = staticmethod(F.fractional_avg_pool3d)


__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "FractionalAvgPool1d",
    "FractionalAvgPool2d",
    "FractionalAvgPool3d",
    "FractionalMaxPool1d",
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "GlobalAvgPool1d",
    "GlobalAvgPool2d",
    "GlobalAvgPool3d",
    "GlobalMaxPool1d",
    "GlobalMaxPool2d",
    "GlobalMaxPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
]
