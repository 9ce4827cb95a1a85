"""tools/env.sh, with a stand-in for Python so that nothing is installed.

The stand-in writes every step's call to a file, makes a virtual environment
that holds only itself, and does what the variable ``STUB_HOOK`` says in each
call of pip.
"""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = [
    *('awk', 'bash', 'cat', 'cp', 'cut', 'df', 'dirname', 'env', 'grep'),
    *('gzip', 'mkdir', 'mv', 'nproc', 'rm', 'sed', 'sh', 'sleep', 'tail'),
    *('tar', 'touch', 'tr'),
]

#: Sources of mmcv's operators, of which env.sh joins the first two.
SOURCES = ['nms.cpp', 'roi_align.cpp', 'pybind.cpp', 'contour_expand.cpp']

STUB = r"""#!/bin/bash
called() { echo "$*" >>"$STUB_CALLS"; }
case "$1 $2" in
  '-m venv')
    called venv
    mkdir -p "$4/bin" "$4/lib/python3.11/site-packages"
    cp "$0" "$4/bin/python" ;;
  '-I -m')
    shift 3
    called "pip $*"
    echo "pip says hello"
    eval "$STUB_HOOK"
    if [[ "$*" =~ --dest\ ([^ ]+) ]]; then
      cp "$STUB_SOURCES" "${BASH_REMATCH[1]}"
    elif [[ "$*" =~ --wheel-dir\ ([^ ]+) ]]; then
      mkdir -p "${BASH_REMATCH[1]}"
      touch "${BASH_REMATCH[1]}/onedl_mmcv-2.3.6.whl"
    fi ;;
  '-I -c')
    case $3 in
      *get_device_capability*) echo "torch-${STUB_TORCH:-2.11.0}_$4" ;;
      *) called check ;;
    esac ;;
  *) shift; exec "$STUB_REAL" -c "$STUB_PRELUDE$1" "${@:2}" ;;
esac
"""


class Machine:
    """A checkout, a PATH and a cache of their own."""

    def __init__(self, folder):
        self.folder = folder
        self.checkout = folder / 'checkout'
        self.home = folder / 'cache'
        self.calls_file = folder / 'calls'
        (self.checkout / 'tools').mkdir(parents=True)
        shutil.copy(ROOT / 'tools/env.sh', self.checkout / 'tools')
        for name in ('requirements.txt', 'requirements-upstream.txt'):
            shutil.copy(ROOT / name, self.checkout)
        shutil.copytree(ROOT / 'requirements', self.checkout / 'requirements')
        self.bin = folder / 'bin'
        self.bin.mkdir()
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.sources = folder / 'onedl_mmcv-2.3.6.tar.gz'
        with tarfile.open(self.sources, 'w:gz') as file:
            for name in SOURCES:
                file.addfile(
                    tarfile.TarInfo(f'mmcv/mmcv/ops/csrc/pytorch/{name}')
                )
        self.script('c++', '#!/bin/sh\n')
        self.script('python3', STUB)
        self.variables = {
            'PATH': str(self.bin),
            'HOME': str(folder / 'home'),
            'MMCTX_ENV': 'cpu',
            'MMCTX_ENV_HOME': str(self.home),
            'STUB_REAL': sys.executable,
            'STUB_CALLS': str(self.calls_file),
            'STUB_PRELUDE': 'import sys; sys.version_info = (3, 11, 0)\n',
            'STUB_HOOK': '',
            'STUB_SOURCES': str(self.sources),
        }

    def script(self, name, text):
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *command, stderr=subprocess.PIPE, **variables):
        return subprocess.Popen(
            [self.bin / 'bash', self.checkout / 'tools/env.sh', *command],
            env={**self.variables, **variables},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def run(self, *command, **variables):
        process = self.start(*command, **variables)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self):
        """The steps called since this was last asked."""
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.unlink()
        return [line.split('/')[-1].split()[-1] for line in lines]

    def venv(self):
        (found,) = self.home.glob('envs/*/venv')
        return found


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def wait_for(path, seconds=30):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f'{path} did not appear'
        time.sleep(0.02)


BUILD = [
    'venv',
    'build.txt',
    'torch.txt',
    'mmcv.txt',
    'mmcv',
    'onedl_mmcv-2.3.6.whl',
    'requirements.txt',
    'check',
]


