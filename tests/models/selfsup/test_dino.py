"""Student and teacher of DINO."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm

from mmctx.models import Container

pytest.importorskip('mmpretrain')

ARCH = dict(
    embed_dims=(8, 8, 16, 16),
    depths=(1, 1, 1, 1),
    mlp_ratios=(1, 1, 1, 1),
    aggregation=dict(
        num_heads=(1, 1, 2, 2), dynamic=('none', 'none', 'none', 'attention')
    ),
)


def build(**changes):
    torch.manual_seed(0)
    cfg = dict(
        type='DINOSelfDistillation',
        backbone=dict(
            type='Container', arch=ARCH, out_indices=(3,), drop_path_rate=0.2
        ),
        neck=dict(type='NormedPooling', in_channels=16),
        head=dict(
            type='DINOProjectionHead',
            in_channels=16,
            num_prototypes=32,
            hidden_channels=16,
            bottleneck_channels=8,
        ),
        loss=dict(type='DINOLoss', num_prototypes=32),
        classifier=dict(type='NearestNeighborsHead', num_classes=3),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build({**cfg, **changes})


def make_views(local_views=3, images=4):
    torch.manual_seed(1)
    sizes = [64] * 2 + [32] * local_views
    return [torch.randn(images, 3, size, size) for size in sizes]


@pytest.fixture
def at_iteration(monkeypatch):
    """Sets what a runner says of its progress."""

    def set_progress(iteration, max_iters):
        progress = dict(iter=iteration, max_iters=max_iters)
        hub = SimpleNamespace(get_info=lambda key, default: progress[key])
        monkeypatch.setattr(
            'mmctx.models.selfsup.dino.MessageHub',
            SimpleNamespace(get_current_instance=lambda: hub),
        )

    return set_progress


def student_of(model):
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if not name.startswith('teacher.')
    }


def test_every_parameter_of_the_student_learns():
    model = build().train()
    model.loss(make_views())['loss'].backward()
    student = student_of(model)
    assert len(student) > 50
    for name, parameter in student.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # What precedes a norm over the batch has no gradient by its bias.
        assert parameter.grad.any() or name.endswith('.bias'), name
    for parameter in model.teacher.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None


def test_teacher_starts_as_the_student():
    model = build()
    for parameter in student_of(model).values():
        torch.nn.init.normal_(parameter)
    model.init_weights()
    teacher = model.teacher.module.state_dict()
    student = model._student().state_dict()
    assert teacher.keys() == student.keys()
    for name, value in student.items():
        assert torch.equal(teacher[name], value), name


@pytest.mark.parametrize(
    'iteration, momentum', [(0, 0.996), (50, 0.998), (100, 1.0)]
)
def test_teacher_follows_along_a_cosine(at_iteration, iteration, momentum):
    model = build()
    with torch.no_grad():
        for parameter in student_of(model).values():
            parameter.add_(torch.randn_like(parameter))
    teacher = copy.deepcopy(dict(model.teacher.module.named_parameters()))
    at_iteration(iteration, 100)
    model.loss(make_views())
    for name, student in student_of(model).items():
        after = model.teacher.module.get_parameter(name)
        expected = momentum * teacher[name] + (1 - momentum) * student
        torch.testing.assert_close(after, expected)
        assert torch.equal(after, teacher[name]) == (momentum == 1)


def test_only_the_student_drops_paths():
    model = build()

    def rates(module):
        return [
            m.drop_prob for m in module.modules() if hasattr(m, 'drop_prob')
        ]

    assert max(rates(model.backbone)) == pytest.approx(0.2)
    assert not any(rates(model.teacher))
    assert len(rates(model.teacher)) == len(rates(model.backbone))


def test_batch_statistics_are_each_ones_own():
    """One pass per size of view: two of the student's, one teacher's."""
    model = build().train()
    model.loss(make_views())

    def batches(module):
        return {
            m.num_batches_tracked.item()
            for m in module.modules()
            if isinstance(m, _BatchNorm)
        }

    assert batches(model.backbone) == batches(model.neck) == {2}
    assert batches(model.teacher) == {1}


def test_loss_is_that_of_the_views_one_by_one():
    model = build().eval()
    views = make_views()
    originals = [view.clone() for view in views]
    loss = model.loss(views)['loss']
    assert all(torch.equal(a, b) for a, b in zip(views, originals))

    def logits(network, view):
        pooled = network['neck'](network['backbone'](view))[0]
        return network['head'](pooled)

    teacher = model.teacher.module
    model.criterion.center.zero_()
    expected = model.criterion(
        torch.stack([logits(model._student(), view) for view in views]),
        torch.stack([logits(teacher, view) for view in views[:2]]),
    )
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)


def test_features_and_predictions_are_the_teachers():
    from mmpretrain.structures import DataSample

    model = build().eval()
    images = make_views()[0]
    with torch.no_grad():
        for parameter in student_of(model).values():
            parameter.zero_()
        features = model(images)
        assert features.shape == (4, 16)
        assert features.std(0).min() > 0
        model.classifier.remember(features, torch.tensor([2, 0, 1, 2]))
        model.classifier.k = 1
        samples = model(images, [DataSample() for _ in images], 'predict')
    assert [s.pred_label.item() for s in samples] == [2, 0, 1, 2]
    assert [s.pred_score.shape for s in samples] == [(3,)] * 4


def test_another_model_starts_from_the_teacher(tmp_path):
    model = build()
    with torch.no_grad():
        for parameter in student_of(model).values():
            parameter.zero_()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'dino.pth')
    backbone = Container(
        ARCH,
        out_indices=(3,),
        init_cfg=dict(
            type='Pretrained',
            checkpoint=str(tmp_path / 'dino.pth'),
            prefix='teacher.module.backbone.',
        ),
    )
    backbone.init_weights()
    teacher = model.teacher.module['backbone'].state_dict()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, teacher[name]), name
    assert any(value.any() for value in teacher.values())


def test_too_few_views_are_an_error():
    with pytest.raises(ValueError, match='at least two views.*got 1.*Multi'):
        build().loss(make_views()[:1])
    with pytest.raises(ValueError, match='got 1'):
        build().loss(make_views()[0])


def test_evaluation_needs_a_classifier():
    model = build(classifier=None).eval()
    with pytest.raises(RuntimeError, match='NearestNeighborsHead'):
        model(make_views()[0], [], 'predict')
