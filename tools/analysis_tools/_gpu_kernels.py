"""Variants of Triton kernels, compiled ahead of time for a GPU elsewhere."""

import collections
import re
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from mmctx.engine import cli

#: Iterations of a kernel's loops, each, per program, from its arguments: what
#: the machine code cannot say. A pixel is the upper left one of as many
#: samples as there are taps, if none lies outside.
ITERATIONS = {
    '_aggregate': lambda a: a['KERNEL'],
    '_weight_gradient': lambda a: a['KERNEL'],
    '_forward': lambda a: a['TAPS'],
    '_sampling_gradient': lambda a: (
        a['pixels'] / -(-a['pixels'] // a['CHUNK']) / a['ROWS']
    ),
    '_corner_sums': lambda a: -(-a['TAPS'] // a['ROWS']),
    '_mlp': lambda a: -(-a['HIDDEN'] // a['BLOCK_H']),
}
#: Operations of matrix products of a launch, from its arguments.
FLOPS = {'_mlp': lambda a: 4 * a['rows'] * a['C'] * a['HIDDEN']}
_BINARIES = Path(triton.__file__).parent / 'backends/nvidia/bin'
#: A line of nvdisasm: a label, or an instruction and its operands.
_LINE = re.compile(
    r'^(?:(\.L_x_\d+):|[ \t]*/\*[0-9a-f]{4,}\*/\s+'
    r'(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;\n]*))',
    re.MULTILINE,
)


def parse_target(name):
    """'sm_90' or 'gfx942' as Triton writes it."""
    match = re.fullmatch(r'sm_(\d+)|(gfx\w+)', name)
    if not match:
        raise cli.UserError(
            f'target {name!r} is not of the form sm_90 (NVIDIA) or gfx942 '
            '(AMD)'
        )
    if match[1]:
        return GPUTarget('cuda', int(match[1]), 32)
    return GPUTarget('hip', name, 64)


@contextmanager
def _compiling_for(target, device='here'):
    # Asking for the active driver would look for a GPU.
    before = vars(driver).get('_active') or vars(driver).get('active')
    stand_in = SimpleNamespace(
        get_current_target=lambda: target,
        get_current_device=lambda: (device, target),
        get_current_stream=lambda device=None: 0,
        get_active_torch_device=lambda: torch.device('cuda', 0),
    )
    driver.set_active(stand_in)
    try:
        yield
    finally:
        driver.set_active(before)


@contextmanager
def _cache_hook(hook):
    """Triton calls it before it compiles, and does not if it returns True."""
    knobs = getattr(triton, 'knobs', None)  # since Triton 3.4
    holder = knobs.runtime if knobs else JITFunction
    name = 'jit_cache_hook' if knobs else 'cache_hook'
    before = getattr(holder, name)
    setattr(holder, name, hook)
    try:
        yield
    finally:
        setattr(holder, name, before)


@dataclass(frozen=True)
class _Pointer:
    """A tensor without data, where an allocator would have placed it."""

    dtype: torch.dtype
    at: int

    def data_ptr(self):
        return self.at


def _without_data(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return _Pointer(x.dtype, x.storage_offset() * x.element_size())
    return x


@dataclass
class Variant:
    """A kernel as Triton specialises it for some arguments."""

    kernel: JITFunction
    target: GPUTarget
    args: tuple
    kwargs: dict
    launches: int = 0
    seconds: float = field(default=0.0, init=False)

    @property
    def name(self):
        return self.kernel.fn.__name__

    @cached_property
    def arguments(self):
        return {**dict(zip(self.kernel.arg_names, self.args)), **self.kwargs}

    @cached_property
    def compiled(self):
        start = time.perf_counter()
        with _compiling_for(self.target):
            result = self.kernel.warmup(*self.args, grid=(1,), **self.kwargs)
        self.seconds = time.perf_counter() - start
        return result

    @cached_property
    def resources(self):
        """Registers and spill instructions of a thread, in a dict."""
        if self.target.backend == 'hip':
            return _amd_resources(self.compiled.asm['amdgcn'])
        usage = self._binary('cuobjdump', '-res-usage')
        names = [name for name, _ in self.instructions]
        spills = sum(name.startswith(('LDL', 'STL')) for name in names)
        return dict(
            registers=int(re.search(r'REG:(\d+)', usage)[1]), spills=spills
        )

    @cached_property
    def accesses(self):
        """How often each width of a global load or store occurs, in bits."""
        if self.target.backend == 'hip':
            names = re.findall(
                r'\b(?:global|buffer)_(load|store)_(\w+)',
                self.compiled.asm['amdgcn'],
            )
            return collections.Counter(f'{a}.{b}' for a, b in names)
        return collections.Counter(
            f'{name[:3]}.{width[1] if width else 32}'
            for name, _ in self.instructions
            if name.startswith(('LDG', 'STG'))
            for width in [re.search(r'\.[US]?(8|16|64|128)\b', name)]
        )

    @cached_property
    def instructions(self):
        """(name, operands) of NVIDIA's machine code, with labels as names."""
        lines = _LINE.findall(self._binary('nvdisasm', '-c'))
        return [(label or name, operands) for label, name, operands in lines]

    @cached_property
    def issued(self):
        """Instructions that a program issues, times its warps; 0 if unknown.

        Everything once, and loops as often as :data:`ITERATIONS` says.
        """
        if self.target.backend == 'hip':
            return 0
        labels, looped = {}, set()
        for i, (name, operands) in enumerate(self.instructions):
            labels.setdefault(name, i)
            target = re.search(r'\.L_x_\d+', operands)
            start = labels.get(target[0], i) if target else i
            if name.startswith('BRA') and i - start > 2:
                looped.update(range(start, i + 1))
        iterations = ITERATIONS.get(self.name, lambda _: 1)(self.arguments)
        count = len(self.instructions) + len(looped) * (iterations - 1)
        return count * self.compiled.metadata.num_warps

    def _binary(self, tool, *options):
        with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
            file.write(self.compiled.asm['cubin'])
            file.flush()
            command = [str(_BINARIES / tool), *options, file.name]
            return subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout


def _amd_resources(assembly):
    def last(name):
        return int(re.findall(rf'\.{name}:\s*(\d+)', assembly)[-1])

    return dict(
        registers=last('vgpr_count'),
        spills=last('vgpr_spill_count') + last('sgpr_spill_count'),
    )


class Variants:
    """The variants that launches ask for, in the order of their first use.

    Args:
        target (str): As in 'sm_90' or 'gfx942'.
    """

    def __init__(self, target='sm_90'):
        self.target = parse_target(target)
        self._variants = {}

    def __iter__(self):
        return iter(self._variants.values())

    def __len__(self):
        return len(self._variants)

    def launch(self, kernel, programs, args, kwargs):
        """The variant of a launch, as ``triton_support.launching`` gives it.

        Triton's own code tells variants apart; nothing is compiled.
        """
        args = tuple(_without_data(x) for x in args)
        kwargs = {name: _without_data(x) for name, x in kwargs.items()}
        keys = []

        def note(*, key, **_):
            keys.append(key)
            return True

        # A device of its own, for which nothing is ever compiled and cached.
        with _compiling_for(self.target, 'nowhere'), _cache_hook(note):
            kernel.warmup(*args, grid=(programs,), **kwargs)
        variant = self._variants.setdefault(
            (kernel.fn, keys[0]), Variant(kernel, self.target, args, kwargs)
        )
        variant.launches += 1
        return variant
