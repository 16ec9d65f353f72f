"""The data caches of this machine, as Linux tells them."""

import functools
from pathlib import Path


def caches() -> str:
    """Data caches of the first core, as in `L1 32K, L2 1024K, L3 32768K`."""
    return ", ".join(f"L{level} {size}" for level, size in sorted(_caches().items()))


@functools.cache
def largest_cache() -> int:
    """Bytes; 0 where the system names none, and then nothing is taken to fit."""
    sizes = (size for size in _caches().values() if size.endswith("K"))
    return max((int(size[:-1]) * 1024 for size in sizes), default=0)


def _caches() -> dict[str, str]:
    """Sizes by level."""
    found = {}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        kind, level, size = (_read(folder / name) for name in ("type", "level", "size"))
        if kind != "Instruction":
            found[level] = size
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
