"""ONNX: what torch.onnx.export writes of every operator runs in ONNX Runtime, with our results.

POOLKIT_ONNX_TIMES=20 draws twenty times as many geometries.
"""

import math
import os
import re

import onnxruntime
import pytest
import torch
from hypothesis import Phase, assume, given, note, settings
from hypothesis import strategies as st
from onnx import helper, shape_inference
from torch import nn

import poolkit
import poolkit.functional as F
import poolkit.nn as pools
from poolkit import ops
from poolkit.errors import ArgumentError
from poolkit.functional import common
from poolkit.models import ResNet18
from poolkit.onnx import LOWERED
from poolkit.ops import derivatives, raw

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch's exporter copies its own objects in a way that its own pytree deprecates.
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning"),
    # Values and indices of an unpooling have one batch, and it one name.
    pytest.mark.filterwarnings("ignore:# The axis name:UserWarning"),
]

OPSETS = (18, 22)
TIMES = int(os.environ.get("POOLKIT_ONNX_TIMES", "1"))
FLOATS = (*[torch.float32] * 4, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool)


class Calls(nn.Module):
    """Calls of functions, each with inputs of its own, as one model."""

    def __init__(self, *calls):
        super().__init__()
        self.calls = calls

    def forward(self, *inputs):
        inputs, results = list(inputs), []
        for function, count in self.calls:
            result = function(*inputs[:count])
            results.extend(result if isinstance(result, tuple) else (result,))
            del inputs[:count]
        return tuple(results)


def exported(model, *args, opset=22, **options):
    """The session of ONNX Runtime that runs the exported ``model``."""
    if isinstance(model, nn.Module):
        model.eval()
    program = torch.onnx.export(model, args, opset_version=opset, verbose=False, **options)
    assert program.model.opset_imports == {"": opset}
    return session(program.model_proto)


def session(proto):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # constants that no node reads any more are no news
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(onnx, *args):
    """What the session gives; bfloat16, which numpy lacks, crosses as bits."""
    values = {
        i.name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            a.contiguous().view(torch.int16).numpy(), 16
        )
        if a.dtype is torch.bfloat16
        else onnxruntime.OrtValue.ortvalue_from_numpy(a.numpy())
        for i, a in zip(onnx.get_inputs(), args, strict=True)
    }
    names = [output.name for output in onnx.get_outputs()]
    results = onnx.run_with_ort_values(names, values)
    return [
        torch.from_numpy(r.numpy().copy())
        if r.element_type() != 16
        else torch.utils.dlpack.from_dlpack(r._ortvalue.to_dlpack()).clone()
        for r in results
    ]


def assert_same(got, expected):
    """Equal values; zeros of either sign are equal, and so are NaNs."""
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def assert_average(got, x, average, steps):
    """``average(x)``, within the bound that holds for poolkit's own: see docs/kernels.md."""
    expected = average(x)
    assert got.dtype == x.dtype
    assert got.shape == expected.shape
    if not x.is_floating_point():
        assert_same(got, expected)
        return
    exact, size = average(x.double()), average(x.double().abs()).abs()
    half = x.dtype in (torch.float16, torch.bfloat16)
    eps = torch.finfo(torch.float32 if half else x.dtype).eps
    rounding = torch.finfo(x.dtype).eps * exact.abs() + torch.finfo(x.dtype).tiny if half else 0
    assert ((got.double() - exact).abs() <= steps * eps * size + rounding).all()


# ---- drawn geometries ---------------------------------------------------------------------------


def values(shape, dtype, seed):
    """Numbers with many ties, or none, and a few infinities that no window averages."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if dtype is torch.bool:
        return x > 1
    if not dtype.is_floating_point:
        x = x * (2**62 if seed % 3 == 0 and dtype is torch.int64 else 20)
        return x.clamp(0 if dtype is torch.uint8 else -(2**62)).to(dtype)
    return (x.mul(2).round().div(2) if seed % 2 else x).to(dtype)


def describe(x):
    return f"{tuple(x.shape)} {x.dtype}"


@st.composite
def shapes(draw):
    rank = draw(st.integers(1, 3))
    most = (24, 12, 7)[rank - 1]
    cells = draw(st.lists(st.integers(1, most), min_size=rank, max_size=rank))
    batch = draw(st.sampled_from([(2, 3), (1, 2), (3,)]))
    return rank, (*batch, *cells)


@st.composite
def windows(draw, rank, dilated=True):
    def each(low, high):
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    kernel = each(1, 4)
    padding = draw(
        st.sampled_from(["same", "same_lower", "valid"])
        | st.just([k // 2 for k in kernel])
        | st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=rank, max_size=rank)
    )
    return {
        "kernel_size": kernel,
        "stride": each(1, 4),
        "padding": padding,
        "ceil_mode": draw(st.booleans()),
        **({"dilation": each(1, 3)} if dilated and draw(st.booleans()) else {}),
    }


def steps(arguments):
    """The factor in the bound of an average's error."""
    return sum(arguments["kernel_size"])


