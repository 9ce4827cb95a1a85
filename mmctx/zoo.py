"""Models by name."""

import fnmatch
from dataclasses import dataclass, field
from typing import Optional, Union

import torch.nn as nn
from mmengine.model import initialize
from mmengine.registry import DefaultScope

from mmctx.compatibility import LIBRARIES
from mmctx.registry import MODELS
from mmctx.suggestions import did_you_mean
from mmctx.weights.addresses import locate, trust
from mmctx.weights.fit import fit
from mmctx.weights.reading import CheckpointError, load_file, unwrap
from mmctx.weights.released import RELEASED

CLASSIFICATION = 'classification'
DETECTION = 'detection'
INSTANCE = 'instance segmentation'
SEMANTIC = 'semantic segmentation'
TASKS = (CLASSIFICATION, DETECTION, INSTANCE, SEMANTIC)


@dataclass(frozen=True)
class ModelSpec:
    """What a name stands for.

    Attributes:
        backbone (dict): Config of the backbone.
        tasks (tuple[str]): Tasks with published experiments.
        neck (dict, optional): Config of the classifier's neck;
            ``in_channels=None`` stands for the backbone's channels.
        head (dict): Config of the classifier's head, less its channels and
            classes.
        classifier (dict): What the backbone of a classifier takes besides;
            ``num_classes=None`` stands for the number of classes, for a
            backbone that scores them itself.
    """

    backbone: dict
    tasks: tuple[str, ...] = (CLASSIFICATION,)
    neck: Optional[dict] = field(
        default_factory=lambda: dict(type='GlobalAveragePooling')
    )
    head: dict = field(default_factory=lambda: dict(type='LinearClsHead'))
    classifier: dict = field(default_factory=dict)

    def classifier_options(self, num_classes: int = 1000) -> dict:
        """What the backbone of a classifier takes besides."""
        options = dict(self.classifier)
        if 'num_classes' in options:
            options['num_classes'] = num_classes
        return options


def _coat(arch: str, *tasks: str) -> ModelSpec:
    return ModelSpec(
        dict(type='CoaT', arch=arch),
        (CLASSIFICATION, *tasks),
        neck=None,
        head=dict(type='CoaTClsHead', num_tokens=1 if 'lite' in arch else 3),
        classifier=dict(with_cls_token=True),
    )


def _container(arch: str, *tasks: str) -> ModelSpec:
    return ModelSpec(
        dict(type='Container', arch=arch),
        (CLASSIFICATION, *tasks),
        neck=dict(type='NormedPooling', in_channels=None),
        head=dict(
            type='LinearClsHead',
            init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        ),
    )


def _contnet(arch: str, *tasks: str, **options) -> ModelSpec:
    return ModelSpec(
        dict(type='ConTNet', arch=arch, **options),
        (CLASSIFICATION, *tasks),
        classifier=dict(dense=False),
    )


def _contextual(backbone: str, *tasks: str, **options) -> ModelSpec:
    return ModelSpec(
        dict(type=backbone, **options),
        (CLASSIFICATION, *tasks),
        neck=None,
        head=dict(type='ContextualClsHead'),
        classifier=dict(with_class_scores=True, num_classes=None),
    )


_COCO = (CLASSIFICATION, DETECTION, INSTANCE)

