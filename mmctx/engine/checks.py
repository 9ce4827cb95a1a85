"""Whether the parts of a config fit together, before the first iteration."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

#: Necks of mmpretrain and ours that keep the number of channels.
POOLINGS = (None, 'GlobalAveragePooling', 'NormedPooling', 'PooledDropout')


class UserError(Exception):
    """Something that the person at the keyboard can put right."""


class MisfitError(ValueError):
    """Parts of a config that do not fit together."""


def check_channels(model_cfg: Any, model: nn.Module) -> None:
    """Compare a neck's or a head's channels with those of the backbone.

    Args:
        model_cfg (dict): Config of the model.
        model (nn.Module): What was built from it. Nothing is checked if its
            backbone has no ``out_channels``.

    Raises:
        MisfitError: They differ.
    """
    if is_model_wrapper(model) or 'module' in model_cfg:  # test-time, too
        model, model_cfg = model.module, model_cfg.get('module', model_cfg)
    backbone = getattr(model, 'backbone', None)
    channels = getattr(backbone, 'out_channels', None)
    if not isinstance(channels, tuple):
        return
    for name, part in _consumers(model_cfg):
        in_channels, index = part.get('in_channels'), part.get('in_index', -1)
        if isinstance(in_channels, Sequence):
            in_channels = list(in_channels)
            if name == 'neck':
                index = range(len(channels))
        needed = _choose(channels, index)
        if in_channels not in (None, needed):
            raise MisfitError(
                f'{name} has in_channels={in_channels}, but '
                f'{type(backbone).__name__} returns {list(channels)} channels '
                f'with out_indices={list(backbone.out_indices)}. Write '
                f'{name}=dict(in_channels={needed}, ...).'
            )


def _consumers(model_cfg: Mapping) -> Iterator[tuple[str, Mapping]]:
    """The parts that take the backbone's feature maps."""
    neck = model_cfg.get('neck')
    if isinstance(neck, Sequence):
        neck = neck[0]
    if neck:
        yield 'neck', neck
    if (neck or {}).get('type') in POOLINGS:
        for name in ('head', 'decode_head', 'auxiliary_head'):
            heads = model_cfg.get(name) or ()
            for head in [heads] if isinstance(heads, Mapping) else heads:
                yield name, head


def _choose(channels: Sequence[int], index: Any) -> Any:
    try:
        if isinstance(index, Sequence):
            return [channels[i] for i in index]
        return channels[index]
    except IndexError:
        raise MisfitError(
            f'A head has in_index={index}, but the backbone returns '
            f'{len(channels)} feature maps. Change one of them.'
        ) from None


class ClassCheck(Hook):
    """Compares the heads' numbers of classes with those of the data sets."""

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Check the data sets of all loops that will run.

        Raises:
            MisfitError: A head has another number of classes. A classifier may
                have more.
        """
        may_have_more = runner.cfg.get('default_scope') == 'mmpretrain'
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if not isinstance(loop, BaseLoop):
                continue
            dataset = loop.dataloader.dataset
            count = _num_classes(getattr(dataset, 'metainfo', {}))
            for name, number in _heads(runner.model) if count else ():
                if number < count or (number > count and not may_have_more):
                    raise MisfitError(
                        f'{name} has num_classes={number}, but there are '
                        f'{count} classes in {type(dataset).__name__}. Write '
                        f'num_classes={count} into every head, or '
                        'metainfo=dict(classes=(...)) into the data sets.'
                    )


def _num_classes(metainfo: Mapping) -> int:
    """Number of classes that each head should have, 0 if that is not clear."""
    classes = metainfo.get('classes')
    if isinstance(classes, str) or 'thing_classes' in metainfo:
        return 0
    return len(classes or ())


def _heads(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Modules that score the classes of a data set, and their number."""
    for name, module in model.named_modules():
        number = getattr(module, 'num_classes', None)
        # Of one channel: a segmentor of foreground and background.
        is_binary = getattr(module, 'out_channels', None) == 1
        *_, label = ['', *(p for p in name.split('.') if not p.isdigit())]
        if (
            label.endswith('head')
            and label not in ('rpn_head', 'semantic_head')
            and isinstance(number, int)
            and not is_binary
        ):
            yield name, number
