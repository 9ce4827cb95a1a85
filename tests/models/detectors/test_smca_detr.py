"""SMCA-DETR: its Gaussian prior, padding, gradients, boxes."""

import itertools

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import nn

from tests.helpers.backbones import TINY

pytest.importorskip('mmdet')

import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules

from mmctx.models.detectors.smca_decoder import (
    CoAttention,
    GaussianPrior,
    gaussian_log_prior,
)
from mmctx.models.detectors.smca_detr import SMCADETR

C, HEADS, QUERIES, LAYERS = 16, 2, 5, 2


def attention():
    return dict(embed_dims=C, num_heads=HEADS, dropout=0.0)


def config(**changes):
    ffn = dict(embed_dims=C, feedforward_channels=8, ffn_drop=0.0)
    model = dict(
        type='SMCADETR',
        num_queries=QUERIES,
        backbone=dict(type='Container', out_indices=(3,), **TINY['Container']),
        neck=dict(
            type='ChannelMapper',
            in_channels=[32],
            kernel_size=1,
            out_channels=C,
            act_cfg=None,
            num_outs=1,
        ),
        encoder=dict(
            num_layers=1,
            layer_cfg=dict(self_attn_cfg=attention(), ffn_cfg=ffn),
        ),
        decoder=dict(
            num_layers=LAYERS,
            layer_cfg=dict(
                self_attn_cfg=attention(),
                cross_attn_cfg=attention(),
                ffn_cfg=ffn,
            ),
        ),
        positional_encoding=dict(num_feats=C // 2, normalize=True),
        bbox_head=dict(
            type='ConditionalDETRHead',
            num_classes=3,
            embed_dims=C,
            sync_cls_avg_factor=True,
            loss_cls=dict(type='FocalLoss', loss_weight=2.0),
        ),
        train_cfg=dict(
            assigner=dict(
                type='HungarianAssigner',
                match_costs=[
                    dict(type='FocalLossCost', weight=2.0),
                    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                    dict(type='IoUCost', iou_mode='giou', weight=2.0),
                ],
            )
        ),
        test_cfg=dict(max_per_img=4),
        **changes,
    )
    return model


def build(**changes):
    register_all_modules(init_default_scope=False)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config(**changes))
    model.init_weights()
    return model


def samples(*sizes, batch=None):
    """Images of (height, width) in a batch as large as the largest."""
    batch = batch or tuple(max(side) for side in zip(*sizes))
    out = []
    for height, width in sizes:
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(height, width),
                ori_shape=(height, width),
                batch_input_shape=batch,
                scale_factor=(1.0, 1.0),
            )
        )
        box = [[width * 0.1, height * 0.2, width * 0.6, height * 0.8]]
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(box), labels=torch.tensor([1])
        )
        out.append(sample)
    return torch.randn(len(sizes), 3, *batch), out


def decode(model, memory, image_samples):
    """Hidden states and points from a given memory (N, C, H, W)."""
    _, inputs = model.pre_transformer((memory,), image_samples)
    tokens = memory.flatten(2).transpose(1, 2)
    queries, _ = model.pre_decoder(tokens)
    return model.forward_decoder(**queries, **inputs)


def test_gaussian_is_the_formula():
    torch.manual_seed(0)
    height, width, smoothness = 3, 5, 8.0
    centres = torch.rand(2, HEADS, QUERIES, 2, dtype=torch.float64) * 5
    scales = torch.randn(2, HEADS, QUERIES, 2, dtype=torch.float64)
    log_prior = gaussian_log_prior(
        centres, scales, (height, width), smoothness
    )
    assert log_prior.shape == (2, HEADS, QUERIES, height * width)
    expected = torch.empty(2, HEADS, QUERIES, height, width).double()
    for n, m, q, y, x in itertools.product(
        range(2), range(HEADS), range(QUERIES), range(height), range(width)
    ):
        c, s = centres[n, m, q], scales[n, m, q]
        place = torch.tensor([x + 0.5, y + 0.5], dtype=torch.float64)
        squares = s**2 * (place - c) ** 2
        density = torch.exp(-squares.sum() / smoothness)
        expected[n, m, q, y, x] = torch.log(density)
    torch.testing.assert_close(
        log_prior, expected.flatten(-2), rtol=1e-12, atol=1e-12
    )


