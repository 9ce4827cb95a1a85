"""The READMEs' configs, pasted over a stock one."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from tests.helpers.scripts import ROOT

READMES = [ROOT / 'README.md', *sorted(ROOT.glob('configs/*/README.md'))]
SNIPPETS = {
    str(path.relative_to(ROOT)): snippet
    for path in READMES
    for snippet in re.findall('```python\n(.*?)```', path.read_text(), re.S)
    if 'backbone=dict(' in snippet
}


def test_readmes_with_snippets():
    assert len(SNIPPETS) == 6


@pytest.mark.parametrize('readme', SNIPPETS)
def test_over_a_stock_config(readme, tmp_path):
    path = tmp_path / 'config.py'
    base = "_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'\n"
    path.write_text(base + SNIPPETS[readme])
    model = Config.fromfile(path).model
    init_default_scope('mmdet')
    with torch.device('meta'):
        backbone = MODELS.build(model.backbone)
        neck = MODELS.build(model.neck)
    assert list(backbone.out_channels) == neck.in_channels
