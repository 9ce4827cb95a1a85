#!/usr/bin/env python
"""Exports a model to a file that runs without mmctx.

The file is compared with the model on several batches, and kept only if they
agree. docs/export.md shows how to run it.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import torch
from mmengine.registry import DATASETS
from mmengine.runner.checkpoint import load_checkpoint

import mmctx
from mmctx.checkpoints import use_safe_reader
from mmctx.engine import cli, export
from tools.analysis_tools.get_flops import build_model, default_size

#: What the released weights were trained with, in RGB.
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def parse_args(argv=None):
    parser = cli.config_parser(__doc__.splitlines()[0])
    parser.description += ' CONFIG may also be a name of mmctx.list_models().'
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint file, URL or mmctx://NAME; without one the weights '
        'are random',
    )
    parser.add_argument('--to', choices=export.FORMATS, default='onnx')
    parser.add_argument(
        '--out', help='file to write; default: NAME.onnx, .pt2 or .pt'
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='SIZE',
        help='height and width of the images, or one number for both; by '
        "default the config's test crop, window or scale, else 224",
    )
    parser.add_argument(
        '--dynamic',
        action='store_true',
        help='take batches of images of any size; --shape is one to check',
    )
    parser.add_argument(
        '--half',
        action='store_true',
        help='compute in float16; what follows the heads stays float32',
    )
    parser.add_argument(
        '--preprocess',
        nargs='?',
        const='rgb',
        choices=['rgb', 'bgr'],
        help='take uint8 pixels, RGB unless said otherwise, and normalise '
        'them in the file',
    )
    parser.add_argument(
        '--backbone', action='store_true', help='export the backbone alone'
    )
    parser.add_argument(
        '--images',
        nargs='+',
        default=[],
        metavar='FILE',
        help='pictures for the comparison, beside made-up ones',
    )
    args = parser.parse_args(argv)
    if args.shape and (
        len(args.shape) > 2 or min(args.shape) < export.MIN_SIZE
    ):
        parser.error(
            f'--shape takes one or two numbers from {export.MIN_SIZE} on'
        )
    return args


def named_model(args):
    """A model of mmctx, its normalisation, the image size and its classes."""
    weights = args.checkpoint or False
    if args.backbone:
        model = mmctx.get_backbone(args.config, pretrained=weights)
    else:
        model = mmctx.get_model(args.config, pretrained=weights)
    size = 384 if args.config.endswith('_384') else 224
    return model.eval(), dict(IMAGENET, order='rgb'), [size], ()


def configured_model(args):
    """The same, from a config."""
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.require(cfg, args.config, ['model'])
    use_safe_reader()
    model = build_model(cfg)
    classes = dataset_classes(cfg)
    if args.checkpoint:
        path = cli.existing_checkpoint(args.checkpoint)
        try:
            meta = load_checkpoint(
                model, path, 'cpu', strict=True
            ).get('meta', {})  # fmt: skip
        except RuntimeError as error:
            raise cli.UserError(
                f'{path} does not fit {args.config}: {cli.describe(error)}'
            ) from error
        classes = (meta.get('dataset_meta') or {}).get('classes') or classes
    return (
        model.backbone if args.backbone else model,
        normalisation(model.data_preprocessor),
        default_size(cfg),
        classes,
    )


def dataset_classes(cfg):
    """Names of the classes in the test data, as far as the config says."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    metainfo = getattr(DATASETS.get(dataset.get('type', '')), 'METAINFO', {})
    return {**metainfo, **dataset.get('metainfo', {})}.get('classes') or ()


def normalisation(preprocessor):
    """Mean, standard deviation and order of the channels."""
    normal = {
        name: getattr(preprocessor, name, torch.tensor(default))
        .flatten()
        .tolist()
        for name, default in (('mean', [0.0] * 3), ('std', [1.0] * 3))
    }
    swaps = ('_channel_conversion', 'channel_conversion', 'to_rgb')
    is_rgb = any(getattr(preprocessor, name, False) for name in swaps)
    return dict(normal, order='rgb' if is_rgb else 'bgr')


def pictures(args, shape, normal):
    """Batches of one from files, resized, as the exported file takes them."""
    for path in args.images:
        picture = cv2.imread(cli.existing_file(path, 'image'))
        if picture is None:
            raise cli.UserError(f'{path} is no image')
        picture = cv2.resize(picture, shape[::-1])
        order = args.preprocess or normal['order']
        picture = picture[..., ::-1] if order == 'rgb' else picture
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
        if not args.preprocess:
            mean, std = (torch.tensor(normal[k])[:, None, None]
                         for k in ('mean', 'std'))  # fmt: skip
            pixels = (pixels - mean) / std
        yield pixels.contiguous()


def metadata(args, network, normal, shape, classes):
    """What a program needs to know that runs the file: strings, of JSON."""
    facts = dict(
        mmctx=mmctx.__version__,
        model=Path(args.config).stem,
        task=network.task,
        classes=list(classes),
        shape=['N', 3, *shape] if not args.dynamic else ['N', 3, 'H', 'W'],
        example_size=shape,
        input='pixels, uint8' if args.preprocess else 'normalised, float32',
        channels=args.preprocess or normal['order'],
        mean=normal['mean'],
        std=normal['std'],
        half=args.half,
        outputs=network.outputs,
    )
    if not args.dynamic:
        facts['shape'][0] = 1
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in facts.items()
    }


def main(argv=None):
    args = parse_args(argv)
    if args.to == 'onnx':
        export.require_onnx()
    is_name = args.config in mmctx.list_models()
    model, normal, size, classes = (
        named_model(args) if is_name else configured_model(args)
    )
    size = args.shape or size
    shape = [size[0], size[-1]]
    pixels = None
    if args.preprocess:
        swap = args.preprocess != normal['order']
        pixels = dict(normal, order=args.preprocess, swap=swap)
    network = export.build(model, args.half, pixels)
    if not args.checkpoint:
        print('No checkpoint: the weights are random.', file=sys.stderr)
    ending = export.FORMATS[args.to]
    out = Path(args.out or Path(args.config).stem + ending)
    if out.suffix != ending:
        raise cli.UserError(f'--out must end in {ending}, got {out}')
    temporary = out.with_name(f'.{out.stem}.{os.getpid()}{ending}')
    try:
        facts = metadata(args, network, normal, shape, classes)
        export.save(network, temporary, args.to, shape, args.dynamic, facts)
        comparisons = export.check_file(
            model,
            network,
            temporary,
            shape,
            args.dynamic,
            list(pictures(args, shape, normal)),
        )
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    report(out, network, comparisons)


def report(out, network, comparisons):
    print('N x H x W: largest relative difference from the model')
    for shape, difference, boxes in comparisons:
        size = ' x '.join(map(str, shape))
        count = f' in {boxes} boxes' if 'boxes' in network.outputs else ''
        print(f'  {size}: {difference:.1e}{count}')
    if 'boxes' in network.outputs and not any(c.boxes for c in comparisons):
        print(
            'The model finds nothing in these images, so boxes were not '
            'compared: give it --images in which it finds something.'
        )
    print(f'{out}: {", ".join(network.outputs)}')


if __name__ == '__main__':
    sys.exit(cli.run(main))
