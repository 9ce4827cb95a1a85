"""Names of ResNets, as torchvision and timm have them, in ours."""

RESNET = [
    (r'^conv1\.(\d)\.', r'backbone.stem.\1.'),
    (r'^conv1\.', 'backbone.stem.0.'),
    (r'^bn1\.', 'backbone.stem.1.'),
    (r'^layer(\d)\.', lambda m: f'backbone.stages.{int(m[1]) - 1}.'),
    (r'\.(\d+)\.conv1\.', r'.\1.reduce.0.'),
    (r'\.(\d+)\.bn1\.', r'.\1.reduce.1.'),
    (r'\.conv2\.weight$', '.operator.0.weight'),
    (r'\.bn2\.', '.operator.1.'),
    (r'\.conv3\.', '.expand.0.'),
    (r'\.bn3\.', '.expand.1.'),
    (r'\.downsample\.', '.shortcut.'),
]
