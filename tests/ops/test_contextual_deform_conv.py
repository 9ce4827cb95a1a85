import sys

import pytest
import torch
import torchvision
from torch import nn

from mmctx.ops import (
    contextual_deform_conv,
    modulated_deform_conv,
    reference,
)
from mmctx.ops.contextual_deform_conv import cpu

BACKENDS = ('reference', 'cpu')
# n, c, out channels, groups, kernel, h, w, stride, padding, dilation
CASES = {
    'depthwise': (2, 5, 5, 5, (7, 7), (9, 8), 1, 3, 1),
    'depthwise-strided': (3, 4, 4, 4, (3, 3), (7, 10), 2, 1, 1),
    'depthwise-multiplier': (2, 3, 6, 3, (3, 3), (5, 6), 1, 1, 1),
    'dense': (2, 4, 6, 1, (3, 3), (7, 5), 1, 1, 1),
    'dense-strided': (3, 4, 2, 1, (3, 3), (9, 6), 2, 1, 1),
    'dense-dilated': (1, 3, 5, 1, (3, 3), (9, 8), 1, 2, 2),
    'grouped': (2, 6, 4, 2, (3, 5), (6, 7), (2, 1), (1, 2), (1, 2)),
    'no-padding': (2, 4, 4, 4, (5, 5), (5, 6), 1, 0, 1),
    'one-pixel': (1, 2, 2, 1, (3, 3), (1, 1), 1, 1, 1),
    'one-tap': (2, 4, 4, 4, (1, 1), (3, 4), 1, 0, 1),
}
cases = pytest.mark.parametrize('case', CASES)
backends = pytest.mark.parametrize('backend', BACKENDS)


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def make(case, spread=1.5, dtype=torch.float64, masked=True, biased=True):
    """Fresh random inputs and the keyword arguments of a case."""
    n, c, out, groups, kernel, size, *geometry = CASES[case]
    geometry = dict(zip(('stride', 'padding', 'dilation'), geometry))
    conv = nn.Conv2d(1, 1, kernel, **geometry, device='meta')
    size_out = conv(torch.empty(1, 1, *size, device='meta')).shape[2:]
    taps = kernel[0] * kernel[1]
    inputs = dict(
        x=torch.randn(n, c, *size),
        offset=spread * torch.randn(n, 2 * taps, *size_out),
        weight=torch.randn(n, out, c // groups, *kernel),
        bias=torch.randn(out) if biased else None,
        mask=torch.rand(n, taps, *size_out) if masked else None,
    )
    return leaves(inputs, dtype), geometry


def leaves(inputs, dtype=None):
    return {
        k: None if v is None else v.detach().to(dtype).requires_grad_()
        for k, v in inputs.items()
    }


def folded(x, offset, weight, bias, mask, stride, padding, dilation):
    """torchvision's operator with the batch folded into the channels."""
    n, c = x.shape[:2]
    out = torchvision.ops.deform_conv2d(
        x.reshape(1, n * c, *x.shape[2:]),
        offset.reshape(1, -1, *offset.shape[2:]),
        weight.flatten(0, 1),
        stride=pair(stride),
        padding=pair(padding),
        dilation=pair(dilation),
        mask=None if mask is None else mask.reshape(1, -1, *mask.shape[2:]),
    )
    out = out.reshape(n, -1, *out.shape[2:])
    return out if bias is None else out + bias[:, None, None]


def results(function, inputs, probe=None, **kwargs):
    """The output, then the gradient of every input that is given."""
    inputs = leaves(inputs)
    out = function(**inputs, **kwargs)
    if probe is None:
        probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype)
        probe = probe.view(out.shape).cos()
    out.backward(probe)
    return [out.detach(), *(v.grad for v in inputs.values() if v is not None)]


def assert_equal(ours, theirs, tolerance=1e-9):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        scale = max(1, b.abs().max().item())
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)


@backends
@cases
@pytest.mark.parametrize('extras', ['mask+bias', 'mask', 'bias', ''])
def test_equals_folded_torchvision(backend, case, extras):
    inputs, geometry = make(
        case, masked='mask' in extras, biased='bias' in extras
    )
    assert_equal(
        results(contextual_deform_conv, inputs, backend=backend, **geometry),
        results(folded, inputs, **geometry),
    )


