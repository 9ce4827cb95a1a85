"""The snippets of docs/training.md train."""

import re

import pytest
import torch

from mmctx.engine import cli
from tests.helpers.scripts import ROOT, load_script
from tests.helpers.small_data import make_imagenet

train = load_script('tools/train.py')
PAGE = (ROOT / 'docs/training.md').read_text()
SNIPPETS = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    make_imagenet(folder)
    return folder


@pytest.mark.parametrize('snippet', SNIPPETS)
def test_snippet(snippet, data, tmp_path):
    if 'AmpOptimWrapper' in snippet and not torch.cuda.is_available():
        pytest.skip('for a GPU')
    config = tmp_path / 'mine.py'
    snippet = snippet.replace('coco/bbox_mAP', 'accuracy/top1')
    config.write_text(
        "_base_ = 'mmctx::cotnet/cotnet50_8xb64-100e_in1k.py'\n" + snippet
    )
    options = {
        'model.backbone.depth': '"(1,1,1,1)"',
        'train_cfg.max_epochs': 1,
        'train_dataloader.batch_size': 2,
    }
    for loader in ('train', 'val', 'test'):
        options[f'{loader}_dataloader.num_workers'] = 0
        options[f'{loader}_dataloader.dataset.data_root'] = data
    flags = ['--cfg-options', *(f'{k}={v}' for k, v in options.items())]
    flags += ['--work-dir', str(tmp_path)]
    assert cli.run(train.main, [str(config), *flags]) == 0
