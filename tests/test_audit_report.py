"""The faces of a report: its tables, its JSON, and two of them beside each other."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

import poolkit
from poolkit.audit.report import (
    Border,
    Consistency,
    Field,
    Head,
    Interval,
    Recommendation,
    Report,
    Stage,
    Totals,
    Unmeasured,
)
from poolkit.errors import ArgumentError

LONG = "encoder.blocks.3.downsample.branch.0.pool"
MAX = Stage(
    name=LONG,
    call=2,
    kind="max",
    side=False,
    input_shape=(2, 8, 17, 16),
    output_shape=(2, 8, 8, 8),
    kernel=(2, 2),
    stride=(2, 2),
    padding=((0, 0), (0, 1)),
    dilation=(1, 1),
    ceil_mode=True,
    border=(Border(1, 0, 0, 2, 1), Border(0, 0, 0, 2, 0, 3)),
    parameters=0,
    multiply_adds=0,
    comparisons=3072,
    additions=0,
    output_bytes=4096,
    saved_bytes=1024,
    saved_bytes_torch=2**21,
    index_bytes=1024,
    index_bytes_torch=8192,
    field=(Field(6, 4, 2.0, 0.5, 0.0, True, 6), Field(None, 4, 2.0, 0.5, -1.5, False)),
    effective_field=(5.25, 6.0),
    seconds=0.0005,
    seconds_torch=0.002,
    aliasing=0.125,
    feature_shift=math.inf,
)
GLOBAL = dataclasses.replace(
    MAX, name="head:mean", call=1, kind="global avg", kernel=None, stride=None, padding=None,
    border=None, field=None, effective_field=None, seconds=None, seconds_torch=None,
    aliasing=None, feature_shift=None,
)  # fmt: skip
REPORT = Report(
    model="Net",
    input_shape=(2, 3, 34, 32),
    machine={"processor": "some processor", "torch": "2.13.0"},
    stages=(MAX, GLOBAL),
    totals=Totals(
        1000, 50_000, 3072, 16, 8192, 2048, 2**21, 1024, 8192, 0.01, 0.02, (4, 4), (2, 2)
    ),
    head=Head("flatten + fc", "fc", (8, 8), 900, 0.9, 90, 900, False, (((51, 48), False),)),
    consistency=(
        Consistency(
            "roll", Interval(0.8, 0.7, 0.9, 32), Interval(0.2, 0.1, 0.3, 32), 32, 4, 8.0, 7
        ),
        Consistency("crop", None, Interval(0.25, 0.2, 0.3, 32), 32, 4, 16.0, 7),
    ),
    recommendations=(Recommendation("Mend 12.5 % of it.", "poolkit.rewrite(model)", LONG),),
    not_measured=(Unmeasured("the moon", "it is too far away " * 9),),
)
EMPTY = dataclasses.replace(
    REPORT, machine={}, stages=(), head=None, consistency=(), recommendations=(), not_measured=(),
    totals=dataclasses.replace(
        REPORT.totals, seconds=None, seconds_torch=None, smallest_input=None, divides_by=None
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def audited():
    """A real one."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(196, 5))
    return poolkit.audit(net, (1, 3, 16, 16), torch.rand(2, 3, 20, 20), seconds=0, progress=False)


# ---- tables -------------------------------------------------------------------------------------


def lines(text, heading):
    """The lines of a section, in words."""
    section = next(part for part in text.split("\n\n") if part.startswith(heading))
    return [line.split() for line in section.splitlines()[1:]]


