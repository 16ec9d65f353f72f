"""95 % intervals of means and of shares, with torch alone."""

import math
from collections.abc import Sequence

from .report import Interval

__all__ = ["mean", "share", "student"]

LEVEL = 0.975  # the quantile that leaves 5 % outside, half of them at either side
NORMAL = 1.959963984540054


def mean(values: Sequence[float]) -> Interval:
    r"""The mean of independent values, with Student's interval.

    .. math:: \bar x \pm t_{n-1} \, s / \sqrt n

    Args:
        values: at least two, finite, independent of each other and not negative; the interval is
            cut at 0, below which no such mean can be.

    Example:
        >>> from poolkit.audit import intervals
        >>> found = intervals.mean([1.0, 2.0, 3.0])
        >>> found.mean, round(found.low, 3), round(found.high, 3), found.count
        (2.0, 0.0, 4.484, 3)

    Source: Student, "The Probable Error of a Mean", Biometrika 6, 1908.
    """
    count = len(values)
    middle = math.fsum(values) / count
    variance = math.fsum((value - middle) ** 2 for value in values) / (count - 1)
    half = student(count - 1) * math.sqrt(variance / count)
    return Interval(middle, max(0.0, middle - half), middle + half, count)


def share(values: Sequence[float]) -> Interval:
    r"""The mean of independent shares between 0 and 1, with Wilson's score interval.

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4n^2}}{1 + z^2 / n}

    Wilson's interval is for yes and no; it holds for shares, too, because of all values between 0
    and 1 with the mean p none spread more than yes and no do. It is never empty: of 32 times "yes"
    it says that the share is 89 % or more.

    Args:
        values: at least one, from 0 to 1, independent of each other.

    Example:
        >>> from poolkit.audit import intervals
        >>> found = intervals.share([1.0] * 32)
        >>> found.mean, round(found.low, 3), found.high
        (1.0, 0.893, 1.0)

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22,
    1927.
    """
    n = len(values)
    p = math.fsum(values) / n
    scale = 1 + NORMAL**2 / n
    middle = (p + NORMAL**2 / (2 * n)) / scale
    half = NORMAL * math.sqrt(p * (1 - p) / n + NORMAL**2 / (4 * n**2)) / scale
    # The ends are 0 and 1 for p of 0 and 1; rounding must not put them on the wrong side.
    return Interval(p, min(p, max(0.0, middle - half)), max(p, min(1.0, middle + half)), n)


def student(freedom: int) -> float:
    """The t that Student's distribution exceeds with a probability of 2.5 %.

    Args:
        freedom: degrees of freedom, 1 or more.

    Example:
        >>> from poolkit.audit import intervals
        >>> [round(intervals.student(n), 3) for n in (1, 2, 31)]
        [12.706, 4.303, 2.04]
    """
    low, high = 0.0, 16.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle, freedom) < LEVEL else (low, middle)
    return high


def _below(t: float, freedom: int) -> float:
    """The distribution function, as a finite sum over the powers of a cosine.

    Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    both = math.sin(angle) * total
    return 0.5 + ((angle + both) / math.pi if odd else both / 2)
