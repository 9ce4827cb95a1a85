#!/usr/bin/env python
"""Runs a model on pictures: files, folders, patterns, videos, a webcam."""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmctx.engine import cli
from mmctx.engine.inference import Inferencer

CHECKPOINTS = ('.pth', '.pt', '.bin', '.pkl', '.safetensors', '.ckpt', '.tar')
JSON = 'predictions.json'


def parse_args(argv=None):
    parser = cli.config_parser(__doc__)
    parser.usage = '%(prog)s CONFIG [CHECKPOINT] INPUT... [options]'
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='INPUT',
        help='a checkpoint first, then pictures, folders, "*.jpg", videos, '
        'webcam or webcam:1; without a checkpoint, weights are random',
    )
    parser.add_argument(
        '--out-dir',
        default='predictions',
        help=f'folder for pictures and {JSON}',
    )
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--device', help='such as cuda:0 or cpu')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of a box'
    )
    parser.add_argument(
        '--no-pictures', action='store_true', help=f'only {JSON}'
    )
    return parser.parse_args(argv)


def is_checkpoint(item):
    return item.startswith('mmctx://') or item.endswith(CHECKPOINTS)


def main(argv=None):
    args = parse_args(argv)
    checkpoint, inputs = None, args.inputs
    if is_checkpoint(inputs[0]):
        checkpoint, *inputs = inputs
    if not inputs:
        raise cli.UserError(f'no input after the checkpoint {checkpoint}')
    cfg = cli.load_config(args.config, args.cfg_options)
    model = Inferencer(cfg, checkpoint, args.device)
    out = Path(args.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    pictures = None if args.no_pictures else out
    start, predictions = time.perf_counter(), []
    for prediction in model(inputs, args.batch_size, pictures, args.score_thr):
        predictions.append(prediction)
        rate = len(predictions) / (time.perf_counter() - start)
        print(
            f'\r{len(predictions)} pictures, {rate:.1f} a second',
            end='',
            file=sys.stderr,
        )
    print(file=sys.stderr)
    (out / JSON).write_text(json.dumps(predictions, indent=1))
    print(f'{len(predictions)} predictions in {out}')


if __name__ == '__main__':
    sys.exit(cli.run(main))
