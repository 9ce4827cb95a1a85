"""tools/analysis_tools/int8_accuracy.py."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from mmctx.engine import cli
from tests.helpers.scripts import load_script

tool = load_script('tools/analysis_tools/int8_accuracy.py')
CONFIG = 'resnet18_digit-scenes'


@pytest.fixture
def arguments(tmp_path):
    """A checkpoint that tells dark from light, and six pictures of each."""
    generator = np.random.default_rng(0)
    for part in ('train', 'val'):
        for i in range(12):
            pixels = generator.integers(60, size=(32, 32, 3)) + i % 2 * 180
            path = tmp_path / part / f'class{i % 2}' / f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    options = [
        'custom_hooks=[]',
        'model.head.num_classes=2',
        'model.head.in_channels=32',
        'model.backbone.base_channels=4',
        f'train_dataloader.dataset.data_root={tmp_path}',
        f'test_dataloader.dataset.data_root={tmp_path}',
        'test_dataloader.dataset.pipeline.1.scale=(32,32)',
    ]
    args = tool.parse_args(
        [CONFIG, 'none', '--cfg-options', *options, '--calibration', '4']
    )
    args.checkpoint = None
    torch.manual_seed(0)
    model, *_ = tool.configured_model(args)
    images = torch.cat([torch.full((1, 3, 32, 32), v) for v in (-1.5, 1.5)])
    dark, light = model.extract_feat(images)[0].detach()
    head = model.head.fc
    with torch.no_grad():
        direction = light - dark
        head.weight.copy_(torch.stack([-direction, direction]))
        middle = direction @ (light + dark) / 2
        head.bias.copy_(torch.stack([middle, -middle]))
    checkpoint = tmp_path / 'epoch.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    return [CONFIG, str(checkpoint), '--cfg-options', *options,
            '--calibration', '4']  # fmt: skip


def test_shares_of_all_forms(arguments, capsys):
    pytest.importorskip('onnxruntime')
    tool.main(arguments)
    lines = capsys.readouterr().out
    shares = re.findall(r'(.*): top-1 ([\d.]+)%', lines)
    names = ['PyTorch, float32', 'onnxruntime, float32', 'onnxruntime, int8']
    assert shares == [(name, '100.00') for name in names]


def test_top_1_counts_each_function():
    dataset = [(torch.full((1, 1), float(i)), i % 2) for i in range(4)]
    runs = dict(
        right=lambda x: [torch.stack([x * 0 + 0.5, x % 2]).view(1, 2)],
        always=lambda x: [torch.tensor([[0.0, 1.0]])],
    )
    assert tool.top_1(runs, dataset) == dict(right=1, always=0.5)


def test_wrong_arguments(capsys):
    with pytest.raises(SystemExit):
        tool.parse_args([CONFIG, 'epoch.pth', '--calibration', '0'])
    assert '1 or more images' in capsys.readouterr().err


def test_detectors_are_refused(monkeypatch):
    pytest.importorskip('onnxruntime')
    model = torch.nn.Conv2d(3, 4, 3)
    monkeypatch.setattr(tool, 'configured_model', lambda args: (model,))
    with pytest.raises(cli.UserError, match='is no classifier'):
        tool.main([CONFIG, 'epoch.pth'])
