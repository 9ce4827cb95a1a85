import json

import cv2
import pytest

from mmctx.visualization import plot_curves, read_scalars


def write_run(work_dir, timestamp, records):
    folder = work_dir / timestamp / 'vis_data'
    folder.mkdir(parents=True)
    lines = [json.dumps(record) for record in records]
    (folder / 'scalars.json').write_text('\n'.join(lines) + '\n')


@pytest.fixture
def run(tmp_path):
    """A work directory with two runs, of which the second counts."""
    records = [
        dict(loss=3.0, lr=0.1, epoch=1, iter=50, step=50),
        {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5, 'step': 1},
        dict(loss=2.0, lr=0.1, epoch=2, iter=100, step=100),
        {'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_50': 0.75, 'step': 2},
    ]
    write_run(tmp_path / 'run', '20260101_000000', [dict(loss=9.0, step=1)])
    write_run(tmp_path / 'run', '20260102_000000', records)
    return tmp_path / 'run'


def test_read_scalars_of_the_newest_run(run):
    training, validation = read_scalars(run)
    assert training['loss'] == [(50, 3.0), (100, 2.0)]
    assert validation == {
        'coco/bbox_mAP': [(1, 0.25), (2, 0.5)],
        'coco/bbox_mAP_50': [(1, 0.5), (2, 0.75)],
    }


def test_missing_scalars(tmp_path):
    with pytest.raises(FileNotFoundError, match='LocalVisBackend'):
        read_scalars(tmp_path)


def test_plot_shows_each_run(run, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        'savefig',
        lambda figure, *args, **kwargs: (
            figures.append(figure),
            save(figure, *args, **kwargs),
        ),
    )
    plot_curves({'a': run, 'b': run}, tmp_path / 'curves.png')
    picture = cv2.imread(str(tmp_path / 'curves.png'))
    assert picture.shape == (350, 900, 3)
    left, right = figures[0].axes
    assert [line.get_label() for line in left.lines] == ['a', 'b']
    assert [line.get_label() for line in right.lines] == [
        'a bbox_mAP',
        'a bbox_mAP_50',
        'b bbox_mAP',
        'b bbox_mAP_50',
    ]
    assert right.get_xlabel() == 'epoch'
    assert list(right.lines[0].get_ydata()) == [0.25, 0.5]


def test_validation_by_iterations_is_labelled_so(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(
        Figure, 'savefig', lambda figure, *_, **__: figures.append(figure)
    )
    records = [dict(loss=1.0, step=50), dict(mIoU=40.0, step=100)]
    write_run(tmp_path, '20260101_000000', records)
    plot_curves({'': tmp_path}, tmp_path / 'curves.png')
    assert figures[0].axes[1].get_xlabel() == 'iteration'
