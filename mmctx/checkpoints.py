"""Released files by name: conversion, recognition, ``mmctx://`` addresses."""

from collections.abc import Mapping
from functools import cache
from typing import Optional

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmctx.weights.addresses import RELEASED, SCHEME, cache_dir, fetch, locate
from mmctx.weights.fit import Fit, fit, load_backbone
from mmctx.weights.reading import CheckpointError, load_file, unwrap
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
    state = unwrap(load_file(locate(uri)))
    if uri.startswith(SCHEME):
        name = uri[len(SCHEME) :].partition('#')[0]
        return convert_state_dict(state, RELEASED[name].model or name)
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


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def _load_scheme(filename: str, map_location: Optional[str] = None) -> dict:
    """What MMEngine calls for ``mmctx://`` addresses in any config."""
    return {'state_dict': load_checkpoint(filename)}
