"""The installed wheel: its tag, its binaries, and how the native library is chosen and loaded.

Binutils (`nm`, `objdump`) come with every compiler that can build the wheel.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import poolkit
from poolkit import cpu

PACKAGE = Path(poolkit.__file__).parent
LIBRARIES = sorted((PACKAGE / "cpu").glob("poolkit_*.so"))
REPOSITORY = Path(__file__).parents[1]

every_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.stem)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")
x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 has several libraries")

POOL = """
import torch, poolkit.functional as F
out = F.max_pool2d(torch.arange(16.0).reshape(1, 1, 4, 4), 2)
print(out.flatten().tolist())
"""
POOLED = "[5.0, 7.0, 13.0, 15.0]"


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def python(code, *flags, **env):
    """Run `code` in a fresh interpreter that sees the installed package and `env` besides."""
    return subprocess.run(
        [sys.executable, "-P", *flags, "-c", code],
        env={**{k: v for k, v in os.environ.items() if k != "POOLKIT_ISA"}, **env},
        capture_output=True,
        text=True,
        check=False,
    )


# ---- What is in the wheel -----------------------------------------------------------------------


def test_tests_see_the_installed_package():
    """The tests prove nothing about the wheel if they import the source tree."""
    assert not PACKAGE.is_relative_to(REPOSITORY / "src")


def test_tag():
    """One wheel serves every Python: no CPython version and no ABI in the tag."""
    wheel = metadata.distribution("poolkit").read_text("WHEEL")
    tags = re.findall(r"^Tag: (.+)$", wheel, re.MULTILINE)
    assert tags
    assert all(re.fullmatch(r"py3-none-(?!any$)\w+", tag) for tag in tags), tags


def test_files():
    """Every instruction set has its library, the types are marked, and no source is shipped."""
    isas = cpu.ISAS if platform.machine() == "x86_64" else ("baseline",)
    names = [f"poolkit_{name}" for name in ("probe", *isas)]
    assert [path.stem for path in LIBRARIES] == sorted(names)
    assert (PACKAGE / "py.typed").is_file()
    assert not [path for path in PACKAGE.rglob("*") if path.suffix in {".cpp", ".h"}]


def test_core_needs_torch_alone():
    """Everything that is not behind an extra is torch."""
    needs = [need for need in metadata.requires("poolkit") if "extra ==" not in need]
    assert [re.match(r"[\w-]+", need).group() for need in needs] == ["torch"]


def test_every_extra_is_pinned():
    """Whatever an extra or the build asks for has one version in constraints.txt."""

    def name(requirement):
        return re.match(r"[\w.-]+", requirement).group().lower().replace("_", "-")

    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[0].startswith("torch==")
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    wanted = {name(need) for need in metadata.requires("poolkit")}
    assert wanted <= {name(pin) for pin in pins}


# ---- What is in the binaries --------------------------------------------------------------------


@linux
@every_library
def test_stable_symbols_only(library):
    """No library asks torch for C++ symbols, which change with every release, or for Python."""
    undefined = output("nm", "-D", "-C", "--undefined-only", library)
    assert not re.findall(r".*\b(?:c10|at|torch)::.*", undefined)
    assert not re.findall(r" U _?Py[A-Z_].*", undefined)
    needed = re.findall(r"NEEDED\s+(\S+)", output("objdump", "-p", library))
    torch_libraries = [] if library.stem == "poolkit_probe" else ["libtorch_cpu.so"]
    assert [n for n in needed if n.startswith(("libtorch", "libc10"))] == torch_libraries
    assert not [n for n in needed if n.startswith(("libpython", "libgomp"))]


@linux
@every_library
def test_exports_nothing(library):
    """No symbol of ours can be taken for another library's, save the one that the probe offers."""
    lines = output("nm", "-D", "--defined-only", library).splitlines()
    wanted = ["poolkit_best_isa"] if library.stem == "poolkit_probe" else []
    assert [line.split()[-1] for line in lines] == wanted


@linux
@every_library
def test_no_build_paths(library):
    """A wheel does not tell where it was built, and does not look there for libraries."""
    data = library.read_bytes()
    for folder in (REPOSITORY, Path.home(), Path(sys.prefix), Path("site-packages")):
        assert str(folder).encode() not in data
    assert "RUNPATH" not in (headers := output("objdump", "-p", library))
    assert "RPATH" not in headers


@linux
@x86
@pytest.mark.parametrize(
    ("isa", "registers"), [("probe", ""), ("baseline", ""), ("v3", "y"), ("v4", "yz")]
)
def test_vector_registers(isa, registers):
    """The baseline runs on any processor; the others do use the registers they are built for."""
    disassembly = output("objdump", "-d", "--no-show-raw-insn", PACKAGE / f"cpu/poolkit_{isa}.so")
    assert set(re.findall(r"%([yz])mm\d", disassembly)) == set(registers)


# ---- Which library is loaded --------------------------------------------------------------------


