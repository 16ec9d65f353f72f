"""What the benchmark makes of its measurements: sums, targets, tables."""

import math

import pytest

pytest.importorskip("rich")


def spread(median):
    return {"median": median, "p10": 0.9 * median, "p90": 1.1 * median}


def record(speedup=10.0, over_limit=1.5, **fields):
    """A measured point as the JSON file holds it."""
    return {
        "case": "vgg-64x224-max-2-2", "network": "VGG", "function": "max_pool2d",
        "family": "max", "label": "max 2/2", "rank": 2, "taps": 4, "kernel": [2, 2],
        "stride": [2, 2], "width": 224, "beyond_cache": False, "size": "8x64x224x224",
        "batch": 8, "dtype": "float32",
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


def test_geometric_mean(benchmarks):
    mean = benchmarks("summary").geometric_mean
    assert mean([2, 8]) == pytest.approx(4)
    assert mean([0.5, 2]) == pytest.approx(1)
    assert mean([1e300, 1e300, 1e-300]) == pytest.approx(1e100)
    assert math.isnan(mean([]))


def test_groups_keep_phases_and_layouts_apart(benchmarks):
    records = [
        record(4.0),
        record(9.0, 3.0, size="1x64x224x224"),
        record(2.0, layout="channels_last"),
        record(100.0, elements=1024),  # the cost of a call, not of a kernel
    ]
    groups = {(g.layout, g.ratio): g for g in benchmarks("summary").groups(records)}
    assert {layout for layout, _ in groups} == {"contiguous", "channels_last"}
    speedup, limit = groups["contiguous", "speedup"], groups["contiguous", "limit"]
    assert (speedup.count, speedup.lowest, speedup.highest) == (2, 4.0, 9.0)
    assert speedup.mean == pytest.approx(6)
    assert speedup.worst.startswith("8x64x224x224")
    assert limit.worst.startswith("1x64x224x224")


@pytest.mark.parametrize(("speedup", "holds"), [(8.0, True), (7.9, False)])
def test_target_of_speed(benchmarks, speedup, holds):
    first, second, *_ = benchmarks("summary").targets([record(speedup)], [], [])
    assert first.holds is holds
    assert second.holds is None


def test_target_of_never_slower_names_the_worst(benchmarks):
    records = [record(0.97), record(0.5, layout="channels_last"), record(0.1, network="SPP")]
    found = benchmarks("summary").targets(records, [], [])
    (target,) = (t for t in found if t.text.startswith("float32: nothing"))
    assert target.holds is False
    assert "1 of 2 slower" in target.measured
    assert "0.50" in target.measured
    assert "channels_last" in target.measured


@pytest.mark.parametrize(("extra", "holds"), [(1.9, True), (2.1, False)])
def test_target_of_the_call(benchmarks, extra, holds):
    call = record(kind="inference", size="1x16x8x8", difference=spread(extra))
    found = benchmarks("summary").targets([], [call], [])
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
def test_target_of_a_network(benchmarks, found, holds, measured):
    promised = [t for t in benchmarks("summary").targets([], [], found) if "inference of" in t.text]
    assert len(promised) == 8
    (target,) = (t for t in promised if "SqueezeNet 1.1, batch 8: at least 1.6 x" in t.text)
    assert (target.holds, target.measured) == (holds, measured)
    assert {t.holds for t in promised if t is not target} == {None}


@pytest.mark.parametrize(("slowest", "holds"), [(0.92, True), (0.90, False)])
def test_target_of_training(benchmarks, slowest, holds):
    """Slower is who loses nine rounds of ten: the 90 % end of a spread is 1.1 of its median."""
    steps = [
        model_record("SqueezeNet 1.1", 1.2, "step"),
        model_record("ResNet-50", slowest, "step"),
    ]
    target = benchmarks("summary").targets([], [], [*steps, model_record("ResNet-50", 0.1)])[-1]
    assert target.holds is holds
    assert target.measured.startswith(f"{1 - holds} of 2 slower; lowest {slowest:.2f} x")
    assert target.measured.endswith("ResNet-50")
    assert benchmarks("summary").targets([], [], [])[-1].holds is None


# ---- Markdown -----------------------------------------------------------------------------------


def test_numbers(benchmarks):
    number = benchmarks("report").number
    values = [0.5, 9.994, 10.26, 512.4, None, math.nan]
    assert [number(v) for v in values] == ["0.50", "9.99", "10.3", "512", "-", "-"]


def test_markdown_table(benchmarks):
    table = benchmarks("report").markdown_table(["case", "ratio"], [["a|b", "1.20 (1.10-1.30)"]])
    assert table == "| case | ratio |\n| --- | --: |\n| a\\|b | 1.20 (1.10-1.30) |\n"


def test_page_names_what_is_missing_slower_or_wrong(benchmarks):
    records = [
        record(0.5, saved_bytes={"poolkit": 6422528, "torch": 154140672}, phase="training"),
        record(layout="channels_last", left_out={"torch": "no kernel"}, speedup=1, wrong={}),
        record(phase="backward", wrong={"torch": "1 of 8 differ"}),
    ]
    page = benchmarks("report").markdown(results(records))
    assert "oneDNN (not installed)" in page
    assert "no kernel" in page
    assert "1 of 8 differ" in page
    assert "0.50 (0.45-0.55)" in page.split("## Where a peer is faster")[1].split("##")[0]
    assert "| 147.0 MiB | 6.1 MiB | 1.00 |" in page


def test_a_busy_machine_is_named(benchmarks):
    busy = results([record()])
    assert "BUSY" not in benchmarks("report").machine_line(busy)
    busy["machine"]["load"] = 1.7
    assert "BUSY: load 1.7" in benchmarks("report").machine_line(busy)


def test_readme_table(benchmarks):
    text = benchmarks("report").readme(results([record(), record(20.0, layout="channels_last")]))
    assert "| inference forward | **10.0** (10.0) | **20.0** (20.0) | **1.50** (1.50)" in text
    assert "docs/benchmarks.md" in text


def test_a_missing_peer_is_named(benchmarks, monkeypatch):
    peers = benchmarks("peers")

    class Absent(peers.Peer):
        name = "Absent"
        needs = ("no_such_library",)
        prepare = None

    monkeypatch.setitem(peers.PEERS, "Absent", Absent())
    present, missing = peers.chosen(None)
    assert "Absent" not in [peer.name for peer in present]
    assert "no_such_library" in missing["Absent"]
    assert set(missing) | {peer.name for peer in present} == set(peers.PEERS)
    page = benchmarks("report").markdown(results([record()]) | {"missing": missing})
    assert "Absent (cannot import no_such_library" in page
    _, missing = peers.chosen(["torch"])
    assert missing == dict.fromkeys(peers.PEERS.keys() - {"torch"}, "not asked for")


def test_slower_names_every_peer_that_is_faster(benchmarks):
    ratios = {"torch": spread(4.0), "oneDNN": spread(0.8), "JAX": spread(0.5), "X": spread(0.97)}
    both = record(speedup=4.0) | {"speedup": ratios, "best_peer": "JAX"}
    assert [peer for _, peer in benchmarks("summary").slower([record(), both])] == ["JAX", "oneDNN"]
    page = benchmarks("report").markdown(results([both]))
    section = page.split("## Where a peer is faster")[1].split("##")[0]
    assert "| JAX | 0.50" in section
    assert "| oneDNN | 0.80" in section
    assert "0.50 JAX" in page.split("## Every case")[1]


def test_memory_table(benchmarks):
    rows = benchmarks("report").memory_rows([
        {"case": "memory-vgg16", "title": "VGG16", "size": "8x3x224x224",
         "bytes": {"torch": 2**30, "poolkit": 2**29},
         "saved_bytes": {"torch": 2**28, "poolkit": 2**26}}])  # fmt: skip
    kept, peak = ["256.0 MiB", "64.0 MiB", "0.25"], ["1024.0 MiB", "512.0 MiB", "0.50"]
    assert rows == [["VGG16", "8x3x224x224", *kept, *peak]]


# ---- targets of the time over the limit ----------------------------------------------------------


def holds(benchmarks, records, text):
    (target,) = (t for t in benchmarks("summary").targets(records, [], []) if text in t.text)
    return target.holds


@pytest.mark.parametrize(
    ("text", "most", "fields"),
    [
        ("windows up to 3x3", 1.5, {"beyond_cache": True}),
        ("planes 7 to 35 wide", 3, {"width": 7}),
        ("planes 7 to 35 wide", 3, {"width": 35, "kernel": [5, 1], "stride": [1, 1]}),
        ("planes 7 to 35 wide", 3, {"width": 35, "kernel": [], "stride": []}),
        ("windows of 5 to 31", 6, {"width": 20, "kernel": [5, 5], "stride": [1, 1]}),
        ("training forward: at most", 1.8, {"phase": "training"}),
        ("backward: at most 1.8", 1.8, {"phase": "backward"}),
    ],
)
def test_targets_of_the_time_over_the_limit(benchmarks, text, most, fields):
    """Each speaks of its own points, of float32 alone, and the page names those that miss it."""
    good, bad = (record(over_limit=most + more, **fields) for more in (0, 0.01))
    assert holds(benchmarks, [good], text)
    assert not holds(benchmarks, [good, bad], text)
    others = [bad | {"dtype": "bfloat16"}, bad | {"elements": 4096}, bad | {"over_limit": None}]
    assert holds(benchmarks, others, text) is None
    summary = benchmarks("summary")
    spoken_of = [
        t
        for t in summary.targets([bad], [], [])
        if "x the limit" in t.text or "own limit" in t.text
    ]
    assert [t.holds for t in spoken_of if text not in t.text] == [None] * 4
    page = benchmarks("report").markdown(results([good, bad]))
    section = page.split("## Where a target is missed")[1].split("##")[0]
    assert section.count("VGG 8x64x224x224 max 2/2") == 1
    assert text in section


def test_target_of_large_windows(benchmarks):
    def took(kernel, seconds, **fields):
        at = {"network": "Morphology", "kernel": [kernel] * 2, "stride": [1, 1]} | fields
        return record(seconds={"poolkit": spread(seconds)}, **at)

    text = "max 31x31"
    assert holds(benchmarks, [took(5, 1.0), took(31, 1.5)], text)
    assert not holds(benchmarks, [took(5, 1.0), took(31, 1.6)], text)
    last = {"layout": "channels_last"}
    both = [took(5, 1.0), took(31, 1.0), took(5, 1.0, **last), took(31, 1.6, **last)]
    assert not holds(benchmarks, both, text)
    assert holds(benchmarks, [took(5, 1.0), took(31, 9.0, **last)], text) is None
    assert holds(benchmarks, [took(5, 1.0), took(31, 9.0, family="avg")], text) is None


@pytest.mark.parametrize(("seconds", "falls"), [(0.52, True), (0.53, False)])
def test_target_of_narrow_types(benchmarks, seconds, falls):
    wide = record(read_bytes=400, written_bytes=100)
    narrow = record(
        dtype="bfloat16", read_bytes=200, written_bytes=50, seconds={"poolkit": spread(seconds)}
    )
    assert holds(benchmarks, [wide, narrow], "bfloat16: on average") is falls
    assert holds(benchmarks, [wide, narrow], "uint8: on average") is None
    assert holds(benchmarks, [narrow], "bfloat16: on average") is None


@pytest.mark.parametrize(
    ("family", "taps", "kept"), [("max", 256, 1), ("max", 257, 2), ("avg", 4, 0)]
)
def test_target_of_what_is_kept(benchmarks, family, taps, kept):
    for more in (0, 1):
        r = record(
            family=family, taps=taps, output_elements=10, saved_bytes={"poolkit": 10 * kept + more}
        )
        assert holds(benchmarks, [r], "kept for backward") is (more == 0)


def test_target_of_the_mean(benchmarks):
    text = "all 2-D cases"
    assert holds(benchmarks, [record(10.0), record(22.6)], text)
    assert not holds(benchmarks, [record(10.0), record(22.4)], text)
    elsewhere = [record(1.0, rank=3), record(1.0, layout="channels_last"), record(1.0, threads="1")]
    assert holds(benchmarks, [record(15.0), *elsewhere], text)
