"""The benchmark: what it selects, how it sums up, and one short run of it. No time is judged."""

import contextlib
import functools
import gc
import importlib
import itertools
import json
import math
import platform
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import poolkit.functional
from poolkit.testing.memory import highest_resident_set

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def module(monkeypatch):
    """Import a module of the benchmark, which is no part of the wheel."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def threads():
    """Puts the number of threads back that a measurement changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def spread(median):
    return {"median": median, "p10": 0.9 * median, "p90": 1.1 * median}


def record(speedup=10.0, over_limit=1.5, **fields):
    """A measured point as the JSON file holds it."""
    return {
        "case": "vgg-64x224-max-2-2", "network": "VGG", "function": "max_pool2d",
        "label": "max 2/2", "rank": 2, "size": "8x64x224x224", "batch": 8, "dtype": "float32",
        "layout": "contiguous", "threads": "all", "thread_count": 2, "phase": "inference",
        "elements": 25690112, "output_elements": 6422528, "read_bytes": 4, "written_bytes": 1,
        "saved_bytes": None, "left_out": {}, "wrong": {}, "rounds": 5,
        "seconds": {"poolkit": spread(1.0), "torch": spread(speedup)},
        "over_limit": spread(over_limit), "speedup": {"torch": spread(speedup)},
        "best_peer": "torch",
    } | fields  # fmt: skip


def results(records, overhead=()):
    return {
        "command": "python -m benchmarks",
        "machine": {
            "processor": "A CPU", "cores": 2, "threads": 2, "caches": "L1 32K", "memory_gib": 8,
            "system": "Linux x86_64", "load": 0.0,
        },
        "versions": {"poolkit": "0.1.0", "torch": "2.13.0"},
        "peers": ["torch"],
        "missing": {"oneDNN": "not installed"},
        "records": list(records),
        "failures": [],
        "overhead": list(overhead),
        "models": [],
        "memory": [],
    }  # fmt: skip


# ---- summary ------------------------------------------------------------------------------------


def test_geometric_mean(module):
    mean = module("summary").geometric_mean
    assert mean([2, 8]) == pytest.approx(4)
    assert mean([0.5, 2]) == pytest.approx(1)
    assert mean([1e300, 1e300, 1e-300]) == pytest.approx(1e100)
    assert math.isnan(mean([]))


def test_groups_keep_phases_and_layouts_apart(module):
    records = [
        record(4.0),
        record(9.0, 3.0, size="1x64x224x224"),
        record(2.0, layout="channels_last"),
        record(100.0, elements=1024),  # the cost of a call, not of a kernel
    ]
    groups = {(g.layout, g.ratio): g for g in module("summary").groups(records)}
    assert {layout for layout, _ in groups} == {"contiguous", "channels_last"}
    speedup, limit = groups["contiguous", "speedup"], groups["contiguous", "limit"]
    assert (speedup.count, speedup.lowest, speedup.highest) == (2, 4.0, 9.0)
    assert speedup.mean == pytest.approx(6)
    assert speedup.worst.startswith("8x64x224x224")
    assert limit.worst.startswith("1x64x224x224")


@pytest.mark.parametrize(("speedup", "holds"), [(8.0, True), (7.9, False)])
def test_target_of_speed(module, speedup, holds):
    first, second, *_ = module("summary").targets([record(speedup)], [], [])
    assert first.holds is holds
    assert second.holds is None


def test_target_of_never_slower_names_the_worst(module):
    records = [record(0.97), record(0.5, layout="channels_last"), record(0.1, network="SPP")]
    found = module("summary").targets(records, [], [])
    (target,) = (t for t in found if t.text.startswith("float32: nothing"))
    assert target.holds is False
    assert "1 of 2 slower" in target.measured
    assert "0.50" in target.measured
    assert "channels_last" in target.measured


@pytest.mark.parametrize(("extra", "holds"), [(1.9, True), (2.1, False)])
def test_target_of_the_call(module, extra, holds):
    call = record(kind="inference", size="1x16x8x8", difference=spread(extra))
    found = module("summary").targets([], [call], [])
    assert [t.holds for t in found if "in inference" in t.text] == [holds]


