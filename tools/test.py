#!/usr/bin/env python
"""Tests a checkpoint: classification, detection, segmentation.

The flags are those of the mmdet, mmpretrain and mmseg tools of this name.
"""

import sys
from copy import deepcopy
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mmengine
from mmengine.config import ConfigDict
from mmengine.evaluator import DumpResults

from mmctx.engine import cli

FIELDS = ('model', 'test_dataloader', 'test_cfg', 'test_evaluator')

FLIPS = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
DET_META = (
    'img_id',
    'img_path',
    'ori_shape',
    'img_shape',
    'scale_factor',
    'flip',
    'flip_direction',
)
# What averages over the flips where a config does not say.
TTA_MODELS = dict(
    mmpretrain=dict(type='AverageClsScoreTTA'),
    mmdet=dict(
        type='DetTTAModel',
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
    ),
)


def parse_args(argv=None):
    parser = cli.run_parser('Test (and evaluate) a model.')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument(
        '--out',
        help='where predictions go: a .pkl file, for segmentation a folder',
    )
    parser.add_argument(
        '--out-item',
        choices=['pred', 'metrics'],
        default='pred',
        help='what --out holds',
    )
    parser.add_argument(
        '--show', action='store_true', help='show predictions in a window'
    )
    parser.add_argument('--show-dir', help='folder for painted images')
    parser.add_argument(
        '--interval', type=int, default=1, help='paint every n-th sample'
    )
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        help='seconds that a window stays',
    )
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation'
    )
    return parser.parse_args(argv)


def paint(cfg, args):
    """Switches the visualization hook of the OpenMMLab library on."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise cli.UserError(
            '--show and --show-dir need default_hooks.visualization in '
            f'{args.config}'
        )
    hook.update(show=args.show, wait_time=args.wait_time)
    if cfg.get('default_scope') == 'mmpretrain':
        hook.update(enable=True, out_dir=args.show_dir, interval=args.interval)
    elif cfg.get('default_scope') == 'mmseg':
        hook.update(draw=True, interval=args.interval)
        cfg.visualizer.save_dir = args.show_dir
    else:
        hook.update(draw=True, test_out_dir=args.show_dir)


def augment_test(cfg, path):
    """Puts the model and the pipeline of test-time augmentation in place."""
    scope = cfg.get('default_scope')
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_pipeline' not in cfg or 'tta_model' not in cfg:
        if scope not in TTA_MODELS:
            raise cli.UserError(
                f'--tta needs tta_model and tta_pipeline in {path}'
            )
        pack = deepcopy(dataset.pipeline[-1])
        if scope == 'mmdet':
            pack.meta_keys = DET_META
        cfg.tta_model = TTA_MODELS[scope]
        cfg.tta_pipeline = [
            *dataset.pipeline[:-1],
            dict(type='TestTimeAug', transforms=[FLIPS, [pack]]),
        ]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def dump_predictions(runner, scope, out):
    if scope == 'mmdet':
        from mmdet.evaluation import DumpDetResults as Dump
    else:
        Dump = DumpResults
    runner.test_evaluator.metrics.append(Dump(out_file_path=out))


def main(argv=None):
    args = parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.require(cfg, args.config, FIELDS)
    cli.prepare(cfg, args)
    cfg.load_from = cli.existing_checkpoint(args.checkpoint)
    scope = cfg.get('default_scope')
    predictions = args.out if args.out_item == 'pred' else None
    if args.amp:
        cli.check_amp(cfg.model, 'test_cfg')
        cfg.test_cfg.fp16 = True
    if args.show or args.show_dir:
        paint(cfg, args)
    if args.tta:
        augment_test(cfg, args.config)
    if predictions and scope == 'mmseg':
        cfg.test_evaluator.update(output_dir=args.out, keep_results=True)
    elif predictions and not args.out.endswith(('.pkl', '.pickle')):
        raise cli.UserError(f'--out takes a .pkl file, got {args.out}')

    runner = cli.build_runner(cfg, args.config)
    if predictions and scope != 'mmseg':
        dump_predictions(runner, scope, args.out)
    metrics = runner.test()
    if args.out and args.out_item == 'metrics':
        mmengine.dump(metrics, args.out)


if __name__ == '__main__':
    sys.exit(cli.run(main))
