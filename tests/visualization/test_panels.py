import cv2
import numpy as np
import pytest
import torch

from mmctx.visualization.panels import Panel, draw_panels, stride_of


@pytest.mark.parametrize(
    'grid, size, stride',
    [
        ((65, 97), (65, 97), 1),
        ((17, 25), (65, 97), 4),
        ((2, 2), (33, 33), 32),
        ((1, 1), (32, 32), 32),
        ((7, 7), (65, 97), None),
        ((16, 24), (65, 97), None),
    ],
)
def test_stride(grid, size, stride):
    assert stride_of(grid, size) == stride


def draw(tmp_path, *panels, at=None, size=(64, 96)):
    """The picture of one row of panels, in BGR."""
    path = str(tmp_path / 'picture.png')
    picture = np.full((64, 96), 128.0)
    draw_panels([('row', panels)], picture, size, path, at)
    return cv2.imread(path)


def centre_of(mask):
    """Relative position of the pixels of a mask, down and right."""
    return np.argwhere(mask).mean(0) / mask.shape


def yellow(image):
    """The largest value."""
    blue, green, red = image.astype(int).transpose(2, 0, 1)
    return (red > blue + 60) & (green > blue + 60)


def test_a_value_is_drawn_at_its_pixel(tmp_path):
    """Padding of the network's input stays outside."""
    places = []
    for column in (0, 2, 5):
        values = torch.zeros(5, 7)
        values[1, column] = 1
        image = draw(tmp_path, Panel('title', values), size=(80, 112))
        places.append(centre_of(yellow(image)))
    steps = np.diff([x for _, x in places])
    assert steps[0] > 0.2 and steps[1] == pytest.approx(1.5 * steps[0], 0.05)
    values[1, :] = 0
    values[1, 6] = 1  # in the padding
    image = draw(tmp_path, Panel('title', values), size=(80, 112))
    assert not yellow(image).any()


def test_small_parts_are_enlarged(tmp_path):
    def share(**options):
        values = torch.full((64, 96), torch.nan)
        values[3:6, 3:6] = 1
        values[4, 4] = 0
        image = draw(tmp_path, Panel('title', values, **options))
        return yellow(image).mean()

    assert share() > 20 * share(windows=16)


def test_points_are_at_the_centres_of_pixels(tmp_path):
    """Where a value of the same pixel would be."""
    points = torch.tensor([[0.0, 0.0], [2.0, 1.0], [5.0, 3.0]])
    weights = torch.tensor([0.0, 1.0, 0.0])
    values = torch.zeros(4, 6)
    values[1, 2] = 1
    panel = Panel('title', weights, points=points, grid=(4, 6))
    a = centre_of(yellow(draw(tmp_path, panel)))
    b = centre_of(yellow(draw(tmp_path, Panel('title', values))))
    assert a == pytest.approx(b, abs=0.02)


def test_every_kind_of_panel(tmp_path):
    signs = torch.tensor([[-1.0, 2.0], [0.0, 1.0]])
    image = draw(
        tmp_path,
        Panel('matrix', signs, False),
        Panel('curve', torch.rand(5), False),
        Panel('one value', torch.ones(4, 6)),
        at=(40.0, 30.0),
    )
    blue, _, red = image.astype(int).transpose(2, 0, 1)
    assert (red > blue + 100).any() and (blue > red + 100).any()