@cases
@pytest.mark.parametrize('numbers', [1, 300, 1500])
def test_slices_of_images_and_of_pixels(case, numbers, monkeypatch):
    inputs, geometry = make(case)
    whole = results(
        contextual_deform_conv, inputs, backend='reference', **geometry
    )
    monkeypatch.setattr(cpu, 'SLICE', numbers)
    assert_equal(
        results(contextual_deform_conv, inputs, backend='cpu', **geometry),
        whole,
    )


@backends
@pytest.mark.parametrize('case', ['depthwise', 'dense-strided'])
def test_whole_pixels_as_at_the_start_of_training(backend, case):
    """Zero offsets: positions on pixels and exactly on the border, where the
    derivative is that of the side torchvision takes."""
    inputs, geometry = make(case, spread=0)
    assert_equal(
        results(contextual_deform_conv, inputs, backend=backend, **geometry),
        results(folded, inputs, **geometry),
    )


@backends
@pytest.mark.parametrize('case', ['depthwise', 'dense'])
def test_offsets_far_outside(backend, case):
    inputs, geometry = make(case, spread=8)
    far = torch.rand_like(inputs['offset']) < 0.1
    inputs['offset'] = torch.where(far, 1e20, inputs['offset'])
    assert_equal(
        results(contextual_deform_conv, inputs, backend=backend, **geometry),
        results(folded, inputs, **geometry),
    )


@backends
def test_nan_offset_spoils_only_what_it_touches(backend):
    inputs, geometry = make('depthwise')
    with torch.no_grad():
        inputs['offset'][0, 0, 2, 3] = float('nan')
    out = contextual_deform_conv(**inputs, backend=backend, **geometry)
    assert out[0, :, 2, 3].isnan().all()
    assert out.isnan().sum() == out.shape[1]


@backends
@pytest.mark.parametrize('case', ['depthwise', 'dense-strided'])
def test_strided_inputs(backend, case):
    """channels_last and otherwise non-contiguous inputs and gradients."""
    inputs, geometry = make(case)

    def strided(function):
        def call(x, offset, weight, bias, mask, **kwargs):
            return function(
                x.contiguous(memory_format=torch.channels_last),
                offset.transpose(2, 3).contiguous().transpose(2, 3),
                weight.transpose(0, 4).contiguous().transpose(0, 4),
                bias,
                torch.stack([mask, mask], -1)[..., 0],
                **kwargs,
            )

        return call

    out = contextual_deform_conv(**inputs, **geometry)
    probe = torch.randn_like(out).expand(2, *out.shape)[0].transpose(2, 3)
    probe = probe.contiguous().transpose(2, 3)
    assert_equal(
        results(
            strided(contextual_deform_conv),
            inputs,
            probe,
            backend=backend,
            **geometry,
        ),
        results(folded, inputs, probe, **geometry),
    )


@backends
@pytest.mark.parametrize('case', ['depthwise-strided', 'grouped'])
def test_gradients_of_gradients(backend, case):
    inputs, geometry = make(case, spread=0.3)
    names = list(inputs)

    def function(*values):
        return contextual_deform_conv(
            **dict(zip(names, values)), backend=backend, **geometry
        )

    values = tuple(inputs.values())
    assert torch.autograd.gradcheck(function, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, values, fast_mode=True)


