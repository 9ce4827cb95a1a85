"""Files of backbones, classifiers and segmentors, in three formats."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mmctx
from mmctx.engine import export
from mmctx.engine.export.pooling import SizeFreePooling
from tests.helpers import backbones
from tests.helpers.backbones import TINY
from tests.helpers.scripts import load_script

table = load_script('tools/analysis_tools/export_table.py')

#: Padded patches, padded windows, and pooling; export_table.py, a script,
#: takes all classes, with all stages.
CLASSES = ('Container', 'ConTNet', 'SECoTNetD')
FACTS = dict(task='feature maps', classes=json.dumps(['a', 'b']))


def build_tiny(name, **options):
    torch.manual_seed(0)
    model = backbones.build_tiny(name, **options)
    table.leave_constants(model)
    return model


def image(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator)


def check_maps(run, model):
    """Right at all sizes, in all batches; ``run`` may not refuse one."""
    for n in table.BATCHES:
        for size in table.SIZES:
            x = image(n, 3, *size)
            with torch.no_grad():
                actual, expected = run(x), model(x)
            assert len(actual) == len(expected)
            for a, b in zip(actual, expected):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('name', sorted(TINY))
def test_traced_modules_take_any_size(name):
    """Backbones themselves, without what `mmctx export` adds."""
    model = build_tiny(name).eval()
    traced = torch.jit.trace(model, image(2, 3, 70, 90), check_trace=False)
    check_maps(traced, model)


@pytest.mark.parametrize('to', ['onnx', 'torch_export'])
@pytest.mark.parametrize('name', CLASSES)
def test_files_of_first_stages_take_any_size(name, to, tmp_path):
    """Of the first stage alone: later ones repeat its operators."""
    pytest.importorskip('onnxruntime')
    model = build_tiny(name, out_indices=(0,)).eval()
    path = tmp_path / f'model{export.FORMATS[to]}'
    export.save(export.build(model), path, to, (64, 64), True, FACTS)
    run, metadata = export.read(path)
    assert metadata == FACTS
    check_maps(run, model)


def test_a_traced_module_of_one_size_refuses_others(tmp_path):
    model = build_tiny('Container').eval()
    path = tmp_path / 'model.pt'
    network = export.build(model)
    export.save(network, path, 'torchscript', (64, 96), False, FACTS)
    run, metadata = export.read(path)
    assert metadata == FACTS
    x = image(1, 3, 64, 96)
    torch.testing.assert_close(run(x)[-1], model(x)[-1], rtol=1e-3, atol=1e-4)
    with pytest.raises(Exception, match='size in the metadata'):
        run(image(1, 3, 96, 64))


@pytest.mark.parametrize(
    'name',
    [
        'cotnet50',
        'contnet_ti',
        'coat_lite_tiny',
        'container_light',
        'ctx_resnet50',
    ],
)
def test_classifiers(name, tmp_path):
    sizes = dict(
        cotnet50=dict(depth=14, base_channels=16),
        ctx_resnet50=dict(depth=14, base_channels=16),
    )
    model = mmctx.get_model(name, num_classes=20, **sizes.get(name, {})).eval()
    table.leave_constants(model)
    network = export.build(model)
    path = tmp_path / 'model.pt'
    export.save(network, path, 'torchscript', (64, 96), True, {})
    comparisons = export.check_file(model, network, path, (64, 96), True)
    assert len({c.shape for c in comparisons}) == 5
    scores = export.read(path)[0](image(2, 3, 64, 64))[0]
    torch.testing.assert_close(scores.sum(1), torch.ones(2))


def test_pixels_are_normalised_in_the_file(tmp_path):
    from mmpretrain.models.utils import ClsDataPreprocessor

    model = mmctx.get_model('coat_lite_tiny', num_classes=5).eval()
    mean, std = [123.0, 116.0, 103.0], [58.0, 57.0, 56.0]
    model.data_preprocessor = ClsDataPreprocessor(mean, std, to_rgb=True)
    pixels = dict(mean=mean, std=std, order='bgr', swap=True)
    network = export.build(model, pixels=pixels)
    path = tmp_path / 'model.pt'
    export.save(network, path, 'torchscript', (64, 64), True, {})
    export.check_file(model, network, path, (64, 64), True)
    bgr = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    normal = (bgr.flip(1) - torch.tensor(mean)[:, None, None]) / torch.tensor(
        std
    )[:, None, None]
    expected = model(normal).softmax(1)
    torch.testing.assert_close(export.read(path)[0](bgr)[0], expected)


def test_half_precision(tmp_path):
    model = build_tiny('CoTNet').eval()
    network = export.build(model, half=True)
    assert next(network.parameters()).dtype == torch.float16
    assert next(model.parameters()).dtype == torch.float32
    path = tmp_path / 'model.pt'
    export.save(network, path, 'torchscript', (64, 64), False, {})
    comparisons = export.check_file(model, network, path, (64, 64), False)
    assert 1e-5 < max(c.difference for c in comparisons) < 5e-2


def test_a_file_that_differs_is_refused(tmp_path):
    model = build_tiny('Container').eval()
    path = tmp_path / 'model.pt'
    network = export.build(model)
    export.save(network, path, 'torchscript', (64, 64), True, {})
    nn.init.normal_(model.stages[3][0].feed.fc2.bias)
    with pytest.raises(export.Refusal, match='differs by .* at 1 x 64 x 64'):
        export.check_file(model, network, path, (64, 64), True)


def test_a_size_that_the_file_refuses_is_named(tmp_path):
    model = build_tiny('Container').eval()
    path = tmp_path / 'model.pt'
    network = export.build(model)
    export.save(network, path, 'torchscript', (64, 64), False, {})
    message = 'right at 1 x 64 x 64, 2 x 64 x 64; refused at 1 x 39 x 81'
    with pytest.raises(export.Refusal, match=message):
        export.check_file(model, network, path, (64, 64), True)


def test_a_model_without_numbers_is_refused(tmp_path):
    model = build_tiny('Container').eval()
    nn.init.constant_(model.stages[0][0].feed.fc2.bias, torch.nan)
    path = tmp_path / 'model.pt'
    network = export.build(model)
    export.save(network, path, 'torchscript', (64, 64), False, {})
    with pytest.raises(export.Refusal, match='checkpoint'):
        export.check_file(model, network, path, (64, 64), False)


@pytest.mark.parametrize('size', [(7, 9), (8, 12), (13, 6), (1, 1)])
@pytest.mark.parametrize(
    'pool',
    [
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(1, 2),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.MaxPool2d(3, 1, 1),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.AdaptiveAvgPool2d(6),
    ],
    ids=str,
)
def test_pooling_stands_in(pool, size):
    x = torch.randn(2, 3, *size, dtype=torch.double)
    with SizeFreePooling():
        actual = pool(x)
        functional = F.max_pool2d(x, 1, stride=2)
    torch.testing.assert_close(actual, pool(x))
    assert torch.equal(functional, x[..., ::2, ::2])


def test_files_of_one_size_hold_what_runtimes_fuse(tmp_path):
    onnx = pytest.importorskip('onnx')
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1),
    ).eval()  # fmt: skip
    table.leave_constants(model)
    network, path = export.build(model), tmp_path / 'model.onnx'
    export.save(network, path, 'onnx', (32, 40), False, {})
    export.check_file(model, network, path, (32, 40), False)
    nodes = [node.op_type for node in onnx.load(str(path)).graph.node]
    # The norm is in the convolution; iterating over the batch is a slice.
    assert nodes[:4] == ['Conv', 'Relu', 'MaxPool', 'ReduceMean']


def test_onnx_is_an_extra(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'onnxruntime', None)
    with pytest.raises(export.Refusal, match=r'install "mmctx\[export\]"'):
        export.require_onnx()


def test_quantised_layers_are_for_torchscript_alone(tmp_path):
    model = torch.ao.quantization.quantize_dynamic(
        build_tiny('CoaT').eval(), {nn.Linear}, dtype=torch.qint8
    )
    network = export.build(model)
    with pytest.raises(export.Refusal, match='before it is quantised'):
        path = tmp_path / 'model.onnx'
        export.save(network, path, 'onnx', (64, 64), False, {})
    path = tmp_path / 'model.pt'
    export.save(network, path, 'torchscript', (64, 64), True, {})
    export.check_file(model, network, path, (64, 64), True)
