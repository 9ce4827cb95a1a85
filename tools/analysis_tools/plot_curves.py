"""Plot loss and validation figures of one or more runs into one picture."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmctx.visualization import plot_curves


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add('work_dirs', nargs='+', metavar='WORK_DIR', help='work directories')
    add(
        '--names',
        nargs='+',
        help='names to show, one per run (default: the directories)',
    )
    add('--out', default='curves.png', help='picture to write')
    args = parser.parse_args()
    if args.names is None:
        args.names = [Path(directory).name for directory in args.work_dirs]
    if len(args.names) != len(args.work_dirs):
        parser.error(
            f'{len(args.names)} names for {len(args.work_dirs)} runs: '
            'give one name per run.'
        )
    if len(set(args.names)) != len(args.names):
        parser.error('two runs have the same name: tell them apart by --names')
    return args


def main() -> None:
    args = parse_args()
    try:
        plot_curves(dict(zip(args.names, args.work_dirs)), args.out)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(f'{args.out} is written.')


if __name__ == '__main__':
    main()
