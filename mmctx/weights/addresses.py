"""Where the authors' released weights are, and the cache of them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import torch

from .reading import CheckpointError

SCHEME = 'mmctx://'


@dataclass(frozen=True)
class Released:
    """One released file.

    Attributes:
        url (str, optional): Direct address of the file, None where only the
            folder that holds it is known.
        page (str): Address for a person with a browser.
        sha256 (str, optional): Leading digits of its SHA-256, None where the
            authors published none.
        model (str, optional): Name of the model that starts from the file,
            where that is a plain network; by default the name it goes by.
    """

    url: Optional[str]
    page: str
    sha256: Optional[str] = None
    model: Optional[str] = None


def _drive(file_id: str) -> Released:
    return Released(
        url='https://drive.usercontent.google.com/download'
        f'?id={file_id}&export=download&confirm=t',
        page=f'https://drive.google.com/file/d/{file_id}/view',
    )


#: The authors name neither the files in it nor their digests.
_CONTNET = Released(
    url=None,
    page='https://drive.google.com/drive/folders/'
    '1ZXu--Bis3LTYLjf2pkmDtZH0TjuWWamO',
)


def _coat(name: str, sha256: str) -> Released:
    url = f'https://vcl.ucsd.edu/coat/pretrained/{name}_{sha256}.pth'
    return Released(url=url, page=url, sha256=sha256)


_TIMM = 'https://github.com/rwightman/pytorch-image-models/releases/download'

RELEASED: dict[str, Released] = {
    'cotnet50': _drive('1SR5ezIu7LN943zHaUh4mC0ehxBVMqtfv'),
    'cotnet101': _drive('11jExbPEg4Eq5PApisZyE5k-1CbRYnsQb'),
    'cotnext50': _drive('1j6b5D3xcZ5L_bHiQV0WfqyOieqZLVOCv'),
    'cotnext101': _drive('1des5wgkBDUscQAs8IYOmKCKKUA46QLfJ'),
    'se_cotnetd_50': _drive('1D2b5fr3lxpBpiFcCYBKngmmSgfVHt_56'),
    'se_cotnetd_101': _drive('1PWIltQYpYZiDrpfZORRQzGzQeXVd2b2f'),
    'se_cotnetd_152': _drive('1MkMx0a8an3ikt6LZwClIOyabBnMfR91v'),
    'se_cotnetd_152_320': _drive('1E43T2jS37gR07p_FVWnjJNkMWeYMXgX9'),
    'contnet_ti': _CONTNET,
    'contnet_s': _CONTNET,
    'contnet_m': _CONTNET,
    'contnet_b': _CONTNET,
    'coat_lite_tiny': _coat('coat_lite_tiny', 'e88e96b0'),
    'coat_lite_mini': _coat('coat_lite_mini', '6b4a8ae5'),
    'coat_lite_small': _coat('coat_lite_small', '8d362f48'),
    'coat_lite_medium': _coat('coat_lite_medium', 'a750cd63'),
    'coat_lite_medium_384': _coat('coat_lite_medium_384x384', 'f9129688'),
    'coat_tiny': _coat('coat_tiny', 'c6efc33c'),
    'coat_mini': _coat('coat_mini', '40667eec'),
    'coat_small': _coat('coat_small', '7479cf9b'),
    'container_light': _drive('1WMOWoxTX7AQDCbfMYh7naqIHube3K85A'),
    # Not a trained network of the family, of which there are none, but what
    # Contextual ResNets start from.
    'resnet50_a1_in1k': Released(
        url=f'{_TIMM}/v0.1-rsb-weights/resnet50_a1_0-14fe96d1.pth',
        page=f'{_TIMM}/v0.1-rsb-weights/resnet50_a1_0-14fe96d1.pth',
        sha256='14fe96d1',
        model='ctx_resnet50',
    ),
}


def cache_dir() -> Path:
    """Where downloads are kept: ``$TORCH_HOME/hub/mmctx`` by default."""
    return Path(torch.hub.get_dir()) / 'mmctx'


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        for chunk in iter(lambda: file.read(1 << 20), b''):
            digest.update(chunk)
    return digest.hexdigest()


def _check_hash(path: Path, expected: str) -> None:
    found = _sha256(path)
    if not found.startswith(expected.lower()):
        raise CheckpointError(
            f'{path} has SHA-256 {found}, expected {expected}. The file is '
            'damaged or not the released one: delete it and try again.'
        )


def _download(url: str, path: Path, sha256: str) -> None:
    """Fetch to a temporary file, check it, move it into place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(f'{path.parent} is not writable')
    except OSError as error:
        raise CheckpointError(
            f'The download cache cannot be written: {error}. Set TORCH_HOME '
            'to a folder that you can write to.'
        ) from error
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
    except RuntimeError as error:
        if 'invalid hash' not in str(error):
            raise
        raise CheckpointError(
            f'The file at {url} is not the expected one: {error}. Nothing '
            'was kept.'
        ) from error
    except OSError as error:
        raise CheckpointError(
            f'{url} could not be fetched: {error}. Nothing was kept; try '
            f'again, or put the file at {path} yourself.'
        ) from error


def fetch(name: str, sha256: Optional[str] = None) -> Path:
    """Path of a released file, downloaded and checked at first use.

    Args:
        name (str): A model name with released weights.
        sha256 (str, optional): Leading hexadecimal digits of the file's
            SHA-256, eight or more. Defaults to the known digest; a file
            whose authors published none is only downloaded if the digest is
            given here.

    Raises:
        CheckpointError: Unknown name, no address or no digest to check
            with, wrong digest, failed download, or a cache that cannot be
            written.
    """
    if name not in RELEASED:
        raise CheckpointError(
            f'There are no released weights named {name!r}; there are '
            f'{sorted(RELEASED)}.'
        )
    release = RELEASED[name]
    expected = sha256 or release.sha256
    if expected is not None and len(expected) < 8:
        raise CheckpointError(
            f'A SHA-256 prefix needs 8 digits or more, got {expected!r}.'
        )
    path = cache_dir() / f'{name}.pth'
    if not path.exists():
        if release.url is None:
            raise CheckpointError(
                f'The authors published a folder, {release.page}, and no '
                f'address of the file of {name!r} in it. Download it there '
                f'and put it at {path}.'
            )
        if expected is None:
            raise CheckpointError(
                f'The authors published no SHA-256 of {name!r}, so that it '
                f'is not downloaded unchecked. Download it from '
                f'{release.page} and put it at {path}; or name its digest: '
                f'mmctx://{name}#sha256=DIGEST.'
            )
        _download(release.url, path, expected)
    elif expected is not None:
        _check_hash(path, expected)
    return path


def locate(address: str) -> Path:
    """Path of the file behind an address.

    Args:
        address (str): A path, ``mmctx://NAME`` or
            ``mmctx://NAME#sha256=DIGEST``.

    Raises:
        CheckpointError: As in :func:`fetch`, or another form.
    """
    address = str(address)
    if not address.startswith(SCHEME):
        return Path(address).expanduser()
    name, _, fragment = address[len(SCHEME) :].partition('#')
    if fragment and not fragment.startswith('sha256='):
        raise CheckpointError(
            f'{address!r} is not of the form {SCHEME}NAME or '
            f'{SCHEME}NAME#sha256=DIGEST.'
        )
    return fetch(name, fragment[len('sha256=') :] or None)