def test_gradients_of_inputs_that_depend_on_each_other():
    """Of any order: here the third."""
    x = torch.randn(1, 2, 3, 3, dtype=torch.double, requires_grad=True)
    offset = torch.full((1, 18, 3, 3), 0.3, dtype=torch.double)

    def gradient(x):
        weight = x[..., None][..., :1, 0].unflatten(2, (1, 3)).sin()
        weight = weight.expand(1, 2, 1, 3, 3)
        out = contextual_deform_conv(
            x, offset + 0.1 * x.mean(), weight, padding=1, backend='cpu'
        )
        return torch.autograd.grad(out.sin().sum(), x, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(gradient, x)


def count_calls(monkeypatch):
    calls, forward = [], cpu.forward
    monkeypatch.setattr(
        cpu, 'forward', lambda *args: calls.append(1) or forward(*args)
    )
    return calls


@pytest.mark.parametrize('case', ['depthwise', 'dense'])
def test_who_runs_on_a_cpu(case, monkeypatch):
    """Embedding bags, unless somebody looks through the operator."""
    inputs, geometry = make(case)
    calls = count_calls(monkeypatch)
    expected = contextual_deform_conv(**inputs, **geometry)
    assert calls == [1]
    with reference():
        torch.testing.assert_close(
            contextual_deform_conv(**inputs, **geometry), expected
        )

    def function(x, **options):
        return contextual_deform_conv(
            **{**inputs, 'x': x}, **geometry, **options
        )

    x, step = inputs['x'].detach(), torch.randn_like(inputs['x'])
    _, tangent = torch.func.jvp(function, (x,), (step,))
    torch.testing.assert_close(  # linear in x
        tangent, function(x + step) - function(x)
    )
    assert calls == [1] * 3
    with pytest.raises(ValueError, match="'cpu' cannot run.*forward-mode"):
        torch.func.jvp(lambda x: function(x, backend='cpu'), (x,), (step,))


@backends
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('case', ['depthwise', 'dense'])
def test_half_precision_accumulates_in_float32(backend, dtype, case):
    inputs, geometry = make(case, dtype=dtype)
    inputs['offset'] = inputs['offset'].detach().float()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = contextual_deform_conv(**inputs, backend=backend, **geometry)
    exact = contextual_deform_conv(
        **leaves(inputs, torch.float64), backend='reference', **geometry
    )
    assert out.dtype == dtype
    bound = torch.finfo(dtype).eps / 2 * exact.abs() * 1.01 + 1e-5
    assert ((out.double() - exact).abs() <= bound).all()


@backends
def test_mixed_dtypes_as_under_autocast(backend):
    inputs, geometry = make('depthwise', dtype=torch.float32)
    mixed = dict(inputs, x=inputs['x'].detach().bfloat16(), weight=None)
    mixed['weight'] = inputs['weight'].detach().bfloat16()
    mixed = {k: v.detach().requires_grad_() for k, v in mixed.items()}
    out = contextual_deform_conv(**mixed, backend=backend, **geometry)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    for value in mixed.values():
        assert value.grad.dtype == value.dtype


@backends
@pytest.mark.parametrize(
    'leaf_name', ['x', 'offset', 'weight', 'bias', 'mask']
)
@pytest.mark.parametrize('case', ['depthwise', 'dense'])
def test_one_gradient_at_a_time(backend, leaf_name, case):
    inputs, geometry = make(case)
    everything = results(
        contextual_deform_conv, inputs, backend=backend, **geometry
    )
    for name, value in inputs.items():
        value.requires_grad_(name == leaf_name)
    out = contextual_deform_conv(**inputs, backend=backend, **geometry)
    probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype)
    out.backward(probe.view(out.shape).cos())
    for (name, value), grad in zip(inputs.items(), everything[1:]):
        if name == leaf_name:
            torch.testing.assert_close(value.grad, grad)
        else:
            assert value.grad is None


@backends
@pytest.mark.parametrize('case', ['depthwise', 'grouped'])
def test_images_do_not_mix(backend, case):
    """Each image of a batch gives what it gives alone."""
    inputs, geometry = make(case)
    out = contextual_deform_conv(**inputs, backend=backend, **geometry)
    alone = {k: v[1:2] if k != 'bias' else v for k, v in inputs.items()}
    torch.testing.assert_close(
        contextual_deform_conv(**alone, backend=backend, **geometry),
        out[1:2],
    )


@backends
def test_equals_convolution_without_offsets(backend):
    inputs, geometry = make('dense', spread=0, masked=False)
    inputs['weight'] = inputs['weight'][:1].expand_as(inputs['weight'])
    torch.testing.assert_close(
        contextual_deform_conv(**inputs, backend=backend, **geometry),
        nn.functional.conv2d(
            inputs['x'], inputs['weight'][0], inputs['bias'], **geometry
        ),
    )


@pytest.mark.parametrize('case', [c for c in CASES if 'depthwise' not in c])
@pytest.mark.parametrize(
    'backend, delta',
    [
        ('per_image', 'own'),
        ('per_image', 'shared'),
        ('per_image', ''),
        ('sampled', 'shared'),
        ('sampled', ''),
    ],
)
def test_modulated_kernels(case, backend, delta):
    """Equal to a kernel for each image, with all gradients."""
    inputs, geometry = make(case, masked=delta != '', biased=delta != '')
    kernels = inputs.pop('weight').detach()
    inputs['weight'] = kernels[0]
    inputs['delta'] = None
    if delta:
        inputs['delta'] = kernels[:, :1] if delta == 'shared' else kernels

    def per_image(weight, delta, **others):
        kernel = weight.expand(kernels.shape)
        kernel = kernel if delta is None else kernel + delta
        return contextual_deform_conv(weight=kernel, **others)

    ours = results(modulated_deform_conv, inputs, backend=backend, **geometry)
    assert_equal(ours, results(per_image, inputs, **geometry))


