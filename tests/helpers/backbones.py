"""A tiny instance of every backbone, for tests that all of them share.

A new family adds its classes here and inherits the whole contract.
"""

from mmengine.registry import MODELS
from torch import nn

import mmctx  # noqa: F401

from . import sixth_family

#: Arguments that make each class small enough for tests. A key is the name of
#: a class, and behind a space what sets a second instance of it apart.
TINY = {
    'CoTNet': dict(depth=14, base_channels=16, stem_channels=16),
    'CoTNeXt': dict(depth=14, base_channels=32, stem_channels=16),
    'SECoTNetD': dict(
        depth=14, base_channels=16, stem_channels=8, blur_pool=True
    ),
    'CoaT': dict(
        arch=dict(
            embed_dims=(8, 16, 24, 32),
            serial_depths=(1, 2, 1, 2),
            mlp_ratios=(2, 2, 1, 1),
        )
    ),
    'CoaT parallel': dict(
        arch=dict(
            embed_dims=(8, 16, 16, 16),
            serial_depths=(1, 1, 1, 1),
            mlp_ratios=(2, 2, 2, 2),
            parallel_depth=2,
        )
    ),
    'Container': dict(
        arch=dict(
            embed_dims=(8, 16, 24, 32),
            depths=(1, 2, 1, 2),
            mlp_ratios=(2, 2, 1, 1),
            aggregation=dict(
                num_heads=(1, 2, 3, 4),
                dynamic=('none', 'none', 'none', 'attention'),
            ),
        )
    ),
    'Container full': dict(
        arch=dict(
            embed_dims=(8, 16, 24, 32),
            depths=(1, 1, 1, 1),
            mlp_ratios=(2, 2, 1, 1),
            aggregation=dict(num_heads=(1, 2, 3, 4), mixing='scalars'),
        )
    ),
    'ConTNet': dict(
        arch=dict(
            stem_channels=8,
            depths=(1, 1, 1, 1),
            feedforward_channels=(16, 16, 24, 24),
        )
    ),
    'ConTNet relative': dict(
        arch=dict(
            stem_channels=8,
            depths=(2, 1, 1, 1),
            feedforward_channels=(16, 16, 24, 24),
            num_heads=(2, 2, 4, 4),
        ),
        position='relative',
        patch_sizes=((5,), (4,)),
        pre_norm=True,
        qkv_bias=False,
        separable=True,
    ),
    'ContextualConvNeXt': dict(
        arch=dict(depths=(1, 2, 3, 1), channels=(16, 48, 64, 64)),
        contextual_every=2,
        num_classes=12,
        class_counts=(6, 4, 2),
        embedding_dims=16,
        layer_scale_init_value=1.0,
    ),
    'ContextualResNet': dict(
        depth=14,
        stem_channels=16,
        base_channels=16,
        num_classes=12,
        class_counts=(6, 4, 2),
        embedding_dims=16,
    ),
    'ContextualResNet reduce': dict(
        depth=(1, 1, 2, 1),
        stem_channels=16,
        base_channels=16,
        contextual_stages=(0, 1, 2, 3),
        contextual_every=1,
        num_classes=12,
        class_counts=(6, 4, 2),
        embedding_dims=16,
        selection='reduce',
        weight_offsets=False,
        mask=False,
        ignore_padding=True,
    ),
}

TINY['SixthNet'] = sixth_family.TINY

#: Classes that hold no batch norm.
WITHOUT_BATCH_NORM = {'CoaT', 'ContextualConvNeXt'}


def class_of(name: str) -> str:
    """Class name of a key of :data:`TINY`."""
    return name.split()[0]


def build_tiny(name: str, **overrides) -> nn.Module:
    cfg = dict(type=class_of(name), **{**TINY[name], **overrides})
    return MODELS.build(cfg)