def model_record(title, median, phase="inference", **fields):
    """A network's record as the JSON file holds it."""
    name = {"SqueezeNet 1.1": "model-squeezenet", "ResNet-50": "model-resnet-50"}[title]
    return {
        "model": name, "title": title, "size": "8x3x224x224", "phase": phase,
        "layout": "contiguous", "threads": "all", "thread_count": 2, "difference": 0.0,
        "wrong": False, "speedup": {"torch": spread(median)},
    } | fields  # fmt: skip


@pytest.mark.parametrize(
    ("found", "holds", "measured"),
    [
        ([model_record("SqueezeNet 1.1", 1.6)], True, "1.60 x on 2 threads"),
        ([model_record("SqueezeNet 1.1", 1.59)], False, "1.59 x on 2 threads"),
        ([model_record("SqueezeNet 1.1", 2.0, wrong=True)], False, "its result differs"),
        ([model_record("SqueezeNet 1.1", 2.0, "step")], None, "not measured"),
        ([model_record("SqueezeNet 1.1", 2.0, layout="channels_last")], None, "not measured"),
    ],
)
def test_target_of_a_network(module, found, holds, measured):
    promised = [t for t in module("summary").targets([], [], found) if "inference of" in t.text]
    assert len(promised) == 8
    (target,) = (t for t in promised if "SqueezeNet 1.1, batch 8: at least 1.6 x" in t.text)
    assert (target.holds, target.measured) == (holds, measured)
    assert {t.holds for t in promised if t is not target} == {None}


@pytest.mark.parametrize(("slowest", "holds"), [(0.92, True), (0.90, False)])
def test_target_of_training(module, slowest, holds):
    """Slower is who loses nine rounds of ten: the 90 % end of a spread is 1.1 of its median."""
    steps = [
        model_record("SqueezeNet 1.1", 1.2, "step"),
        model_record("ResNet-50", slowest, "step"),
    ]
    target = module("summary").targets([], [], [*steps, model_record("ResNet-50", 0.1)])[-1]
    assert target.holds is holds
    assert target.measured.startswith(f"{1 - holds} of 2 slower; lowest {slowest:.2f} x")
    assert target.measured.endswith("ResNet-50")
    assert module("summary").targets([], [], [])[-1].holds is None


# ---- Markdown -----------------------------------------------------------------------------------


def test_numbers(module):
    number = module("report").number
    values = [0.5, 9.994, 10.26, 512.4, None, math.nan]
    assert [number(v) for v in values] == ["0.50", "9.99", "10.3", "512", "-", "-"]


def test_markdown_table(module):
    table = module("report").markdown_table(["case", "ratio"], [["a|b", "1.20 (1.10-1.30)"]])
    assert table == "| case | ratio |\n| --- | --: |\n| a\\|b | 1.20 (1.10-1.30) |\n"


def test_page_names_what_is_missing_slower_or_wrong(module):
    records = [
        record(0.5, saved_bytes={"poolkit": 6422528, "torch": 154140672}, phase="training"),
        record(layout="channels_last", left_out={"torch": "no kernel"}, speedup=1, wrong={}),
        record(phase="backward", wrong={"torch": "1 of 8 differ"}),
    ]
    page = module("report").markdown(results(records))
    assert "oneDNN (not installed)" in page
    assert "no kernel" in page
    assert "1 of 8 differ" in page
    assert "0.50 (0.45-0.55)" in page.split("## Where a peer is faster")[1].split("##")[0]
    assert "| 147.0 MiB | 6.1 MiB | 1.00 |" in page


def test_a_busy_machine_is_named(module):
    busy = results([record()])
    assert "BUSY" not in module("report").machine_line(busy)
    busy["machine"]["load"] = 1.7
    assert "BUSY: load 1.7" in module("report").machine_line(busy)


def test_readme_table(module):
    text = module("report").readme(results([record(), record(20.0, layout="channels_last")]))
    assert "| inference forward | **10.0** (10.0) | **20.0** (20.0) | **1.50** (1.50)" in text
    assert "docs/benchmarks.md" in text


# ---- cases and timing ---------------------------------------------------------------------------


def test_cases_run_and_their_names_are_unique(module):
    cases, stock = module("cases"), module("stock")
    every = (*cases.CASES, *cases.TINY)
    assert len({case.name for case in every}) == len(every)
    for case in every:
        x = torch.empty(1, *case.shape, device="meta")
        assert case(stock, x).shape == case(poolkit.functional, x).shape


