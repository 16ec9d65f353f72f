"""A minute of random comparisons with torch, on the user's own machine."""

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from .config import show_config
from .errors import ArgumentError
from .table import aligned
from .testing import Case, comparable, random_case
from .window import as_int

__all__ = ["Failure", "SelfCheck", "Tally", "selfcheck"]


@dataclass(frozen=True)
class Tally:
    """The comparisons of one operator."""

    operator: str
    compared: int
    named: int
    """Those with a difference from torch that the table of deviations names."""
    failed: int


@dataclass(frozen=True)
class Failure:
    """The first comparison of an operator that failed. `str` of it is code that makes it again."""

    case: Case
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.case.operator}: {self.reason}\n\n"
            "    import torch\n"
            "    from math import inf\n"
            "    from poolkit.testing import Case\n"
            f"    {self.case}.check()"
        )


@dataclass(frozen=True)
class SelfCheck:
    """What :func:`selfcheck` found. `str` of it is a table, with the failures below it."""

    seed: int
    seconds: float
    """How long it took."""
    threads: tuple[int, ...]
    """The numbers of threads that were tried in turn."""
    tallies: tuple[Tally, ...]
    deviations: dict[str, int]
    """How many comparisons met each row of ``poolkit.testing.DEVIATIONS``, by its id."""
    failures: tuple[Failure, ...]
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """1 if a comparison failed, else 130 after Ctrl-C, else 0."""
        if self.failures:
            return 1
        return 130 if self.interrupted else 0

    def __str__(self) -> str:
        rows = [("operator", "compared", "named", "failed")]
        rows += [(t.operator, f"{t.compared}", f"{t.named}", f"{t.failed}") for t in self.tallies]
        compared, named, failed = (
            sum(getattr(t, column) for t in self.tallies) for column in rows[0][1:]
        )
        rows.append(("all", f"{compared}", f"{named}", f"{failed}"))
        parts = [aligned(rows, right=(1, 2, 3))]
        if self.deviations:
            met = [(f"  {name}", f"{count}") for name, count in self.deviations.items()]
            title = "named: deliberate differences from torch (poolkit.testing.DEVIATIONS)"
            parts.append(f"{title}\n{aligned(met, right=(1,))}")
        parts += [str(failure) for failure in self.failures]
        config = show_config()
        kernels = config.kernels if config.isa is None else f"{config.kernels} {config.isa}"
        ended = "interrupted after" if self.interrupted else "in"
        parts.append(
            f"{compared} comparisons with torch {config.torch}, {failed} failed, {ended} "
            f"{self.seconds:.0f} s; {kernels} kernels, threads "
            f"{' and '.join(map(str, self.threads))}, seed {self.seed}"
        )
        return "\n\n".join(parts)


def selfcheck(
    seconds: float = 60,
    seed: int | None = None,
    *,
    progress: Callable[[float], None] | None = None,
) -> SelfCheck:
    """Compare every core operator with torch, on random input, for a minute.

    Geometry, dtype, layout and values are drawn at random (NaN, infinities, ties, zeros of either
    sign and the extremes of the dtype among them); error or not, dtype, values, indices, strides
    and gradients are compared, with one thread and with all that torch uses, in turn. Maxima must
    agree in every bit, sums up to rounding. What torch lacks of the core is compared with what its
    own functions make of it (``poolkit.testing.comparable``). A difference that the table of
    deviations names is counted as such; where torch rounds too often or lacks the dtype, its result
    in a wider type is compared then.

    Args:
        seconds: how long; every operator is tried at least once, unless interrupted.
        seed: of all that is random; by default it is drawn. The result has it.
        progress: called with the seconds so far, before the first comparison (0) and after each.

    Returns:
        The number of comparisons per operator, and of each operator the first that failed, with the
        code that makes it again; ``print`` shows a table. Ctrl-C ends it early, with what was done
        so far. Random state, number of threads and modes of the caller are as before.

    Raises:
        ArgumentError: `seconds` or `seed` cannot be; or Python runs with ``-O``, which removes
            the assertions that compare.

    Example:
        >>> import poolkit
        >>> result = poolkit.selfcheck(seconds=1, seed=0)
        >>> result.exit_code, len(result.failures), result.interrupted
        (0, 0, False)
    """
    limit = _seconds(seconds)
    seed = random.SystemRandom().randrange(2**32) if seed is None else as_int(
        "selfcheck", "seed", seed, 0
    )  # fmt: skip
    if not __debug__:
        raise ArgumentError("selfcheck: python -O removes the assertions that compare")
    threads = tuple(sorted({1, torch.get_num_threads()}))
    counts = _Counts()
    start = time.monotonic()
    interrupted = False
    try:
        if progress is not None:
            progress(0.0)
        for number, case in enumerate(_cases(seed, threads)):
            if number >= len(comparable()) and time.monotonic() - start >= limit:
                break
            counts.add(case)
            if progress is not None:
                progress(time.monotonic() - start)
    except KeyboardInterrupt:
        interrupted = True
    return SelfCheck(
        seed, time.monotonic() - start, threads, counts.tallies(),
        dict(counts.deviations.most_common()), tuple(counts.failures.values()), interrupted,
    )  # fmt: skip


def _seconds(seconds: object) -> float:
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds < math.inf:  # type: ignore[operator]
        raise ArgumentError(f"selfcheck: seconds must be a number above 0, got {seconds!r}")
    return float(seconds)  # type: ignore[arg-type]


def _cases(seed: int, threads: tuple[int, ...]) -> Iterator[Case]:
    """Every operator in turn, for ever; a case depends on nothing but the seed and its place."""
    turn = 0
    while True:
        for operator in comparable():
            rng = random.Random(f"{seed}/{turn}/{operator}")  # noqa: S311  no secret
            yield random_case(operator, rng, threads[turn % len(threads)])
        turn += 1


@dataclass
class _Counts:
    """What has been compared so far."""

    compared: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    deviations: Counter[str] = field(default_factory=Counter)
    failures: dict[str, Failure] = field(default_factory=dict)

    def add(self, case: Case) -> None:
        operator, ids = case.operator, set[str]()
        reason = None
        try:
            ids = case.check()
        except AssertionError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  whatever it is, it is a failure to report
            reason = f"{type(error).__name__}: {error}"
        self.compared[operator] += 1
        self.named[operator] += bool(ids)
        self.deviations.update(ids)
        if reason is not None:
            self.failed[operator] += 1
            self.failures.setdefault(operator, Failure(case, reason.strip()))

    def tallies(self) -> tuple[Tally, ...]:
        return tuple(
            Tally(name, self.compared[name], self.named[name], self.failed[name])
            for name in comparable()
        )
