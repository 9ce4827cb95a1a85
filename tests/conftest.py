"""What holds for all tests."""

import os
import random

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


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, alone or after others."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
