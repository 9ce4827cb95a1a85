"""Every tool runs from a checkout, where mmctx is not installed."""

import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / 'tools'

#: Runs each script as `python SCRIPT --help` does; -I: no PYTHONPATH.
RUN_ALL = """
import runpy, sys
path = list(sys.path)
for script in sys.argv[1:]:
    for name in [n for n in sys.modules if n.partition('.')[0] == 'mmctx']:
        del sys.modules[name]
    sys.path[:] = path
    sys.argv = [script, '--help']
    try:
        runpy.run_path(script, run_name='__main__')
    except SystemExit as end:
        assert not end.code, script
        print('ran', script)
"""


def test_help(tmp_path):
    scripts = sorted(
        str(path)
        for path in TOOLS.rglob('*.py')
        if not path.name.startswith('_')
    )
    assert len(scripts) >= 9
    done = subprocess.run(
        [sys.executable, '-I', '-c', RUN_ALL, *scripts],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for script in scripts:
        assert f'ran {script}' in done.stdout