MODES = (*["zeros"] * 5, "reflect", "replicate", "circular")


@st.composite
def maxima(draw):
    rank, shape = draw(shapes())
    x = values(shape, draw(st.sampled_from([*FLOATS, *INTEGERS])), draw(st.integers(0, 99)))
    if x.is_floating_point() and draw(st.booleans()):
        x.masked_fill_(x < 0.5, -math.inf)
    if draw(st.booleans()):
        sizes = draw(st.lists(st.integers(1, 6) | st.none(), min_size=rank, max_size=rank))
        arguments, name = {"output_size": tuple(sizes)}, f"adaptive_max_pool{rank}d"
    else:
        arguments, name = draw(windows(rank)), f"max_pool{rank}d"
        arguments["padding_mode"] = draw(st.sampled_from(MODES))
    indices = draw(st.booleans())

    def call(x):
        return getattr(F, name)(x, **arguments, return_indices=indices)

    return f"{name} {describe(x)} {arguments} {indices=}", call, (x,), assert_maxima


def assert_maxima(got, call, x):
    expected = call(x)
    for g, e in zip(got, expected if isinstance(expected, tuple) else (expected,), strict=True):
        if g.is_floating_point():
            # ONNX Runtime starts some of its maxima at the lowest finite number.
            g.masked_fill_((g == torch.finfo(g.dtype).min) & e.isneginf(), -math.inf)
        assert_same(g, e)


@st.composite
def averages(draw):
    rank, shape = draw(shapes())
    x = values(shape, draw(st.sampled_from([*FLOATS, torch.int64])), draw(st.integers(1, 99)))
    if draw(st.booleans()):
        sizes = draw(st.lists(st.integers(1, 6) | st.none(), min_size=rank, max_size=rank))
        arguments, name = {"output_size": tuple(sizes)}, f"adaptive_avg_pool{rank}d"
        number = sum(shape[-rank:])
    else:
        arguments, name = draw(windows(rank)), f"avg_pool{rank}d"
        arguments["count_include_pad"] = draw(st.booleans())
        arguments["divisor_override"] = draw(st.sampled_from([None, None, 1, 5, -3]))
        arguments["padding_mode"] = draw(st.sampled_from(MODES))
        number = steps(arguments)

    def call(x):
        return getattr(F, name)(x, **arguments)

    title = f"{name} {describe(x)} {arguments}"
    return title, call, (x,), lambda got, call, x: assert_average(*got, x, call, number)


@st.composite
def norms(draw):
    rank, shape = draw(shapes())
    x = values(shape, draw(st.sampled_from([*FLOATS, torch.int32])), draw(st.integers(0, 99)))
    p = draw(st.sampled_from([1, 2, 2, 2, 3, 0.5, -1, math.inf, -math.inf]))
    arguments = draw(windows(rank))
    arguments |= {"norm_type": p, "absolute": draw(st.booleans())}
    arguments["padding_mode"] = draw(st.sampled_from(MODES))
    # A sum of powers of either sign may cancel to nothing, and then has no digit right.
    if p != 2 and not arguments["absolute"]:
        x = x.abs()

    def call(x):
        return getattr(F, f"lp_pool{rank}d")(x, **arguments)

    return f"lp_pool {describe(x)} {arguments}", call, (x,), assert_norms


def assert_norms(got, call, x):
    (got,), expected = got, call(x)
    assert got.dtype == expected.dtype
    digits = 8 * torch.finfo(torch.float32).eps if got.dtype is torch.float64 else 0
    rtol = max(digits, 16 * torch.finfo(got.dtype).eps)
    torch.testing.assert_close(got, expected, rtol=rtol, atol=0, equal_nan=True)


