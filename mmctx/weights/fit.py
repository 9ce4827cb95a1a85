"""A file's tensors onto one model: all of them, or none."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Optional

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .addresses import locate
from .reading import CheckpointError, load_file, unwrap

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
    conflicting: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    initial: list[str] = field(default_factory=list)

    def complaints(self) -> list[str]:
        """One line for each kind of misfit, empty if the file fits."""
        kinds = {
            'keys that the model does not know': self.unknown,
            'tensors of another shape': self.misshapen,
            'tensors that differ from their other name': self.conflicting,
            'tensors that the file lacks': self.missing,
        }
        return [
            f'{len(keys)} {kind}: {_listed(keys)}'
            for kind, keys in kinds.items()
            if keys
        ]

    def require(self, misfit: str) -> dict[str, Tensor]:
        """The state dict of a file that fits as a whole.

        Raises:
            CheckpointError: It does not; ``misfit`` begins the message.
        """
        complaints = self.complaints()
        if complaints:
            raise CheckpointError('\n  '.join([misfit, *complaints]))
        return self.state_dict


def _listed(keys: list[str], most: int = 20) -> str:
    rest = len(keys) - most
    return ', '.join(keys[:most]) + (f' and {rest} more' if rest > 0 else '')


def fit(
    state_dict: Mapping[str, Tensor],
    backbone: nn.Module,
    prefix: Optional[str] = None,
) -> Fit:
    """Find the place of each tensor in a network with this backbone.

    The keys are read as ours and as released ones, from the top and below
    each prefix of training code; the reading that places most tensors counts.

    Args:
        state_dict (Mapping[str, Tensor]): Of any file; unchanged.
        backbone (nn.Module): One of our backbones, or on the meta device;
            unchanged.
        prefix (str, optional): The only prefix to look below.

    Raises:
        CheckpointError: There are no keys below ``prefix``.
    """
    expected = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    readings = _readings(tuple(state_dict), backbone.key_map, prefix)
    names = max(readings, key=lambda r: len(expected.keys() & {*r.values()}))
    unbuilt = tuple(f'backbone.{k}' for k in backbone.unbuilt_keys())
    result = Fit()
    for key, tensor in state_dict.items():
        _place(result, key, names.get(key, ''), tensor, expected, unbuilt)
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
    if name in expected:
        shape = expected[name].shape
        # Such as a scale of shape (C, 1, 1) for one of shape (C,).
        if _without_ones(tensor.shape) == _without_ones(shape):
            tensor = tensor.reshape(shape)
        else:
            result.misshapen.append(
                f'{key} {tuple(tensor.shape)} instead of {tuple(shape)}'
            )
            return
    elif not name or name.startswith(unbuilt):
        result.dropped.append(key)
        return
    elif not name.startswith(('neck.', 'head.')):
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
    backbone: nn.Module, uri: str, prefix: Optional[str] = None
) -> None:
    """Fill a backbone from an address or a file; all of it or nothing.

    A contextual network may start from a plain one: what that lacks keeps
    its initial values.

    Args:
        backbone (nn.Module): One of our backbones. Stages that it does not
            build may be in the checkpoint.
        uri (str): ``mmctx://NAME``, a released file, or any checkpoint with
            such a backbone in it.
        prefix (str, optional): Where the backbone's keys are. Defaults to
            wherever most of them fit.

    Raises:
        CheckpointError: The file is refused, or keys are missing, unknown,
            or of another shape.
        FileNotFoundError: There is no such file.
    """
    result = fit(unwrap(load_file(locate(uri))), backbone, prefix)
    state = result.require(
        f'{uri} does not fit this {type(backbone).__name__}. Check its depth, '
        'widths and other options.'
    )
    start = len('backbone.')
    part = {k[start:]: v for k, v in state.items() if k[:start] == 'backbone.'}
    backbone.load_state_dict(part, strict=not result.initial)
    kept = len(result.initial)
    rest = f'; {kept} keep their initial values' if kept else ''
    print_log(f'Loaded {len(part)} tensors from {uri}{rest}', logger='current')