def test_who_multiplies_samples(monkeypatch):
    """On a GPU kernels that are not depth-wise, if output channels share
    what differs from image to image."""
    module = sys.modules['mmctx.ops.contextual_deform_conv']
    x, weight = torch.zeros(2, 4, 5, 5), torch.zeros(6, 4, 3, 3)
    shared, own = torch.zeros(2, 1, 4, 3, 3), torch.zeros(2, 6, 4, 3, 3)
    assert 'GPU' in module._refuse_sampled(x, weight, shared)
    monkeypatch.setattr(module, 'refuse_triton', lambda **tensors: None)
    assert module._refuse_sampled(x, weight, shared) is None
    assert module._refuse_sampled(x, weight, None) is None
    assert 'output channel' in module._refuse_sampled(x, weight, own)
    assert 'depth-wise' in module._refuse_sampled(x, weight[:4, :1], None)
    with reference():
        assert 'reference' in module._refuse_sampled(x, weight, shared)


@pytest.mark.parametrize('masked', [True, False])
def test_gradients_of_gradients_of_samples(masked):
    inputs, geometry = make('dense-strided', spread=0.3, masked=masked)
    inputs['delta'] = inputs['weight'][:, :1].clone().detach()
    inputs['weight'] = inputs['weight'][0].clone()
    inputs = leaves(inputs)

    def function(*values):
        return modulated_deform_conv(
            **dict(zip(inputs, values)), backend='sampled', **geometry
        )

    values = tuple(inputs.values())
    assert torch.autograd.gradcheck(function, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, values, fast_mode=True)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(delta=torch.zeros(2, 3, 2, 3, 3)), r'delta must.*\(2, 6, 4, 3'),
        (dict(delta=torch.zeros(2, 1, 1, 3, 3)), r'delta must.*\(2, 1, 4, 3'),
        (dict(backend='triton'), "backend must be one of.*'triton'"),
    ],
)
def test_bad_arguments_of_modulated_kernels(options, message):
    inputs, geometry = make('dense')
    inputs['weight'] = inputs['weight'][0]
    with pytest.raises(ValueError, match=message):
        modulated_deform_conv(**inputs, **geometry, **options)


def test_operator_registration():
    """Fake and autograd implementations are consistent."""
    rows = torch.randn(2, 5, 6, 4, requires_grad=True)
    index = torch.randint(0, 20, (2, 3, 7), dtype=torch.int32)
    index[1] += 30
    corner = torch.randn(2, 3, 7, 4, requires_grad=True)
    for shape in (2, 4, 1, 1, 3), (2, 2, 3, 2, 3):
        weight = torch.randn(shape, requires_grad=True)
        torch.library.opcheck(
            torch.ops.mmctx.contextual_contract, (rows, index, corner, weight)
        )


@pytest.mark.parametrize(
    'case, backend', [('depthwise', None), ('one-tap', 'reference')]
)
def test_compiles_without_graph_breaks(case, backend):
    torch.compiler.reset()
    inputs, geometry = make(case)
    compiled = torch.compile(
        contextual_deform_conv, fullgraph=True, backend='eager'
    )
    assert_equal(
        results(compiled, inputs, backend=backend, **geometry),
        results(contextual_deform_conv, inputs, **geometry),
    )


class AsModule(nn.Module):
    def __init__(self, geometry):
        super().__init__()
        self.geometry = geometry

    def forward(self, *inputs):
        return contextual_deform_conv(*inputs, **self.geometry)


