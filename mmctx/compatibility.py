"""Clear errors for missing or outdated dependencies."""

from importlib import import_module

# Import name, oldest version, distributions that provide it.
REQUIRED = (
    ('torch', '2.5.0', 'torch'),
    ('mmengine', '0.8.0', 'onedl-mmengine (maintained) or mmengine'),
    ('mmcv', '2.0.0', 'onedl-mmcv (maintained), mmcv or mmcv-lite'),
)
#: OpenMMLab libraries that some configs need, by import name. The two
#: distributions of one hold the same files.
LIBRARIES = {
    'mmpretrain': 'onedl-mmpretrain (maintained) or mmpretrain',
    'mmdet': 'onedl-mmdetection (maintained) or mmdet',
    'mmseg': 'onedl-mmsegmentation (maintained) or mmsegmentation',
}


def how_to_install(library: str) -> str:
    """The distributions of an OpenMMLab library, in a sentence."""
    distributions = LIBRARIES.get(library, library)
    return (
        f'{library} is not installed. Install {distributions}: from the line '
        'that your mmengine is from, never both.'
    )


def check_dependencies() -> None:
    """Import what mmctx needs.

    Raises:
        ImportError: A package is missing or too old; the message says which,
            and what provides it.
    """
    for package, oldest, distribution in REQUIRED:
        try:
            module = import_module(package)
        except ImportError as error:
            raise ImportError(
                f'mmctx needs {package} >= {oldest}, which cannot be '
                f'imported ({error}). Install {distribution}; '
                'requirements.txt holds a set that works together.'
            ) from error
        from mmengine.utils import digit_version

        if digit_version(module.__version__) < digit_version(oldest):
            raise ImportError(
                f'mmctx needs {package} >= {oldest}, found '
                f'{module.__version__}. Upgrade {distribution}.'
            )
