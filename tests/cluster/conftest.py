"""A private Slurm: two nodes, on this machine, of two made-up GPUs each."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

PROGRAMS = ('slurmctld', 'slurmd', 'srun', 'sbatch')
CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1
NodeName=DEFAULT CPUs=8 Gres=gpu:2
NodeName=127.0.0.1 NodeHostname=localhost Port={ports[1]}
NodeName=127.0.0.2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=off
"""
GRES = 'Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n'


def wait_for(condition, seconds=300):
    """What a condition returns when that is true at last."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f'waited {seconds} s in vain'
        time.sleep(0.1)
    return value


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(('127.0.0.1', 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def environment(**variables):
    """That of a person: no launcher, this Python, no GPU."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(('SLURM_', 'SBATCH_', 'MASTER_'))
        and k not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
    }
    folder = os.path.dirname(sys.executable)
    path = f'{folder}:{kept["PATH"]}'
    return dict(kept, PATH=path, OMP_NUM_THREADS='1', **variables)


class Slurm:
    """Starts on entering, and is gone on leaving."""

    def __init__(self, folder):
        self.folder = folder
        self.env = environment(SLURM_CONF=str(folder / 'slurm.conf'))
        self.daemons = []

    def __enter__(self):
        for name in ('state', '127.0.0.1', '127.0.0.2'):
            (self.folder / name).mkdir()
        conf = CONF.format(
            folder=self.folder, user=getpass.getuser(), ports=free_ports(3)
        )
        (self.folder / 'slurm.conf').write_text(conf)
        (self.folder / 'gres.conf').write_text(GRES)
        self._start('slurmctld')
        self._start('slurmd', '-N', '127.0.0.1')
        self._start('slurmd', '-N', '127.0.0.2')
        idle = ('sinfo', '-h', '-t', 'idle', '-o', '%D')
        try:
            wait_for(lambda: self.ask(*idle) == '2', seconds=30)
        except AssertionError as error:
            self.__exit__()
            logs = [path.read_text() for path in self.folder.glob('*.out')]
            raise RuntimeError('\n'.join(logs)) from error
        return self

    def __exit__(self, *_):
        user = getpass.getuser()
        self.ask('scancel', '--user', user)
        self.ask('scancel', '--full', '--signal=KILL', '--user', user)
        queue = ('squeue', '-h', '-o', '%i')
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not self.ask(*queue), seconds=20)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _start(self, *command):
        log = (self.folder / f'{"-".join(command)}.out').open('wb')
        self.daemons.append(
            subprocess.Popen(
                [*command, '-D'], env=self.env, stdout=log, stderr=log
            )
        )

    def start(self, *command, **variables):
        """A command in the background; its output is one pipe."""
        return subprocess.Popen(
            [str(part) for part in command],
            env={**self.env, **variables},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command, **variables):
        """Exit code and output of a command."""
        process = self.start(*command, **variables)
        output = process.communicate()[0]
        return process.returncode, output

    def ask(self, *command):
        return self.run(*command)[1].strip()

    def state(self, job):
        """State of a job, '' when it is over."""
        return self.ask('squeue', '-h', '-o', '%T', '-j', str(job))


@pytest.fixture(scope='session')
def slurm(tmp_path_factory):
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        pytest.skip(
            f'Slurm is not installed: no {", ".join(missing)} '
            '(Debian, Ubuntu: apt-get install slurm-wlm)'
        )
    with Slurm(tmp_path_factory.mktemp('slurm')) as cluster:
        yield cluster
