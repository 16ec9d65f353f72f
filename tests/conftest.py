"""Fixtures about threads: torch keeps their number for the whole process."""

import pytest
import torch


@pytest.fixture
def keep_threads():
    """For a test that sets the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread():
    """Tiny tensors gain nothing from threads, and several test processes share the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
