#!/usr/bin/env python
"""Exports small models of every family and prints how exact the files are.

The weights are random, batch statistics too; score thresholds are zero, so
that there are as many boxes as a detector may return. A cell holds the largest
difference from PyTorch, relative to the largest value (of boxes: to the longer
side of the image; they are matched one to one), over five batches of one or
two images in four sizes, one of them odd; of backbones, also over one and two
images in six sizes.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.config import ConfigDict
from torch.nn.modules.batchnorm import _BatchNorm

import mmctx
from mmctx.engine import cli, export
from mmctx.engine.export.check import images
from mmctx.registry import MODELS
from mmctx.zoo import get_spec
from tools.analysis_tools.get_flops import build_model

_CONTAINER = dict(
    embed_dims=(16, 32, 64, 64),
    depths=(1, 1, 1, 1),
    mlp_ratios=(4, 4, 4, 4),
    aggregation=dict(
        num_heads=(1, 1, 2, 4), dynamic=('none', 'none', 'none', 'attention')
    ),
)
_CLASSES = dict(num_classes=10, class_counts=(5, 2, 1), embedding_dims=32)
#: Name of the network of which it is a small form, and what makes it small.
FAMILIES = {
    'CoTNet': ('cotnet50', dict(depth=14, base_channels=16, stem_channels=16)),
    'CoTNeXt': (
        'cotnext50',
        dict(depth=14, base_channels=32, stem_channels=16),
    ),
    'SECoTNetD': (
        'se_cotnetd_50',
        dict(depth=14, base_channels=16, stem_channels=8),
    ),
    'ConTNet': (
        'contnet_m',
        dict(
            arch=dict(
                stem_channels=16,
                depths=(1, 1, 1, 1),
                feedforward_channels=(32, 64, 64, 64),
            )
        ),
    ),
    'ContextualResNet': (
        'ctx_resnet50',
        dict(depth=14, base_channels=16, stem_channels=16, **_CLASSES),
    ),
    'ContextualConvNeXt': (
        'ctx_convnext_tiny',
        dict(
            arch=dict(depths=(1, 1, 1, 1), channels=(16, 48, 64, 64)),
            layer_scale_init_value=1.0,
            **_CLASSES,
        ),
    ),
    'Container': ('container_light', dict(arch=_CONTAINER)),
    'CoaT': (
        'coat_lite_small',
        dict(
            arch=dict(
                embed_dims=(16, 32, 64, 64),
                serial_depths=(1, 1, 1, 1),
                mlp_ratios=(4, 4, 4, 4),
            )
        ),
    ),
}
#: One of each family, for whole models.
ROWS = ('CoTNet', 'ConTNet', 'ContextualResNet', 'Container', 'CoaT')
RETINANET = 'retinanet_container-light_fpn_1x_coco'
DIGITS = {
    'Faster R-CNN': 'faster-rcnn_cotnet-26_fpn_digit-scenes',
    'Mask R-CNN': 'mask-rcnn_coat-lite-slim_fpn_digit-scenes',
    'RetinaNet': RETINANET,
    'Deformable DETR': 'deformable-detr_container-light-slim_digit-scenes',
    'PSPNet': 'pspnet_contnet-slim_digit-scenes',
}
COLUMNS = ('backbone', 'classifier', *DIGITS)
#: Heights and widths for backbones, each in batches of one and two.
SIZES = ((32, 32), (33, 47), (64, 64), (65, 97), (127, 65), (96, 160))
BATCHES = (1, 2)


def build(family, kind):
    """A small model of a kind, random but not trivial."""
    name, options = FAMILIES[family]
    torch.manual_seed(0)
    if kind == 'backbone':
        model = mmctx.get_backbone(name, **options)
    elif kind == 'classifier':
        options = {k: v for k, v in options.items() if k != 'num_classes'}
        model = mmctx.get_model(name, num_classes=10, **options)
    else:
        model = build_model(config(name, options, kind))
    if hasattr(model, 'level_embed'):
        # mmdet leaves it to init_weights.
        torch.nn.init.normal_(model.level_embed)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    leave_constants(model)
    return model.eval()


@torch.no_grad()
def leave_constants(model):
    """Move parameters that start as zeros or ones.

    Zeros in the last norm of a branch, or in what predicts offsets, would
    leave nothing to compare.
    """
    for parameter in model.parameters():
        if parameter.numel() > 1 and parameter.min() == parameter.max():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def config(name, options, kind):
    """The config of a small detector or segmentor."""
    cfg = mmctx.get_config(DIGITS[kind])
    model = cfg.model
    indices = {'Deformable DETR': (2,), 'PSPNet': (0, 1, 2)}.get(
        kind, (0, 1, 2, 3)
    )
    backbone = dict(get_spec(name).backbone, **options, out_indices=indices)
    channels = list(MODELS.build(backbone).out_channels)
    model.backbone = ConfigDict(backbone)
    if kind == 'PSPNet':
        model.decode_head.in_channels = channels
        model.auxiliary_head = None
        return cfg
    model.neck.in_channels = channels
    if kind == 'RetinaNet':
        model.neck.out_channels = model.bbox_head.in_channels = 64
        model.bbox_head.update(feat_channels=64, num_classes=10)
        model.test_cfg.score_thr = 0.0
    elif 'R-CNN' in kind:
        model.test_cfg.rcnn.score_thr = 0.0
    return cfg


def cell(family, kind, to, shape, folder):
    """The largest difference, or why there is no file."""
    model = build(family, kind)
    path = folder / f'model{export.FORMATS[to]}'
    try:
        network = export.build(model)
        export.save(network, path, to, shape, True, {})
        batches = [
            images(network, (n, *size), seed=n)
            for size in SIZES * (kind == 'backbone')
            for n in BATCHES
        ]
        comparisons = export.check_file(
            model, network, path, shape, True, batches
        )
    except export.Refusal as refusal:
        return f'refused: {refusal}'
    count = sum(c.boxes for c in comparisons)
    worst = max(c.difference for c in comparisons)
    return f'{worst:.0e}' + f' ({count})' * bool(count)


def main(argv=None):
    parser = cli.Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--to', nargs='+', choices=export.FORMATS, default=['onnx']
    )
    parser.add_argument('--rows', nargs='+', choices=FAMILIES, default=ROWS)
    parser.add_argument(
        '--columns', nargs='+', choices=COLUMNS, default=COLUMNS[1:]
    )
    parser.add_argument(
        '--shape', type=int, nargs=2, default=(128, 160), metavar='SIZE'
    )
    args = parser.parse_args(argv)
    print('| | format |', ' | '.join(args.columns), '|')
    print('| --- ' * (2 + len(args.columns)) + '|')
    with tempfile.TemporaryDirectory() as folder:
        for family in args.rows:
            for to in args.to:
                cells = (
                    cell(family, kind, to, args.shape, Path(folder))
                    for kind in args.columns
                )
                print(f'| {family} | {to}', end=' ', flush=True)
                for text in cells:
                    print(f'| {text}', end=' ', flush=True)
                print('|')


if __name__ == '__main__':
    sys.exit(cli.run(main))