@st.composite
def unpoolings(draw):
    rank, shape = draw(shapes())
    duplicates = draw(st.sampled_from(["last", "sum", "max", "mean"]))
    x = values(shape, draw(st.sampled_from([*FLOATS, *INTEGERS])), draw(st.integers(1, 99)))
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    cells = math.prod(k * n for k, n in zip(kernel, shape[-rank:], strict=True))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    indices = torch.randint(0, cells, shape, generator=generator)

    def call(x, indices):
        return getattr(F, f"max_unpool{rank}d")(x, indices, kernel, duplicates=duplicates)

    exact = assert_same if duplicates in ("last", "max") else torch.testing.assert_close
    title = f"max_unpool {describe(x)} {kernel} {duplicates}"
    return title, call, (x, indices), lambda got, call, *args: exact(*got, call(*args))


def possible(case):
    _, call, args, _ = case
    try:
        call(*args)
    except ArgumentError:
        return False
    return True


cases = (maxima() | averages() | norms() | unpoolings()).filter(possible)


def one_node(opset):
    """What stands in for torch.onnx.ops.symbolic: ONNX Runtime runs the one operator at once."""

    def run_node(name, inputs, attributes, *, dtypes, shapes, version):
        assert version <= opset
        names = [f"x{i}" for i in range(len(inputs))]
        results = [f"y{i}" for i in range(len(dtypes))]
        node = helper.make_node(name, names, results, **attributes)
        given_info = [info(*pair) for pair in zip(names, inputs, strict=True)]
        result_info = [helper.make_empty_tensor_value_info(r) for r in results]
        graph = helper.make_graph([node], name, given_info, result_info)
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        got = run(session(shape_inference.infer_shapes(model)), *inputs)
        assert [r.dtype for r in got] == list(dtypes)
        assert [r.shape for r in got] == [tuple(shape) for shape in shapes]
        return tuple(got)

    return run_node


def info(name, x):
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(x.numpy().dtype), x.shape
    )


@pytest.fixture(params=OPSETS)
def node_by_node(request, monkeypatch):
    """Our operators as ONNX Runtime computes them: without torch's exporter, which is slow."""
    run_node = one_node(request.param)
    monkeypatch.setattr(torch.onnx.ops, "symbolic_multi_out", run_node)
    monkeypatch.setattr(
        torch.onnx.ops,
        "symbolic",
        lambda *args, dtype, shape, version: run_node(
            *args, dtypes=[dtype], shapes=[shape], version=version
        )[0],
    )

    def called(call, x):
        with pytest.MonkeyPatch.context() as patch:
            for name, lowered in LOWERED.items():
                patch.setitem(raw.raw_operators, name, lowered)
                for module in (ops, derivatives):
                    if hasattr(module, f"raw_{name}"):
                        patch.setattr(module, f"raw_{name}", lowered)
            got = call(x)
        return got if isinstance(got, tuple) else (got,)

    return called


# Each goes a way of its own through poolkit.onnx; all values are negative.
SPECIAL = {
    "padding as wide as the kernel": lambda x: F.max_pool2d(x, 2, 1, 2, dilation=3),
    "a window dropped": lambda x: F.max_pool2d(x, 1, 3, [(0, 4), (0, 0)], ceil_mode=True),
    "the first of equals": lambda x: F.adaptive_max_pool2d(x.round(), 4, return_indices=True)[1],
    "a window clipped": lambda x: F.avg_pool2d(x, 4, 2, 1, ceil_mode=True),
    "wide padding, counted": lambda x: F.avg_pool2d(x, 2, 3, 2),
    "a divisor": lambda x: F.avg_pool2d(x.double(), 7, divisor_override=3),
    "one window, beside the input": lambda x: F.avg_pool2d(x, 7, 9, [(1, 0), (0, 0)], False, False),
    "the same, dilated": lambda x: F.avg_pool2d(x, 3, 2, 1, True, False, dilation=2),
    "unequal windows": lambda x: F.adaptive_avg_pool2d(x, 3),
    "integers": lambda x: F.avg_pool2d((x * 2.0**58).long(), 3, 2, 1, count_include_pad=False),
    "a norm clipped": lambda x: F.lp_pool2d(x, 2, 2, ceil_mode=True),
}


@pytest.mark.parametrize("what", SPECIAL)
def test_special_geometries(what, node_by_node):
    x = -torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(0)) - 0.1
    for got, expected in zip(node_by_node(SPECIAL[what], x), [SPECIAL[what](x)], strict=True):
        assert got.dtype == expected.dtype
        rtol = 1e-6 if got.is_floating_point() else 0
        torch.testing.assert_close(got, expected, rtol=rtol, atol=0)


