#!/usr/bin/env python
"""Draws what the context layers of a trained model do with an image.

docs/visualization.md explains the pictures of each family.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate

from mmctx import visualization as vis
from mmctx.engine import cli
from mmctx.suggestions import did_you_mean
from tools.visualization.class_narrowing import build_model


def place(text):
    """A place in a picture from 'X,Y'."""
    x, y = map(float, text.split(','))
    return x, y


def parse_args(argv=None):
    parser = cli.config_parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add('checkpoint', help='checkpoint file or URL')
    add('image', help='picture')
    add(
        '--at',
        type=place,
        nargs='+',
        metavar='X,Y',
        help='pixels of the picture whose context to draw (default: its '
        'centre)',
    )
    add(
        '--layer',
        nargs='+',
        default=[],
        metavar='NAME',
        help='draw the feature maps of these modules, such as '
        'backbone.stages.2, and only the context inside them',
    )
    add('--out', default='context', help='folder (default: context)')
    return parser.parse_args(argv)


def read(cfg, path):
    """A picture as the config's test pipeline gives it to the model."""
    if cv2.imread(cli.existing_file(path, 'image')) is None:
        raise cli.UserError(f'{path} is not an image that OpenCV reads')
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    steps = [
        step
        for step in dataset.pipeline
        if not step['type'].endswith('LoadAnnotations')
    ]
    return Compose(steps)(dict(img_path=path, img_id=0))


def in_input(at, sample):
    """A place of the picture in pixels of the network's input.

    Test pipelines resize, then crop the centre.
    """
    meta = sample['data_samples'].metainfo
    sides = meta['ori_shape'][1::-1]
    scale = np.broadcast_to(meta.get('scale_factor', 1), 2)
    at = at or [side // 2 for side in sides]
    where = f'{at[0]:g},{at[1]:g}'
    if not all(0 <= p < side for p, side in zip(at, sides)):
        size = ' x '.join(map(str, sides))
        raise cli.UserError(f'--at {where} is not in the picture of {size}')
    places = []
    shown = sample['inputs'].shape[:0:-1]
    for p, side, factor, left in zip(at, sides, scale, shown):
        cropped = max(0, round((round(side * factor) - left) / 2))
        places.append((p + 0.5) * factor - cropped)
        if not 0 <= places[-1] < left:
            raise cli.UserError(f'the test pipeline crops --at {where} away')
    return where, places


def named(model, names):
    """Modules by name."""
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            hint = did_you_mean(name, modules)
            raise cli.UserError(f'the model has no layer {name!r}.{hint}')
    return {name: modules[name] for name in names}


def draw_classes(model, sample, inputs, out):
    """The classes that a Contextual CNN still considers, by stage."""
    stages = vis.rank_classes(model.backbone, inputs)
    image = sample['inputs'].flip(0).permute(1, 2, 0).numpy()
    names = (model.dataset_meta or {}).get('classes')
    names = names or range(stages[0].ranks.shape[1])
    best = stages[-1].ranks[0, 0].item()
    vis.draw_class_narrowing([image], [best], stages, names, out, columns=1)


@torch.no_grad()
def main(argv=None):
    args = parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.require(cfg, args.config, ['model', 'test_dataloader'])
    if (cfg.model.get('test_cfg') or {}).get('mode') == 'slide':
        cfg.model.test_cfg = dict(mode='whole')
    cli.existing_checkpoint(args.checkpoint)
    model = build_model(cfg, args.checkpoint)
    watched = named(model, args.layer)
    sample = read(cfg, args.image)
    places = [in_input(at, sample) for at in args.at or [None]]
    layers = {
        name: layer
        for name, layer in vis.context_layers(model).items()
        if not watched
        or any(f'{name}.'.startswith(f'{prefix}.') for prefix in watched)
    }
    data = model.data_preprocessor(pseudo_collate([sample]))
    size = data['inputs'].shape[2:]
    with vis.record(*layers.values(), *watched.values()) as calls:
        model(**data, mode='predict')
    picture = sample['inputs'].float().mean(0).numpy()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    files = []

    def draw(name, rows, at=None):
        files.append(out / f'{name}.png')
        vis.draw_panels(rows, picture, size, files[-1], at)

    for name, layer in watched.items():
        outputs = [call.output for call in calls[layer]]
        rows = vis.feature_rows(outputs, size)
        if not rows:
            raise cli.UserError(
                f'{name} returned no feature map of the image'
                if outputs
                else f'{name} was not called: give a module inside it'
            )
        draw(name, rows)
    for where, at in places:
        rows = vis.context_rows(layers, calls, size, at)
        if rows:
            draw(f'context_{where.replace(",", "_")}', rows, at)
    if not watched and getattr(model.backbone, 'with_class_scores', False):
        files.append(out / 'classes.png')
        draw_classes(model, sample, data['inputs'], files[-1])
    if not files:
        raise cli.UserError(
            f'the model of {args.config} has no context layer of mmctx; '
            '--layer NAME draws the feature maps of any module'
        )
    print(*files, sep='\n')


if __name__ == '__main__':
    sys.exit(cli.run(main))
