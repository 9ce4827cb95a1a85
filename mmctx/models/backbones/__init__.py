"""The backbones, one file per family."""

from mmctx.registry import MODELS, lazy_getattr, register_lazily

from .coat import CoaT
from .container import Container
from .contextual_convnext import ContextualConvNeXt
from .contextual_resnet import ContextualResNet
from .contnet import ConTNet
from .cotnet import CoTNet, CoTNeXt, SECoTNetD
from .temporal_shift import build_temporal_shift  # noqa: F401

__all__ = [
    'CoTNeXt',
    'CoTNet',
    'CoaT',
    'ConTNet',
    'Container',
    'ContextualConvNeXt',
    'ContextualResNet',
    'SECoTNetD',
]

register_lazily(
    MODELS, f'{__name__}.pam_vision_transformer', 'PAMVisionTransformer'
)

__getattr__ = lazy_getattr(__name__)
