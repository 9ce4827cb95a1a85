"""Two tests at a time, `pytest -n 2`, share the cores that one has alone."""

import os

if 'PYTEST_XDIST_WORKER' in os.environ:
    # Before torch is imported; processes that a test starts inherit it.
    os.environ['OMP_NUM_THREADS'] = '1'
