"""``python -m poolkit run script.py ...``: somebody's script, with torch's pooling patched."""

import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from . import cpu
from .errors import ArgumentError
from .patch import patched_torch


def run_script(target: str, arguments: Sequence[str], as_module: bool = False) -> int:
    """Run a script, or a module as ``python -m`` does, under `poolkit.patched_torch`.

    The script finds what it would find under ``python script.py``: its name and arguments in
    ``sys.argv``, its folder first in ``sys.path`` (for a module, the current folder), and itself as
    ``__main__``. An exception that it lets through is shown as Python shows it.

    Args:
        target: the file of the script, or the name of the module.
        arguments: what follows it on the command line.
        as_module: whether ``target`` is a module's name.

    Returns:
        The exit status: 0, 1 after an exception, 130 after an interrupt. ``sys.exit`` of the script
        is let through.

    Raises:
        ArgumentError: no such script or module, or no native library to patch torch with.

    Example:
        >>> from poolkit.run import run_script
        >>> run_script("no-such-script.py", [])
        Traceback (most recent call last):
        poolkit.errors.ArgumentError: run: no such script: no-such-script.py
    """
    if not (_finds_module(target) if as_module else Path(target).exists()):
        raise ArgumentError(f"run: no such {'module' if as_module else 'script'}: {target}")
    if cpu.isa() is None:
        raise ArgumentError("run: no native library serves (see `poolkit config`)")
    argv, path = sys.argv, sys.path[:]
    sys.argv = [target, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = "" if as_module else str(Path(target).resolve().parent)
    try:
        with patched_torch():
            if as_module:
                runpy.run_module(target, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(target, run_name="__main__")
    except Exception as error:  # noqa: BLE001  the script's own, whatever it is
        _show(error)
        return 1
    except KeyboardInterrupt as error:
        _show(error)
        return 130
    finally:
        sys.argv, sys.path[:] = argv, path
    return 0


def _finds_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _show(error: BaseException) -> None:
    """Print the traceback without the frames between Python and the script."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in (__name__, "runpy"):
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
