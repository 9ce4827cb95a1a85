"""Two processes, and training in two parts."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from tests.helpers.backbones import (
    TINY,
    WITHOUT_BATCH_NORM,
    build_tiny,
    class_of,
)
from tests.helpers.scripts import ROOT

DETECTOR = 'configs/digit_scenes/faster-rcnn_ctx-resnet14_fpn_digit-scenes.py'
BATCH_NORMED = [n for n in TINY if class_of(n) not in WITHOUT_BATCH_NORM]
OUT_INDICES = ((0, 1, 2, 3), (1, 2), (3,))


def loss_of(maps):
    return sum(m.square().mean() for m in maps)


def _worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    for name in sorted(TINY):
        for out_indices in OUT_INDICES:
            torch.manual_seed(0)
            model = build_tiny(name, out_indices=out_indices, frozen_stages=1)
            parallel = DistributedDataParallel(model)
            for step in range(2):  # the second step finds unused parameters
                torch.manual_seed(10 * step + rank)
                loss_of(parallel(torch.randn(2, 3, 64, 64))).backward()
            norms = torch.tensor(
                [p.grad.norm() for p in model.parameters() if p.requires_grad]
            )
            torch.save(norms, f'{folder}/{name}-{out_indices}-{rank}.pt')
    dist.destroy_process_group()


def test_ddp_without_find_unused_parameters(tmp_path):
    mp.start_processes(_worker, (str(tmp_path),), 2, start_method='spawn')
    for name in TINY:
        for out_indices in OUT_INDICES:
            a, b = (
                torch.load(tmp_path / f'{name}-{out_indices}-{rank}.pt')
                for rank in (0, 1)
            )
            assert len(a) and a.isfinite().all()
            assert torch.equal(a, b), 'gradients are averaged over processes'


def _train_detector(rank, folder):
    """Two steps of a Faster R-CNN with Contextual ResNet-14."""
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs
    from mmdet.utils import register_all_modules

    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    register_all_modules()
    torch.manual_seed(0)
    cfg = Config.fromfile(ROOT / DETECTOR).model
    cfg.backbone.init_cfg = None
    cfg.data_preprocessor.batch_augments = None
    parallel = MMDistributedDataParallel(MODELS.build(cfg))
    model = parallel.module
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = OptimWrapper(torch.optim.SGD(weights, lr=0.01))
    for step in range(2):  # the second step finds unused parameters
        sizes = [[3, 64, 64], [3, 64, 96]]
        torch.manual_seed(10 * step + rank)
        data = demo_mm_inputs(2, sizes, num_items=[2, 1], num_classes=10)
        losses = parallel.train_step(data, optimizer)
        assert all(loss.isfinite().all() for loss in losses.values())
    frozen = [k for k, p in model.named_parameters() if not p.requires_grad]
    torch.save((weights, frozen), f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def test_contextual_detector_without_find_unused_parameters(tmp_path):
    """Score heads have no loss in a detector, and are frozen."""
    mp.start_processes(
        _train_detector, (str(tmp_path),), 2, start_method='spawn'
    )
    saved = [torch.load(tmp_path / f'{rank}.pt') for rank in (0, 1)]
    (weights, frozen), (others, _) = saved
    assert all(torch.equal(a, b) for a, b in zip(weights, others))
    assert frozen and all(
        k.startswith(
            (
                'backbone.contextualizing.classify.',
                'backbone.contextualizing.log_scale',
            )
        )
        for k in frozen
    )


@pytest.mark.parametrize('name', sorted(BATCH_NORMED))
def test_sync_bn(name):
    """All norms follow norm_cfg but the group norms of the operators."""
    model = build_tiny(name, norm_cfg=dict(type='SyncBN'))
    batch_norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    assert batch_norms
    assert all(isinstance(m, nn.SyncBatchNorm) for m in batch_norms)
    assert len(model.eval()(torch.randn(1, 3, 64, 64))) == 4


def _train(model, optimizer, steps):
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss_of(model(torch.randn(2, 3, 64, 64))).backward()
        optimizer.step()


@pytest.mark.parametrize('name', sorted(TINY))
def test_resuming_equals_going_on(name, tmp_path):
    def build_pair():
        torch.manual_seed(0)
        model = build_tiny(name, drop_path_rate=0.2)
        return model, torch.optim.SGD(model.parameters(), 0.01, 0.9)

    whole, optimizer = build_pair()
    _train(whole, optimizer, range(4))
    first, optimizer = build_pair()
    _train(first, optimizer, range(2))
    path = os.path.join(tmp_path, 'half.pth')
    torch.save([first.state_dict(), optimizer.state_dict()], path)
    second, optimizer = build_pair()
    for part, state in zip(
        (second, optimizer), torch.load(path, weights_only=True)
    ):
        part.load_state_dict(state)
    _train(second, optimizer, range(2, 4))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
