"""Every deliberate difference from torch."""

from .arguments import ARGUMENTS
from .calls import Call
from .results import RESULTS
from .rows import Aspect, Deviation

DEVIATIONS: tuple[Deviation, ...] = (*RESULTS, *ARGUMENTS)
"""The table. Its rows stand in two files: what comes out, and what goes in."""


def excused(call: Call, aspect: Aspect) -> bool:
    """Whether :data:`DEVIATIONS` lets this aspect of the call's result differ from torch's."""
    return aspect in excuses(call)


def excuses(call: Call) -> set[Aspect]:
    """What of the call's result :data:`DEVIATIONS` lets differ from torch's."""
    return {aspect for d in DEVIATIONS if d.aspects and d.covers(call) for aspect in d.aspects}