def test_help_prepares_nothing(machine):
    status, out, _ = machine.run('--help')
    assert status == 0
    assert 'bash tools/env.sh COMMAND' in out
    assert 'MMCTX_ENV_HOME' in out
    assert machine.calls() == [] and not machine.home.exists()


def test_no_command_prepares_and_explains(machine):
    status, out, err = machine.run()
    assert (status, out) == (0, '')
    assert machine.calls() == BUILD
    assert 'torch: usually takes 2 minutes' in err
    assert f'ready: {machine.venv()}' in err


def test_ready_environment_is_used_as_it_is(machine):
    machine.run()
    machine.calls()
    status, _, err = machine.run('bash', '-c', 'exit 0')
    assert (status, err) == (0, '')
    assert machine.calls() == []


def test_command_gets_the_environment(machine):
    show = (
        'echo $VIRTUAL_ENV; command -v python; echo $PYTHONPATH;'
        'echo $MALLOC_TRIM_THRESHOLD_ $MALLOC_MMAP_THRESHOLD_; echo "$1"'
    )
    status, out, _ = machine.run(
        *('bash', '-c', show, '-', 'two  words'),
        PYTHONPATH='/before',
        MALLOC_MMAP_THRESHOLD_='77',
    )
    venv = machine.venv()
    assert status == 0
    assert out.splitlines() == [
        str(venv),
        f'{venv}/bin/python',
        f'{machine.checkout}:/before',
        '4294967296 77',
        'two  words',
    ]


@pytest.mark.parametrize(
    'command, status',
    [('exit 0', 0), ('exit 42', 42), ('kill -TERM $$', -signal.SIGTERM)],
)
def test_exit_status_is_the_commands(machine, command, status):
    assert machine.run('bash', '-c', command)[0] == status


def test_unknown_command(machine):
    status, _, err = machine.run('no-such-command')
    assert status == 127
    assert 'no-such-command' in err


def test_failed_step_is_tried_again_and_others_are_not(machine):
    hook = 'case "$*" in *torch.txt) echo no network; exit 9 ;; esac'
    status, out, err = machine.run('bash', '-c', 'echo run', STUB_HOOK=hook)
    assert (status, out) == (1, '')
    assert machine.calls() == BUILD[:3]
    assert 'no network' in err
    assert str(machine.venv().parent / 'logs/torch.log') in err
    status, out, _ = machine.run('bash', '-c', 'echo run')
    assert (status, out) == (0, 'run\n')
    assert machine.calls() == BUILD[2:]


def test_full_disk_during_a_step_is_named(machine):
    hook = 'echo "OSError: [Errno 28] No space left on device"; exit 1'
    assert 'MMCTX_ENV_HOME' in machine.run(STUB_HOOK=hook)[2]


def test_interruption_ends_the_step_and_the_next_run_goes_on(machine):
    hook = (
        'case "$*" in *" wheel "*) echo "[1/2] c++"; sleep 100 & echo $! >pid;'
        ' mv pid started; wait ;; esac'
    )
    process = machine.start(STUB_HOOK=hook)
    wait_for(machine.folder / 'started')
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert 'goes on from this step' in err
    assert machine.calls() == BUILD[:5]
    with pytest.raises(ProcessLookupError):
        compiler = int((machine.folder / 'started').read_text())
        for _ in range(100):
            os.kill(compiler, 0)
            time.sleep(0.05)
    assert machine.run()[0] == 0
    assert machine.calls() == BUILD[3:]


def test_progress_of_the_compilation_on_a_terminal(machine):
    hook = (
        'case "$*" in *" wheel "*) echo "  [3/78] c++"; echo warning;'
        ' until [ -e go ]; do sleep 0.05; done ;; esac'
    )
    ours, theirs = os.openpty()
    process = machine.start(stderr=theirs, STUB_HOOK=hook)
    os.close(theirs)
    shown, end = '', time.monotonic() + 30
    while '3/78 files compiled' not in shown and time.monotonic() < end:
        shown += os.read(ours, 1000).decode()  # fails when env.sh has ended
    assert '3/78 files compiled' in shown
    assert '\r\x1b[Kenv.sh: mmcv: ' in shown
    (machine.folder / 'go').touch()
    assert process.wait(timeout=30) == 0
    os.close(ours)


