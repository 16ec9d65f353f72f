"""What serves poolkit's calls in this process."""

import platform
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path

import torch

from poolkit import cpu

__all__ = ["Config", "processor", "show_config"]


@dataclass(frozen=True)
class Config:
    """The parts that decide what runs and how fast; `print` shows them as a table."""

    version: str
    """poolkit's own version."""
    kernels: str
    """`"native"`, or `"reference"` when no native library is loaded."""
    library: Path | None
    """File of the native library."""
    isa: str | None
    """Instruction set of the native library: `"baseline"`, `"v3"` or `"v4"`."""
    cpu_supports: str | None
    """The best instruction set that the processor supports; None when unknown."""
    threads: int
    """Threads that one call may use, as `torch.get_num_threads` says."""
    torch: str
    """Version of torch."""
    python: str
    """Version of Python."""
    platform: str
    """Operating system and machine."""

    def __str__(self) -> str:
        rows = [(f.name.replace("_", " "), getattr(self, f.name)) for f in fields(self)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {_text(value)}" for name, value in rows)


def show_config() -> Config:
    """Return what serves poolkit's calls in this process.

    Returns:
        Versions, native library, instruction set and threads. `str` of it is a small table.

    Example:
        >>> import poolkit
        >>> poolkit.show_config().kernels in ("native", "reference")
        True
    """
    return Config(
        version=metadata.version("poolkit"),
        kernels="reference" if cpu.isa() is None else "native",
        library=cpu.library_path(),
        isa=cpu.isa(),
        cpu_supports=_cpu_supports(),
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        python=platform.python_version(),
        platform=platform.platform(),
    )


def _cpu_supports() -> str | None:
    try:
        return cpu.best_isa()
    except cpu.LibraryError:
        return None


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def processor() -> str:
    """The processor's name as its maker writes it, where the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
