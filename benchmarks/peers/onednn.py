"""oneDNN through torch: mkldnn tensors, converted beforehand."""

import re
from collections.abc import Callable

import torch
import torch.nn.functional
from torch import Tensor

from ..cases import Point
from .base import Peer, Unsupported, with_autograd


class OneDNN(Peer):
    name = "oneDNN"

    def missing(self) -> str:
        return "" if torch.backends.mkldnn.is_available() else "this torch was built without it"

    def version(self) -> str:
        found = re.search(r"(?:MKL-DNN|oneDNN) v([\d.]+)", torch.__config__.show())
        return found[1] if found else "of torch"

    def prepare(self, point: Point, x: Tensor, upstream: Tensor) -> Callable[[], Tensor]:
        if point.layout != "contiguous":
            raise Unsupported("torch makes mkldnn tensors in the order NCHW alone")
        if point.case.rank == 1:
            raise Unsupported("torch has no 1-D pooling of mkldnn tensors")
        function = getattr(torch.nn.functional, point.case.function, None)
        if function is None:
            raise Unsupported("torch has no such function")
        if x.dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise Unsupported("torch's mkldnn pooling of bfloat16 asks for AVX-512")
        return with_autograd(
            point, function, x.to_mkldnn(), lambda y: upstream.to_mkldnn(), *point.case.args
        )

    def result(self, point: Point, value: Tensor) -> Tensor:
        return value.detach().to_dense()
