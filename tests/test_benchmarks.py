"""The benchmark: what it selects, how it sums up, and one short run of it. No time is judged."""

import contextlib
import functools
import gc
import itertools
import json
import platform
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

# torch.compile starts its compilers in the background, where its cache is empty, after JAX has been
# loaded beside it. What forks only executes.
pytestmark = pytest.mark.filterwarnings(
    "ignore:os.fork.. was called.*JAX is multithreaded:RuntimeWarning"
)

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

REPOSITORY = Path(__file__).parents[1]


# ---- cases and timing ---------------------------------------------------------------------------


def test_cases_run_and_their_names_are_unique(benchmarks):
    cases, stock = benchmarks("cases"), benchmarks("stock")
    every = (*cases.CASES, *cases.TINY)
    assert len({case.name for case in every}) == len(every)
    for case in every:
        x = torch.empty(1, *case.shape, device="meta")
        assert case(stock, x).shape == case(poolkit.functional, x).shape


def test_points_leave_out_what_does_not_exist(benchmarks):
    cases = benchmarks("cases")
    points = list(cases.points(cases.CASES))
    assert len(points) == len(set(points))
    assert not [p for p in points if p.case.rank == 1 and p.layout != "contiguous"]
    assert not [p for p in points if p.dtype == "uint8" and p.case.family != "max"]
    covered = {p.case for p in points if cases.in_default_run(p)}
    assert covered == set(cases.CASES)


def test_traffic(benchmarks):
    cases = benchmarks("cases")
    case = cases.CASES[0]
    x, y = torch.empty(2, 8, device="meta"), torch.empty(2, 2, device="meta")
    point = {
        phase: cases.Point(case, 1, "float32", "contiguous", "1", phase) for phase in cases.PHASES
    }
    assert cases.traffic(point["inference"], x, y) == (64, 16)
    assert cases.traffic(point["training"], x, y) == (64, 20)
    assert cases.traffic(point["backward"], x, y) == (20, 64)


@pytest.mark.parametrize("size", [1, 255, 4096, 100_001])
def test_limit_reads_everything_and_writes_everything(benchmarks, size):
    source = torch.arange(size).to(torch.uint8)
    run = benchmarks("limit").stream(source, 3 * size)
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


