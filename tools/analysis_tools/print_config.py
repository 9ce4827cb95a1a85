#!/usr/bin/env python
"""Prints a config with everything that it inherits."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmctx.engine import cli


def main(argv=None):
    args = cli.config_parser(__doc__).parse_args(argv)
    print(cli.load_config(args.config, args.cfg_options).pretty_text)


if __name__ == '__main__':
    sys.exit(cli.run(main))
