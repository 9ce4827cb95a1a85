import pytest
import torch
from mmengine.registry import MODELS

from mmctx.models.backbones import ContextualResNet
from mmctx.models.backbones.temporal_shift import shift_frames
from tests.helpers.backbones import TINY, build_tiny


def shifted(num_segments=4, **options):
    backbone = dict(type='ContextualResNet', **TINY['ContextualResNet'])
    return MODELS.build(
        dict(
            type='TemporalShift',
            num_segments=num_segments,
            backbone={**backbone, **options},
        )
    )


def start_branches(model):
    """Residual branches, which start at zero, take part."""
    for block in model.modules():
        if hasattr(block, 'expand'):
            torch.nn.init.ones_(block.expand[1].weight)
    return model


def clips(count=2, frames=4, **options):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(
        count * frames, 3, 64, 64, generator=generator, **options
    )


def test_which_channel_comes_from_where():
    x = torch.randn(2 * 3, 17, 2, 5)
    out = shift_frames(x, 3, shift_div=8)
    expected = x.clone().view(2, 3, 17, 2, 5)
    before = expected.clone()
    for t in range(3):
        expected[:, t, 0:2] = before[:, t + 1, 0:2] if t < 2 else 0
        expected[:, t, 2:4] = before[:, t - 1, 2:4] if t > 0 else 0
    assert torch.equal(out, expected.flatten(0, 1))


def test_gradient_of_the_shift():
    x = torch.randn(4, 8, 2, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: shift_frames(x, 2, 4), x)


def test_keeps_names_and_shapes():
    """An image network's weights load; its maps keep their shapes."""
    plain = start_branches(build_tiny('ContextualResNet')).eval()
    model = shifted().eval()
    assert isinstance(model, ContextualResNet)
    model.load_state_dict(plain.state_dict())
    with torch.no_grad():
        maps, images = model(clips()), plain(clips())
    assert [m.shape for m in maps] == [m.shape for m in images]
    assert not torch.allclose(maps[0], images[0])


def test_frames_see_their_neighbours_only():
    """One block per stage: after stage 1 a frame has seen one on each side.

    And nothing crosses from clip to clip.
    """
    model = start_branches(shifted(out_indices=(0,))).eval()
    x = clips()
    changed = x.clone()
    changed[1] += 1.0
    with torch.no_grad():
        before, after = model(x)[0], model(changed)[0]
    moved = [not torch.equal(a, b) for a, b in zip(before, after)]
    assert moved == [True, True, True, False] + [False] * 4


def test_single_frames_are_not_mixed():
    """With one frame per clip, shifted channels are zero, others stay."""
    x = torch.randn(3, 16, 2, 2)
    out = shift_frames(x, 1)
    assert not out[:, :4].any()
    assert torch.equal(out[:, 4:], x[:, 4:])


def test_trains():
    model = shifted(with_cp=True).train()
    sum(m.square().mean() for m in model(clips())).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    'options', [dict(num_segments=0), dict(num_segments=2, shift_div=1)]
)
def test_wrong_numbers(options):
    with pytest.raises(ValueError, match='TemporalShift needs'):
        MODELS.build(
            dict(
                type='TemporalShift',
                backbone=build_tiny('ContextualResNet'),
                **options,
            )
        )


def test_broken_clips():
    with pytest.raises(ValueError, match='whole clips'):
        shifted()(clips(1, 3))


def test_backbones_without_bottlenecks():
    with pytest.raises(ValueError, match='ContextualConvNeXt has none'):
        MODELS.build(
            dict(
                type='TemporalShift', backbone=build_tiny('ContextualConvNeXt')
            )
        )
