"""What a policy sees of a model, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch.nn import Module

from ..accelerate import Left, title
from ..errors import ArgumentError
from .observe import Call, Run


@dataclass(frozen=True)
class Options:
    """The arguments of a policy."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    blur: int = 3
    min_channels: int = 16


@dataclass
class Scan:
    """A model, its modules by their names, and a run of it."""

    model: Module
    run: Run | None
    options: Options
    names: dict[Module, tuple[str, ...]] = field(default_factory=dict)
    """Every module but the model itself, in order, with all its names."""

    def __post_init__(self) -> None:
        names: dict[Module, list[str]] = {}
        for name, module in self.model.named_modules(remove_duplicate=False):
            names.setdefault(module, []).append(name)
        self.names = {m: tuple(n) for m, n in names.items() if m is not self.model}
        every = [name for several in self.names.values() for name in several]
        for word in ("include", "exclude"):
            for pattern in getattr(self.options, word):
                if not any(fnmatchcase(name, pattern) for name in every):
                    raise ArgumentError(
                        f"rewrite: {word} must name modules of the model, got {pattern!r}"
                    )

    def calls(self, module: Module) -> list[Call]:
        """The calls of a module."""
        return [] if self.run is None else self.run.of(module)

    def excluded(self, module: Module) -> bool:
        """Whether the user's patterns leave this module out."""
        names = self.names.get(module, ())

        def matches(patterns: Sequence[str]) -> bool:
            return any(fnmatchcase(name, p) for name in names for p in patterns)

        include, exclude = self.options.include, self.options.exclude
        return bool(include and not matches(include)) or matches(exclude)


class Swap(NamedTuple):
    """One module for another, wherever the model has it."""

    old: Module
    new: Module
    now: str
    """The new module as the table shows it."""
    same_shape: bool = True
    """Whether each call must give the shapes that it gave before."""


@dataclass
class Plan:
    """The answer of a policy."""

    swaps: list[Swap] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def swap(self, old: Module, new: Module, now: str = "", *, same_shape: bool = True) -> None:
        """Plan a change."""
        self.swaps.append(Swap(old, new, now or title(type(new)), same_shape))

    def leave(self, scan: Scan, module: Module, reason: str) -> None:
        """Leave a module as it is. What the user excluded is not listed."""
        if not scan.excluded(module):
            self.left.append(Left(scan.names.get(module, ("",)), type(module), reason))
