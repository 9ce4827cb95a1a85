"""A fraction of every class, the same images wherever it is drawn."""

import random
from collections import Counter

import pytest
from mmengine.registry import DATASETS, DefaultScope

import mmctx  # noqa: F401  (registers the data set)

pytest.importorskip('mmpretrain')

#: Images of each class.
COUNTS = (100, 30, 7, 1)


@pytest.fixture(scope='module')
def listing():
    """Lines of an annotation file; no image is read."""
    return [
        f'c{label}/c{label}_{i:03d}.JPEG {label}'
        for label, count in enumerate(COUNTS)
        for i in range(count)
    ]


def build(folder, lines, fraction, **options):
    (folder / 'list.txt').write_text('\n'.join(lines))
    inner = dict(type='CustomDataset', ann_file=f'{folder}/list.txt')
    inner.update(options.pop('inner', {}), data_prefix='images')
    cfg = dict(
        type='StratifiedSubset', dataset=inner, fraction=fraction, **options
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(cfg)


def samples(dataset):
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def names(dataset):
    return {sample['img_path'] for sample in samples(dataset)}


@pytest.mark.parametrize(
    'fraction, sizes',
    [
        (1, COUNTS),
        (0.8, (80, 24, 6, 1)),
        (0.5, (50, 15, 4, 1)),
        (0.1, (10, 3, 1, 1)),
        (1e-9, (1, 1, 1, 1)),
    ],
)
@pytest.mark.parametrize('serialize', [True, False])
def test_every_class_keeps_the_fraction(
    listing, tmp_path, fraction, sizes, serialize
):
    inner = dict(serialize_data=serialize)
    dataset = build(tmp_path, listing, fraction, inner=inner)
    counts = Counter(sample['gt_label'] for sample in samples(dataset))
    assert tuple(counts[label] for label in range(len(COUNTS))) == sizes
    assert len(names(dataset)) == len(dataset) == sum(sizes)
    for sample in samples(dataset):
        assert f'/c{sample["gt_label"]}_' in sample['img_path']


def test_same_images_however_they_are_listed(listing, tmp_path):
    """Another rank, machine, order or format of the annotations."""
    expected = names(build(tmp_path, listing, 0.3))
    shuffled = random.Random(0).sample(listing, len(listing))
    assert names(build(tmp_path, shuffled, 0.3)) == expected
    flat = [line.partition('/')[2] for line in listing]
    assert {name.rpartition('/')[2] for name in expected} == {
        name.rpartition('/')[2] for name in names(build(tmp_path, flat, 0.3))
    }


def test_the_choice_never_changes(tmp_path):
    """A published number belongs to these images."""
    lines = [f'n01440764_{i}.JPEG 0' for i in range(1000)]
    chosen = names(build(tmp_path, lines, 0.005))
    numbers = sorted(int(name.rpartition('_')[2][:-5]) for name in chosen)
    assert numbers == [189, 360, 720, 789, 894]


def test_order_stays_and_fractions_are_nested(listing, tmp_path):
    smaller = build(tmp_path, listing, 0.1)
    larger = build(tmp_path, listing, 0.5)
    assert names(smaller) < names(larger)
    paths = [sample['img_path'] for sample in samples(larger)]
    assert paths == sorted(paths), 'that of the annotation file'


def test_seed_chooses_other_images(listing, tmp_path):
    first = names(build(tmp_path, listing, 0.5))
    other = names(build(tmp_path, listing, 0.5, seed=1))
    assert len(first) == len(other)
    assert 10 < len(first & other) < 60, 'about half of 70'


@pytest.mark.parametrize('fraction', [0, -0.1, 1.01, float('nan'), 80])
def test_fraction_out_of_range(listing, tmp_path, fraction):
    with pytest.raises(ValueError, match='more than 0 and at most 1'):
        build(tmp_path, listing, fraction)


def test_images_without_labels(tmp_path):
    with pytest.raises(ValueError, match=r"needs .*'gt_label', got a"):
        build(tmp_path, ['a.JPEG'], 0.5, inner=dict(with_label=False))
