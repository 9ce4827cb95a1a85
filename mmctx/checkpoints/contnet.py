"""Names of the ConTNet release in ours."""

import re
from collections.abc import Callable, Collection

_RULES = [
    (r'^layer0\.conv\.conv\.', 'backbone.stem.0.'),
    (
        r'^layer([1-4])\.ConTBlock(\d+)\.',
        lambda m: f'backbone.stages.{int(m[1]) - 1}.{m[2]}.',
    ),
    (r'\.bn\.', '.norm.'),
    (r'\.ste([12])\.', lambda m: f'.ste.{int(m[1]) - 1}.'),
    (r'\.pe\.0$', '.position.rows'),
    (r'\.pe\.1$', '.position.columns'),
    (r'\.relative_position_bias_table$', '.bias_table'),
    (r'\.attn\.', '.attention.'),
    # With average pooling, the shortcut's convolution is wrapped once more.
    (r'\.downsample\.conv\.(conv\.)?', '.shortcut.'),
    (r'\.out_conv\.conv\.', '.conv.'),
    (r'^fc\.', 'head.fc.'),
]


def rename(keys: Collection[str]) -> Callable[[str], str]:
    """The function that renames the keys of one released file.

    Args:
        keys (Collection[str]): All keys of the file.

    Returns:
        Callable: Released key to ours. A key that belongs to no ConTNet
        comes back as a name that no model has; the index of the relative
        position biases, which is no parameter, comes back empty.
    """

    def rename_one(key: str) -> str:
        if key.endswith('.relative_position_index'):
            return ''
        for pattern, replacement in _RULES:
            key = re.sub(pattern, replacement, key)
        return key

    return rename_one