def test_every_figure_is_in_the_tables():
    text = str(REPORT)
    name = next(line.split("  ")[1] for line in text.splitlines() if "#2" in line)
    assert LONG.endswith(name.removeprefix("...").removesuffix(" #2"))
    first = name.split()

    def row(heading, number=1):
        return " ".join(lines(text, heading)[number])

    assert text.startswith("Net, input 2 x 3 x 34 x 32\nprocessor some processor, torch 2.13.0\n")
    assert row("Where") == " ".join([*first, "max 8x17x16 -> 8x8x8 2 2 0x0/1, ceil"])
    assert row("Where", 2) == "head:mean global avg 8x17x16 -> 8x8x8 - - -, ceil"
    assert row("At the border") == " ".join([*first, "17x16 1x0 0 0x3 2 n + 1x2 n"])
    assert "divide by 2 x 2 lose nothing" in text
    assert "smallest input that works: 4 x 4." in text
    assert row("What a value") == " ".join([*first, "6xall 4 5.25x6 2 +0x-1.5! 12.5 % inf %"])
    assert row("What a value", 2) == "head:mean - - - - - - -"
    assert row("Operations", 3) == "the model 1,000 100 % 50,000 100 % 3,072 16"
    assert row("Memory") == " ".join([*first, "4.0 KiB 2.0 MiB 1.0 KiB 8.0 KiB 1.0 KiB"])
    assert row("Time") == " ".join([*first, "2 ms 10 % 500 µs 4"])
    assert row("Time", 2) == "head:mean - - - -"
    assert row("When") == "roll 8 px 80 % 70 % to 90 % 20 % 10 % to 30 %"
    assert row("When", 2) == "crop 16 px - - 25 % 20 % to 30 %"
    assert row("When", 3) == "32 pictures, 4 moves of each and kind, seed 7"
    assert "fc: flatten + fc of a 8 x 8 map, 900 parameters, 90 % of the model's;" in text
    assert "one linear layer: 90 parameters." in " ".join(text.split())
    assert "51 x 48 fails." in text
    assert "- Mend 12.5 % of it.\n        poolkit.rewrite(model)" in text
    assert "- the moon: it is too far away" in text
    assert max(map(len, text.splitlines())) <= 100


def test_an_empty_report():
    text = str(EMPTY)
    assert "No stage shrinks a map or pools." in text
    assert "Time" not in text
    assert "None" not in text


def test_a_real_report(audited):
    text = str(audited)
    assert " ".join(lines(text, "Where")[1]) == "1 max 4x14x14 -> 4x7x7 2 2 0"
    assert max(map(len, text.splitlines())) <= 100


# ---- JSON ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [REPORT, EMPTY], ids=["full", "empty"])
def test_json_round_trip(report):
    assert repr(Report.from_json(report.to_json())) == repr(report)  # types too


def test_json_of_a_real_report(audited, tmp_path):
    pytest.importorskip("PIL", reason="files are written with the tools")
    text = audited.to_json(tmp_path / "report.json")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == text
    assert Report.from_json(text) == audited
    with pytest.raises(OSError, match="No such file"):
        audited.to_json(tmp_path / "none" / "report.json")


