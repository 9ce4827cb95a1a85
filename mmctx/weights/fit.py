"""A file's tensors onto one model: all of them, or none."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Optional

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .addresses import locate, trust
from .reading import CheckpointError, load_file, unwrap

HALF = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALF)
INTEGERS = (torch.int64, torch.int32)
#: What training code puts before the keys of a backbone.
_WRAPPERS = re.compile(
    r'((module|_orig_mod|model|teacher|student|backbone|img_backbone|'
    r'bottom_up)\.)+'
)


@dataclass
class Fit:
    """What became of each tensor of a file.

    Attributes:
        state_dict (dict): Tensors by their keys in our classifier.
        mapping (dict): Key in the file to ours.
        dropped (list): Keys in the file that the model has no use for: parts
            of a detector beyond its backbone, stages that this instance does
            not build, layers that the release builds and never uses.
        unknown (list): Keys in the file that the model has no place for.
        misshapen (list): Sentences on tensors of another shape.
        unusable (list): Sentences on tensors that are no weights: not
            floating point, not finite, not dense.
        conflicting (list): Keys in the file of a shared tensor that has other
            values under an earlier key.
        missing (list): Our keys that the file should fill and does not.
        initial (list): Our keys that the file of a plain network does not
            fill: they keep their initial values.
    """

    state_dict: dict[str, Tensor] = field(default_factory=dict)
    mapping: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    conflicting: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    initial: list[str] = field(default_factory=list)

    def complaints(self) -> list[str]:
        """One line for each kind of misfit, empty if the file fits."""
        kinds = {
            'keys that the model does not know': self.unknown,
            'tensors of another shape': self.misshapen,
            'tensors that are no finite, dense weights': self.unusable,
            'tensors that differ from their other name': self.conflicting,
            'tensors that the file lacks': self.missing,
        }
        return [
            f'{len(keys)} {kind}: {_listed(keys)}'
            for kind, keys in kinds.items()
            if keys
        ]

    def require(self, misfit: str) -> dict[str, Tensor]:
        """The state dict of a file that fits as a whole, not in half floats.

        Raises:
            CheckpointError: It does not; ``misfit`` begins the message.
        """
        complaints = self.complaints()
        if complaints:
            raise CheckpointError('\n  '.join([misfit, *complaints]))
        return {
            key: tensor.float() if tensor.dtype in HALF else tensor
            for key, tensor in self.state_dict.items()
        }


def _listed(keys: list[str], most: int = 20) -> str:
    rest = len(keys) - most
    return ', '.join(keys[:most]) + (f' and {rest} more' if rest > 0 else '')


def fit(
    state_dict: Mapping[str, Tensor],
    backbone: nn.Module,
    prefix: Optional[str] = None,
    adapt_input: bool = False,
) -> Fit:
    """Find the place of each tensor in a network with this backbone.

    The keys are read as ours and as released ones, from the top and below
    each prefix of training code; the reading that places most tensors counts.

    Args:
        state_dict (Mapping[str, Tensor]): Of any file; unchanged.
        backbone (nn.Module): One of our backbones, or on the meta device;
            unchanged.
        prefix (str, optional): The only prefix to look below.
        adapt_input (bool): Make the stem's kernels for other than 3 channels
            from those for 3: their sum for one channel, else repeated and
            scaled, as timm does. Defaults to False.

    Raises:
        CheckpointError: There are no keys below ``prefix``.
    """
    expected = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    readings = _readings(tuple(state_dict), backbone.key_map, prefix)
    names = max(readings, key=lambda r: len(expected.keys() & {*r.values()}))
    unbuilt = tuple(f'backbone.{k}' for k in backbone.unbuilt_keys())
    result = Fit()
    for key, tensor in state_dict.items():
        name = names.get(key, '')
        if adapt_input and _is_input_kernel(name, tensor, expected):
            tensor = _adapt_kernel(tensor, expected[name].shape[1])
        _place(result, key, name, tensor, expected, unbuilt)
    named = {*names.values()}
    optional = backbone.optional_keys
    plain = optional and not any(map(optional.search, named))
    for key in [k for k in expected if k not in named]:
        if plain and optional.search(key):
            result.initial.append(key)
        elif key.endswith('.num_batches_tracked'):
            # Frozen norms have no such counter.
            result.state_dict[key] = torch.tensor(0)
        else:
            result.missing.append(key)
    return result


def _is_input_kernel(
    name: str, tensor: Tensor, expected: Mapping[str, Tensor]
) -> bool:
    """Whether a tensor has 3 input channels where the stem has others."""
    if not name.startswith('backbone.stem.') or name not in expected:
        return False
    shape = expected[name].shape
    return (
        len(shape) == 4
        and shape[1] != 3
        and tensor.layout == torch.strided
        and tensor.shape == (shape[0], 3, *shape[2:])
    )


def _adapt_kernel(kernel: Tensor, channels: int) -> Tensor:
    """A kernel (O, 3, h, w) for grey, or any number of other channels."""
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    repeated = kernel.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return repeated * (3 / channels)


def flaw_of(tensor: Tensor, is_float: Optional[bool]) -> str:
    """Why a tensor cannot be a weight; empty if it can.

    Args:
        tensor (Tensor): Any tensor.
        is_float (bool, optional): Whether it should hold floating-point
            numbers, or integers. Defaults to whatever it holds.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return 'sparse, quantised or without values'
    accepted = {True: FLOATS, False: INTEGERS, None: (tensor.dtype,)}
    if tensor.dtype not in accepted[is_float]:
        return str(tensor.dtype)
    # A sum is quick, and only seldom too large for what is finite.
    finite = torch.isfinite(tensor.sum()) or torch.isfinite(tensor).all()
    return '' if finite else 'NaN or infinite values'


