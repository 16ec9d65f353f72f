"""OpenVINO: a compiled model of one operation, for latency, in float32."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..cases import Point
from .base import Peer, Unsupported, forward_only
from .geometry import Geometry, geometry, output_shape


class OpenVINO(Peer):
    name = "OpenVINO"
    needs = ("openvino",)
    pool = "OpenVINO"

    def prepare(self, point: Point, x: Tensor, upstream: Tensor) -> Callable[[], Tensor]:
        import openvino

        forward_only(point)
        if point.layout != "contiguous":
            raise Unsupported("pools in the order NCHW; it would transpose, pool, transpose back")
        y = torch.empty(output_shape(point), dtype=x.dtype)
        source = openvino.opset15.parameter(list(x.shape), _element_type(x.dtype))
        node = _operation(point, geometry(point), source)
        model = openvino.Model([node.output(0)], [source])
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        request = openvino.compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(_shared(x))
        request.set_output_tensor(_shared(y))

        # `x` by default value: the request knows addresses only.
        def call(x: Tensor = x) -> Tensor:
            request.infer()
            return y

        return call


def _element_type(dtype: torch.dtype) -> Any:
    from openvino import Type

    return {
        torch.float32: Type.f32,
        torch.bfloat16: Type.bf16,
        torch.float16: Type.f16,
        torch.uint8: Type.u8,
    }[dtype]


def _shared(x: Tensor) -> Any:
    """A tensor on the same memory."""
    import openvino

    if x.dtype is torch.bfloat16:  # numpy has no such type
        bits = x.view(torch.int16).numpy()
        return openvino.Tensor(bits, openvino.Shape(list(x.shape)), _element_type(x.dtype))
    return openvino.Tensor(x.numpy(), shared_memory=True)


def _operation(point: Point, window: Geometry | None, x: Any) -> Any:
    import numpy as np
    from openvino import opset15 as ops

    family = point.case.family
    if family == "lp":
        raise Unsupported("has no Lp pooling")
    if window is None:
        out = np.array(output_shape(point)[2:])
        if family == "avg":
            return ops.adaptive_avg_pool(x, ops.constant(out))
        return ops.adaptive_max_pool(x, ops.constant(out), index_element_type="i32")
    if window.is_global:
        reduce = {"max": ops.reduce_max, "avg": ops.reduce_mean}[family]
        axes = np.arange(2, 2 + point.case.rank)
        return reduce(x, ops.constant(axes), keep_dims=True)
    pads = (window.padding, window.padding, window.kernel)
    rounding = "ceil_torch" if window.ceil else "floor"
    if family == "avg":
        return ops.avg_pool(x, window.stride, *pads, not window.include_pad, rounding)
    return ops.max_pool(x, window.stride, window.dilation, *pads, rounding)
