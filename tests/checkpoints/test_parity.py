"""Networks with converted weights compute what the releases compute."""

import pytest
import torch

from tests.parity import (
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


#: Outputs inside a network, and our modules that return them.
INSIDE = {
    'container_light': {
        'patch_embed1': 'backbone.stem',
        'blocks1.0': 'backbone.stages.0.0',
        'blocks4.0': 'backbone.stages.3.0',
        'norm': 'neck.norm',
    }
}


def _outputs(model, x, inside=()):
    outputs = {}

    def keep(key):
        # Cloned: without gradients a network works in place.
        return lambda module, args, out: outputs.update({key: out.clone()})

    hooks = [
        model.get_submodule(path).register_forward_hook(keep(key))
        for key, path in dict(inside).items()
    ]
    maps = model.backbone(x)
    outputs.update({f'stage{i + 1}': m for i, m in enumerate(maps)})
    outputs['logits'] = model.head(model.neck(maps) if model.neck else maps)
    for hook in hooks:
        hook.remove()
    return outputs


def test_evaluation(fixture, model):
    fixture.fill(model)
    model.float().eval()
    for case in fixture.cases_of('eval'):
        with torch.no_grad():
            outputs = _outputs(
                model,
                make_input(case['input_shape']),
                INSIDE.get(fixture.name, {}),
            )
        for key, expected in case['outputs'].items():
            floor = case['fp32_vs_fp64'][key]
            check_output(
                outputs[key], expected, max(FLOAT32_TOLERANCE, 5 * floor)
            )


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