def test_drawn_geometries_node_by_node(node_by_node):
    @settings(derandomize=True, deadline=None, database=None, max_examples=300 * TIMES)
    @given(maxima() | averages() | norms())
    def check(case):
        title, call, args, check_results = case
        assume(possible(case))
        note(title)
        check_results(node_by_node(call, *args), call, *args)

    check()


@pytest.mark.parametrize("opset", OPSETS)
def test_drawn_geometries(opset):
    """A dozen operators a model; batched inputs are exported with any batch, and run with more."""

    @settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=2 * TIMES,
        phases=[Phase.generate],  # a failure names its operator; to shrink it takes minutes
    )
    @given(st.lists(cases, min_size=12, max_size=12))
    def check(drawn):
        check_model(drawn, opset)

    check()


def check_model(drawn, opset):
    model = Calls(*((call, len(args)) for _, call, args, _ in drawn))
    inputs, dynamic = [], []
    for i, (_, _, args, _) in enumerate(drawn):
        inputs.extend(args)
        dynamic.extend([{0: f"n{i}"} if args[0].shape[0] == 2 else {}] * len(args))
    onnx = exported(model, *inputs, opset=opset, dynamic_shapes=(tuple(dynamic),))
    more = [torch.cat([a, a[:1]]) if d else a for a, d in zip(inputs, dynamic, strict=True)]
    results = run(onnx, *more)
    for title, call, args, check in drawn:
        given_now = [more.pop(0) for _ in args]
        count = 2 if isinstance(call(*given_now), tuple) else 1
        try:
            check([results.pop(0) for _ in range(count)], call, *given_now)
        except AssertionError as error:
            raise AssertionError(f"{title}: {error}") from error


# ---- dynamic extents ----------------------------------------------------------------------------

DYNAMIC = [
    lambda x: F.max_pool2d(x, 3, 2, 1),
    lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True),
    lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    lambda x: F.max_pool2d(x, 2, 5, 1, ceil_mode=True),
    lambda x: F.max_pool2d(x, 3, 2, "same", dilation=2),
    lambda x: F.max_pool2d(x, 2, 1, [(0, 3), (3, 0)], dilation=4),
    lambda x: F.blur_pool2d(x, 4, 2),
    lambda x: F.blur_pool2d(x, 3, 2, padding_mode="circular"),
    lambda x: F.max_blur_pool2d(x, 3, 2, 1, padding_mode="replicate"),
    lambda x: F.avg_pool2d(x, 3, 2, 1),
    lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    lambda x: F.avg_pool2d(x, 3, 2, "same", count_include_pad=False),
    lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    lambda x: F.lp_pool2d(x, 2, 3, 2),
    lambda x: F.lp_pool2d(x, 2, 3, 2, ceil_mode=True),
    lambda x: F.lp_pool2d(x, 3, 3, 2, padding=1, absolute=True),
    F.global_max_pool2d,
    F.global_avg_pool2d,
    lambda x: F.adaptive_avg_pool2d(x, (None, 1)),
    lambda x: F.adaptive_max_pool2d(x, (1, None)),
]


@pytest.mark.parametrize("opset", OPSETS)
def test_dynamic_extents(opset):
    """One model for inputs of any size; adaptive windows are the exception."""
    x = torch.randn(2, 3, 12, 13)
    shape = {0: "n", 2: "h", 3: "w"}
    model = Calls(*((call, 1) for call in DYNAMIC))
    onnx = exported(model, *[x] * len(DYNAMIC), opset=opset,
                    dynamic_shapes=((shape,) * len(DYNAMIC),))  # fmt: skip
    for size in ((1, 3, 12, 13), (3, 3, 11, 16), (2, 3, 17, 6), (1, 3, 8, 9)):
        x = torch.randn(size)
        for got, expected in zip(run(onnx, *[x] * len(DYNAMIC)), model(*[x] * len(DYNAMIC)),
                                 strict=True):  # fmt: skip
            torch.testing.assert_close(got, expected)


# ---- what ONNX cannot express -------------------------------------------------------------------

