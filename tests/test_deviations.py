"""Every deliberate difference from torch: torch still differs, poolkit does what is said."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import poolkit.functional
from poolkit.testing import DEVIATIONS, outcome

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("deviation", DEVIATIONS, ids=lambda d: d.id)
def test_torch_still_differs(deviation):
    theirs, ours = deviation.outcomes
    assert theirs != ours
    assert outcome(deviation.example, torch.nn.functional) == theirs
    assert outcome(deviation.example, poolkit.functional) == ours


def test_ids_are_unique():
    assert len({d.id for d in DEVIATIONS}) == len(DEVIATIONS)


def test_generated_pages_are_current():
    run = subprocess.run(
        [sys.executable, "-W", "ignore", DOCS / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
