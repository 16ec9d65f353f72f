"""How an audit writes its numbers, in every output the same."""

from collections.abc import Sequence

__all__ = ["by", "byte_count", "counted", "duration", "percent"]


def by(sizes: Sequence[float]) -> str:
    """``224 x 224``."""
    return " x ".join(f"{size:g}" for size in sizes)


def counted(number: int, what: str) -> str:
    """``1 stage``, ``2 stages``."""
    return f"{number:,} {what}" + ("s" if number != 1 else "")


def percent(share: float) -> str:
    """``12.3 %`` of 0.123."""
    return f"{100 * share:.3g} %"


def duration(seconds: float) -> str:
    """Three digits in the unit that leaves the fewest zeros, from microseconds to seconds."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            value = seconds / size
            return f"{value:.0f} {unit}" if value >= 999.5 else f"{value:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def byte_count(count: int) -> str:
    """Bytes, KiB or MiB."""
    if count >= 2**20:
        return f"{count / 2**20:,.1f} MiB"
    return f"{count / 2**10:.1f} KiB" if count >= 2**10 else f"{count} bytes"
