"""The hooks that DINO trains and is evaluated with, in short runs."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmctx.datasets import make_digit_scenes
from mmctx.engine.hooks.feature_bank import collect_features
from mmctx.models.losses import DINOLoss

pytest.importorskip('sklearn')
pytest.importorskip('mmpretrain')

CONFIG = 'configs/digit_scenes/dino_container-light-slim_digit-scenes.py'
IMAGES = 23


class Recorder(Hook):
    """What happens to the last layer, and how often the model is scored."""

    def __init__(self):
        self.layers, self.scores = [], []

    def before_train_epoch(self, runner):
        weight = runner.model.head.last_layer.weight
        self.layers.append(weight.detach().clone())

    after_train = before_train_epoch

    def after_val_epoch(self, runner, metrics=None):
        self.scores.append((runner.epoch, metrics['accuracy/top1']))


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('digits')
    make_digit_scenes(root, 'centered', train=IMAGES, val=10)
    return root


@pytest.fixture
def config(data_root, tmp_path):
    """The shipped config for two epochs of two small steps."""
    config = Config.fromfile(CONFIG)
    config.merge_from_dict(
        {
            'work_dir': str(tmp_path / 'work'),
            'train_cfg.max_epochs': 2,
            'train_cfg.val_interval': 1,
            'model.backbone.arch.embed_dims': (8, 8, 16, 16),
            'model.backbone.arch.aggregation.num_heads': 1,
            'model.neck.in_channels': 16,
            'model.head.in_channels': 16,
            'env_cfg.dist_cfg.backend': 'gloo',
            'visualizer.name': str(tmp_path),
            'experiment_name': tmp_path.name,
        }
    )
    prepare, _, bank, _ = config.custom_hooks
    prepare.update(data_root=str(data_root), train=IMAGES, val=10)
    root = f'{data_root}/centered/'
    bank.dataset.data_root = root
    for split in ('train', 'val', 'test'):
        loader = config[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=8)
        loader.dataset.data_root = root
    config.default_hooks.pop('gallery')
    config.default_hooks.pop('curves')
    return config


def features_of(runner, dataset):
    """Features one image at a time, and labels."""
    model = runner.model.eval()
    features, labels = [], []
    for item in dataset:
        batch = model.data_preprocessor(default_collate([item]))
        with torch.no_grad():
            features.append(model.extract_feat(batch['inputs'])[0].double())
        labels.append(item['data_samples'].gt_label.item())
    return np.stack(features), np.array(labels)


def brute_force_accuracy(runner, train, val):
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(
        10,
        metric='cosine',
        algorithm='brute',
        weights=lambda distances: np.exp((1 - distances) / 0.07),
    )
    classifier.fit(*features_of(runner, train))
    return 100 * classifier.score(*features_of(runner, val))


def test_a_run_freezes_scores_and_tests(config):
    runner = Runner.from_cfg(config)
    recorder = Recorder()
    runner.register_hook(recorder, priority='VERY_LOW')
    runner.train()
    first, second, end = recorder.layers
    assert torch.equal(first, second)
    assert not torch.equal(second, end)
    # Before training, and after each epoch (counted from 0 in the hook).
    assert len(recorder.scores) == 3
    assert recorder.scores[0][0] == 0
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        train = DATASETS.build(config.custom_hooks[2].dataset)
        val = DATASETS.build(config.val_dataloader.dataset)
    expected = brute_force_accuracy(runner, train, val)
    assert recorder.scores[-1][1] == pytest.approx(expected)
    assert runner.test()['accuracy/top1'] == pytest.approx(expected)


def test_freezing_nothing_is_an_error(config):
    config.custom_hooks[1].prefix = 'head.first_layer.'
    config.custom_hooks.pop()
    with pytest.raises(ValueError, match="'head.first_layer.'.*'backbone'"):
        Runner.from_cfg(config).train()


class MeanColour(nn.Module):
    """Stands for a model: three features per image."""

    def data_preprocessor(self, batch, training):
        return batch

    def extract_feat(self, inputs):
        return inputs.float().mean((2, 3))


def bank(data_root, config, distributed):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = DATASETS.build(config.custom_hooks[2].dataset)
    sampler = DefaultSampler(dataset, shuffle=False) if distributed else None
    loader = DataLoader(
        dataset, 4, sampler=sampler, collate_fn=default_collate
    )
    return collect_features(MeanColour(), loader)


def _worker(rank, folder, data_root, config):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    loss = DINOLoss(5)
    torch.manual_seed(rank)
    student, teacher = torch.randn(3, 4, 5), torch.randn(2, 4, 5)
    loss(student, teacher)
    result = (*bank(data_root, config, True), teacher, loss.center)
    torch.save(result, f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def test_two_processes_share_the_bank_and_the_centre(
    config, data_root, tmp_path
):
    mp.start_processes(
        _worker, (str(tmp_path), data_root, config), 2, start_method='spawn'
    )
    (*a, teacher_a, center_a), (*b, teacher_b, center_b) = (
        torch.load(tmp_path / f'{rank}.pt') for rank in (0, 1)
    )
    alone, labels = bank(data_root, config, False)
    for features, bank_labels in (a, b):
        assert torch.equal(bank_labels, labels)
        torch.testing.assert_close(
            nn.functional.normalize(features), nn.functional.normalize(alone)
        )
    assert labels.unique().numel() > 5
    mean = torch.stack([teacher_a, teacher_b]).mean((0, 1, 2))
    torch.testing.assert_close(center_a, 0.1 * mean)
    assert torch.equal(center_a, center_b)