def test_best_library_serves():
    """Unless told otherwise, the library for this processor's instruction set is the one loaded."""
    code = "import poolkit; c = poolkit.show_config(); print(c.kernels, c.isa, c.library.stem)"
    run = python(code, "-W", "error")
    assert run.stdout.split() == ["native", cpu.best_isa(), f"poolkit_{cpu.best_isa()}"], run.stderr


@linux
@pytest.mark.parametrize("isa", cpu.ISAS)
def test_forced_library(isa):
    """POOLKIT_ISA picks the library, only that one is mapped, and it computes the same."""
    if isa not in cpu.ISAS[: cpu.ISAS.index(cpu.best_isa()) + 1]:
        pytest.skip(f"this processor lacks {isa}")
    maps = r"""
import re
from pathlib import Path
print(*set(re.findall(r"poolkit_(?!probe)\w+", Path("/proc/self/maps").read_text())))
"""
    run = python(POOL + maps, "-W", "error", POOLKIT_ISA=isa)
    assert run.stdout.splitlines() == [POOLED, f"poolkit_{isa}"], run.stderr


@pytest.mark.parametrize("isa", ["avx2", "V3", "v4 "])
def test_unknown_instruction_set(isa):
    """A mistyped POOLKIT_ISA is said, with the choices, and the reference serves."""
    run = python(POOL, POOLKIT_ISA=isa)
    assert run.stdout.strip() == POOLED
    assert run.stderr.count("RuntimeWarning") == 1
    assert f"POOLKIT_ISA={isa} is no instruction set" in run.stderr
    assert "baseline, v3, v4 or none" in run.stderr


def test_unsupported_instruction_set(monkeypatch):
    """Forcing what the processor lacks is an error with the choices, not an illegal instruction."""
    monkeypatch.setattr(cpu, "best_isa", lambda: "baseline")
    monkeypatch.setattr(cpu, "_isa", None)
    monkeypatch.setenv("POOLKIT_ISA", "v4")
    with pytest.raises(cpu.LibraryError, match="beyond this processor, which supports baseline;"):
        cpu.load()


def test_build_for_one_instruction_set(tmp_path, monkeypatch):
    """Where a build has some of the libraries only, the best of those is taken."""
    monkeypatch.setattr(cpu, "best_isa", lambda: "v4")
    monkeypatch.setattr(cpu, "_FOLDER", tmp_path)
    (tmp_path / "poolkit_baseline.so").touch()
    assert cpu._choose("") == "baseline"
    (tmp_path / "poolkit_v3.so").touch()
    assert cpu._choose("") == "v3"


# ---- Without a library --------------------------------------------------------------------------


def test_reference_serves_when_asked():
    """POOLKIT_ISA=none loads nothing, says so once, and everything still computes."""
    report = "import poolkit; c = poolkit.show_config(); print(c.kernels, c.isa, c.library)"
    run = python(POOL + report, POOLKIT_ISA="none")
    assert run.stdout.splitlines() == [POOLED, "reference None None"], run.stderr
    assert run.stderr.count("RuntimeWarning") == 1
    assert "POOLKIT_ISA=none" in run.stderr


@pytest.mark.parametrize("damage", ["deleted", "truncated"])
def test_reference_serves_when_libraries_are_broken(tmp_path, damage):
    """Without usable binaries import works, one warning says what is wrong, calls compute."""
    copy = tmp_path / "poolkit"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for library in (copy / "cpu").glob("*.so"):
        if damage == "deleted":
            library.unlink()
        else:
            library.write_bytes(b"")
    run = python(POOL + "import poolkit; print(poolkit.__file__)", PYTHONPATH=str(tmp_path))
    assert run.stdout.splitlines() == [POOLED, str(copy / "__init__.py")], run.stderr
    assert run.stderr.count("RuntimeWarning") == 1
    assert f"cannot load {copy / 'cpu'}" in run.stderr
    assert ("the file is missing" in run.stderr) == (damage == "deleted")
    assert re.search(r"with torch \S+; poolkit needs torch >= 2\.11", run.stderr)


def test_library_that_does_not_load(tmp_path, monkeypatch):
    """A library that the loader refuses is reported with the loader's words and the platform."""
    monkeypatch.setattr(cpu, "_isa", None)
    monkeypatch.setattr(cpu, "_path", lambda isa: tmp_path / f"poolkit_{isa}.so")
    monkeypatch.delenv("POOLKIT_ISA", raising=False)
    (tmp_path / "poolkit_baseline.so").write_text("not a library")
    with pytest.raises(cpu.LibraryError, match=r"invalid ELF header|file too short") as caught:
        cpu.load()
    assert platform.machine() in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert cpu.isa() is None


def test_show_config_prints_a_table():
    """Every field has one line: name, then value."""
    lines = str(poolkit.show_config()).splitlines()
    assert len(lines) == 9
    assert lines[0].split() == ["version", metadata.version("poolkit")]
    assert all(re.match(r"[a-z ]+  \S", line) for line in lines)