def test_prior_has_offsets_per_head_and_scales_of_one():
    torch.manual_seed(0)
    prior = GaussianPrior(C, HEADS, 8.0)
    query, points = torch.randn(2, QUERIES, C), torch.rand(2, QUERIES, 2) * 4
    none = torch.zeros(2, 12, dtype=torch.bool)
    log_prior = prior(query, points, (3, 4), none)
    offsets = prior.offsets(prior.norm(query)).view(2, QUERIES, HEADS, 2)
    for m in range(HEADS):
        centres = points + offsets[:, :, m]
        expected = gaussian_log_prior(
            centres, torch.ones_like(centres), (3, 4), 8.0
        )
        torch.testing.assert_close(log_prior[:, m], expected)
    assert not torch.allclose(log_prior[:, 0], log_prior[:, 1])


def test_coattention_is_softmax_of_logits_and_prior():
    torch.manual_seed(0)
    layer = CoAttention(**attention(), batch_first=True).double().eval()
    nn.init.normal_(layer.attn.in_proj_bias)
    query, query_pos = torch.randn(2, 2, QUERIES, C).double()
    key, key_pos = torch.randn(2, 2, 12, C).double()
    log_prior = -torch.rand(2, HEADS, QUERIES, 12).double() * 9
    weights = layer.attn.in_proj_weight.chunk(3)
    biases = layer.attn.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, w, b).view(2, -1, HEADS, C // HEADS).transpose(1, 2)
        for x, w, b in zip(
            (query + query_pos, key + key_pos, key), weights, biases
        )
    )
    logits = q @ k.transpose(2, 3) / (C // HEADS) ** 0.5
    out = (logits + log_prior).softmax(-1) @ v
    out = layer.attn.out_proj(out.transpose(1, 2).reshape(2, QUERIES, C))
    output = layer(query, key, key, query_pos, key_pos, log_prior)
    torch.testing.assert_close(output, query + out)


def test_padding_is_never_attended():
    model = build().eval()
    _, images = samples((96, 128), (64, 96))
    memory = torch.randn(2, C, 3, 4)
    expected = decode(model, memory, images)['hidden_states']
    memory[1, :, 2:] = 1e3
    memory[1, :, :, 3:] = -1e3
    hidden = decode(model, memory, images)['hidden_states']
    assert torch.equal(hidden, expected)
    memory[1, :, 1, 2] += 1  # the last cell of the image
    hidden = decode(model, memory, images)['hidden_states']
    assert torch.equal(hidden[:, 0], expected[:, 0])
    assert not torch.allclose(hidden[:, 1], expected[:, 1])


def test_an_image_decodes_alike_alone_and_padded():
    model = build().eval()
    memory = torch.randn(1, C, 2, 3)
    alone = decode(model, memory, samples((50, 70))[1])
    padded = F.pad(memory, (0, 2, 0, 1), value=3.0)
    beside = decode(model, padded, samples((50, 70), batch=(96, 160))[1])
    for key in ('hidden_states', 'references'):
        torch.testing.assert_close(beside[key], alone[key])


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_nothing_but_padding_and_far_points_stay_finite(dtype):
    prior = GaussianPrior(C, HEADS, 8.0).to(dtype)
    layer = CoAttention(**attention(), batch_first=True).to(dtype)
    query, key = torch.randn(1, QUERIES, C), torch.randn(1, 12, C)
    query, key = query.to(dtype), key.to(dtype)
    points = torch.full((1, QUERIES, 2), 1e5)
    for padding in (torch.ones(1, 12).bool(), torch.arange(12)[None] > 5):
        logits = prior(query, points, (3, 4), padding)
        assert logits.dtype == dtype
        out = layer(query, key, key, query, key, logits)
        assert torch.isfinite(out).all()
    weights = logits.float().softmax(-1)
    assert weights[..., 6:].max() == 0  # the padding


def test_gradients_reach_every_parameter():
    model = build()
    model.train()
    images, targets = samples((96, 128), (64, 96))
    losses = model.loss(images, targets)
    assert len(losses) == 3 * LAYERS
    sum(losses.values()).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing
    for name, p in model.decoder.named_parameters():
        # The first layer's queries are zero, and so is what they attend to.
        if not name.startswith(('layers.0.self_attn.', 'layers.0.norms.0.')):
            assert p.grad.abs().max() > 0, name


def test_initial_gaussians_are_of_scale_one():
    for prior in build().decoder.priors:
        assert (prior.scales.weight == 0).all()
        assert (prior.scales.bias == 1).all()


def test_boxes_are_centred_at_the_points_plus_what_is_regressed():
    model = build().eval()
    images, targets = samples((96, 128), (64, 96))
    inputs = model.forward_transformer(model.extract_feat(images), targets)
    points = inputs['references']
    head = model.bbox_head
    regressed = head.fc_reg(
        head.activate(head.reg_ffn(inputs['hidden_states']))
    )
    boxes = head(**inputs)[1]
    logit = torch.log(points / (1 - points))
    expected = torch.sigmoid(regressed[..., :2] + logit)
    torch.testing.assert_close(boxes[..., :2], expected)
    nn.init.zeros_(head.fc_reg.weight)
    nn.init.zeros_(head.fc_reg.bias)
    boxes = head(**inputs)[1]
    torch.testing.assert_close(
        boxes[..., :2], points.expand(LAYERS, -1, -1, -1)
    )


def test_points_come_from_the_first_layer_and_move_the_prior(monkeypatch):
    """The Gaussians of all layers are near one point of each query."""
    model = build().eval()
    seen = []
    monkeypatch.setattr(
        GaussianPrior,
        'forward',
        lambda self, query, points, size, padding: (
            seen.append(points),
            torch.zeros(len(query), HEADS, QUERIES, size[0] * size[1]),
        )[1],
    )
    _, images = samples((96, 128), (48, 80))
    points = decode(model, torch.randn(2, C, 3, 4), images)['references']
    assert len(seen) == LAYERS
    # Width and height of the images, in cells of 32 pixels.
    cells = torch.tensor([[[4.0, 3.0]], [[2.5, 1.5]]])
    for centres in seen:
        torch.testing.assert_close(centres, points * cells)


@pytest.mark.parametrize(
    'sizes', [[(32, 32)], [(33, 47)], [(97, 61), (45, 130)]]
)
def test_predicts_at_any_size(sizes):
    model = build().eval()
    images, targets = samples(*sizes)
    with torch.no_grad():
        results = model.predict(images, targets)
    for (height, width), result in zip(sizes, results):
        instances = result.pred_instances
        assert len(instances) == 4
        assert torch.isfinite(instances.scores).all()
        assert (instances.bboxes >= 0).all()
        assert (instances.bboxes[:, 0::2] <= width).all()
        assert (instances.bboxes[:, 1::2] <= height).all()


def test_mixed_precision():
    model = build()
    images, targets = samples((96, 128), (64, 96))
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.loss(images, targets)
    sum(losses.values()).backward()
    for name, p in model.named_parameters():
        assert torch.isfinite(p.grad).all(), name


def test_other_stride_is_an_error():
    model = build(stride=16)
    with pytest.raises(ValueError, match=r'\(2, 3\).*stride of 16.*\(4, 6\)'):
        model.loss(*samples((64, 96)))


def test_registered_by_name():
    model = build()
    assert isinstance(model, SMCADETR)
    assert type(model.decoder).__name__ == 'SMCADecoder'
