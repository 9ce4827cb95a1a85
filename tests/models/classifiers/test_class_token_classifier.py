import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample

import mmctx.models.heads  # noqa: F401
from tests.helpers.backbones import TINY

KINDS = ('CoaT', 'CoaT parallel')


@pytest.fixture(autouse=True)
def scope():
    """Whatever scope an earlier test has made the default."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def parts(kind):
    arch = TINY[kind]['arch']
    return dict(
        backbone=dict(type='CoaT', arch=arch, with_cls_token=True),
        head=dict(
            type='CoaTClsHead',
            num_classes=5,
            in_channels=arch['embed_dims'][3],
            num_tokens=3 if 'parallel' in kind else 1,
        ),
    )


def build(kind, **options):
    cfg = dict(type='ClassTokenClassifier', **parts(kind), **options)
    return MODELS.build(cfg)


@pytest.mark.parametrize('kind', KINDS)
def test_as_an_image_classifier(kind):
    """Logits, predictions, losses and gradients."""
    ours, stock = build(kind).eval(), ImageClassifier(**parts(kind)).eval()
    stock.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(3, 3, 64, 96)
    samples = [DataSample().set_gt_label(i) for i in range(3)]
    torch.testing.assert_close(ours(x), stock(x))
    a, b = (model(x, samples, mode='predict') for model in (ours, stock))
    for ours_found, found in zip(a, b):
        torch.testing.assert_close(ours_found.pred_score, found.pred_score)
    for model in (ours, stock):
        model(x, samples, mode='loss')['loss'].backward()
    for (key, a), b in zip(ours.named_parameters(), stock.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=key)


def test_features():
    model = build('CoaT parallel').eval()
    x = torch.randn(2, 3, 64, 64)
    maps = model.extract_feat(x, 'backbone')
    assert len(maps) == 4
    tokens = model.extract_feat(x)
    assert len(tokens) == 0 and len(tokens.cls_tokens) == 3
    vector = model.extract_feat(x, 'pre_logits')
    torch.testing.assert_close(model.head.fc(vector), model(x))
    with pytest.raises(AssertionError, match='Invalid output stage "last"'):
        model.extract_feat(x, 'last')


def test_takes_no_neck():
    with pytest.raises(ValueError, match='takes no neck.*Leave it out'):
        build('CoaT', neck=dict(type='GlobalAveragePooling'))
