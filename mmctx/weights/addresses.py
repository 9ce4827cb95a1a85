"""From an address to a file on this machine."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256 as hash_of
from pathlib import Path
from typing import Optional
from urllib.parse import unquote, urlparse

import mmengine.dist as dist
import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import print_log
from mmengine.runner import checkpoint as mmengine_checkpoint

from .download import check_digest, digest_of, download
from .reading import CheckpointError
from .released import RELEASED

SCHEME = 'mmctx://'
#: Set to 1, this variable forbids downloads that no digest is known of.
STRICT = 'MMCTX_STRICT_DOWNLOADS'
_DIGEST_IN_NAME = re.compile(r'-([0-9a-f]{8,64})(\.[a-z]+)+$')
_DATE = re.compile(r'20[0-9]{6}')
_ACCEPTED = (
    'a path, file://, https://, mmctx://, torchvision://, open-mmlab://, '
    'mmcls://, timm://, or what a file backend of mmengine serves'
)


def cache_dir() -> Path:
    """Where released files are kept: ``$TORCH_HOME/hub/mmctx`` by default."""
    return Path(torch.hub.get_dir()) / 'mmctx'


def locate(address: str) -> Path:
    """Path of the file behind an address, fetched at first use.

    Of several processes of one machine, one fetches and the others wait.

    Args:
        address (str): A path (``~`` is the home folder), ``file://``,
            ``http(s)://`` (a digest in the name, as in ``x-1a2b3c4d.pth``,
            is checked), ``mmctx://NAME`` or ``mmctx://NAME#sha256=DIGEST``,
            ``torchvision://``, ``open-mmlab://``, ``mmcls://``, ``timm://``,
            or what a file backend of mmengine serves, such as ``s3://``.

    Raises:
        CheckpointError: There is no such model, or the file cannot be had.
    """
    scheme, separator, rest = str(address).partition('://')
    if not separator:
        return Path(address).expanduser()
    if scheme == 'file':
        return Path(unquote(urlparse(address).path))
    fetches_first = int(os.environ.get('LOCAL_RANK', 0)) == 0
    if not fetches_first:
        dist.barrier()
    try:
        if scheme == 'mmctx':
            return fetch(*_released(address))
        if scheme in ('http', 'https'):
            return _fetch_url(address)
        if scheme in _URL_OF:
            return _fetch_url(_URL_OF[scheme](rest))
        return _fetch_from_backend(address)
    finally:
        if fetches_first:
            dist.barrier()


def _released(address: str) -> tuple[str, Optional[str]]:
    """Name and digest of an ``mmctx://`` address."""
    name, _, fragment = address[len(SCHEME) :].partition('#')
    if fragment and not fragment.startswith('sha256='):
        raise CheckpointError(
            f'{address!r} is not of the form {SCHEME}NAME or '
            f'{SCHEME}NAME#sha256=DIGEST.'
        )
    return name, fragment[len('sha256=') :] or None


def fetch(name: str, sha256: Optional[str] = None) -> Path:
    """Path of a released file, downloaded at first use and always checked.

    A file without a published digest is checked against the one that
    :func:`trust` has written beside it.

    Args:
        name (str): A model name with released weights.
        sha256 (str, optional): Leading hexadecimal digits of the file's
            SHA-256, eight or more. Defaults to the published or trusted one.

    Raises:
        CheckpointError: Unknown name, no address, wrong digest, failed
            download, or a cache that cannot be written; with
            ``MMCTX_STRICT_DOWNLOADS=1`` also no digest to check with.
    """
    if name not in RELEASED:
        raise CheckpointError(
            f'There are no released weights named {name!r}; there are '
            f'{sorted(RELEASED)}.'
        )
    release = RELEASED[name]
    path = cache_dir() / f'{name}.pth'
    expected = sha256 or release.sha256 or _pinned(path)
    if expected is not None and len(expected) < 8:
        raise CheckpointError(
            f'A SHA-256 prefix needs 8 digits or more, got {expected!r}.'
        )
    if path.exists():
        if expected:
            check_digest(path, expected)
        return path
    if release.url is None:
        raise CheckpointError(
            f'The authors published a folder, {release.page}, and no address '
            f'of the file of {name!r} in it. Download it there and put it at '
            f'{path}.'
        )
    if expected is None and _is_strict():
        raise CheckpointError(
            f'The authors published no SHA-256 of {name!r}, and {STRICT} is '
            f'set. Download it from {release.page} and put it at {path}; or '
            f'name its digest: mmctx://{name}#sha256=DIGEST.'
        )
    download(release.url, path, expected, release.page)
    return path


