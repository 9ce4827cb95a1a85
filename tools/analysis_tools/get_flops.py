#!/usr/bin/env python
"""Counts parameters and multiply-adds of a config's model, part by part.

One multiply-add is a multiplication and the addition that follows it; papers
call this one FLOP, or two. Convolutions, matrix products (including attention)
and local aggregation are counted; norms, activations, pooling, sampling and
element-wise operations are not. Detectors run on a random image with random
weights, so the number of regions is the config's maximum or close to it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import mmctx.ops  # noqa: F401  (defines the operators counted below)
from mmctx.engine import cli
from tools.analysis_tools._benchmark_models import resident_growth


def local_aggregation_flop(value, weight, *_, **__):
    """Shapes (N, C, H, W), (N, G, K*K, H, W): 2 N C K K H W operations."""
    return 2 * torch.Size(value).numel() * weight[2]


def contextual_contract_flop(rows, index, corner, weight, *_, **__):
    """As for an ordinary convolution: index (N, T, P), weight (N, ..., T)."""
    return 2 * torch.Size(weight).numel() * index[2]


def attention_flop(query, key, value, *_, **__):
    return sdpa_flop_count(query, key, value)


#: Some papers leave these out of their counts.
ATTENTION = 'attention products'
#: Operators that PyTorch's counter does not know.
FORMULAS = {
    torch.ops.mmctx.local_aggregation: local_aggregation_flop,
    torch.ops.mmctx.contextual_contract: contextual_contract_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flop,
}


def count_multiply_adds(run):
    """Multiply-adds per module during ``run()``, and in all ('Global').

    Names start with that of the outermost module's class, as in
    'ImageClassifier.backbone'. The two products of fused attention are
    counted with the rest, and under :data:`ATTENTION` once more.
    """
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    # Fused operators do not stand in where a counter observes; those of
    # FORMULAS do, and are one operator each, which reference implementations
    # are not.
    with torch.no_grad(), counter:
        run()
    counts = counter.get_flop_counts()
    attention = (
        count
        for operator, count in counts['Global'].items()
        if 'scaled_dot_product' in str(operator)
    )
    return {
        ATTENTION: sum(attention) // 2,
        **{name: sum(ops.values()) // 2 for name, ops in counts.items()},
    }


def build_model(cfg):
    """The config's model with untrained weights, ready to evaluate."""
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model_cfg = cfg.model
    if 'data_preprocessor' in cfg:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = revert_sync_batchnorm(MODELS.build(model_cfg)).eval()
    # PyTorch's counter fails on views of parameters that ask for gradients.
    return model.requires_grad_(False)


def default_size(cfg):
    """Height and width of the config's test images.

    For detectors those of the largest image in landscape format, but the usual
    800 x 1280 if that is 800 x 1333; for a segmentor that slides a window over
    its images, those of the window.
    """
    if cfg.get('default_scope') == 'mmdet':
        scales = [
            sorted(step.scale)
            for step in cfg.get('test_pipeline', [])
            if step.type == 'Resize' and 'scale' in step
        ]
        known = scales and scales[-1] != [800, 1333]
        return scales[-1] if known else [800, 1280]
    if 'crop_size' in cfg.model.get('test_cfg', {}):
        return list(cfg.model.test_cfg.crop_size)
    crops = [
        step.crop_size
        for step in cfg.get('test_pipeline', [])
        if step.type == 'CenterCrop'
    ]
    return [crops[-1] if crops else 224]


def forward(model, scope, shape):
    """One pass of a whole model over one random image of shape (3, H, W).

    In self-distillation, of the teacher and of the student.
    """
    inputs = torch.rand(1, *shape)
    if scope != 'mmdet':
        output = model(inputs, mode='tensor')
        if hasattr(model, 'teacher'):
            forward_student(model, inputs)
        return output
    from mmdet.structures import DetDataSample

    size = tuple(shape[1:])
    sizes = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    metainfo = dict.fromkeys(sizes, size)
    sample = DetDataSample(metainfo=dict(metainfo, scale_factor=(1.0, 1.0)))
    return model(inputs, [sample], mode='tensor')


def forward_student(model, inputs):
    """The pass that the mode 'tensor' leaves out."""
    features = model.backbone(inputs)
    if model.neck is not None:
        features = model.neck(features)
    model.head(features if torch.is_tensor(features) else features[-1])


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def count_of(module, name, counts):
    """Multiply-adds of a part, whether it was called or only its parts."""
    return counts.get(name) or sum(
        count_of(child, f'{name}.{label}', counts)
        for label, child in module.named_children()
    )


def report(model, counts, shape):
    size = ' x '.join(map(str, shape))
    print(f'Input {size}; 1 multiply-add = 2 floating-point operations.')
    print(f'{"part":<24}{"parameters (M)":>16}{"multiply-adds (G)":>20}')
    rows = [
        (
            label,
            part,
            count_of(part, f'{type(model).__name__}.{label}', counts),
        )
        for label, part in model.named_children()
        if parameters(part)
    ]
    for label, part, count in [*rows, ('total', model, counts['Global'])]:
        millions = parameters(part) / 1e6
        print(f'{label:<24}{millions:>16.3f}{count / 1e9:>20.3f}')
    if counts[ATTENTION]:
        print(f'of which {ATTENTION}: {counts[ATTENTION] / 1e9:.3f} G')


def parse_args(argv=None):
    parser = cli.config_parser(__doc__.splitlines()[0])
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='SIZE',
        help='height and width, or one number for both; by default the '
        "config's test crop, window or scale, else 224 (detectors: 800 1280)",
    )
    parser.add_argument(
        '--backbone',
        action='store_true',
        help='count the backbone alone, all four stages',
    )
    parser.add_argument(
        '--memory',
        action='store_true',
        help='also measure what the forward pass of one image adds to the '
        'memory of the process (Linux)',
    )
    args = parser.parse_args(argv)
    if args.shape and (len(args.shape) > 2 or min(args.shape) < 1):
        parser.error('--shape takes one or two positive numbers')
    return args


def main(argv=None):
    args = parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.require(cfg, args.config, ['model'])
    scope = cfg.get('default_scope')
    size = args.shape or default_size(cfg)
    shape = (3, size[0], size[-1])
    model = build_model(cfg)
    if args.backbone:
        model = model.backbone

    @torch.no_grad()
    def run(shape=shape):
        if args.backbone:
            return model(torch.rand(1, *shape))
        return forward(model, scope, shape)

    if args.memory:
        run((3, 64, 64))  # Libraries load with the first operators.
        print(f'Peak memory of the forward pass: {resident_growth(run):.0f} '
              'MiB')  # fmt: skip
    report(model, count_multiply_adds(run), shape)


if __name__ == '__main__':
    sys.exit(cli.run(main))
