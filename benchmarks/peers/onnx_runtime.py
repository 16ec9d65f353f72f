"""ONNX Runtime: a model of one node; input and output are bound beforehand."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..cases import Point
from .base import Peer, Unsupported, forward_only
from .geometry import Geometry, geometry, output_shape

OPSET = 22
IR_VERSION = 10  # the one of that operator set


class OnnxRuntime(Peer):
    name = "ONNX Runtime"
    needs = ("onnxruntime", "onnx")
    pool = "ONNX Runtime"

    def prepare(self, point: Point, x: Tensor, upstream: Tensor) -> Callable[[], Tensor]:
        import onnxruntime

        forward_only(point)
        window = geometry(point)
        if window is None:
            raise Unsupported("ONNX has no adaptive pooling with windows of different sizes")
        last = point.layout == "channels_last"
        if last and (point.dtype != "uint8" or point.case.rank != 2):
            raise Unsupported("pools channels-last tensors of 2-D 8-bit integers alone")
        source = x.permute(0, 2, 3, 1) if last else x
        shape = output_shape(point)
        y = torch.empty([shape[0], *shape[2:], shape[1]] if last else shape, dtype=x.dtype)

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what it says is in the exception, too
        session = onnxruntime.InferenceSession(
            _model(point, window, source, y), options, providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        kind = _element_type(x.dtype)
        binding.bind_input("x", "cpu", 0, kind, list(source.shape), source.data_ptr())
        binding.bind_output("y", "cpu", 0, kind, list(y.shape), y.data_ptr())
        result = y.permute(0, 3, 1, 2) if last else y

        # `source` by default value: the session knows addresses only.
        def call(source: Tensor = source) -> Tensor:
            session.run_with_iobinding(binding)
            return result

        return call


def _element_type(dtype: torch.dtype) -> int:
    from onnx import TensorProto

    return {
        torch.float32: TensorProto.FLOAT,
        torch.bfloat16: TensorProto.BFLOAT16,
        torch.float16: TensorProto.FLOAT16,
        torch.uint8: TensorProto.UINT8,
    }[dtype]


def _model(point: Point, window: Geometry, x: Tensor, y: Tensor) -> bytes:
    from onnx import helper

    kind = _element_type(x.dtype)
    graph = helper.make_graph(
        [helper.make_node(inputs=["x"], outputs=["y"], **_node(point, window))],
        "pooling",
        [helper.make_tensor_value_info("x", kind, list(x.shape))],
        [helper.make_tensor_value_info("y", kind, list(y.shape))],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = IR_VERSION
    return model.SerializeToString()


def _node(point: Point, window: Geometry) -> dict[str, Any]:
    """The operator and its attributes."""
    family = point.case.family
    if window.is_global and point.layout == "contiguous":
        return {"op_type": {"max": "GlobalMaxPool", "avg": "GlobalAveragePool"}[family]}
    node = {
        "kernel_shape": window.kernel,
        "strides": window.stride,
        "pads": [*window.padding, *window.padding],
        "ceil_mode": int(window.ceil),
    }
    if point.layout == "channels_last":
        return {"op_type": "NhwcMaxPool", "domain": "com.microsoft", **node}
    if family == "max":
        return {"op_type": "MaxPool", "dilations": window.dilation, **node}
    if family == "avg":
        return {"op_type": "AveragePool", "count_include_pad": int(window.include_pad), **node}
    return {"op_type": "LpPool", "p": int(window.norm), **node}