def _is_strict() -> bool:
    return os.environ.get(STRICT, '0') not in ('', '0')


def _pin(path: Path) -> Path:
    return path.with_name(f'{path.name}.sha256')


def _pinned(path: Path) -> Optional[str]:
    """The digest of the file that was trusted here, if any was."""
    pin = _pin(path)
    return None if _is_strict() or not pin.exists() else pin.read_text()


def trust(address: str, path: Path) -> None:
    """Pin the digest of a released file, once it has fitted a model.

    Args:
        address (str): What the file came from; only ``mmctx://`` names
            without a published digest are pinned.
        path (Path): The file in the cache.
    """
    if not str(address).startswith(SCHEME) or _is_strict():
        return
    name, digest = _released(address)
    if digest or RELEASED[name].sha256 or _pin(path).exists():
        return
    digest = digest_of(path)
    with suppress(OSError):  # a cache that others fill
        _pin(path).write_text(digest)
    print_log(
        f'The authors published no SHA-256 of {name!r}. This file fits and is '
        'trusted from now on; to have it checked elsewhere, write '
        f"checkpoint='{SCHEME}{name}#sha256={digest}' in the config.",
        logger='current',
    )


def _fetch_url(url: str) -> Path:
    """A file in the cache of torch.hub, which mmengine uses, too."""
    base = unquote(Path(urlparse(url).path).name) or 'checkpoint'
    found = _DIGEST_IN_NAME.search(base)
    digest = found[1] if found and not _DATE.fullmatch(found[1]) else None
    # Names such as model.safetensors stand for any file.
    unique = base if digest else f'{_short(url)}_{base}'
    path = Path(torch.hub.get_dir()) / 'checkpoints' / unique
    if not path.exists():
        download(url, path, digest)
    elif digest:
        check_digest(path, digest)
    return path


def _short(address: str) -> str:
    return hash_of(address.encode()).hexdigest()[:8]


def _fetch_from_backend(address: str) -> Path:
    """A copy of what a file backend serves, made anew each time."""
    try:
        content = get_file_backend(address).get(address)
    except Exception as error:
        raise CheckpointError(
            f'{address} could not be fetched: {error}. An address is '
            f'{_ACCEPTED}.'
        ) from error
    path = cache_dir() / 'backends' / f'{_short(address)}_{Path(address).name}'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _listed(function: str) -> Callable[[str], str]:
    """The function from a name to its address in a list of mmengine's."""

    def url_of(name: str) -> str:
        urls = getattr(mmengine_checkpoint, function)()
        if name not in urls:
            raise CheckpointError(
                f'mmengine lists no weights named {name!r} under this scheme.'
            )
        return urls[name]

    return url_of


def _timm_url(name: str) -> str:
    try:
        import timm
    except ImportError as error:
        raise CheckpointError(
            f'timm://{name} needs the package timm: pip install timm.'
        ) from error
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if cfg is not None and cfg.hf_hub_id:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(
            cfg.hf_hub_id, cfg.hf_hub_filename or 'model.safetensors'
        )
    if cfg is None or not cfg.url:
        raise CheckpointError(f'timm has no weights of {name!r}.')
    return cfg.url


_URL_OF: dict[str, Callable[[str], str]] = {
    'torchvision': _listed('get_torchvision_models'),
    'modelzoo': _listed('get_torchvision_models'),
    'open-mmlab': _listed('get_external_models'),
    'openmmlab': _listed('get_external_models'),
    'mmcls': _listed('get_mmcls_models'),
    'timm': _timm_url,
}