REFUSED = {
    "samples drawn": (
        lambda x: F.fractional_max_pool2d(x, 2, output_ratio=0.7),
        r"fractional_max_pool2d: .*random samples",
    ),
    "samples given": (
        lambda x: F.fractional_avg_pool2d(x, 2, 4, _random_samples=x[..., :2, 0]),
        r"fractional_avg_pool2d: .*random samples, drawn or given",
    ),
    "an error on duplicates": (
        lambda x: F.max_unpool2d(x, x.long(), 2, duplicates="error"),
        r"max_unpool2d: duplicates='error'.*no operator of ONNX",
    ),
    "adaptive windows": (
        lambda x: F.adaptive_avg_pool2d(x, 3),
        r"adaptive_avg_pool2d: axis W must have a fixed extent",
    ),
    "adaptive windows, the maximum": (
        lambda x: F.adaptive_max_pool2d(x, 3),
        r"adaptive_max_pool2d: axis W must have a fixed extent",
    ),
    "a dilated average": (
        lambda x: F.avg_pool2d(x, 2, dilation=2),
        r"avg_pool2d: axis W must have a fixed extent",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refusal_names_operator_and_reason(why):
    """torch wraps the error; its text, and its cause, are ours."""
    call, message = REFUSED[why]
    with pytest.raises(torch.onnx.OnnxExporterError, match="ONNX export of ") as raised:
        exported(Calls((call, 1)), torch.rand(2, 2, 8, 8), dynamic_shapes=(({3: "w"},),))
    assert isinstance(raised.value.__cause__, ArgumentError)
    assert re.search(message, str(raised.value.__cause__))


def test_gradients_are_refused():
    table = poolkit.onnx.decompositions()
    with pytest.raises(ArgumentError, match="ONNX export of a gradient of pooling: ONNX has no"):
        table[torch.ops.poolkit.scatter.default](torch.rand(1, 1, 4, 4), None, ())


# ---- models -------------------------------------------------------------------------------------


class Fire(nn.Module):
    """SqueezeNet's block: few channels, then many, by two kernels side by side."""

    def __init__(self, inputs, squeezed, expanded):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.small, self.large = (nn.Conv2d(squeezed, expanded, k, padding=k // 2) for k in (1, 3))

    def forward(self, x):
        x = self.squeeze(x).relu()
        return torch.cat([self.small(x).relu(), self.large(x).relu()], 1)


def squeezenet():
    """The beginning and the end of SqueezeNet 1.1, whose max pools have ceil_mode."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pools.MaxPool2d(3, 2, ceil_mode=True),
        Fire(64, 16, 64), Fire(128, 16, 64), pools.MaxPool2d(3, 2, ceil_mode=True),
        Fire(128, 32, 128), nn.Conv2d(256, 10, 1), nn.ReLU(), pools.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "opset"), [(lambda: ResNet18(num_classes=10), 18), (squeezenet, 22)]
)
def test_models(make, opset):
    torch.manual_seed(0)
    model = make().eval()
    shapes = ({0: "n", 2: "h", 3: "w"},)
    onnx = exported(model, torch.randn(2, 3, 64, 64), opset=opset, dynamic_shapes=shapes)
    for size in (64, 97):
        x = torch.randn(1, 3, size, size)
        with torch.no_grad():
            torch.testing.assert_close(run(onnx, x)[0], model(x), rtol=1e-4, atol=1e-4)


def test_operator_of_onnx():
    """A usual layer becomes the one operator that ONNX has for it, with its usual attributes."""
    model = nn.Sequential(pools.MaxPool2d(3, 2, 1), pools.AvgPool2d(2), pools.LPPool2d(2, 2),
                          pools.AdaptiveAvgPool2d(2), pools.AdaptiveAvgPool2d(1))  # fmt: skip
    program = torch.onnx.export(model.eval(), (torch.randn(1, 2, 64, 64),), verbose=False)
    nodes = [node.op_type for node in program.model.graph]
    assert nodes == ["MaxPool", "AveragePool", "LpPool", "AveragePool", "ReduceMean"]
    assert program.model.graph[0].attributes["pads"].as_ints() == (1, 1, 1, 1)


def test_exported_program():
    """A program that torch.export made before goes to ONNX by way of our decompositions."""
    model, x = pools.MaxPool2d(3, 2, "same", return_indices=True), torch.randn(2, 3, 9, 8)
    program = torch.export.export(model, (x,))
    onnx = exported(program.run_decompositions(poolkit.onnx.decompositions()))
    for got, expected in zip(run(onnx, x), model(x), strict=True):
        assert_same(got, expected)


def test_export_leaves_eager_calls_alone():
    """Windows that were made for an export, of symbolic sizes or none, serve no call after it."""
    x = torch.randn(1, 2, 10, 10)
    exported(Calls((lambda x: F.max_pool2d(x, 5), 1)), x)
    (window,) = [w for key, w in common._windows.items() if key[2] == x.shape] or [None]
    assert window is None or isinstance(window.packed, str)
    assert_same(F.max_pool2d(x, 5), torch.nn.functional.max_pool2d(x, 5))
