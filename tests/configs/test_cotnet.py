"""The recipes of CoTNet: what the paper, its release and its logs fix."""

import functools

import pytest
from mmengine.registry import TASK_UTILS

from tests.helpers import recipes
from tests.helpers.recipes import build_on_meta

CASCADES = [
    name.split('/')[1]
    for name in recipes.CONFIGS
    if name.startswith('cotnet/cascade')
]

load = functools.partial(recipes.load, folder='cotnet')


def test_all_rows_are_there():
    masks = [name for name in CASCADES if 'mask' in name]
    assert (len(CASCADES), len(masks)) == (12, 6)


@pytest.mark.parametrize('name', CASCADES)
def test_cascades_train_as_in_detectron2(name):
    cfg = load(name)
    head = cfg.model.roi_head
    assert head.type == 'SingleMaskCascadeRoIHead'
    assert head.stage_loss_weights == [1, 1, 1]
    assert bool(head.mask_head) == ('mask' in name)
    train = cfg.model.train_cfg
    assert train.rpn.allowed_border == -1
    assert [stage.assigner.pos_iou_thr for stage in train.rcnn] == [
        0.5, 0.6, 0.7
    ]  # fmt: skip
    samplers = [TASK_UTILS.build(dict(s.sampler)) for s in train.rcnn]
    assert [type(sampler).__name__ for sampler in samplers] == [
        'RandomSampler', 'PseudoSampler', 'PseudoSampler'
    ]  # fmt: skip
    assert (samplers[0].num, samplers[0].pos_fraction) == (512, 0.25)


def test_a_cascade_has_one_mask_head():
    roi_head = build_on_meta(load(CASCADES[0])).roi_head
    assert roi_head.mask_head.conv_logits.out_channels == 80
    assert len(roi_head.bbox_head) == 3


def test_baseline_of_the_blocks_is_resnet_rs_50():
    """Table 6 prints 35.7 M for it."""
    cfg = load('se-resnetd50_8xb64-100e_in1k')
    counterpart = load('se-cotnetd50_8xb64-100e_in1k')
    model = build_on_meta(cfg)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(
        35.7e6, abs=0.05e6
    )
    for key in ('optim_wrapper', 'param_scheduler', 'train_dataloader'):
        assert cfg[key] == counterpart[key]
    assert cfg.model.head == counterpart.model.head
