"""The two classes that poolkit raises for bad input.

Both also derive from ``RuntimeError``, because that is what torch raises: ``except RuntimeError``
written for torch keeps working.
"""


class ArgumentError(ValueError, RuntimeError):
    """An argument has a value, a shape or a type that the function cannot take."""


class DtypeError(TypeError, RuntimeError):
    """The function has no meaning, or no kernel anywhere, for this dtype."""
