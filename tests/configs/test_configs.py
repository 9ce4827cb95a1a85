"""Every config loads, builds, trains one step and predicts."""

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmctx.models.backbones import (
    CoaT,
    Container,
    ContextualConvNeXt,
    ConTNet,
)
from tests.helpers.recipes import CONFIGS as ALL_CONFIGS
from tests.helpers.recipes import load

#: mmaction2, which trains the others, is not among the dependencies.
CONFIGS = [name for name in ALL_CONFIGS if '/tsm_' not in name]

# What a training step may do without, so that it takes a second.
SHALLOW = dict(
    CoTNet=dict(depth=(1, 1, 1, 1)),
    CoTNeXt=dict(depth=(1, 1, 1, 1)),
    SECoTNetD=dict(depth=(1, 1, 2, 1)),
    PAMVisionTransformer=dict(img_size=64),
    ContextualResNet=dict(depth=(1, 1, 1, 1)),
)
# What the shallow network keeps of the named depth or arch.
KEPT = {
    ('ResNet', 101): dict(depth=50),
    ('SECoTNetD', 101): dict(stem_channels=64),
    ('SECoTNetD', 152): dict(stem_channels=64, blur_pool=True),
}
for name in ('VisionTransformer', 'PAMVisionTransformer'):
    KEPT[name, 'deit-small'] = dict(
        arch=dict(
            embed_dims=384,
            num_layers=2,
            num_heads=6,
            feedforward_channels=384,
        )
    )
for name, arch in CoaT.arch_settings.items():
    KEPT['CoaT', name] = dict(
        arch=dict(
            embed_dims=arch['embed_dims'],
            serial_depths=(1, 1, 1, 1),
            mlp_ratios=(1, 1, 1, 1),
            parallel_depth=min(arch.get('parallel_depth', 0), 1),
        )
    )
for name, arch in ConTNet.arch_settings.items():
    small = dict(depths=(1, 1, 2, 1), feedforward_channels=(32, 32, 32, 32))
    KEPT['ConTNet', name] = dict(arch={**arch, **small})
for name, arch in Container.arch_settings.items():
    small = dict(depths=(1, 1, 1, 1), mlp_ratios=(1, 1, 1, 1))
    KEPT['Container', name] = dict(arch={**arch, **small})
for name, arch in ContextualConvNeXt.arch_settings.items():
    small = dict(depths=(1, 1, 1, 1))
    KEPT['ContextualConvNeXt', name] = dict(arch={**arch, **small})
SIZES = ('scale', 'scales', 'crop_size')
# The most that a model keeps of regions, channels, layers and prototypes.
LIMITS = dict(
    nms_pre=16,
    max_per_img=16,
    num=16,
    conv_out_channels=32,
    fc_out_channels=32,
    num_layers=2,
    hidden_channels=32,
    num_prototypes=64,
)


def replace(node, change):
    """A copy of nested dicts and lists, ``change(key, value)`` applied."""
    if isinstance(node, dict):
        return type(node)(
            {k: replace(change(k, v), change) for k, v in node.items()}
        )
    if isinstance(node, list):
        return [replace(item, change) for item in node]
    return node


def shrink_model(model):
    backbone = model.backbone
    variant = backbone.get('depth') or backbone.get('arch')
    if isinstance(variant, (int, str)):
        backbone.update(KEPT.get((backbone.type, variant), {}))
    backbone.update(SHALLOW.get(backbone.type, {}))
    backbone.pop('init_cfg', None)
    shrink_crops(model)
    return replace(model, lambda k, v: min(v, LIMITS[k]) if k in LIMITS else v)


def shrink_crops(model):
    """Crops and windows of a segmentor, as small as those of its data."""
    for part, keys in (
        (model.get('data_preprocessor'), ['size']),
        (model.get('test_cfg'), ['crop_size', 'stride']),
    ):
        for key in keys:
            if part and key in part:
                part[key] = shrink_size(part[key])


def shrink_size(size):
    return tuple(max(side // 10, 64) for side in size)


def innermost(dataset):
    """The data set that reads files, below what wraps it."""
    return innermost(dataset.dataset) if 'dataset' in dataset else dataset


def shrink_data(node, data_roots):
    def small(key, value):
        if isinstance(value, str):
            return data_roots.get(value, value)
        if key in SIZES and isinstance(value, list):
            return [shrink_size(pair) for pair in value]
        if key in SIZES and isinstance(value, tuple):
            return shrink_size(value)
        if key in SIZES:
            return max(value // 3, 64)
        return value

    return replace(node, small)


def shrink_loader(loader, data_roots):
    loader = shrink_data(loader, data_roots)
    loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    innermost(loader.dataset).indices = 2
    return loader


def shrink(cfg, data_roots, work_dir):
    """The same experiment, one iteration long, on two small images."""
    cfg.work_dir = str(work_dir)
    cfg.load_from = None
    cfg.model = shrink_model(cfg.model)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[name] = shrink_loader(cfg[name], data_roots)
    for name in ('val_evaluator', 'test_evaluator'):
        for root, small_root in data_roots.items():
            cfg[name] = replace(
                cfg[name],
                lambda k, v, a=root, b=small_root: (
                    v.replace(a, b) if isinstance(v, str) else v
                ),
            )
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper':
        cfg.optim_wrapper.type = 'OptimWrapper'  # AMP asks for a GPU
    if 'max_iters' in cfg.train_cfg:
        cfg.train_cfg.update(max_iters=1, val_interval=1)
    else:
        cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.checkpoint = None
    cfg.custom_hooks = [
        shrink_data(hook, data_roots)
        for hook in cfg.get('custom_hooks', [])
        if hook.type != 'PrepareDigitScenes'
    ]
    return cfg


@pytest.mark.parametrize('name', ALL_CONFIGS)
def test_nothing_is_left_of_the_stock_config(name):
    """Of another length or another backbone's weights, without effect."""
    cfg = load(name)
    if 'max_epochs' in cfg:
        assert cfg.max_epochs == cfg.train_cfg.max_epochs
    for key in ('pretrained', 'checkpoint_file'):
        assert cfg.get(key) is None


@pytest.fixture
def quiet(monkeypatch):
    """No slow reports of machine and config in the log."""
    monkeypatch.setattr(Config, 'pretty_text', '')
    monkeypatch.setattr(Runner, 'dump_config', lambda self: None)
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)


@pytest.mark.parametrize('name', CONFIGS)
def test_trains_and_predicts(name, data_roots, tmp_path, quiet):
    cfg = shrink(load(name), data_roots, tmp_path)
    cfg.experiment_name = name.replace('/', '_')
    runner = Runner.from_cfg(cfg)
    before = [p.detach().clone() for p in runner.model.parameters()]
    runner.train()
    after = list(runner.model.parameters())
    assert runner.iter == 1
    assert all(torch.isfinite(p).all() for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after))
