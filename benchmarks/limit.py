"""The physical limit: limit.cpp, compiled at first use and run on torch's own threads."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("limit.cpp")
BUILD = Path(__file__).parents[1] / "build" / "limit"
FLAGS = ("-std=c++20", "-O3", "-march=native", "-shared", "-fPIC")


class LimitError(RuntimeError):
    """The streaming kernel cannot be built or loaded; ratios to the limit are then missing."""


def compiler() -> str:
    """The C++ compiler: $CXX, or the first there is."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name.split()[0]):
            return name
    raise LimitError("no C++ compiler: set CXX, or install g++ or clang++")


def version() -> str:
    """The compiler's name and version, as in `g++ 12.2.0`."""
    command = compiler().split()
    run = subprocess.run(
        [*command, "-dumpfullversion"], capture_output=True, text=True, check=False
    )
    if run.returncode:
        run = subprocess.run(
            [*command, "-dumpversion"], capture_output=True, text=True, check=False
        )
    return f"{Path(command[0]).name} {run.stdout.strip()}"


def _processor_flags() -> str:
    """What -march=native depends on, where the system tells: a build folder may move."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    return next((line for line in lines if line.startswith("flags")), "")


def _library(cxx: str) -> Path:
    """The compiled kernel; its name follows from what it was made of."""
    source = SOURCE.read_text(encoding="utf-8")
    recipe = "\n".join([source, cxx, *FLAGS, _processor_flags()])
    library = BUILD / f"limit-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.so"
    if library.exists():
        return library
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:  # renamed once whole: runs may overlap
        made = Path(folder) / library.name
        command = [*cxx.split(), *FLAGS, SOURCE.name, "-o", str(made)]
        run = subprocess.run(
            command, cwd=SOURCE.parent, capture_output=True, text=True, check=False
        )
        if run.returncode:
            reason = (run.stderr.strip().splitlines() or ["no message"])[0]
            raise LimitError(f"{cxx} cannot compile {SOURCE.name}: {reason}")
        made.replace(library)
    return library


@functools.cache
def _kernel() -> tuple[Callable[..., int], ctypes.c_void_p]:
    """The kernel, and torch's parallel_for to run it with."""
    try:
        kernel = ctypes.CDLL(str(_library(compiler()))).poolkit_limit
        torch_ = ctypes.CDLL(torch._C.__file__)  # finds the symbol in what it was linked with
        parallel_for = ctypes.cast(torch_.torch_parallel_for, ctypes.c_void_p)
    except (OSError, AttributeError) as error:
        reason = str(error).replace(f"{BUILD}/", "")  # reports name no paths
        raise LimitError(f"the streaming kernel does not load: {reason}") from error
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    kernel.argtypes = [pointer, size, pointer, size, pointer]
    kernel.restype = ctypes.c_uint64
    return kernel, parallel_for


def stream(source: Tensor, written: int) -> Callable[[], int]:
    """A call that reads the memory of ``source`` and writes ``written`` bytes; gives a checksum.

    ``source`` is dense in memory, in whatever order. The destination is written once here, so that
    no timed call pays for fresh pages.
    """
    kernel, parallel_for = _kernel()
    target = torch.zeros(max(written, 1), dtype=torch.uint8).fill_(1)
    arguments = (
        ctypes.c_void_p(source.data_ptr()),
        ctypes.c_int64(source.numel() * source.element_size()),
        ctypes.c_void_p(target.data_ptr()),
        ctypes.c_int64(written),
        parallel_for,
    )

    def run(kept: tuple[Tensor, Tensor] = (source, target)) -> int:
        return kernel(*arguments)

    return run
