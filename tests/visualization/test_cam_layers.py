"""The layers that docs/visualization.md names for class activation maps."""

import re

import pytest
import torch

from tests.helpers.backbones import TINY, build_tiny, class_of
from tests.helpers.scripts import ROOT

ROW = re.compile(r'^\| ([\w, ]+) \| `backbone\.([\w.]+)` \|', re.M)
LAYERS = {
    name: layer
    for names, layer in ROW.findall(
        (ROOT / 'docs/visualization.md').read_text()
    )
    for name in names.split(', ')
}
#: What the head of a classifier reads, if not the last feature map.
FOR_HEADS = {
    'CoaT': (dict(with_cls_token=True), lambda out: out.cls_tokens),
    'ContextualConvNeXt': (
        dict(with_class_scores=True),
        lambda out: out.class_scores,
    ),
    'ConTNet': (dict(dense=False), tuple),
}
FOR_HEADS['ContextualResNet'] = FOR_HEADS['ContextualConvNeXt']


@pytest.mark.parametrize('name', sorted({*TINY} - {'SixthNet'}))
def test_layer(name):
    """It returns the last feature map, once, that the prediction reads."""
    options, read = FOR_HEADS.get(class_of(name), ({}, tuple))
    torch.manual_seed(0)
    model = build_tiny(name, **options).eval()
    layer = model.get_submodule(LAYERS[class_of(name)])
    outputs = []
    layer.register_forward_hook(lambda *args: outputs.append(args[-1]))
    last = read(model(torch.randn(1, 3, 96, 128)))[-1]
    (x,) = outputs
    assert x.shape[0] == 1 and x.shape[2:] == (3, 4)
    weight = torch.randn_like(last)
    (gradient,) = torch.autograd.grad((last * weight).sum(), x)
    assert gradient.abs().sum() > 0
