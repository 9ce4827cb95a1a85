"""Networks with converted weights compute what the releases compute."""

import re
from contextlib import contextmanager

import pytest
import torch

from mmctx import get_backbone
from mmctx.models.layers import ContextualConv2d
from mmctx.models.losses import ProgressiveLoss
from tests.helpers.parity import (
    FLOAT32_TOLERANCE,
    FOLDER,
    Fixture,
    check_output,
    make_input,
    probe,
)

NAMES = sorted(path.stem for path in FOLDER.glob('*.json'))


@pytest.fixture(scope='module', params=NAMES)
def fixture(request) -> Fixture:
    return Fixture(request.param)


@pytest.fixture(scope='module')
def model(fixture):
    return fixture.model()


def _named(maps):
    return {f'stage{i + 1}': m for i, m in enumerate(maps)}


def _outputs(model, x):
    maps = model.backbone(x)
    outputs = dict(_named(getattr(maps, 'maps', maps)), maps=maps)
    outputs['logits'] = model.head(model.neck(maps) if model.neck else maps)
    scores = getattr(maps, 'class_scores', ())
    # Scored stages are the last ones.
    for i, score in enumerate(scores, 5 - len(scores)):
        outputs[f'class_scores{i}'] = score
    if scores:
        outputs['class_scores_all'] = torch.cat(scores, dim=1)
    return outputs


def _inner_modules(fixture, model):
    """Modules whose input (0) or output (1) a fixture lists beside maps."""
    backbone, family = model.backbone, type(model.backbone).__name__
    if family == 'Container':
        return {
            'patch_embed1': (backbone.stem, 1),
            'blocks1.0': (backbone.stages[0][0], 1),
            'blocks4.0': (backbone.stages[3][0], 1),
            'norm': (model.neck.norm, 1),
        }
    if family.startswith('Contextual'):
        return _contextual_modules(backbone)
    if family != 'ConTNet':
        return {}
    first = backbone.stages[0][0].ste
    inner = {
        'stem': (backbone.stem, 1),
        'layer1.block0.ste1': (first[0], 1),
        'layer1.block0.ste2': (first[1], 1),
    }
    for i, stage in enumerate(backbone.stages):
        inner[f'stage{i + 1}_pre_down'] = stage[-1], 0
    return inner


def _contextual_modules(backbone):
    first = next(
        m for m in backbone.modules() if isinstance(m, ContextualConv2d)
    )
    inner = {
        'stem': (backbone.stem, 1),
        'first_ctxconv.out': (first, 1),
        'first_ctxconv.spatial': (first.sampling_predictor, 1),
        'first_ctxconv.weight_offset': (first.weight_predictor, 1),
    }
    for i, merger in backbone.contextualizing.merge.items():
        inner[f'context{int(i) + 1}'] = merger, 1
    return {k: pair for k, pair in inner.items() if pair[0] is not None}


@contextmanager
def _tapped(modules):
    """Inputs or outputs of modules, by the same names, once they ran."""
    found, handles = {}, []
    for name, (module, side) in modules.items():
        handles.append(
            module.register_forward_hook(
                lambda _, x, y, name=name, side=side: found.update(
                    {name: (x[0], y)[side].clone()}
                )
            )
        )
    yield found
    for handle in handles:
        handle.remove()


def _check_outputs(outputs, case):
    for key, expected in case['outputs'].items():
        if re.fullmatch(r'scores\d', key):
            continue  # sorted by the scores of the stage before
        tolerance = max(FLOAT32_TOLERANCE, 5 * case['fp32_vs_fp64'][key])
        check_output(outputs[key], expected, tolerance)


def test_evaluation(fixture, model):
    fixture.fill(model)
    model.float().eval()
    inner = _inner_modules(fixture, model)
    for case in fixture.cases_of('eval'):
        with torch.no_grad(), _tapped(inner) as found:
            outputs = _outputs(model, make_input(case['input_shape']))
        _check_outputs({**found, **outputs}, case)
        for expected in case.get('loss', []):
            _check_loss(outputs['maps'], expected)


def _check_loss(maps, expected):
    """Of the class scores; mixed targets are smoothed by the loss."""
    if expected['kind'] == 'hard':
        target = torch.tensor(expected['target'])
    else:
        assert expected['input_smoothing'] == expected['smoothing']
        target = torch.zeros_like(maps.class_scores[0])
        labels = torch.tensor(expected['labels'])
        weights = torch.tensor([expected['weights']])
        target.scatter_(1, labels, weights.expand(labels.shape))
    *alphas, last = expected['alphas']
    assert len({*alphas}) == last == 1
    criterion = ProgressiveLoss(alphas[0], expected['smoothing'])
    inputs = maps.class_scores, target, maps.considered
    stages = [v.item() for v in criterion.stage_losses(*inputs)]
    assert stages == pytest.approx(expected['stage_losses_weighted'], rel=1e-5)
    loss = criterion(*inputs).item()
    assert loss == pytest.approx(expected['loss'], rel=1e-5)


def test_dense_evaluation(fixture, model):
    """The backbone as a detector builds it, with the classifier's weights."""
    cases = fixture.cases_of('eval_dense')
    if not cases:
        pytest.skip('the fixture has no such case')
    backbone = get_backbone(fixture.name).eval()
    fixture.fill(model)
    backbone.load_state_dict(model.backbone.state_dict(), strict=True)
    for case in cases:
        with torch.no_grad():
            maps = backbone(make_input(case['input_shape']))
        _check_outputs(_named(maps), case)


@pytest.mark.parametrize(
    'mode, tolerance', [('eval_grad', 1e-8), ('train', 1e-6)]
)
def test_gradients(fixture, model, mode, tolerance):
    """Loss, output, gradients and running statistics in float64."""
    for case in fixture.cases_of(mode):
        fixture.fill(model)
        model.double().train(mode == 'train')
        model.zero_grad()
        out = _outputs(model, make_input(case['input_shape']).double())
        out = out[case['probe_key']]
        loss = (out * probe(out)).sum()
        loss.backward()
        assert loss.item() == pytest.approx(case['loss'], rel=tolerance)
        for expected in case.get('outputs', {}).values():
            check_output(out, expected, tolerance)
        _check_gradients(fixture, model, case, tolerance)
        _check_statistics(fixture, model, case)
    model.float()


def _check_gradients(fixture, model, case, tolerance):
    parameters = dict(model.named_parameters())
    names = fixture.our_names()
    noise = case.get('grad_noise_only', [])
    for released, norm in case['grad_norms'].items():
        grad = parameters[names[released]].grad
        assert grad is not None, released
        if released in noise:
            assert grad.norm().item() < 1e-5, released
        else:
            assert grad.norm().item() == pytest.approx(norm, rel=tolerance)
    checked = {names[k] for k in case['grad_norms']}
    # What the release builds and never uses is not converted.
    checked |= {
        names[k] for k in (*noise, *case.get('no_grad', [])) if k in names
    }
    assert checked == set(parameters)


def _check_statistics(fixture, model, case):
    buffers = dict(model.named_buffers())
    names = fixture.our_names()
    for released, norm in case.get('running_stats_norms_after', {}).items():
        found = buffers[names[released]].norm().item()
        assert found == pytest.approx(norm, rel=1e-8), released