_SPECS: dict[str, ModelSpec] = {
    'cotnet50': ModelSpec(dict(type='CoTNet', depth=50), _COCO),
    'cotnet101': ModelSpec(dict(type='CoTNet', depth=101), _COCO),
    'cotnext50': ModelSpec(dict(type='CoTNeXt', depth=50), _COCO),
    'cotnext101': ModelSpec(dict(type='CoTNeXt', depth=101), _COCO),
    'se_cotnetd_50': ModelSpec(dict(type='SECoTNetD', depth=50), _COCO),
    'se_cotnetd_101': ModelSpec(dict(type='SECoTNetD', depth=101), _COCO),
    'se_cotnetd_152': ModelSpec(dict(type='SECoTNetD', depth=152)),
    'se_cotnetd_152_320': ModelSpec(dict(type='SECoTNetD', depth=152)),
    'contnet_ti': _contnet('ti'),
    'contnet_s': _contnet('s'),
    'contnet_m': _contnet('m', DETECTION, INSTANCE, SEMANTIC),
    'contnet_m_relative': _contnet('m', position='relative'),
    'contnet_b': _contnet('b'),
    'coat_lite_tiny': _coat('lite_tiny'),
    'coat_lite_mini': _coat('lite_mini', DETECTION, INSTANCE),
    'coat_lite_small': _coat('lite_small', DETECTION, INSTANCE),
    'coat_lite_medium': _coat('lite_medium'),
    'coat_lite_medium_384': _coat('lite_medium'),
    'coat_tiny': _coat('tiny', DETECTION, INSTANCE),
    'coat_mini': _coat('mini', DETECTION, INSTANCE),
    'coat_small': _coat('small', DETECTION, INSTANCE),
    'container_light': _container('light', DETECTION, INSTANCE),
    'container_light_paper': _container('light_paper'),
    'container': _container('full'),
    'ctx_convnext_tiny': _contextual(
        'ContextualConvNeXt', DETECTION, INSTANCE, arch='tiny'
    ),
    'ctx_convnext_small': _contextual('ContextualConvNeXt', arch='small'),
    'ctx_convnext_base': _contextual('ContextualConvNeXt', arch='base'),
    'ctx_resnet50': _contextual('ContextualResNet', depth=50),
    'ctx_resnet50_weight_only': _contextual(
        'ContextualResNet', depth=50, sampling_offsets=False
    ),
    'ctx_resnet50_sampling_only': _contextual(
        'ContextualResNet', depth=50, weight_offsets=False
    ),
    'ctx_resnet50_sampling_only_nomask': _contextual(
        'ContextualResNet', depth=50, weight_offsets=False, mask=False
    ),
    'ctx_resnet50_no_context': _contextual(
        'ContextualResNet', depth=50, use_context=False
    ),
    'ctx_resnet50_ctx_stage34': _contextual(
        'ContextualResNet', depth=50, contextual_stages=(2, 3)
    ),
}


def get_spec(name: str) -> ModelSpec:
    """The entry of a name.

    Raises:
        ValueError: There is no such model; near names are suggested.
    """
    if name not in _SPECS:
        raise ValueError(
            f'There is no model named {name!r}.{did_you_mean(name, _SPECS)} '
            'mmctx.list_models() lists all names.'
        )
    return _SPECS[name]


def list_models(
    pattern: Optional[str] = None, task: Optional[str] = None
) -> list[str]:
    """Names of the models.

    Args:
        pattern (str, optional): Shell-style pattern, such as ``'cot*50'``;
            without a wildcard, any part of the name. Defaults to all.
        task (str, optional): Only models with published experiments on
            'classification', 'detection', 'instance segmentation' or
            'semantic segmentation'. Every backbone can be used for any.

    Raises:
        ValueError: ``task`` is not one of the above.
    """
    if task is not None and task not in TASKS:
        raise ValueError(f'task must be one of {TASKS}, got {task!r}.')
    names = [n for n, s in _SPECS.items() if task is None or task in s.tasks]
    if pattern is None:
        return names
    if not any(c in pattern for c in '*?['):
        pattern = f'*{pattern}*'
    return fnmatch.filter(names, pattern)


