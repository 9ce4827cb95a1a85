"""The backbones, one file per family."""

from mmctx.registry import MODELS, register

from .coat import CoaT
from .container import Container
from .contextual_cnn import ContextualConvNeXt, ContextualResNet
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


@register(MODELS, 'PAMVisionTransformer')
def build_pam_vision_transformer(*args, **kwargs):
    """Container-PAM, which is mmpretrain's vision transformer and more.

    See :class:`~.pam_vision_transformer.PAMVisionTransformer`.

    Raises:
        ImportError: mmpretrain is not installed.
    """
    from .pam_vision_transformer import PAMVisionTransformer

    return PAMVisionTransformer(*args, **kwargs)
