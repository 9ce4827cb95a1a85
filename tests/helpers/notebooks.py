"""Notebooks in an environment without Jupyter."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.helpers.scripts import ROOT

COMMAND = r'subprocess.run(f"{sys.executable} -m \1", shell=True, check=True)'


def run_notebook(name: str, folder: Path, **parameters: object) -> str:
    """Run the code of a notebook of docs/notebooks/ in a process.

    Args:
        name (str): Its name.
        folder (Path): Where the process runs.
        **parameters: Assigned behind the cell tagged `parameters`, as
            papermill does it.

    Returns:
        str: What it printed.
    """
    path = ROOT / f'docs/notebooks/{name}.ipynb'
    code = ['import subprocess, sys']
    for cell in json.loads(path.read_text())['cells']:
        if cell['cell_type'] == 'code':
            assert not cell['outputs'], 'commit notebooks without outputs'
            source = ''.join(cell['source'])
            code.append(re.sub('^!(mmctx .*)', COMMAND, source, flags=re.M))
        if 'parameters' in cell['metadata'].get('tags', ()):
            code += [f'{k} = {v!r}' for k, v in parameters.items()]
    script = folder / f'{name}.py'
    script.write_text('\n\n'.join(code))
    done = subprocess.run(
        [sys.executable, script], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout
