"""The command ``poolkit rewrite``."""

import pickle
import re
import sys
import types

import pytest
import torch
from torch import nn

import poolkit

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run ``poolkit rewrite`` on a small network; gives (exit status, stdout, stderr)."""
    pytest.importorskip("click")
    from poolkit import cli
    from poolkit.audit.auditor import PARTS

    skipped = [word for part in PARTS for word in ("--skip", part)]
    loading = types.ModuleType("poolkit.loading")
    loading.load_model = lambda name: {"tiny": tiny, "relu": nn.ReLU}[name]()
    monkeypatch.setitem(sys.modules, "poolkit.loading", loading)

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["rewrite", *map(str, arguments), *skipped])
        return exit_.value.code, *capsys.readouterr()

    return call


def tiny():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2))


def test_command_writes_a_state_dict_and_a_program(run, tmp_path):
    torch.manual_seed(0)
    model = tiny()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    given = "tiny", "--policy", "polyphase", "--input", "2x3x32x32"
    given = *given, "--weights", tmp_path / "weights.pt", "--out"
    status, out, _ = run(*given, tmp_path / "new.pt")
    assert status == 0
    assert out.splitlines()[0].split() == ["module", "was", "is", "now"]
    assert "tiny -> tiny, polyphase, input 2 x 3 x 32 x 32" in out
    assert re.search(r"^1\.1 +max -> polyphase +16x16", out, re.MULTILINE)
    assert out.splitlines()[-1] == str(tmp_path / "new.pt")
    x = torch.randn(2, 3, 32, 32)
    report = poolkit.rewrite(model, "polyphase", x)
    model.load_state_dict(torch.load(tmp_path / "new.pt", weights_only=True))
    assert run(*given, tmp_path / "new.pt2")[0] == 0
    program = torch.export.load(tmp_path / "new.pt2").module()
    torch.testing.assert_close(program(x), model(x))
    assert report
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.pt", "new.pt2", "weights.pt"]


def test_command_refuses(run, tmp_path):
    class Code:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    (tmp_path / "code.pt").write_bytes(pickle.dumps(Code(), protocol=2))
    (tmp_path / "other.pt").mkdir()
    out = "--out", tmp_path / "new.pt"
    given = "tiny", "--policy", "antialias", "--input"
    for arguments, sentence in [
        ((*given, "1xx3", *out), "expected sizes such as 1x3x224x224, got '1xx3'"),
        ((*given, "1x3x32x32", "--out", tmp_path / "new.zip"), "--out must end in .pt or .pt2"),
        ((*given, "1x3x32x32", "--out", tmp_path / "none/new.pt"), "No such file or directory"),
        ((*given, "1x3x32x32", "--out", tmp_path / "other.pt"), "Is a directory"),
        ((*given, "1x3x32x32", "--weights", tmp_path / "code.pt", *out), "cannot load "),
        (
            (*given, "1x4x32x32", *out),
            "the model fails on an input of shape (1, 4, 32, 32): module",
        ),
    ]:
        status, printed, error = run(*arguments)
        assert (status, printed, error.count("\n")) == (2, "", 1)
        assert sentence in error
    assert run("relu", *given[1:], "1x3x8x8", *out)[:2] == (1, "no module was changed\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["code.pt", "other.pt"]