def test_onnx_equals_torch(tmp_path):
    """Exported once, run at another batch size."""
    import onnxruntime

    inputs, geometry = make('dense-strided', dtype=torch.float32)
    inputs = {k: v.detach() for k, v in inputs.items()}
    batch = {0: torch.export.Dim('batch', min=1, max=8)}
    shapes = [None if name == 'bias' else batch for name in inputs]
    path = tmp_path / 'operator.onnx'
    torch.onnx.export(
        AsModule(geometry).eval(),
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        dynamo=True,
        dynamic_shapes=(tuple(shapes),),
        verbose=False,
    )
    fewer = {k: v if k == 'bias' else v[:2] for k, v in inputs.items()}
    (out,) = onnxruntime.InferenceSession(str(path)).run(
        None, {k: v.numpy() for k, v in fewer.items()}
    )
    torch.testing.assert_close(
        torch.from_numpy(out),
        contextual_deform_conv(**fewer, **geometry),
        rtol=1e-4,
        atol=1e-5,
    )


@backends
@pytest.mark.parametrize('case', ['depthwise', 'grouped'])
def test_empty_batch(backend, case):
    inputs, geometry = make(case)
    none = {k: v if k == 'bias' else v[:0] for k, v in inputs.items()}
    out, *grads = results(
        contextual_deform_conv, none, backend=backend, **geometry
    )
    assert out.shape[0] == 0
    assert all(grad.numel() == 0 or not grad.any() for grad in grads)


@backends
@pytest.mark.parametrize('case', ['depthwise-strided', 'grouped'])
def test_meta_tensors(backend, case):
    inputs, geometry = make(case)
    expected = contextual_deform_conv(**inputs, backend=backend, **geometry)
    meta = {k: v.to('meta') for k, v in inputs.items()}
    out = contextual_deform_conv(**meta, backend=backend, **geometry)
    assert out.is_meta and out.shape == expected.shape
    assert out.stride() == expected.stride()


@backends
def test_repeats_are_bit_equal_and_leave_inputs_alone(backend):
    inputs, geometry = make('depthwise', dtype=torch.float32)
    copies = {k: v.detach().clone() for k, v in inputs.items()}
    first, second = (
        results(contextual_deform_conv, inputs, backend=backend, **geometry)
        for _ in range(2)
    )
    assert all(map(torch.equal, first, second))
    assert all(torch.equal(copies[k], v) for k, v in inputs.items())


def bad(**changes):
    shapes = dict(
        x=(2, 4, 5, 6),
        offset=(2, 18, 5, 6),
        weight=(2, 4, 1, 3, 3),
        bias=(4,),
        mask=(2, 9, 5, 6),
    )
    kwargs = {k: v for k, v in changes.items() if k not in shapes}
    shapes.update({k: v for k, v in changes.items() if k in shapes})
    inputs = {k: torch.zeros(v) for k, v in shapes.items()}
    return {**inputs, 'padding': 1, **kwargs}


def test_the_good_call_that_bad_ones_start_from():
    assert contextual_deform_conv(**bad()).shape == (2, 4, 5, 6)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(x=(4, 5, 6)), 'x must have 4 dimensions'),
        (dict(weight=(4, 1, 3, 3)), 'weight must have 5 dimensions'),
        (dict(bias=(1, 4)), 'bias must have 1 dim'),
        (dict(weight=(1, 4, 1, 3, 3)), 'each of the 2 images.*expand'),
        (dict(weight=(2, 4, 3, 3, 3)), 'third size 3 does not divide the 4'),
        (dict(weight=(2, 3, 2, 3, 3)), 'The 2 groups'),
        (dict(offset=(2, 9, 5, 6)), r'offset must.*\(2, 18, 5, 6\)'),
        (dict(offset=(2, 18, 6, 5)), r'offset must.*\(2, 18, 5, 6\)'),
        (dict(mask=(2, 18, 5, 6)), r'mask must.*\(2, 9, 5, 6\)'),
        (dict(bias=(3,)), r'bias must.*\(4,\)'),
        (dict(stride=0), 'stride must be an int of at least 1'),
        (dict(padding=-1), 'padding must be an int of at least 0'),
        (dict(dilation=(1, 1, 1)), r'dilation must.*\(1, 1, 1\)'),
        (dict(stride=1.0), 'stride must be an int'),
        (dict(dilation=4), 'does not fit into a feature map'),
        (dict(backend='cuda'), r"backend must be one of.*'cuda'"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        contextual_deform_conv(**bad(**changes))


@pytest.mark.parametrize('name', ['x', 'offset', 'weight', 'bias', 'mask'])
def test_bad_dtype(name):
    inputs = bad()
    inputs[name] = inputs[name].int()
    with pytest.raises(TypeError, match=f'{name} must be floating point'):
        contextual_deform_conv(**inputs)
