"""Changes of a model that can be taken back exactly.

All that surgery changes are entries of dictionaries: a parent's ``_modules`` or the attributes of a
module. A journal has what was there before each change.
"""

from dataclasses import dataclass
from typing import Any

from torch.nn import Module

from ..errors import ArgumentError

MISSING = object()


@dataclass(frozen=True, eq=False)
class Entry:
    """``table[key]`` was ``old`` (or missing) and became ``new``; ``where`` is its name."""

    table: dict[str, Any]
    key: str
    old: Any
    new: Any
    where: str


class Journal:
    """What was changed, in order."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def set(self, table: dict[str, Any], key: str, value: Any, where: str) -> None:
        """Change an entry. It is written down first: what interrupts between can be undone."""
        self.entries.append(Entry(table, key, table.get(key, MISSING), value, where))
        table[key] = value

    def replace(self, model: Module, old: Module, new: Module) -> None:
        """Put ``new`` wherever the model has ``old``, so that what was shared is shared again."""
        for prefix, parent in list(model.named_modules()):
            for key, child in list(parent._modules.items()):  # noqa: SLF001  setattr would unregister it
                if child is old:
                    where = f"{prefix}.{key}".lstrip(".")
                    self.set(parent._modules, key, new, where)  # noqa: SLF001

    def undo(self) -> None:
        """Put everything back, the last change first; a second call does nothing."""
        self.take_back(list(self.entries))

    def take_back(self, entries: list[Entry]) -> None:
        """Undo some of the entries."""
        for entry in reversed(entries):
            if entry.old is MISSING:
                entry.table.pop(entry.key, None)
            else:
                entry.table[entry.key] = entry.old
            self.entries.remove(entry)

    def check_undisturbed(self, where: str) -> None:
        """Refuse to undo if something changed an entry since."""
        last = {(id(entry.table), entry.key): entry for entry in self.entries}
        for entry in last.values():
            if entry.table.get(entry.key, MISSING) is not entry.new:
                raise ArgumentError(
                    f"{where}: {entry.where} was changed since; take that back first"
                )
