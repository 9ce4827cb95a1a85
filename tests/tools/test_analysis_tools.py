"""tools/analysis_tools."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config

from mmctx.engine import cli
from mmctx.ops import local_aggregation
from tests.helpers.scripts import ROOT, load_script

get_flops = load_script('tools/analysis_tools/get_flops.py')
print_config = load_script('tools/analysis_tools/print_config.py')

CLASSIFIER = str(ROOT / 'configs/cotnet/cotnet50_8xb64-100e_in1k.py')
DETECTOR = str(
    ROOT / 'configs/cotnet/'
    'mask-rcnn_cotnet50_fpn_syncbn-4conv1fc_ms-90k_coco.py'
)


def test_local_aggregation_is_counted():
    value, weight = torch.rand(2, 16, 5, 7), torch.rand(2, 2, 9, 5, 7)
    counts = get_flops.count_multiply_adds(
        lambda: local_aggregation(value, weight, 3)
    )
    assert counts['Global'] == 2 * 16 * 5 * 7 * 9


def test_attention_is_counted():
    q, k, v = torch.rand(3, 2, 4, 10, 8)
    counts = get_flops.count_multiply_adds(
        lambda: F.scaled_dot_product_attention(q, k, v) @ torch.rand(8, 3)
    )
    attention = 2 * (2 * 4 * 10 * 10 * 8)
    assert counts[get_flops.ATTENTION] == attention
    assert counts['Global'] == attention + 2 * 4 * 10 * 8 * 3


def test_segmentors_are_counted_on_their_window():
    (path,) = (ROOT / 'configs/contnet').glob('pspnet_cont*.py')
    assert get_flops.default_size(Config.fromfile(path)) == [672, 672]


@pytest.mark.parametrize(
    'config, size',
    [
        (
            'digit_scenes/smca-detr_container-light-slim_digit-scenes',
            [128] * 2,
        ),
        ('contnet/mask-rcnn_cont-m_fpn_1x_coco', [784, 1344]),
        (f'cotnet/{Path(DETECTOR).stem}', [800, 1280]),
    ],
)
def test_detectors_are_counted_on_their_images(config, size):
    cfg = Config.fromfile(ROOT / f'configs/{config}.py')
    assert get_flops.default_size(cfg) == size


def test_student_and_teacher_are_counted(capsys):
    name = 'dino_container-light-slim_digit-scenes'
    config = str(ROOT / f'configs/digit_scenes/{name}.py')
    assert cli.run(get_flops.main, [config]) == 0
    table = rows(capsys.readouterr().out)
    assert table['backbone'][1] == table['teacher'][1] > 0
    both = table['backbone'][1] + table['teacher'][1]
    assert abs(table['total'][1] - both) < 0.002


def rows(out):
    """The printed table: part -> (parameters in M, multiply-adds in G)."""
    lines = [line.split() for line in out.splitlines()]
    start = next(i for i, words in enumerate(lines) if words[:1] == ['part'])
    return {
        words[0]: tuple(float(w) for w in words[1:])
        for words in lines[start + 1 :]
        if words[:1] != ['of']
    }


def test_get_flops_of_a_classifier(capsys):
    assert cli.run(get_flops.main, [CLASSIFIER]) == 0
    out = capsys.readouterr().out
    assert 'Input 3 x 224 x 224' in out
    table = rows(out)
    assert table['total'] == (22.222, 3.243)
    assert table['backbone'] == (20.173, 3.241)


def test_get_flops_of_a_detector(capsys):
    argv = [DETECTOR, '--shape', '64', '96', '--cfg-options']
    argv += ['model.backbone.depth=14', 'model.test_cfg.rpn.max_per_img=10']
    assert cli.run(get_flops.main, argv) == 0
    out = capsys.readouterr().out
    assert 'Input 3 x 64 x 96' in out
    table = rows(out)
    total = table.pop('total')
    assert set(table) == {'backbone', 'neck', 'rpn_head', 'roi_head'}
    assert all(count > 0 for _, count in table.values())
    for i in range(2):
        parts = sum(values[i] for values in table.values())
        assert abs(parts - total[i]) < 0.003


def test_get_flops_of_a_backbone(capsys):
    assert cli.run(get_flops.main, [CLASSIFIER, '--backbone']) == 0
    table = rows(capsys.readouterr().out)
    assert table['total'] == (20.173, 3.241)


def test_print_config(capsys):
    argv = [CLASSIFIER, '--cfg-options', 'train_cfg.max_epochs=7']
    assert cli.run(print_config.main, argv) == 0
    out = capsys.readouterr().out
    assert "type='CoTNet'" in out and 'max_epochs=7' in out
