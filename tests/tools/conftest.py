"""What holds for the tests that run whole tools."""

import gc

import pytest


@pytest.fixture(autouse=True, scope='module')
def only_new_garbage():
    """Every data set that MMEngine builds collects garbage: among what the
    tests before have left, that took most of the time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
