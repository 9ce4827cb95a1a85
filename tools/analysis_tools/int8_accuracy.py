#!/usr/bin/env python
"""Counts what a classifier still gets right in int8.

The model is exported to ONNX and quantised as benchmark.py does it, with the
ranges of feature maps from training images; top-1 is over the test images.
"""

import sys
import tempfile
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmctx.engine import cli, export
from tools.analysis_tools._benchmark_runtimes import quantise
from tools.export import configured_model


def parse_args(argv=None):
    parser = cli.config_parser(__doc__.splitlines()[0])
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument(
        '--calibration',
        type=int,
        default=64,
        metavar='IMAGES',
        help='number of training images for the ranges; default: 64',
    )
    parser.set_defaults(backbone=False)
    args = parser.parse_args(argv)
    if args.calibration < 1:
        parser.error('--calibration takes 1 or more images')
    return args


def samples(model, dataloader):
    """Normalised images, one at a time, and their labels."""
    settings = dict(dataloader, num_workers=0, persistent_workers=False)
    for batch in Runner.build_dataloader(settings, seed=0):
        data = model.data_preprocessor(batch)
        for image, sample in zip(data['inputs'], data['data_samples']):
            yield image[None], sample.gt_label


def top_1(runs, dataset):
    """Share of images each of some functions is right about, by name."""
    hits = {name: [] for name in runs}
    with torch.inference_mode():
        for image, label in dataset:
            for name, run in runs.items():
                (scores,) = run(image)
                hits[name].append(scores.argmax(1).eq(label))
    return {name: torch.cat(hit).float().mean() for name, hit in hits.items()}


def main(argv=None):
    args = parse_args(argv)
    export.require_onnx()
    model, *_ = configured_model(args)
    network = export.build(model)
    if network.task != 'classification':
        raise cli.UserError(f'{args.config} is no classifier')
    cfg = cli.load_config(args.config, args.cfg_options)
    for hook in cfg.get('custom_hooks', []):
        HOOKS.build(hook)  # One may draw the data.
    image, _ = next(samples(model, cfg.test_dataloader))
    calibration = islice(
        samples(model, cfg.train_dataloader), args.calibration
    )
    with tempfile.TemporaryDirectory() as folder:
        plain, int8 = Path(folder, 'model.onnx'), Path(folder, 'int8.onnx')
        export.save(network, plain, 'onnx', image.shape[2:], False, {})
        quantise(plain, int8, [image for image, _ in calibration])
        runs = {
            'PyTorch, float32': network,
            'onnxruntime, float32': export.read(plain)[0],
            'onnxruntime, int8': export.read(int8)[0],
        }
        for name, share in top_1(
            runs, samples(model, cfg.test_dataloader)
        ).items():
            print(f'{name}: top-1 {share:.2%}')


if __name__ == '__main__':
    sys.exit(cli.run(main))