def test_contestants_run_in_turns(benchmarks):
    order = []
    rounds = benchmarks("timing").in_turns(
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


@pytest.mark.parametrize(
    ("peer", "turns"),
    [([2.0, 3.0], 1), ([0.5, 0.9], 1), ([0.5, 1.5], 3), ([0.5, 1.5, 3.0, 3.0, 3.0, 3.0], 3)],
)
def test_what_is_undecided_is_measured_again(benchmarks, peer, turns):
    calls = []

    def take_turns():
        calls.append(peer)
        return {"poolkit": [1.0] * len(peer), "peer": list(peer), "limit": [1.0] * len(peer)}

    rounds = benchmarks("measure").settled(take_turns, 1)
    assert len(calls) == turns
    assert {name: len(times) for name, times in rounds.items()} == dict.fromkeys(
        ("poolkit", "peer", "limit"), turns * len(peer)
    )


def test_what_is_decided_by_more_rounds_is_not_measured_again(benchmarks):
    found = iter([[0.5, 1.5], [2.0] * 40])

    def take_turns():
        peer = next(found)
        return {"poolkit": [1.0] * len(peer), "peer": peer}

    rounds = benchmarks("measure").settled(take_turns, 1)
    assert len(rounds["peer"]) == 42


def test_a_wrong_result_is_found(benchmarks, keep_threads):
    cases, measure, peers = benchmarks("cases"), benchmarks("measure"), benchmarks("peers")

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


def test_a_peer_that_fails_is_named(benchmarks, keep_threads):
    cases, measure, peers = benchmarks("cases"), benchmarks("measure"), benchmarks("peers")

    class Failing(peers.Eager):
        def prepare(self, point, x, upstream):
            raise LookupError("no such kernel\nand a long story")

    case = next(c for c in cases.CASES if c.name == "alexnet-256x13-max-3-2")
    point = cases.Point(case, 1, "float32", "contiguous", "1", "inference")
    failing = Failing("failing", torch.nn.functional)
    found = measure.measure(point, [failing, peers.PEERS["torch"]], 0.0)
    assert found["left_out"] == {"failing": "no such kernel"}
    assert found["best_peer"] == "torch"


def test_contestants_with_the_same_threads_follow_each_other(benchmarks, monkeypatch):
    timing = benchmarks("timing")
    order, waits = [], []
    monkeypatch.setattr(timing, "quiet", lambda: waits.append(len(order)))
    runs = {name: functools.partial(order.append, name) for name in "abcd"}
    pools = {"a": "one", "b": "two", "c": "one", "d": "two"}
    timing.in_turns(runs, seconds=0.0, warm_up=0.0, pools=pools)
    changes = [i for i, (a, b) in enumerate(itertools.pairwise(order), 1) if pools[a] != pools[b]]
    assert set(changes) <= set(waits)
    assert 5 <= len(waits) <= 6  # one per round and one in the warm-up, none between rounds


@pytest.mark.parametrize(("seconds", "rounds"), [(0.1, 5), (0.5, 3), (2.0, 3)])
def test_slow_contestants_run_several_times_too(benchmarks, monkeypatch, seconds, rounds):
    """One round has no range: who is faster would be settled by chance."""
    timing = benchmarks("timing")
    monkeypatch.setattr(timing, "_time", lambda run, repeats: seconds)
    assert timing.in_turns({"slow": lambda: None}, seconds=0.0) == {"slow": [seconds] * rounds}


AVERAGES = [("1x1x35x35", (3, 1, 1)), ("1x1x55x55", (2, 2, 0, True, False)),
            ("1x1x9x10", (3, 2, 1, True, True)), ("1x1x9x10", (3, 2, 1, True, False))]  # fmt: skip


@pytest.mark.parametrize(("size", "args"), AVERAGES)
def test_geometry_of_averages(benchmarks, size, args):
    """What the peers divide sums by makes torch's averages of them."""
    cases = benchmarks("cases")
    extents = tuple(map(int, size.split("x")))
    case = cases.Case("", "", "avg_pool2d", "", extents[1:], args)
    point = cases.Point(case, 1, "float32", "contiguous", "1", "inference")
    window = benchmarks("peers.geometry").geometry(point)
    rows, columns = (torch.tensor(window.divisors(axis)) for axis in (0, 1))
    x = torch.rand(extents, dtype=torch.float64)
    sums = torch.nn.functional.avg_pool2d(x, *args[:4], True, divisor_override=1)
    average = torch.nn.functional.avg_pool2d(x, *args)
    torch.testing.assert_close(sums / (rows[:, None] * columns), average)


def small(benchmarks, name, dtype="float32", layout="contiguous", phase="inference"):
    cases = benchmarks("cases")
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
def test_peer(benchmarks, keep_threads, name):
    """What the peer is said to do, it does, with the right result."""
    peer = benchmarks("peers").PEERS[name]
    if reason := peer.missing():
        pytest.skip(reason)
    peer.start(1)
    for words in POINTS[name]:
        found = benchmarks("measure").measure(small(benchmarks, *words), [peer], 0.0)
        assert (found["wrong"], found["left_out"]) == ({}, {}), words
        assert set(found["speedup"]) == {name}


def test_onednn_takes_bfloat16_where_the_processor_has_its_instructions(benchmarks, keep_threads):
    peer = benchmarks("peers").PEERS["oneDNN"]
    point = small(benchmarks, "inception-768x17-avg-3-1-1", "bfloat16")
    found = benchmarks("measure").measure(point, [peer], 0.0)
    assert found["wrong"] == {}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert (found["left_out"], set(found["speedup"])) == ({}, {"oneDNN"})
    else:
        assert "AVX-512" in found["left_out"]["oneDNN"]


def test_forward_only(benchmarks, keep_threads):
    """Where a peer cannot, it says so."""
    for name in ("ONNX Runtime", "OpenVINO"):
        peer = benchmarks("peers").PEERS[name]
        if not peer.missing():
            point = small(benchmarks, "alexnet-256x13-max-3-2", phase="backward")
            found = benchmarks("measure").measure(point, [peer], 0.0)
            assert found["left_out"] == {name: "computes inference alone"}
    peer = benchmarks("peers").PEERS["oneDNN"]
    point = small(benchmarks, "alexnet-256x13-max-3-2", layout="channels_last")
    assert "NCHW" in benchmarks("measure").measure(point, [peer], 0.0)["left_out"]["oneDNN"]


# ---- whole models -------------------------------------------------------------------------------


def network(model):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.MaxPool2d(2), torch.nn.Conv2d(4, 4, 3),
        torch.nn.AvgPool2d(3, 1, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
    )  # fmt: skip


def test_an_accelerated_twin_shares_the_weights(benchmarks):
    net = network(None)
    twin = benchmarks("models").accelerated(net)
    assert [type(m) for m in twin if type(m) in poolkit_classes()] == [
        poolkit.nn.MaxPool2d, poolkit.nn.AvgPool2d, poolkit.nn.AdaptiveAvgPool2d
    ]  # fmt: skip
    assert not any(type(m) in poolkit_classes() for m in net)
    assert all(a is b for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def poolkit_classes():
    return {getattr(poolkit.nn, name) for name in poolkit.nn.__all__}


def test_share_of_pooling(benchmarks, monkeypatch):
    models, nn = benchmarks("models"), torch.nn
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


def test_networks_and_the_lines_that_reach_their_pooling(benchmarks):
    """Of a network that `accelerate` took, no pooling is left to torch; else the patch is due."""
    models = benchmarks("models")
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


def test_slices_take_the_place_of_pooling(benchmarks):
    """Maps of the same sizes, whatever the window: ceil mode, padding, overlap."""
    nn, x = torch.nn, torch.rand(1, 3, 29, 30)
    pools = [nn.MaxPool2d(3, 2, 0, 1, False, True), nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(2, (1, 2))]
    net = nn.Sequential(*pools, nn.AdaptiveAvgPool2d(1))
    sizes = [y.shape for y in itertools.accumulate(net, lambda y, f: f(y), initial=x)]
    sliced = benchmarks("compiled_models").slice_instead(net, x)
    assert [y.shape for y in itertools.accumulate(sliced, lambda y, f: f(y), initial=x)] == sizes
    assert not any(isinstance(m, nn.MaxPool2d | nn.AvgPool2d) for m in net.modules())
    assert torch.equal(net[0](x), x[..., ::2, ::2][..., :14, :15])


def test_what_a_step_keeps(benchmarks):
    """An int64 and the input of the maximum, or a byte; the average's input, or nothing."""
    net = torch.nn.Sequential(
        torch.nn.MaxPool2d(2), torch.nn.Conv2d(3, 4, 1), torch.nn.AvgPool2d(2)
    )
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    saved = {
        side: benchmarks("memory").step(net, x, side)["saved"] for side in ("torch", "poolkit")
    }
    pooled, convolved = 3 * 16 * 16, 4 * 16 * 16
    loss = 4 * 8 * 8 * 4  # the square keeps its base
    common = 4 * pooled + loss  # the convolution keeps its input, and no weight counts
    assert saved["poolkit"] == common + pooled
    assert saved["torch"] == common + 8 * pooled + 4 * x.numel() + 4 * convolved


def test_highest_resident_set(benchmarks):
    before = highest_resident_set()
    size = 2**28
    x = torch.ones(size, dtype=torch.uint8)
    assert x.numel() == size
    assert max(before, size) <= highest_resident_set() < 2**37


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("phase", ["inference", "step"])
def test_models_are_compared(benchmarks, keep_threads, monkeypatch, phase, layout):
    models = benchmarks("models")
    monkeypatch.setattr(models, "build", network)
    model = models.Model("model-small", "Small", "", "", batch=2, side=16)
    found = models.measure(model, phase, layout, 0.0)
    assert not found["wrong"]
    assert set(found["speedup"]) == {"torch"}
    ((title, size, *row),) = benchmarks("report").model_rows([found])
    assert (title, size) == ("Small", "2x3x16x16")
    columns = [("inference", "contiguous"), ("inference", "channels_last"), ("step", "contiguous")]
    assert [cell != "-" for cell in row[1:]] == [column == (phase, layout) for column in columns]
    assert row[0].endswith("%") == ((phase, layout) == ("inference", "contiguous"))

    right = poolkit.functional.max_pool2d
    wrong = staticmethod(lambda *args, **options: 1.01 * right(*args, **options))
    monkeypatch.setattr(poolkit.nn.MaxPool2d, "_function", wrong)
    assert models.measure(model, phase, layout, 0.0)["wrong"]


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


def test_whole_models_follow_the_options(benchmarks):
    main = benchmarks("__main__")

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


def test_options_narrow_the_plan(benchmarks):
    main = benchmarks("__main__")

    def plan(*words):
        return set(main.plan(main.parser().parse_args(words)))

    default, full = plan(), plan("--full")
    assert plan("--quick") < default < full
    half = plan("--dtype", "bfloat16", "--case", "vgg-*")
    assert half == {p for p in default if p.dtype == "bfloat16" and p.case.network == "VGG"}
    assert {p.layout for p in plan("--layout", "channels_last")} == {"channels_last"}


def test_unknown_names_are_refused(benchmarks, capsys):
    main = benchmarks("__main__")
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
