"""The configs that come with the package, by name."""

from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config
from mmengine.fileio import load

from .suggestions import did_you_mean

#: Where MIM and MMEngine look for the configs of a package.
MIM = Path(__file__).parent / '.mim'
#: In metafiles, of what was not released: ``mim download`` cannot do without
#: an entry, finds this file present, and gives the config alone.
NO_WEIGHTS = '.'


@cache
def _paths() -> dict[str, Path]:
    """The file of every experiment, by name."""
    folder = MIM / 'configs'
    families = sorted(
        path.parent for path in folder.glob('*/README.md') if path.is_file()
    )
    return {
        path.stem: path for family in families for path in family.glob('*.py')
    }


@cache
def _tasks() -> dict[str, set[str]]:
    """The tasks of every experiment, in the words of its metafile."""
    tasks: dict[str, set[str]] = {}
    for metafile in load(MIM / 'model-index.yml')['Import']:
        for model in load(MIM / metafile)['Models']:
            tasks[model['Name']] = {
                result['Task'] for result in model.get('Results', ())
            }
    return tasks


def list_configs(pattern: str = '*', task: Optional[str] = None) -> list[str]:
    """Names of the experiments that come with mmctx.

    Args:
        pattern (str): Shell-style pattern of the names. Defaults to '*'.
        task (str, optional): Only experiments of a task, by any part of its
            name in the metafiles: 'detection', 'instance segmentation',
            'classification', ... Those of DigitScenes belong to none.

    Returns:
        list[str]: Sorted by family, then by name.

    Raises:
        ValueError: There is no such task.

    Example:
        >>> mmctx.list_configs('*cotnet50*', task='detection')[:1]
        ['cascade-mask-rcnn_cotnet50_fpn_syncbn-4conv1fc_ms-90k_coco']
    """
    names = sorted(_paths(), key=lambda name: (_paths()[name].parent, name))
    names = [name for name in names if fnmatchcase(name, pattern)]
    if task is None:
        return names
    known = {t for tasks in _tasks().values() for t in tasks}
    chosen = {t for t in known if task.lower() in t.lower()}
    if not chosen:
        raise ValueError(
            f'task must be part of one of {sorted(known)}, got {task!r}.'
        )
    return [name for name in names if chosen & _tasks().get(name, set())]


def config_path(name: str) -> str:
    """The file of an experiment: for ``_base_``, or for a tool.

    Args:
        name (str): One of :func:`list_configs`; '.py' and folders, as in
            'configs/cotnet/NAME.py', can be there or not.

    Raises:
        ValueError: There is no such experiment.
    """
    name = str(name).removesuffix('.py')
    path = _paths().get(Path(name).name)
    if path is None or not f'{path}'.endswith(f'/{name}.py'):
        raise ValueError(
            f'There is no config named {name!r}.'
            f'{did_you_mean(name, _paths())} mmctx.list_configs() lists all.'
        )
    return str(path)


def get_config(name: str) -> Config:
    """The config of an experiment, to be changed and run.

    Args:
        name (str): As in :func:`config_path`.

    Raises:
        ValueError: There is no such experiment.
    """
    return Config.fromfile(config_path(name))


def register_model_index() -> None:
    """Show our models in mmpretrain's ``list_models`` and ``get_model``.

    Raises:
        ImportError: mmpretrain is not installed.
    """
    from mmpretrain.apis import ModelHub

    if not ModelHub.has(next(iter(_tasks()))):
        ModelHub.register_model_index(
            MIM / 'model-index.yml', config_prefix=MIM
        )
        for name in _tasks():
            model = ModelHub._models_dict[name.lower()]
            if model.weights == NO_WEIGHTS:
                model.weights = None


def register_config_scope() -> None:
    """Let MMEngine find ``'mmctx::FAMILY/NAME.py'``, in ``_base_`` too."""
    from mmengine.config import utils

    packages: Any = getattr(utils, 'MODULE2PACKAGE', {})
    packages.setdefault('mmctx', 'mmctx')
