"""The examples in the public docstrings: each has one, and it runs as printed."""

import doctest
import re

import pytest

import poolkit.cam
import poolkit.cost
import poolkit.distributed
import poolkit.functional
import poolkit.models
import poolkit.nn
import poolkit.onnx
import poolkit.patch
import poolkit.shift
import poolkit.surgery

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLIC = [
    pytest.param(getattr(module, name), id=f"{module.__name__}.{name}")
    for module in (
        poolkit.cam,
        poolkit.cost,
        poolkit.distributed,
        poolkit.functional,
        poolkit.models,
        poolkit.nn,
        poolkit.onnx,
        poolkit.patch,
        poolkit.shift,
        poolkit.surgery,
    )
    for name in module.__all__
]


# torch's ONNX exporter copies its own objects in a way that its own pytree deprecates.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")
@pytest.mark.parametrize("thing", PUBLIC)
def test_example(thing):
    (found,) = doctest.DocTestFinder(recurse=False).find(thing, thing.__name__, globs={})
    assert found.examples
    report = []
    failed, tried = doctest.DocTestRunner(verbose=False).run(found, out=report.append)
    assert tried == len(found.examples)
    assert failed == 0, "".join(report)


@pytest.mark.parametrize("thing", PUBLIC)
def test_template_is_filled_in(thing):
    """No {placeholder} is left; those of formulas follow a command, ^, _ or another."""
    assert re.findall(r"(?<![\w^}])\{\w+\}", thing.__doc__) == []
