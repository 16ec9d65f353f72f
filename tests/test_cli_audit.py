"""``poolkit audit``: what it prints and writes, when it fails, and how it refuses bad input."""

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("click")

import numpy as np
from PIL import Image

import poolkit
from poolkit import cli
from poolkit.audit import gate
from poolkit.audit.report import Report

FILE = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def still():
    return nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
"""
FAST = ("--input", "1x3x16x16", "--skip", "time", "--skip", "memory", "--skip", "fields")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: a file with models, and a folder with two pictures."""
    (tmp_path / "nets.py").write_text(FILE)
    (tmp_path / "pictures").mkdir()
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{seed}.png")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("_nets", None)


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command in this process; gives (exit status, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["audit", *map(str, arguments)])
        output = capsys.readouterr()
        return exit_.value.code, output.out, output.err

    return call


def test_audit_prints_and_writes(run, folder):
    state = torch.get_rng_state()
    status, out, err = run(
        "nets.py:make", *FAST, "--images", "pictures", "--json", "report.json", "--seed", 3
    )
    assert (status, err) == (0, "")
    assert torch.equal(torch.get_rng_state(), state)
    report = Report.from_json((folder / "report.json").read_text(encoding="utf-8"))
    assert out == f"{report}\nreport.json\n"
    assert (report.model, report.input_shape) == ("nets.py:make", (1, 3, 16, 16))
    assert [stage.kind for stage in report.stages] == ["max", "global avg"]
    assert {(c.images, c.seed) for c in report.consistency} == {(2, 3)}
    assert report.totals.seconds is None
    torch.rand(1)  # the process draws on
    again = run("nets.py:make", *FAST, "--images", "pictures", "--seed", 3)
    assert again[1] == f"{report}\n"  # the same weights


def test_audit_writes_a_page(run, folder):
    status, out, _ = run("nets.py:make", *FAST, "--images", "pictures", "--html", "report.html")
    assert status == 0
    assert out.endswith("\nreport.html\n")
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")


def test_audit_loads_weights(run, folder):
    torch.save({"0.weight": torch.zeros(4, 3, 3, 3), "0.bias": torch.ones(4)}, "w.pt")
    arguments = ("nets.py:make", *FAST, "--images", "pictures", "--json", "report.json")
    run(*arguments, "--weights", "w.pt")
    report = json.loads((folder / "report.json").read_text())
    assert all(c["distance"]["mean"] == 0 for c in report["consistency"])


def test_fail_under(run, folder):
    arguments = ("nets.py:make", *FAST, "--skip", "aliasing", "--skip", "consistency")
    status, out, err = run(*arguments, "--fail-under", "roll=0.5", "--fail-under", "speedup=1")
    assert status == 1
    assert out.startswith("nets.py:make, input 1 x 3 x 16 x 16")
    assert err.splitlines() == [
        "poolkit: audit: roll was not measured, so nothing shows that it is 0.5 or more",
        "poolkit: audit: speedup was not measured, so nothing shows that it is 1 or more",
    ]
    shown = (*FAST, "--images", "pictures", "--json", "report.json")
    status, _, err = run("nets.py:make", *shown, "--fail-under", "similarity=1.5")
    assert status == 1
    assert err.startswith("poolkit: audit: similarity is ")
    assert err.endswith(", below 1.5\n")
    assert (folder / "report.json").exists()  # a failed build wants to know
    assert run("nets.py:make", *shown, "--fail-under", "similarity=0.0001")[0] == 0


def test_keys():
    """What each stands for, on figures that differ everywhere."""
    from poolkit.audit.report import Consistency, Interval, Totals

    def moves(kind, top1, distance):
        spread = [value and Interval(value, 0.0, 1.0, 9) for value in (top1, distance)]
        return Consistency(kind, *spread, 9, 4, 1.0, 0)

    totals = Totals(0, 0, 0, 0, 0, 0, 0, 0, 0, 0.25, 0.5, None, None)
    found = (moves("roll", 0.75, 0.125), moves("crop", 0.5, 0.25), moves("fractional", 0.875, 0.5))
    report = Report("net", (1, 3, 8, 8), {}, (), totals, None, found, (), ())
    values = {key: figure(report) for key, figure in gate.KEYS.items()}
    assert values == {
        "consistency": 0.5,
        "roll": 0.75,
        "crop": 0.5,
        "fractional": 0.875,
        "similarity": 0.5,
        "speedup": 2.0,
    }
    limits = {"roll": 0.75, "crop": 0.6}
    assert gate.below(report, limits) == ["crop is 0.5, below 0.6"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("nets.py:make --input 3x224x", "expected sizes such as 1x3x224x224, got '3x224x'"),
        ("nets.py:make --input 3x224", "at least one axis more"),
        ("nets.py:make --input 1x4x16x16", "the model fails on an input of shape (1, 4, 16, 16)"),
        ("Resnet18", "no model 'Resnet18': did you mean ResNet18"),
        ("nets.pt", "unpickling a module runs"),
        ("nets.py:make --input 1x3x16x16 --images empty", "empty"),
        ("nets.py:make --input 1x3x16x16 --images nets.py", "nets.py"),
        ("nets.py:make --input 1x3x16x16 --images none", "none"),
        ("nets.py:make --weights nets.py", "cannot load nets.py: expected tensors by name"),
        ("nets.py:make --weights junk.pt", "cannot load junk.pt: expected tensors by name"),
        ("nets.py:make --weights code.pt", "else it may hold is not unpickled (UnpicklingError)"),
        ("nets.py:make --fail-under consistent=1", "got 'consistent=1'"),
        ("nets.py:make --fail-under consistency=nan", "got 'consistency=nan'"),
        ("nets.py:make --skip times", "'times' is not one of"),
    ],
)
def test_bad_input(run, folder, arguments, sentence):
    (folder / "empty").mkdir()
    (folder / "junk.pt").write_bytes(b"junk")
    torch.save({"0.weight": Path}, folder / "code.pt")
    status, out, err = run(*arguments.split())
    assert (status, out) == (2, "")
    assert err.startswith("poolkit: ")
    assert err.count("\n") == 1
    assert sentence in err


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_an_unwritable_path_is_refused_before_anything_is_measured(
    run, folder, monkeypatch, option
):
    monkeypatch.setattr(poolkit, "audit", lambda *_, **__: pytest.fail("it measured"))
    status, out, err = run("nets.py:make", option, "none/report")
    assert (status, out) == (2, "")
    assert err == "poolkit: none/report: No such file or directory\n"


def test_an_interrupt_leaves_nothing(run, folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(poolkit, "audit", interrupted)
    before = sorted(folder.iterdir())
    assert run("nets.py:make", "--json", "report.json", "--html", "report.html")[0] == 130
    assert sorted(folder.iterdir()) == before
