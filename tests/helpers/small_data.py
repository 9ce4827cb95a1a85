"""Small stand-ins for the data sets that the configs name."""

import json

import cv2
import numpy as np


def _write_image(path, height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(image, (width, height)))


def make_imagenet(root):
    """Two images of two classes per split."""
    (root / 'meta').mkdir(parents=True)
    for split in ('train', 'val'):
        for i in range(2):
            _write_image(root / split / f'{i}.JPEG', 80 + 10 * i, 100, i)
        labels = '0.JPEG 0\n1.JPEG 999\n'
        (root / 'meta' / f'{split}.txt').write_text(labels)


def make_coco(root):
    """Two images per split, with one and with two objects.

    All 80 classes are listed: an untrained detector may find any of them.
    """
    from mmdet.datasets import CocoDataset

    classes = CocoDataset.METAINFO['classes']
    (root / 'annotations').mkdir(parents=True)
    for split in ('train2017', 'val2017'):
        images, annotations = [], []
        for i in range(2):
            name = f'{i}.jpg'
            _write_image(root / split / name, 48 + 16 * i, 64, i)
            images.append(
                dict(id=i, file_name=name, height=48 + 16 * i, width=64)
            )
            for j in range(i + 1):
                x, y, w, h = 2 + 10 * j, 4, 40, 36
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=i,
                        category_id=j + 1,
                        bbox=[x, y, w, h],
                        area=w * h,
                        iscrowd=0,
                        segmentation=[
                            [x, y, x + w, y, x + w, y + h, x, y + h]
                        ],
                    )
                )
        content = dict(
            images=images,
            annotations=annotations,
            categories=[
                dict(id=i + 1, name=name) for i, name in enumerate(classes)
            ],
        )
        path = root / 'annotations' / f'instances_{split}.json'
        path.write_text(json.dumps(content))


def make_cityscapes(root):
    """Two images per split with three classes and some ignored pixels."""
    for split in ('train', 'val'):
        for i in range(2):
            name = f'town_00000{i}_000019'
            _write_image(
                root / f'leftImg8bit/{split}/town/{name}_leftImg8bit.png',
                64,
                128,
                i,
            )
            classes = np.array([[0, 8, 13, 255]], np.uint8).repeat(16, 0)
            folder = root / f'gtFine/{split}/town'
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(
                str(folder / f'{name}_gtFine_labelTrainIds.png'),
                classes.repeat(4, 0).repeat(32, 1),
            )


def make_bccd(root, train=5, val=2):
    """Boxes of three classes; five images leave a last batch of one."""
    names = ('RBC', 'WBC', 'Platelets')
    for split, count in dict(train=train, val=val).items():
        images, annotations = [], []
        for i in range(count):
            name = f'{i}.png'
            _write_image(root / split / name, 120, 160, i)
            images.append(dict(id=i, file_name=name, height=120, width=160))
            for k in range(len(names)):
                box = [10 + 45 * k, 20 + 10 * i, 12 + 10 * k, 12 + 10 * k]
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=i,
                        category_id=k + 1,
                        bbox=box,
                        area=box[2] * box[3],
                        iscrowd=0,
                    )
                )
        content = dict(
            images=images,
            annotations=annotations,
            categories=[dict(id=k + 1, name=n) for k, n in enumerate(names)],
        )
        (root / f'{split}.json').write_text(json.dumps(content))
