"""What every backbone promises, whatever its family."""

import copy
import math
import os
import pickle
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from torch import nn

from mmctx.models import backbones
from mmctx.ops import reference
from tests.helpers.backbones import (
    TINY,
    WITHOUT_BATCH_NORM,
    build_tiny,
    class_of,
)

pytestmark = pytest.mark.parametrize('name', sorted(TINY))

STRIDES = (4, 8, 16, 32)
#: What a backbone freezes where only a classifier's loss would reach it.
FROZEN_IN_DETECTION = (
    'contextualizing.classify.',
    'contextualizing.log_scale',
)

#: Options of what inductor compiles here, one network of each class. Of
#: ConTNet it is the first stage, whose blocks the others repeat: simplifying
#: the sizes of all windows takes four minutes.
WITH_INDUCTOR = {
    'CoTNet': {},
    'CoTNeXt': {},
    'SECoTNetD': {},
    'CoaT': {},
    'Container': {},
    'ConTNet': dict(out_indices=(0,)),
    'ContextualConvNeXt': {},
    'ContextualResNet': {},
    'SixthNet': {},
}

#: Two heights and one width. ConTNet's hold several whole windows: single ones
#: and those that the border cuts off are other operators, and other graphs.
SIZES_TO_COMPILE = {
    '': ((64, 96), 64),
    'ConTNet': ((448, 672), 224),
    'ConTNet relative': ((640, 1280), 64),
}


def image(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def loss_of(maps):
    return sum((m * torch.linspace(-1, 1, m.numel()).view_as(m)).sum()
               for m in maps)  # fmt: skip


def test_every_exported_backbone_is_covered(name):
    covered = {class_of(key) for key in TINY}
    assert covered == {*backbones.__all__, 'SixthNet'}


@pytest.mark.parametrize(
    'size', [(32, 32), (33, 47), (64, 96), (127, 65), (224, 224)]
)
def test_maps_of_any_size(name, size):
    model = build_tiny(name).eval()
    with torch.no_grad():
        maps = model(image(2, 3, *size))
    assert isinstance(maps, tuple)
    assert model.out_strides == STRIDES
    for m, channels, stride in zip(maps, model.out_channels, STRIDES):
        expected = tuple(math.ceil(side / stride) for side in size)
        assert m.shape == (2, channels, *expected)
        assert m.isfinite().all()


def test_detection_size(name):
    model = build_tiny(name).eval()
    with torch.no_grad():
        maps = model(image(1, 3, 800, 1333))
    assert [tuple(m.shape[2:]) for m in maps] == [
        (200, 334), (100, 167), (50, 84), (25, 42)
    ]  # fmt: skip


@pytest.mark.parametrize(
    'out_indices, indices',
    [(0, (0,)), (3, (3,)), (-1, (3,)), ((0, 2), (0, 2)), ([1, -1], (1, 3))],
)
def test_out_indices(name, out_indices, indices):
    """Maps are those of the full network, and nothing is unused."""
    model = build_tiny(name, out_indices=out_indices)
    full = build_tiny(name)
    missing, unexpected = full.load_state_dict(
        model.state_dict(), strict=False
    )
    assert not unexpected
    assert all(
        k.startswith(('parallel.', 'contextualizing.'))
        or int(k.split('.')[1]) > indices[-1]
        for k in missing
    ), 'only what is behind the last output may be left out'
    x = image(2, 3, 64, 64)
    maps = model.eval()(x)
    assert model.out_channels == tuple(full.out_channels[i] for i in indices)
    for m, i in zip(maps, indices):
        torch.testing.assert_close(m, full.eval()(x)[i])

    loss_of(model.train()(x)).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
        else:
            assert key.startswith(FROZEN_IN_DETECTION), key


@pytest.mark.parametrize(
    'out_indices', [4, -5, (), (0, 0), (2, 1), 'all', None]
)
def test_wrong_out_indices(name, out_indices):
    with pytest.raises(ValueError, match='out_indices must be'):
        build_tiny(name, out_indices=out_indices)


@pytest.mark.parametrize('inherited', ['num_stages', 'style', 'embed_dim'])
def test_arguments_of_another_backbone(name, inherited):
    """Those of a stock config's backbone, merged with ours."""
    kind = class_of(name)
    message = (
        f"{kind} got an unexpected keyword argument '{inherited}', 'x'.*"
        rf"backbone=dict\(_delete_=True, type='{kind}', ...\)"
    )
    with pytest.raises(TypeError, match=message):
        build_tiny(name, **{inherited: 4}, x=1)


@pytest.mark.parametrize('argument', ['stage_channels', 'depths'])
def test_arguments_of_base_classes_are_not_those_of_networks(name, argument):
    with pytest.raises(TypeError, match=f"argument '{argument}'.*_delete_"):
        build_tiny(name, **{argument: (1, 1, 1, 1)})


def test_misspelt_arguments(name):
    with pytest.raises(TypeError, match="Did you mean 'frozen_stages'"):
        build_tiny(name, frozen_stage=1)


def test_nothing_to_delete(name):
    with pytest.raises(TypeError, match='got _delete_.* Remove it'):
        build_tiny(name, _delete_=True)


@pytest.mark.parametrize(
    'norm_cfg, reason',
    [
        ('BN', 'it is not a dict with a type'),
        (dict(requires_grad=False), 'it is not a dict with a type'),
        (dict(type='BatchNorm'), "there is no layer 'BatchNorm'"),
        (dict(type='IN', affine=True), 'feature maps of one pixel'),
        (dict(type='IN'), 'feature maps of one pixel'),
        (dict(type='BN1d'), '2D or 3D input|another norm'),
        (dict(type='BN', momentun=0.1), "argument 'momentun'"),
        (dict(type='GN'), 'an argument is missing'),
        (dict(type='LN', epsilon=1e-6), "argument 'epsilon'"),
    ],
)
def test_wrong_norm_cfg(name, norm_cfg, reason):
    message = rf'{class_of(name)} norm_cfg must be .*type=.*, got .*: .*'
    with pytest.raises(ValueError, match=message + f'({reason})'):
        build_tiny(name, norm_cfg=norm_cfg)


def test_norms_of_the_other_kind(name):
    kind = 'BN' if class_of(name) in WITHOUT_BATCH_NORM else 'LN'
    with pytest.raises(ValueError, match=f'norm_cfg must be .*{kind}.*: '):
        build_tiny(name, norm_cfg=dict(type=kind))


def test_norms_without_weights(name):
    norm_cfg = dict(type='BN', affine=False)
    if class_of(name) in WITHOUT_BATCH_NORM:
        norm_cfg = dict(type='LN', elementwise_affine=False)
    model, x = build_tiny(name, norm_cfg=norm_cfg), image(2, 3, 32, 32)
    loss_of(model.train()(x)).backward()
    with torch.no_grad():
        fast = model.eval()(x)
        with reference():
            torch.testing.assert_close(model(x), fast, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 4])