def get_backbone(
    name: str, pretrained: Union[bool, str] = False, **overrides
) -> nn.Module:
    """A backbone by name.

    Args:
        name (str): One of :func:`list_models`.
        pretrained (bool or str): Load the released weights, or those at a
            path or address. Defaults to False.
        **overrides: Arguments of the backbone's constructor.

    Returns:
        nn.Module: ``backbone(x)`` gives a tuple of feature maps
        (N, C, H, W), one per out index. Class tokens or class scores (N, C)
        follow them where an argument asks for those: see
        :class:`~mmctx.models.backbones.feature_maps.FeatureMaps`.

    Raises:
        ValueError: Unknown name.
        CheckpointError: The weights cannot be had or do not fit.
    """
    cfg = {**get_spec(name).backbone, **overrides}
    if pretrained:
        address = _address(name, pretrained)
        cfg['init_cfg'] = dict(type='Pretrained', checkpoint=address)
    backbone = MODELS.get(cfg.pop('type'))(**cfg)
    if pretrained:
        backbone.init_weights()
    return backbone


def get_model(
    name: str,
    pretrained: Union[bool, str] = False,
    num_classes: int = 1000,
    **overrides,
) -> nn.Module:
    """An image classifier by name.

    Args:
        name (str): One of :func:`list_models`.
        pretrained (bool or str): Load the released weights, or those of a
            classifier at a path or address; where it has another number of
            classes, all but the head's. Defaults to False.
        num_classes (int): Number of classes. Defaults to 1000.
        **overrides: Arguments of the backbone's constructor.

    Returns:
        ImageClassifier: Of mmpretrain. ``model(x)`` gives logits
        (N, num_classes), ``model.backbone(x)`` the feature maps and, in CoaT
        and the contextual CNNs, what their heads take behind them: see
        :func:`get_backbone`.

    Raises:
        ImportError: mmpretrain is not installed.
        ValueError: Unknown name.
        CheckpointError: The weights cannot be had or do not fit.
    """
    try:
        from mmpretrain.registry import MODELS as CLASSIFIERS
    except ImportError as error:
        raise ImportError(
            f'get_model({name!r}) builds an mmpretrain classifier, and '
            f'mmpretrain cannot be imported ({error}). Install '
            f'{LIBRARIES["mmpretrain"]}, or use mmctx.get_backbone, which '
            'does not need it.'
        ) from error
    spec = get_spec(name)
    options = spec.classifier_options(num_classes)
    backbone = get_backbone(name, **{**options, **overrides})
    channels = dict(in_channels=backbone.out_channels[-1])
    neck = dict(spec.neck) if spec.neck else None
    if neck and 'in_channels' in neck:
        neck.update(channels)
    head = dict(spec.head, num_classes=num_classes, **channels)
    cfg = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
    # Whatever scope a config of another package has made the default.
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = CLASSIFIERS.build(cfg)
    if not pretrained:
        initialize(model.head, model.head.init_cfg or [])
        return model
    _load_classifier(model, _address(name, pretrained), name)
    return model


def _load_classifier(model: nn.Module, address: str, name: str) -> None:
    """Fill a classifier, all of it or nothing, but a head of other classes."""
    path = locate(address)
    misfit = f'{address} does not fit a classifier {name!r}.'
    state = fit(unwrap(load_file(path)), model.backbone).require(misfit)
    own = model.state_dict()
    if any(k in own and own[k].shape != v.shape for k, v in state.items()):
        state |= model.head.state_dict(prefix='head.')
    differing = sorted(
        k
        for k in own.keys() | state.keys()
        if k not in own or k not in state or own[k].shape != state[k].shape
    )
    if differing:
        raise CheckpointError(
            f'{misfit} These differ: {differing[:20]}. Load the backbone of '
            'another model with get_backbone.'
        )
    model.load_state_dict(state, strict=True)
    trust(address, path)


def _address(name: str, pretrained: Union[bool, str]) -> str:
    if pretrained is not True:
        return str(pretrained)
    if name not in RELEASED:
        raise CheckpointError(
            f'No weights of {name!r} were released; there are weights of '
            f'{sorted(RELEASED)}.'
        )
    return f'mmctx://{name}'
