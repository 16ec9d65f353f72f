"""Modules of polyphase sampling, and of the moves between cells and channels."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from .. import functional as F
from ..functional.lp import exponent
from ..window import Ints, as_ints
from .base import Pool


class _PolyphasePool(Pool):
    _own: ClassVar[tuple[str, ...]] = ("stride", "norm_type", "return_phase")
    _constructor: ClassVar[str] = (
        "The constructor takes ``stride``, ``norm_type`` and ``return_phase``; the call ``input``\n"
        "    and ``phase``: branches that are to be added up later have to keep one phase."
    )
    return_phase: bool = False

    def __init__(
        self, stride: Ints = 2, norm_type: float = 2.0, *, return_phase: bool = False
    ) -> None:
        super().__init__()
        where = type(self).__name__
        as_ints(where, "stride", stride, self._rank, 1)
        self.stride = stride
        self.norm_type = exponent(where, norm_type, positive=True)
        self.return_phase = return_phase

    def forward(self, input: Tensor, phase: Tensor | None = None) -> Any:
        return self._function(
            input, self.stride, norm_type=self.norm_type, phase=phase,
            return_phase=self.return_phase,
        )  # fmt: skip


class _PolyphaseUnpool(Pool):
    _function: ClassVar[Callable[..., Tensor]]
    _own: ClassVar[tuple[str, ...]] = ("stride",)
    _constructor: ClassVar[str] = (
        "The constructor takes ``stride``; the call ``input``, ``phase`` and ``output_size``."
    )

    def __init__(self, stride: Ints = 2) -> None:
        super().__init__()
        as_ints(type(self).__name__, "stride", stride, self._rank, 1)
        self.stride = stride

    def forward(self, input: Tensor, phase: Tensor, output_size: Ints | None = None) -> Tensor:
        return self._function(input, phase, self.stride, output_size)


class _Blocks(Pool):
    _function: ClassVar[Callable[..., Tensor]]
    _own: ClassVar[tuple[str, ...]] = ("block_size",)
    _constructor: ClassVar[str] = "The constructor takes ``block_size``."

    def __init__(self, block_size: Ints = 2) -> None:
        super().__init__()
        as_ints(type(self).__name__, "block_size", block_size, self._rank, 1)
        self.block_size = block_size

    def forward(self, input: Tensor) -> Tensor:
        return self._function(input, self.block_size)


# ---- the classes --------------------------------------------------------------------------------


class PolyphasePool1d(_PolyphasePool):
    _function = staticmethod(F.polyphase_pool1d)


class PolyphasePool2d(_PolyphasePool):
    _function = staticmethod(F.polyphase_pool2d)


class PolyphasePool3d(_PolyphasePool):
    _function = staticmethod(F.polyphase_pool3d)


class PolyphaseUnpool1d(_PolyphaseUnpool):
    _function = staticmethod(F.polyphase_unpool1d)


class PolyphaseUnpool2d(_PolyphaseUnpool):
    _function = staticmethod(F.polyphase_unpool2d)


class PolyphaseUnpool3d(_PolyphaseUnpool):
    _function = staticmethod(F.polyphase_unpool3d)


class SpaceToDepth1d(_Blocks):
    _function = staticmethod(F.space_to_depth1d)


class SpaceToDepth2d(_Blocks):
    _function = staticmethod(F.space_to_depth2d)


class SpaceToDepth3d(_Blocks):
    _function = staticmethod(F.space_to_depth3d)


class DepthToSpace1d(_Blocks):
    _function = staticmethod(F.depth_to_space1d)


class DepthToSpace2d(_Blocks):
    _function = staticmethod(F.depth_to_space2d)


class DepthToSpace3d(_Blocks):
    _function = staticmethod(F.depth_to_space3d)
