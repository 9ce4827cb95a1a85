"""Names of the ConTNet release in ours."""

from collections.abc import Callable, Collection

from . import renamer

_RULES = [
    # An index table, which is no parameter.
    (r'^.*\.relative_position_index$', ''),
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


def key_map(keys: Collection[str]) -> Callable[[str], str]:
    """See :mod:`mmctx.weights.keys`; here, all files are alike."""
    return renamer(_RULES)
