"""The sections of the report, in reading order: one module each, each with ``build(context)``.

A section's blocks end with its code and what to read after it: ``run_snippet(SNIPPET)``, then
``ReadNext([("Speed and memory", "#speed-and-memory"), ("Author, title, year, arXiv:...", None)])``.
"""

from . import adaptive, cost, max_and_average, moves, speed_and_memory

BUILDERS = {
    "cost": cost.build,
    "moves": moves.build,
    "max-and-average": max_and_average.build,
    "adaptive": adaptive.build,
    "speed-and-memory": speed_and_memory.build,
}
