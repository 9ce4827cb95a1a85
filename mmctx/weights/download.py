"""Downloads that are whole, and what they should be, or leave nothing."""

import hashlib
import os
from http.client import HTTPException
from pathlib import Path
from typing import Optional
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from torch.hub import tqdm

from .reading import CheckpointError

CHUNK = 1 << 20
TIMEOUT_SECONDS = 60


def digest_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        for chunk in iter(lambda: file.read(CHUNK), b''):
            digest.update(chunk)
    return digest.hexdigest()


def check_digest(path: Path, expected: str) -> None:
    """Compare a file in the cache with the leading digits of its SHA-256.

    Raises:
        CheckpointError: They differ.
    """
    actual = digest_of(path)
    if not actual.startswith(expected.lower()):
        raise CheckpointError(
            f'{path} has SHA-256 {actual}, expected {expected}. The file is '
            'damaged or not the released one: delete it and try again (and '
            f'{path.name}.sha256 beside it, if you trust another one).'
        )


def download(
    url: str, path: Path, sha256: Optional[str] = None, page: str = ''
) -> None:
    """Fetch a file: whole, and the expected one, or not at all.

    Args:
        url (str): ``https://``, or ``http://`` with a digest or on this
            machine.
        path (Path): Where it goes; written in one step at the end.
        sha256 (str, optional): Leading digits of its SHA-256.
        page (str): Where a person with a browser finds it. Defaults to the
            address itself.

    Raises:
        CheckpointError: The file cannot be had, or is another one.
    """
    by_hand = f'Download it from {page or url} and put it at {path}.'
    _make_folder(path.parent)
    partial = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        actual = _stream(url, partial, path.name, not sha256 and bool(page))
        if sha256 and not actual.startswith(sha256.lower()):
            raise CheckpointError(
                f'The file at {url} is not the expected one: its SHA-256 is '
                f'{actual}, not {sha256}. Nothing was kept.'
            )
        partial.replace(path)
    except (OSError, HTTPException) as error:
        raise CheckpointError(
            f'{url} could not be fetched: {error}. Nothing was kept. Try '
            'again; behind a proxy, set https_proxy; on a machine without '
            f'network: {by_hand}'
        ) from error
    except _WebPageError as error:
        raise CheckpointError(
            f'{url} answered with a web page in place of a file, as Google '
            'Drive does to ask for a confirmation or when too many have '
            f'fetched it. {by_hand}'
        ) from error
    finally:
        partial.unlink(missing_ok=True)


class _WebPageError(Exception):
    """A server sent HTML."""


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f'{folder} is not writable')
    except OSError as error:
        raise CheckpointError(
            f'The download cache cannot be written: {error}. Set TORCH_HOME '
            'to a folder that you can write to.'
        ) from error


def _check_scheme(url: str) -> None:
    address = urlparse(url)
    is_local = address.hostname in ('127.0.0.1', 'localhost', '::1')
    if address.scheme != 'https' and not is_local:
        raise OSError('without a digest, only https:// is trusted')


def _stream(url: str, path: Path, name: str, needs_https: bool) -> str:
    """Write an answer to a file and return its SHA-256."""
    if needs_https:
        _check_scheme(url)
    digest = hashlib.sha256()
    request = Request(url, headers={'User-Agent': 'mmctx'})
    with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        if needs_https:
            _check_scheme(answer.geturl())  # behind all redirects
        length = answer.headers.get('Content-Length')
        chunk = answer.read(CHUNK)
        if chunk.lstrip()[:1] == b'<':
            raise _WebPageError
        total = int(length) if length else None
        bar = tqdm(total=total, unit='B', unit_scale=True, desc=name)
        with path.open('wb') as file, bar:
            while chunk:
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
                chunk = answer.read(CHUNK)
            if total is not None and file.tell() != total:
                raise OSError(f'it ended after {file.tell()} of {total} bytes')
    return digest.hexdigest()
