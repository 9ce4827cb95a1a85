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


def _as_mmengine_was():
    """A run's default scope and logger, whose stream is closed, end here."""
    from mmengine.logging import MMLogger
    from mmengine.registry import DefaultScope

    managers = DefaultScope, MMLogger
    before = [dict(manager._instance_dict) for manager in managers]
    yield
    for manager, instances in zip(managers, before):
        manager._instance_dict.clear()
        manager._instance_dict.update(instances)


# A run in a module's fixture begins before the first test and ends with it.
runs_of_a_module = pytest.fixture(autouse=True, scope='module')(
    _as_mmengine_was
)
runs_of_a_test = pytest.fixture(autouse=True)(_as_mmengine_was)
