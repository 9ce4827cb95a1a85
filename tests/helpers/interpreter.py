"""Triton's interpreter, which must be chosen before Python starts."""

import os
import subprocess
import sys


def run_interpreted(path: str) -> None:
    """Run a file of tests in a process whose kernels take CPU tensors."""
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-v', '-p', 'no:xdist', path],
        env={**os.environ, 'TRITON_INTERPRET': '1'},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr
    assert ' passed' in result.stdout
