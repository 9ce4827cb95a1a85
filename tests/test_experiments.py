"""Configs by name."""

import mmengine.hub
import mmpretrain
import pytest
from mmengine.config import Config

import mmctx
from tests.helpers.scripts import ROOT

NAME = 'cotnet50_8xb64-100e_in1k'


def test_all_leaves_are_listed():
    leaves = [
        path.stem
        for path in (ROOT / 'configs').rglob('*.py')
        if '_base_' not in path.parts
    ]
    assert sorted(mmctx.list_configs()) == sorted(leaves)


def test_choice_by_pattern_and_task():
    names = mmctx.list_configs('*cotnet50*', task='object detection')
    assert any('faster-rcnn' in name for name in names)
    assert NAME not in names
    assert NAME in mmctx.list_configs(task='classification')
    with pytest.raises(ValueError, match=r'one of .*Object Detection.*juggl'):
        mmctx.list_configs(task='juggling')


@pytest.mark.parametrize(
    'name', [NAME, f'{NAME}.py', f'cotnet/{NAME}', f'configs/cotnet/{NAME}.py']
)
def test_path_and_config(name):
    assert mmctx.get_config(name).model.backbone.type == 'CoTNet'
    assert mmctx.config_path(name).endswith(f'configs/cotnet/{NAME}.py')


@pytest.mark.parametrize('name', ['cotnet5_8xb64-100e_in1k', f'mine/{NAME}'])
def test_unknown_name_suggests_near_ones(name):
    with pytest.raises(ValueError, match=f'Did you mean {NAME!r}'):
        mmctx.config_path(name)


def test_scope_of_mmengine(tmp_path):
    config = mmengine.hub.get_config(f'mmctx::cotnet/{NAME}.py')
    assert config.model.backbone.type == 'CoTNet'
    mine = tmp_path / 'mine.py'
    mine.write_text(f"_base_ = 'mmctx::cotnet/{NAME}.py'\n")
    assert Config.fromfile(mine).model.backbone.depth == 50


def test_models_in_the_hub_of_mmpretrain():
    mmctx.register_model_index()
    mmctx.register_model_index()
    assert NAME in mmpretrain.list_models('*cotnet50*')
    assert type(mmpretrain.get_model(NAME).backbone) is mmctx.CoTNet
    with pytest.warns(UserWarning, match='Unable to find pre-defined'):
        mmpretrain.get_model(NAME, pretrained=True)
