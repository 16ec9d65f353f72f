"""What surgery did, and how it is undone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

from torch.nn import Module

from ..accelerate import Left, shown, title
from ..table import aligned
from .journal import Journal
from .plan import Plan, Scan


class Change(NamedTuple):
    """A module that another one took the place of, under one of its names.

    Example:
        >>> import poolkit, torch
        >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.MaxPool2d(2))
        >>> (change,) = poolkit.rewrite(model, "accelerate")
        >>> change.name, model[1] is change.new
        ('1', True)
    """

    name: str
    old: Module
    new: Module


class Row(NamedTuple):
    """A change as the table shows it: all names of the module in one row."""

    names: tuple[str, ...]
    was: str
    now: str


@dataclass(frozen=True, eq=False)
class Report(Sequence[Change]):
    """What :func:`rewrite` did: a sequence of changes. `str` is a table.

    A module that the model has under several names gives a change for each of them. A functional
    call that became a module has the module of torch that does the same as ``old``.

    Example:
        >>> import poolkit, torch
        >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.MaxPool2d(2))
        >>> report = poolkit.rewrite(model, "accelerate", exclude="1")
        >>> len(report), report.left, str(report)
        (0, (), 'no module was changed')
    """

    changes: tuple[Change, ...]
    left: tuple[Left, ...] = ()
    """What the policy would change and could not, each with the reason."""
    notes: tuple[str, ...] = ()
    """What to know about the rewritten model."""
    rows: tuple[Row, ...] = ()
    _journal: Journal = field(default_factory=Journal, repr=False)
    _modes: tuple[tuple[Module, Module, bool], ...] = field(default=(), repr=False)

    @overload
    def __getitem__(self, index: int) -> Change: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Change, ...]: ...
    def __getitem__(self, index: int | slice) -> Change | tuple[Change, ...]:
        return self.changes[index]

    def __len__(self) -> int:
        return len(self.changes)

    def __str__(self) -> str:
        rows = [("module", "was", "is now")]
        rows += [(shown(row.names), row.was, row.now) for row in self.rows]
        kept = [("left as it is", "class", "because it")]
        kept += [(shown(item.names), title(item.kind), item.reason) for item in self.left]
        parts = [aligned(rows)] if self.rows else ["no module was changed"]
        parts += [aligned(kept)] if self.left else []
        return "\n\n".join([*parts, *self.notes])

    @classmethod
    def of(cls, scan: Scan, plan: Plan, journal: Journal) -> "Report":
        """The report of a plan that was carried out."""
        return cls(
            tuple(Change(name, s.old, s.new) for s in plan.swaps for name in scan.names[s.old]),
            tuple(plan.left),
            tuple(plan.notes),
            tuple(Row(scan.names[s.old], title(type(s.old)), s.now) for s in plan.swaps),
            journal,
            tuple((s.old, s.new, s.new.training) for s in plan.swaps),
        )

    def undo(self) -> None:
        """Put the model back as it was: the same modules, in the same places.

        A second call does nothing. Modules that the rewritten model shares parameters with have
        what training made of them; those that were taken out whole have the values of then. If the
        model was switched between training and evaluation since, they are switched too.

        Raises:
            ArgumentError: a place where this put something has something else now, such as the
                result of a later rewriting: undo that first. Nothing is changed then.
        """
        self._journal.check_undisturbed("undo")
        for old, new, mode in self._modes if self._journal.entries else ():
            if new.training != mode:
                old.train(new.training)
        self._journal.undo()
