"""The sections of the report, in reading order: one module each, each with ``build(context)``."""

from . import max_and_average, speed_and_memory

BUILDERS = {
    "max-and-average": max_and_average.build,
    "speed-and-memory": speed_and_memory.build,
}
