"""Convolutions that shrink: with a stride in place of a pool, and with a pool in front."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..functional.common import Padded, fixed
from ..window import (
    Ints,
    Padding,
    as_int,
    as_ints,
    check_mode,
    is_omitted,
    is_sequence,
    normalise_padding,
    overhang,
)
from .pooling import AvgPool2d

_DOC = """Convolution with a stride, in place of a pool and with its interface (All-CNN).

    .. math:: y_{o, i} = b_o + \\sum_{c} \\sum_{m \\in R_i} w_{o, c, m} x_{c, m}

    With the same ``kernel_size``, ``stride``, ``padding``, ``dilation`` and ``ceil_mode`` the
    output has the size that ``MaxPool{n}d`` gives it. It is a ``torch.nn.Conv{n}d``, weights and
    their names too.

    Args:
        channels: those of the input.
        kernel_size: cells of a window per axis.
        stride: step from window to window; default ``kernel_size``.
        padding: as the pools take it: an int, one per axis, one ``(before, after)`` pair per axis,
            ``"valid"``, ``"same"`` or ``"same_lower"``.
        dilation: step between the cells of a window.
        ceil_mode: also keep a last window that hangs over the end; beyond it are zeros.
        out_channels: those of the output; default ``channels``.
        groups: as in ``torch.nn.Conv{n}d``, or ``"depthwise"``: one per input channel.
        bias: whether to add one.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: of the weights.
        dtype: of the weights.

    Shapes:
        ``(N, channels, {cells}) -> (N, out_channels, {out})``, with or without ``N``, sizes as in
        ``max_pool{n}d``.

    Dtypes:
        what ``torch.nn.functional.conv{n}d`` takes.

    Raises:
        ArgumentError: a size, shape or option that cannot be; it names the argument.

    Example:
        >>> import torch, poolkit
        >>> conv, pool = poolkit.nn.StridedConv{n}d(4), poolkit.nn.MaxPool{n}d(2)
        >>> x = torch.rand(1, 4, {sizes})
        >>> conv(x).shape == pool(x).shape
        True

    Source: Springenberg et al., "Striving for Simplicity: The All Convolutional Net", 2015,
    arXiv:1412.6806.
    """

_FILL = {
    1: {"{n}": "1", "{cells}": "L", "{out}": "L'", "{sizes}": "4"},
    2: {"{n}": "2", "{cells}": "H, W", "{out}": "H', W'", "{sizes}": "4, 6"},
    3: {"{n}": "3", "{cells}": "D, H, W", "{out}": "D', H', W'", "{sizes}": "4, 6, 8"},
}


class _StridedConv(torch.nn.Module):
    _rank: ClassVar[int]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding: Any  # wider than any stock class has it
    padding_mode: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__module__ = __package__  # what users import and pickles name
        cls._rank, text = int(cls.__name__[-2]), _DOC
        for name, value in _FILL[cls._rank].items():
            text = text.replace(name, value)
        cls.__doc__ = text

    def __init__(
        self,
        channels: int,
        kernel_size: Ints = 2,
        stride: Ints | None = None,
        padding: Padding = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        *,
        out_channels: int | None = None,
        groups: int | Literal["depthwise"] = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        where, rank = type(self).__name__, self._rank
        inputs = as_int(where, "channels", channels, 1)
        outputs = inputs if out_channels is None else as_int(where, "out_channels", out_channels, 1)
        count = inputs if groups == "depthwise" else as_int(where, "groups", groups, 1)
        if inputs % count or outputs % count:
            raise ArgumentError(
                f"{where}: groups must divide the {inputs} channels and the {outputs} "
                f"out_channels, got {groups!r}"
            )
        kernels = as_ints(where, "kernel_size", kernel_size, rank, 1)
        strides = kernels if is_omitted(stride) else as_ints(where, "stride", stride, rank, 1)
        dilations = as_ints(where, "dilation", dilation, rank, 1)
        normalise_padding(where, padding, rank)
        check_mode(where, padding_mode)
        if not isinstance(ceil_mode, bool):
            raise ArgumentError(f"{where}: ceil_mode must be a bool, got {ceil_mode!r}")
        super().__init__(
            inputs, outputs, kernels, strides, 0, dilations, count, bias, device=device, dtype=dtype
        )
        # As torch keeps it: its own constructor would not take the pairs.
        self.padding = (
            padding if isinstance(padding, str) or is_sequence(padding) else ((padding,) * rank)
        )
        self.padding_mode = padding_mode
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        x, where, rank, padding = input, type(self).__name__, self._rank, self.padding
        kernels, strides, dilations = self.kernel_size, self.stride, self.dilation
        if self.padding_mode != "zeros":
            window = fixed(where, rank, x, kernels, strides, padding, dilations, self.ceil_mode,
                           False)  # fmt: skip
            x, padding = Padded(where, rank, x, window, self.padding_mode).x, 0
        window = fixed(where, rank, x, kernels, strides, padding, dilations, self.ceil_mode, False)
        pads = [(axis.before, max(overhang(axis), 0)) for axis in window.axes]
        amount = tuple([before for before, _ in pads])
        if any(before != after for before, after in pads):
            x = torch.nn.functional.pad(x, [n for pair in reversed(pads) for n in pair])
            amount = (0,) * rank
        convolve = getattr(torch.nn.functional, f"conv{rank}d")
        y: Tensor = convolve(x, self.weight, self.bias, strides, amount, dilations, self.groups)
        return y

    def extra_repr(self) -> str:
        stock = super().extra_repr()
        return f"{stock}, ceil_mode=True" if self.ceil_mode else stock


class StridedConv1d(_StridedConv, torch.nn.Conv1d):
    pass


class StridedConv2d(_StridedConv, torch.nn.Conv2d):
    pass


class StridedConv3d(_StridedConv, torch.nn.Conv3d):
    pass


class ResNetDShortcut(torch.nn.Sequential):
    r"""The shortcut of ResNet-D where a map shrinks: an average, then a 1 x 1 convolution.

    .. math:: y = \operatorname{BN}(W \operatorname{mean}_{m \in R_i} x_m)

    A 1 x 1 convolution with stride 2 drops three quarters of its input unread; this reads all of
    it, odd maps too: the last windows hang over the end, and only real cells count.

    Args:
        in_channels: those of the input.
        out_channels: those of the output.
        stride: by how much the map shrinks: an int or one per axis; 1 averages nothing.
        norm: whether to end with batch normalisation.

    Shapes:
        ``(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))``.

    Dtypes:
        what the convolution takes.

    State dict:
        ``1.weight`` is the convolution's, which has no bias; ``2`` is the normalisation.

    Raises:
        ArgumentError: a number of channels or a stride that cannot be.

    Example:
        >>> import torch, poolkit
        >>> poolkit.nn.ResNetDShortcut(8, 16)(torch.zeros(1, 8, 7, 7)).shape
        torch.Size([1, 16, 4, 4])

    Source: He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks",
    2018, arXiv:1812.01187.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: Ints = 2, *, norm: bool = True
    ) -> None:
        where = type(self).__name__
        inputs = as_int(where, "in_channels", in_channels, 1)
        outputs = as_int(where, "out_channels", out_channels, 1)
        pool: torch.nn.Module = torch.nn.Identity()
        if max(as_ints(where, "stride", stride, 2, 1)) > 1:
            pool = AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
        layers = [pool, torch.nn.Conv2d(inputs, outputs, 1, bias=False)]
        super().__init__(*layers, *([torch.nn.BatchNorm2d(outputs)] if norm else []))


ResNetDShortcut.__module__ = __name__.rpartition(".")[0]  # what users import and pickles name
