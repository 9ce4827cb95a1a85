import pytest
import torch
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample

from mmctx import get_model
from mmctx.models.losses import ProgressiveLoss
from tests.helpers.backbones import TINY

TINY_RESNET = dict(TINY['ContextualResNet'])
TINY_RESNET.pop('num_classes')


def make_model(**options):
    torch.manual_seed(0)
    return get_model(
        'ctx_resnet50', num_classes=12, **{**TINY_RESNET, **options}
    )


def samples(scores=None):
    labelled = [DataSample().set_gt_label(i) for i in range(4)]
    if scores is not None:
        for sample, score in zip(labelled, scores):
            sample.set_gt_score(score)
    return labelled


@pytest.mark.parametrize('selection', ['rerank', 'reduce'])
@pytest.mark.parametrize('mixed', [False, True])
def test_losses_of_all_stages(selection, mixed):
    model = make_model(selection=selection).train()
    x = torch.randn(4, 3, 64, 64)
    target, scores = torch.arange(4), None
    if mixed:
        scores = target = 0.7 * torch.eye(12)[:4] + 0.3 * torch.eye(12)[4:8]
    losses = model(x, samples(scores), mode='loss')
    assert list(losses) == [f'stage{i}_loss' for i in (1, 2, 3, 4)]
    total, _ = model.parse_losses(losses)
    maps = model.backbone(x)
    expected = ProgressiveLoss()(maps.class_scores, target, maps.considered)
    torch.testing.assert_close(total, expected)
    total.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_predictions():
    model = make_model(selection='reduce').eval()
    x = torch.randn(4, 3, 64, 64)
    considered = model.backbone(x).considered[-1]
    logits = model(x)
    assert torch.equal(logits.isfinite(), considered)
    predictions = model(x, samples(), mode='predict')
    assert [s.pred_label.item() for s in predictions] == logits.argmax(
        1
    ).tolist()
    released = make_model().eval()
    assert released(x).isfinite().all()


def test_accuracy():
    model = make_model()
    model.head.cal_acc = True
    x = torch.randn(4, 3, 64, 64)
    assert 'accuracy_top-1' in model(x, samples(), mode='loss')
    with pytest.raises(ValueError, match='cal_acc=False'):
        model(x, samples(torch.eye(12)[:4]), mode='loss')


def test_wrong_backbones():
    head = MODELS.build(dict(type='ContextualClsHead', num_classes=5))
    with pytest.raises(ValueError, match='with_class_scores=True'):
        head((torch.zeros(2, 3, 1, 1),))
    maps = make_model().backbone(torch.randn(2, 3, 64, 64))
    with pytest.raises(ValueError, match='num_classes=5.* 12 classes'):
        head(maps)


def test_any_number_of_classes():
    model = get_model('ctx_resnet50', num_classes=10, depth=14).eval()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)
