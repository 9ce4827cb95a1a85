"""Names of the Contextual CNN release in ours, and of plain networks.

Plain ConvNeXts and ResNets serve as starting weights, as the authors,
torchvision, timm or mmpretrain save them.
"""

import re
from collections.abc import Callable, Collection

from . import renamer
from .resnet import RESNET

#: What a file of a plain network lacks, in our names.
CONTEXTUAL = re.compile(
    r'\.(sampling_predictor|weight_predictor|context_weight)\.'
    r'|^backbone\.contextualizing\.'
)

# Names of torchvision, timm and mmpretrain in those of the authors.
_TO_RELEASED = [
    # The end of a plain network: final norms and classifier.
    (r'^(norm\d?|head|fc|classifier)\..*', ''),
    # torchvision's ConvNeXt
    (r'^features\.0\.', 'downsample_layers.0.'),
    (
        r'^features\.([246])\.',
        lambda m: f'downsample_layers.{int(m[1]) // 2}.',
    ),
    (r'^features\.([1357])\.', lambda m: f'stages.{int(m[1]) // 2}.'),
    (r'\.block\.0\.', '.dwconv.'),
    (r'\.block\.2\.', '.norm.'),
    (r'\.block\.3\.', '.pwconv1.'),
    (r'\.block\.5\.', '.pwconv2.'),
    (r'\.layer_scale$', '.gamma'),
    # timm's ConvNeXt, also as features_only=True saves it
    (r'^(stem|stages)_(\d)\.', r'\1.\2.'),
    (r'^stem\.', 'downsample_layers.0.'),
    (r'^stages\.(\d)\.downsample\.', r'downsample_layers.\1.'),
    (r'^(stages\.\d)\.blocks\.', r'\1.'),
    (r'\.conv_dw\.', '.dwconv.'),
    (r'\.mlp\.fc([12])\.', r'.pwconv\1.'),
    # mmpretrain's ConvNeXt
    (r'\.depthwise_conv\.', '.dwconv.'),
    (r'\.pointwise_conv([12])\.', r'.pwconv\1.'),
]

_RULES = [
    *RESNET,
    (r'\.conv2\.', '.operator.0.'),
    # ConvNeXt
    (r'^downsample_layers\.0\.0\.', 'backbone.stem.proj.'),
    (r'^downsample_layers\.0\.1\.', 'backbone.stem.norm.norm.'),
    (
        r'^downsample_layers\.(\d)\.0\.',
        r'backbone.stages.\1.0.downsample.norm.',
    ),
    (
        r'^downsample_layers\.(\d)\.1\.',
        r'backbone.stages.\1.0.downsample.conv.',
    ),
    (r'^stages\.', 'backbone.stages.'),
    (r'\.dwconv\.', '.conv.'),
    (r'\.pwconv([12])\.', r'.mlp.fc\1.'),
    # Contextual convolution: an ordinary one with predictors.
    (r'\.(conv|operator\.0)\.conv\.', r'.\1.'),
    (r'\.spatial_offset_layer\.0\.', '.sampling_predictor.reduce.'),
    (r'\.spatial_offset_layer\.1\.', '.sampling_predictor.norm.'),
    (r'\.spatial_offset_layer\.3\.', '.sampling_predictor.predict.'),
    (r'\.weight_offset_layer\.0\.', '.weight_predictor.fc1.'),
    (r'\.weight_offset_layer\.1\.', '.weight_predictor.norm.'),
    (r'\.weight_offset_layer\.3\.', '.weight_predictor.fc2.'),
    # Contextualizing layers
    (r'^cls\.', 'backbone.contextualizing.'),
    (r'\.class_token_embedding\.weight$', '.embedding'),
    (r'\.logit_scale(?=$|\.)', '.log_scale'),
    (r'\.visual_proj_heads\.(\d)\.nonlinear\.0\.', r'.classify.\1.fc1.'),
    (r'\.visual_proj_heads\.(\d)\.nonlinear\.1\.', r'.classify.\1.norm.'),
    (r'\.visual_proj_heads\.(\d)\.nonlinear\.3\.', r'.classify.\1.fc2.'),
    (r'\.class_mergers\.(\d)\.in_nonlinear\.0\.', r'.merge.\1.fc1.'),
    (r'\.class_mergers\.(\d)\.in_nonlinear\.1\.', r'.merge.\1.norm1.'),
    (r'\.class_mergers\.(\d)\.out_nonlinear\.0\.', r'.merge.\1.fc2.'),
    (r'\.class_mergers\.(\d)\.out_nonlinear\.1\.', r'.merge.\1.norm2.'),
]


def key_map(keys: Collection[str]) -> Callable[[str], str]:
    """See :mod:`mmctx.weights.keys`; here, all files are alike."""
    return renamer([*_TO_RELEASED, *_RULES])
