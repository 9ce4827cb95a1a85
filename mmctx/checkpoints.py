"""Released files by name: conversion, recognition, ``mmctx://`` addresses."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Optional

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmctx.weights.addresses import (
    SCHEME,
    cache_dir,
    fetch,
    locate,
    trust,
)
from mmctx.weights.fit import Fit, fit, flaw_of, load_backbone
from mmctx.weights.pickles import HISTORY_BUFFER, Record, rebuilt
from mmctx.weights.reading import CheckpointError, load_file, unwrap
from mmctx.weights.released import RELEASED
from mmctx.zoo import get_backbone, get_spec, list_models

__all__ = [
    'RELEASED',
    'CheckpointError',
    'cache_dir',
    'convert_state_dict',
    'examine',
    'fetch',
    'load_backbone',
    'load_checkpoint',
    'load_file',
    'recognise',
    'unwrap',
    'use_safe_reader',
]


@cache
def _on_meta(name: str, whole: bool = True) -> nn.Module:
    """The backbone of a classifier, or quickly its stem and first stage."""
    options = get_spec(name).classifier_options()
    with torch.device('meta'):
        return get_backbone(name, **(options if whole else {'out_indices': 0}))


def examine(state_dict: Mapping[str, Tensor], name: str) -> Fit:
    """How a state dict fits the classifier of a name."""
    return fit(state_dict, _on_meta(name))


def convert_state_dict(state_dict: Mapping, name: str) -> dict[str, Tensor]:
    """Rename a released state dict to ours.

    Args:
        state_dict (Mapping): What a released file holds: a state dict, or
            the trainer's dict around it.
        name (str): A name of :func:`mmctx.list_models`.

    Returns:
        dict[str, Tensor]: Loadable with ``strict=True`` into
        ``mmctx.get_model(name)``; for the file of a detector the backbone's
        part of it, for that of a plain ConvNeXt or ResNet what a contextual
        one starts from.

    Raises:
        CheckpointError: Some keys are not known, have another shape, or are
            missing; the message names them.
    """
    return examine(unwrap(state_dict), name).require(
        f'This is not the released state dict of {name!r}.'
    )


def recognise(state_dict: Mapping[str, Tensor]) -> str:
    """Name of the zoo model that a state dict belongs to.

    Raises:
        CheckpointError: It fits none; the message says what keeps it from
            the nearest one.
    """
    beginnings = {
        name: fit(state_dict, _on_meta(name, whole=False))
        for name in list_models()
    }
    likely = [n for n, b in beginnings.items() if not b.complaints()]
    for name in likely:
        if not examine(state_dict, name).complaints():
            return name
    nearest = max(
        likely or beginnings, key=lambda n: len(beginnings[n].mapping)
    )
    raise CheckpointError(
        f'The state dict belongs to no model of mmctx. The nearest is '
        f'{nearest!r}, but there are\n  '
        + '\n  '.join(examine(state_dict, nearest).complaints())
    )


def load_checkpoint(uri: str) -> dict[str, Tensor]:
    """State dict in our names from an address or a file.

    Args:
        uri (str): ``mmctx://NAME``, a released file, that of a plain
            ConvNeXt or ResNet, or a checkpoint of a model with one of our
            backbones, which comes back as it is.

    Raises:
        CheckpointError: The file is refused, damaged, or not understood.
        FileNotFoundError: There is no such file.
    """
    path = locate(uri)
    state = unwrap(load_file(path))
    if uri.startswith(SCHEME):
        name = uri[len(SCHEME) :].partition('#')[0]
        converted = convert_state_dict(state, RELEASED[name].model or name)
        trust(uri, path)
        return converted
    try:
        result = examine(state, recognise(state))
    except CheckpointError:
        if any('stages.' in key for key in state):
            return state
        raise
    own = all(
        key.endswith(name.removeprefix('backbone.'))
        for key, name in result.mapping.items()
    )
    return state if own else result.state_dict


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_mmctx(filename: str, map_location: Optional[str] = None) -> dict:
    """What MMEngine calls for ``mmctx://`` addresses in any config."""
    return {'state_dict': load_checkpoint(filename)}


def use_safe_reader() -> None:
    """Let MMEngine read every checkpoint as mmctx does, in this process.

    Its own loader runs a file's code where torch's safe loader refuses it.
    """
    for prefix in [p for p in CheckpointLoader._schemes if p != SCHEME]:
        CheckpointLoader.register_scheme(
            prefix, load_from_safe_reader, force=True
        )


def load_from_safe_reader(filename: str, map_location: Any = None) -> Any:
    content = load_file(locate(filename), map_location)
    state = unwrap(content)
    for key, tensor in state.items():
        flaw = flaw_of(tensor, key.endswith(('weight', 'bias')) or None)
        if flaw:
            raise CheckpointError(f'{filename} holds {key} as {flaw}.')
    if filename.startswith('mmcls://'):
        # What MMEngine gives of them: the backbone.
        return {
            key[len('backbone.') :]: value
            for key, value in state.items()
            if key.startswith('backbone.')
        }
    if not any(isinstance(value, Mapping) for value in content.values()):
        return state  # bare
    return {**_for_mmengine(content), 'state_dict': state}


def _for_mmengine(content: Any) -> Any:
    """Data with the logs of MMEngine rebuilt from their numbers."""
    if isinstance(content, dict):
        items = {key: _for_mmengine(value) for key, value in content.items()}
        return rebuilt(content, items)
    if not isinstance(content, Record) or content.kind != HISTORY_BUFFER:
        return content
    state = content.state if isinstance(content.state, dict) else {}
    logs, counts = (
        np.asarray(state.get(f'_{kind}_history')) for kind in ('log', 'count')
    )
    length = state.get('max_length')
    if (
        logs.ndim != 1
        or logs.shape != counts.shape
        or {logs.dtype.kind, counts.dtype.kind} - {*'biuf'}
        or not isinstance(length, int)
    ):
        raise CheckpointError('A log in the checkpoint is not one of numbers.')
    return HistoryBuffer(logs, counts, length)
