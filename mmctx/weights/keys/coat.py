"""Names of the CoaT releases, also in timm's spelling, in ours."""

import re
from collections.abc import Callable, Collection

from . import renamer

# Shared modules, which the release also lists under each of their users.
_ALIASES = [
    (r'^serial_blocks(\d)\.\d+\.cpe\.', r'cpe\1.'),
    (r'^serial_blocks(\d)\.\d+\.factoratt_crpe\.crpe\.', r'crpe\1.'),
    (r'^parallel_blocks\.\d+\.factoratt_crpe(\d)\.crpe\.', r'crpe\1.'),
    (r'^(parallel_blocks\.\d+)\.mlp[34]\.', r'\1.mlp2.'),
]


def _stage(part: str) -> Callable[[re.Match], str]:
    return lambda m: f'backbone.stages.{int(m[1]) - 1}.{part}'


_RULES = [
    (r'^cls_token(\d)$', _stage('cls_token')),
    (r'^patch_embed1\.', 'backbone.stem.'),
    (r'^patch_embed(\d)\.', _stage('embedding.')),
    (r'^cpe(\d)\.proj\.', _stage('position_encoding.')),
    (r'^crpe(\d)\.conv_list\.', _stage('relative_encoding.convs.')),
    (r'^serial_blocks(\d)\.', _stage('blocks.')),
    (r'^parallel_blocks\.', 'backbone.parallel.'),
    (r'\.factoratt_crpe(\d)\.', r'.attention.\1.'),
    (r'\.factoratt_crpe\.', '.attention.'),
    (r'(backbone\.parallel\.\d+)\.norm(\d)(\d)\.', r'\1.norm\2.\3.'),
    (r'^(backbone\..*)\.norm2\.', r'\1.feed.'),
    (r'(backbone\.parallel\.\d+)\.mlp2\.', r'\1.mlp.'),
    # Our norms wrap the layer.
    (r'\b((?:norm1?|feed)(?:\.\d)?)\.(weight|bias)$', r'\1.norm.\2'),
    (r'^head\.', 'head.fc.'),
    (r'^aggregate\.', 'head.aggregate.'),
]


def key_map(keys: Collection[str]) -> Callable[[str], str]:
    """See :mod:`mmctx.weights.keys`."""
    # The release builds four norms; only some stages have a class score.
    parallel = any(key.startswith('parallel_blocks.') for key in keys)
    used = '234' if parallel else '4'
    norms = [
        (rf'^norm([{used}])\.', lambda m: f'head.norms.{used.index(m[1])}.'),
        (r'^norm\d\..*', ''),
    ]
    return renamer([*_ALIASES, *_RULES, *norms])
