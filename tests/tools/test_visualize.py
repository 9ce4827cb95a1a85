"""Pictures of models of every task, of an image with odd sides."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement

from mmctx.engine import cli, command
from tests.helpers.scripts import ROOT, load_script

visualize = load_script('tools/visualize.py')
CLASSIFIER = 'ctx-resnet14_digit-scenes'
#: A layer of each model, and its feature maps.
LAYERS = {
    CLASSIFIER: ('backbone.stages.1', 1),
    'mask-rcnn_coat-lite-slim_fpn_digit-scenes': ('neck', 4),
    'pspnet_contnet-slim_digit-scenes': ('backbone.stages.0.0.ste.1', 1),
}


@pytest.fixture(scope='module')
def arguments(tmp_path_factory):
    """A function from a model's name to arguments: an untrained checkpoint,
    a picture of 83 x 61 pixels, a folder."""
    folder = tmp_path_factory.mktemp('visualize')
    pixels = np.random.default_rng(0).integers(0, 255, (61, 83, 3))
    cv2.imwrite(str(folder / 'picture.png'), pixels)

    def build(name, *others):
        config = str(ROOT / f'configs/digit_scenes/{name}.py')
        checkpoint = folder / f'{name}.pth'
        if not checkpoint.exists():
            cfg = cli.load_config(config)
            init_default_scope(cfg.default_scope)
            torch.save(MODELS.build(cfg.model).state_dict(), checkpoint)
        picture = str(folder / 'picture.png')
        out = str(folder / name)
        return [config, str(checkpoint), picture, '--out', out, *others]

    return build


@pytest.mark.parametrize('name', LAYERS)
def test_pictures(name, arguments, monkeypatch):
    drawn = {}

    def draw(rows, picture, size, file, at):
        drawn[file.name] = rows, picture, size, at

    monkeypatch.setattr(visualize.vis, 'draw_panels', draw)
    layer, count = LAYERS[name]
    argv = arguments(name, '--at', '3,4', '82,60')
    assert cli.run(visualize.main, argv) == 0
    assert set(drawn) == {'context_3_4.png', 'context_82_60.png'}
    for rows, picture, size, _ in drawn.values():
        assert len(rows) >= 3
        assert all(a <= b for a, b in zip(picture.shape, size))
    _, picture, _, (x, y) = drawn['context_3_4.png']
    assert x / picture.shape[1] == pytest.approx(3.5 / 83)
    assert y / picture.shape[0] == pytest.approx(4.5 / 61)
    drawn.clear()
    assert cli.run(visualize.main, arguments(name, '--layer', layer)) == 0
    rows, *_ = drawn.pop(f'{layer}.png')
    assert len(rows) == count
    inside = {name for rows, *_ in drawn.values() for name, _ in rows}
    assert all(n.startswith(layer) for n in inside - {'all layers'})
    assert bool(inside) == (layer != 'neck')


def test_written_files(arguments, capsys):
    argv = arguments(CLASSIFIER, '--cfg-options', 'randomness.seed=0')
    assert command.main(['visualize', *argv]) == 0
    files = capsys.readouterr().out.split()[-2:]
    assert [f.rsplit('/')[-1] for f in files] == [
        'context_41_30.png',
        'classes.png',
    ]
    assert all(cv2.imread(file).std() > 0 for file in files)


@pytest.mark.parametrize(
    'options, message',
    [
        (['--at', '83,5'], '--at 83,5 is not in the picture of 83 x 61'),
        (['--at', '5'], "invalid place value: '5'"),
        (['--layer', 'backbone.stage.2'], "mean 'backbone.stages.2'"),
        (['--layer', 'backbone.stages'], 'was not called'),
        (['--layer', 'head'], 'returned no feature map'),
    ],
)
def test_what_cannot_be_drawn(options, message, arguments, capsys):
    argv = arguments(CLASSIFIER, *options)
    try:
        assert cli.run(visualize.main, argv) == 2
    except SystemExit as error:
        assert error.code == 2
    assert message in capsys.readouterr().err


def test_files_that_cannot_be_used(arguments, tmp_path, capsys):
    argv = arguments(CLASSIFIER)
    for place, text in ((1, 'does not fit'), (2, 'not an image')):
        broken = list(argv)
        broken[place] = str(tmp_path / f'file{place}')
        assert cli.run(visualize.main, broken) == 2
        assert 'does not exist' in capsys.readouterr().err
        torch.save(dict(weight=torch.zeros(1)), broken[place])
        assert cli.run(visualize.main, broken) == 2
        assert text in capsys.readouterr().err
    argv = arguments('resnet18_digit-scenes')
    assert cli.run(visualize.main, argv) == 2
    assert 'no context layer' in capsys.readouterr().err


@pytest.mark.parametrize(
    'meta, shape, expected',
    [
        ({}, (61, 83), (10.5, 20.5)),
        (dict(scale_factor=(2.0, 0.5)), (30, 166), (21, 10.25)),
        # ResizeEdge and CenterCrop: 8 columns less on both sides
        (dict(scale_factor=(1.0, 1.0)), (61, 67), (2.5, 20.5)),
        # Pad
        ({}, (64, 96), (10.5, 20.5)),
    ],
)
def test_places_in_the_input(meta, shape, expected):
    sample = make_sample(meta, shape)
    where, at = visualize.in_input((10, 20), sample)
    assert where == '10,20' and at == pytest.approx(expected)


def test_default_and_lost_places():
    sample = make_sample({}, (61, 43))
    assert visualize.in_input(None, sample) == ('41,30', [21.5, 30.5])
    with pytest.raises(cli.UserError, match='crops --at 10,20 away'):
        visualize.in_input((10, 20), sample)


def make_sample(meta, shape):
    """Of a picture of 83 x 61 pixels."""
    packed = BaseDataElement(metainfo=dict(ori_shape=(61, 83), **meta))
    return dict(inputs=torch.zeros(3, *shape), data_samples=packed)