def test_half_installed_packages_are_forgotten(machine):
    hook = (
        'case "$*" in *torch.txt)'
        ' cd "${0%/bin/*}"/lib/python*/site-packages; mkdir {a,b,c}.dist-info;'
        ' touch {a,b,c}.dist-info/METADATA {a,b}.dist-info/INSTALLER'
        ' {a,c}.dist-info/RECORD; exit 1 ;; esac'
    )
    assert machine.run(STUB_HOOK=hook)[0] == 1
    found = set(machine.venv().glob('lib/*/site-packages/*'))
    assert {path.name[0] for path in found} == {'a', 'b', 'c'}
    assert machine.run()[0] == 0
    found = set(machine.venv().glob('lib/*/site-packages/*'))
    assert {path.name[0] for path in found} == {'a'}


def test_changed_requirements_reuse_the_compiled_wheel(machine):
    machine.run()
    machine.calls()
    with open(machine.checkout / 'requirements/tests.txt', 'a') as file:
        file.write('example==1.0\n')
    assert machine.run()[0] == 0
    assert machine.calls() == BUILD[:3] + BUILD[5:]
    assert len(list(machine.home.glob('envs/*'))) == 2


def test_another_torch_gets_a_wheel_of_its_own(machine):
    machine.run()
    machine.calls()
    (machine.checkout / 'requirements/torch.txt').write_text('torch==2.12\n')
    assert machine.run(STUB_TORCH='2.12.0')[0] == 0
    assert machine.calls() == BUILD
    assert len(list(machine.home.glob('wheels/*/*.whl'))) == 2


def test_failed_compilation_leaves_no_wheel(machine):
    hook = 'case "$*" in *" wheel "*) echo "error: bad.cpp"; exit 1 ;; esac'
    status, _, err = machine.run(STUB_HOOK=hook)
    assert status == 1
    assert 'error: bad.cpp' in err
    assert not (machine.home / 'wheels').exists()


def test_two_at_once_build_once(machine):
    hook = (
        'case "$*" in *torch.txt) touch started;'
        ' until [ -e go ]; do sleep 0.05; done ;; esac'
    )
    command = ['bash', '-c', 'if [ -e /dev/fd/9 ]; then exit 3; fi']
    first = machine.start(*command, STUB_HOOK=hook)
    wait_for(machine.folder / 'started')
    second = machine.start(*command)
    assert 'waiting' in second.stderr.readline()
    (machine.folder / 'go').touch()
    for process, builds in (first, True), (second, False):
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert ('building' in err) == builds
    assert machine.calls() == BUILD


def test_environment_whose_python_is_gone_is_built_anew(machine):
    machine.run()
    machine.calls()
    (machine.venv() / 'bin/python').unlink()
    assert machine.run()[0] == 0
    assert machine.calls() == BUILD[:3] + BUILD[5:]


def without(module):
    return (
        'import importlib.util as u\nfind = u.find_spec\nu.find_spec = '
        f'lambda name: None if name == {module!r} else find(name)\n'
    )


SUPPORTED = 'import sys; sys.version_info = (3, 11, 0)\n'
OLD = 'import sys; sys.version_info = (3, 8, 18)\n'
PYTHON313 = 'import sys; sys.version_info = (3, 13, 0)\n'
NEW = 'import sys; sys.version_info = (3, 14, 0)\n'
HEADERLESS = 'import os\nos.path.exists = lambda path: False\n'


