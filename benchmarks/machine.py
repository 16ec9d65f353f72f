"""The machine and the versions that figures belong to; nothing that names a host or a path."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from poolkit import cpu

from . import limit
from .caches import caches
from .measure import ALL_THREADS, load


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": ALL_THREADS,
        "caches": caches(),
        "memory_gib": memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": load(),
    }


def versions() -> dict[str, str]:
    return {
        "poolkit": _version("poolkit"),
        "kernels": cpu.isa() or "reference (no native library)",
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "compiler of the limit": compiler(),
    }


def processor() -> str:
    """The processor's name as its maker writes it, where the system tells."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            return round(int(line.split()[1]) / 2**20)
    return None


def compiler() -> str:
    try:
        return limit.version()
    except limit.LimitError:
        return "none"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "source tree"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
