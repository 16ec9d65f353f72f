"""Pooling and downsampling for PyTorch, with torch's names and results, at memory speed."""

from typing import Any

from . import functional as functional
from . import nn as nn
from .accelerate import accelerate as accelerate
from .accelerate import restore as restore
from .audit import audit as audit
from .config import show_config as show_config
from .errors import ArgumentError as ArgumentError
from .errors import DtypeError as DtypeError
from .patch import patch_torch as patch_torch
from .patch import patched_torch as patched_torch
from .patch import unpatch_torch as unpatch_torch
from .selfcheck import selfcheck as selfcheck
from .surgery import rewrite as rewrite
from .surgery import undo as undo


def __getattr__(name: str) -> Any:
    if name == "__version__":  # read from the installed metadata, its one place, when asked for
        from importlib import metadata

        return metadata.version("poolkit")
    raise AttributeError(f"module 'poolkit' has no attribute {name!r}")
