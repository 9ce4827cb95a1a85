"""Weights into models: ``mmctx://`` names and the backbone's own part."""

from typing import Optional

import torch.nn as nn
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .contextual_cnn import is_contextual, is_foreign
from .convert import convert_state_dict, recognise
from .loading import CheckpointError, fetch, load_file, unwrap
from .released import RELEASED

SCHEME = 'mmctx://'


def _load_released(uri: str) -> dict[str, Tensor]:
    """State dict of a whole classifier from 'mmctx://NAME[#sha256=...]'."""
    name, _, fragment = uri[len(SCHEME) :].partition('#')
    if fragment and not fragment.startswith('sha256='):
        raise CheckpointError(
            f'{uri!r} is not of the form {SCHEME}NAME or '
            f'{SCHEME}NAME#sha256=DIGEST.'
        )
    path = fetch(name, fragment[len('sha256=') :] or None)
    return convert_state_dict(load_file(path), RELEASED[name].model or name)


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def _load_scheme(filename: str, map_location: Optional[str] = None) -> dict:
    """What MMEngine calls for 'mmctx://' addresses in any config."""
    return {'state_dict': _load_released(filename)}


def load_checkpoint(uri: str) -> dict[str, Tensor]:
    """State dict in our names from an address or a file.

    Args:
        uri (str): ``mmctx://NAME``, a released file, that of a plain
            ConvNeXt or ResNet, or a checkpoint of a model with one of our
            backbones.

    Raises:
        CheckpointError: The file is refused, damaged, or not understood.
        FileNotFoundError: There is no such file.
    """
    if uri.startswith(SCHEME):
        return _load_released(uri)
    state = unwrap(load_file(uri))
    if any('stages.' in key for key in state) and not is_foreign(state):
        return state
    return convert_state_dict(state, recognise(state))


def _backbone_part(
    state: dict[str, Tensor], prefix: Optional[str]
) -> dict[str, Tensor]:
    if prefix is None:
        prefixes = ('backbone.', '')
    else:
        prefixes = (prefix if prefix.endswith('.') else f'{prefix}.',)
    for p in prefixes:
        part = {k[len(p) :]: v for k, v in state.items() if k.startswith(p)}
        if part:
            return part
    raise CheckpointError(
        f'The checkpoint has no keys below {prefix!r}; it has '
        f'{sorted({k.split(".")[0] for k in state})}.'
    )


def load_backbone(
    backbone: nn.Module, uri: str, prefix: Optional[str] = None
) -> None:
    """Fill a backbone from an address or a file; all of it or nothing.

    A contextual network may start from a plain one: what that lacks keeps
    its initial values.

    Args:
        backbone (nn.Module): One of our backbones. Stages that it does not
            build may be in the checkpoint.
        uri (str): As in :func:`load_checkpoint`.
        prefix (str, optional): Where the backbone's keys are. Defaults to
            'backbone.' where there are such keys, else to the top.

    Raises:
        CheckpointError: Keys are missing, unknown, or of another shape.
    """
    part = _backbone_part(load_checkpoint(uri), prefix)
    own = backbone.state_dict()
    unbuilt = backbone.unbuilt_keys()
    unknown = [k for k in part if k not in own and not k.startswith(unbuilt)]
    missing = [k for k in own if k not in part]
    fresh = []
    if not any(is_contextual(f'backbone.{k}') for k in part):
        fresh = [k for k in missing if is_contextual(f'backbone.{k}')]
        missing = [k for k in missing if k not in fresh]
    misshapen = [
        f'{k} {tuple(part[k].shape)} instead of {tuple(v.shape)}'
        for k, v in own.items()
        if k in part and part[k].shape != v.shape
    ]
    if unknown or missing or misshapen:
        raise CheckpointError(
            f'{uri} does not fit this {type(backbone).__name__}: '
            f'{len(missing)} missing keys {missing[:5]}, {len(unknown)} '
            f'unknown keys {unknown[:5]}, {len(misshapen)} of another shape '
            f'{misshapen[:5]}. Check its depth, widths and other options.'
        )
    loaded = {k: part[k] for k in own if k not in fresh}
    backbone.load_state_dict(loaded, strict=not fresh)
    started = f'; {len(fresh)} keep their initial values' if fresh else ''
    print_log(
        f'Loaded {len(loaded)} tensors from {uri}{started}', logger='current'
    )
