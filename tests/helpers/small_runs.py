"""Configs of DigitScenes that train in seconds, with all that is random."""

from mmengine.config import Config

from tests.helpers.scripts import ROOT


def write_config(folder, name, images=8, workers=0, hooks=(), **options):
    """A config file in `folder`, whose data set is drawn there at first use.

    Batches are of two images, randomly flipped; a backbone that can has drop
    path.

    Args:
        folder (Path): Where the file goes.
        name (str): Of an experiment in configs/digit_scenes.
        images (int): Number of training images.
        workers (int): Worker processes of the training loader.
        hooks (Sequence[dict]): More custom hooks.
        **options: More settings; '__' in a key stands for a dot.
    """
    cfg = Config.fromfile(
        ROOT / 'configs/digit_scenes' / f'{name}_digit-scenes.py'
    )
    root = str(folder / 'digits')
    prepare = cfg.custom_hooks[0]
    prepare.update(data_root=root, train=images, val=4)
    cfg.custom_hooks += hooks
    if prepare.part == 'scenes':
        root += '/scenes/'
    cfg.model.backbone.init_cfg = None
    for phase in ('train', 'val', 'test'):
        loader = cfg[f'{phase}_dataloader']
        loader.dataset.data_root = root
        loader.update(batch_size=2, num_workers=workers)
        loader.persistent_workers = workers > 0
        evaluator = cfg.get(f'{phase}_evaluator')
        if evaluator and 'ann_file' in evaluator:
            evaluator.ann_file = root + 'annotations/instances_val.json'
    cfg.train_dataloader.dataset.pipeline.insert(
        -1, dict(type='RandomFlip', prob=0.5)
    )
    if cfg.model.backbone.type in ('CoaT', 'ConTNet', 'Container'):
        cfg.model.backbone.drop_path_rate = 0.3
    for key in ('curves', 'gallery'):
        cfg.default_hooks.pop(key)
    cfg.default_hooks.logger.interval = 1
    cfg.merge_from_dict(
        {key.replace('__', '.'): value for key, value in options.items()}
    )
    path = folder / f'{name}.py'
    cfg.dump(path)
    return path


def differences(a, b, path=''):
    """Where two checkpoints' parts differ, as paths into them."""
    import torch

    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f'{path}: {a.keys() ^ b.keys()}']
        return [d for k in a for d in differences(a[k], b[k], f'{path}.{k}')]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f'{path}: {len(a)} and {len(b)}']
        return [
            d
            for i, (x, y) in enumerate(zip(a, b))
            for d in differences(x, y, f'{path}[{i}]')
        ]
    return [] if a == b else [path]
