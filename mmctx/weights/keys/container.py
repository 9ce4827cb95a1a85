"""Names of the Container-Light release in ours."""

from collections.abc import Callable, Collection

from . import renamer

_RULES = [
    (r'^head\.', 'head.fc.'),
    (r'^norm\.', 'neck.norm.'),
    (r'^patch_embed1\.norm\.', 'backbone.stem.norm.norm.'),
    (r'^patch_embed1\.', 'backbone.stem.'),
    # The embedding of a later stage belongs to its first block.
    (r'^patch_embed(\d)\.', r'blocks\1.0.embedding.'),
    (r'\.embedding\.norm\.', '.embedding.norm.norm.'),
    (r'^blocks4\.(\d+)\.conv\.', r'blocks4.\1.aggregation.static.'),
    (r'\.attn\.', '.aggregation.static.'),
    (r'\.sa_weight$', '.aggregation.mixing_weight'),
    (r'\.conv1\.', '.aggregation.project_in.'),
    (r'\.conv2\.', '.aggregation.project_out.'),
    (r'\.pos_embed\.', '.position_encoding.'),
    (r'^(blocks.*)\.norm1\.', r'\1.aggregation.norm.'),
    (r'^(blocks.*)\.norm2\.', r'\1.feed.norm.'),
    (r'\.mlp\.', '.feed.'),
    (r'^blocks(\d)\.', lambda m: f'backbone.stages.{int(m[1]) - 1}.'),
]


def key_map(keys: Collection[str]) -> Callable[[str], str]:
    """See :mod:`mmctx.weights.keys`; here, all files are alike."""
    return renamer(_RULES)