@pytest.mark.parametrize(
    'variables, words',
    [
        ({'STUB_PRELUDE': OLD}, ['Python 3.8', '3.10 to 3.13', 'PYTHON=']),
        ({'STUB_PRELUDE': NEW}, ['Python 3.14', '3.10 to 3.13', 'PYTHON=']),
        ({'PYTHON': '/no/python'}, ['/no/python', 'PYTHON=']),
        (
            {'STUB_PRELUDE': SUPPORTED + without('ensurepip')},
            ['ensurepip', 'python3-venv', 'PYTHON'],
        ),
        (
            {'STUB_PRELUDE': SUPPORTED + HEADERLESS},
            ['Python.h', 'python3-dev', 'PYTHON'],
        ),
        (
            {'MMCTX_ENV': 'gpu'},
            ["'gpu'", 'auto, cpu, cuda, upstream or none'],
        ),
        (
            {'MMCTX_ENV': 'upstream', 'STUB_PRELUDE': PYTHON313},
            ['Python 3.13', '3.10 to 3.12', 'PYTHON='],
        ),
        (
            {'MMCTX_ENV': 'cuda', 'CUDA_HOME': '/none'},
            ['nvcc', 'CUDA_HOME', 'MMCTX_ENV=cpu'],
        ),
        (
            {'MMCTX_ENV_HOME': '/dev/null/cache'},
            ["cannot write to '/dev/null/cache'", 'Set MMCTX_ENV_HOME'],
        ),
        ({'MMCTX_ENV_HOME': 'a b'}, ["a b' has a blank", 'MMCTX_ENV_HOME']),
    ],
)
def test_obstacle_is_named_before_any_download(machine, variables, words):
    status, out, err = machine.run('bash', '-c', 'echo run', **variables)
    assert (status, out) == (1, '')
    assert machine.calls() == []
    for word in words:
        assert word in err


def test_upstream_is_an_environment_of_its_own(machine):
    machine.run()
    machine.calls()
    (machine.bin / 'c++').unlink()
    variables = dict(MMCTX_ENV='upstream', STUB_PRELUDE=SUPPORTED + HEADERLESS)
    show = 'echo $VIRTUAL_ENV; echo "${CUDA_VISIBLE_DEVICES-unset}"'
    status, out, err = machine.run('bash', '-c', show, **variables)
    assert status == 0 and '2 to 3 minutes' in err
    assert machine.calls() == [
        *('venv', 'build.txt', 'requirements-upstream.txt', 'check')
    ]
    (venv,) = machine.home.glob('envs/py3.11-upstream-*/venv')
    assert out.splitlines() == [str(venv), '']
    # Its pins are not those of the others, nor theirs its own.
    with open(machine.checkout / 'requirements-upstream.txt', 'a') as file:
        file.write('example==1.0\n')
    assert machine.run()[0] == 0 and machine.calls() == []
    assert machine.run(**variables)[0] == 0
    with open(machine.checkout / 'requirements/tests.txt', 'a') as file:
        file.write('example==1.0\n')
    machine.calls()
    assert machine.run(**variables)[0] == 0 and machine.calls() == []


def test_no_compiler(machine):
    (machine.bin / 'c++').unlink()
    status, _, err = machine.run('bash', '-c', 'exit 0')
    assert status == 1
    assert machine.calls() == []
    assert 'no C++ compiler' in err and 'apt-get install g++' in err


def test_other_compiler_names_are_found(machine):
    (machine.bin / 'c++').rename(machine.bin / 'g++')
    hook = 'case "$*" in *" wheel "*) echo "$CXX" >compiler ;; esac'
    assert machine.run(STUB_HOOK=hook)[0] == 0
    compiler = (machine.folder / 'compiler').read_text().strip()
    assert compiler == str(machine.bin / 'g++')


def test_little_room(machine):
    (machine.bin / 'df').unlink()
    machine.script('df', '#!/bin/sh\necho\necho disk 9 9 2000000 9% /\n')
    status, _, err = machine.run()
    assert status == 1
    assert machine.calls() == []
    assert '2 GB of room' in err and 'MMCTX_ENV_HOME' in err


def test_none_runs_in_the_active_environment(machine):
    show = 'command -v python3; echo $PYTHONPATH $MALLOC_TRIM_THRESHOLD_'
    status, out, err = machine.run('bash', '-c', show, MMCTX_ENV='none')
    assert (status, err) == (0, '')
    assert out.splitlines() == [
        str(machine.bin / 'python3'),
        f'{machine.checkout} 4294967296',
    ]
    assert machine.calls() == [] and not machine.home.exists()


def test_requirement_files_are_pinned_and_all_listed():
    listed = (ROOT / 'requirements.txt').read_text().splitlines()
    files = sorted((ROOT / 'requirements').glob('*.txt'))
    for file in files:
        assert f'-r requirements/{file.name}' in listed
        for line in file.read_text().splitlines():
            assert line.startswith('#') or '==' in line.split(';')[0], line
    assert len([line for line in listed if line[:2] == '-r']) == len(files)
    for line in (ROOT / 'requirements-upstream.txt').read_text().splitlines():
        assert line.startswith('#') or '==' in line, line
