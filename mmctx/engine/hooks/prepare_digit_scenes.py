from mmengine.hooks import Hook

from mmctx.registry import HOOKS, register

__all__ = ['PrepareDigitScenes']


@register(HOOKS)
class PrepareDigitScenes(Hook):
    """Makes DigitScenes at first use, so that stock datasets can read it.

    The runner builds its hooks in ``Runner.__init__``, before any dataset,
    and this hook does its work when it is built. So the data is there in
    training and in testing, under the tools of mmdet, mmseg and mmpretrain
    too. In a distributed run one process draws and the others wait for it.
    What builds datasets without a runner (a dataset browser, say) needs
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
        ValueError: A parameter is wrong, or the data in ``data_root`` was
            made with other parameters.
        OSError: ``data_root`` cannot be written.
    """

    def __init__(self, data_root: str, part: str, **parameters):
        from mmctx.datasets import make_digit_scenes

        make_digit_scenes(data_root, part, **parameters)
