"""The command ``poolkit``: runs a command, and turns what the user got wrong into one sentence.

The commands themselves are in ``commands``; they need the extra ``tools``, this module does not, so
that a bare installation can say what it lacks instead of showing a traceback.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from .errors import ArgumentError, DtypeError

# Modules of the extra `tools`. That one of any other name is missing is a bug: traceback.
TOOLS = frozenset(
    {"PIL", "click", "jinja2", "markupsafe", "matplotlib", "numpy", "rich", "skimage"}
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``poolkit ARGUMENTS`` and exit: 0, or 2 after one sentence on stderr about bad input."""
    try:
        from .commands import run

        status = run(arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TOOLS:
            raise
        _refuse(f"this command needs {error.name}: pip install poolkit[tools]")
    except (ArgumentError, DtypeError) as error:
        _refuse(str(error))
    except OSError as error:
        if error.strerror is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(status)


def _refuse(reason: str) -> NoReturn:
    sentence = " ".join(reason.split())
    print(f"poolkit: {sentence}", file=sys.stderr)
    sys.exit(2)
