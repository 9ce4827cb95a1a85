"""What job launchers tell a process about the others."""

import os
import re

import torch
from mmengine.config import Config

from .checks import UserError

#: Variables with the rank of a process, the number of processes, and the rank
#: among those of one machine.
VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_STEP_NUM_TASKS', 'SLURM_LOCALID'),
    'mpi': (
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_SIZE',
        'OMPI_COMM_WORLD_LOCAL_RANK',
    ),
}
COMMANDS = {
    'pytorch': 'torchrun (tools/dist_train.sh)',
    'slurm': 'srun (tools/slurm_train.sh)',
    'mpi': "Open MPI's mpirun",
}


def join(cfg: Config, launcher: str) -> None:
    """Find the other processes; without a GPU, also join them over gloo.

    Sets the variables that torch.distributed reads, where a person has not
    set them. With GPUs, MMEngine's runner joins.

    Args:
        cfg (Config): Gets the model wrapper of processes without a GPU.
        launcher (str): 'pytorch', 'slurm' or 'mpi'.

    Raises:
        UserError: The launcher's variables are missing.
    """
    missing = [name for name in VARIABLES[launcher] if name not in os.environ]
    if missing:
        raise UserError(
            f'--launcher {launcher} needs {", ".join(missing)}, which '
            f'{COMMANDS[launcher]} sets: start the command with it'
        )
    for name, own in zip(VARIABLES['pytorch'], VARIABLES[launcher]):
        os.environ[name] = os.environ[own]
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_machine(launcher)
    os.environ.setdefault('MASTER_PORT', _port())
    if torch.cuda.is_available():
        return
    torch.distributed.init_process_group('gloo')
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.setdefault('model_wrapper_cfg', wrapper)
    cfg.model_wrapper_cfg.setdefault('device_ids', None)


def _first_machine(launcher: str) -> str:
    """Where the process of rank 0 is."""
    if launcher == 'slurm':
        return first_host(os.environ['SLURM_STEP_NODELIST'])
    local = os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE')
    if local == os.environ['WORLD_SIZE']:
        return '127.0.0.1'
    raise UserError(
        f'--launcher {launcher} needs MASTER_ADDR: the name or address of '
        'the machine of rank 0'
    )


def first_host(nodes: str) -> str:
    """First name in a list of Slurm, such as ``gpu[03-05,09],login1``."""
    first = re.match(r'([^,[]|\[[^]]*\])+', nodes)[0]
    return re.sub(r'\[(\w+)[^]]*\]', r'\1', first)


def _port() -> str:
    """Torch's own, or one for each job: Slurm's may share a machine."""
    job = os.environ.get('SLURM_JOB_ID')
    return str(20000 + int(job) % 10000) if job else '29500'
