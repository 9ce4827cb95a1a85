#!/usr/bin/env python
"""Converts a released checkpoint to a file with our names.

The model is recognised by its keys, or named with --model. Nothing is written
unless every tensor of the file finds its place.
"""

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from mmctx.checkpoints import (
    examine,
    load_file,
    recognise,
    unwrap,
)
from mmctx.engine import cli
from mmctx.zoo import get_spec


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__.splitlines()[0])
    parser.add_argument('input', help='released file')
    parser.add_argument('output', help='file to write')
    parser.add_argument(
        '--model', help='name of the model; recognised by default'
    )
    parser.add_argument(
        '--ema',
        action='store_true',
        help='take the averaged weights of a file that holds both',
    )
    return parser.parse_args(argv)


def known_name(name):
    try:
        get_spec(name)
    except ValueError as error:
        raise cli.UserError(str(error)) from error
    return name


def part(name):
    """The part of the network that a tensor of ours belongs to."""
    return re.match(r'(backbone\.stages\.\d+|\w+\.\w+)', name)[0]


def table(conversion):
    """Rows of one part each: tensors, parameters, an example of a name."""
    rows = {}
    for released, ours in conversion.mapping.items():
        count, elements, example = rows.get(part(ours), (0, 0, None))
        rows[part(ours)] = (
            count + 1,
            elements + conversion.state_dict[ours].numel(),
            example or f'{released} -> {ours}',
        )
    lines = [f'{"part":<18} {"tensors":>7} {"elements":>12}  first name']
    for name, (count, elements, example) in rows.items():
        lines.append(f'{name:<18} {count:>7} {elements:>12,}  {example}')
    if conversion.dropped:
        lines.append(
            f'{"(left out)":<18} {len(conversion.dropped):>7} {"":>12}  '
            f'{conversion.dropped[0]}: beyond the backbone'
        )
    if conversion.initial:
        lines.append(
            f'{"(not in file)":<18} {len(conversion.initial):>7} {"":>12}  '
            f'{conversion.initial[0]}: a plain network to start from'
        )
    return '\n'.join(lines)


def save(content, path):
    """Write beside the final place, then rename: whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(content, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        raise cli.UserError(f'cannot write {path}: {error}') from error


def main(argv=None):
    args = parse_args(argv)
    cli.existing_file(args.input, 'checkpoint')
    state = unwrap(load_file(args.input), ema=args.ema)
    name = known_name(args.model) if args.model else recognise(state)
    conversion = examine(state, name)
    conversion.require(f'{args.input} is not the released {name}.')
    save(dict(meta=dict(model=name), state_dict=conversion.state_dict),
         args.output)  # fmt: skip
    print(f'{args.input} is {name}')
    print(table(conversion))
    print(f'wrote {args.output}')


if __name__ == '__main__':
    sys.exit(cli.run(main))
