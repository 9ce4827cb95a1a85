import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmctx.datasets import make_digit_scenes
from mmctx.engine import cli
from mmctx.visualization import (
    StageRanks,
    draw_class_narrowing,
    rank_classes,
)
from tests.helpers.backbones import build_tiny
from tests.helpers.scripts import ROOT, load_script

class_narrowing = load_script('tools/visualization/class_narrowing.py')
CONFIGS = ROOT / 'configs/digit_scenes'
CONFIG = str(CONFIGS / 'ctx-resnet14_digit-scenes.py')
DETECTOR = str(CONFIGS / 'faster-rcnn_ctx-resnet14_fpn_digit-scenes.py')


@pytest.mark.parametrize('selection', ['rerank', 'reduce'])
def test_what_is_kept_is_what_the_next_stage_considers(selection):
    torch.manual_seed(0)
    backbone = build_tiny(
        'ContextualResNet', with_class_scores=True, selection=selection
    ).eval()
    images = torch.randn(3, 3, 64, 64)
    stages = rank_classes(backbone, images)
    maps = backbone(images)
    assert [(s.stage, s.kept) for s in stages] == [
        (1, 6), (2, 4), (3, 2), (4, 1)
    ]  # fmt: skip
    for stage, considered in zip(stages, maps.considered[1:]):
        kept = torch.zeros_like(considered)
        kept.scatter_(1, stage.ranks[:, : stage.kept], True)
        assert torch.equal(kept, considered)
    for stage in stages:
        assert torch.equal(
            stage.ranks.sort(1).values, torch.arange(12).expand(3, -1)
        )
    if selection == 'rerank':
        best = maps.class_scores[-1].argmax(1)
        assert torch.equal(stages[-1].ranks[:, 0], best)
    for last, next_ in zip(stages, stages[1:]):
        nested = all(
            {*after[: next_.kept].tolist()} <= {*before[: last.kept].tolist()}
            for before, after in zip(last.ranks, next_.ranks)
        )
        assert nested or selection == 'rerank'


def test_only_scored_stages():
    backbone = build_tiny(
        'ContextualResNet', with_class_scores=True, contextual_stages=(3,)
    ).eval()
    stages = rank_classes(backbone, torch.randn(1, 3, 64, 64))
    assert [(s.stage, s.kept) for s in stages] == [(3, 2), (4, 1)]


def test_backbone_without_scores():
    with pytest.raises(ValueError, match='returns no class scores'):
        rank_classes(build_tiny('ContextualResNet'), torch.randn(2, 3, 64, 64))


def test_picture(tmp_path):
    """The true class is green, at its rank and nowhere else."""

    def draw(label):
        path = str(tmp_path / f'{label}.png')
        ranks = torch.arange(4).flip(0)[None]
        draw_class_narrowing(
            [np.zeros((8, 8, 3), np.uint8)],
            [label],
            [StageRanks(1, ranks, 2), StageRanks(4, ranks, 1)],
            ['a', 'b', 'c', 'd'],
            path,
            columns=1,
        )
        _, green, red = cv2.imread(path).astype(int).transpose(2, 0, 1)
        rows = np.flatnonzero(
            (green > red + 30)[:, red.shape[1] // 2 :].any(1)
        )
        return rows.mean() / len(red)

    first, last = draw(3), draw(0)
    assert 0.1 < first < 0.6 < last < 1


def test_tool(tmp_path, capsys):
    make_digit_scenes(tmp_path, 'classification', train=10, val=10)
    options = [
        '--cfg-options',
        f'test_dataloader.dataset.data_root={tmp_path}/classification',
    ]
    cfg = cli.load_config(CONFIG)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    checkpoint = str(tmp_path / 'model.pth')
    torch.save(model.state_dict(), checkpoint)
    out = tmp_path / 'picture.jpg'
    argv = [CONFIG, checkpoint, '--out', str(out), '--num-images', '3']
    assert cli.run(class_narrowing.main, argv + options) == 0
    assert f'{out} is written.' in capsys.readouterr().out
    assert cv2.imread(str(out)).std() > 0

    options.append('model.backbone.with_class_scores=False')
    torch.save(
        {
            k: v
            for k, v in model.state_dict().items()
            if not k.startswith('backbone.contextualizing.classify.3.')
        },
        checkpoint,
    )
    assert cli.run(class_narrowing.main, argv + options) == 2
    assert 'returns no class scores' in capsys.readouterr().err

    argv[0] = DETECTOR
    assert cli.run(class_narrowing.main, argv) == 2
    assert 'not of a classifier' in capsys.readouterr().err
    assert cli.run(class_narrowing.main, [CONFIG, 'missing.pth']) == 2
    with pytest.raises(SystemExit):
        class_narrowing.main([*argv, '--num-images', '0'])
