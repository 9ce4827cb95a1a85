"""Random numbers that depend on where training is, not on its past."""

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Thread
from typing import Any, Optional

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset


def seed_all(*key: int) -> None:
    """Seed Python, NumPy and torch (all devices) with a sequence of integers.

    Other keys, also neighbouring ones, give independent numbers.
    """
    words = np.random.SeedSequence(key).generate_state(3, np.uint64)
    random.seed(int(words[0]))
    np.random.seed(words[1:2].view(np.uint32))
    torch.manual_seed(int(words[2]))


class SeededBatches:
    """A batch sampler whose batches are loaded with seeds of their own.

    So the augmentation of a batch is the same in any worker process, after
    any batches before it, and batches can be skipped without loading them.

    Args:
        loader (DataLoader): Its batch sampler and data set are changed. It
            has no iterator yet.
        key (Sequence[int]): Seed that all batches share, such as the run's
            seed and the rank.

    Attributes:
        epoch (int): Number of the next pass over the sampler.
    """

    def __init__(self, loader: DataLoader, key: Sequence[int]) -> None:
        self.batches = loader.batch_sampler
        self.key = tuple(key)
        self.epoch = 0
        self.start = 0
        # DataLoader refuses to assign it.
        vars(loader)['batch_sampler'] = self
        # What torch's loaders call, where there is one, for a whole batch.
        loader.dataset.__getitems__ = partial(_load, loader.dataset)

    def skip(self, count: int) -> None:
        """Leave the first batches of the next pass out."""
        self.start = count

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        epoch, start = self.epoch, self.start
        self.epoch, self.start = epoch + 1, 0
        for number, indices in enumerate(self.batches):
            if number >= start:
                yield (*self.key, epoch, number), indices

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        if name == 'batches':  # not yet there, in a copy
            raise AttributeError(name)
        return getattr(self.batches, name)


def can_seed(loader: DataLoader) -> bool:
    """Whether the loader asks a batch sampler for indices."""
    return loader.batch_sampler is not None and not isinstance(
        loader.dataset, IterableDataset
    )


def _load(dataset: Dataset, batch: tuple[Sequence[int], list[int]]) -> list:
    key, indices = batch
    seed_all(*key)
    return [dataset[index] for index in indices]


def shield_workers(
    loader: DataLoader, signals: Sequence[signal.Signals]
) -> None:
    """Let workers take signals from nobody but their main process.

    Slurm signals all processes of a job, and a worker that ends ends training.
    """
    if hasattr(signal, 'sigwaitinfo'):  # not on macOS
        loader.worker_init_fn = partial(
            _start_worker, tuple(signals), loader.worker_init_fn
        )


def _start_worker(
    signals: Sequence[signal.Signals],
    init: Optional[Callable[[int], None]],
    worker: int,
) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    Thread(target=_obey_parent, args=(signals,), daemon=True).start()
    if init is not None:
        init(worker)


def _obey_parent(signals: Sequence[signal.Signals]) -> None:
    while signal.sigwaitinfo(signals).si_pid != os.getppid():
        pass
    os._exit(0)