def _without_ones(shape: torch.Size) -> list[int]:
    return [n for n in shape if n != 1]


def _place(
    result: Fit,
    key: str,
    name: str,
    tensor: Tensor,
    expected: Mapping[str, Tensor],
    unbuilt: tuple[str, ...],
) -> None:
    """File one tensor under what becomes of it."""
    is_used = name in expected or name.startswith(('neck.', 'head.'))
    is_float = None
    if name in expected:
        is_float = expected[name].is_floating_point()
    flaw = flaw_of(tensor, is_float) if is_used else ''
    if flaw:
        result.unusable.append(f'{key} ({flaw})')
        return
    if name in expected:
        shape = expected[name].shape
        # Such as a scale of shape (C, 1, 1) for one of shape (C,).
        if _without_ones(tensor.shape) == _without_ones(shape):
            tensor = tensor.reshape(shape)
        else:
            hint = ''
            if _is_input_kernel(name, tensor, expected):
                hint = ' (adapt_input=True makes one from the other)'
            result.misshapen.append(
                f'{key} {tuple(tensor.shape)} instead of {tuple(shape)}{hint}'
            )
            return
    elif not name or name.startswith(unbuilt):
        result.dropped.append(key)
        return
    elif not is_used:
        result.unknown.append(key)
        return
    placed = result.state_dict.setdefault(name, tensor)
    if placed is tensor or torch.equal(placed, tensor):
        result.mapping[key] = name
    else:
        result.conflicting.append(key)


def _readings(
    keys: tuple[str, ...],
    key_map: Callable[[Collection[str]], Callable[[str], str]],
    prefix: Optional[str],
) -> Iterator[dict[str, str]]:
    """Ways to read the keys of a file: key to ours, of some keys or all."""
    for p in _prefixes(keys, prefix):
        inside = tuple(key for key in keys if key.startswith(p))
        # A classifier's head stands beside its backbone.
        top = p[: -len('backbone.')] if p.endswith('backbone.') else p
        beside = (f'{top}neck.', f'{top}head.')
        yield {
            **{key: key[len(top) :] for key in keys if key.startswith(beside)},
            **{key: f'backbone.{key[len(p) :]}' for key in inside},
        }
        yield _rename(inside, key_map, p)


@lru_cache(maxsize=64)
def _rename(
    keys: tuple[str, ...],
    key_map: Callable[[Collection[str]], Callable[[str], str]],
    prefix: str,
) -> dict[str, str]:
    rest = [key[len(prefix) :] for key in keys]
    return dict(zip(keys, map(key_map(rest), rest)))


def _prefixes(keys: tuple[str, ...], only: Optional[str]) -> list[str]:
    if only is not None:
        only = only if only.endswith('.') else f'{only}.'
        if any(key.startswith(only) for key in keys):
            return [only]
        if only != 'backbone.':
            raise CheckpointError(
                f'The checkpoint has no keys below {only!r}; it has '
                f'{sorted({key.split(".")[0] for key in keys})}.'
            )
    prefixes = {''}
    for run in {m[0] for m in map(_WRAPPERS.match, keys) if m}:
        parts = run.split('.')
        prefixes |= {'.'.join(parts[:i]) + '.' for i in range(1, len(parts))}
    # The weights that are evaluated, where a file holds several copies.
    return sorted(prefixes, key=lambda p: ('student' in p, len(p)))


def load_backbone(
    backbone: nn.Module,
    uri: str,
    prefix: Optional[str] = None,
    adapt_input: bool = False,
) -> None:
    """Fill a backbone from an address or a file; all of it or nothing.

    A contextual network may start from a plain one: what that lacks keeps
    its initial values.

    Args:
        backbone (nn.Module): One of our backbones. Stages that it does not
            build may be in the checkpoint.
        uri (str): ``mmctx://NAME``, or a path or address as in
            :func:`~mmctx.weights.addresses.locate` of any checkpoint with
            such a backbone in it.
        prefix (str, optional): Where the backbone's keys are. Defaults to
            wherever most of them fit.
        adapt_input (bool): See :func:`fit`. Defaults to False.

    Raises:
        CheckpointError: The file cannot be had or is refused, or keys are
            missing, unknown, of another shape, or hold no weights.
        FileNotFoundError: There is no such file.
    """
    path = locate(uri)
    result = fit(unwrap(load_file(path)), backbone, prefix, adapt_input)
    state = result.require(
        f'{uri} does not fit this {type(backbone).__name__}. Check its depth, '
        'widths and other options.'
    )
    start = len('backbone.')
    part = {k[start:]: v for k, v in state.items() if k[:start] == 'backbone.'}
    backbone.load_state_dict(part, strict=not result.initial)
    trust(uri, path)
    kept = len(result.initial)
    rest = f'; {kept} keep their initial values' if kept else ''
    print_log(f'Loaded {len(part)} tensors from {uri}{rest}', logger='current')