def test_frozen_stages(name, frozen_stages):
    model = build_tiny(name, frozen_stages=frozen_stages).train()
    frozen = [model.stem, *model.stages][: frozen_stages + 1]
    free = [model.stem, *model.stages][frozen_stages + 1 :]
    before = copy.deepcopy(model.state_dict())
    x = image(2, 3, 64, 64)
    if frozen_stages < 4:
        loss_of(model(x)).backward()
    else:
        model(x)
    for part in frozen:
        assert not any(m.training for m in part.modules())
        assert not any(p.requires_grad for p in part.parameters())
    for part in free:
        assert all(m.training for m in part.modules())
        assert all(p.grad is not None for p in part.parameters())
    frozen_keys = ['stem.'] * (frozen_stages >= 0) + [
        f'stages.{i}.' for i in range(frozen_stages)
    ]
    for key, value in model.state_dict().items():
        if key.startswith(tuple(frozen_keys)):
            assert torch.equal(value, before[key]), key


@pytest.mark.parametrize('frozen_stages', [-2, 5, 'stem'])
def test_wrong_frozen_stages(name, frozen_stages):
    with pytest.raises(ValueError, match='frozen_stages must be'):
        build_tiny(name, frozen_stages=frozen_stages)


def test_norm_eval(name):
    model = build_tiny(name, norm_eval=True).train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert bool(norms) != (class_of(name) in WITHOUT_BATCH_NORM)
    assert not any(m.training for m in norms)
    model(image(1, 3, 32, 32))  # a batch of one has no statistics to take
    assert all(m.num_batches_tracked == 0 for m in norms)


def test_with_cp_has_the_same_gradients(name):
    plain = build_tiny(name).double()
    thrifty = build_tiny(name, with_cp=True).double()
    thrifty.load_state_dict(plain.state_dict())
    for model in (plain, thrifty):
        x = image(2, 3, 48, 40, dtype=torch.double).requires_grad_()
        loss_of(model(x)).backward()
    for (key, a), b in zip(plain.named_parameters(), thrifty.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=key)


def test_drop_path(name):
    model = build_tiny(name, drop_path_rate=0.9)
    plain = build_tiny(name)
    plain.load_state_dict(model.state_dict())
    x = image(2, 3, 64, 64)
    for a, b in zip(model.eval()(x), plain.eval()(x)):
        assert torch.equal(a, b)
    torch.manual_seed(0)
    for module in (*model.modules(), *plain.modules()):
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    different = [
        not torch.allclose(a, b)
        for a, b in zip(model.train()(x), plain.train()(x))
    ]
    assert different[-1]


@pytest.mark.parametrize('channels', [1, 4])
def test_in_channels(name, channels):
    model = build_tiny(name, in_channels=channels).eval()
    assert len(model(image(1, channels, 32, 32))) == 4


@pytest.mark.parametrize(
    'x, error, message',
    [
        (torch.zeros(3, 64, 64), ValueError, r'\(N, 3, H, W\).*unsqueeze'),
        (torch.zeros(1, 4, 64, 64), ValueError, r'\(N, 3, H, W\)'),
        (torch.zeros(1, 3, 31, 64), ValueError, 'at least 32 x 32.*31 x 64'),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), TypeError, 'uint8'),
        ([torch.zeros(3, 64, 64)], TypeError, 'list'),
    ],
)
def test_bad_input(name, x, error, message):
    with pytest.raises(error, match=message):
        build_tiny(name)(x)


