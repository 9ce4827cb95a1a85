"""Names of the CoTNet releases, classification and detection, in ours."""

import re
from collections.abc import Callable, Collection

from . import renamer
from .resnet import RESNET

# Detection release (detectron2 names) to classification release. A norm is a
# child of its convolution there, so that container indices differ.
_DETECTION = [
    (r'^stem\.conv1\.norm\.', 'bn1.'),
    (r'^stem\.conv1\.7\.', 'bn1.'),
    (r'^stem\.', ''),
    (r'^res(\d)\.', lambda m: f'layer{int(m[1]) - 1}.'),
    (r'\.conv([123])\.norm\.', r'.bn\1.'),
    (r'\.shortcut\.1\.norm\.', '.downsample.2.'),
    (r'\.shortcut\.1\.', '.downsample.1.'),
    (r'\.shortcut\.norm\.', '.downsample.1.'),
    (r'\.shortcut\.', '.downsample.0.'),
    (r'\.(embed|se)\.3\.', r'.\1.4.'),
    (r'\.(embed|se)\.2\.', r'.\1.3.'),
    (r'\.(key_embed|embed|se)\.0\.norm\.', r'.\1.1.'),
]

_CLASSIFICATION = [
    (r'^fc\.', 'head.fc.'),
    *RESNET,
    (r'\.conv2\.', '.operator.'),
    # CoT layer.
    (r'\.key_embed\.', '.static_context.'),
    (r'\.embed\.', '.attention.'),
    (r'\.conv1x1\.', '.value.'),
    (r'\.bn\.', '.dynamic_norm.'),
    (r'\.se\.', '.fusion.mlp.'),
    # SE convolution.
    (r'\.operator\.conv\.', '.operator.conv.0.'),
    (r'\.operator\.bn0\.', '.operator.conv.1.'),
    (r'\.operator\.fc1\.', '.operator.gate.0.'),
    (r'\.operator\.bn1\.', '.operator.gate.1.'),
    (r'\.operator\.fc2\.', '.operator.gate.3.'),
]


def key_map(keys: Collection[str]) -> Callable[[str], str]:
    """See :mod:`mmctx.weights.keys`."""
    is_detection = any(key.startswith('res2.') for key in keys)
    deep = any(re.search(r'(^|\.)conv1\.6\.weight$', key) for key in keys)
    stem_norm = (r'^bn1\.', f'backbone.stem.{7 if deep else 1}.')
    detection = _DETECTION if is_detection else []
    return renamer([*detection, stem_norm, *_CLASSIFICATION])
