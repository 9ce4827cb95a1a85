#!/usr/bin/env python
"""Draws how a Contextual CNN narrows down the classes of held-out images."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import load_checkpoint

import mmctx  # noqa: F401  (registers the networks)
from mmctx.checkpoints import use_safe_reader
from mmctx.engine import cli
from mmctx.visualization import draw_class_narrowing, rank_classes


def parse_args(argv=None):
    parser = cli.config_parser(__doc__)
    add = parser.add_argument
    add('checkpoint', help='checkpoint of that classifier')
    add('--out', default='class_narrowing.png', help='picture to write')
    add(
        '--num-images',
        type=int,
        default=10,
        metavar='N',
        help='images to draw, spread evenly over the test data (default: 10)',
    )
    args = parser.parse_args(argv)
    if args.num_images < 1:
        parser.error('--num-images takes a positive number')
    return args


def build_model(cfg, checkpoint):
    """The config's model with the weights of a checkpoint, on the CPU."""
    use_safe_reader()
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model_cfg = cfg.model
    if 'data_preprocessor' in cfg:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = revert_sync_batchnorm(MODELS.build(model_cfg)).eval()
    try:
        content = load_checkpoint(model, checkpoint, 'cpu', strict=True)
    except RuntimeError as error:
        raise cli.UserError(
            f'{checkpoint} does not fit the config: {cli.describe(error)}'
        ) from error
    model.dataset_meta = content.get('meta', {}).get('dataset_meta')
    return model


def pick_samples(dataset, count):
    """This many samples, spread evenly over a data set."""
    count = min(count, len(dataset))
    return [dataset[i * len(dataset) // count] for i in range(count)]


def main(argv=None):
    args = parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.require(cfg, args.config, ['model', 'test_dataloader'])
    if cfg.get('default_scope') != 'mmpretrain':
        raise cli.UserError(f'config {args.config} is not of a classifier')
    cli.existing_checkpoint(args.checkpoint)
    model = build_model(cfg, args.checkpoint)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    samples = pick_samples(dataset, args.num_images)
    images = torch.stack([sample['inputs'] for sample in samples])
    inputs = model.data_preprocessor(dict(inputs=images))['inputs']
    try:
        stages = rank_classes(model.backbone, inputs)
    except ValueError as error:
        raise cli.UserError(str(error)) from error
    draw_class_narrowing(
        # OpenMMLab loads images as BGR
        [image.flip(0).permute(1, 2, 0).numpy() for image in images],
        [sample['data_samples'].gt_label.item() for sample in samples],
        stages,
        dataset.metainfo['classes'],
        args.out,
    )
    print(f'{args.out} is written.')


if __name__ == '__main__':
    sys.exit(cli.run(main))
