"""Parts of configs that do not fit together, before the first iteration."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from mmengine.runner import BaseLoop

from mmctx.engine import cli
from mmctx.engine.checks import ClassCheck, MisfitError, check_channels
from tests.helpers.recipes import build_on_meta, load
from tests.helpers.scripts import ROOT, load_script
from tests.helpers.small_data import make_imagenet

train = load_script('tools/train.py')

DETECTOR = 'cotnet/mask-rcnn_cotnet50_fpn_syncbn-4conv1fc_ms-90k_coco'
(SEGMENTOR,) = (
    f'contnet/{path.stem}'
    for path in (ROOT / 'configs/contnet').glob('pspnet_cont*.py')
)
CLASSIFIER = 'cotnet/cotnet50_8xb64-100e_in1k'


@pytest.mark.parametrize(
    'config, key, value, message',
    [
        (
            DETECTOR,
            'neck.in_channels',
            [256, 512, 1024],
            r'neck .*=\[256, 512, 1024\].* CoTNet returns \[256, 512, 1024, '
            r'2048\] .*Write neck=dict\(in_channels=\[256, 512, 1024, 2048\]',
        ),
        (
            DETECTOR,
            'neck.in_channels',
            [64, 128, 256, 512],
            'neck has in_channels',
        ),
        (CLASSIFIER, 'head.in_channels', 512, r'head=dict\(in_channels=2048,'),
        (
            SEGMENTOR,
            'decode_head.in_channels',
            2048,
            r'decode_head=dict\(in_channels=1024,',
        ),
        (
            SEGMENTOR,
            'auxiliary_head.in_channels',
            1024,
            r'auxiliary_head=dict\(in_channels=512,',
        ),
        (SEGMENTOR, 'decode_head.in_index', 4, 'in_index=4, .* 4 feature map'),
        (
            'digit_scenes/dino_container-light-slim_digit-scenes',
            'neck.in_channels',
            64,
            'neck has in_channels=64, but Container returns',
        ),
    ],
)
def test_channels(config, key, value, message):
    cfg = load(config)
    model = build_on_meta(cfg)
    check_channels(cfg.model, model)
    cfg.merge_from_dict({f'model.{key}': value})
    with pytest.raises(MisfitError, match=message):
        check_channels(cfg.model, model)


def check_classes(name, count, **metainfo):
    """Run the hook of a training whose data set has this many classes."""
    cfg = load(name)
    metainfo['classes'] = [str(i) for i in range(count)]
    loop = Mock(BaseLoop, dataloader=Mock())
    loop.dataloader.dataset.metainfo = metainfo
    ClassCheck().before_run(
        SimpleNamespace(
            cfg=cfg,
            model=build_on_meta(cfg),
            _train_loop=loop,
            _val_loop=None,
            _test_loop=dict(type='TestLoop'),
        )
    )


@pytest.mark.parametrize(
    'config, count',
    [(DETECTOR, 80), (SEGMENTOR, 19), (CLASSIFIER, 1000), (CLASSIFIER, 10)],
)
def test_classes(config, count):
    check_classes(config, count)


def test_panoptic_data_sets_have_two_numbers():
    check_classes(DETECTOR, 133, thing_classes=[])


@pytest.mark.parametrize(
    'config, count, message',
    [
        (DETECTOR, 90, 'bbox_head has num_classes=80, .* 90 classes'),
        (DETECTOR, 10, 'Write num_classes=10 into every head, or metainfo='),
        (SEGMENTOR, 21, 'decode_head has num_classes=19, .* 21 classes'),
        (SEGMENTOR, 2, 'decode_head has num_classes=19'),
        (CLASSIFIER, 1001, '^head has num_classes=1000, .* 1001 classes'),
    ],
)
def test_wrong_classes(config, count, message):
    with pytest.raises(MisfitError, match=message):
        check_classes(config, count)


@pytest.mark.parametrize(
    'option, message',
    [
        (
            'optim_wrapper.constructor=LearningRateDecayOptimizerConstructor',
            'goes by the names of parameters in other backbones',
        ),
        ('model.head.in_channels=512', 'head has in_channels=512, but CoTNet'),
        ('model.head.num_classes=7', 'head has num_classes=7, but there are'),
    ],
)
def test_the_tools_check(option, message, tmp_path, capsys):
    make_imagenet(tmp_path / 'data')
    argv = [str(ROOT / f'configs/{CLASSIFIER}.py'), '--no-validate']
    argv += ['--work-dir', str(tmp_path / 'work'), '--cfg-options', option]
    argv += [f'train_dataloader.dataset.data_root={tmp_path / "data"}']
    argv += ['train_dataloader.num_workers=0', 'model.backbone.depth=14']
    assert cli.run(train.main, argv) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
