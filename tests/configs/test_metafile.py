"""The metafiles list every config, with the size that its model has."""

import functools
import json

import pytest
import torch
import yaml
from mmengine.config import Config

from tests.helpers.recipes import load
from tests.helpers.scripts import ROOT, load_script

get_flops = load_script('tools/analysis_tools/get_flops.py')

#: Papers that leave the attention products out of their counts.
WITHOUT_ATTENTION = ('ConTNet',)
LIGHT = 'container-light_8xb128-300e_in1k'
#: Figures that are not those of the network as it is here, by config; the
#: family's README says why.
DIFFERENT = {
    'coat-tiny-direct_8xb256-300e_in1k': {'FLOPs'},
    # truncated
    'cont-ti_8xb64-adamw-strong-200e_in1k': {'Parameters', 'FLOPs'},
    'cont-m_8xb64-sgd-200e_in1k': {'Parameters'},
    'cont-m_8xb64-adamw-strong-200e_in1k': {'Parameters'},
    'cont-b_8xb64-sgd-200e_in1k': {'Parameters'},
    'cont-b_8xb64-adamw-strong-200e_in1k': {'Parameters'},
    'retinanet_cont-m_fpn_1x_coco': {'Parameters'},
    'retinanet_r50_fpn_1x_coco': {'Parameters'},
    'fcos_cont-m_fpn_gn-head_1x_coco': {'Parameters'},
    'fcos_cont-m_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco': {
        'Parameters'
    },
    LIGHT: {'Parameters', 'FLOPs'},
    f'{LIGHT}-80pct': {'Parameters', 'FLOPs'},
    f'{LIGHT}-50pct': {'Parameters', 'FLOPs'},
    f'{LIGHT}-10pct': {'Parameters', 'FLOPs'},
    'container_8xb128-300e_in1k': {'Parameters'},
    'container_8xb128-200e_in1k': {'Parameters'},
    'h-deit-small_8xb128-300e_in1k': {'Parameters'},
    'h-groupconv3_8xb128-300e_in1k': {'Parameters'},
    'h-dw3_8xb128-300e_in1k': {'Parameters'},
    'h-mhdw3_8xb128-300e_in1k': {'Parameters'},
    'mask-rcnn_container-light_fpn_amp-ms-crop-1x_coco': {'Parameters'},
    'retinanet_container-light_fpn_1x_coco': {'Parameters'},
    'ctx-convnext-tiny_32xb128-300e_in1k': {'Parameters', 'FLOPs'},
    'ctx-convnext-small_32xb128-300e_in1k': {'Parameters', 'FLOPs'},
    'ctx-convnext-base_32xb128-300e_in1k': {'Parameters'},
    'ctx-resnet50-stage4_8xb32-200e_in1k': {'Parameters'},
}


def read(path):
    return yaml.safe_load((ROOT / path).read_text())


METAFILES = read('model-index.yml')['Import']
ENTRIES = {
    entry['Name']: entry
    for path in METAFILES
    for entry in read(path)['Models']
}
#: Without those of videos, whose models only mmaction2 builds.
SIZED = [name for name in ENTRIES if not name.startswith('tsm_')]


@pytest.mark.parametrize('path', METAFILES)
def test_entries_and_configs_are_the_same(path):
    entries = read(path)['Models']
    folder = (ROOT / path).parent
    assert sorted(entry['Name'] for entry in entries) == sorted(
        config.stem for config in folder.glob('*.py')
    )
    for entry in entries:
        assert (ROOT / entry['Config']).stem == entry['Name']
        assert (ROOT / entry['Config']).is_file()


@functools.cache
def measure_classifier(model, side):
    """Size of a classifier; many configs train the same one."""
    cfg = Config(dict(default_scope='mmpretrain', model=json.loads(model)))
    model = get_flops.build_model(cfg)
    # In self-distillation that is the teacher alone.
    counts = get_flops.count_multiply_adds(
        lambda: model(torch.rand(1, 3, side, side), mode='tensor')
    )
    total, attention = counts['Global'], counts[get_flops.ATTENTION]
    sizes = dict(Parameters=get_flops.parameters(model), FLOPs=total)
    if attention:
        sizes['FLOPs without Attention'] = total - attention
    return sizes


def measure(cfg):
    if cfg.default_scope == 'mmpretrain':
        cfg.model.pop('train_cfg', None)
        cfg.model.backbone.pop('drop_path_rate', None)
        neck = cfg.model.neck
        if neck and neck.type == 'PooledDropout':
            cfg.model.neck = dict(type='GlobalAveragePooling')
        return measure_classifier(
            json.dumps(cfg.model), get_flops.default_size(cfg)[0]
        )
    with torch.device('meta'):
        model = get_flops.build_model(cfg)
    return dict(Parameters=get_flops.parameters(model))


@pytest.mark.parametrize('name', SIZED)
def test_size(name):
    entry = ENTRIES[name]
    measured = measure(load(name, (ROOT / entry['Config']).parent))
    for key, value in measured.items():
        assert value == pytest.approx(entry['Metadata'][key], rel=1e-3)


@pytest.mark.parametrize('name', SIZED)
def test_size_is_the_published_one(name):
    entry = ENTRIES[name]
    sizes = entry['Metadata']
    kind = 'FLOPs'
    if entry['In Collection'] in WITHOUT_ATTENTION and kind in sizes:
        kind = 'FLOPs without Attention'
    counted = dict(
        Parameters=sizes['Parameters'] / 1e6,
        FLOPs=sizes.get(kind, 0) / 1e9,
    )
    for key, unit, tolerance in (
        ('Parameters', 'M', 0.01),
        ('FLOPs', 'G', 0.03),
    ):
        published = entry['Published'].get(f'{key} ({unit})')
        # That of detectors is not counted.
        if published is not None and counted[key]:
            # A figure without decimals is off by up to a half.
            rounding = 0.5 if isinstance(published, int) else 0
            is_close = counted[key] == pytest.approx(
                published, rel=tolerance, abs=rounding
            )
            assert is_close != (key in DIFFERENT.get(name, ()))
