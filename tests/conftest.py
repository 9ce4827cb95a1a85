"""What holds for all tests."""

import os

import pytest

if 'PYTEST_XDIST_WORKER' in os.environ:
    # Two tests at a time, `pytest -n 2`, share the cores that one has alone.
    # Before torch is imported; processes that a test starts inherit it.
    os.environ['OMP_NUM_THREADS'] = '1'


@pytest.fixture(autouse=True, scope='session')
def nan_in_fresh_memory():
    """Uninitialised memory is NaN, so that no result can rest on it."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
