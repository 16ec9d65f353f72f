"""Finding and loading the native CPU library.

The wheel carries one library per instruction set, built from the same sources. Exactly one is
loaded: the best that the processor runs, or the one that the environment variable `POOLKIT_ISA`
names (`baseline`, `v3` or `v4`; `none` loads nothing, so that the reference serves every call).
"""

import ctypes
import os
import platform
from pathlib import Path

import torch

__all__ = ["ISAS", "MIN_TORCH", "LibraryError", "best_isa", "isa", "library_path", "load"]

ISAS = ("baseline", "v3", "v4")
"""Instruction sets, each a superset of the one before; arm64 has the baseline alone."""

MIN_TORCH = "2.11"
"""The release whose stable ABI the library targets."""

_FOLDER = Path(__file__).parent

_isa: str | None = None


class LibraryError(RuntimeError):
    """The native library cannot serve; the message says why."""


def isa() -> str | None:
    """Return the instruction set of the loaded library, or None while none is loaded."""
    return _isa


def library_path() -> Path | None:
    """Return the file of the loaded library, or None while none is loaded."""
    return None if _isa is None else _path(_isa)


def best_isa() -> str:
    """Return the best of `ISAS` that this processor supports, whether or not a library has it.

    Raises:
        LibraryError: the probe, a small library beside the others, is missing or does not load.
    """
    path = _FOLDER / "poolkit_probe.so"
    try:
        probe = ctypes.CDLL(str(path)).poolkit_best_isa
    except (OSError, AttributeError) as error:
        raise _error(path, error) from error
    probe.restype = ctypes.c_char_p
    return str(probe().decode())


def load() -> None:
    """Load one native library, which registers the `poolkit::` operators; do so once.

    Raises:
        LibraryError: `POOLKIT_ISA` rules it out, or the library is missing or does not load.
    """
    global _isa  # noqa: PLW0603  the library is loaded once per process
    if _isa is not None:
        return
    chosen = _choose(os.environ.get("POOLKIT_ISA", ""))
    path = _path(chosen)
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise _error(path, error) from error
    _isa = chosen


def _path(isa: str) -> Path:
    return _FOLDER / f"poolkit_{isa}.so"


def _choose(forced: str) -> str:
    choices = f"POOLKIT_ISA takes {', '.join(ISAS)} or none"
    if forced == "none":
        raise LibraryError("POOLKIT_ISA=none: no native library was loaded, as asked")
    if forced and forced not in ISAS:
        raise LibraryError(f"POOLKIT_ISA={forced} is no instruction set; {choices}")
    best = best_isa()
    supported = ISAS[: ISAS.index(best) + 1]
    if not forced:
        # A build for one instruction set alone (arm64, sanitizers) has only some of the files.
        return next((isa for isa in reversed(supported) if _path(isa).exists()), "baseline")
    if forced not in supported:
        raise LibraryError(
            f"POOLKIT_ISA={forced} is beyond this processor, which supports "
            f"{', '.join(supported)}; {choices}"
        )
    return forced


def _error(path: Path, error: Exception) -> LibraryError:
    """Say what did not load and where, then the probable causes, likeliest first."""
    causes = []
    if not path.exists():
        causes.append("the file is missing, so install a wheel rather than use a source tree")
    if torch.__version__ < MIN_TORCH:
        causes.append("torch is too old")
    causes.append("the wheel was built for another platform")
    numbered = ", ".join(f"({number}) {cause}" for number, cause in enumerate(causes, 1))
    words = error.__cause__ or error  # torch wraps the loader's own words
    return LibraryError(
        f"cannot load {path}: {words}. Probable causes: {numbered}. This is "
        f"{platform.platform()} with torch {torch.__version__}; poolkit needs torch >= {MIN_TORCH}"
    )
