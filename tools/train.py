#!/usr/bin/env python
"""Trains the model of a config: classification, detection, segmentation.

The flags are those of the mmdet, mmpretrain and mmseg tools of this name.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.device import get_device
from mmengine.logging import print_log

from mmctx.engine import cli
from mmctx.engine.optimizers.backbone_layer_decay import check_layer_decay

FIELDS = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
VIS_BACKENDS = dict(
    tensorboard='TensorboardVisBackend',
    wandb='WandbVisBackend',
    mlflow='MLflowVisBackend',
)


def parse_args(argv=None):
    parser = cli.run_parser('Train a model.')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint; without a value, from the latest one '
        'in the work dir',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by batch size / base batch size',
    )
    parser.add_argument(
        '--no-validate',
        action='store_true',
        help='skip validation during training',
    )
    parser.add_argument(
        '--vis',
        choices=VIS_BACKENDS,
        help='log to this, too; the package must be installed',
    )
    return parser.parse_args(argv)


def use_amp(cfg):
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise cli.UserError(f'--amp does not go with the wrapper {kind}')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def leave_gpu_amp(cfg):
    """Replaces MMEngine's wrapper, which asks for a GPU."""
    if cfg.optim_wrapper.get('type') != 'AmpOptimWrapper':
        return
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        cfg.optim_wrapper.pop(key, None)
    cfg.optim_wrapper.type = 'BFloat16OptimWrapper'
    if cli.has_nms(cfg.model, 'train_cfg'):
        cfg.optim_wrapper.type = 'OptimWrapper'
        print_log(f'No mixed precision: {cli.NO_AMP}.')


def scale_lr(cfg, path):
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise cli.UserError(
            f'--auto-scale-lr needs auto_scale_lr.base_batch_size in {path}'
        )
    cfg.auto_scale_lr.enable = True


def resume(cfg, checkpoint):
    cfg.resume = True
    cfg.load_from = None
    if checkpoint != 'auto':
        cfg.load_from = cli.existing_checkpoint(checkpoint)


def log_to(cfg, backend):
    local = [dict(type='LocalVisBackend')]
    visualizer = cfg.get('visualizer') or dict(type='Visualizer')
    backends = visualizer.get('vis_backends') or local
    visualizer['vis_backends'] = [*backends, dict(type=VIS_BACKENDS[backend])]
    cfg.visualizer = visualizer


def main(argv=None):
    args = parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.require(cfg, args.config, FIELDS)
    cli.prepare(cfg, args)
    if args.amp:
        cli.check_amp(cfg.model, 'train_cfg')
        use_amp(cfg)
    if get_device() == 'cpu':
        leave_gpu_amp(cfg)
    if args.auto_scale_lr:
        scale_lr(cfg, args.config)
    if args.resume:
        resume(cfg, args.resume)
    if args.vis:
        log_to(cfg, args.vis)
    if args.no_validate:
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    runner = cli.build_runner(cfg, args.config)
    check_layer_decay(cfg.optim_wrapper, runner.model)
    runner.train()


if __name__ == '__main__':
    sys.exit(cli.run(main))
