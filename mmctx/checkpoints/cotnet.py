"""Names of the CoTNet releases, classification and detection, in ours."""

import re
from collections.abc import Callable, Collection

# Detection release (detectron2 names) to classification release. A norm is a
# child of its convolution there, so that container indices differ.
_DETECTION = [
    (r'^stem\.conv1\.norm\.', 'bn1.'),
    (r'^stem\.conv1\.7\.', 'bn1.'),
    (r'^stem\.', ''),
    (r'^res(\d)\.', lambda m: f'layer{int(m[1]) - 1}.'),
    (r'\.conv([13])\.norm\.', r'.bn\1.'),
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
    (r'^conv1\.(\d)\.', r'backbone.stem.\1.'),
    (r'^conv1\.', 'backbone.stem.0.'),
    (r'^layer(\d)\.', lambda m: f'backbone.stages.{int(m[1]) - 1}.'),
    # Inside a block.
    (r'\.(\d+)\.conv1\.', r'.\1.reduce.0.'),
    (r'\.(\d+)\.bn1\.', r'.\1.reduce.1.'),
    (r'\.conv3\.', '.expand.0.'),
    (r'\.bn3\.', '.expand.1.'),
    (r'\.downsample\.', '.shortcut.'),
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

_DETECTOR_PREFIX = 'backbone.bottom_up.'


def _apply(rules: list[tuple[str, object]], key: str) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def rename(keys: Collection[str]) -> Callable[[str], str]:
    """The function that renames the keys of one released file.

    Args:
        keys (Collection[str]): All keys of the file.

    Returns:
        Callable: Released key to ours. A key that belongs to no CoTNet comes
        back as a name that no model has; one of a detector beyond its
        backbone comes back empty.
    """
    is_detector = any(k.startswith(_DETECTOR_PREFIX) for k in keys)
    is_detection = is_detector or any(k.startswith('res2.') for k in keys)
    deep = any(re.search(r'(^|\.)conv1\.6\.weight$', k) for k in keys)
    stem_norm = (r'^bn1\.', f'backbone.stem.{7 if deep else 1}.')

    def rename_one(key: str) -> str:
        if is_detector:
            if not key.startswith(_DETECTOR_PREFIX):
                return ''
            key = key[len(_DETECTOR_PREFIX) :]
        if is_detection:
            key = _apply(_DETECTION, key)
        return _apply([stem_norm, *_CLASSIFICATION], key)

    return rename_one
