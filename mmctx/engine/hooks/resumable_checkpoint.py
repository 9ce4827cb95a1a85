import signal
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import (
    all_gather_object,
    all_reduce,
    barrier,
    get_rank,
    get_world_size,
    is_main_process,
)
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from mmctx.engine.seeded_batches import (
    SeededBatches,
    can_seed,
    seed_all,
    shield_workers,
)
from mmctx.engine.whole_files import WHOLE_FILES, WholeFiles
from mmctx.registry import HOOKS, register

__all__ = ['ResumableCheckpoint']

#: Exit code of a run that should be started again (EX_TEMPFAIL).
INTERRUPTED = 75
#: What seeds are for: the loading of a batch, or a training step.
DATA, STEP = 0, 1


@register(HOOKS)
class ResumableCheckpoint(CheckpointHook):
    """Checkpoints from which training goes on as if it had never stopped.

    MMEngine's ``CheckpointHook`` with three additions:

    - Checkpoints appear whole or not at all, and an old one is removed when
      the new one is on the disk.
    - Random numbers of a step, and of the loading of a batch, depend on the
      seed, the rank and the number of the iteration alone. Resuming goes on
      with the batch that comes next, also within an epoch. So N + N
      iterations are 2 N, bit by bit, where the operators are deterministic,
      with the same batch size and number of processes; of more than two, DDP
      rounds sums of gradients in another order.
    - After a signal to any process, all save ``interrupted.pth`` after the
      iteration, and exit with code 75.

    In a config that has a ``CheckpointHook``:
    ``default_hooks = dict(checkpoint=dict(type='ResumableCheckpoint'))``.

    Args:
        signals (Sequence[str]): Names of signals that save and stop. Defaults
            to those that Slurm sends before a job has to end.
        **kwargs: Arguments of ``mmengine.hooks.CheckpointHook``.

    Raises:
        ValueError: There is no such signal.
        CheckpointError: A checkpoint cannot be written.
    """

    def __init__(
        self,
        *args: Any,
        signals: Sequence[str] = ('SIGUSR1', 'SIGTERM'),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        try:
            self.signals = [signal.Signals[name] for name in signals]
        except KeyError as error:
            raise ValueError(
                f'ResumableCheckpoint: there is no signal {error}; a name is '
                "such as 'SIGUSR1'."
            ) from error
        is_local = '://' not in str(self.out_dir or '')
        if is_local and not (self.backend_args or self.file_client_args):
            self.backend_args = dict(backend=WHOLE_FILES)
        self._signalled = False
        self._handlers = {}
        self._resumed = {}
        self._buffers: Optional[list] = None
        self._batches: Optional[SeededBatches] = None
        self._seed = 0
        self._epoch_start = self._batch = 0

    # ------------------------------------------------------ where training is

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self._resumed = checkpoint.get('meta', {}).get('data', {})
        self._buffers = checkpoint.pop('buffers_of_ranks', None)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint['meta']['data'] = dict(
            seed=self._seed,
            batch=self._batch,
            batches=len(runner.train_dataloader),
            world_size=get_world_size(),
        )
        if self._buffers:
            checkpoint['buffers_of_ranks'] = self._buffers

    def before_train(self, runner) -> None:
        super().before_train(runner)
        self._catch_signals()
        loader = runner.train_dataloader
        sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
        self._seed = getattr(sampler, 'seed', runner.seed)
        is_resumed = runner.iter > 0 and bool(self._resumed)
        if is_resumed:
            self._seed = self._resumed['seed']
            self._restore_buffers(_unwrapped(runner.model))
        self._buffers = None
        if not can_seed(loader):
            return
        if hasattr(sampler, 'seed'):
            sampler.seed = self._seed
        shield_workers(loader, self.signals)
        key = (self._seed, get_rank(), DATA)
        self._batches = SeededBatches(loader, key)
        if hasattr(runner.train_loop, 'dataloader_iterator'):
            self._prepare_endless(runner.train_loop, sampler)
        elif is_resumed:
            self._skip_batches(runner)

    def _prepare_endless(self, loop: Any, sampler: Any) -> None:
        """Iterations are skipped by the loop, from the first one on."""
        iterator = loop.dataloader_iterator
        is_infinite = isinstance(sampler, InfiniteSampler)
        if is_infinite:
            sampler.indices = sampler._indices_of_rank()
        if getattr(iterator, '_iterator', None) is not None:
            # MMEngine before 0.10.11 begins before any hook.
            loop.dataloader._iterator = None
            iterator._iterator = iter(loop.dataloader)
        elif is_infinite and hasattr(iterator, 'skip_iter'):
            iterator.skip_iter = self._batches.skip

    def _skip_batches(self, runner) -> None:
        """Leave out what the interrupted epoch has seen."""
        done, count = self._resumed['batch'], self._resumed['batches']
        shape = (len(runner.train_dataloader), get_world_size())
        if shape != (count, self._resumed['world_size']):
            runner.logger.warning(
                f'The checkpoint is from {self._resumed["world_size"]} '
                f'processes with {count} batches an epoch; there are '
                f'{shape[1]} with {shape[0]}. The order of images changes.'
            )
            done = done * shape[0] // max(count, 1)
        self._batches.skip(done)
        self._epoch_start = done

    def before_train_epoch(self, runner) -> None:
        if self._batches is not None:
            self._batches.epoch = runner.epoch

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        seed_all(self._seed, get_rank(), STEP, runner.iter)

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        self._batch = self._epoch_start + batch_idx + 1
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self._should_stop(runner):
            self._stop(runner)

    def after_train_epoch(self, runner) -> None:
        self._epoch_start = self._batch = 0
        super().after_train_epoch(runner)

    # ------------------------------------------------------------------ files

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        """MMEngine's, which removes an old checkpoint before it saves."""
        outdated = []
        if self.max_keep_ckpts > 0 and step not in [*self.keep_ckpt_ids][-1:]:
            steps = [*self.keep_ckpt_ids, step]
            outdated = steps[: -self.max_keep_ckpts]
            kept = steps[-self.max_keep_ckpts :]
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        self._save(runner, self.filename_tmpl.format(step), meta)
        for old in outdated:
            self._remove(self.filename_tmpl.format(old))

    def _save(self, runner, name: str, meta: dict, **kwargs: Any) -> None:
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._buffers = _other_buffers(_unwrapped(runner.model))
        kwargs.setdefault('by_epoch', self.by_epoch)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            backend_args=self.backend_args,
            **kwargs,
            **self.args,
        )
        self._buffers = None
        if is_main_process():
            file = Path(runner.work_dir, 'last_checkpoint')
            WholeFiles().put_text(self.last_ckpt, file)

    def _remove(self, name: str) -> None:
        path = self.file_backend.join_path(self.out_dir, name)
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)

    def _restore_buffers(self, model: nn.Module) -> None:
        """Running statistics of this process, which its evaluation uses."""
        rank = get_rank()
        if rank and self._buffers and len(self._buffers) >= rank:
            buffers = dict(model.named_buffers())
            for name, value in self._buffers[rank - 1].items():
                buffers[name].copy_(value)

    # ---------------------------------------------------------------- signals

    def _catch_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                old = signal.signal(number, self._remember_signal)
                self._handlers[number] = old

    def _release_signals(self) -> None:
        for number, old in self._handlers.items():
            signal.signal(number, old)
        self._handlers = {}

    def _remember_signal(self, *_: Any) -> None:
        self._signalled = True

    def _should_stop(self, runner) -> bool:
        """Whether a process has got a signal, and no gradient waits."""
        signalled = torch.tensor(int(self._signalled))
        all_reduce(signalled, 'max')
        if not signalled or self.is_last_train_iter(runner):
            return False
        has_stepped = getattr(runner.optim_wrapper, 'should_update', None)
        return has_stepped is None or has_stepped()

    def _stop(self, runner) -> None:
        meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
        self._save(runner, 'interrupted.pth', meta, by_epoch=False)
        barrier()  # or a launcher ends the first process before it has saved
        runner.logger.info(
            f'Interrupted after iteration {runner.iter + 1}. To go on: the '
            'same command with --resume.'
        )
        self._release_signals()
        raise SystemExit(INTERRUPTED)

    def after_train(self, runner) -> None:
        super().after_train(runner)
        self._release_signals()
        if self.last_ckpt is not None:
            self._remove('interrupted.pth')


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _other_buffers(model: nn.Module) -> list[dict[str, Tensor]]:
    """Buffers of the processes after the first that differ from its own."""
    if get_world_size() == 1:
        return []
    own = {name: buffer.cpu() for name, buffer in model.named_buffers()}
    first, *others = all_gather_object(own)
    return [
        {
            name: buffer
            for name, buffer in other.items()
            if not torch.equal(buffer, first[name])
        }
        for other in others
    ]
