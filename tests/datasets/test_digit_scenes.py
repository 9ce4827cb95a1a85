import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmctx.datasets import Classification, Scenes, make_digit_scenes
from mmctx.datasets.digit_scenes import Centered, _load_scans, _window

pytest.importorskip('sklearn')

SCENES = dict(train=6, val=4, size=64)
IMAGES = dict(train=24, val=12, size=32)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A small DigitScenes with both parts."""
    root = tmp_path_factory.mktemp('digit_scenes')
    make_digit_scenes(root, 'scenes', **SCENES)
    make_digit_scenes(root, 'classification', **IMAGES)
    make_digit_scenes(root, 'centered', **IMAGES)
    return root


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in Path(directory).rglob('*')
        if path.is_file()
    }


@pytest.mark.parametrize(
    'part, sizes',
    [('scenes', SCENES), ('classification', IMAGES), ('centered', IMAGES)],
)
def test_equal_parameters_give_equal_bytes(data, tmp_path, part, sizes):
    again = make_digit_scenes(tmp_path / 'again', part, **sizes)
    assert contents(again) == contents(data / part)
    other = make_digit_scenes(tmp_path / 'other', part, seed=1, **sizes)
    pictures = {k for k in contents(other) if k.endswith('.png')}
    pictures &= set(contents(data / part))
    assert pictures
    before, after = contents(data / part), contents(other)
    assert all(before[name] != after[name] for name in pictures)


def test_pictures_do_not_depend_on_their_number(data, tmp_path):
    fewer = make_digit_scenes(tmp_path, 'scenes', **{**SCENES, 'train': 3})
    for path in sorted((fewer / 'train').iterdir()):
        twin = data / 'scenes' / 'train' / path.name
        assert path.read_bytes() == twin.read_bytes()


def test_validation_scans_are_held_out():
    from sklearn.datasets import load_digits

    from mmctx.datasets.digit_scenes import _load_scans

    scans = {split: _load_scans(split) for split in ('train', 'val')}
    rows = {
        split: [tuple(scan.ravel() * 16) for scan in images]
        for split, (images, _) in scans.items()
    }
    assert not set(rows['train']) & set(rows['val'])
    everything = [tuple(row) for row in load_digits().data]
    assert sorted(rows['train'] + rows['val']) == sorted(everything)
    share = np.bincount(scans['val'][1]) / np.bincount(load_digits().target)
    assert (abs(share - 0.2) < 0.01).all()


@pytest.mark.parametrize('split', ['train', 'val'])
def test_scene_labels_agree(data, split):
    mask_api = pytest.importorskip('pycocotools.mask')
    from pycocotools.coco import COCO

    scenes = data / 'scenes'
    coco = COCO(scenes / 'annotations' / f'instances_{split}.json')
    assert len(coco.imgs) == SCENES[split]
    for image_id, info in coco.imgs.items():
        picture = cv2.imread(str(scenes / split / info['file_name']))
        assert picture.shape == (info['height'], info['width'], 3)
        annotations = coco.imgToAnns[image_id]
        assert 2 <= len(annotations) <= 5
        semantic = np.zeros((64, 64), int)
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            assert not semantic[mask].any()  # masks show what is visible
            semantic[mask] = annotation['category_id'] + 1
            box = mask_api.toBbox(mask_api.encode(np.asfortranarray(mask)))
            assert annotation['bbox'] == box.tolist()
            assert annotation['area'] == mask.sum()
        written = cv2.imread(
            str(scenes / 'semantic' / split / info['file_name']),
            cv2.IMREAD_UNCHANGED,
        )
        assert np.array_equal(written, semantic)


def test_coco_dataset_reads_scenes(data):
    pytest.importorskip('mmdet')
    from mmdet.utils import register_all_modules
    from mmengine.registry import DATASETS

    register_all_modules()
    dataset = DATASETS.build(
        dict(
            type='mmdet.CocoDataset',
            data_root=str(data / 'scenes'),
            ann_file='annotations/instances_val.json',
            data_prefix=dict(img='val/'),
            metainfo=dict(classes=tuple('0123456789')),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='mmdet.LoadAnnotations', with_mask=True),
                dict(type='mmdet.PackDetInputs'),
            ],
        )
    )
    assert len(dataset) == SCENES['val']
    for item in dataset:
        instances = item['data_samples'].gt_instances
        assert 2 <= len(instances) <= 5
        boxes = instances.bboxes.tensor
        assert (instances.masks.get_bboxes('hbox').tensor == boxes).all()


def test_segmentation_dataset_reads_scenes(data):
    datasets = pytest.importorskip('mmseg.datasets')
    dataset = datasets.BaseSegDataset(
        data_root=str(data / 'scenes'),
        data_prefix=dict(img_path='val', seg_map_path='semantic/val'),
        img_suffix='.png',
        seg_map_suffix='.png',
        metainfo=dict(classes=('background', *'0123456789')),
    )
    assert len(dataset) == SCENES['val']
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        classes = np.unique(cv2.imread(info['seg_map_path'], 0))
        assert classes[0] == 0
        assert classes[-1] <= 10


@pytest.mark.parametrize('part', ['classification', 'centered'])
def test_classification_dataset_reads_images(data, part):
    datasets = pytest.importorskip('mmpretrain.datasets')
    for split in ('train', 'val'):
        dataset = datasets.CustomDataset(
            data_root=str(data / part), data_prefix=split
        )
        assert len(dataset) == IMAGES[split]
        assert ''.join(dataset.CLASSES) == '0123456789'
        picture = cv2.imread(dataset.get_data_info(0)['img_path'])
        assert picture.shape == (32, 32, 3)


def test_centered_digits_are_the_same_in_the_middle():
    scan = _load_scans('train')[0][0]
    for seed in range(20):
        placed, centered = (
            maker(size=48)._place(np.random.default_rng(seed), scan)
            for maker in (Classification, Centered)
        )
        np.testing.assert_array_equal(
            centered[_window(centered)], placed[_window(placed)]
        )
        for side in _window(centered):
            assert side.start + side.stop in (48, 47)


def test_scenes_hold_two_to_five_digits_of_128_pixels_by_default():
    default = Scenes()
    assert default.size == 128
    assert (default.min_digits, default.max_digits) == (2, 5)


def test_manifest_tells_the_parameters(data):
    manifest = json.loads((data / 'scenes' / 'manifest.json').read_text())
    assert manifest['data'] == 'DigitScenes'
    assert {name: manifest[name] for name in SCENES} == SCENES


@pytest.mark.parametrize(
    'part, parameters, message',
    [
        ('detection', {}, 'scenes'),
        ('scenes', dict(pixels=64), 'has no parameter pixels; it has train'),
        ('scenes', dict(train=0), 'train=0'),
        ('scenes', dict(size=31), 'size=31.*at least 32'),
        ('scenes', dict(size=64.0), 'size=64.0.*integer'),
        ('scenes', dict(min_digits=4, max_digits=3), 'at least 4'),
        ('scenes', dict(max_digits=9), 'max_digits=9'),
        ('classification', dict(seed=-1), 'seed=-1'),
        ('classification', dict(val=3), 'val=3'),
    ],
)
def test_bad_parameters(tmp_path, part, parameters, message):
    with pytest.raises(ValueError, match=message):
        make_digit_scenes(tmp_path, part, **parameters)
    assert not list(tmp_path.iterdir())


def test_missing_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        make_digit_scenes(tmp_path, 'scenes', **SCENES)
    assert [path.name for path in tmp_path.iterdir()] == ['.lock']