def test_wrong_in_channels(name):
    with pytest.raises(ValueError, match='in_channels must be'):
        build_tiny(name, in_channels=0)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(name, dtype):
    model = build_tiny(name)
    x = image(2, 3, 64, 64)
    with torch.autocast('cpu', dtype=dtype):
        maps = model(x)
    loss_of([m.float() for m in maps]).backward()
    assert all(m.isfinite().all() for m in maps)
    learned = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad.isfinite().all() for p in learned)
    model.eval()
    with torch.no_grad():
        exact = model(x)
        with torch.autocast('cpu', dtype=dtype):
            rounded = model(x)
    for a, b in zip(exact, rounded):
        assert (a - b).norm() / a.norm() < 0.05


def test_half_precision_parameters(name):
    model = build_tiny(name).bfloat16().eval()
    assert model(image(1, 3, 32, 32).bfloat16())[-1].dtype == torch.bfloat16


def test_memory_formats_agree(name):
    model = build_tiny(name).eval()
    x = image(2, 3, 48, 64)
    with torch.no_grad():
        expected = model(x)
        model = model.to(memory_format=torch.channels_last)
        outputs = model(x.to(memory_format=torch.channels_last))
        strided = model(image(2, 3, 48, 128)[..., ::2])
        assert len(strided) == 4
    for a, b in zip(expected, outputs):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        # RoIAlign of mmcv takes all memory for such.
        assert a.is_contiguous() and b.is_contiguous()


def test_seeded_runs_are_identical(name):
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        model = build_tiny(name, drop_path_rate=0.5)
        loss_of(model(image(2, 3, 64, 64))).backward()
        results.append(
            [p.grad.clone() for p in model.parameters() if p.requires_grad]
        )
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_layer_depth(name):
    model = build_tiny(name)
    depths, counts = zip(
        *(
            model.get_layer_depth(f'backbone.{key}', 'backbone.')
            for key, _ in model.named_parameters()
        )
    )
    (count,) = set(counts)
    assert depths[0] == 0 and max(depths) == count - 2
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (
        count - 1,
        count,
    )


def test_copies_and_pickles(name):
    """EMA hooks copy models; spawned workers pickle them."""
    model = build_tiny(name).eval()
    x = image(1, 3, 32, 32)
    expected = model(x)[-1]
    assert torch.equal(copy.deepcopy(model)(x)[-1], expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x)[-1], expected)


def test_init_weights_keeps_the_constructor_values(name):
    model = build_tiny(name)
    before = copy.deepcopy(model.state_dict())
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def skip_without_compiler():
    compiler = os.environ.get('CXX', 'g++')
    header = Path(sysconfig.get_path('include'), 'Python.h')
    if shutil.which(compiler) is None or not header.is_file():
        pytest.skip(f'inductor needs {compiler} and {header} on a CPU')


def check_compiled(name, compiler, **options):
    """One graph serves all heights."""
    torch._dynamo.reset()
    graphs = []
    compiler = torch._dynamo.lookup_backend(compiler)

    def count(graph, inputs):
        graphs.append(graph)
        # Code without vector instructions takes less time to compile.
        with torch._inductor.config.patch({'cpp.simdlen': 1}):
            return compiler(graph, inputs)

    model = build_tiny(name, **options).eval()
    compiled = torch.compile(model, fullgraph=True, backend=count)
    heights, width = SIZES_TO_COMPILE.get(name, SIZES_TO_COMPILE[''])
    with torch.no_grad():
        for height in heights:
            x = image(2, 3, height, width)
            torch._dynamo.mark_dynamic(x, 2)
            for a, b in zip(compiled(x), model(x)):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1


def test_compiles_without_graph_breaks(name):
    """With inductor; what it does not compile whole runs as it was traced."""
    assert {*WITH_INDUCTOR} == {class_of(key) for key in TINY}
    if WITH_INDUCTOR.get(name) != {}:
        check_compiled(name, 'eager')
    if name in WITH_INDUCTOR:
        skip_without_compiler()
        check_compiled(name, 'inductor', **WITH_INDUCTOR[name])


def check_exported(name, path, size=(64, 48), **options):
    """Exported once, run at another batch size."""
    import onnxruntime

    model = build_tiny(name, **options).eval()
    batch = torch.export.Dim('batch', min=1, max=8)
    torch.onnx.export(
        model,
        (image(2, 3, *size),),
        path,
        dynamo=True,
        dynamic_shapes=({0: batch},),
        verbose=False,
        # Tracing takes samples apart; to fold the pieces takes minutes.
        optimize=not name.startswith('Contextual'),
    )
    session = onnxruntime.InferenceSession(str(path))
    x = image(3, 3, *size)
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for a, b in zip(outputs, model(x)):
        torch.testing.assert_close(
            torch.from_numpy(a), b, rtol=1e-3, atol=1e-5
        )


def test_onnx_equals_torch(name, tmp_path):
    check_exported(name, tmp_path / 'model.onnx')
