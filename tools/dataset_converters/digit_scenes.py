"""Generate DigitScenes by hand.

The configs make it at first use with the default sizes; this is for other
sizes and counts, or for machines where data is prepared beforehand.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmctx.datasets import Classification, Scenes, make_digit_scenes

TASKS = {
    'detection': 'scenes',
    'instance': 'scenes',
    'segmentation': 'scenes',
    'classification': 'classification',
    'self-supervision': 'centered',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('--out', default='data/digit_scenes', help='directory of the data')
    add(
        '--tasks',
        nargs='+',
        choices=TASKS,
        default=list(TASKS),
        help='what the data is for; the first three share their pictures',
    )
    add('--train-scenes', type=int, default=Scenes.train)
    add('--val-scenes', type=int, default=Scenes.val)
    add('--scene-size', type=int, default=Scenes.size, help='pixels')
    add(
        '--digits',
        type=int,
        nargs=2,
        metavar=('MIN', 'MAX'),
        default=[Scenes.min_digits, Scenes.max_digits],
        help='digits in a scene',
    )
    add('--train-images', type=int, default=Classification.train)
    add('--val-images', type=int, default=Classification.val)
    add('--image-size', type=int, default=Classification.size, help='pixels')
    add('--seed', type=int, default=0)
    add('--overwrite', action='store_true', help='recreate existing data')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    images = dict(
        train=args.train_images,
        val=args.val_images,
        size=args.image_size,
        seed=args.seed,
    )
    parameters = {
        'scenes': dict(
            train=args.train_scenes,
            val=args.val_scenes,
            size=args.scene_size,
            min_digits=args.digits[0],
            max_digits=args.digits[1],
            seed=args.seed,
        ),
        'classification': images,
        'centered': images,
    }
    for part in sorted({TASKS[task] for task in args.tasks}):
        try:
            target = make_digit_scenes(
                args.out, part, args.overwrite, **parameters[part]
            )
        except (ImportError, OSError, ValueError) as error:
            sys.exit(f'error: {error}')
        print(f'{target} is ready.')


if __name__ == '__main__':
    main()
