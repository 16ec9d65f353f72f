"""A bar on standard error for what takes minutes; nothing where there is no terminal."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


class Steps:
    """Says what is being done."""

    def __init__(self, bar: Any = None, total: int = 0) -> None:
        self.bar = bar
        self.task = None if bar is None else bar.add_task("audit", total=total)
        self.number = -1

    def __call__(self, what: str) -> None:
        """The next step."""
        self.number += 1
        if self.bar is not None:
            self.bar.update(self.task, description=what, completed=self.number)

    def part(self, done: int, total: int) -> None:
        """So much of the step is done."""
        if self.bar is not None:
            self.bar.update(self.task, completed=self.number + done / max(total, 1))


@contextlib.contextmanager
def steps(progress: bool | None, total: int) -> Iterator[Steps]:
    """A bar of so many steps: asked for, or by default where somebody sees it."""
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield Steps()
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ModuleNotFoundError:
        if progress:
            raise
        yield Steps()
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield Steps(bar, total)
