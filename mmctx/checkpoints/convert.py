"""Released state dicts to ours."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Optional

import torch
from torch import Tensor

from . import coat, container, contextual_cnn, contnet, cotnet
from .loading import CheckpointError, unwrap

#: For each family, a function of all keys of a released file that gives the
#: function from one released key to ours.
RENAMERS: dict[str, Callable[[Collection[str]], Callable[[str], str]]] = {
    'cotnet': cotnet.rename,
    'coat': coat.rename,
    'container': container.rename,
    'contnet': contnet.rename,
    'contextual_cnn': contextual_cnn.rename,
}
#: For families that start from plain networks, whether one of our names is
#: of a part that a file has either as a whole or not at all.
OPTIONAL: dict[str, Callable[[str], bool]] = {
    'contextual_cnn': contextual_cnn.is_contextual,
}
#: Of our name and a released tensor gives the tensor in our shape.
RESHAPERS: dict[str, Callable[[str, Tensor], Tensor]] = {
    'contextual_cnn': contextual_cnn.reshape,
}


@dataclass
class Conversion:
    """What became of each tensor of a released file.

    Attributes:
        state_dict (dict): Our names and the tensors.
        mapping (dict): Released name to ours.
        dropped (list): Released names that a classifier has no use for: the
            parts of a detector beyond its backbone, layers that the release
            builds and never uses.
        unknown (list): Released names that the model has no place for.
        misshapen (list): Sentences on tensors of another shape.
        conflicting (list): Released names of a shared tensor that has other
            values under an earlier name.
        missing (list): Our names that the file should fill and does not.
        fresh (list): Our names that the file of a plain network does not
            fill: they keep their initial values.
    """

    state_dict: dict[str, Tensor] = field(default_factory=dict)
    mapping: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    conflicting: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)

    def complaints(self) -> list[str]:
        """One line for each kind of misfit, empty if the file fits."""
        kinds = {
            'keys that the model does not know': self.unknown,
            'tensors of another shape': self.misshapen,
            'tensors that differ from their other name': self.conflicting,
            'tensors that the file lacks': self.missing,
        }
        return [
            f'{len(found)} {kind}: {_listed(found)}'
            for kind, found in kinds.items()
            if found
        ]


def _listed(names: list[str], most: int = 20) -> str:
    rest = len(names) - most
    return ', '.join(names[:most]) + (f' and {rest} more' if rest > 0 else '')


@cache
def expected_tensors(name: str) -> Mapping[str, torch.Size]:
    """Names and shapes of the backbone tensors of a zoo classifier."""
    from mmctx.zoo import get_backbone, get_spec

    with torch.device('meta'):
        backbone = get_backbone(name, **get_spec(name).classifier_options())
    return {f'backbone.{k}': v.shape for k, v in backbone.state_dict().items()}


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or torch.equal(a, b)


def examine(state_dict: Mapping[str, Tensor], name: str) -> Conversion:
    """Convert as far as possible and report what does not fit."""
    from mmctx.zoo import get_spec

    expected = expected_tensors(name)
    family = get_spec(name).family
    rename = RENAMERS[family](state_dict.keys())
    reshape = RESHAPERS.get(family, lambda key, tensor: tensor)
    result = Conversion()
    for key, tensor in state_dict.items():
        ours = rename(key)
        tensor = reshape(ours, tensor)
        if not ours:
            result.dropped.append(key)
        elif ours not in expected and not ours.startswith(('neck.', 'head.')):
            result.unknown.append(key)
        elif ours in expected and tensor.shape != expected[ours]:
            result.misshapen.append(
                f'{key} {tuple(tensor.shape)} instead of '
                f'{tuple(expected[ours])}'
            )
        elif not _same(result.state_dict.setdefault(ours, tensor), tensor):
            result.conflicting.append(key)
        else:
            result.mapping[key] = ours
    filled = {*result.state_dict, *map(rename, state_dict)}
    optional = OPTIONAL.get(family, lambda key: False)
    if not any(map(optional, filled)):
        result.fresh = [k for k in expected if optional(k)]
    for key in set(expected).difference(result.fresh):
        if key.endswith('.num_batches_tracked'):
            # Frozen norms have no such counter.
            result.state_dict.setdefault(key, torch.tensor(0))
    filled.update(result.state_dict, result.fresh)
    result.missing = [k for k in expected if k not in filled]
    return result


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
    conversion = examine(unwrap(state_dict), name)
    complaints = conversion.complaints()
    if complaints:
        raise CheckpointError(
            f'This is not the released state dict of {name!r}.\n  '
            + '\n  '.join(complaints)
        )
    return conversion.state_dict


def recognise(state_dict: Mapping[str, Tensor]) -> str:
    """Name of the zoo model that a released state dict belongs to.

    Raises:
        CheckpointError: It fits none; the message says what keeps it from
            the nearest one.
    """
    from mmctx.zoo import list_models

    nearest: Optional[tuple[int, str, list[str]]] = None
    for name in list_models():
        conversion = examine(state_dict, name)
        complaints = conversion.complaints()
        if not complaints:
            return name
        candidate = (len(conversion.mapping), name, complaints)
        if nearest is None or candidate[0] > nearest[0]:
            nearest = candidate
    _, name, complaints = nearest
    raise CheckpointError(
        'The state dict belongs to no model of mmctx.'
        f' The nearest is {name!r}, but there are\n  '
        + '\n  '.join(complaints)
    )
