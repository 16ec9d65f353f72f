"""Sample inputs, tolerances and the table of deviations, shared by the tests and the benchmarks.

:data:`DEVIATIONS` names every deliberate difference from torch. Comparisons with torch may leave
out what :func:`excused` says it covers, and nothing else; ``docs/deviations.md`` is generated from
it.
"""

from .against_reference import check_avg, check_max, check_max_pool
from .against_torch import compare, compare_with_torch
from .calls import FUNCTIONS, PARAMETERS, Call, attempt, call, computes, gradient, torch_has
from .cases import Case, comparable, random_case
from .comparisons import (
    assert_average_close,
    assert_bit_equal,
    assert_close,
    assert_format,
    assert_same_strides,
    assert_sum_close,
    bits,
    strides,
)
from .deviations import DEVIATIONS, excused, excuses
from .rows import Aspect, Deviation, outcome
from .samples import FLOATS, HALVES, INTEGERS, LAYOUTS, VALUES, laid_out, sample

__all__ = [
    "DEVIATIONS",
    "FLOATS",
    "FUNCTIONS",
    "HALVES",
    "INTEGERS",
    "LAYOUTS",
    "PARAMETERS",
    "VALUES",
    "Aspect",
    "Call",
    "Case",
    "Deviation",
    "assert_average_close",
    "assert_bit_equal",
    "assert_close",
    "assert_format",
    "assert_same_strides",
    "assert_sum_close",
    "attempt",
    "bits",
    "call",
    "check_avg",
    "check_max",
    "check_max_pool",
    "comparable",
    "compare",
    "compare_with_torch",
    "computes",
    "excused",
    "excuses",
    "gradient",
    "laid_out",
    "outcome",
    "random_case",
    "sample",
    "strides",
    "torch_has",
]
