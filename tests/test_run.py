"""`python -m poolkit run`: the script finds what it would find under `python script.py`."""

import subprocess
import sys
import textwrap

import pytest
import torch

pytest.importorskip("click")

from poolkit import cli, cpu, ops
from poolkit import patch as patching

pytestmark = pytest.mark.skipif(not ops.NATIVE, reason="there is nothing to patch torch with")


@pytest.fixture
def run(capsys):
    """Run the command in this process; gives (exit status, stdout, stderr)."""

    def call(*arguments):
        before = sys.argv, list(sys.path), sys.modules["__main__"]
        with pytest.raises(SystemExit) as exit_:
            cli.main(["run", *map(str, arguments)])
        assert (sys.argv, list(sys.path), sys.modules["__main__"]) == before
        assert patching._patch.depth == 0
        output = capsys.readouterr()
        return exit_.value.code, output.out, output.err

    return call


@pytest.fixture
def script(tmp_path):
    """Write a script."""

    def write(text, name="script.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_pooling_is_patched(run, script):
    path = script("""
        import torch
        from torch.nn.functional import max_pool2d
        x = torch.ones(1, 1, 4, 4, requires_grad=True)
        print(type(max_pool2d(x, 2).grad_fn).__name__)
    """)
    status, out, err = run(path)
    assert (status, err) == (0, "")
    assert out == "_MaxPoolEagerBackward\n"
    assert type(
        torch.max_pool2d(torch.ones(1, 1, 4, 4, requires_grad=True), 2).grad_fn
    ).__name__.startswith("MaxPool2D")


def test_arguments_and_main(run, script):
    path = script("""
        import sys
        if __name__ == "__main__":
            print(sys.argv, __file__, sys.modules["__main__"].__dict__ is globals())
    """)
    arguments = ["--epochs", "3", "-m", "x", "--help", "--", "-v"]
    status, out, err = run(path, *arguments)
    assert (status, err) == (0, "")
    assert out == f"{[str(path), *arguments]} {path} True\n"


def test_modules(run, script, monkeypatch):
    path = script("import sys; print(__name__, sys.argv[1:])", "a_module.py")
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.chdir(path.parent)  # which, unless Python runs with -P, stands first
    assert run("-m", "a_module", "--flag")[:2] == (0, "__main__ ['--flag']\n")


@pytest.mark.parametrize(
    ("line", "status"), [("sys.exit(7)", 7), ("sys.exit()", None), ("sys.exit('no')", "no")]
)
def test_exit_statuses(run, script, line, status):
    assert run(script(f"import sys; {line}"))[0] == status


def test_tracebacks_are_the_script_s(run, script):
    path = script("""
        def f():
            open("/nonexistent")
        f()
    """)
    status, out, err = run(path)
    assert (status, out) == (1, "")
    lines = err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith(f'  File "{path}", line 4')
    assert lines[-1].startswith("FileNotFoundError")
    assert "runpy" not in err
    assert "poolkit" not in err


def test_errors_of_poolkit_s_own_kind_are_the_script_s_too(run, script):
    status, _, err = run(script("import poolkit; poolkit.unpatch_torch(); poolkit.unpatch_torch()"))
    assert status == 1
    assert "Traceback" in err
    assert "ArgumentError: unpatch_torch: torch is not patched" in err


def test_syntax_errors(run, script):
    status, _, err = run(script("def f(:"))
    assert status == 1
    assert err.splitlines()[0].startswith('  File "')
    assert "SyntaxError" in err


def test_interrupts(run, script):
    status, _, err = run(script("raise KeyboardInterrupt"))
    assert status == 130
    assert err.splitlines()[-1] == "KeyboardInterrupt"


@pytest.mark.parametrize("arguments", [
    ["missing.py"], ["-m", "missing_module"], ["-m", "missing.module"], ["-m", ".x"], [],
])  # fmt: skip
def test_refusals(run, arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("poolkit: ")
    assert err.count("\n") == 1


def test_without_kernels(run, script, monkeypatch):
    monkeypatch.setattr(cpu, "isa", lambda: None)
    status, out, err = run(script("print('ran')"))
    assert (status, out) == (2, "")
    assert "no native library" in err


def test_as_a_process(script):
    """From outside: the folder of the script is on the path, the status is the process's."""
    script("name = 'helper'", "beside.py")
    path = script("""
        import sys
        import beside, poolkit.patch
        print(beside.name, poolkit.patch._patch.depth, sys.path[0])
        sys.exit(3)
    """)
    result = subprocess.run(
        [sys.executable, "-m", "poolkit", "run", path], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (3, "")
    assert result.stdout == f"helper 1 {path.parent}\n"
