from mmengine.hooks import Hook

from mmctx.registry import HOOKS, register

__all__ = ['PrepareDigitScenes']


@register(HOOKS)
class PrepareDigitScenes(Hook):
    """Creates DigitScenes at first use, so that stock datasets can read it.

    ``Runner.__init__`` builds hooks before datasets, and this hook does its
    work on construction, so the data exists for training and testing, also
    under the tools of mmdet, mmseg and mmpretrain. In a distributed run one
    process draws and the others wait. Tools that build datasets without a
    runner (such as a dataset browser) need
    ``tools/dataset_converters/digit_scenes.py`` first.

    Args:
        data_root (str): Directory of the data set.
        part (str): 'scenes' for detection and segmentation,
            'classification', or 'centered' for training without labels.
        **parameters: Sizes, counts and seed, see
            :class:`mmctx.datasets.Scenes` and
            :class:`mmctx.datasets.Classification`.

    Raises:
        ImportError: The data has to be drawn and scikit-learn is missing.
        ValueError: A parameter is invalid, or the data in ``data_root`` was
            made with other parameters.
        OSError: ``data_root`` cannot be written.
    """

    def __init__(self, data_root: str, part: str, **parameters):
        from mmctx.datasets import make_digit_scenes

        make_digit_scenes(data_root, part, **parameters)
