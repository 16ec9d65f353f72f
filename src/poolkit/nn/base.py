"""What the modules share: a function, its docstring, and what `repr` shows."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from ..window import is_sequence, normalise_padding


class Pool(torch.nn.Module):
    """A module of one public function, ``_function``, whose docstring it shares."""

    _function: ClassVar[Callable[..., Any]]
    _rank: ClassVar[int]
    # What torch lacks: `repr` shows it, unless it is the default, an attribute of the class.
    _own: ClassVar[tuple[str, ...]] = ()
    # What its constructor takes, as a sentence of the docstring, where that does not say it.
    _constructor: ClassVar[str] = ""
    padding: Any  # wider than any stock class has it

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith(f"{__package__}."):
            cls.__module__ = __package__  # what users import and pickles name
        if "_function" in cls.__dict__:
            name = cls._function.__name__
            cls._rank = int(name[-2])
            order = ", in the order of ``torch.nn``" if hasattr(torch.nn, cls.__name__) else ""
            constructor = cls._constructor or f"The constructor takes what is no tensor{order}."
            cls.__doc__ = f"""The module of :func:`poolkit.functional.{name}`.

    {constructor}

    {cls._function.__doc__}"""

    def _kept(self, padding: Any) -> Any:
        # Checked now, and kept as given: the stock constructors would turn "same" into its letters.
        normalise_padding(type(self).__name__, padding, self._rank)
        # Some of them make a tuple of any padding, of the 0 just now.
        if isinstance(padding, str) or not isinstance(getattr(self, "padding", 0), tuple):
            return padding
        return tuple(padding) if is_sequence(padding) else (padding,) * self._rank

    def extra_repr(self) -> str:
        """What torch shows, and what torch lacks."""
        own = [(name, getattr(self, name), getattr(type(self), name, None)) for name in self._own]
        shown = [f"{name}={value!r}" for name, value, default in own if value != default]
        stock = super().extra_repr()
        return ", ".join([stock, *shown] if stock else shown)
