"""Models by name: each kind of name, and one sentence for each that stands for nothing."""

import io
import os
import pickle
import sys
import zipfile

import pytest
import torch
from torch import nn

from poolkit import models
from poolkit.errors import ArgumentError
from poolkit.loading import load_model

FILE = """
from dataclasses import dataclass
from torch import nn
import neighbour

@dataclass
class Nested:
    factory = neighbour.make
    number = 3

ready = nn.ReLU()

def wants(channels, *, bias=True):
    return nn.Conv2d(channels, channels, 1, bias=bias)

def fails():
    raise RuntimeError("no weights\\nhere")

def nothing():
    return "a string"
"""
NEIGHBOUR = "from torch import nn\n\ndef make():\n    return nn.MaxPool2d(2)\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "neighbour.py").write_text(NEIGHBOUR)
    monkeypatch.chdir(tmp_path)
    if sys.flags.safe_path:  # then loading adds no folder by itself
        monkeypatch.syspath_prepend(str(tmp_path))
    path, modules = sys.path[:], set(sys.modules)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) & {"neighbour", "_mine", "_exits"} - modules:
        del sys.modules[name]


def test_files_and_modules(folder):
    assert isinstance(load_model("mine.py:Nested.factory"), nn.MaxPool2d)
    assert isinstance(load_model(f"{folder / 'mine.py'}:ready"), nn.ReLU)
    assert isinstance(load_model("neighbour:make"), nn.MaxPool2d)
    assert isinstance(load_model("torch.nn:Identity"), nn.Identity)


def test_names():
    with torch.device("meta"):
        assert type(load_model("AlexNet")) is models.AlexNet


def test_pytorchcv():
    pytest.importorskip("pytorchcv", reason="optional: models are looked up there")
    network = load_model("squeezenet_v1_1")
    assert sum(p.numel() for p in network.parameters()) == 1_235_496


def test_exported_programs(tmp_path):
    network, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)), torch.rand(1, 1, 8, 8)
    torch.export.save(torch.export.export(network, (x,)), tmp_path / "net.pt2")
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    assert torch.equal(load_model(str(tmp_path / "net.pt2"))(x), network(x))
    assert os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") == before


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_no_pickle_in_a_program_runs(tmp_path):
    """A program keeps its example inputs pickled; torch unpickles anything there."""
    network, x = nn.MaxPool2d(2), torch.rand(1, 1, 8, 8)
    good, bad, trace = tmp_path / "good.pt2", tmp_path / "bad.pt2", tmp_path / "ran"
    torch.export.save(torch.export.export(network, (x,)), good)
    bomb = io.BytesIO()
    torch.save(({"args": Bomb(str(trace))}, {}), bomb)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        pickled = [name for name in source.namelist() if name.endswith(".pt")]
        assert pickled
        for name in source.namelist():
            target.writestr(name, bomb.getvalue() if name in pickled else source.read(name))
    with pytest.raises(ArgumentError, match=r"cannot load .*bad\.pt2: expected what torch.export"):
        load_model(str(bad))
    assert not trace.exists()


def test_pickled_modules_are_refused_unread(tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(pickle.dumps(Bomb(str(tmp_path / "ran"))))
    with pytest.raises(ArgumentError, match=r"runs whatever code.*weights_only=True"):
        load_model(str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Resnet50", "no model 'Resnet50': did you mean ResNet50"),
        ("BasicBlock", "no model 'BasicBlock'.*one of AlexNet, Darknet53, "),
        ("", "no model ''"),
        ("mine.py", r"cannot load mine\.py: say what to call in it, such as mine\.py:make"),
        ("mine.py:", "expected package.module:factory or file.py:factory, got ''"),
        ("none.py:make", r"there is no file none\.py"),
        ("mine.py:redy", r"mine\.py has no 'redy': did you mean ready\?"),
        ("mine.py:wants", "called without arguments, and needs channels;"),
        ("mine.py:fails", "it raised RuntimeError: no weights$"),
        ("mine.py:nothing", "expected a torch.nn.Module from it, got str"),
        ("mine.py:Nested.number", "expected a module, or what returns one, got int"),
        ("no.such.module:make", "cannot import no.such.module: ModuleNotFoundError"),
        ("exits.py:make", r"cannot import exits\.py: SystemExit: 3"),
        ("none.pt2", r"cannot load none\.pt2: there is no such file"),
        ("text.pt2", r"cannot load text\.pt2: it is no archive"),
        ("weights.PTH", "unpickling a module runs"),
    ],
)
def test_bad_names(folder, name, sentence):
    (folder / "exits.py").write_text("raise SystemExit(3)\n")
    (folder / "text.pt2").write_text("text")
    with pytest.raises(ArgumentError, match=sentence):
        load_model(name)
