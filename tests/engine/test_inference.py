"""Predictions for pictures and videos."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

import mmctx
from mmctx.engine import cli
from tests.helpers.photographs import write_photographs
from tests.helpers.scripts import load_script

infer = load_script('tools/infer.py')
MODELS = {
    'classifier': 'cotnet-14_digit-scenes',
    'segmentor': 'pspnet_contnet-slim_digit-scenes',
    'detector': 'mask-rcnn_coat-lite-slim_fpn_digit-scenes',
}


def make(kind):
    return mmctx.Inferencer(mmctx.get_config(MODELS[kind]), device='cpu')


@pytest.mark.parametrize('kind', MODELS)
def test_photographs_of_all_sizes_in_one_batch(kind, tmp_path):
    sizes = write_photographs(tmp_path / 'in')
    model = make(kind)
    predictions = list(
        model(
            tmp_path / 'in', batch_size=4, out_dir=tmp_path / 'out',
            score_thr=0.0,
        )
    )  # fmt: skip
    assert [p['file'].split('/')[-1] for p in predictions] == sorted(sizes)
    drawn = {p.name: Image.open(p).size for p in (tmp_path / 'out').iterdir()}
    if kind != 'classifier':  # whose small pictures are drawn larger
        assert drawn == sizes
    assert drawn.keys() == sizes.keys()
    json.dumps(predictions)
    alone = next(model(tmp_path / 'in' / 'colour.png', score_thr=0.0))
    (together,) = (p for p in predictions if 'colour' in p['file'])
    assert alone.keys() == together.keys()
    if kind == 'segmentor':
        assert sum(alone['shares'].values()) == pytest.approx(1)
        assert alone['shares'] == pytest.approx(together['shares'])
        return
    assert len(alone['classes']) == len(alone['scores']) > 0
    if kind == 'detector':
        mask = rle.decode(alone['masks'][0])
        assert mask.shape == sizes['colour.png'][::-1]
        x1, y1, x2, y2 = alone['boxes'][0]
        assert 0 <= x1 <= x2 <= 160 and 0 <= y1 <= y2 <= 120
    else:
        assert alone['scores'] == sorted(alone['scores'], reverse=True)
        assert alone['scores'] == pytest.approx(together['scores'], rel=1e-4)


def write_video(path, frames=5):
    codec = cv2.VideoWriter_fourcc(*'mp4v')
    video = cv2.VideoWriter(str(path), codec, 10, (96, 64))
    for i in range(frames):
        video.write(np.full((64, 96, 3), 40 * i, np.uint8))
    video.release()


def test_video(tmp_path):
    write_video(tmp_path / 'film.mp4')
    predictions = list(
        make('segmentor')(
            str(tmp_path / 'film.mp4'), batch_size=2, out_dir=tmp_path / 'out'
        )
    )
    assert [p['frame'] for p in predictions] == [0, 1, 2, 3, 4]
    drawn = cv2.VideoCapture(str(tmp_path / 'out/film.mp4'))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert drawn.get(cv2.CAP_PROP_FPS) == 10


def test_command(tmp_path, monkeypatch):
    """Patterns, pictures of one name, and class names of the checkpoint."""
    monkeypatch.chdir(tmp_path)
    write_photographs(tmp_path / 'a')
    write_photographs(tmp_path / 'b')
    argv = [MODELS['classifier'], 'a/*.png', 'b', '--out-dir', 'out']
    assert cli.run(infer.main, [*argv, '--device', 'cpu']) == 0
    predictions = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert len(predictions) == 3 + 4
    assert len(list((tmp_path / 'out').glob('*.[pj][np]g'))) == 7


@pytest.mark.parametrize(
    'inputs, message',
    [
        (['none.jpg'], 'input none.jpg does not exist'),
        (['model.pth'], 'no input after the checkpoint model.pth'),
        (['model.pth', 'x.jpg'], 'checkpoint model.pth does not exist'),
        (['text.jpg'], 'text.jpg is not a picture that OpenCV reads'),
        (['text.mp4'], 'text.mp4 gives no picture'),
        (['empty'], 'there are no pictures'),
    ],
)
def test_bad_inputs(inputs, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    for name in ('text.jpg', 'text.mp4'):
        (tmp_path / name).write_text('no picture')
    argv = [MODELS['classifier'], *inputs, '--device', 'cpu']
    assert cli.run(infer.main, argv) == 2
    assert message in capsys.readouterr().err
