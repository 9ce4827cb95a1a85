"""What the tools say about errors."""

from mmengine.registry import MODELS, init_default_scope

from mmctx.engine.cli import describe


def error_of(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        return error


def test_arguments_left_from_a_backbone_of_ours():
    init_default_scope('mmdet')
    error = error_of(MODELS.build, dict(type='ResNet', depth=50, arch='ti'))
    line = describe(error)
    assert "unexpected keyword argument 'arch'" in line
    assert line.endswith('dict(_delete_=True, type=..., ...)')


def test_one_hint_is_enough():
    error = error_of(MODELS.build, dict(type='CoTNet', style='pytorch'))
    assert describe(error).count('_delete_') == 1
