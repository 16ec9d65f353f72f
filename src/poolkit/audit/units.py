"""Figures as a reader wants them: three digits, and a unit."""

from collections.abc import Sequence


def by(sizes: Sequence[int]) -> str:
    """``7 x 7``."""
    return " x ".join(map(str, sizes))


def percent(share: float) -> str:
    """A share from 0 to 1 as ``4.39 %``."""
    return f"{100 * share:.3g} %"


def duration(seconds: float) -> str:
    """Milliseconds."""
    return f"{1000 * seconds:.3g} ms"


def memory(count: int) -> str:
    """Bytes as KiB or MiB."""
    if not count:
        return "0"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