def changed(change):
    plain = json.loads(REPORT.to_json())
    change(plain)
    return json.dumps(plain)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "expected JSON, got '{'"),
        ("[]", "expected the format 'poolkit.audit', version 1, got None"),
        (changed(lambda p: p.update(version=2)), "version 1, got 'poolkit.audit', version 2"),
        (changed(lambda p: p["totals"].pop("seconds")), r"report\.totals\.seconds is missing"),
        (changed(lambda p: p["head"].update(x=1)), r"report\.head has no field 'x'"),
        (
            changed(lambda p: p["stages"][1].update(parameters="3")),
            r"report\.stages\[1\]\.parameters must be int, got '3'",
        ),
        (
            changed(lambda p: p["stages"][0].update(side=1)),
            r"report\.stages\[0\]\.side must be bool, got 1",
        ),
        (
            changed(lambda p: p["stages"][0].update(padding=[[1]])),
            r"report\.stages\[0\]\.padding\[0\] must be 2 values, got \[1\]",
        ),
        (changed(lambda p: p.update(machine=[])), r"report\.machine must be an object, got \[\]"),
    ],
)
def test_bad_json(text, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        Report.from_json(text)


def test_a_field_with_a_default_may_be_missing():
    text = changed(lambda p: p["stages"][0]["border"][0].pop("skipped"))
    assert Report.from_json(text) == REPORT


# ---- comparison ---------------------------------------------------------------------------------


def test_compare():
    blurred = dataclasses.replace(MAX, kind="max blur", aliasing=0.0, seconds=None)
    new = dataclasses.replace(GLOBAL, name="added")
    roll = dataclasses.replace(
        REPORT.consistency[0],
        top1=Interval(0.95, 0.91, 0.99, 32),
        distance=Interval(0.2, 0.3, 0.4, 32),
    )
    later = dataclasses.replace(
        REPORT,
        model="Later",
        stages=(new, blurred),
        totals=dataclasses.replace(REPORT.totals, comparisons=1536, seconds=None, additions=20),
        consistency=(roll,),
    )
    found = REPORT.compare(later)
    assert [(pair.name, pair.before, pair.after) for pair in found.stages] == [
        ("added", None, new),
        (LONG, MAX, blurred),
        ("head:mean", GLOBAL, None),
    ]
    assert found.total("comparisons").ratio == 0.5
    assert found.total("seconds").ratio is None
    assert found.consistency[0].top1_overlap is False
    assert found.consistency[0].distance_overlap is True  # they touch
    assert (found.consistency[1].kind, found.consistency[1].after) == ("crop", None)
    assert found.consistency[1].distance_overlap is None
    rows = [" ".join(line.split()) for line in str(found).splitlines()]
    assert rows[0] == "Net -> Later, input 2 x 3 x 34 x 32"
    assert "comparisons 3,072 1,536 -50 %" in rows
    assert "parameters 1,000 1,000 same" in rows
    assert "seconds 10 ms - -" in rows
    assert "added global avg, new 8x8 1.0 KiB - -" in rows
    assert "head:mean global avg, gone 8x8 1.0 KiB - -" in rows
    assert any(
        row.endswith("max -> max blur 8x8 1.0 KiB 500 µs -> - 12.5 % -> 0 %") for row in rows
    )
    assert "roll same top class 80 % (70 % to 90 %) 95 % (91 % to 99 %) intervals apart" in rows
    assert "crop logits moved 25 % (20 % to 30 %) -" in rows
    with pytest.raises(ArgumentError, match=r"expected one of parameters, .* got 'flops'"):
        found.total("flops")
    with pytest.raises(ArgumentError, match="expected a Report, got str"):
        REPORT.compare("later")


def test_compare_finds_what_took_a_stage_s_place():
    def net(*stages):
        made = [
            dataclasses.replace(MAX, name=name, call=call, kind=kind, output_shape=(2, *shape))
            for name, call, kind, shape in stages
        ]
        return dataclasses.replace(REPORT, stages=tuple(made))

    before = net(
        ("conv1", 1, "strided conv", (64, 8, 8)),
        ("pool", 1, "max", (64, 4, 4)),
        ("layer.0.conv1", 1, "strided conv", (128, 2, 2)),
        ("layer.0.short.0", 1, "strided conv", (128, 2, 2)),
        ("head:max_pool2d", 1, "max", (128, 1, 1)),
        ("last", 1, "max", (128, 1, 1)),
    )
    after = net(
        ("conv1.down", 1, "polyphase", (64, 8, 8)),
        ("pool.0", 1, "max", (64, 8, 8)),  # with stride 1 now: its map is another
        ("pool.1", 1, "polyphase", (64, 4, 4)),
        ("layer.0.relu.1", 1, "blur", (128, 2, 2)),
        ("layer.0.short.0.down", 1, "blur", (64, 2, 2)),  # before the 1 x 1 convolution
        ("head.max_pool2d", 1, "blur", (128, 1, 1)),
        ("other.last", 1, "max", (64, 1, 1)),
    )
    found = before.compare(after)
    pairs = [(p.before and p.before.name, p.after and p.after.name) for p in found.stages]
    assert pairs == [
        ("conv1", "conv1.down"),
        (None, "pool.0"),
        ("pool", "pool.1"),
        ("layer.0.conv1", "layer.0.relu.1"),
        ("layer.0.short.0", "layer.0.short.0.down"),
        ("head:max_pool2d", "head.max_pool2d"),
        (None, "other.last"),
        ("last", None),
    ]
    assert "strided conv -> polyphase" in str(found)
    assert "is no stage any more" in str(found)
    assert "is no stage any more" not in str(before.compare(before))


def test_compare_nothing_with_something():
    some = dataclasses.replace(EMPTY, totals=dataclasses.replace(EMPTY.totals, additions=0))
    assert some.compare(EMPTY).total("additions").ratio == math.inf
    assert EMPTY.compare(EMPTY).total("additions").ratio == 1
    other = dataclasses.replace(EMPTY, input_shape=(1, 3, 8, 8))
    assert "-> 1 x 3 x 8 x 8: other sizes, other figures" in str(EMPTY.compare(other))
