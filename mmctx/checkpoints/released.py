"""Where the authors' released weights are."""

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Released:
    """One released file.

    Attributes:
        url (str): Direct address of the file.
        page (str): Address for a person with a browser.
        sha256 (str, optional): Leading digits of its SHA-256, None where the
            authors published none.
    """

    url: str
    page: str
    sha256: Optional[str] = None


def _drive(file_id: str) -> Released:
    return Released(
        url='https://drive.usercontent.google.com/download'
        f'?id={file_id}&export=download&confirm=t',
        page=f'https://drive.google.com/file/d/{file_id}/view',
    )


RELEASED: dict[str, Released] = {
    'cotnet50': _drive('1SR5ezIu7LN943zHaUh4mC0ehxBVMqtfv'),
    'cotnet101': _drive('11jExbPEg4Eq5PApisZyE5k-1CbRYnsQb'),
    'cotnext50': _drive('1j6b5D3xcZ5L_bHiQV0WfqyOieqZLVOCv'),
    'cotnext101': _drive('1des5wgkBDUscQAs8IYOmKCKKUA46QLfJ'),
    'se_cotnetd_50': _drive('1D2b5fr3lxpBpiFcCYBKngmmSgfVHt_56'),
    'se_cotnetd_101': _drive('1PWIltQYpYZiDrpfZORRQzGzQeXVd2b2f'),
    'se_cotnetd_152': _drive('1MkMx0a8an3ikt6LZwClIOyabBnMfR91v'),
    'se_cotnetd_152_320': _drive('1E43T2jS37gR07p_FVWnjJNkMWeYMXgX9'),
}
