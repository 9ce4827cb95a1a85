"""A tiny instance of every backbone, for tests that all of them share.

A new family adds its classes here and inherits the whole contract.
"""

from torch import nn

from mmctx.models import backbones

#: Arguments that make each class small enough for tests.
TINY = {
    'CoTNet': dict(depth=14, base_channels=16, stem_channels=16),
    'CoTNeXt': dict(depth=14, base_channels=32, stem_channels=16),
    'SECoTNetD': dict(
        depth=14, base_channels=16, stem_channels=8, blur_pool=True
    ),
}


def build_tiny(name: str, **overrides) -> nn.Module:
    return getattr(backbones, name)(**{**TINY[name], **overrides})
