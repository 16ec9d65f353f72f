"""The sections of the report, in reading order: one module each, each with ``build(context)``.

A section's blocks end with its code and what to read after it: ``run_snippet(SNIPPET)``, then
``ReadNext([("Speed and memory", "#speed-and-memory"), ("Author, title, year, arXiv:...", None)])``.
"""

import sys
from collections.abc import Callable

from ..report import Context, Lang, Section
from . import (
    adaptive,
    cost,
    global_average,
    max_and_average,
    moves,
    speed_and_memory,
    strided_convolution,
    where_used,
)

Builder = Callable[[Context], Section]

BUILDERS: dict[str, Builder] = {
    "cost": cost.build,
    "moves": moves.build,
    "max-and-average": max_and_average.build,
    "global-average": global_average.build,
    "strided-convolution": strided_convolution.build,
    "adaptive": adaptive.build,
    "speed-and-memory": speed_and_memory.build,
    "where-used": where_used.build,
}


def titles(lang: Lang) -> dict[str, str]:
    """The title of every section by its slug: each module keeps its words in ``TEXT``."""
    return {
        slug: sys.modules[build.__module__].TEXT[lang].title for slug, build in BUILDERS.items()
    }