def test_points_leave_out_what_does_not_exist(module):
    cases = module("cases")
    points = list(cases.points(cases.CASES))
    assert len(points) == len(set(points))
    assert not [p for p in points if p.case.rank == 1 and p.layout != "contiguous"]
    assert not [p for p in points if p.dtype == "uint8" and p.case.family != "max"]
    covered = {p.case for p in points if cases.in_default_run(p)}
    assert covered == set(cases.CASES)


def test_traffic(module):
    cases = module("cases")
    case = cases.CASES[0]
    x, y = torch.empty(2, 8, device="meta"), torch.empty(2, 2, device="meta")
    point = {
        phase: cases.Point(case, 1, "float32", "contiguous", "1", phase) for phase in cases.PHASES
    }
    assert cases.traffic(point["inference"], x, y) == (64, 16)
    assert cases.traffic(point["training"], x, y) == (64, 20)
    assert cases.traffic(point["backward"], x, y) == (20, 64)


@pytest.mark.parametrize("size", [1, 255, 4096, 100_001])
def test_limit_reads_everything_and_writes_everything(module, size):
    source = torch.arange(size).to(torch.uint8)
    run = module("limit").stream(source, 3 * size)
    sums = {run()}
    for place in {0, size // 2, size - 1}:
        source[place] += 1
        sums.add(run())
    assert len(sums) == 1 + len({0, size // 2, size - 1})
    target = run.__defaults__[0][1]
    written = []
    for old in (7, 9):  # what is not written stays different
        target.fill_(old)
        run()
        written.append(target.clone())
    assert torch.equal(*written)


def test_contestants_run_in_turns(module):
    order = []
    rounds = module("timing").in_turns(
        {"slow": lambda: (order.append("slow"), time.sleep(2e-3)),
         "fast": lambda: (order.append("fast"), time.sleep(1e-3))},
        seconds=0.0,
        warm_up=0.0,
    )  # fmt: skip
    assert [len(times) for times in rounds.values()] == [5, 5]
    assert min(rounds["slow"]) > 2e-3
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes >= 5
    assert gc.isenabled()


def test_a_wrong_result_is_found(module, threads):
    cases, measure, peers = module("cases"), module("measure"), module("peers")

    class Wrong(peers.Eager):
        def prepare(self, point, x, upstream):
            run = super().prepare(point, x, upstream)
            return lambda: run() * 1.001

    case = next(c for c in cases.CASES if c.name == "alexnet-256x13-max-3-2")
    average = next(c for c in cases.CASES if c.name == "resnet-512x7-global-avg")
    peer = Wrong("wrong", torch.nn.functional)
    for c in (case, average):
        point = cases.Point(c, 1, "float32", "contiguous", "1", "inference")
        found = measure.measure(point, [peer, peers.PEERS["torch"]], 0.0)
        assert list(found["wrong"]) == ["wrong"]
        assert list(found["speedup"]) == ["torch"]


def test_a_missing_peer_is_named(module, monkeypatch):
    peers = module("peers")

    class Absent(peers.Peer):
        name = "Absent"
        needs = ("no_such_library",)
        prepare = None

    monkeypatch.setitem(peers.PEERS, "Absent", Absent())
    present, missing = peers.chosen(None)
    assert "Absent" not in [peer.name for peer in present]
    assert "no_such_library" in missing["Absent"]
    assert set(missing) | {peer.name for peer in present} == set(peers.PEERS)
    page = module("report").markdown(results([record()]) | {"missing": missing})
    assert "Absent (cannot import no_such_library" in page
    _, missing = peers.chosen(["torch"])
    assert missing == dict.fromkeys(peers.PEERS.keys() - {"torch"}, "not asked for")


def test_a_peer_that_fails_is_named(module, threads):
    cases, measure, peers = module("cases"), module("measure"), module("peers")

    class Failing(peers.Eager):
        def prepare(self, point, x, upstream):
            raise LookupError("no such kernel\nand a long story")

    case = next(c for c in cases.CASES if c.name == "alexnet-256x13-max-3-2")
    point = cases.Point(case, 1, "float32", "contiguous", "1", "inference")
    failing = Failing("failing", torch.nn.functional)
    found = measure.measure(point, [failing, peers.PEERS["torch"]], 0.0)
    assert found["left_out"] == {"failing": "no such kernel"}
    assert found["best_peer"] == "torch"


def test_contestants_with_the_same_threads_follow_each_other(module, monkeypatch):
    timing = module("timing")
    order, waits = [], []
    monkeypatch.setattr(timing, "quiet", lambda: waits.append(len(order)))
    runs = {name: functools.partial(order.append, name) for name in "abcd"}
    pools = {"a": "one", "b": "two", "c": "one", "d": "two"}
    timing.in_turns(runs, seconds=0.0, warm_up=0.0, pools=pools)
    changes = [i for i, (a, b) in enumerate(itertools.pairwise(order), 1) if pools[a] != pools[b]]
    assert set(changes) <= set(waits)
    assert 5 <= len(waits) <= 6  # one per round and one in the warm-up, none between rounds


def test_slower_names_every_peer_that_is_faster(module):
    ratios = {"torch": spread(4.0), "oneDNN": spread(0.8), "JAX": spread(0.5), "X": spread(0.97)}
    both = record(speedup=4.0) | {"speedup": ratios, "best_peer": "JAX"}
    assert [peer for _, peer in module("summary").slower([record(), both])] == ["JAX", "oneDNN"]
    page = module("report").markdown(results([both]))
    section = page.split("## Where a peer is faster")[1].split("##")[0]
    assert "| JAX | 0.50" in section
    assert "| oneDNN | 0.80" in section
    assert "0.50 JAX" in page.split("## Every case")[1]


AVERAGES = [("1x1x35x35", (3, 1, 1)), ("1x1x55x55", (2, 2, 0, True, False)),
            ("1x1x9x10", (3, 2, 1, True, True)), ("1x1x9x10", (3, 2, 1, True, False))]  # fmt: skip


@pytest.mark.parametrize(("size", "args"), AVERAGES)
def test_geometry_of_averages(module, size, args):
    """What the peers divide sums by makes torch's averages of them."""
    cases = module("cases")
    extents = tuple(map(int, size.split("x")))
    case = cases.Case("", "", "avg_pool2d", "", extents[1:], args)
    point = cases.Point(case, 1, "float32", "contiguous", "1", "inference")
    window = module("peers.geometry").geometry(point)
    rows, columns = (torch.tensor(window.divisors(axis)) for axis in (0, 1))
    x = torch.rand(extents, dtype=torch.float64)
    sums = torch.nn.functional.avg_pool2d(x, *args[:4], True, divisor_override=1)
    average = torch.nn.functional.avg_pool2d(x, *args)
    torch.testing.assert_close(sums / (rows[:, None] * columns), average)


def small(module, name, dtype="float32", layout="contiguous", phase="inference"):
    cases = module("cases")
    case = next(c for c in cases.CASES if c.name == name)
    return cases.Point(case, 1, dtype, layout, "1", phase)


POINTS = {
    "torch.compile": [("alexnet-256x13-max-3-2",)],
    "oneDNN": [
        ("alexnet-256x13-max-3-2",),
        ("alexnet-256x13-max-3-2", "float32", "contiguous", "backward"),
    ],
    "ONNX Runtime": [
        ("alexnet-256x13-max-3-2",),
        ("alexnet-256x13-max-3-2", "uint8", "channels_last"),
        ("inception-768x17-avg-3-1-1",),
        ("resnet-512x7-global-avg",),
        ("lp-64x56-lp-3-2-p2",),
    ],
    "OpenVINO": [
        ("alexnet-256x13-max-3-2", "bfloat16"),
        ("googlenet-192x56-max-3-2-ceil",),
        ("inception-768x17-avg-3-1-1",),
        ("resnet-512x7-global-avg",),
        ("adaptive-256x28-adaptive-max-6",),
    ],
    "JAX": [
        ("alexnet-256x13-max-3-2", "float32", "channels_last"),
        ("alexnet-256x13-max-3-2", "float32", "channels_last", "training"),
        ("alexnet-256x13-max-3-2", "float32", "channels_last", "backward"),
        ("inception-768x17-avg-3-1-1", "float16"),
        ("resnet-d-256x56-avg-2-2-ceil-uncounted",),
        ("resnet-512x7-global-avg", "bfloat16"),
        ("lp-64x56-lp-3-2-p2",),
        ("alexnet-256x13-max-3-2", "uint8"),
    ],
}


@pytest.mark.filterwarnings("default")  # of other libraries
@pytest.mark.parametrize("name", POINTS)
def test_peer(module, threads, name):
    """What the peer is said to do, it does, with the right result."""
    peer = module("peers").PEERS[name]
    if reason := peer.missing():
        pytest.skip(reason)
    peer.start(1)
    for words in POINTS[name]:
        found = module("measure").measure(small(module, *words), [peer], 0.0)
        assert (found["wrong"], found["left_out"]) == ({}, {}), words
        assert set(found["speedup"]) == {name}


def test_onednn_takes_bfloat16_where_the_processor_has_its_instructions(module, threads):
    peer = module("peers").PEERS["oneDNN"]
    point = small(module, "inception-768x17-avg-3-1-1", "bfloat16")
    found = module("measure").measure(point, [peer], 0.0)
    assert found["wrong"] == {}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert (found["left_out"], set(found["speedup"])) == ({}, {"oneDNN"})
    else:
        assert "AVX-512" in found["left_out"]["oneDNN"]


def test_forward_only(module, threads):
    """Where a peer cannot, it says so."""
    for name in ("ONNX Runtime", "OpenVINO"):
        peer = module("peers").PEERS[name]
        if not peer.missing():
            point = small(module, "alexnet-256x13-max-3-2", phase="backward")
            found = module("measure").measure(point, [peer], 0.0)
            assert found["left_out"] == {name: "computes inference alone"}
    peer = module("peers").PEERS["oneDNN"]
    point = small(module, "alexnet-256x13-max-3-2", layout="channels_last")
    assert "NCHW" in module("measure").measure(point, [peer], 0.0)["left_out"]["oneDNN"]


# ---- whole models -------------------------------------------------------------------------------


def network(model):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.MaxPool2d(2), torch.nn.Conv2d(4, 4, 3),
        torch.nn.AvgPool2d(3, 1, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
    )  # fmt: skip


def test_an_accelerated_twin_shares_the_weights(module):
    net = network(None)
    twin = module("models").accelerated(net)
    assert [type(m) for m in twin if type(m) in poolkit_classes()] == [
        poolkit.nn.MaxPool2d, poolkit.nn.AvgPool2d, poolkit.nn.AdaptiveAvgPool2d
    ]  # fmt: skip
    assert not any(type(m) in poolkit_classes() for m in net)
    assert all(a is b for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def poolkit_classes():
    return {getattr(poolkit.nn, name) for name in poolkit.nn.__all__}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("phase", ["inference", "step"])
def test_models_are_compared(module, threads, monkeypatch, phase, layout):
    models = module("models")
    monkeypatch.setattr(models, "build", network)
    model = models.Model("model-small", "Small", "", "", batch=2, side=16)
    found = models.measure(model, phase, layout, 0.0)
    assert not found["wrong"]
    assert set(found["speedup"]) == {"torch"}
    page = module("report").markdown(results([record()]) | {"models": [found]})
    row = re.search(r"^\| Small \| 2x3x16x16 \| (.+) \|$", page, re.MULTILINE)[1].split(" | ")
    columns = [("inference", "contiguous"), ("inference", "channels_last"), ("step", "contiguous")]
    assert [cell != "-" for cell in row[1:]] == [column == (phase, layout) for column in columns]
    assert row[0].endswith("%") == ((phase, layout) == ("inference", "contiguous"))

    right = poolkit.functional.max_pool2d
    wrong = staticmethod(lambda *args, **options: 1.01 * right(*args, **options))
    monkeypatch.setattr(poolkit.nn.MaxPool2d, "_function", wrong)
    assert models.measure(model, phase, layout, 0.0)["wrong"]


def test_share_of_pooling(module, monkeypatch):
    models, nn = module("models"), torch.nn
    x = torch.rand(2, 8, 32, 32)
    assert models.pooling_share(nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2)), x) > 0.9
    assert models.pooling_share(nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()), x) == 0
    assert 0 < models.pooling_share(nn.LocalResponseNorm(5), x) < 1  # averages across channels

    def event(name, microseconds, parent=None):
        return types.SimpleNamespace(name=name, self_cpu_time_total=microseconds, cpu_parent=parent)

    outer = event("aten::max_pool2d", 10)
    inner = event("aten::max_pool2d_with_indices", 15, outer)
    found = [outer, inner, event("aten::empty", 5, inner), event("aten::convolution", 90)]
    seen = contextlib.nullcontext(types.SimpleNamespace(events=lambda: found))
    monkeypatch.setattr(models, "profile", lambda **options: seen)
    assert models.pooling_share(nn.ReLU(), x) == 0.25


class Called(TorchDispatchMode):
    """The names of the operators of torch that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_networks_and_the_lines_that_reach_their_pooling(module):
    """Of a network that `accelerate` took, no pooling is left to torch; else the patch is due."""
    models = module("models")
    if reason := models.missing():
        pytest.skip(reason)
    for model in models.MODELS:
        with torch.device("meta"):
            net = models.build(model).eval()
            x = torch.empty(1, 3, model.side, model.side)
        with Called() as stock:
            models.inference(net, x)
        with Called() as ours:
            models.inference(models.accelerated(net), x)
        names = [{n for n in mode.names if "_pool" in n} for mode in (stock, ours)]
        assert names[0]
        assert any(n.startswith("poolkit.") for n in names[1])
        left = {n for n in names[1] if n.startswith("aten.")}
        assert bool(left) == (model.line == "patch_torch"), (model.name, left)


def test_slices_take_the_place_of_pooling(module):
    """Maps of the same sizes, whatever the window: ceil mode, padding, overlap."""
    nn, x = torch.nn, torch.rand(1, 3, 29, 30)
    pools = [nn.MaxPool2d(3, 2, 0, 1, False, True), nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(2, (1, 2))]
    net = nn.Sequential(*pools, nn.AdaptiveAvgPool2d(1))
    sizes = [y.shape for y in itertools.accumulate(net, lambda y, f: f(y), initial=x)]
    sliced = module("compiled_models").slice_instead(net, x)
    assert [y.shape for y in itertools.accumulate(sliced, lambda y, f: f(y), initial=x)] == sizes
    assert not any(isinstance(m, nn.MaxPool2d | nn.AvgPool2d) for m in net.modules())
    assert torch.equal(net[0](x), x[..., ::2, ::2][..., :14, :15])


def test_highest_resident_set(module):
    before = highest_resident_set()
    size = 2**28
    x = torch.ones(size, dtype=torch.uint8)
    assert x.numel() == size
    assert max(before, size) <= highest_resident_set() < 2**37
    page = module("report").markdown(results([record()]) | {"memory": [
        {"case": "memory-vgg16", "title": "VGG16", "size": "8x3x224x224",
         "bytes": {"torch": 2**30, "poolkit": 2**29},
         "saved_bytes": {"torch": 2**28, "poolkit": 2**26}}]})  # fmt: skip
    kept, peak = "256.0 MiB | 64.0 MiB | 0.25", "1024.0 MiB | 512.0 MiB | 0.50"
    assert f"| VGG16 | 8x3x224x224 | {kept} | {peak} |" in page


def test_what_a_step_keeps(module):
    """An int64 and the input of the maximum, or a byte; the average's input, or nothing."""
    net = torch.nn.Sequential(
        torch.nn.MaxPool2d(2), torch.nn.Conv2d(3, 4, 1), torch.nn.AvgPool2d(2)
    )
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    saved = {side: module("memory").step(net, x, side)["saved"] for side in ("torch", "poolkit")}
    pooled, convolved = 3 * 16 * 16, 4 * 16 * 16
    loss = 4 * 8 * 8 * 4  # the square keeps its base
    common = 4 * pooled + loss  # the convolution keeps its input, and no weight counts
    assert saved["poolkit"] == common + pooled
    assert saved["torch"] == common + 8 * pooled + 4 * x.numel() + 4 * convolved


# ---- the command --------------------------------------------------------------------------------


def test_a_short_run(tmp_path):
    command = [
        sys.executable, "-m", "benchmarks", "--quick", "--threads", "1", "--seconds", "0.01",
        "--peer", "torch",
        "--case", "alexnet-256x13-max-3-2", "tiny-16x8-max-2-2",
        "--json", tmp_path / "r.json", "--out", tmp_path / "out", "--markdown", tmp_path / "b.md",
    ]  # fmt: skip
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert {(r["phase"], r["layout"]) for r in found["records"]} == set(
        itertools.product(("inference", "training", "backward"), ("contiguous", "channels_last"))
    )
    for r in found["records"]:
        assert r["case"] == "alexnet-256x13-max-3-2"
        assert (r["wrong"], r["left_out"]) == ({}, {})
        assert set(r["seconds"]) == {"poolkit", "torch", "limit"}
        for ratio in (r["over_limit"], r["speedup"]["torch"]):
            assert 0 < ratio["p10"] <= ratio["median"] <= ratio["p90"]
        if r["phase"] == "training":
            assert r["saved_bytes"]["poolkit"] == r["output_elements"]
    assert {r["kind"] for r in found["overhead"]} == {"inference", "gradient", "step"}
    assert found["missing"]["oneDNN"] == "not asked for"
    assert {"processor", "threads"} <= set(found["machine"])
    for phase in ("inference", "training", "backward"):
        assert (tmp_path / "out" / f"{phase}.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "b.md").read_text()
    assert "AlexNet 8x256x13x13" in page
    assert str(tmp_path) not in page + found["command"]


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins deaf
import benchmarks.__main__ as command
def measure(point, *rest):
    if point.phase == "training":
        os.kill(os.getpid(), signal.{signal})
    return found(point, *rest)
found, command.measure = command.measure, measure
sys.argv[1:] = ["--quick", "--peer", "torch", "--case", "alexnet-256x13-max-3-2", "--threads", "1",
                "--json", "{path}", "--out", "{path}.d"]
sys.exit(command.main())
"""


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
def test_what_was_measured_before_a_signal_is_reported(tmp_path, signal):
    script = INTERRUPTED.format(signal=signal, path=tmp_path / "r.json")
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert [r["phase"] for r in found["records"]] == ["inference"]
    assert "interrupted after 1 of 6" in found["missing"]["the rest"]
    assert "interrupted after 1 of 6" in run.stdout


def test_whole_models_follow_the_options(module):
    main = module("__main__")

    def whole(*words):
        planned, stepped = main.plan_whole(main.parser().parse_args(words))
        return [(m.title, phase, layout) for m, phase, layout in planned], len(stepped)

    planned, stepped = whole()
    assert len(planned) == 3 * 11
    assert stepped == 2
    assert whole("--quick") == whole("--threads", "1") == whole("--dtype", "uint8") == ([], 0)
    assert whole("--case", "model-vgg16", "--phase", "inference", "--layout", "contiguous") == (
        [("VGG16", "inference", "contiguous")], 0
    )  # fmt: skip
    assert whole("--case", "memory-*") == ([], 2)


def test_options_narrow_the_plan(module):
    main = module("__main__")

    def plan(*words):
        return set(main.plan(main.parser().parse_args(words)))

    default, full = plan(), plan("--full")
    assert plan("--quick") < default < full
    half = plan("--dtype", "bfloat16", "--case", "vgg-*")
    assert half == {p for p in default if p.dtype == "bfloat16" and p.case.network == "VGG"}
    assert {p.layout for p in plan("--layout", "channels_last")} == {"channels_last"}


def test_unknown_names_are_refused(module, capsys):
    main = module("__main__")
    args = main.parser().parse_args(["--case", "no-such-case"])
    with pytest.raises(SystemExit, match="no case of that name"):
        main.run(args, None)
    with pytest.raises(SystemExit):
        main.parser().parse_args(["--dtype", "float31"])
    assert "'float31' is none of float32" in capsys.readouterr().err


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is of the GNU C library")
def test_memory_is_kept_between_calls():
    """Large results come from pages that were written to before."""
    program = """
import resource, torch
from benchmarks.timing import keep_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
keeps = keep_memory()
for _ in range(3):
    before = faults()
    large = torch.empty(20_000_000).fill_(1)
    del large
print(keeps, faults() - before < 100)
"""
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["True", "True"]
