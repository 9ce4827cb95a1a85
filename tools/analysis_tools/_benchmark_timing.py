"""How benchmark.py measures time."""

import math
import statistics
import time
from typing import Callable

import torch

LEAST_SECONDS = 0.1  # duration of one measurement
BUFFER_BYTES = 1 << 28  # larger than any cache

Steps = dict[str, Callable[[], object]]


class Stopwatch:
    """Times calls whose inputs lie in memory, not in a cache.

    Args:
        device (torch.device): Where the calls run; a GPU is timed by its own
            events.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == 'cuda'
        self.buffer = torch.empty(
            BUFFER_BYTES, dtype=torch.uint8, device=device
        )

    def __call__(self, step: Callable[[], object], calls: int = 1) -> float:
        """Mean seconds of a call."""
        measure = self._gpu_seconds if self.on_gpu else self._cpu_seconds
        return measure(step, calls) / calls

    def _cpu_seconds(self, step, calls):
        total = 0
        for _ in range(calls):
            self.buffer.zero_()
            start = time.perf_counter()
            step()
            total += time.perf_counter() - start
        return total

    def _gpu_seconds(self, step, calls):
        pairs = []
        for _ in range(calls):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in 'ab')
            # While the GPU clears this, the CPU gets ahead of it.
            self.buffer.zero_()
            start.record()
            step()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return sum(start.elapsed_time(end) for start, end in pairs) / 1000

    def copy_step(self) -> Callable[[], object]:
        """A call that copies half of the buffer into the other half."""
        source, target = self.buffer.chunk(2)
        return lambda: target.copy_(source)

    @property
    def copy_traffic(self) -> int:
        """Bytes that ``copy_step`` reads and writes."""
        return self.buffer.numel()


def first_seconds(stopwatch: Stopwatch, steps: Steps) -> dict[str, float]:
    """Seconds of the very first call of each: compilation and tuning."""
    seconds = {}
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        if stopwatch.on_gpu:
            torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - start
    return seconds


def _calls(stopwatch: Stopwatch, step: Callable[[], object]) -> int:
    """Number of calls that one measurement needs."""
    start = time.perf_counter()
    stopwatch(step)
    return math.ceil(LEAST_SECONDS / (time.perf_counter() - start))


def time_rounds(
    stopwatch: Stopwatch, steps: Steps, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each step in each round, after a first call.

    A round takes every step once; short ones are called several times.
    """
    calls = {name: _calls(stopwatch, step) for name, step in steps.items()}
    seconds = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(stopwatch(step, calls[name]))
    return seconds


def median_and_ratios(
    times: list[float], peer_times: list[float]
) -> tuple[float, float, list[float]]:
    """Seconds, speed relative to a peer, and the range of that.

    The first two are medians over rounds; the peer took the same rounds.
    """
    speeds = [theirs / own for theirs, own in zip(peer_times, times)]
    return (
        statistics.median(times),
        statistics.median(speeds),
        [min(speeds), max(speeds)],
    )
